"""Trains to an even score as fast as the cores of this machine allow.

    python tools/fast.py              # the recipe for this machine's cores, until Ctrl-C
    python tools/fast.py              # the same again: goes on where it was stopped
    python tools/fast.py --dry-run    # only says which commands it would run, and how long
    python tools/fast.py --seed 10    # this and other flags of pong_pg.py go to every command

A recipe is two or three commands of pong_pg.py, one after the other. Its checkpoint is fast.p and
its log fast.csv, so that the save.p that is here stays as it is. The agent plays in a window with
`python pong_pg.py --evaluate 1 --render --save fast.p`.
"""

import argparse
import os
import sys
from math import inf
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pong_pg
from pong_pg import UsageError
from tools.logs import first_up_to, minutes_on, read_log, recipes

# Cores -> legs: how many games each plays (None: until it is stopped), and its flags. More games in
# a batch need a larger learning rate, for there are fewer updates, and a shorter memory of RMSProp.
BATCH_OF_2 = [
    (800, "--batch-size 2 --learning-rate 2e-3 --decay-rate 0.9"),
    (2500, "--learning-rate 1e-3 --gamma 0.998 --decay-rate 0.95"),
    (None, "--learning-rate 3e-4 --gamma 0.99"),
]
BATCH_OF_8 = [
    (800, "--batch-size 8 --learning-rate 2.8e-3 --decay-rate 0.8"),
    (5504, "--learning-rate 1.4e-3 --gamma 0.998 --decay-rate 0.9"),
    (None, "--learning-rate 7e-4 --decay-rate 0.95"),
]
BATCH_OF_16 = [
    (800, "--batch-size 16 --learning-rate 4e-3 --decay-rate 0.64"),
    (None, "--learning-rate 2e-3 --gamma 0.998 --decay-rate 0.81"),
]
RECIPES = {2: BATCH_OF_2, 4: BATCH_OF_8, 8: BATCH_OF_8, 16: BATCH_OF_16}

SET_HERE = "batch_size", "learning_rate", "gamma", "decay_rate", "episodes", "evaluate"


def choose(cores: int) -> int:
    """The recipe for a machine: the one for as many cores, or else for fewer."""
    return max([n for n in RECIPES if n <= cores], default=min(RECIPES))


def commands(recipe: int, games: float) -> list:
    """The flags of pong_pg.py, a list for each leg that is not over after so many games."""
    found: list = []
    end: float = 0  # of the leg
    for length, flags in RECIPES[recipe]:
        end = inf if length is None else end + length
        if games < end:
            resume = ["--resume"] if games else []
            until = [] if end == inf else ["--episodes", str(end - games)]
            found.append([*resume, *until, *flags.split()])
            games = end
    return found


def measured() -> list:
    """The runs in results/ as they are on each number of cores that has a recipe."""
    return [
        run._replace(cores=cores, label=f"fast recipe on {cores} cores")
        for cores, legs in RECIPES.items()
        for run in recipes()
        if RECIPES.get(run.cores) == legs
    ]


def begun(path, recipe: int) -> int:
    """The games that a checkpoint has played, or 0 where there is none. Raises UsageError."""
    if not os.path.exists(path):
        return 0
    state = pong_pg.load_checkpoint(path)[1]
    games, batch = state.games, state.hyperparameters.batch_size
    expected = pong_pg.parse_arguments(commands(recipe, 0)[0]).batch_size
    if batch != expected:
        what = f"{path} has batches of {batch} games, and the recipe for {recipe} cores {expected}"
        raise UsageError(f"{what}: --save NEW.p begins anew")
    return games


def forecast(recipe: int, cores: int, games: int) -> str:
    """How long it is to an even score after so many games, by the recipe's logs in results/."""
    left = []
    for run in measured():
        if run.cores == recipe:
            for log in map(read_log, run.paths):
                even = first_up_to(0, log["running_mean"])
                minutes = minutes_on(cores, log["length"], run.batch)
                if even is not None and games <= even:
                    left.append(minutes[even] - (minutes[games - 1] if games else 0))
    if not left:
        return "no run was measured from here to an even score"
    told = f"{min(left):.0f} to {max(left):.0f}, by the logs of {len(left)} seeds"
    if len(left) == 1:
        told = "by the log of one seed"
    return f"some {np.median(left):.0f} minutes to an even score ({told})"


def parse_arguments(argv=None):
    """(our flags, the flags that go to pong_pg.py)"""
    text = "Train to an even score as fast as this machine's cores allow. Other flags (--seed N, "
    text += "--quiet, --workers N) are those of pong_pg.py."
    parser = argparse.ArgumentParser(description=text, allow_abbrev=False)
    parser.error = lambda text: parser.exit(2, f"fast: {text} (--help shows the flags)\n")
    cores = pong_pg.parse_arguments([]).workers
    flag = parser.add_argument
    flag("--cores", metavar="N", type=int, default=cores, help=f"default: the {cores} found here")
    flag("--dry-run", action="store_true", help="only say what would be run")
    flag("--save", metavar="PATH", default="fast.p", help="the checkpoint (default: fast.p)")
    flag("--log", metavar="PATH", help="a row a game (default: fast.csv, as the checkpoint)")
    args, flags = parser.parse_known_args(argv)
    args.log = args.log or os.path.splitext(args.save)[0] + ".csv"
    if args.cores < 1:
        parser.error(f"--cores {args.cores}: expected 1 or more")
    others = pong_pg.parse_arguments(flags)
    for name in SET_HERE:
        if getattr(others, name) is not None:
            name = f"--{name.replace('_', '-')}"
            parser.error(f"{name} does not go with a recipe: python pong_pg.py {name} ...")
    return args, flags


def main(argv=None) -> int:
    args, flags = parse_arguments(argv)
    pong_pg.prepare_output()
    try:
        return train(args, flags)
    except BrokenPipeError:
        return pong_pg.output_goes_nowhere()


def train(args, flags) -> int:
    """Says what is to come, and runs what is left of the recipe. Returns the exit status."""
    recipe = choose(args.cores)
    try:
        games = begun(args.save, recipe)
        print(f"recipe for {recipe} cores, {games:,} games played: ", end="")
        print(forecast(recipe, args.cores, games))
    except (UsageError, pong_pg.CheckpointError) as error:
        print(f"fast: {error}", file=sys.stderr)
        return 2
    for leg in commands(recipe, games):
        leg += ["--save", args.save, "--log", args.log, *flags]
        print(pong_pg.command(*leg))
        status = 0 if args.dry_run else pong_pg.main(leg)
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
