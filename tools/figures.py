"""The pictures of this project, and its tables.

    python tools/figures.py curve my.csv                # of what pong_pg.py --log wrote
    python tools/figures.py curve 1.csv,2.csv,3.csv     # three seeds: their median, in a band
    python tools/figures.py minutes my.csv              # how long it took, as Markdown
    python tools/figures.py weights                     # what save.p has learnt
    python tools/figures.py game --seed 1 --points 2    # save.p plays: a GIF, or an .mp4

For maintainers, from the logs in results/:

    python tools/figures.py pictures                    # the curves in results/
    python tools/figures.py tables                      # the tables in README.md and elsewhere

matplotlib draws the curves and Pillow the others; a video needs imageio-ffmpeg.
"""

import argparse
import contextlib
import functools
import importlib
import io
import os
import sys
import textwrap
from math import inf
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pong_pg
from pong_pg import UsageError
from tools import tables
from tools.fast import measured
from tools.logs import (
    AGENT,
    BLOG_RATE,
    GREY,
    NAME,
    PPO,
    RESULTS,
    SPEED,
    Run,
    changes,
    control,
    first_up_to,
    read_run,
    recipes,
    spread,
)

# Okabe and Ito, "Color Universal Design" (2008): colour-blind readers can tell these apart
ORANGE, SKY, GREEN = 0xE69F00, 0x56B4E9, 0x009E73
BLUE, VERMILION, PURPLE, BLACK = 0x0072B2, 0xD55E00, 0xCC79A7, 0x000000


# ---- learning curves ----------------------------------------------------------------------------

UNITS = {
    "games": "games played",
    "hours": "hours of training",
    "steps": "million steps",
    "minutes": "minutes of training",
}
# Colour, line and marker of the first curve, of the second, and so on; the last two for grey paper
STYLES = [
    (BLUE, "-", "o"),
    (VERMILION, "--", "s"),
    (GREEN, "-.", "^"),
    (PURPLE, ":", "D"),
    (BLACK, "-", "v"),
]


def draw_curve(args):
    """The running mean of each log, against games and against hours, as a PNG.

    Logs that a comma joins are one curve: the median of their running means in a band from the
    lowest to the highest.
    """
    runs = []
    for text in args.logs:
        paths = [text] if os.path.exists(text) else text.split(",")
        runs.append(Run(label_of(paths), tuple(paths)))
    if len(args.label) > len(runs):
        raise UsageError(f"--label is given {len(args.label)} times for {len(runs)} curves")
    for i, label in enumerate(args.label):
        runs[i] = runs[i]._replace(label=label)
    curves = [(run.label, read_run(run, args.games)) for run in runs]
    draw_panels(args.out, curves, ["games", args.against], args.title)
    for label, logs in curves:
        ends, evens = [], []
        for unit, digits in ("games", 0), ("hours", 2):
            x, _, mean, _ = spread(logs, unit)
            ends.append(f"{x[-1]:,.{digits}f} {unit}")
            even = first_up_to(0, mean)
            if even is not None:
                evens.append(f"{x[even]:,.{digits}f} {unit}")
        print(f"{label}: {', '.join(ends)}; even after: {', '.join(evens) or 'not yet'}")


def label_of(paths) -> str:
    """What a curve of these logs is: known for those of results/, else their names."""
    for run in (BLOG_RATE, AGENT, PPO, *recipes()):
        if [Path(path).resolve() for path in paths] == list(run.paths):
            return tables.title(run)
    return ", ".join(map(str, paths))


def draw_panels(out, curves, units, title="", ends=None):
    """Draws curves, (label, logs) each, in a panel for each unit of UNITS, and writes a PNG.

    `ends` are the last x of the panels. A single log shows its games as dots as well.
    """
    mpl = need("matplotlib", "matplotlib.figure")
    figure = mpl.Figure((7.5, 3.7), dpi=200, layout="constrained")
    figure.suptitle(verbatim(title), fontsize=12)
    panels = figure.subplots(1, len(units), sharey=True, squeeze=False)[0]
    alone = len(curves) == 1 and len(curves[0][1]) == 1
    for axes, unit, end in zip(panels, units, ends or [None] * len(units)):
        for (label, logs), (colour, line, marker) in zip(curves, STYLES * len(curves)):
            colour = f"#{colour:06x}"
            x, low, mean, high = spread(logs, unit)
            if alone:
                alpha = min(0.5, max(0.1, 1000 / len(x)))
                dots = {"ms": 2.5, "mew": 0, "alpha": alpha, "color": "0.3", "zorder": 1}
                axes.plot(x, logs[0]["score"], ".", **dots)
            if len(logs) > 1:
                axes.fill_between(x, low, high, color=colour, alpha=0.3, lw=0, zorder=2)
            marks = np.searchsorted(x, np.linspace(0, end or x[-1], 9)[1:-1])
            style = {"marker": marker, "ms": 7, "markevery": marks[marks < len(x)].tolist()}
            style = {"ls": "-"} if alone else {"ls": line, **style}
            axes.plot(x, mean, lw=2, color=colour, zorder=3, label=verbatim(label), **style)
            even = first_up_to(0, mean)
            if alone and even is not None:
                axes.plot(x[even], 0, "o", ms=8, mfc="white", mew=2, color=colour, zorder=4)
        axes.axhline(0, color="black", lw=1, zorder=2)
        axes.set(ylim=(-22, 22), yticks=range(-21, 22, 7), xlim=(0, end))
        axes.set_xlabel(UNITS[unit], fontsize=12)
        axes.tick_params(labelsize=11)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.spines[["top", "right"]].set_visible(False)
    what = "score: games, running mean" if alone else "running mean of the score"
    panels[0].set_ylabel(what, fontsize=12)
    beside = panels[-1].get_yaxis_transform()
    panels[-1].text(1.01, 0, "even\nscore", transform=beside, va="center", fontsize=11)
    if not alone:
        names = panels[0].legend(loc="upper left", fontsize=11, frameon=False)
        names.set_in_layout(False)  # a long name may reach into the other panel
    save_figure(out, figure)


def verbatim(text):
    """What shows `text` in matplotlib, to which $ is mathematics and a leading _ no label."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def save_figure(out, figure):
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    pong_pg.write_atomically(out, picture.getvalue())


def draw_changes(out, unchanged, others, runs):
    """Draws each changed method's running mean, a line a seed, over the unchanged one's.

    Of that `unchanged` is a band and `others` are lines. It ends with the shortest log of a change.
    """
    mpl = need("matplotlib", "matplotlib.figure")
    rows = -(-len(runs) // 4)
    figure = mpl.Figure((7.5, 0.8 + 2.1 * rows), dpi=200, layout="constrained")
    figure.suptitle(
        "Blue: with one change to the method. Grey: the method unchanged, five seeds", fontsize=12
    )
    panels = figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False)
    logs = [log for run in runs for log in read_run(run)]
    end = min(log["steps"][-1] for log in logs)
    x, low, _, high = spread(read_run(unchanged), "steps")
    lines = [log["running_mean"][log["steps"] <= end] for log in (*logs, *read_run(others))]
    top = max(high[x <= end].max(), *(mean.max() for mean in lines)) + 1
    for axes, run in zip(panels.flat, runs):
        axes.fill_between(x[x <= end], low[x <= end], high[x <= end], color="0.7", lw=0)
        for log in read_run(others):
            axes.plot(log["steps"], log["running_mean"], lw=1, color="0.5")
        for log, (_, line, _) in zip(read_run(run), STYLES):
            axes.plot(log["steps"], log["running_mean"], ls=line, lw=1.5, color=f"#{BLUE:06x}")
        axes.set_title(textwrap.fill(run.label, 19), fontsize=10)
        axes.set(xlim=(0, end), ylim=(-21.5, top), yticks=np.arange(-20, top, 5))
        axes.tick_params(labelsize=11, labelbottom=True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(runs) :]:
        axes.set_axis_off()
    figure.supxlabel("million steps", fontsize=12)
    figure.supylabel("running mean of the score", fontsize=12)
    save_figure(out, figure)


def draw_pictures(args):
    """The curves in results/, with titles that say what the logs say."""
    folder, fast = Path(args.out), measured()
    runs = BLOG_RATE, AGENT, GREY, PPO, *fast
    curves = {run: (tables.title(run), read_run(run)) for run in runs}

    def median(run, unit, score=0):
        return np.median([tables.reached(log, score, unit) for log in curves[run][1]])

    score = max(s for s in tables.SCORES if all(median(run, "minutes", s) < inf for run in fast))
    times = [f"{median(run, 'minutes', score):.0f} on {run.cores} cores" for run in fast]
    title = f"Minutes to {score or 'an even score'}: {', '.join(times)}"
    shown = [curves[run] for run in (*fast, BLOG_RATE)]
    draw_panels(folder / "how-long.png", shown, ["minutes"], title, [60])

    agent = curves[AGENT][1][0]
    title = f"The agent that ships: even after {median(AGENT, 'games'):,.0f} games, "
    title += f"{agent['running_mean'][-1]:+.1f} after {len(agent['games']):,}"
    draw_panels(folder / "agent.png", [curves[AGENT]], ["games", "steps"], title)

    blog = curves[BLOG_RATE][1][0]
    score = round(blog["running_mean"][-1])
    title = f"The blog post's learning rate first reaches {score} "
    title += f"after {median(BLOG_RATE, 'games', score):,.0f} games, "
    title += f"higher ones after {median(AGENT, 'games', score):,.0f}"
    ends = [len(blog["games"]), blog["steps"][-1]]
    shown = [curves[AGENT], curves[BLOG_RATE]]
    draw_panels(folder / "blog-rate.png", shown, ["games", "steps"], title, ends)

    draw_changes(folder / "changes.png", fast[0], control(), changes())

    grey = curves[GREY][1][0]
    title = f"One seed with grey frames: even after {median(GREY, 'steps'):.0f} million steps, "
    title += f"{grey['running_mean'][-1]:+.1f} after {grey['steps'][-1]:.0f}"
    shown = [curves[GREY], curves[fast[0]], curves[AGENT]]
    draw_panels(folder / "grey.png", shown, ["steps"], title, [grey["steps"][-1]])

    title = f"PPO reaches an even score in {median(PPO, 'steps'):.0f} million steps, "
    title += f"REINFORCE in {median(fast[0], 'steps'):.0f}"
    shown = [curves[PPO], (f"REINFORCE, {tables.seeds(fast[0])}", curves[fast[0]][1])]
    draw_panels(folder / "algorithms.png", shown, ["games", "steps"], title)


def print_minutes(args):
    """When the running mean of logs reached scores, and what it was after some games."""
    if hasattr(sys.stdout, "reconfigure"):  # in a file of Korean Windows a dash would be an error
        sys.stdout.reconfigure(encoding="utf-8")
    runs = []
    for path in args.logs:
        named = NAME.fullmatch(Path(path).name)
        cores, batch = map(int, named.groups()[:2]) if named else (2, pong_pg.batch_size)
        run = Run(path, (path,), args.cores or cores, args.batch or batch, args.speed)
        runs.append(run)
        minutes = read_run(run)[0]["minutes"][-1]
        print(f"{path}: {minutes:.1f} minutes on {run.cores} cores, batches of {run.batch}")
    print(f"\n{tables.seeds_table(runs)}\n{tables.normal_table(runs)}", end="")


# ---- weights ------------------------------------------------------------------------------------

COLUMNS, ROWS = 5, 4  # of the grid
SCALE, GAP, HEAD = 2, 3, 58  # pixels: of a weight, between units, above them


def draw_weights(args):
    """What the strongest hidden units look for, as a PNG. Blog post, "Learned weights"."""
    image = need("Pillow", "PIL.Image")
    check_field()
    model, _ = pong_pg.load_checkpoint(args.save)
    units, cell = strongest_first(model)[: COLUMNS * ROWS], 80 * SCALE + GAP
    page = np.full((HEAD + ROWS * cell, COLUMNS * cell + GAP, 3), 255, np.uint8)
    page[HEAD - GAP :] = 128
    title = args.title or f"Incoming weights of the {len(units)} strongest hidden units"
    room = page.shape[1] - 2 * GAP
    size = max(1, min(20, 20 * room // lettering(title, 20).shape[1]))  # a long title: smaller
    for line, (text, height) in enumerate([(title, size), ("blue: below 0, orange: above", 20)]):
        letters = lettering(text, height)[:, :room, None]
        page[26 * line :][: len(letters), GAP : GAP + letters.shape[1]] -= letters
    for i, unit in enumerate(units):
        y, x = HEAD + i // COLUMNS * cell, GAP + i % COLUMNS * cell
        page[y : y + 80 * SCALE, x : x + 80 * SCALE] = unit_image(model["W1"][unit])
    picture = io.BytesIO()
    image.fromarray(page).save(picture, "PNG")
    pong_pg.write_atomically(args.out, picture.getvalue())
    print(f"{args.out}: hidden units {' '.join(map(str, units))}")


def check_field():
    """Raises UsageError where a changed script sees another part of the screen."""
    if pong_pg.D != 80 * 80:
        raise UsageError(f"D is {pong_pg.D}: pictures are made of a network with 80 x 80 inputs")


def strongest_first(model) -> np.ndarray:
    """The numbers of the hidden units by |W2_i| ||W1_i||, which bounds how far one moves p(up)."""
    return np.argsort(-np.abs(model["W2"]) * np.linalg.norm(model["W1"], axis=1), kind="stable")


def unit_image(w: np.ndarray) -> np.ndarray:
    """Weights (6400,) -> (80 SCALE, 80 SCALE, 3) uint8: 0 is white, -max blue, max orange."""
    w = enlarge(w.reshape(80, 80) / (np.abs(w).max() or 1), SCALE)[:, :, None]
    full = np.where(w < 0, rgb(BLUE), rgb(VERMILION))
    return np.rint(255 + np.abs(w) * (full - 255.0)).astype(np.uint8)


# ---- a game -------------------------------------------------------------------------------------

HOLD = 1000  # milliseconds that the last picture of a GIF stays
AFTERMATH = 10  # steps that follow the last point: only then the game shows its new score
WIDTH, HEIGHT, VIEW, BAR = 728, 420, 336, 668  # of a picture; where things begin in it
FIELD = slice(70, 390)  # its rows that prepro crops from the game
SHADES, GONE, NEUTRAL, APPEARED, P_UP = 8, 8, 9, 10, 11  # numbers of colours; letters have shades
COLOURS = [0x111111 + 0x1F1F1F * i for i in range(SHADES)] + [SKY, 0x383838, ORANGE, GREEN]


class FilmedPong(pong_pg.Pong):
    """A Pong that keeps what is seen from step `first` on, and ends when that is enough."""

    def __init__(self, first: int, steps: float, points: float):
        super().__init__()
        self.first, self.last, self.points = first, first + steps, points
        self.palette = list(COLOURS)  # 0xRRGGBB
        self.shots: list = []  # at each step: (emulator frame, input, colour numbers)

    def reset(self):
        super().reset()
        self.now, self.steps = self.pixels(), 0
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
        before, self.now = self.now, self.pixels()
        if self.steps >= self.first:
            codes = self.ale.getScreenRGB() @ np.array([1 << 16, 1 << 8, 1])
            found = np.unique(codes).tolist()
            self.palette += [code for code in found if code not in self.palette]
            numbers = np.array([self.palette.index(code) for code in found], np.uint8)
            pixels = numbers[np.searchsorted(found, codes)]
            self.shots.append((self.ale.getEpisodeFrameNumber(), self.now - before, pixels))


def draw_game(args):
    """Game 0 of `--evaluate --seed N` or a part of it, what the network sees and does.

    A GIF, or a video where --out ends in .mp4.
    """
    video = args.out.endswith(".mp4")
    encoder = need("imageio-ffmpeg", "imageio_ffmpeg") if video else None
    need("Pillow", "PIL.Image")
    check_field()
    model, _ = pong_pg.load_checkpoint(args.save)
    steps = args.steps or (inf if args.points else 400)
    pong = FilmedPong(args.first, steps, args.points or inf)
    rewards = pong_pg.play_game(pong, model, np.random.default_rng([args.seed, 0, 1]))[3]
    if args.first >= len(rewards):
        raise UsageError(f"--from {args.first}: this game is over after step {len(rewards) - 1}")
    scores = np.array([[0, 0], *([r < 0, r > 0] for r in rewards)]).cumsum(axis=0)[args.first :]
    pictures = (
        compose(pixels, x, pong_pg.policy_forward(model, x)[0], score)
        for (_, x, pixels), score in zip(pong.shots, scores)
    )
    frames = np.array([shot[0] - pong.shots[0][0] for shot in pong.shots])  # 60 a second
    if video:
        write_video(encoder, args.out, pictures, np.diff(frames), pong.palette)
    else:
        durations = np.diff(np.rint(frames / 0.6)) * 10
        pong_pg.write_atomically(args.out, animate(pictures, durations, pong.palette))
    last, size = args.first + len(scores) - 1, os.path.getsize(args.out)
    seconds = f"{frames[-1] / 60:.1f} seconds of play"
    print(f"{args.out}: steps {args.first} to {last}, {seconds}, {size:,} bytes")
    for i in np.diff(scores, axis=0).any(axis=1).nonzero()[0]:
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
        (VIEW, 6, 22, "built-in player {} : {} agent".format(*score)),
        (VIEW, 42, 18, "what the network sees"),
        (VIEW + 18, 395, 18, "appeared"),
        (VIEW + 128, 395, 18, "gone"),
        (BAR, 42, 18, "p(up)"),
        (BAR + 25, 68, 18, "1"),
        (BAR + 25, 219, 18, "0.5"),
        (BAR + 25, 371, 18, "0"),
    ):
        letters = lettering(text, size) // (256 // SHADES)
        picture[y : y + letters.shape[0], x : x + letters.shape[1]] = letters
    return picture


def animate(pictures, durations, colours) -> bytes:
    """A GIF that repeats for ever. Durations are in milliseconds; the last picture stays HOLD."""
    image, palette = need("Pillow", "PIL.Image"), palette_of(colours)

    def images():
        for picture in pictures:
            made = image.fromarray(picture)
            made.putpalette(palette.tobytes())
            yield made

    times = [*map(int, durations), HOLD]
    gif = io.BytesIO()
    rest = images()
    next(rest).save(gif, "GIF", save_all=True, append_images=rest, duration=times, loop=0)
    return gif.getvalue()


def write_video(encoder, path, pictures, frames, colours):
    """An .mp4 of 60 pictures a second, in which each picture stays its number of `frames`."""
    part, palette = f"{path}.{os.getpid()}.tmp.mp4", palette_of(colours)
    options = {"fps": 60, "macro_block_size": 4, "quality": 8}
    sent = 0
    try:
        video = encoder.write_frames(part, (WIDTH, HEIGHT), **options)
        video.send(None)
        with contextlib.closing(video):
            for picture, times in zip(pictures, [*frames, 60 * HOLD // 1000]):
                for _ in range(times):
                    video.send(palette[picture].tobytes())
                    sent += 1
        found, _ = encoder.count_frames_and_secs(part)  # ffmpeg may have failed in silence
        if found != sent:
            raise RuntimeError
        os.replace(part, path)
    except (RuntimeError, IndexError, OSError):
        cause = "ffmpeg failed (a full disk, or a folder where you may not write?)"
        raise OSError(f"{path} cannot be written: {cause}") from None
    finally:
        with contextlib.suppress(OSError):
            os.remove(part)


def palette_of(colours) -> np.ndarray:
    """Colours 0xRRGGBB -> (number of them, 3) uint8."""
    return np.array([rgb(colour) for colour in colours], np.uint8)


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


# ---- command line -------------------------------------------------------------------------------


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"figures: {message} (--help shows the flags)\n")


def whole(text, least=0):
    if not text.isdecimal() or not least <= int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return int(text)


def parse_arguments(argv=None):
    parser = OneLineParser(description="Draw pictures and tables of training runs.")
    figures = parser.add_subparsers(dest="figure", metavar="FIGURE", required=True)
    positive = {"metavar": "N", "type": functools.partial(whole, least=1)}
    natural = {"metavar": "N", "type": whole, "default": 0}
    checkpoint = {"metavar": "PATH", "default": "save.p", "help": "default: save.p"}

    def add(name, draw, text, out=None, kinds=()):
        figure = figures.add_parser(name, help=text, description=text, allow_abbrev=False)
        figure.set_defaults(draw=draw, kinds=kinds)
        if out:
            figure.add_argument("--out", metavar="PATH", default=out, help=f"default: {out}")
        return figure

    text = "scores against games and hours: a PNG"
    figure = add("curve", draw_curve, text, "curve.png", (".png",))
    text = "a CSV file of pong_pg.py --log; A,B,C draws the median of several seeds, and a band"
    text += " from the lowest to the highest, as far as the shortest of them goes"
    figure.add_argument("logs", metavar="LOG", nargs="+", help=text)
    text = "what a curve is, once for each; default: the log's name"
    figure.add_argument("--label", metavar="TEXT", action="append", default=[], help=text)
    figure.add_argument("--title", metavar="TEXT", default="", help="what the picture shows")
    figure.add_argument("--games", **positive, help="only the first N of each log")
    figure.add_argument("--against", choices=["hours", "steps"], default="hours")

    text = "how long it took to which score, as Markdown"
    figure = add("minutes", print_minutes, text)
    figure.add_argument("logs", metavar="LOG", nargs="+", help="a CSV file of pong_pg.py --log")
    text = "default: 2, or that of a name like cores-8-batch-8-seed-10.csv"
    figure.add_argument("--cores", **positive, help=text)
    text = "games in a parameter update; default: 10, or that of the name"
    figure.add_argument("--batch", **positive, help=text)
    text = f"steps a second of one worker while every core has one; default: {SPEED}"
    figure.add_argument("--speed", metavar="N", type=positive["type"], default=SPEED, help=text)

    text = "what hidden units look for: a PNG"
    figure = add("weights", draw_weights, text, "weights.png", (".png",))
    figure.add_argument("--title", metavar="TEXT", help="what the picture shows")
    figure.add_argument("--save", **checkpoint)

    text = "a game or a part of it: a GIF, or an .mp4"
    figure = add("game", draw_game, text, "game.gif", (".gif", ".mp4"))
    figure.add_argument("--save", **checkpoint)
    figure.add_argument("--seed", **natural, help="of the game of --evaluate 1; default: 0")
    figure.add_argument("--from", **natural, dest="first", help="first step; default: 0")
    until = figure.add_mutually_exclusive_group()
    until.add_argument("--steps", **positive, help="how many, 20 a second; default: 400")
    until.add_argument("--points", **positive, help="until so many points are scored")

    add("pictures", draw_pictures, "the curves in results/, from its logs", str(RESULTS))
    add("tables", lambda _: tables.write_tables(), "the tables in README.md and other pages")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_arguments(argv)
    pong_pg.prepare_output()
    try:
        if args.kinds:
            check_out(args.out, args.kinds)
            check_not_read(args)
        args.draw(args)
        return 0
    except BrokenPipeError:
        return pong_pg.output_goes_nowhere()
    except (UsageError, pong_pg.CheckpointError, OSError) as error:
        print(f"figures: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    except KeyboardInterrupt:
        return 130


def check_out(path, kinds):
    """Raises UsageError where a picture of these kinds cannot be written."""
    folder = os.path.dirname(path) or "."
    if not path.endswith(kinds) or os.path.isdir(path) or not os.path.isdir(folder):
        expected = f"expected a {' or '.join(kinds)} in a folder that is there"
        raise UsageError(f"--out {path}: {expected}")


def check_not_read(args):
    """Raises UsageError where the picture would replace the log or checkpoint that it shows."""
    read = [getattr(args, "save", None) or ""]
    for log in getattr(args, "logs", []):
        read += [log, *log.split(",")]
    if os.path.realpath(args.out) in map(os.path.realpath, filter(None, read)):
        raise UsageError(f"--out {args.out} is the file that is read: choose another name")


if __name__ == "__main__":
    sys.exit(main())
