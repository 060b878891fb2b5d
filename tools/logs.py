"""What `pong_pg.py --log` wrote: how to read it, and how long such a run takes on C cores.

The runs of results/ share their cores with other work, so their clocks say little. Minutes are
worked out instead: the games of a batch are handed out in order, each to the first worker that is
free, and the batch is done when its last game is. A log has each game's steps; the number of games
in a batch is in the name of its file, and one worker's speed was measured.
"""

import csv
import heapq
import re
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from pong_pg import UsageError
from tools.change import CHANGES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
COLUMNS = ["episode", "reward", "running_mean", "steps", "seconds"]
NAME = re.compile(r"cores-(\d+)-batch-(\d+)-seed-(\d+)\.csv")  # of a log of the fast recipes

# Steps a second of one worker while every core has one. Two workers play 8,800 a second with a
# batch of 2, and 1.85 of the two are busy: the other waits for the longer game.
SPEED = 4750
PPO_SPEED = 3600  # of examples/with_ppo.py, each core's share of it; the updates are counted in


class Run(NamedTuple):
    """Logs of one set of commands, each of another seed."""

    label: str
    paths: tuple
    cores: int = 2
    batch: Optional[int] = 10  # games; None: no worker waits for another
    speed: float = SPEED  # steps a second of one worker


BLOG_RATE = Run("blog post's learning rate", (RESULTS / "blog-rate-seed-1.csv",))
AGENT = Run("the agent that ships", (RESULTS / "agent.csv",))
GREY = Run("grey frames of the whole screen", (RESULTS / "change-grey-seed-10.csv",), batch=2)
PPO_LOGS = tuple(RESULTS / f"ppo-seed-{seed}.csv" for seed in (1, 2, 3))
PPO = Run("PPO", PPO_LOGS, batch=None, speed=PPO_SPEED)


def recipes(folder=RESULTS) -> list:
    """The runs of the fast recipes whose logs are in `folder`, by their number of cores."""
    found: dict = {}
    for path in Path(folder).glob("cores-*.csv"):
        numbers = NAME.fullmatch(path.name)
        if not numbers:
            raise UsageError(f"{path}: expected a name like cores-8-batch-8-seed-10.csv")
        cores, batch, seed = map(int, numbers.groups())
        found.setdefault((cores, batch), []).append((seed, path))
    runs = []
    for (cores, batch), logs in sorted(found.items()):
        paths = tuple(path for _, path in sorted(logs))
        runs.append(Run(f"fast recipe on {cores} cores", paths, cores, batch))
    return runs


def changes(folder=RESULTS) -> list:
    """The runs of copies with a change whose logs are in `folder`, in the order of their page.

    They play the fast recipe for two cores. A log is called change-NAME-seed-S.csv.
    """
    runs = []
    for name, title in CHANGES.items():
        paths = tuple(sorted(Path(folder).glob(f"change-{name}-seed-*.csv")))
        if paths:
            runs.append(Run(title, paths, batch=2))
    return runs


def control(folder=RESULTS) -> Run:
    """The runs of the fast recipe for two cores on seeds on which nothing was chosen."""
    paths = tuple(sorted(Path(folder).glob("change-none-seed-*.csv")))
    return Run("the method unchanged, other seeds", paths, batch=2)


def by_million(log) -> list:
    """The mean score of the games that ended in each whole million steps of a log."""
    million = np.ceil(log["steps"])
    return [log["score"][million == n].mean() for n in range(1, int(log["steps"][-1]) + 1)]


def seed_of(path) -> str:
    """The seed in a log's name: "10" of cores-2-batch-2-seed-10.csv, and "" where it has none."""
    found = re.search(r"seed-(\d+)\.csv$", str(path))
    return found[1] if found else ""


def read_run(run, most=None) -> list:
    """What `read_log` gives of each log of a run, and minutes: so far, on the run's cores."""
    logs = [read_log(path, most) for path in run.paths]
    for log in logs:
        log["minutes"] = minutes_on(run.cores, log["length"], run.batch, run.speed)
    return logs


def read_log(path, most=None) -> dict:
    """A log's columns as arrays (T,) of its first `most` games. Raises UsageError.

    length: each game's steps; score, running_mean; and so far: games, steps (in millions), hours.
    A last line without an end does not count: the run may be writing it.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # a spreadsheet adds a mark
            whole = (line for line in file if line.endswith("\n") and line.strip())
            header, *rows = list(csv.reader(whole)) or [[]]
        known = set(COLUMNS) <= set(header)  # there may be more, of a changed script
        if not known or not rows or any(len(row) != len(header) for row in rows):
            raise ValueError(f"expected columns {','.join(COLUMNS)} and a row a game")
        places = [header.index(name) for name in COLUMNS]
        numbers = [[row[place] for place in places] for row in rows]
        episode, score, running_mean, length, seconds = columns = np.array(numbers, np.float64).T
        if not np.isfinite(columns).all():
            raise ValueError("it has numbers that are not finite")
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is not a log of pong_pg.py: {error}") from None
    log = {
        "games": episode + 1,
        "score": score,
        "running_mean": running_mean,
        "length": length,
        "steps": np.cumsum(length) / 1e6,
        "hours": seconds / 3600,
    }
    return {name: values[:most] for name, values in log.items()}


def minutes_on(cores, lengths, batch, speed=SPEED) -> np.ndarray:
    """Games of `lengths` steps (T,) -> when the batch of each is done: minutes (T,) float64.

    `cores` workers play, each `speed` steps a second.
    """
    if batch is None:
        return np.cumsum(lengths) / (cores * speed * 60)
    done, steps = np.empty(len(lengths)), 0.0
    for start in range(0, len(lengths), batch):
        free = [0.0] * min(cores, batch)  # when each worker is free
        for length in lengths[start : start + batch]:
            heapq.heapreplace(free, free[0] + length)
        steps += max(free)
        done[start : start + batch] = steps
    return done / (speed * 60)


def first_up_to(score, mean):
    """The row at which a running mean comes up to `score` for the first time, or None.

    That it starts there, with the score of a first game, does not count.
    """
    below = mean < score
    up = (below[:-1] & ~below[1:]).nonzero()[0] + 1
    return up[0] if len(up) else None


def spread(logs, unit):
    """(x, lowest, median and highest running mean at x) of logs, as far as all of them go.

    A median over fewer and fewer runs would jump where one of them ends. Raises UsageError.
    """
    if len(logs) == 1:
        return (logs[0][unit], *[logs[0]["running_mean"]] * 3)
    x = np.unique(np.concatenate([log[unit] for log in logs]))
    x = x[(x >= max(log[unit][0] for log in logs)) & (x <= min(log[unit][-1] for log in logs))]
    if not len(x):
        raise UsageError(f"a band needs logs that have {unit} in common")
    means = []
    for log in logs:
        last = np.append(np.diff(log[unit]) > 0, True)  # hours and minutes are those of a batch
        means.append(np.interp(x, log[unit][last], log["running_mean"][last]))
    return x, np.min(means, axis=0), np.median(means, axis=0), np.max(means, axis=0)
