"""What tools/figures.py draws, looked at pixel by pixel."""

import bisect
import collections
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from helpers import ROOT, one_line, write_log
from matplotlib.artist import getp
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import pong_pg

sys.path.insert(0, str(ROOT / "tools"))
import figures

from tools import logs

LOG = "episode,reward,running_mean,steps,seconds\n"
SEED, FIRST, STEPS = 1, 40, 50  # of the GIF
COLOURS = {"blue": (0, 114, 178), "orange": (213, 94, 0), "white": (255, 255, 255)}


def draw(*args):
    """Exit status of `figures.py ARGS`."""
    try:
        return figures.main(list(map(str, args)))
    except SystemExit as stop:
        return stop.code


def pixels(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def is_colour(image, name):
    return (np.abs(image.astype(int) - COLOURS[name]) <= 6).all(axis=-1)


# ---- learning curve


def make_log(path, running_mean, pace=1):
    """A log of which hours go with the square of games; gives its columns."""
    rng = np.random.default_rng(0)
    games = np.arange(1, len(running_mean) + 1)
    scores = np.clip(np.rint(running_mean + rng.normal(0, 4, len(games))), -21, 21)
    steps, seconds = games * pace, games**2 * 0.01
    write_log(path, running_mean, steps, scores, seconds)
    return {
        "games": games,
        "scores": scores,
        "hours": seconds / 3600,
        "steps": steps.cumsum() / 1e6,
    }


@pytest.fixture
def curve(tmp_path, monkeypatch):
    """Draws logs of tmp_path; gives the axes of the two panels."""
    kept, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda it, *a, **k: (kept.append(it), save(it, *a, **k)))
    monkeypatch.chdir(tmp_path)

    def curve(*args):
        assert draw("curve", *args, "--out", "curve.png") == 0
        assert pixels("curve.png").shape == (740, 1500, 3)
        return kept[-1].axes

    return curve


def points(line):
    return np.transpose([line.get_xdata(), line.get_ydata()]).tolist()


def test_curve_shows_games_mean_the_even_line_and_where_they_cross(curve, tmp_path, capsys):
    mean = np.linspace(-20, 10, 900)  # it is even after two thirds
    log = make_log(tmp_path / "a.csv", mean)
    even = int((mean >= 0).argmax())
    for axes, x in zip(curve("a.csv"), (log["games"], log["hours"])):
        dots, line, ring, zero = axes.lines
        assert points(dots) == np.transpose([x, log["scores"]]).tolist()
        assert points(line) == np.transpose([x, mean]).tolist()
        assert points(ring) == [[x[even], 0]] and (ring.get_marker(), ring.get_mfc()) == (
            "o",
            "white",
        )
        assert points(zero) == [[0, 0], [1, 0]]  # the whole way
        assert (
            axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > x[-1] and axes.get_ylim() == (-22, 22)
        )
    when = f"{log['games'][even]} games, {log['hours'][even]:.2f} hours"
    assert f"even after: {when}" in capsys.readouterr().out


def test_curve_marks_no_crossing_where_there_is_none(curve, tmp_path, capsys):
    make_log(tmp_path / "a.csv", np.linspace(-20, -5, 300))
    assert [len(axes.lines) for axes in curve("a.csv")] == [3, 3]
    assert "not yet" in capsys.readouterr().out


def interpolated(xs, ys, x):
    """y at x on the lines between the points."""
    i = bisect.bisect_left(xs, x)
    if xs[i] == x:
        return ys[i]
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


def test_several_seeds_are_a_median_in_a_band_beside_single_runs(curve, tmp_path, capsys):
    """As far as the shortest goes, which against steps may be another one than against games."""
    rng = np.random.default_rng(1)
    means = [np.cumsum(rng.normal(0.01, 0.2, n)) - 18 for n in (300, 340, 400)]
    paces = 1300, 1000, 700
    logs = [make_log(tmp_path / f"{i}.csv", means[i], paces[i]) for i in range(3)]
    make_log(tmp_path / "alone.csv", np.linspace(-20, 10, 900))
    panels = curve("0.csv,1.csv,2.csv", "alone.csv", "--against", "steps", "--games", 390)
    shortest = {"games": 300, "steps": (700 * np.arange(1, 391)).sum() / 1e6}
    for axes, unit in zip(panels, shortest):
        line, alone, _ = axes.lines  # of several curves there are no dots
        assert len(alone.get_xdata()) == 390
        (band,) = axes.collections
        between = collections.defaultdict(list)
        for x, y in band.get_paths()[0].vertices:
            between[x].append(y)
        xs = line.get_xdata()
        assert sorted(between) == list(xs) and xs[-1] == pytest.approx(shortest[unit])
        assert xs[0] == max(log[unit][0] for log in logs)
        for x, median in points(line):
            at_x = sorted(interpolated(log[unit].tolist(), y, x) for log, y in zip(logs, means))
            assert [min(between[x]), median, max(between[x])] == pytest.approx(at_x)
        assert (band.get_facecolor()[0, :3] == to_rgb(line.get_color())).all()
    assert "0.csv, 1.csv, 2.csv: 300 games, " in capsys.readouterr().out


def test_curves_of_several_logs_are_told_apart_in_grey_too(curve, tmp_path):
    for name in "a.csv", "b.csv", "c,d.csv":
        make_log(tmp_path / name, np.linspace(-20, 14, 30))
    axes = curve("a.csv", "b.csv", "c,d.csv", "a.csv,b.csv")[0]
    legend = axes.get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["a.csv", "b.csv", "c,d.csv", "a.csv, b.csv"]
    means = [line for line in axes.lines if line.get_label() in labels]
    for style in "color", "marker", "linestyle":
        shown = [getp(line, style) for line in legend.get_lines()]
        assert shown == [getp(line, style) for line in means] and len(set(shown)) == 4


def test_a_legend_says_what_a_curve_is(curve, tmp_path):
    """Of the logs in results/ it is known, of others it can be said."""
    make_log(tmp_path / "a.csv", np.linspace(-20, 14, 30))
    three = ",".join(
        str(logs.RESULTS / f"cores-2-batch-2-seed-{seed}.csv") for seed in (10, 11, 12)
    )
    drawn = curve(three, "a.csv", "--games", 30, "--title", "mine", "--label", "A")
    labels = [text.get_text() for text in drawn[0].get_legend().get_texts()]
    assert labels == ["A", "a.csv"] and drawn[0].figure.texts[0].get_text() == "mine"
    labels = curve(three, "a.csv", "--games", 30)[0].get_legend().get_texts()
    assert labels[0].get_text() == "fast recipe on 2 cores, seeds 10 to 12"


def test_no_name_and_no_title_is_read_as_mathematics_or_left_out(curve, tmp_path):
    names = "a$x^2$.csv", "_b.csv"
    for name in names:
        make_log(tmp_path / name, np.linspace(-20, 14, 30))
    axes = curve(*names, "--title", "from $5 to $6")[0]
    texts = [axes.figure.texts[0], *axes.get_legend().get_texts()]
    assert len(texts) == 3 and not any(is_math_text(text.get_text()) for text in texts)


def test_the_pictures_of_the_results_have_words_and_no_file_names(tmp_path, monkeypatch):
    kept, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda it, *a, **k: (kept.append(it), save(it, *a, **k)))
    assert draw("pictures", "--out", tmp_path) == 0
    names = "agent algorithms blog-rate changes grey how-long"
    assert sorted(path.stem for path in tmp_path.iterdir()) == names.split()
    for figure in kept:
        words = [text.get_text() for text in figure.findobj(Text)]
        assert figure.texts[0].get_text() and not [word for word in words if ".csv" in word]
        assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 10


def test_a_change_is_drawn_over_the_band_of_the_method_unchanged(tmp_path, monkeypatch):
    kept, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda it, *a, **k: (kept.append(it), save(it, *a, **k)))
    means = {"a-seed-1": -16, "a-seed-2": -13, "b-seed-1": -12, "b-seed-2": -8, "c-seed-1": -17}
    means["d-seed-1"] = -15
    made = {
        name: make_log(tmp_path / f"{name}.csv", np.linspace(-20, end, 40), 9)
        for name, end in means.items()
    }
    longer = np.append(np.linspace(-20, -17, 40), np.linspace(-17, 5, 20))
    make_log(tmp_path / "c-seed-1.csv", longer, 9)
    unchanged, changed, other, control = (
        logs.Run(f"method {label}", tuple(sorted(tmp_path.glob(f"{label}-*.csv"))), batch=2)
        for label in "abcd"
    )
    figures.draw_changes(tmp_path / "changes.png", unchanged, control, [changed, other])
    first, second, *empty = kept[0].axes
    assert (
        points(first.lines[0]) == points(second.lines[0]) and points(first.lines[0])[-1][1] == -15
    )
    assert [points(line) for line in first.lines[1:]] == [
        np.transpose([made[f"b-seed-{seed}"]["steps"], np.linspace(-20, end, 40)]).tolist()
        for seed, end in ((1, -12), (2, -8))
    ]
    assert (first.get_title(), second.get_title()) == ("method b", "method c")
    assert -8 < first.get_ylim()[1] < 0  # the highest line is not cut, as far as it is shown
    assert second.get_xlim() == (0, made["b-seed-1"]["steps"][-1])  # which all of them reach
    (band,) = second.collections
    x, y = band.get_paths()[0].vertices.T
    at_end = y[x == x.max()]
    assert (at_end.min(), at_end.max()) == pytest.approx((-16, -13)) and not any(
        axes.axison for axes in empty
    )


def test_a_line_that_is_being_written_does_not_count(tmp_path):
    make_log(tmp_path / "a.csv", np.linspace(-20, -5, 30))
    with open(tmp_path / "a.csv", "a") as log:
        log.write("30,-2")
    assert logs.read_log(tmp_path / "a.csv")["games"].tolist() == list(range(1, 31))


def test_what_resume_takes_for_a_log_the_figures_take_too(tmp_path):
    """The mark that a spreadsheet puts before a text, and lines that are empty."""
    make_log(tmp_path / "a.csv", np.linspace(-20, -5, 30))
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text.replace("\n", "\n\n"), encoding="utf-8-sig")
    assert logs.read_log(tmp_path / "a.csv")["games"].tolist() == list(range(1, 31))


# ---- weights


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """A checkpoint of random weights: units of different strength, the top rows of W1 zero."""
    path = tmp_path_factory.mktemp("figures") / "save.p"
    rng = np.random.default_rng(7)
    model = pong_pg.init_model(rng)
    model["W1"] *= rng.uniform(0.1, 3, (pong_pg.H, 1))
    model["W1"][:, :800] = 0
    pong_pg.save_checkpoint(path, model, pong_pg.State(7, pong_pg.init_cache(model)))
    return path


def test_weights_are_crisp_images_strongest_first(save, tmp_path):
    assert draw("weights", "--save", save, "--out", tmp_path / "weights.png") == 0
    page = pixels(tmp_path / "weights.png")
    assert 640 <= page.shape[1] <= 900 and page.shape[0] <= 900
    model, _ = pong_pg.load_checkpoint(save)
    strength = [abs(w2) * sum(w1**2) ** 0.5 for w1, w2 in zip(model["W1"], model["W2"])]
    units = sorted(range(pong_pg.H), key=lambda i: -strength[i])
    white = is_colour(page, "white")
    for i, unit in enumerate(units[:20]):
        y, x = 58 + i // 5 * 163, 3 + i % 5 * 163
        cell = page[y : y + 160, x : x + 160].astype(int)
        assert (cell == cell[::2, ::2].repeat(2, 0).repeat(2, 1)).all()
        w = model["W1"][unit].reshape(80, 80)
        red_over_blue = (cell[..., 0] - cell[..., 2])[::2, ::2]
        strong = np.abs(w) > 0.1 * np.abs(w).max()
        assert (np.sign(red_over_blue) == np.sign(w))[strong].all()
        most = np.unravel_index(np.abs(w).argmax(), w.shape)
        extreme = is_colour(cell[::2, ::2], "orange" if w[most] > 0 else "blue")
        assert extreme[most] and extreme.sum() < 20
        assert white[y : y + 20, x : x + 160].all()  # the rows of zero weights
    gaps = page[58 - 3 : 58].reshape(-1, 3)
    assert (gaps == 128).all()
    assert white[:54].mean() > 0.6
    assert 0.01 < (page[:54] < 128).all(axis=-1).mean() < 0.3  # the title


def test_a_long_title_is_not_cut(save, tmp_path):
    title = "m" * 70 + "_"  # only its last letter reaches below the line
    out = tmp_path / "weights.png"
    assert draw("weights", "--save", save, "--title", title, "--out", out) == 0
    y, x = (pixels(out)[:26] < 128).all(axis=-1).nonzero()
    assert x[y == y.max()].min() > 700


# ---- a game


class Recorder(pong_pg.Pong):
    """A Pong that keeps all frames, and how many the emulator had shown by then."""

    def reset(self):
        super().reset()
        self.kept = [(self.ale.getScreenRGB(), self.ale.getEpisodeFrameNumber())]

    def step(self, action, rng):
        result = super().step(action, rng)
        self.kept.append((self.ale.getScreenRGB(), self.ale.getEpisodeFrameNumber()))
        return result


@pytest.fixture(scope="module")
def game(save):
    """All of the game that the GIFs show a part of: (frames, their times, epx, rewards)."""
    pong, model = Recorder(), pong_pg.load_checkpoint(save)[0]
    epx, _, _, rewards = pong_pg.play_game(pong, model, np.random.default_rng([SEED, 0, 1]))
    return (*zip(*pong.kept), epx, rewards)


PART = "--seed", SEED, "--from", FIRST, "--steps", STEPS


@pytest.fixture(scope="module")
def gif(save, tmp_path_factory):
    """(pictures, durations) of a small GIF."""
    path = tmp_path_factory.mktemp("figures") / "game.gif"
    assert draw("game", "--save", save, *PART, "--out", path) == 0
    assert path.stat().st_size < 20_000 + 1_500 * STEPS
    return pictures(path)


def pictures(path):
    """Gives (pictures (n, height, width, 3), their durations in milliseconds)."""
    images, durations = [], []
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0  # for ever
        for i in range(gif.n_frames):
            gif.seek(i)
            images.append(np.array(gif.convert("RGB")))
            durations.append(gif.info["duration"])
    return np.array(images), durations


@pytest.mark.slow
def test_gif_runs_at_the_real_frame_rate(gif, game):
    images, durations = gif
    assert images.shape == (STEPS + 1, 420, 728, 3) and durations[-1] == 1000
    frames = np.array(game[1][FIRST:][: STEPS + 1])
    assert np.abs(np.cumsum(durations[:-1]) - 1000 / 60 * (frames - frames[0])[1:]).max() <= 5
    assert set(np.diff(game[1])) == {2, 3, 4}


@pytest.mark.slow
def test_gif_shows_the_game_to_the_pixel(gif, game):
    for image, frame in zip(gif[0], game[0][FIRST:]):
        assert (image[:, :320] == frame.repeat(2, 0).repeat(2, 1)).all()


def test_gif_shows_what_the_network_sees(gif, game):
    frames, _, epx, _ = game
    for t, image in enumerate(gif[0], FIRST):
        view = image[70:390, 336:656]
        appeared, gone = (
            (view == colour).all(axis=-1) for colour in ((230, 159, 0), (86, 180, 233))
        )
        difference = pong_pg.prepro(frames[t]).astype(int) - pong_pg.prepro(frames[t - 1])
        shown = difference.reshape(80, 80).repeat(4, 0).repeat(4, 1)
        assert (appeared.astype(int) - gone == shown).all() and (difference == epx[t]).all()
    assert np.abs(epx[FIRST : FIRST + STEPS]).sum() > 100


def test_the_bar_is_as_high_as_p_up(gif, game, save):
    model, _ = pong_pg.load_checkpoint(save)
    heights, expected = [], []
    for image, x in zip(gif[0], game[2][FIRST:]):
        bar = (image[70:390, 668:688] == (0, 158, 115)).all(axis=-1)
        heights.append(bar.sum() / 20)
        assert (bar[1:] >= bar[:-1]).all()  # it stands on the ground
        h = np.maximum(0, model["W1"] @ x.astype(float))
        expected.append(320 / (1 + np.exp(-model["W2"] @ h)))
    assert heights == pytest.approx(expected, abs=0.6)
    assert np.ptp(expected) > 10


def test_points_ends_after_so_many_points_and_the_score_follows(save, game, tmp_path, capsys):
    rewards = game[3]
    steps = [t for t, reward in enumerate(rewards) if reward != 0]
    part = "--seed", SEED, "--from", steps[1], "--points", 2
    assert draw("game", "--save", save, *part, "--out", tmp_path / "a.gif") == 0
    images, _ = pictures(tmp_path / "a.gif")
    assert len(images) == steps[2] - steps[1] + 12  # half a second later
    heads = images[:, :35, 336:]
    until = steps[2] - steps[1]
    assert (heads[1 : until + 1] == heads[1]).all() and (heads[until + 1 :] == heads[-1]).all()
    assert (heads[0] != heads[1]).any() and (heads[1] != heads[-1]).any()
    lines = capsys.readouterr().out.splitlines()[1:]
    for line, n in zip(lines, (2, 3)):
        won = sum(rewards[t] > 0 for t in steps[:n])
        assert line.strip() == f"step {steps[n - 1]}: built-in player {n - won}, agent {won}"
    assert len(lines) == 2


@pytest.mark.slow
def test_the_end_of_a_game_is_its_last_picture(save, game, tmp_path, capsys):
    frames, _, _, rewards = game
    part = "--seed", SEED, "--from", len(rewards) - 9, "--steps", 500
    assert draw("game", "--save", save, *part, "--out", tmp_path / "a.gif") == 0
    images, _ = pictures(tmp_path / "a.gif")
    assert len(images) == 10
    assert (images[-1][::2, :320:2] == frames[-1]).all()
    assert "built-in player 21, agent " in capsys.readouterr().out


class Encoder:
    """Stands for imageio-ffmpeg, a package of some 30 MB: keeps what it would encode."""

    lost = 0  # frames

    def count_frames_and_secs(self, path):
        return len(self.frames) - self.lost, 1.0

    def write_frames(self, path, size, **options):
        self.size, self.fps, self.frames = size, options["fps"], []
        with open(path, "wb") as file:
            frame = yield
            while True:
                self.frames.append(frame)
                file.write(b"a frame")
                frame = yield


@pytest.mark.slow
def test_a_video_shows_each_picture_of_the_gif_for_its_time(gif, save, tmp_path, monkeypatch):
    encoder = Encoder()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", encoder)
    assert draw("game", "--save", save, *PART, "--out", tmp_path / "a.mp4") == 0
    assert (encoder.size, encoder.fps) == ((728, 420), 60)
    images, durations = gif
    at = 0
    for image, duration in zip(images, durations):
        frames = round(duration * 60 / 1000)
        shown = np.frombuffer(b"".join(encoder.frames[at : at + frames]), np.uint8)
        assert (shown.reshape(frames, 420, 728, 3) == image).all()
        at += frames
    assert at == len(encoder.frames)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("fault", ["a frame less", RuntimeError, IndexError])
def test_a_video_that_ffmpeg_did_not_write_is_no_success(
    fault, save, tmp_path, monkeypatch, capsys
):
    """On a full disk it says nothing: the frames of its file are counted."""
    encoder = Encoder()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", encoder)
    if fault == "a frame less":
        encoder.lost = 1
    else:
        monkeypatch.setattr(Encoder, "count_frames_and_secs", mock.Mock(side_effect=fault))
    path = tmp_path / "a.mp4"
    path.write_text("an earlier one")
    assert draw("game", "--save", save, "--steps", 3, "--out", path) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"figures: {path} cannot be written") and err.count("\n") == 1
    assert out == "" and path.read_text() == "an earlier one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


# ---- what they share


@pytest.mark.parametrize(
    "args, message",
    [
        ("curve none.csv --out a.png", "No such file"),
        ("curve empty.csv --out a.png", "is not a log"),
        ("curve header.csv --out a.png", "a row a game"),
        ("curve short.csv --out a.png", "a row a game"),
        ("curve words.csv --out a.png", "could not convert"),
        ("curve nan.csv --out a.png", "not finite"),
        ("curve binary.csv --out a.png", "is not a log"),
        ("curve one.csv,none.csv --out a.png", "none.csv is not a log"),
        ("curve one.csv, --out a.png", "is not a log"),
        ("curve one.csv,late.csv --against steps --out a.png", "logs that have steps in common"),
        ("curve one.csv --out one.csv", "expected a .png"),
        ("curve one.csv --out nowhere/a.png", "in a folder that is there"),
        ("curve one.csv --label a --label b --out a.png", "2 times for 1 curves"),
        ("minutes none.csv", "No such file"),
        ("minutes one.csv --cores 0", "'0' is not a whole number from 1 on"),
        ("game --out a.png", "expected a .gif or .mp4"),
        ("curve", "required: LOG"),
        ("", "required: FIGURE"),
        ("weights --save none.p --out a.png", "none.p is not there"),
        ("weights --save one.csv --out a.png", "one.csv is not a checkpoint"),
        ("game --save none.p --out a.gif", "none.p is not there"),
        ("game --save {save} --from 10001 --out a.gif", "over after step"),
        ("game --steps 0", "'0' is not a whole number from 1 on"),
        ("game --from -1", "--from"),
        ("game --steps 5 --points 1", "not allowed with"),
    ],
)
def test_bad_input_is_one_line_and_status_2(args, message, save, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pong_pg, "MAX_STEPS", 100)
    row = "0,-20.0,-20.0,1549,3.612\n"
    for name, text in {
        "empty": "", "header": LOG, "short": LOG + "0,1,2\n", "words": LOG + row.replace("0", "x"),
        "nan": LOG + row.replace("1549", "nan"), "late": LOG + row.replace("1549", "4000"),
        "binary": "\0\udcff\n", "one": LOG + row,
    }.items():  # fmt: skip
        (tmp_path / f"{name}.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    before = sorted(tmp_path.iterdir())
    assert draw(*args.format(save=save).split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("figures: ") and err.count("\n") == 1 and message in err
    assert out == ""
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "one.csv").read_text() == LOG + row


@pytest.mark.parametrize(
    "args, module, package",
    [
        (f"curve {logs.PPO_LOGS[0]} --out a.png", "matplotlib", "matplotlib"),
        ("weights --out a.png", "PIL", "Pillow"),
        ("game --out a.mp4", "imageio_ffmpeg", "imageio-ffmpeg"),
    ],
)
def test_a_missing_package_is_named(args, module, package, tmp_path):
    code = f"import sys, runpy; sys.modules[{module!r}] = None; del sys.argv[0]"
    code += "; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(ROOT / "tools" / "figures.py"), *args.split()]
    done = subprocess.run(command, cwd=str(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr == f"figures: {package} is missing: python -m pip install {package}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_picture_does_not_replace_what_it_shows(save, tmp_path, capsys):
    checkpoint, log = tmp_path / "mine.png", tmp_path / "log.png"
    shutil.copy(save, checkpoint)
    shutil.copy(next(logs.RESULTS.glob("*.csv")), log)
    before = {path: path.read_bytes() for path in (checkpoint, log)}
    assert len(before) == 2
    for words in ["weights", "--save", checkpoint], ["curve", log]:
        assert draw(*words, "--out", words[-1]) == 2
        one_line(capsys.readouterr().err, "is the file that is read", tool="figures")
    assert {path: path.read_bytes() for path in before} == before


def test_a_write_that_fails_leaves_the_old_file_and_no_other(save, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError("No space left on device")

    (tmp_path / "a.png").write_text("old")
    monkeypatch.setattr(figures.os, "replace", full)
    assert draw("weights", "--save", save, "--out", tmp_path / "a.png") == 1
    one_line(capsys.readouterr().err, "a.png cannot be written", "No space left", tool="figures")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "old"


@pytest.mark.parametrize(
    "figure", ["", "curve", "minutes", "weights", "game", "pictures", "tables"]
)
def test_help_fits_a_screen(figure, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert draw(*figure.split(), "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
