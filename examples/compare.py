"""REINFORCE and PPO from the same pixels: docs/algorithms.png, and the table under it in Markdown.

    python examples/compare.py docs/default.csv docs/seed1?.csv docs/save.csv docs/ppo-seed?.csv

The logs are those of `--log`; what is named ppo* is of with_ppo.py. matplotlib draws.
"""

import argparse
import io
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
from figures import SCORES, SPEED, first_up_to, minutes, pong_pg, read_log, write

COLOURS = {"REINFORCE": "#0072B2", "PPO": "#D55E00"}
SPEEDS = {"REINFORCE": SPEED, "PPO": 7200}  # steps a second of two workers on two cores


def algorithm(path) -> str:
    return "PPO" if os.path.basename(path).startswith("ppo") else "REINFORCE"


def draw(logs, out, ends):
    """The running mean of each log against games and against million steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.8), dpi=200, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    units = ("games", "games played"), ("steps", "million steps of the environment")
    for axes, (unit, what), end in zip(panels, units, ends):
        for path, log in logs.items():
            colour = COLOURS[algorithm(path)]
            axes.plot(log[unit], log["running_mean"], lw=1.5, color=colour)
        axes.axhline(0, color="black", lw=1, ls="--", zorder=1)
        axes.set(xlabel=what, xlim=(0, end), ylim=(-21.5, 21.5), yticks=range(-21, 22, 7))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("running mean of the score")
    for name, colour in COLOURS.items():
        panels[0].plot([], [], lw=3, color=colour, label=name)
    panels[0].legend(loc="upper left", fontsize=9, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write(out, picture.getvalue())


def print_table(logs):
    """Games, steps and minutes until the running mean of each log came to SCORES."""
    print("| | " + " | ".join(f"{score:+}" for score in SCORES) + " |")
    print("|---" * (len(SCORES) + 1) + "|")
    for path, log in logs.items():
        name, cells = algorithm(path), []
        for score in SCORES:
            at = first_up_to(score, log["running_mean"])
            if at is None:
                cells.append("")
            else:
                million = log["steps"][at]
                time = minutes(million, SPEEDS[name])
                cells.append(f"{at + 1:,} games, {million:.1f}M steps, {time}")
        print(f"| {name}, {os.path.basename(path)} | " + " | ".join(cells) + " |")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="REINFORCE and PPO in one picture and one table.")
    flag = parser.add_argument
    flag("logs", metavar="LOG", nargs="+", help="a CSV file of --log; PPO's is named ppo*")
    flag("--out", metavar="PATH", default="docs/algorithms.png", help="the picture")
    flag("--games", metavar="N", type=float, default=5500, help="where the left axis ends")
    flag("--steps", metavar="M", type=float, default=28, help="where the right one ends: millions")
    args = parser.parse_args(argv)
    try:
        logs = {path: read_log(path) for path in args.logs}
        draw(logs, args.out, (args.games, args.steps))
    except ImportError:
        parser.exit(2, f"{parser.prog}: matplotlib is missing: pip install matplotlib\n")
    except (pong_pg.UsageError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print_table(logs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
