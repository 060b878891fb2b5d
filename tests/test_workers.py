"""Worker processes: how many there are, what they do on an error, and that any of them may die."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
from helpers import (
    ROOT,
    SMALL,
    Run,
    edited,
    files,
    games_in,
    one_line,
    posix,
    refused,
    run_script,
    sha256,
    wrapped,
)

import pong_pg

pytestmark = posix

# ---- workers that die ---------------------------------------------------------------------------


def kill_workers(run, moments):
    """Kills a worker of the run each time it has played as many games as `moments` say.

    On a busy machine the run may be over before the last of them; the first must be met.
    """
    killed = []
    for games in moments:
        run.wait_until(lambda g=games: killed and run.over() or run.games() >= g and run.workers())
        time.sleep(0.1)
        for pid in run.workers()[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    assert killed


def test_workers_that_are_killed_change_neither_a_bit_nor_a_line(short_run, tmp_path):
    flags = "--seed 3 --episodes 6 --batch-size 2 --save-every 2 --learning-rate 1e-3 --workers 2"
    run = Run(tmp_path / "run", *flags.split())
    kill_workers(run, [0, 1, 2])
    assert run.end() == (0, "") and run.leaves_nobody()
    assert sha256(tmp_path / "run" / "save.p") == sha256(short_run / "save.p")
    assert run.stdout == (short_run / "stdout").read_text()


def test_workers_that_cannot_be_replaced_end_the_run_with_a_checkpoint(tmp_path, quick):
    flags = "--batch-size 1 --save-every 1000 --seed 3".split()
    run = Run(tmp_path / "run", *flags, script=quick)
    run.wait_until(run.games)
    while not run.over():
        for pid in run.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    status, error = run.end()
    assert status == 1 and run.leaves_nobody()
    one_line(error, "worker")
    assert games_in(tmp_path / "run" / "save.p") == run.games() == run.saved()


def test_a_parent_that_is_killed_leaves_no_worker_behind(tmp_path):
    """Not even one in the middle of a game that lasts for minutes."""
    endless = "def step(*args, step=pong_pg.Pong.step): return step(*args)[0], False\n"
    endless += "pong_pg.Pong.step, pong_pg.MAX_STEPS = step, 1_000_000"
    script = wrapped(tmp_path / "endless.py", always=endless)
    run = Run(tmp_path / "run", *"--batch-size 2 --workers 2 --seed 3".split(), script=script)
    run.wait_until(lambda: len(run.workers()) == 2)
    time.sleep(2)  # until they play
    run.kill()
    assert run.leaves_nobody()


# ---- how many -----------------------------------------------------------------------------------


@pytest.fixture
def players(monkeypatch):
    """Workers that answer at once, or die if `players.deaths` says so; counted, none a process."""

    class Player(pong_pg.Worker):
        deaths, shown, at_once = iter(()), [], 0
        alive = set()

        def __init__(self, show):
            Player.shown.append(show)
            Player.alive.add(self)
            Player.at_once = max(Player.at_once, len(Player.alive))
            self.pipe, self.theirs = multiprocessing.Pipe()
            self.theirs.send(("ready", None))
            self.idle, self.task, self.batch = False, None, 0
            self.process = self
            self.exitcode = -signal.SIGKILL

        def start_game(self, batch, model, task, gamma):
            super().start_game(batch, model, task, gamma)
            if next(Player.deaths, False):
                self.kill()
            elif self in Player.alive:
                self.theirs.send(("game", ([batch], task[1])))

        def kill(self):
            Player.alive.discard(self)
            self.theirs.close()

        def join(self):
            assert self not in Player.alive

    monkeypatch.setattr(pong_pg, "Worker", Player)
    return Player


def play(workers, games):
    """Plays numbered games; gives their numbers."""
    return [game.steps for game in workers.play({}, range(games))]


def test_a_seed_may_come_twice(players):
    with contextlib.closing(pong_pg.Workers(2)) as workers:
        assert [game.steps for game in workers.play({}, [5, 5, 7, 5])] == [5, 5, 7, 5]


def test_workers_is_an_upper_limit(players):
    with contextlib.closing(pong_pg.Workers(2)) as workers:
        for _ in range(3):
            assert play(workers, 9) == list(range(9))
    assert (players.at_once, len(players.shown), players.alive) == (2, 2, set())


@pytest.mark.parametrize("flags, count", [("--workers 9", 2), ("--workers 1", 1), ("--render", 1)])
def test_there_are_no_more_workers_than_games_of_a_batch(players, tmp_path, flags, count):
    """And one where a window is shown."""
    args = pong_pg.parse_arguments(f"--batch-size 2 --save {tmp_path}/save.p {flags}".split())

    def train(model, state, player, *how):
        assert play(player, 9) == list(range(9))

    with mock.patch.dict(os.environ, DISPLAY=":0"), mock.patch("pong_pg.train", train):
        pong_pg.run(args, lambda: None)
    assert players.shown == count * [flags == "--render"]


def test_deaths_are_counted_from_the_last_game_that_came_home(players):
    """The 31st death of a long run does not end it; 31 in a row do."""
    players.deaths = iter((20 * [True] + [False]) * 3)
    with contextlib.closing(pong_pg.Workers(1)) as workers:
        assert play(workers, 3) == [0, 1, 2]
        assert len(players.shown) == 61 and len(players.alive) == 1
        players.deaths = iter(31 * [True])
        with pytest.raises(OSError, match="died in a row"):
            play(workers, 1)


def test_a_worker_that_dies_between_two_batches_is_replaced(players):
    with contextlib.closing(pong_pg.Workers(2)) as workers:
        assert play(workers, 4) == [0, 1, 2, 3]
        for worker in list(players.alive):
            worker.kill()
        assert play(workers, 4) == [0, 1, 2, 3]
    assert len(players.shown) == 4


def test_a_game_of_a_batch_that_was_given_up_is_not_taken_for_one_of_the_next(players):
    with contextlib.closing(pong_pg.Workers(2)) as workers:
        given_up = workers.play({}, range(4))
        next(given_up)
        given_up.close()
        assert [game.points for game in workers.play({}, range(4))] == 4 * [[2]]


def test_a_worker_that_dies_with_a_game_that_was_given_up_leaves_it_so(players):
    with contextlib.closing(pong_pg.Workers(1)) as workers:
        given_up = workers.play({}, [7, 8])
        next(given_up)
        given_up.close()
        (worker,) = players.alive
        worker.pipe.recv()  # so its last word is not heard
        worker.kill()
        assert play(workers, 2) == [0, 1]


def test_a_player_and_an_emulator_made_with_their_defaults_show_nothing(players, monkeypatch):
    with contextlib.closing(pong_pg.Workers(1)) as workers:
        play(workers, 1)
    assert (players.shown, workers.on_point) == ([False], None)
    with mock.patch("pong_pg.make_pong") as make:
        pong_pg.Pong()
    assert make.call_args[1]["render_mode"] is None


# ---- errors in a worker -------------------------------------------------------------------------


def give_up_after(seconds):
    deadline = time.monotonic() + seconds

    def check():
        assert time.monotonic() < deadline, "the worker says nothing"

    return check


@pytest.mark.parametrize(
    "seed, error, words",
    [
        ("no seed", pong_pg.WorkerError, "no seed"),
        (0, pong_pg.UsageError, "not here"),
    ],
)
def test_a_worker_answers_an_error_with_the_error(tmp_path, monkeypatch, seed, error, words):
    """A reader's one, and a missing emulator. Were it silent, the run would wait for ever."""
    if error is pong_pg.UsageError:
        without_gym(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
    workers = pong_pg.Workers(1, check_signals=give_up_after(60))
    with contextlib.closing(workers), pytest.raises(error, match=words):
        list(workers.play({}, [seed]))


def without_gym(folder):
    for name in "gymnasium.py", "gym.py":
        (folder / name).write_text("raise ImportError('not here')\n")


def test_a_worker_without_an_emulator_is_one_line(tmp_path):
    without_gym(tmp_path)
    done = run_script("--workers", 2, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    refused(done, "Pong-v0 does not start", "not here", "pip install -r requirements.txt")


BUG = [
    ("def policy_forward(model: dict", "calls = []\n\n\ndef policy_forward(model: dict"),
    (
        "    moved = (x != 0).nonzero()[0]\n",
        "    calls.append(x)\n    if len(calls) > 250:  # in the third game\n"
        "        x = model['W3']\n    moved = (x != 0).nonzero()[0]\n",
    ),
]


def shown_once(error, line, last):
    """A traceback, once and whole: from the worker's `play_and_learn` to this line."""
    assert error.count("Traceback (most recent call last)") == 1, error
    assert line in error and error.splitlines()[-1] == last, error
    assert len(error.splitlines()) <= 40, error


@pytest.mark.parametrize("where", [["--workers", 1], ["--cluster", "local", "--workers", 1]])
def test_a_readers_bug_is_shown_once_and_whole_batches_are_saved(tmp_path, where):
    if "--cluster" in where:
        pytest.importorskip("distributed")
    script = edited(tmp_path / "reader.py", *SMALL, *BUG)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    run = Run(tmp_path / "run", *"--seed 3 --batch-size 1".split(), *where, script=script)
    status, error = run.end()
    assert status == 1 and run.leaves_nobody()
    shown_once(error, "x = model['W3']", "KeyError: 'W3'")
    assert "in play_and_learn" in error and "in policy_forward" in error
    assert games_in(tmp_path / "run" / "save.p") == run.games() == run.saved() == 2


def test_a_bug_in_each_of_many_workers_is_shown_once(tmp_path):
    bug = ("    moved = (x != 0).nonzero()[0]\n", "    moved = model['W3']\n")
    script = edited(tmp_path / "reader.py", *SMALL, bug)
    run = Run(tmp_path / "run", *"--seed 3 --batch-size 8 --workers 4".split(), script=script)
    status, error = run.end()
    assert status == 1 and run.leaves_nobody() and files(tmp_path / "run") == []
    shown_once(error, "moved = model['W3']", "KeyError: 'W3'")


@pytest.mark.parametrize("save_every, left", [(1, ["save.p"]), (1000, [])])
def test_a_bug_half_way_through_an_update_is_not_saved(tmp_path, save_every, left):
    """W1 is changed by then, and W2 is not: save.p is that of the last save."""
    line = "        cache[name] *= decay_rate\n"
    bug = (
        f"        if name == 'W2' and cache[name].any():\n            raise KeyError(name)\n{line}"
    )
    script = edited(tmp_path / "reader.py", *SMALL, (line, bug + line))
    flags = ["--seed", 3, "--batch-size", 1, "--save-every", save_every]
    run = Run(tmp_path / "run", *flags, script=script)
    status, error = run.end()
    assert status == 1 and run.leaves_nobody()
    shown_once(error, "raise KeyError(name)", "KeyError: 'W2'")
    assert files(tmp_path / "run") == left
    if left:
        calm = Run(tmp_path / "calm", *flags, "--episodes", run.saved(), script=script)
        assert calm.end() == (0, "")
        assert sha256(tmp_path / "run" / "save.p") == sha256(tmp_path / "calm" / "save.p")


# ---- workers that cannot be started -------------------------------------------------------------


def test_too_few_files_for_the_workers_are_one_line_with_a_cure(tmp_path, quick):
    flags = "--seed 3 --batch-size 8 --workers 8"
    command = f"ulimit -n 32; '{sys.executable}' '{quick}' {flags}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and files(tmp_path) == []
    one_line(done.stderr, "worker process cannot be started", "--workers 1")


def under(module, tmp_path):
    """What is said on both outputs, where another module runs the script.

    The flags are in the script, for the pdb of some versions of Python 3.13 takes none.
    """
    flags = "--seed 3 --batch-size 2 --workers 2 --episodes 2".split()
    script = edited(tmp_path / "quick.py", *SMALL, ("sys.exit(main())", f"sys.exit(main({flags}))"))
    command = [sys.executable, "-m", *module.split(), str(script)]
    done = subprocess.run(
        command,
        cwd=str(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


def test_under_a_profiler_one_line_says_what_failed(tmp_path):
    """Or it plays, on a Python whose profiler lets it."""
    said = under("cProfile -o out.prof", tmp_path)
    ours = [line for line in said.splitlines() if line.startswith("pong_pg: ")]
    if not (tmp_path / "save.p").exists():
        one_line("\n".join(ours), "worker process cannot be started", "docs/change_it.md")


def test_under_a_debugger_it_plays(tmp_path):
    assert "saved save.p: 2 games" in under("pdb -c continue -c quit", tmp_path)
