"""The pictures of README.md: the learning curve, what the network has learnt, and a game.

    python tools/figures.py curve docs/save.csv         # of what pong_pg.py --log wrote
    python tools/figures.py curve docs/seed10.csv,docs/seed11.csv    # with a band
    python tools/figures.py table docs/save.csv         # how long it took, as Markdown
    python tools/figures.py weights                     # of save.p
    python tools/figures.py game --seed 1 --points 2    # save.p plays

matplotlib draws the curve and Pillow the others; training needs neither.
"""

import argparse
import contextlib
import csv
import functools
import importlib
import io
import itertools
import os
import struct
import sys
from math import inf
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pong_pg
from pong_pg import UsageError

# Okabe and Ito, "Color Universal Design" (2008): colour-blind readers can tell these apart
ORANGE, SKY, GREEN = 0xE69F00, 0x56B4E9, 0x009E73
BLUE, VERMILION, PURPLE = 0x0072B2, 0xD55E00, 0xCC79A7


# ---- learning curve -----------------------------------------------------------------------------

LOG_COLUMNS = ["episode", "reward", "running_mean", "steps", "seconds"]


def draw_curve(args):
    """Scores and running mean of each log, against games and against hours, as a PNG.

    Logs that a comma joins are one curve: the median of their running means in a band from the
    lowest to the highest.
    """
    mpl = need("matplotlib", "matplotlib.figure")
    paths = [[text] if os.path.exists(text) else text.split(",") for text in args.logs]
    groups = [[read_log(path, args.games) for path in group] for group in paths]
    names = [", ".join(Path(path).name for path in group) for group in paths]
    if len(set(names)) < len(names):
        names = args.logs
    units = {"games": "games played", "hours": "hours of training", "steps": "million steps"}
    curves = {unit: [spread(logs, unit) for logs in groups] for unit in units}
    figure = mpl.Figure((9, 3.8), dpi=200, layout="constrained")
    title = {
        "each dot is a game, the line the running mean": 1 in map(len, paths),
        "several runs: the median of their running means, in a band from the lowest to the highest":
            max(map(len, paths)) > 1,
    }  # fmt: skip
    figure.suptitle("\n".join(text for text in title if title[text]), fontsize=9, color="0.3")
    panels = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    for axes, unit in zip(panels, ("games", args.against)):
        colours = itertools.cycle([BLUE, VERMILION, PURPLE, GREEN])
        for logs, name, curve, colour in zip(groups, names, curves[unit], colours):
            (x, low, mean, high), colour = curve, f"#{colour:06x}"
            if len(logs) == 1:
                alpha = min(0.5, max(0.1, 1000 / len(x))) / len(groups)
                style = {"ms": 2.5, "mew": 0, "alpha": alpha, "color": colour, "zorder": 1}
                axes.plot(x, logs[0]["score"], ".", **style)
            else:
                axes.fill_between(x, low, high, color=colour, alpha=0.3, lw=0, zorder=2)
            axes.plot(x, mean, lw=2, color=colour, zorder=3, label=name)
            even = first_up_to(0, mean)
            if even is not None:
                axes.plot(x[even], 0, "o", ms=7, mfc="white", mew=2, color=colour, zorder=4)
                if len(groups) == 1:  # the text stands where the curve does not
                    text = f"even after {x[even]:,.{0 if unit == 'games' else 2}f} {unit}"
                    early = x[even] < x[-1] / 2
                    at, ha = ((6, -16), "left") if early else ((-6, 8), "right")
                    style = {"textcoords": "offset points", "fontsize": 9, "zorder": 5}
                    axes.annotate(text, (x[even], 0), at, ha=ha, **style)
        axes.axhline(0, color="black", lw=1, ls="--", zorder=2)
        axes.set(xlabel=units[unit], ylim=(-22, 22), yticks=range(-21, 22, 7))
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("score of a game (points)")
    beside = panels[1].get_yaxis_transform()
    panels[1].text(1.01, 0, "even\nscore", transform=beside, va="center", fontsize=9)
    if len(groups) > 1 or len(groups[0]) > 1:
        panels[0].legend(loc="upper left", fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write(args.out, picture.getvalue())
    for i, name in enumerate(names):
        ends, evens = [], []
        for unit, digits in ("games", 0), ("hours", 2):
            x, _, mean, _ = curves[unit][i]
            ends.append(f"{x[-1]:,.{digits}f} {unit}")
            if first_up_to(0, mean) is not None:
                evens.append(f"{x[first_up_to(0, mean)]:,.{digits}f} {unit}")
        print(f"{name}: {', '.join(ends)}; even after: {', '.join(evens) or 'not yet'}")


def spread(logs, unit):
    """(x, lowest, median and highest running mean at x) of logs, as far as all of them go.

    A median over fewer and fewer runs would jump where one of them ends.
    """
    if len(logs) == 1:
        return (logs[0][unit], *[logs[0]["running_mean"]] * 3)
    x = np.unique(np.concatenate([log[unit] for log in logs]))
    x = x[(x >= max(log[unit][0] for log in logs)) & (x <= min(log[unit][-1] for log in logs))]
    if not len(x):
        raise UsageError(f"a band needs logs that have {unit} in common")
    means = [np.interp(x, log[unit], log["running_mean"]) for log in logs]
    return x, np.min(means, axis=0), np.median(means, axis=0), np.max(means, axis=0)


def read_log(path, most=None) -> dict:
    """A log's games, hours and million steps so far, score, running_mean: arrays. UsageError.

    At most its first `most` games. A last line without an end does not count: the run may be
    writing it.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(line for line in file if line.endswith("\n"))
        if header != LOG_COLUMNS or not rows or any(len(row) != len(header) for row in rows):
            raise ValueError(f"expected columns {','.join(LOG_COLUMNS)} and a row a game")
        episode, score, running_mean, steps, seconds = columns = np.array(rows, np.float64).T
        if not np.isfinite(columns).all():
            raise ValueError("it has numbers that are not finite")
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is not a log of pong_pg.py: {error}") from None
    x = {"games": episode + 1, "hours": seconds / 3600, "steps": np.cumsum(steps) / 1e6}
    log = {**x, "score": score, "running_mean": running_mean}
    return {name: values[:most] for name, values in log.items()}


def first_up_to(score, mean):
    """The row at which a running mean comes up to `score` for the first time, or None.

    That it starts there, with the score of a first game, does not count.
    """
    below = mean < score
    up = (below[:-1] & ~below[1:]).nonzero()[0] + 1
    return up[0] if len(up) else None


SCORES = (-19, -15, -10, -5, 0)
GAMES = (250, 500, 1000, 1500, 2000, 2500, 3500)
SPEED = 8800  # steps a second of two workers with a batch of 2; 9,600 with one of 10


def print_table(args):
    """When the running mean of each log reached SCORES, and what it was after GAMES games."""
    print("| log | " + " | ".join(f"{score:+}" for score in SCORES) + " |")
    print("|---" * (len(SCORES) + 1) + "|")
    for path in args.logs:
        log, cells = read_log(path), []
        for score in SCORES:
            at = first_up_to(score, log["running_mean"])
            cells.append("" if at is None else f"{at + 1:,} games, {minutes(log['steps'][at])}")
        print(f"| {Path(path).name} | " + " | ".join(cells) + " |")
    print()
    print("| after games | " + " | ".join(f"{games:,}" for games in GAMES) + " |")
    print("|---" * (len(GAMES) + 1) + "|")
    for path in args.logs:
        mean = read_log(path)["running_mean"]
        cells = [f"{mean[games - 1]:.1f}" if games <= len(mean) else "" for games in GAMES]
        print(f"| {Path(path).name} | " + " | ".join(cells) + " |")


def minutes(million_steps, speed=SPEED) -> str:
    return f"{million_steps * 1e6 / speed / 60:.0f} min"


# ---- weights ------------------------------------------------------------------------------------

COLUMNS, ROWS = 5, 4  # of the grid
SCALE, GAP, HEAD = 2, 3, 42  # pixels: of a weight, between units, above them


def draw_weights(args):
    """What the strongest hidden units look for, as a PNG. Blog post, "Learned weights"."""
    image = need("Pillow", "PIL.Image")
    model, _ = pong_pg.load_checkpoint(args.save)
    units, cell = strongest_first(model)[: COLUMNS * ROWS], 80 * SCALE + GAP
    page = np.full((HEAD + ROWS * cell, COLUMNS * cell + GAP, 3), 255, np.uint8)
    page[HEAD - GAP :] = 128
    for line, text in enumerate((
        f"the {len(units)} strongest of {pong_pg.H} hidden units: their 80x80 incoming weights",
        "strongest first, by |W2| times the norm of W1's row; blue is below 0, orange above",
    )):  # fmt: skip
        letters = lettering(text, 14)[:, : page.shape[1] - GAP, None]
        page[18 * line :][: len(letters), GAP : GAP + letters.shape[1]] -= letters
    for i, unit in enumerate(units):
        y, x = HEAD + i // COLUMNS * cell, GAP + i % COLUMNS * cell
        page[y : y + 80 * SCALE, x : x + 80 * SCALE] = unit_image(model["W1"][unit])
    picture = io.BytesIO()
    image.fromarray(page).save(picture, "PNG")
    write(args.out, picture.getvalue())
    print(f"{args.out}: hidden units {' '.join(map(str, units))}")


def strongest_first(model) -> np.ndarray:
    """The numbers of the hidden units by |W2_i| ||W1_i||, which bounds how far one moves p(up)."""
    return np.argsort(-np.abs(model["W2"]) * np.linalg.norm(model["W1"], axis=1), kind="stable")


def unit_image(w: np.ndarray) -> np.ndarray:
    """Weights (6400,) -> (80 SCALE, 80 SCALE, 3) uint8: 0 is white, -max blue, max orange."""
    w = enlarge(w.reshape(80, 80) / (np.abs(w).max() or 1), SCALE)[:, :, None]
    full = np.where(w < 0, rgb(BLUE), rgb(VERMILION))
    return np.rint(255 + np.abs(w) * (full - 255.0)).astype(np.uint8)


# ---- a game -------------------------------------------------------------------------------------

MOST_BYTES = 3_000_000  # of a GIF
HOLD = 100  # hundredths of a second that its last picture stays
AFTERMATH = 10  # steps that follow the last point: only then the game shows its new score
WIDTH, HEIGHT, VIEW, BAR = 728, 420, 336, 668  # of a picture; where things begin in it
FIELD = slice(70, 390)  # its rows that prepro crops from the game
SHADES, GONE, NEUTRAL, APPEARED, P_UP = 8, 8, 9, 10, 11  # numbers of colours; letters have shades
COLOURS = [0x111111 + 0x1F1F1F * i for i in range(SHADES)] + [SKY, 0x383838, ORANGE, GREEN]
CLEAR = 255  # number of the colour that leaves a pixel as it was


class FilmedPong(pong_pg.Pong):
    """A Pong that keeps what is seen from step `first` on, and ends when that is enough."""

    def __init__(self, first: int, steps: float, points: float):
        super().__init__()
        self.first, self.last, self.points = first, first + steps, points
        self.colours = list(COLOURS)  # 0xRRGGBB
        self.shots = []  # before each step and at the end: (emulator frame, input, colour numbers)

    def reset(self):
        super().reset()
        self.now, self.steps = self.prepro(), 0
        self.keep()

    def step(self, action, rng):
        reward, over = super().step(action, rng)
        self.points -= reward != 0 and self.steps >= self.first
        self.steps += 1
        if reward != 0 and self.points == 0:
            self.last = self.steps + AFTERMATH
        self.keep()
        return reward, over or self.steps >= self.last

    def keep(self):
        before, self.now = self.now, self.prepro()
        if self.steps >= self.first:
            codes = self.ale.getScreenRGB() @ np.array([1 << 16, 1 << 8, 1])
            found = np.unique(codes).tolist()
            self.colours += [code for code in found if code not in self.colours]
            numbers = np.array([self.colours.index(code) for code in found], np.uint8)
            pixels = numbers[np.searchsorted(found, codes)]
            self.shots.append((self.ale.getEpisodeFrameNumber(), self.now - before, pixels))


def draw_game(args):
    """Game 0 of `--evaluate --seed N` or a part of it, what the network sees and does, as a GIF."""
    need("Pillow", "PIL.Image")
    model, _ = pong_pg.load_checkpoint(args.save)
    steps = args.steps or (inf if args.points else 400)
    pong = FilmedPong(args.first, steps, args.points or inf)
    rewards = pong_pg.play_game(pong, model, np.random.default_rng([args.seed, 0, 1]))[-1]
    if args.first >= len(rewards):
        raise UsageError(f"--from {args.first}: this game is over after step {len(rewards) - 1}")
    scores = np.array([[0, 0], *([r < 0, r > 0] for r in rewards)]).cumsum(axis=0)[args.first :]
    pictures = (
        compose(pixels, x, pong_pg.policy_forward(model, x)[0], score)
        for (_, x, pixels), score in zip(pong.shots, scores)
    )
    times = np.array([shot[0] - pong.shots[0][0] for shot in pong.shots]) / 60  # seconds
    gif, count = animate(pictures, np.diff(np.rint(100 * times)).astype(int), pong.colours)
    write(args.out, gif)
    if count < len(scores):
        print(f"figures: {len(scores) - count} steps left out, for 3 MB are full", file=sys.stderr)
    steps = f"steps {args.first} to {args.first + count - 1}"
    print(f"{args.out}: {steps}, {times[count - 1]:.1f} seconds of play, {len(gif):,} bytes")
    for i in np.diff(scores[:count], axis=0).any(axis=1).nonzero()[0]:
        print("  step {}: built-in player {}, agent {}".format(args.first + i, *scores[i + 1]))


def compose(pixels, x, p, score) -> np.ndarray:
    """A picture, as numbers of colours: the game, the input x, p(up) and the score."""
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    picture[:, :320] = enlarge(pixels, 2)
    picture[FIELD, VIEW : VIEW + 320] = enlarge((NEUTRAL + x).reshape(80, 80), 4)
    picture[FIELD, BAR : BAR + 20] = NEUTRAL
    picture[FIELD.stop - round(320 * p) : FIELD.stop, BAR : BAR + 20] = P_UP
    picture[400:412, VIEW : VIEW + 12], picture[400:412, VIEW + 110 : VIEW + 122] = APPEARED, GONE
    for x, y, size, text in (
        (VIEW, 8, 20, "built-in player {} : {} agent".format(*score)),
        (VIEW, 44, 14, "what the network sees: this frame minus the last"),
        (VIEW + 18, 397, 14, "appeared"),
        (VIEW + 128, 397, 14, "gone"),
        (BAR, 44, 14, "p(up)"),
        (BAR + 25, 70, 14, "1"),
        (BAR + 25, 222, 14, "0.5"),
        (BAR + 25, 374, 14, "0"),
    ):
        letters = lettering(text, size) // (256 // SHADES)
        picture[y : y + letters.shape[0], x : x + letters.shape[1]] = letters
    return picture


def animate(pictures, delays, colours):
    """Gives (GIF, number of its pictures): as many as MOST_BYTES can hold, the last for HOLD.

    Of each picture it only holds what differs from the one before. Delays are in 1/100 s.
    """
    gif, image = need("Pillow", "PIL.GifImagePlugin"), need("Pillow", "PIL.Image")
    palette = np.concatenate([rgb(colour) for colour in colours]).astype(np.uint8).tobytes()
    head = b"GIF89a" + struct.pack("<HHBBB", WIDTH, HEIGHT, 0xF7, 0, 0) + palette.ljust(768, b"\0")
    head += b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0"  # repeat for ever
    blocks, size, before = [], len(head) + 1, np.full((HEIGHT, WIDTH), CLEAR, np.uint8)
    for picture in pictures:
        changed = picture != before
        changed[0, 0] |= not changed.any()  # no picture is of no pixels
        box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in changed.nonzero())
        delta = image.fromarray(np.where(changed, picture, np.uint8(CLEAR))[box])
        block = b"".join(gif.getdata(delta, (box[1].start, box[0].start), interlace=0))
        size += 8 + len(block)
        if size > MOST_BYTES:
            break
        blocks.append(block)
        before = picture
    for i, delay in enumerate([*delays[: len(blocks) - 1], HOLD]):
        blocks[i] = struct.pack("<3sBHBB", b"!\xf9\4", 5, delay, CLEAR, 0) + blocks[i]
    return head + b"".join(blocks) + b";", len(blocks)


# ---- what they share ----------------------------------------------------------------------------


def need(package: str, module: str):
    """A module of an optional package. Raises UsageError where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(f"{package} is missing: python -m pip install {package}") from None


@functools.lru_cache(maxsize=None)
def lettering(text: str, size: int) -> np.ndarray:
    """Text as (height, width) uint8: 0 is paper, 255 ink."""
    image, draw, fonts = (need("Pillow", f"PIL.Image{name}") for name in ("", "Draw", "Font"))
    try:
        font = fonts.load_default(size)
    except TypeError:
        raise UsageError("Pillow is too old: python -m pip install -U Pillow") from None
    letters = image.new("L", font.getbbox(text)[2:])
    draw.Draw(letters).text((0, 0), text, 255, font)
    return np.array(letters)


def rgb(colour: int) -> np.ndarray:
    return np.array([colour >> 16, colour >> 8 & 255, colour & 255])


def enlarge(pixels: np.ndarray, times: int) -> np.ndarray:
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def write(path, data: bytes):
    """Writes a file whole or not at all. Raises OSError."""
    try:
        Path(f"{path}.tmp").write_bytes(data)
        os.replace(f"{path}.tmp", path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(f"{path}.tmp")


# ---- command line -------------------------------------------------------------------------------


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"figures: {message} (--help shows the flags)\n")


def whole(text, least=0):
    if not text.isdecimal() or not least <= int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return int(text)


def parse_arguments(argv=None):
    parser = OneLineParser(description="Draw the pictures of README.md, and its tables.")
    figures = parser.add_subparsers(dest="figure", metavar="FIGURE", required=True)

    def add(name, draw, out, text):
        figure = figures.add_parser(name, help=text, description=text, allow_abbrev=False)
        figure.set_defaults(draw=draw, kind=out[-4:])
        figure.add_argument("--out", metavar="PATH", default=out, help=f"default: {out}")
        return figure

    figure = add("curve", draw_curve, "docs/curve.png", "scores against games and hours: a PNG")
    text = "a CSV file of pong_pg.py --log; A,B,C draws the median of several seeds, and a band"
    text += " from the lowest to the highest, as far as the shortest of them goes"
    figure.add_argument("logs", metavar="LOG", nargs="+", help=text)
    least = functools.partial(whole, least=1)
    figure.add_argument("--games", metavar="N", type=least, help="only the first N of each log")
    figure.add_argument("--against", choices=["hours", "steps"], default="hours")
    checkpoint = {"metavar": "PATH", "default": "save.p", "help": "default: save.p"}
    table = figures.add_parser("table", help="how long it took to which score, as Markdown")
    table.set_defaults(draw=print_table, kind="", out=".")
    table.add_argument("logs", metavar="LOG", nargs="+", help="a CSV file of pong_pg.py --log")
    figure = add("weights", draw_weights, "docs/weights.png", "what hidden units look for: a PNG")
    figure.add_argument("--save", **checkpoint)
    figure = add("game", draw_game, "docs/game.gif", "a game or a part of it: a GIF below 3 MB")
    figure.add_argument("--save", **checkpoint)
    number = {"metavar": "N", "type": whole, "default": 0}
    figure.add_argument("--seed", **number, help="of the game of --evaluate 1; default: 0")
    figure.add_argument("--from", **number, dest="first", help="first step; default: 0")
    number = {"metavar": "N", "type": functools.partial(whole, least=1)}
    until = figure.add_mutually_exclusive_group()
    until.add_argument("--steps", **number, help="how many, 20 a second; default: 400")
    until.add_argument("--points", **number, help="until so many points are scored")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_arguments(argv)
    try:
        folder = os.path.dirname(args.out) or "."
        if args.kind and (
            not args.out.endswith(args.kind) or os.path.isdir(args.out) or not os.path.isdir(folder)
        ):
            raise UsageError(f"--out {args.out}: expected a {args.kind} in a folder that is there")
        args.draw(args)
        return 0
    except (UsageError, pong_pg.CheckpointError, OSError) as error:
        print(f"figures: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
