"""How fast is the trainer, and what of it is the emulator's? A table, against the textbook loop.

    python tools/benchmark.py                  # the table, in under three minutes
    python tools/benchmark.py --csv bench.csv  # and as a file
    python tools/benchmark.py --memory         # of a worker: a game of 10,000 steps, 1,000 games

Every row is measured in every round, one after the other, and the median of the rounds counts: on a
machine that others use too, only the ratios mean something.
"""

import argparse
import contextlib
import csv
import functools
import io
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import textbook

import pong_pg

SEED = 0
GAMES = 10  # of a round: one batch
CORES = pong_pg.parse_arguments([]).workers


# ---- examples/textbook.py: dense float64 numpy, one process, BLAS as numpy has it


class CountedPong(pong_pg.Pong):
    """A Pong that counts its steps."""

    steps = 0

    def step(self, action, rng):
        self.steps += 1
        return super().step(action, rng)


def textbook_batch(pong, model, state):
    """Plays and learns a batch of games. Returns the number of steps."""
    state.games = 0  # the same games each time
    pong.steps = 0
    with contextlib.redirect_stdout(io.StringIO()):
        textbook.train_batch(model, state, pong)
    return pong.steps


# ---- ours, and the emulator with no learner


def our_batch(workers, model, state):
    """Plays and learns a batch of games. Returns the number of steps of each."""
    lengths = []
    state.games = 0
    pong_pg.train_batch(model, state, workers, lambda number, game, _: lengths.append(game.steps))
    return lengths


def emulate(games):
    """Plays games at random with our chance, reads their frames in RGB as Gym does, learns nothing.

    Returns the number of their steps.
    """
    pong = emulator()
    pong.steps = 0
    rgb = np.empty((210, 160, 3), np.uint8)
    for k in games:
        rng = np.random.default_rng([SEED, k])
        done = False
        pong.reset()
        while not done:
            _, done = pong.step(2 if rng.random() < 0.5 else 3, rng)
            pong.ale.getScreenRGB(rgb)
    return pong.steps


@functools.lru_cache(maxsize=None)
def emulator():
    """Returns this process's, which is opened once."""
    return CountedPong()


def emulate_on(pool, count):
    shares = [range(i, GAMES, count) for i in range(count)]
    return sum(pool.map(emulate, shares))


def measure(rounds, cores):
    """Returns steps a second of every row in every round, and the lengths of the games."""
    hyper = pong_pg.Hyperparameters(GAMES, learning_rate=0.0)  # 0: the same games each time
    model = pong_pg.init_model(np.random.default_rng(SEED))
    state = pong_pg.State(SEED, pong_pg.init_cache(model), hyper)
    dense_model, dense_state = textbook.start(SEED)
    dense_state.hyperparameters = hyper
    lengths = []
    spawn = multiprocessing.get_context("spawn")
    workers = {n: pong_pg.Workers(n) for n in {1, cores}}
    pools = {n: ProcessPoolExecutor(n, spawn) for n in {1, cores}}

    def ours(n):
        lengths[:] = our_batch(workers[n], model, state)
        return sum(lengths)

    rows = {"textbook loop": lambda: textbook_batch(emulator(), dense_model, dense_state)}
    for n in sorted(workers):
        rows[f"{n} worker{'s'[: n > 1]}"] = lambda n=n: ours(n)
        rows[f"{n} emulator{'s'[: n > 1]}, no learner"] = lambda n=n: emulate_on(pools[n], n)
    rates = {name: [] for name in rows}
    for i in range(rounds + 1):
        for name, play in rows.items():
            began = time.perf_counter()
            steps = play()
            if i > 0:  # the first round opens the emulators
                rates[name].append(steps / (time.perf_counter() - began))
        print(f"round {i} of {rounds}", file=sys.stderr)
    for pool in pools.values():
        pool.shutdown()
    for crew in workers.values():
        crew.close()
    return rates, lengths


def table(rates, lengths, cores):
    """Returns rows (what, value, note)."""
    rate = {name: statistics.median(values) for name, values in rates.items()}

    def ratio(a, b):
        return statistics.median(x / y for x, y in zip(rates[a], rates[b]))

    many = f"{cores} worker{'s'[: cores > 1]}"
    many_emulators = f"{cores} emulator{'s'[: cores > 1]}, no learner"
    rows = [(name, f"{value:.0f}", "steps a second") for name, value in rate.items()]
    rows += [
        ("1 worker / textbook", f"{ratio('1 worker', 'textbook loop'):.2f}", "times"),
        (f"{many} / textbook", f"{ratio(many, 'textbook loop'):.2f}", "times"),
        (f"{many} / {many_emulators}", f"{ratio(many, many_emulators):.0%}", ""),
        (
            "learner / emulator, 1 worker",
            f"{ratio('1 emulator, no learner', '1 worker') - 1:.0%}",
            "of the emulator's time a step",
        ),
        (
            f"parallel efficiency on {cores} cores",
            f"{ratio(many, '1 worker') / cores:.2f}",
            "of the speed of 1 worker a core",
        ),
        (
            "10 games on 10 cores, modelled",
            f"{sum(lengths) / len(lengths) / max(lengths):.2f}",
            "efficiency: mean / longest game; the longest is the limit",
        ),
    ]
    return rows


# ---- memory


class EndlessPong(pong_pg.Pong):
    """Starts the next game where one ends, so that what is played is cut at 10,000 steps."""

    def step(self, action, rng):
        reward, done = super().step(action, rng)
        if done:
            super().reset()
        return reward, False


def memory_of_a_worker():
    """Prints the resident memory of a process that plays as a worker does, as it goes on."""
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10

    def report(what):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        print(f"{what:34} {peak:6.0f} MB at most so far", flush=True)

    model = pong_pg.init_model(np.random.default_rng(SEED))
    report("imported")
    pong = EndlessPong()
    for i in range(3):
        played = pong_pg.play_game(pong, model, np.random.default_rng([SEED, i]))
        pong_pg.game_gradient(model, played, 0.99)
        report(f"{i + 1} x {len(played[3])} steps")
        del played
    pong = pong_pg.Pong()
    for i in range(1000):
        pong_pg.game_gradient(
            model, pong_pg.play_game(pong, model, np.random.default_rng([SEED, i])), 0.99
        )
        if (i + 1) % 250 == 0:
            report(f"and {i + 1} games")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", metavar="PATH", help="write the table here as well")
    count = pong_pg.limited(*pong_pg.NATURAL)
    parser.add_argument("--rounds", default=7, help="measured rounds (default: 7)", **count)
    parser.add_argument("--cores", default=CORES, help="workers at most", **count)
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    args = parser.parse_args()
    if args.memory and os.name != "posix":
        parser.error("--memory needs Linux or a Mac")
    try:
        run(args)
    except KeyboardInterrupt:
        sys.exit(130)
    except (pong_pg.UsageError, OSError) as error:
        parser.exit(1 if isinstance(error, OSError) else 2, f"benchmark: {error}\n")


def run(args):
    versions = pong_pg.in_a_line(pong_pg.versions())
    print(f"{versions}, {CORES} cores")
    if args.csv:
        open(args.csv, "a").close()  # what cannot be written shows now
    if args.memory:
        memory_of_a_worker()
        return
    rows = table(*measure(args.rounds, args.cores), args.cores)
    for what, value, note in rows:
        print(f"{what:36} {value:>8}  {note}")
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["what", "value", "unit", "versions"])
            writer.writerows([*row, versions] for row in rows)


if __name__ == "__main__":
    main()
