"""The logs, tables and pictures of results/: that they are what the pages say."""

import re
import shlex
from math import inf

import numpy as np
import pytest
from helpers import ROOT, write_log

import pong_pg
from tools import logs, tables

PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]


# ---- minutes on C cores


@pytest.mark.parametrize(
    "cores, batch, lengths, done",
    [
        (1, 1, [5, 3, 2], [5, 8, 10]),
        (1, 3, [5, 3, 2], [10, 10, 10]),
        (2, 1, [5, 3, 2], [5, 8, 10]),  # a batch of one game keeps one worker busy
        (2, 2, [5, 3, 2, 4], [5, 5, 9, 9]),
        (2, 3, [5, 3, 2], [5, 5, 5]),  # the third game goes to the second worker
        (2, 3, [2, 3, 5], [7, 7, 7]),  # and here to the first
        (2, 4, [1, 9, 1, 1, 6, 6, 6, 6], [9, 9, 9, 9, 21, 21, 21, 21]),
        (3, 4, [4, 3, 2, 2], [4, 4, 4, 4]),
        (8, 3, [5, 3, 2], [5, 5, 5]),
        (2, None, [5, 3, 2], [2.5, 4, 5]),  # nobody waits
    ],
)
def test_a_batch_takes_as_long_as_its_games_handed_out_in_order(cores, batch, lengths, done):
    minutes = logs.minutes_on(cores, lengths, batch, speed=1 / 60)
    assert minutes.tolist() == pytest.approx(done)
    assert logs.minutes_on(cores, lengths, batch, 2 / 60) * 2 == pytest.approx(done)


def test_two_workers_play_as_many_steps_a_second_as_measured():
    """8,800 with a batch of 2 and 9,600 with one of 10."""
    for run, measured in (logs.recipes()[0], 8800), (logs.BLOG_RATE, 9600):
        log = logs.read_run(run)[0]
        steps_a_second = log["steps"][-1] * 1e6 / (log["minutes"][-1] * 60)
        assert steps_a_second == pytest.approx(measured, rel=0.05)


def test_the_name_of_a_log_tells_its_cores_batch_and_seed(tmp_path):
    for name in "cores-8-batch-4-seed-11", "cores-8-batch-4-seed-9", "cores-2-batch-2-seed-10":
        write_log(tmp_path / f"{name}.csv", [-20, -19], [1000, 2000])
    two, eight = logs.recipes(tmp_path)
    assert (two.label, two.cores, two.batch) == ("fast recipe on 2 cores", 2, 2)
    assert (eight.label, eight.cores, eight.batch) == ("fast recipe on 8 cores", 8, 4)
    assert [logs.seed_of(path) for path in eight.paths] == ["9", "11"]
    write_log(tmp_path / "cores-8-seed-10.csv", [-20], [1000])
    with pytest.raises(pong_pg.UsageError, match="expected a name like cores-8-batch-8-seed-10"):
        logs.recipes(tmp_path)


def test_the_name_of_a_log_tells_its_change_and_seed(tmp_path):
    for name in "change-grey-seed-10", "change-adam-seed-11", "change-adam-seed-10":
        write_log(tmp_path / f"{name}.csv", [-20, -19], [1000, 2000])
    adam, grey = logs.changes(tmp_path)  # as on their page
    assert (adam.label, adam.cores, adam.batch) == ("Adam instead of RMSProp", 2, 2)
    assert [logs.seed_of(path) for path in adam.paths] == ["10", "11"]
    assert grey.label == "Grey frames of the whole screen"


def test_the_control_is_what_is_called_no_change(tmp_path):
    for seed in 21, 20:
        write_log(tmp_path / f"change-none-seed-{seed}.csv", [-20, -19], [1000, 2000])
    control = logs.control(tmp_path)
    assert [logs.seed_of(path) for path in control.paths] == ["20", "21"] and control.batch == 2
    assert logs.changes(tmp_path) == []


def test_a_score_is_come_up_to_from_below():
    mean = np.array([-19.0, -20.0, -19.5, -19.0, -20.0, -18.0])
    assert logs.first_up_to(-19, mean) == 3 and logs.first_up_to(-18.5, mean) == 5
    assert logs.first_up_to(0, mean) is None and logs.first_up_to(-20, mean) is None


# ---- tables


@pytest.fixture
def run(tmp_path):
    """Two seeds on two cores, batches of two, each game a minute of one worker."""
    for seed, mean in (1, [-20, -16, -12, -8, -4, 1]), (2, [-20, -20, -16, -16, -9, -9]):
        write_log(tmp_path / f"x-seed-{seed}.csv", mean, [6000] * 6)
    paths = tuple(tmp_path / f"x-seed-{seed}.csv" for seed in (1, 2))
    return logs.Run("mine", paths, cores=2, batch=2, speed=100)


def test_tables_by_hand(run):
    assert tables.minutes_table([run]).splitlines()[2:] == [
        "| mine, seeds 1 and 2 | 2 | 2 (2 to 3) | 2 (2 to 3) | – (3 to –) | – (3 to –) |"
    ]
    assert tables.seeds_table([run]).splitlines()[2:] == [
        "| mine, seed 1 | 3 games, 2 min | 4 games, 2 min | 5 games, 3 min | 6 games, 3 min |",
        "| mine, seed 2 | 5 games, 3 min | 5 games, 3 min | – | – |",
    ]
    rows = tables.normal_table([run]).splitlines()
    assert rows[0].startswith("| running mean after | 250 games |")
    assert rows[2] == "| mine, seed 1 | – | – | – | – | – | – | – |"


def test_a_log_that_begins_later_is_read_by_its_games(tmp_path):
    """As --resume --log other.csv begins one."""
    path = tmp_path / "later-seed-1.csv"
    write_log(path, [-20 + n / 100 for n in range(600)], [1000] * 600)
    header, *rows = path.read_text().splitlines(keepends=True)
    path.write_text(header + "".join(rows[400:]))
    row = tables.normal_table([logs.Run("mine", (path,))]).splitlines()[2]
    assert row == "| mine, seed 1 | – | -15.0 | – | – | – | – | – |"


@pytest.mark.parametrize("cores", [4, 10**10])
def test_more_cores_than_games_in_a_batch_wait(cores):
    assert logs.minutes_on(cores, [60, 120, 60, 60], 2, speed=1).tolist() == [2, 2, 3, 3]


def test_a_change_is_bold_where_all_its_seeds_are_outside_the_range(tmp_path):
    def run(label, scores):
        """Logs of games that take half a million steps each, with these scores."""
        paths = []
        for seed, of_a_seed in enumerate(scores):
            paths.append(tmp_path / f"{label}-seed-{seed}.csv")
            write_log(paths[-1], of_a_seed, [500_000] * len(of_a_seed), of_a_seed)
        return logs.Run(label, tuple(paths), batch=2)

    unchanged = run("unchanged", [[-20, -18, -10, -8, -3, -3], [-21, -19, -11, -9, -4, -4]])
    better = run("better", [[-20, -18, -8, -8, 0], [-19, -19, -6, -8]])
    worse = run("worse", [[-20, -20, -14, -12, -3, -5]])
    assert tables.changes_table([unchanged], [better, worse]).splitlines()[2:] == [
        "| the method unchanged, seeds 0 and 1 | -20.0 to -19.0 | -10.0 to -9.0 |",
        "| better, seeds 0 and 1 | -19.0 | **-7.5** |",
        "| worse, seed 0 | -20.0 | **-13.0** |",
    ]
    shorter = run("shorter", [[-21, -21, -14, -12]])
    assert tables.changes_table([unchanged, shorter], [better, worse]).splitlines()[2:] == [
        "| the method unchanged, seeds 0 and 1, seed 0 | -21.0 to -19.0 | -13.0 to -9.0 |",
        "| better, seeds 0 and 1 | -19.0 | **-7.5** |",
        "| worse, seed 0 | -20.0 | -13.0 |",
    ]


def test_a_median_has_its_range():
    assert tables.median_and_range([47.2, 31.6, 36]) == "36 (32 to 47)"
    assert tables.median_and_range([36]) == tables.median_and_range([36.1, 36.2]) == "36"
    assert tables.median_and_range([3, inf, 5]) == "5 (3 to –)"
    assert tables.median_and_range([inf, inf]) == "–"


def test_the_tables_are_those_of_the_logs():
    """Writing them changes nothing: python tools/figures.py tables"""
    found = []
    for name in tables.PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert tables.fill(text, name) == text, "python tools/figures.py tables writes them anew"
        found += [place[1] for place in tables.PLACE.findall(text)]
    assert set(found) == set(tables.TABLES)
    others = [page for page in PAGES if page.relative_to(ROOT).as_posix() not in tables.PAGES]
    assert not [page for page in others if "<!-- table:" in page.read_text(encoding="utf-8")]


def test_tables_are_written_in_place(tmp_path, monkeypatch):
    monkeypatch.setitem(tables.TABLES, "minutes", lambda: "| new |\n")
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: minutes -->\n\n| old |\n\n<!-- end -->\nb\n<!-- note -->\n")
    tables.write_tables([page])
    text = page.read_text()
    assert text == "a\n<!-- table: minutes -->\n\n| new |\n\n<!-- end -->\nb\n<!-- note -->\n"
    tables.write_tables([page])
    assert page.read_text() == text


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- table: mine -->\n<!-- end -->\n", "no table is called mine: expected minutes, "),
        ("<!-- table: minutes -->\n\n| a |\n", "lacks its last line, <!-- end -->"),
        ("<!-- table: minutes -->\n<!-- table: seeds -->\n<!-- end -->\n", "lacks its last line"),
    ],
)
def test_a_wrong_place_for_a_table_is_named(text, message):
    with pytest.raises(pong_pg.UsageError, match=f"page.md: .*{message}"):
        tables.fill(text, "page.md")


# ---- pages


def test_every_log_and_picture_is_on_a_page_and_no_picture_is_large():
    shown = set()
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+\.(?:png|gif|csv))\)", page.read_text("utf-8")):
            path = (page.parent / link).resolve()
            assert path.is_file(), f"{page}: {link}"
            shown.add(path)
    kept = [path for name in ("docs", "results") for path in (ROOT / name).iterdir()]
    kept = {path for path in kept if path.suffix in (".png", ".gif", ".csv")}
    assert kept == shown
    for path in kept:
        assert path.suffix == ".csv" or 10_000 < path.stat().st_size < 1_500_000, path


def test_a_page_of_docs_shows_its_own_pictures_only():
    """docs/ has no picture of results, and results/ none of docs."""
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"!\[[^]]*\]\(\.\./docs/", page)
    for picture in (ROOT / "results").glob("*.png"):
        assert f"({picture.name})" in page or picture.name == "algorithms.png"  # of examples/


def test_the_page_names_the_commands_of_the_recipes():
    from tools import fast

    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for run in logs.recipes():
        lines = [shlex.join(["python", "pong_pg.py", *leg]) for leg in fast.commands(run.cores, 0)]
        assert "```bash\n" + "\n".join(lines) + "\n```" in page, run.label
