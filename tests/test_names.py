"""The names given to --save and --log: two runs with one name, and names that cannot be."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers import ROOT, Run, files, games_in, one_line, posix, refused, run_script, sha256

import pong_pg

pytestmark = posix
RUN = "--batch-size 1 --save-every 1 --workers 1 --learning-rate 3e-3 --seed 3".split()

# ---- two runs with one name ---------------------------------------------------------------------


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path, quick):
    """Until a kill frees the names: then a run takes them, and clears up what was left."""
    folder = tmp_path / "run"
    first = Run(folder, *RUN, "--log", "log.csv", script=quick)
    first.wait_until(first.saved)
    for flags, word in ([], "--save"), (["--resume"], "--save"), (["--save", "a.p"], "--log"):
        flags = [*RUN, *flags, "--episodes", 1, "--log", "log.csv"]
        done = run_script(*flags, cwd=folder, script=quick)
        refused(done, "is in use by another run", f"{word} PATH")
    assert run_script("--evaluate", 1, cwd=folder, script=quick).returncode == 0
    games = first.games()
    first.wait_until(lambda: first.games() > games)
    first.kill()
    assert {"save.p.lock", "log.csv.lock"} <= {*files(folder)}
    for left in "save.p.1.tmp", "log.csv.23.tmp":
        (folder / left).write_text("by a run that was killed")
    others = ["save.p.1.23.tmp", "save.p.x.tmp", "save.px.1.tmp"]
    for other in others:
        (folder / other).write_text("by somebody else")
    flags = ["--resume", "--episodes", 1, "--log", "log.csv"]
    done = run_script(*flags, cwd=folder, script=quick)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(folder) == ["log.csv", "save.p", *others]


def test_a_command_that_is_shown_can_be_pasted_into_a_shell():
    name = "it's $my a&b.p"
    script = pong_pg.command()
    echo = pong_pg.command("--save", name).replace(script, "printf '%s\\n'", 1)
    said = subprocess.run(["sh", "-c", echo], stdout=subprocess.PIPE, text=True).stdout
    assert said == f"--save\n{name}\n"


@contextlib.contextmanager
def owned(path):
    with pong_pg.owned("--save", str(path)):
        yield


def test_a_name_is_owned_until_the_end_whatever_it_is(tmp_path, monkeypatch):
    path, other = tmp_path / "save.p", tmp_path / "other.p"
    other.symlink_to(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError), owned(path):
        for same in path, other, "save.p", "../" + tmp_path.name + "/save.p":
            with pytest.raises(pong_pg.UsageError, match="in use by another run"), owned(same):
                pass
        assert files(tmp_path) == ["other.p", "save.p.lock"]
        raise RuntimeError
    assert files(tmp_path) == ["other.p"]
    (tmp_path / "third.p.7.tmp").mkdir()  # as little to be removed as somebody else's file in /tmp
    with owned(path), owned(tmp_path / "third.p"):
        pass
    assert files(tmp_path) == ["other.p", "third.p.7.tmp"]


@pytest.mark.parametrize("third", [False, True])
def test_a_lock_that_ends_as_it_is_taken_is_not_owned(third, tmp_path, monkeypatch):
    """Its file is gone by then, and may be that of a third run."""
    lock_file = pong_pg.lock_file

    def lock_late(descriptor, path):
        os.remove(path)
        if third:
            Path(path).touch()
        lock_file(descriptor, path)

    monkeypatch.setattr(pong_pg, "lock_file", lock_late)
    path = tmp_path / "save.p"
    with pytest.raises(pong_pg.UsageError, match="in use by another run"), owned(path):
        pass
    assert files(tmp_path) == ["save.p.lock"] * third


def test_where_there_are_no_locks_it_is_said_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def no_locks(descriptor, path):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(pong_pg, "lock_file", no_locks)
    with owned(tmp_path / "save.p"):
        one_line(capsys.readouterr().err, "save.p", "cannot be locked", "second run")
    assert files(tmp_path) == []


SAVES = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np, pong_pg
pong_pg.H, pong_pg.D = 20, 300
model = pong_pg.init_model(np.random.default_rng(0))
state = pong_pg.State(0, pong_pg.init_cache(model), games=int(sys.argv[1]))
for _ in range(100):
    pong_pg.save_checkpoint("save.p", model, state)
"""


def test_two_processes_that_save_to_one_name_never_leave_half_a_file(tmp_path, monkeypatch):
    """Where there are no locks, say."""
    monkeypatch.setattr(pong_pg, "H", 20)
    monkeypatch.setattr(pong_pg, "D", 300)
    begun = [
        subprocess.Popen([sys.executable, "-c", SAVES, str(games)], cwd=str(tmp_path))
        for games in (1, 2)
    ]
    seen = set()
    while any(process.poll() is None for process in begun):
        if (tmp_path / "save.p").exists():
            seen.add(games_in(tmp_path / "save.p"))
        time.sleep(0.001)
    assert [process.wait() for process in begun] == [0, 0]
    assert seen <= {1, 2} and files(tmp_path) == ["save.p"]


# ---- names that cannot be -----------------------------------------------------------------------


def make_device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:
        pytest.skip("no right to make a device")


MAKE = {
    "a fifo": os.mkfifo if os.name == "posix" else None,
    "a device": make_device,
    "a folder": os.mkdir,
    "": None,
    "runs/": None,
    "no/such/folder/x": None,
    "a file/x": lambda path: Path(path).parent.write_text("a file"),
}


@pytest.mark.parametrize("flag", ["--save", "--log"])
@pytest.mark.parametrize("name", MAKE)
def test_what_is_no_regular_file_is_refused_and_left_alone(
    name, flag, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if MAKE[name] is not None:
        MAKE[name](str(tmp_path / name))
    before = [(path.name, path.stat().st_mode) for path in tmp_path.iterdir()]
    flags = ["--episodes", "1", "--batch-size", "1", flag, name]
    assert pong_pg.main(flags) == 2
    one_line(capsys.readouterr().err, "cannot be written", flag if name else f"{flag} ''")
    assert [(path.name, path.stat().st_mode) for path in tmp_path.iterdir()] == before


@pytest.mark.parametrize("flags", [["--resume"], ["--evaluate", "1"]])
def test_a_checkpoint_is_not_read_from_a_pipe(flags, tmp_path, monkeypatch, capsys):
    """It would wait for ever for somebody to write."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    assert pong_pg.main([*flags, "--save", "pipe"]) == 2
    one_line(capsys.readouterr().err, "pipe")


@pytest.fixture
def as_nobody():
    """A folder of root's, where this process is then an ordinary user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp())
    os.seteuid(65534)
    yield folder
    os.seteuid(0)
    shutil.rmtree(folder)


def as_root(function, *args):
    os.seteuid(0)
    function(*args)
    os.seteuid(65534)


@pytest.mark.parametrize("found", [True, False])
def test_a_folder_where_one_may_not_write_is_refused_at_the_start(found, as_nobody, capsys):
    path = as_nobody / "save.p"
    as_root(os.chmod, as_nobody, 0o755)
    if found:
        as_root(path.write_text, "of root")
    assert pong_pg.main(["--episodes", "1", "--batch-size", "1", "--save", str(path)]) == 2
    one_line(capsys.readouterr().err, "Permission denied", "where you may write", "--save PATH")
    assert files(as_nobody) == (["save.p"] if found else [])


def test_somebody_elses_file_in_a_folder_like_tmp_is_refused_at_the_start(as_nobody, capsys):
    """One may write there, and into the file, but not rename another over it."""
    path = as_nobody / "save.p"
    as_root(os.chmod, as_nobody, 0o1777)
    as_root(path.write_text, "of root")
    as_root(os.chmod, path, 0o666)
    assert pong_pg.main(["--episodes", "1", "--batch-size", "1", "--save", str(path)]) == 2
    one_line(capsys.readouterr().err, "belongs to another user", "--save PATH")
    assert files(as_nobody) == ["save.p"] and path.read_text() == "of root"
    with pong_pg.owned("--save", str(as_nobody / "mine.p")):
        pass


def test_a_file_that_could_not_be_replaced_is_refused_before_a_game_is_played(as_nobody, capsys):
    path = as_nobody / "save.p"
    as_root(os.chmod, as_nobody, 0o777)
    path.write_text("mine")
    path.chmod(0o444)
    assert pong_pg.main(["--episodes", "1", "--batch-size", "1", "--save", str(path)]) == 2
    one_line(capsys.readouterr().err, "save.p cannot be written: it is write-protected", "--save")
    long = str(as_nobody / ("n" * 249))  # with .lock it is short enough
    assert pong_pg.main(["--episodes", "1", "--batch-size", "1", "--save", long]) == 2
    one_line(capsys.readouterr().err, "cannot be written: File name too long")
    assert files(as_nobody) == ["save.p"] and path.read_text() == "mine"


def test_a_file_that_is_mounted_alone_is_refused(tmp_path, capsys):
    """By `docker run -v $PWD/save.p:/save.p`, say: it can be written, but not replaced."""
    path, other = tmp_path / "my save.p", tmp_path / "other.p"
    for file in path, other:
        file.write_text("old")
    command = ["mount", "--bind", str(other), str(path)]
    if not shutil.which("mount") or subprocess.run(command, stderr=subprocess.PIPE).returncode:
        pytest.skip("no right to mount a file")
    try:
        assert pong_pg.main(["--episodes", "1", "--batch-size", "1", "--save", str(path)]) == 2
    finally:
        subprocess.run(["umount", str(path)], check=True)
    one_line(capsys.readouterr().err, "my save.p cannot be written: it is mounted alone", "--save")
    assert files(tmp_path) == ["my save.p", "other.p"]


def test_a_lock_that_is_none_of_ours_is_refused_and_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poetry.lock").write_text("precious")
    run = ["--episodes", "1", "--batch-size", "1"]
    assert pong_pg.main([*run, "--save", "poetry"]) == 2
    one_line(capsys.readouterr().err, "poetry.lock is in the way", "--save PATH")
    for name in "save.p.lock", "..", "nowhere/..":
        assert pong_pg.main([*run, "--save", "s.p", "--log", name]) == 2
        one_line(capsys.readouterr().err, "expected the name of a regular file")
    assert files(tmp_path) == ["poetry.lock"]
    assert (tmp_path / "poetry.lock").read_text() == "precious"


def test_what_is_kept_does_not_take_the_name_that_a_run_is_about_to_write(tmp_path):
    path = tmp_path / "save.p"
    path.write_text("old")
    with pong_pg.owned("--save", f"{path}.1"):
        pong_pg.keep(str(path))
    assert files(tmp_path) == ["save.p", "save.p.2"]


def test_a_private_file_stays_private(tmp_path):
    path = tmp_path / "save.p"
    path.write_text("old")
    path.chmod(0o600)
    pong_pg.write_atomically(str(path), b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_bytes() == b"new"


def test_a_folder_that_is_gone_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert pong_pg.main(["--episodes", "1", "--batch-size", "1"]) == 2
    one_line(capsys.readouterr().err, "save.p cannot be written", "a folder that is there")


def test_a_log_that_is_a_terminal_or_pipe_is_refused(tmp_path, quick):
    """It would be read as a log, for ever. Nor is a stream one that goes to a file."""
    (tmp_path / "run").mkdir()
    for log, out in ("/dev/stdout", "| cat"), ("/dev/stderr", "| cat"), ("/dev/fd/1", "> ../out"):
        flags = f"{' '.join(RUN)} --episodes 1 --log {log}"
        command = f"'{sys.executable}' '{quick}' {flags} 2> >(cat >&2) {out}"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path / "run",
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 2 and files(tmp_path / "run") == []
        one_line(done.stderr, log, "cannot be written", "--log")


# ---- held for a moment --------------------------------------------------------------------------


def test_a_file_that_another_program_holds_for_a_moment_is_saved(tmp_path, shrink, monkeypatch):
    """As a virus scanner does on Windows: error 5."""
    model, state = shrink(2, 3)
    path, pause, replace = tmp_path / "save.p", [], os.replace
    pong_pg.save_checkpoint(path, model, state)
    old = sha256(path)

    def held(source, target):
        if len(pause) < 3:
            raise PermissionError(13, "Access is denied", str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr(pong_pg.time, "sleep", pause.append)
    state.games += 1
    pong_pg.save_checkpoint(path, model, state)
    assert len(pause) == 3 and games_in(path) == state.games and sha256(path) != old
    assert files(tmp_path) == ["save.p"]


def test_a_file_that_is_held_for_long_is_as_it_was(tmp_path, shrink, monkeypatch):
    model, state = shrink(2, 3)
    path, clock = tmp_path / "save.p", [0.0]
    pong_pg.save_checkpoint(path, model, state)
    old = sha256(path)

    def held(source, target):
        raise PermissionError(13, "Access is denied", str(source))

    def sleep(seconds):
        clock[0] += seconds
        assert clock[0] < 30

    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr(pong_pg.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(pong_pg.time, "sleep", sleep)
    state.games += 1
    with pytest.raises(OSError, match="save.p cannot be written.* as it was"):
        pong_pg.save_checkpoint(path, model, state)
    assert clock[0] > 2 and sha256(path) == old and files(tmp_path) == ["save.p"]


def test_a_checkpoint_that_cannot_be_read_is_not_called_foreign(tmp_path, shrink, monkeypatch):
    path = tmp_path / "save.p"
    pong_pg.save_checkpoint(path, *shrink(2, 3))

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(pong_pg.CheckpointError, match="save.p cannot be read: Input/output error"):
        pong_pg.load_checkpoint(path)
