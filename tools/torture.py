"""The slow versions of tests/test_faults.py and tests/test_checkpoint.py, with figures.

    python tools/torture.py --kills 1000         # SIGKILL while checkpoints are being written
    python tools/torture.py --worker-kills 100   # SIGKILL workers; the result must not change
    python tools/torture.py --signals 100        # SIGINT, SIGTERM and SIGHUP at any moment
    python tools/torture.py --cuts               # a checkpoint of full size, cut at every 4 KiB
    python tools/torture.py --flips 1000         # ... and with one bit flipped somewhere

It needs what the tests need, runs with the Python that runs it, works in a temporary folder, and
stops with a traceback at the first thing that is not as it should be.
"""

import argparse
import collections
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import test_checkpoint
import test_faults
from conftest import run_script

import pong_pg


def kills(count, folder, chance):
    """One run, killed `count` times; at its end it is compared with a run left in peace."""
    ends = collections.Counter()
    run = folder / "run"
    while ends["killed"] < count:
        some = min(20, count - ends["killed"])
        ends += test_faults.kill_again_and_again(run, some, chance.random())
        ends["killed"] += some
        with contextlib.suppress(pong_pg.CheckpointError):  # it may not have come to a save yet
            ends["games then played"] = test_faults.games_in(run / "save.p")
        report("kills", ends)
    test_faults.finish_and_compare(run)
    report("kills", ends, "the run that they struck equals one left in peace")


def worker_kills(count, folder, chance):
    """Runs of six games, with three of their workers killed in each."""
    flags = "--seed 3 --episodes 6 --batch-size 2 --save-every 2 --learning-rate 1e-3 --workers 2"
    assert run_script(*flags.split(), cwd=folder).returncode == 0
    expected = test_faults.sha256(folder / "save.p")
    ends = collections.Counter()
    while ends["killed"] < count:
        run = test_faults.Run(folder / "run", *flags.split())
        for _ in range(3):
            delay = chance.uniform(0, 1)
            with contextlib.suppress(AssertionError):  # it may be over by then
                run.wait_until(run.workers)
                time.sleep(delay)
            for pid in run.workers()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, test_faults.signal.SIGKILL)
                    ends["killed"] += 1
        assert run.end() == (0, "") and run.leaves_nobody(), run.stderr
        assert test_faults.sha256(folder / "run" / "save.p") == expected
        shutil.rmtree(folder / "run")
        ends["runs with the bits of one left in peace"] += 1
        report("worker kills", ends)


def signals(count, folder, chance):
    """Runs that are stopped in their first two seconds."""
    ends, slowest = collections.Counter(), 0
    for _ in range(count):
        number, group = chance.choice(test_faults.SIGNALS), chance.random() < 0.5
        moment = chance.uniform(0, 2)
        seconds = test_faults.stop(folder / "run", number, group, moment)
        slowest = max(slowest, seconds)
        ends[f"{number.name}, status {128 + number}"] += 1
        shutil.rmtree(folder / "run")
        report("signals", ends, f"the slowest took {slowest:.2f} s")


def damage(folder, offsets, kind, change):
    """A checkpoint of full size that is damaged at each of `offsets`: each must be refused."""
    flags = "--seed 3 --episodes 1 --batch-size 1"
    assert run_script(*flags.split(), cwd=folder).returncode == 0
    data = (folder / "save.p").read_bytes()
    ends = collections.Counter()
    for offset in offsets(len(data)):
        line = test_checkpoint.refusal(folder / "damaged.p", change(data, offset))
        ends["checksum" if "checksum" in line else "not a checkpoint"] += 1
        if sum(ends.values()) % 100 == 0:
            report(kind, ends)
    report(kind, ends)


def flip(data, offset):
    flipped = bytearray(data)
    flipped[offset // 8] ^= 1 << offset % 8
    return bytes(flipped)


def report(kind, ends, more=""):
    counts = ", ".join(f"{end}: {count}" for end, count in ends.items())
    print(f"{kind}: {counts}" + (f"; {more}" if more else ""), flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag in "--kills", "--worker-kills", "--signals", "--flips":
        parser.add_argument(flag, type=int, metavar="N", default=0)
    parser.add_argument("--cuts", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if args.kills:
            kills(args.kills, folder, chance)
        if args.worker_kills:
            worker_kills(args.worker_kills, folder, chance)
        if args.signals:
            signals(args.signals, folder, chance)
        if args.cuts:
            damage(folder, lambda size: range(0, size, 4096), "cuts", lambda data, n: data[:n])
        if args.flips:
            damage(folder, lambda size: chance.sample(range(8 * size), args.flips), "flips", flip)
    print(f"pong_pg {pong_pg.__version__} stood it all")


if __name__ == "__main__":
    main()
