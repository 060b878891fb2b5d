"""How fast is the trainer, and what of it is the emulator's? A table, against the textbook loop.

    python tools/benchmark.py                  # the table, in under three minutes
    python tools/benchmark.py --csv bench.csv  # and as a file
    python tools/benchmark.py --memory         # of a worker: a game of 10,000 steps, 1,000 games

Every row is measured in every round, one after the other, and the median of the rounds counts: on a
machine that others use too, only the ratios mean something.
"""

import argparse
import csv
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pong_pg

SEED = 0
GAMES = 10  # of a round: one batch
CORES = pong_pg.parse_arguments([]).workers


# ---- the textbook: dense float64 numpy, one process, Gym's own Pong-v0, BLAS as numpy has it


def textbook_prepro(image):
    image = image[35:195]
    image = image[::2, ::2, 0].copy()
    image[image == 144] = 0
    image[image == 109] = 0
    image[image != 0] = 1
    return image.astype(np.float64).ravel()


def textbook_batch(env, model, cache):
    """Plays and learns a batch of games. Gives the number of steps."""
    rng = np.random.default_rng(SEED)
    grad_buffer = {name: np.zeros_like(w) for name, w in model.items()}
    steps = 0
    for _ in range(GAMES):
        xs, hs, dlogps, drs = [], [], [], []
        observation, previous, done = first_frame(env), None, False
        while not done:
            current = textbook_prepro(observation)
            x = current - previous if previous is not None else np.zeros(pong_pg.D)
            previous = current
            h = np.dot(model["W1"], x)
            h[h < 0] = 0
            p = 1.0 / (1.0 + np.exp(-np.dot(model["W2"], h)))
            action = 2 if rng.random() < p else 3
            observation, reward, done = env.step(action)[:3]
            xs.append(x)
            hs.append(h)
            dlogps.append((action == 2) - p)
            drs.append(reward)
        epx, eph, epdlogp = np.vstack(xs), np.vstack(hs), np.array(dlogps)
        discounted, running_add = np.zeros(len(drs)), 0.0
        for t in reversed(range(len(drs))):
            if drs[t] != 0:
                running_add = 0.0
            running_add = running_add * 0.99 + drs[t]
            discounted[t] = running_add
        discounted -= np.mean(discounted)
        discounted /= np.std(discounted)
        epdlogp *= discounted
        grad_buffer["W2"] += np.dot(eph.T, epdlogp)
        dh = np.outer(epdlogp, model["W2"])
        dh[eph <= 0] = 0
        grad_buffer["W1"] += np.dot(dh.T, epx)
        steps += len(drs)
    for name in model:
        cache[name] = 0.99 * cache[name] + 0.01 * grad_buffer[name] ** 2
        model[name] += 0.0 * grad_buffer[name] / (np.sqrt(cache[name]) + 1e-5)
    return steps


def first_frame(env):
    first = env.reset()
    return first[0] if isinstance(first, tuple) else first


# ---- ours, and the emulator with no learner


def our_batch(workers, model, cache):
    lengths = []
    buffer = {name: np.zeros(w.shape, order="F") for name, w in model.items()}
    for game in workers.play(model, [(SEED, k) for k in range(GAMES)], 0.99):
        moved, dW1, dW2 = game.gradient
        buffer["W1"].T[moved] += dW1
        buffer["W2"] += dW2
        lengths.append(game.steps)
    pong_pg.rmsprop_update(model, buffer, cache, 0.0, 0.99)  # a rate of 0: the same games each time
    return sum(lengths), lengths


def emulate(games):
    """Plays games at random with our chance, reads their frames in RGB as Gym does, learns nothing.

    Gives the number of their steps.
    """
    pong, rgb, steps = pong_pg.open_pong(False, 0), np.empty((210, 160, 3), np.uint8), 0
    for k in games:
        rng, done = np.random.default_rng([SEED, k]), False
        pong.reset()
        while not done:
            _, done = pong.step(2 if rng.random() < 0.5 else 3, rng)
            pong.ale.getScreenRGB(rgb)
            steps += 1
    return steps


def emulate_on(pool, count):
    shares = [range(i, GAMES, count) for i in range(count)]
    return sum(pool.map(emulate, shares))


def measure(rounds, cores):
    """Steps a second of every row in every round, and the lengths of the games."""
    rng = np.random.default_rng(SEED)
    model = pong_pg.init_model(rng)
    dense = {name: np.ascontiguousarray(w) for name, w in model.items()}
    cache = {name: np.zeros_like(w) for name, w in model.items()}
    dense_cache = {name: np.zeros_like(w) for name, w in dense.items()}
    env, lengths = pong_pg.make_pong(), []
    spawn = multiprocessing.get_context("spawn")
    workers = {n: pong_pg.Workers(n) for n in {1, cores}}
    pools = {n: ProcessPoolExecutor(n, spawn) for n in {1, cores}}

    def ours(n):
        steps, lengths[:] = our_batch(workers[n], model, cache)
        return steps

    rows = {"textbook loop": lambda: textbook_batch(env, dense, dense_cache)}
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
    """Rows (what, value, note)."""
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
        report(f"{i + 1} x {len(played[-1])} steps")
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
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (default: 7)")
    parser.add_argument("--cores", type=int, default=CORES, help="workers at most")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    args = parser.parse_args()
    print(pong_pg.versions() + f", {CORES} cores")
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
            writer.writerows([*row, pong_pg.versions()] for row in rows)


if __name__ == "__main__":
    main()
