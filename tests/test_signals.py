"""Ctrl-C, SIGTERM and SIGHUP: whole batches are saved, and nothing lingers."""

import contextlib
import errno
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import (
    SIGNALS,
    SMALL_MODULE,
    Run,
    files,
    games_in,
    in_pairs,
    log_without_seconds,
    posix,
    run_script,
    sha256,
    wrapped,
)

import pong_pg

pytestmark = posix
RUN = "--batch-size 1 --save-every 1 --workers 1 --learning-rate 3e-3 --seed 3".split()

# ---- at any line --------------------------------------------------------------------------------


class Player:
    """Plays games that are numbers made of their seeds."""

    def __init__(self, check_signals):
        self.check_signals = check_signals

    def play(self, model, seeds, gamma):
        for seed in seeds:
            self.check_signals()
            rng = np.random.default_rng(seed)
            dW1 = np.array([0, 2]), rng.standard_normal((2, 2))
            yield pong_pg.Game([-1.0], 9, {"W1": dW1, "W2": rng.standard_normal(2)})

    def close(self):
        pass


@pytest.fixture
def tiny(shrink, monkeypatch, tmp_path):
    """tiny(flags) calls main() for a network of 2 x 3, whose games take no time, in a folder."""
    shrink(2, 3)
    monkeypatch.setattr(pong_pg, "FIELD", np.s_[:1, :3])
    monkeypatch.setattr(pong_pg, "choose_player", lambda *how: Player(how[3]))
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # the disk is not the question here
    flags = "--batch-size 1 --save-every 2 --learning-rate 1e-3 --seed 3 --log log.csv".split()

    def main(folder, *more):
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        return pong_pg.main([*flags, *more])

    return main


def struck(function, *moments):
    """Calls it with Ctrl-C at these lines of pong_pg.py, counted as they are executed.

    Returns what it returns, or "interrupted" for a KeyboardInterrupt; and how many lines it has.
    """
    lines = itertools.count()

    def trace(frame, event, arg):
        if frame.f_code.co_filename != pong_pg.__file__:
            return None
        if event == "line" and next(lines) in moments:
            signal.raise_signal(signal.SIGINT)
        return trace

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    sys.settrace(trace)
    try:
        status = function()
    except KeyboardInterrupt:  # it struck before or after those lines that take signals
        status = "interrupted"
    finally:
        sys.settrace(None)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return status, next(lines)


@pytest.fixture
def calm(tiny, tmp_path):
    """SHA-256 of the checkpoint after 1, 2, ... games that nobody disturbs; and the log's rows."""
    digests = {}
    for games in (1, 2, 3, 4, 5):
        assert tiny(str(games), "--episodes", str(games)) == 0
        digests[games] = sha256(tmp_path / str(games) / "save.p")
    return digests, log_without_seconds(tmp_path / "5" / "log.csv")


def assert_as_calm(folder, calm):
    """What a stopped run has left equals a run of as many games. Returns their number."""
    digests, rows = calm
    assert set(files(folder)) <= {"save.p", "log.csv"}, files(folder)
    games = games_in(folder / "save.p") if "save.p" in files(folder) else 0
    assert games == 0 or sha256(folder / "save.p") == digests[games]
    found = log_without_seconds(folder / "log.csv") if "log.csv" in files(folder) else []
    assert found == rows[: len(found)]  # with its header; it may be two games ahead
    assert found == [] or games + 1 <= len(found) <= games + 3
    return games


@pytest.mark.parametrize("how", ["once", "twice", "without a mask"])
def test_ctrl_c_at_any_line_leaves_what_a_calm_run_has(
    tiny, calm, tmp_path, monkeypatch, capsys, how
):
    """Or twice at once, as `timeout` does; or where no signal can be held back, as on Windows."""
    if how == "without a mask":
        monkeypatch.delattr(signal, "pthread_sigmask")
    _, lines = struck(lambda: tiny("all", "--episodes", "5"))
    capsys.readouterr()
    saved = set()
    for moment in range(["once", "twice", "without a mask"].index(how), lines, 11):
        folder, moments = str(moment), [moment, moment + 1][: 1 + (how == "twice")]
        status, _ = struck(lambda f=folder: tiny(f, "--episodes", "5"), *moments)
        whole = capsys.readouterr().out.count("resetting env")
        games = assert_as_calm(tmp_path / folder, calm)
        assert status in (130, 0, "interrupted")
        assert status == "interrupted" or games == whole
        saved.add(games)
    assert saved == {0, 1, 2, 3, 4, 5}


def test_a_second_ctrl_c_at_any_line_leaves_the_last_checkpoint(
    tiny, calm, tmp_path, monkeypatch, capsys
):
    clock = itertools.count(step=1.0)  # each look at it is a second later
    monkeypatch.setattr(pong_pg, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    _, lines = struck(lambda: tiny("all", "--episodes", "5"))
    capsys.readouterr()
    chance, ends = random.Random(0), set()
    for first in range(200, lines, 9):
        folder = str(first)
        second = first + chance.randrange(1, 40)
        status, _ = struck(lambda f=folder: tiny(f, "--episodes", "5"), first, second)
        for left in [*(tmp_path / folder).glob("*.tmp"), *(tmp_path / folder).glob("*.lock")]:
            left.unlink()  # as after a kill
        games = assert_as_calm(tmp_path / folder, calm)
        out = capsys.readouterr().out
        assert status in (130, 0, "interrupted") and games >= out.count("saved save.p") * 2 - 1
        ends.add((status, games))
    assert {status for status, _ in ends} >= {130}


def test_the_handlers_of_before_are_there_again(tiny, tmp_path):
    """So a notebook's interrupt button works after a run, and in a second one."""
    before = [signal.getsignal(number) for number in SIGNALS]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for status, more in (0, []), (0, ["--resume"]), (2, ["--resume", "--seed", "4"]):
        assert tiny("run", "--episodes", "1", *more) == status
        assert [signal.getsignal(number) for number in SIGNALS] == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_process_that_cannot_be_started_leaves_the_signals_as_they_were(monkeypatch):
    def fail():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(pong_pg.resource_tracker, "ensure_running", fail)
    with pytest.raises(OSError, match="a worker process cannot be started"):
        pong_pg.Worker(show=False)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_a_run_in_another_thread_works_without_signals(tiny, tmp_path):
    """Only the main thread may install handlers."""
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(tiny("run", "--episodes", "2")))
    thread.start()
    thread.join()
    assert statuses == [0] and games_in(tmp_path / "run" / "save.p") == 2


def test_ctrl_c_that_ends_the_wait_itself_as_on_windows_is_no_error(tmp_path, monkeypatch, capsys):
    """There Python runs the handler, and the wait for the workers raises InterruptedError."""
    wait, played = pong_pg.connection.wait, []

    def wait_as_on_windows(busy, timeout):
        ready = wait(busy, timeout)
        if len(played) == 2:
            played.clear()
            signal.raise_signal(signal.SIGINT)
            raise InterruptedError(4, "Interrupted function call")
        return ready

    def add_game(records, *game, as_it_is=pong_pg.Records.add_game):
        played.append(game)
        as_it_is(records, *game)

    monkeypatch.setattr(pong_pg.Records, "add_game", add_game)
    monkeypatch.setattr(pong_pg.connection, "wait", wait_as_on_windows)
    monkeypatch.chdir(tmp_path)
    assert pong_pg.main(["--batch-size", "1", "--workers", "1", "--seed", "3"]) == 130
    assert capsys.readouterr().err == ""
    assert games_in(tmp_path / "save.p") == 2


# ---- at any moment of a real run ----------------------------------------------------------------

DIGESTS = """
import hashlib
def end_batch(self):
    with open("digests", "a") as file:
        data = pong_pg.encode(self.model, self.state)
        print(self.state.games, hashlib.sha256(data).hexdigest(), file=file)
pong_pg.Records.end_batch = end_batch
"""
NO_MASK = "import signal\ndel signal.pthread_sigmask"


@pytest.mark.slow
def test_stopped_at_any_moment_as_module_or_script_the_file_is_that_of_a_calm_run(tmp_path, quick):
    scripts = [
        quick,
        wrapped(tmp_path / "user.py", always=SMALL_MODULE),
        wrapped(tmp_path / "no_mask.py", NO_MASK, always=SMALL_MODULE),
    ]
    flags = [*RUN[4:], "--batch-size", 1, "--save-every", 10_000]
    counting = wrapped(tmp_path / "calm.py", always=SMALL_MODULE, in_parent=DIGESTS)
    calm = Run(tmp_path / "calm", *flags, "--episodes", 30, script=counting)
    chance = random.Random(0)
    jobs = [(n, script, chance.uniform(0, 0.1)) for n, script in enumerate(2 * scripts)]

    def stop_after_some_games(n, script, delay):
        run = Run(tmp_path / str(n), *flags, script=script)
        run.wait_until(lambda: run.games() > n)
        time.sleep(delay)
        os.kill(run.pid, signal.SIGINT)
        assert run.end() == (130, "") and run.leaves_nobody()
        return run

    runs = in_pairs(stop_after_some_games, jobs)
    assert calm.end() == (0, "")
    digests = dict(line.split() for line in (tmp_path / "calm" / "digests").open())
    for n, run in enumerate(runs):
        path = tmp_path / str(n) / "save.p"
        assert files(path.parent) == ["save.p"]
        assert games_in(path) == run.games() == run.saved()
        assert digests[str(run.saved())] == sha256(path)


HANG = """
import time
fsync = os.fsync
def hang(fd):
    if os.path.exists("save.p"):
        print("it hangs")
        time.sleep(600)
    fsync(fd)
os.fsync = hang
"""


def test_a_second_ctrl_c_ends_at_once_what_a_first_one_cannot(tmp_path):
    """Here a disk that does not answer; save.p is that of the last save."""
    script = wrapped(tmp_path / "hang.py", always=SMALL_MODULE, in_parent=HANG)
    run = Run(tmp_path / "run", *RUN, script=script)
    run.wait_until(lambda: "it hangs" in run.stdout)
    for _ in range(2):
        assert not run.over()
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.5)
    assert run.end() == (130, "") and run.leaves_nobody()
    assert games_in(tmp_path / "run" / "save.p") == run.saved() == 1
    assert "save.p.lock" not in files(tmp_path / "run")


@pytest.mark.parametrize("pause", [0.0002, 0.02])
def test_a_signal_that_comes_twice_at_once_still_saves_the_last_batch(tmp_path, pause):
    """`timeout` sends it to the process and to its group. To save 20 MB takes longer than that."""
    script = wrapped(tmp_path / "short.py", always="pong_pg.MAX_STEPS = 100")
    run = Run(tmp_path / "run", *RUN[4:], "--batch-size", 1, script=script)
    run.wait_until(lambda: run.games() >= 2)
    os.kill(run.pid, signal.SIGTERM)
    time.sleep(pause)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGTERM)
    assert run.end() == (143, "") and run.leaves_nobody()
    assert games_in(tmp_path / "run" / "save.p") == run.games() == run.saved()


# ---- other start methods ------------------------------------------------------------------------


def started_by(method, path, script):
    """The script in a Python whose processes start by this method, as they do on other systems.

    tqdm's own lock would be a named semaphore there, which a tracker process complains about.
    """
    path.write_text(
        "import multiprocessing.synchronize, runpy, sys\n"
        "def complain(*args): print('a named semaphore', file=sys.stderr)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.synchronize.SemLock.__init__ = complain\n"
        f"    multiprocessing.set_start_method({method!r})\n"
        f"    sys.argv[0] = {str(script)!r}\n"
        f"    runpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    return path


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_under_any_start_method_nothing_is_said_at_the_end(tmp_path, quick, method):
    """Not when whoever reads the output leaves, nor when the terminal closes."""
    script = started_by(method, tmp_path / "start.py", quick)
    (tmp_path / "head").mkdir()
    command = f"'{sys.executable}' '{script}' {' '.join(RUN)} | head -n 3"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path / "head", capture_output=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (3, b"")
    for quiet in [], ["--quiet"]:
        run = Run(tmp_path / "hangup", *RUN, *quiet, script=script)
        run.wait_until(run.saved)
        os.killpg(run.pid, signal.SIGHUP)
        status, error = run.end()
        assert status == 129 and (quiet or error == "") and run.leaves_nobody(), error
        assert "semaphore" not in error and "resource_tracker" not in error, error


# ---- who does not listen ------------------------------------------------------------------------


def test_an_evaluation_is_interrupted_as_cleanly(tmp_path, quick):
    one_game = run_script(*RUN, "--episodes", 1, cwd=tmp_path, script=quick)
    assert one_game.returncode == 0
    run = Run(tmp_path / "run", "--evaluate", 9999, "--save", tmp_path / "save.p", script=quick)
    run.wait_until(lambda: "game 0" in run.stdout)
    os.killpg(run.pid, signal.SIGINT)
    assert run.end() == (130, "") and run.leaves_nobody()
    assert "evaluation:" not in run.stdout


def test_a_run_under_nohup_outlives_its_terminal(tmp_path, quick):
    run = Run(tmp_path / "run", *RUN, ignored=[signal.SIGHUP], script=quick)
    run.wait_until(lambda: run.games() >= 1)
    os.killpg(run.pid, signal.SIGHUP)
    games = run.games()
    run.wait_until(lambda: run.games() > games)
    os.killpg(run.pid, signal.SIGTERM)
    assert run.end() == (143, "") and run.leaves_nobody()
    assert games_in(tmp_path / "run" / "save.p") == run.games()
