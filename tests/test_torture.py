"""Strikes at any moment: a few in each run of the tests, and as many as one likes.

    python -m pytest -m slow tests/test_torture.py --kills 1000 --worker-kills 100 --signals 100

--kills      SIGKILL while checkpoints are being written; nothing that was saved is lost
--worker-kills   SIGKILL workers; the result does not change
--signals    SIGINT, SIGTERM and SIGHUP at any moment
--flips      bits flipped in a checkpoint of full size, which is also cut at as many places
--moments    another seed strikes at other moments; add -n 0 -s to see the figures
"""

import collections
import contextlib
import itertools
import os
import random
import re
import shutil
import time

import pytest
from helpers import (
    SIGNALS,
    Run,
    files,
    games_in,
    in_pairs,
    log_without_seconds,
    posix,
    refusal,
    sha256,
)

pytestmark = posix
RUN = "--batch-size 1 --save-every 1 --workers 1 --learning-rate 3e-3 --seed 3".split()
LEFT = re.compile(r"(save\.p|log\.csv)(\.lock|\.\d+\.tmp)?")  # what a kill may leave


@pytest.fixture
def many(request):
    """many("kills") is the N of --kills N."""
    return lambda name: request.config.getoption(f"--{name}")


@pytest.fixture
def chance(request):
    return random.Random(request.config.getoption("moments"))


def show(kind, counts, more=""):
    print(f"\n{kind}: " + ", ".join(f"{end}: {n}" for end, n in counts.items()) + more)


# ---- killed while it saves ----------------------------------------------------------------------


def saving(folder):
    """What changes as soon as a checkpoint is being written: names, and which file save.p is."""
    with contextlib.suppress(FileNotFoundError):
        return [
            (e.name, e.stat().st_ino)
            for e in os.scandir(folder)
            if e.name.startswith("save.p") and not e.name.endswith(".lock")
        ]


def go_on(folder, script, *flags):
    resume = ["--resume"] if (folder / "save.p").exists() else []
    if not resume and (folder / "log.csv").exists():
        (folder / "log.csv").unlink()  # a fresh run would keep it, which is not the question here
    return Run(folder, *RUN, *flags, "--log", "log.csv", *resume, script=script)


def kill_again_and_again(folder, script, kills, chance):
    """Kills a run, resumes it, kills it ..., and checks what each kill leaves. Returns counts.

    Four kills of five are aimed: they strike up to 40 ms after a checkpoint begins to be written.
    The others come at any moment.
    """
    games, ends = 0, collections.Counter()
    for _ in range(kills):
        run = go_on(folder, script)
        try:
            if chance.random() < 0.8:
                run.wait_until(lambda r=run: re.search("training|resuming", r.stdout), pause=0.001)
                before = saving(folder)
                run.wait_until(lambda b=before: saving(folder) != b, pause=0.0003)
                time.sleep(chance.uniform(0, 0.04))
            else:
                time.sleep(chance.uniform(0, 2))
        finally:
            run.kill()
        assert "Traceback" not in run.stderr and run.leaves_nobody()
        left = set(files(folder))
        assert all(LEFT.fullmatch(name) for name in left), left
        assert sum(name.endswith(".tmp") for name in left) <= 1, left
        if "save.p" in left:
            now = games_in(folder / "save.p")  # it loads: it is whole
            assert now >= max(games, run.saved()), (now, games, run.saved())
            ends["an old checkpoint, whole" if now == games else "a new checkpoint, whole"] += 1
            games = now
        else:
            assert games == run.saved() == 0
            ends["no checkpoint yet"] += 1
        ends["of these, a temporary file beside it"] += any(".tmp" in name for name in left)
    return ends


def finish_and_compare(folder, script):
    """Resumes for one more game; that equals a run of as many games that nobody disturbed."""
    assert go_on(folder, script, "--episodes", 1).end() == (0, "")
    assert files(folder) == ["log.csv", "save.p"]
    games = games_in(folder / "save.p")
    calm = folder.parent / "calm"
    flags = [*RUN, "--log", "log.csv", "--episodes", games]
    assert Run(calm, *flags, script=script).end() == (0, "")
    for name, content in ("save.p", sha256), ("log.csv", log_without_seconds):
        assert content(folder / name) == content(calm / name)


def test_whenever_it_is_killed_the_checkpoint_is_whole_and_never_older(tmp_path, quick, chance):
    kill_again_and_again(tmp_path / "run", quick, 3, chance)
    finish_and_compare(tmp_path / "run", quick)


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_many_kills(tmp_path, quick, many, chance, half):
    """In two halves, so that two processes of the tests share them."""
    kills = (many("kills") + half) // 2
    for _ in range(half):
        chance.seed(chance.random())
    ends = kill_again_and_again(tmp_path / "run", quick, kills, chance)
    finish_and_compare(tmp_path / "run", quick)
    show(f"{kills} kills", ends, "; the run that they struck equals one left in peace")


# ---- workers that are killed --------------------------------------------------------------------


@pytest.mark.slow
def test_many_killed_workers(tmp_path, short_run, many, chance):
    """Runs of six games, with three of their workers killed in each."""
    flags = "--seed 3 --episodes 6 --batch-size 2 --save-every 2 --learning-rate 1e-3 --workers 2"
    ends = collections.Counter()
    while ends["killed"] < many("worker-kills"):
        run = Run(tmp_path / "run", *flags.split())
        for _ in range(3):
            delay = chance.uniform(0, 1)
            with contextlib.suppress(AssertionError):  # it may be over by then
                run.wait_until(run.workers)
                time.sleep(delay)
            for pid in run.workers()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
                    ends["killed"] += 1
        assert run.end() == (0, "") and run.leaves_nobody(), run.stderr
        assert sha256(tmp_path / "run" / "save.p") == sha256(short_run / "save.p")
        shutil.rmtree(tmp_path / "run")
        ends["runs with the bits of one left in peace"] += 1
    show("workers", ends)


# ---- signals ------------------------------------------------------------------------------------


def stop(folder, number, whole_group, moment):
    """Signals a run so many seconds after it began to listen, as the terminal or `kill` would."""
    run = Run(folder, *"--batch-size 2 --save-every 1000 --workers 2 --seed 3".split())
    run.wait_until(run.takes_signals, pause=0.001)
    if moment is None:
        run.wait_until(lambda: run.games() >= 2)
    else:
        time.sleep(moment)
    began = time.monotonic()
    (os.killpg if whole_group else os.kill)(run.pid, number)
    assert run.end() == (128 + number, ""), (number, moment, run.stderr)
    seconds = time.monotonic() - began
    assert run.leaves_nobody()
    games = run.games() // 2 * 2  # whole batches
    assert files(folder) == (["save.p"] if games else [])
    assert not games or games_in(folder / "save.p") == run.saved() == games
    return seconds


@pytest.mark.slow
def test_a_signal_at_any_moment_ends_the_run_cleanly(tmp_path, chance):
    """While it imports, starts workers, plays, or after a batch, which it then saves."""
    kinds = [(number, group) for number in SIGNALS for group in (True, False)]
    moments = [chance.uniform(0, 1.2) for _ in kinds[1:]] + [None]
    jobs = [(tmp_path / str(n), *kind, moments[n]) for n, kind in enumerate(kinds)]
    in_pairs(stop, jobs)


@pytest.mark.slow
def test_many_signals(tmp_path, many, chance):
    """Runs that are stopped in their first two seconds."""
    ends, slowest = collections.Counter(), 0
    for _ in range(many("signals")):
        number, group = chance.choice(SIGNALS), chance.random() < 0.5
        seconds = stop(tmp_path / "run", number, group, chance.uniform(0, 2))
        slowest = max(slowest, seconds)
        ends[f"{number.name}, status {128 + number}"] += 1
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    show("signals", ends, f"; the slowest took {slowest:.2f} s")


# ---- damage -------------------------------------------------------------------------------------


def flip(data, offset):
    flipped = bytearray(data)
    flipped[offset // 8] ^= 1 << offset % 8
    return bytes(flipped)


@pytest.mark.slow
def test_much_damage_to_a_checkpoint_of_full_size(tmp_path, short_run, many, chance):
    data = (short_run / "save.p").read_bytes()
    ends = collections.Counter()
    cuts = (data[:length] for length in chance.sample(range(len(data)), many("flips")))
    flips = (flip(data, n) for n in chance.sample(range(8 * len(data)), many("flips")))
    for content in itertools.chain(cuts, flips):
        line = refusal(tmp_path / "damaged.p", content)
        ends["checksum" if "checksum" in line else "not a checkpoint"] += 1
    show("damage", ends)
