"""The tables of README.md and of other pages, made from the logs in results/.

A table stands between two lines of its page, and `python tools/figures.py tables` writes it there:

    <!-- table: minutes -->

    <!-- end -->
"""

import functools
import re
from itertools import zip_longest
from math import inf

import numpy as np

from pong_pg import UsageError
from tools.fast import measured
from tools.logs import (
    AGENT,
    BLOG_RATE,
    PPO,
    ROOT,
    by_million,
    changes,
    control,
    first_up_to,
    read_run,
    recipes,
    seed_of,
)

PAGES = "README.md", "results/README.md", "examples/README.md"
PLACE = re.compile(r"(<!-- table: (.+) -->\n)(?:(?!<!-- ).*\n)*(<!-- end -->)")
SCORES = (-15, -10, -5, 0)
GAMES = (250, 500, 1000, 1500, 2000, 2500, 3500)
read_once = functools.lru_cache(maxsize=None)(read_run)


# ---- one function a table -----------------------------------------------------------------------


def minutes_table(runs=None) -> str:
    """Minutes until the running mean came to SCORES: the median of the seeds, and their range."""
    rows = []
    for run in runs or [BLOG_RATE, *measured()]:
        logs = read_once(run)
        cells = [median_and_range([reached(log, s, "minutes") for log in logs]) for s in SCORES]
        label = run.label.replace(f" on {run.cores} cores", "")  # they have a column
        rows.append([f"{label}, {seeds(run)}", run.cores, *cells])
    return markdown(["minutes until", "cores", *map(str, SCORES)], rows)


def seeds_table(runs=None) -> str:
    """Games and minutes until the running mean came to SCORES, a row a log."""
    rows = []
    for run in runs or [BLOG_RATE, *recipes(), AGENT]:
        for path, log in zip(run.paths, read_once(run)):
            cells = []
            for score in SCORES:
                games, minutes = (reached(log, score, unit) for unit in ("games", "minutes"))
                cells.append("–" if games == inf else f"{games:,.0f} games, {minutes:.0f} min")
            rows.append([title(run._replace(paths=(path,))), *cells])
    return markdown(["until", *map(str, SCORES)], rows)


def normal_table(runs=None) -> str:
    """The running mean after GAMES games, a row a log."""
    rows = []
    for run in runs or [BLOG_RATE, *recipes(), AGENT]:
        for path, log in zip(run.paths, read_once(run)):
            means = dict(zip(log["games"], log["running_mean"]))
            cells = [f"{means[n]:.1f}" if n in means else "–" for n in GAMES]
            rows.append([title(run._replace(paths=(path,))), *cells])
    return markdown(["running mean after", *(f"{n:,} games" for n in GAMES)], rows)


def algorithms_table() -> str:
    """Million steps and minutes until REINFORCE and PPO came to SCORES."""
    rows = []
    for run in (BLOG_RATE, recipes()[0], AGENT, PPO):
        logs = read_once(run)
        name = run.label if run is PPO else f"REINFORCE, {run.label}"
        for unit, form in ("steps", "{:.1f}"), ("minutes", "{:.0f}"):
            what = "million steps" if unit == "steps" else "minutes"
            cells = [
                median_and_range([reached(log, s, unit) for log in logs], form) for s in SCORES
            ]
            rows.append([f"{name}: {what}", *cells])
    return markdown(["until", *map(str, SCORES)], rows)


def changes_table(unchanged=None, runs=None) -> str:
    """Mean score in each million steps; bold where no seed is within the unchanged method's.

    It ends with the shortest log of a change.
    """
    runs = runs or changes()
    most = min(len(by_million(log)) for run in runs for log in read_once(run))
    unchanged = unchanged or [recipes()[0], control()]
    scores = [by_million(log)[:most] for run in unchanged for log in read_once(run)]
    columns = [[s for s in column if s is not None] for column in zip_longest(*scores)]
    ranges = [(min(found), max(found)) for found in columns]
    label = ", ".join(seeds(run).replace("seeds ", "") for run in unchanged)
    cells = [f"{low:.1f} to {high:.1f}" for low, high in ranges]
    rows = [[f"the method unchanged, seeds {label}", *cells]]
    for run in runs:
        row = [title(run)]
        for found, (low, high) in zip(zip(*map(by_million, read_once(run))), ranges):
            lowest, highest = (round(score, 1) for score in (min(found), max(found)))
            outside = highest < round(low, 1) or lowest > round(high, 1)  # as they are printed
            row.append(f"**{np.mean(found):.1f}**" if outside else f"{np.mean(found):.1f}")
        rows.append(row)
    return markdown(["mean score by million steps", *map(str, range(1, most + 1))], rows)


TABLES: dict = {
    "minutes": minutes_table,
    "seeds": seeds_table,
    "normal": normal_table,
    "algorithms": algorithms_table,
    "changes": changes_table,
}


# ---- what they share ----------------------------------------------------------------------------


def reached(log, score, unit) -> float:
    """What `unit` of a log was when its running mean first came up to `score`; inf: it did not."""
    row = first_up_to(score, log["running_mean"])
    return inf if row is None else log[unit][row]


def median_and_range(values, form="{:.0f}") -> str:
    """36.0, 32.0, 47.0 -> "36 (32 to 47)". A value that is inf becomes a dash."""
    low, median, high = (
        "–" if value == inf else form.format(value)
        for value in (min(values), np.median(values), max(values))
    )
    return median if low == high else f"{median} ({low} to {high})"


def seeds(run) -> str:
    """Such as "seeds 10 to 12", of the logs of a run."""
    numbers = [seed_of(path) for path in run.paths]
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    return f"seeds {numbers[0]} {'and' if len(numbers) == 2 else 'to'} {numbers[-1]}"


def title(run) -> str:
    """What a run is, and its seeds where the names of its logs tell them."""
    return f"{run.label}, {seeds(run)}" if seed_of(run.paths[0]) else run.label


def markdown(head, rows) -> str:
    """Cells -> the lines of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


# ---- pages --------------------------------------------------------------------------------------


def write_tables(pages=None):
    """Writes the tables of the pages in place. Raises UsageError, OSError."""
    for page in pages or [ROOT / name for name in PAGES]:
        text = page.read_text(encoding="utf-8")
        filled = fill(text, page.name)
        if filled != text:
            page.write_text(filled, encoding="utf-8")


def fill(text, name) -> str:
    """The text of a page with its tables as they should be. Raises UsageError."""
    unknown = {found[1] for found in PLACE.findall(text)} - set(TABLES)
    if unknown:
        raise UsageError(f"{name}: no table is called {min(unknown)}: expected {', '.join(TABLES)}")
    if len(PLACE.findall(text)) < text.count("<!-- table:"):
        raise UsageError(f"{name}: a table lacks its last line, <!-- end -->")
    return PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n{place[3]}", text)
