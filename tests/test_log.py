"""The log, as people leave it: it is mended, or refused with the line; a run never ends for it."""

import builtins
import errno
import os

import pytest
from helpers import files, games_in, log_without_seconds, one_line, posix

import pong_pg

ROWS = [f"{n},{-20.0 + n},{-20.0 + 0.5 * n},1000,{n}.5" for n in range(6)]
WHOLE = "\n".join([pong_pg.LOG_HEADER, *ROWS, ""])


@pytest.fixture
def resumed(real_state, tmp_path):
    """resumed(content, games=6) resumes with such a log; gives what it then holds, its seconds."""
    path = tmp_path / "log.csv"

    def resumed(content, games=6):
        state = pong_pg.State(3, {}, games=games, running_mean=-20.0 + 0.5 * (games - 1))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        seconds = pong_pg.cut_log(str(path), state)
        return path.read_bytes().decode(), seconds

    return resumed


@pytest.mark.parametrize(
    "content",
    [
        WHOLE,
        WHOLE.rstrip("\n"),
        WHOLE.replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + WHOLE.encode(),
        b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").rstrip().encode(),
        WHOLE + "\n\n",
        WHOLE.replace("\n3,", "\n\n3,"),
        WHOLE + "6,-5.0,-17.0,1000,6.5\n7,-5.0,-17.0,1000,7.5\n",  # which is played again
        WHOLE + "6,-5.0,-17.0,10",  # cut by a kill
        WHOLE + "6",
    ],
    ids="whole newline crlf mark spreadsheet blank_end blank rest cut cut_number".split(),
)
def test_a_log_that_was_only_dressed_otherwise_is_mended(resumed, content):
    """A spreadsheet's line ends and mark, an editor's last newline, rows that are played again."""
    assert resumed(content) == (WHOLE, 5.5)


def test_an_empty_log_gets_its_header(resumed):
    assert resumed("") == (pong_pg.LOG_HEADER + "\n", 0.0)
    assert resumed(pong_pg.LOG_HEADER + "\n")[0] == pong_pg.LOG_HEADER + "\n"


@pytest.mark.parametrize(
    "content, words",
    [
        (WHOLE.replace(ROWS[2] + "\n", ""), ["line 4", "game 2", "'3,"]),
        (WHOLE.replace(ROWS[5] + "\n", ""), ["game 4", "game 5"]),
        (WHOLE.replace(ROWS[5], ROWS[5].replace("-17.5", "-11.0")), ["-11.00", "-17.50"]),
        (WHOLE.replace(ROWS[3], "3,-17.0"), ["line 5", "5 numbers", "game 3"]),
        (WHOLE.replace(ROWS[3], "three,-17.0,-18.5,1000,3.5"), ["line 5", "'three,"]),
        (WHOLE.replace(",", ";"), ["line 1", pong_pg.LOG_HEADER]),
        ("a,b\n1,2\n", ["line 1", pong_pg.LOG_HEADER]),
        (b"\x89PNG\r\n\x1a\n\0\0", ["line 1"]),
    ],
)
def test_what_is_not_the_log_of_this_run_is_refused_with_the_line(resumed, content, words):
    before = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(pong_pg.CheckpointError) as refused:
        resumed(content)
    line = str(refused.value)
    for word in ["log.csv", "expected", *words]:
        assert word in line, line
    assert line.isprintable()
    with open(line.split(" is not ")[0], "rb") as file:
        assert file.read() == before


@pytest.mark.parametrize("rows", [ROWS, ROWS[2:]])
def test_a_log_without_a_game_of_this_run_is_kept_and_that_is_said(resumed, rows, tmp_path, capsys):
    """With an imported model, say, which has 0 games, or a log that begins later."""
    content = "\n".join([pong_pg.LOG_HEADER, *rows, ""])
    assert resumed(content, games=0) == (pong_pg.LOG_HEADER + "\n", 0.0)
    (kept,) = tmp_path.rglob("log.csv.1")
    assert kept.read_text() == content
    assert "log.csv has no game before 0: it is kept as" in capsys.readouterr().out


def test_a_row_that_is_no_number_is_refused(resumed):
    for word in "nan", "inf", "-inf":
        with pytest.raises(pong_pg.CheckpointError, match="line 5: expected 5 numbers of game 3"):
            resumed(WHOLE.replace(ROWS[3], ROWS[3].replace("1000", word)))


def test_another_runs_log_is_refused(resumed):
    """Of as many games, whose numbers are well-formed: the running mean tells."""
    other = WHOLE.replace("-17.5,", "-17.25,")
    with pytest.raises(pong_pg.CheckpointError, match="not the log of this run.*--log "):
        resumed(other)


# ---- during the run -----------------------------------------------------------------------------


@pytest.fixture
def records(shrink, tmp_path):
    """The records of a fresh run, and play(n), which ends a batch of n games."""
    model, state = shrink(2, 3)
    state.games = 0
    save, log = tmp_path / "save.p", tmp_path / "log.csv"
    records = pong_pg.Records(str(save), 1000, str(log), model, state, True)

    def play(games):
        for _ in range(games):
            records.add_game(state.games, pong_pg.Game([-1.0], 9), -1.0)
            state.games += 1
        for weights in model.values():
            weights += 1e-3  # the update
        records.end_batch()

    records.play = play
    return records


def numbers(path):
    return [row[0] for row in log_without_seconds(path)]


def test_a_log_that_is_removed_during_the_run_begins_anew_with_its_header(records, tmp_path):
    records.play(2)
    (tmp_path / "log.csv").rename(tmp_path / "old.csv")
    records.play(2)
    assert numbers(tmp_path / "old.csv") == ["episode", "0", "1"]
    assert numbers(tmp_path / "log.csv") == ["episode", "2", "3"]


@posix
def test_a_log_that_is_a_link_stays_one_and_what_was_there_is_kept_beside_it(records, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "log.csv").write_text("of an earlier run")
    (tmp_path / "log.csv").symlink_to(disk / "log.csv")
    assert pong_pg.free_name(str(tmp_path / "log.csv")) == str(disk / "log.csv.1")
    records.play(2)
    assert (tmp_path / "log.csv").is_symlink()
    assert numbers(disk / "log.csv") == ["episode", "0", "1"]
    assert (disk / "log.csv.1").read_text() == "of an earlier run"


def test_a_log_that_was_removed_during_the_run_can_be_resumed_with(records, tmp_path):
    records.play(2)
    (tmp_path / "log.csv").unlink()
    records.play(2)
    records.state.running_mean = -1.0
    pong_pg.cut_log(str(tmp_path / "log.csv"), records.state)
    assert numbers(tmp_path / "log.csv") == ["episode", "2", "3"]


def test_a_log_that_is_held_for_a_while_loses_no_row(records, tmp_path, monkeypatch, capsys):
    """By a spreadsheet, say: it is said, and the rows are written with the next batch's."""
    records.play(2)

    def held(path, *how, **more):
        if str(path).endswith("log.csv"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *how, **more)

    real = builtins.open
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", held)
        for _ in range(2):
            records.play(1)
            one_line(capsys.readouterr().err, "log.csv cannot be written", "wait")
    records.play(1)
    assert numbers(tmp_path / "log.csv") == ["episode", "0", "1", "2", "3", "4"]
    assert capsys.readouterr().err == ""


def test_a_log_on_a_disk_that_is_full_for_a_while_loses_no_row(records, tmp_path, capsys):
    resource = pytest.importorskip("resource")
    records.play(2)
    size = (tmp_path / "log.csv").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for more in 0, 5:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, limits[1]))
        try:
            records.play(1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / "log.csv").stat().st_size == size
    assert capsys.readouterr().err.count("cannot be written") == 2
    records.play(1)
    assert numbers(tmp_path / "log.csv") == ["episode", "0", "1", "2", "3", "4"]


def test_a_log_found_by_a_fresh_run_may_be_held_for_a_while_too(records, tmp_path, monkeypatch):
    """It is kept under another name; until that can be done the rows wait."""
    log = tmp_path / "log.csv"
    log.write_text("of an earlier run\n")

    def held(*names):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", held)
        records.play(2)
    records.play(2)
    assert numbers(log) == ["episode", "0", "1", "2", "3"]
    assert (tmp_path / "log.csv.1").read_text() == "of an earlier run\n"
    assert files(tmp_path) == ["log.csv", "log.csv.1"]


def test_rows_that_wait_at_the_end_are_written_then_but_none_of_a_batch_that_is_dropped(
    records, tmp_path, monkeypatch
):
    def held(*how, **more):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with records:
        records.play(2)
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", held)
            records.play(2)
        records.add_game(4, pong_pg.Game([-1.0], 9), -1.0)
    assert numbers(tmp_path / "log.csv") == ["episode", "0", "1", "2", "3"]
    assert games_in(tmp_path / "save.p") == 4


def test_rows_that_are_lost_at_the_end_are_told(records, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pong_pg, "write_atomically", lambda path, data: None)
    with records:
        records.play(2)
        (tmp_path / "log.csv").unlink()
        (tmp_path / "log.csv").mkdir()
        records.play(1)
    waits, lost = capsys.readouterr().err.splitlines()
    assert "1 rows wait" in waits and "1 rows are lost (resume with --log other.csv)" in lost


def test_without_a_log_no_row_is_kept(records):
    records.log_path = None
    records.play(2)
    assert records.rows == records.batch_rows == []


@pytest.mark.parametrize("gamma, lines", [(0.99, 2), (1.0, 0)])
def test_without_a_discount_21_lost_points_teach_nothing_and_that_is_no_slip(
    records, capsys, gamma, lines
):
    records.state.hyperparameters = pong_pg.Hyperparameters(gamma=gamma)
    records.add_game(0, pong_pg.Game([-1.0] * 21, 900), -21.0)
    records.state.games = 1
    records.end_batch()
    assert capsys.readouterr().err.count("the update left") == lines


def test_what_a_fresh_run_cannot_keep_it_does_not_overwrite(records, tmp_path, monkeypatch):
    """Somebody else's file, which may be replaced but not read, or a disk that is almost full."""
    (tmp_path / "save.p").write_text("of an earlier run\n")

    def fails(*names):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pong_pg, "keep", fails)
    with pytest.raises(OSError), records:
        records.play(1)
    assert (tmp_path / "save.p").read_text() == "of an earlier run\n"
    assert files(tmp_path) == ["save.p"]
