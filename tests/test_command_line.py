"""Every flag, and for every mistake one line that says what to do."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from helpers import ROOT, SCRIPT, SMALL, edited, files, one_line, posix, refused, run_script

import pong_pg


def parse(*args):
    return pong_pg.parse_arguments([str(arg) for arg in args])


@pytest.fixture
def is_refused(tmp_path, monkeypatch, capsys):
    """is_refused(flags, words): in `tmp_path`, with status 2 and one line that holds them."""
    monkeypatch.chdir(tmp_path)

    def is_refused(flags, *words):
        try:
            status = pong_pg.main([str(flag) for flag in flags])
        except SystemExit as end:  # by argparse
            status = end.code
        assert status == 2
        one_line(capsys.readouterr().err, *words)

    return is_refused


def test_import_starts_nothing_and_needs_no_emulator():
    code = (
        "import signal, sys, threading, multiprocessing\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "for name in ('gym', 'gymnasium', 'ale_py'): sys.modules[name] = None\n"
        "import pong_pg\n"
        "assert threading.active_count() == 1 and not multiprocessing.active_children()\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
        "assert pong_pg.init_model and not pong_pg.resume and not pong_pg.render\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_defaults_are_the_constants_at_the_top():
    args = parse()
    assert (args.resume, args.render, args.save, args.quiet) == (False, False, "save.p", False)
    assert (pong_pg.batch_size, pong_pg.learning_rate) == (10, 1e-4)
    assert (pong_pg.gamma, pong_pg.decay_rate) == (0.99, 0.99)


def test_resume_and_render_are_also_toggled_by_hand(tmp_path):
    text = SCRIPT.read_text()
    text = re.sub(r"^resume = False", "resume = True", text, flags=re.M)
    text = re.sub(r"^render = False", "render = True", text, flags=re.M)
    (tmp_path / "edited.py").write_text(text)
    code = "import edited; a = edited.parse_arguments([]); print(a.resume, a.render)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(tmp_path), capture_output=True, text=True
    )
    assert done.stdout == "True True\n"
    code = "import edited; edited.parse_arguments(['--cluster', 'local'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(tmp_path), capture_output=True, text=True
    )
    refused(done, "--render does not go with --cluster")


def test_help_fits_a_screen_and_names_every_flag(tmp_path):
    done = run_script("--help", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) <= 25 and max(map(len, lines)) <= 80
    flags = "resume render save save-every episodes seed workers cluster batch-size learning-rate"
    for flag in (flags + " gamma decay-rate log quiet evaluate version").split():
        line = next(line for line in lines if re.match(rf"  --{flag}( |$)", line))
        assert len(line.split("  ")[-1].split()) >= 2, line


def test_version_names_everything_a_bug_report_needs(tmp_path):
    out = run_script("--version", cwd=tmp_path).stdout
    assert re.match(r"pong_pg \d+\.\d+\.\d+, Python 3\.\d+\.\d+, numpy \d+\.", out)
    assert re.search(r", gym(nasium)? \d+\.", out) and re.search(r", ale-py \d+\.", out)


@pytest.mark.parametrize(
    "flags",
    [
        "--workers 0", "--workers -1", "--workers x", "--workers 1.5", "--batch-size 0",
        "--learning-rate 0", "--learning-rate -1e-4", "--learning-rate nan",
        "--learning-rate inf", "--learning-rate 1e160", "--gamma 1.01", "--gamma -0.1",
        "--gamma nan", "--decay-rate 1", "--decay-rate -0.5", "--episodes 0", "--episodes -3",
        "--save-every 0", "--seed -1", "--seed 1.5", "--evaluate 0", "--evaluate many",
        "--evaluate 3 --episodes 5", "--evaluate 3 --gamma 0.5", "--evaluate 3 --log x.csv",
        "--no-such-flag", "stray", "--save",
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused_with_the_reason(flags, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(*flags.split())
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and flags.split()[0].strip("-") in error


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--save-every 15", ["--save-every 15", "batch size 10"]),
        ("--save no/such/folder/save.p", ["no/such/folder", "folder that is there"]),
        ("--log no/such/folder/log.csv", ["no/such/folder", "folder that is there"]),
        ("--save .", ["cannot be written"]),
        ("--log .", ["cannot be written"]),
        ("--log save.p", ["same file"]),
        ("--resume", ["save.p", "is not there"]),
        ("--evaluate 2", ["save.p", "is not there"]),
        ("--resume --save other.p", ["other.p"]),
    ],
)
def test_what_cannot_work_is_refused_before_a_game_is_played(tmp_path, is_refused, flags, words):
    is_refused(flags.split(), *words)
    assert list(tmp_path.iterdir()) == []


def test_resume_refuses_another_seed_and_a_save_every_that_does_not_fit(
    short_run, tmp_path, is_refused
):
    shutil.copy(short_run / "save.p", tmp_path)
    before = (tmp_path / "save.p").read_bytes()
    is_refused(["--resume", "--seed", 4], "--seed 4", "seed 3")
    is_refused(["--resume", "--save-every", 3], "batch size 2")
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    is_refused(["--resume", "--log", "log.csv"], "log.csv", "is not a log of this script")
    assert (tmp_path / "log.csv").read_text() == "a,b\n1,2\n"
    assert (tmp_path / "save.p").read_bytes() == before
    assert files(tmp_path) == ["log.csv", "save.p"]


def test_resume_announces_what_changes_and_nothing_else(shrink, tmp_path, capsys):
    """A batch size that is given again, and is the checkpoint's, is nothing to say."""
    model, state = shrink(2, 3)
    path = str(tmp_path / "save.p")
    pong_pg.save_checkpoint(path, model, state)
    assert state.hyperparameters.batch_size == 2
    for changes, lines in (
        ({}, []),
        ({"batch_size": 2, "gamma": 0.99, "learning_rate": 1e-3, "decay_rate": 0.99}, []),
        (
            {"batch_size": 4, "decay_rate": 0.98},
            ["batch_size 4 replaces the checkpoint's 2", "decay_rate 0.98 replaces the", "0.99"],
        ),
    ):
        _, resumed = pong_pg.resume_run(path, 3, changes)
        assert asdict(resumed.hyperparameters) == {**asdict(state.hyperparameters), **changes}
        said = capsys.readouterr().out
        assert said.startswith(f"resuming {path}: 6 games") and all(line in said for line in lines)
        assert said.count("replaces") == len(changes if lines else [])


@pytest.mark.parametrize("name", pong_pg.LIMITS)
def test_the_limits_of_a_number_are_those_that_its_message_names(name, capsys):
    """The least and the most are taken; what is next to them is refused, with both."""
    least, most = pong_pg.LIMITS[name]
    beyond = (least - 1, most + 1)
    if isinstance(least, float):
        beyond = (float(np.nextafter(least, -1)), float(np.nextafter(most, np.inf)))
    flag = "--" + name.replace("_", "-")
    for value in least, most:
        assert getattr(parse(f"{flag}={value!r}"), name) == value
    for value in beyond:
        with pytest.raises(SystemExit):
            parse(f"{flag}={value!r}")
        one_line(capsys.readouterr().err, flag, f"from {least} to {most}", f"found '{value!r}'")


def test_a_field_of_another_size_than_d_is_refused(monkeypatch, is_refused):
    """As in ports that crop the field by 10 more rows."""
    monkeypatch.setattr(pong_pg, "FIELD", np.s_[45:195:2, ::2])
    is_refused([], "FIELD takes 6000 pixels", "set D = 6000")
    monkeypatch.setattr(pong_pg, "D", 12000)
    is_refused([], "set D = 6000", "write 2 * D in init_model and play_game if frames are stacked")


def test_a_nonsense_constant_is_refused_like_a_nonsense_flag(tmp_path):
    text = re.sub(r"^batch_size = 10", "batch_size = 0", SCRIPT.read_text(), flags=re.M)
    (tmp_path / "edited.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "edited.py"], cwd=str(tmp_path), capture_output=True, text=True
    )
    refused(done, "batch_size: expected int from 1 to", "found 0")


def test_a_damaged_checkpoint_is_refused_with_one_line(short_run, tmp_path, is_refused):
    (tmp_path / "save.p").write_bytes((short_run / "save.p").read_bytes()[:-1])
    for flags in ["--resume"], ["--evaluate", 1]:
        is_refused(flags, "save.p", "checksum")


def test_without_a_display_render_says_so(short_run):
    nowhere = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "SDL_VIDEODRIVER": ""}
    for flags in (["--render"], ["--evaluate", 1, "--render"]):
        done = run_script(*flags, cwd=short_run, env=nowhere)
        if sys.platform.startswith("linux"):
            refused(done, "--render needs a display")


@posix
def test_render_shows_the_game_and_changes_nothing_else(short_run, tmp_path):
    """A point's line appears as it is scored, seconds into the game; the game is the same one."""
    screen = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    flags = "--render --seed 3 --batch-size 2 --learning-rate 1e-3".split()
    run = subprocess.Popen(
        [sys.executable, str(SCRIPT), *flags], cwd=str(tmp_path), env={**os.environ, **screen},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    shown = [run.stdout.readline() for _ in range(3)]
    run.send_signal(signal.SIGINT)
    _, error = run.communicate(timeout=20)
    assert (run.returncode, error) == (130, "")
    assert shown == (short_run / "stdout").read_text().splitlines(keepends=True)[:3]
    assert shown[1].startswith("ep 0: game finished, reward: ")


def test_an_evaluation_is_shown_as_well(short_run, tmp_path):
    screen = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    script = edited(tmp_path / "short.py", SMALL[0])
    flags = "--evaluate 2 --seed 8 --render".split()
    done = run_script(*flags, cwd=short_run, script=script, env=screen)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for game in 0, 1:
        (total,) = (line for line in lines if line.startswith(f"game {game}: "))
        points = [line for line in lines if line.startswith(f"ep {game}: game finished, reward: ")]
        assert points and lines.index(points[-1]) < lines.index(total)
        assert sum(float(line.split()[5]) for line in points) == float(total.split()[2])


@pytest.mark.parametrize("flags, points", [([], 2), (["--render"], 0)])
def test_points_that_were_shown_live_are_not_printed_again(
    flags, points, tmp_path, monkeypatch, capsys
):
    class Player:
        def play(self, model, seeds, gamma):
            gradient = {"W1": (np.array([0]), np.zeros((1, pong_pg.H))), "W2": np.zeros(pong_pg.H)}
            return [pong_pg.Game([-1.0], 9, gradient) for _ in seeds]

        def close(self):
            pass

    monkeypatch.setattr(pong_pg, "choose_player", lambda *how: Player())
    monkeypatch.chdir(tmp_path)
    assert pong_pg.main([*"--episodes 2 --batch-size 2".split(), *flags]) == 0
    out = capsys.readouterr().out
    assert out.count(": game finished, reward: -1.0") == points
    assert out.count("resetting env. episode reward total was -1.000000. running mean: -1.0") == 2


def test_quiet_is_a_bar_on_standard_error(tmp_path, quick):
    flags = "--quiet --episodes 2 --batch-size 2 --seed 3 --learning-rate 1e-3".split()
    done = run_script(*flags, cwd=tmp_path, script=quick)
    assert done.returncode == 0
    assert "ep 0" not in done.stdout and "resetting" not in done.stdout
    assert re.search(r"2/2 .*running mean -\d+\.\d\d, \d+ steps/s", done.stderr), done.stderr
    done = run_script("--evaluate", 1, "--quiet", cwd=tmp_path, script=quick)
    assert "evaluation: games=1" in done.stdout and "1/1" in done.stderr
    assert "game 0" not in done.stdout


def test_save_every_rounds_up_to_whole_batches(short_run, tmp_path, quick):
    """Of 4 games in batches of 2, a default of 100 saves at the end only."""
    flags = "--episodes 4 --batch-size 2 --seed 3".split()
    done = run_script(*flags, cwd=tmp_path, script=quick)
    assert done.stdout.count("saved save.p") == 1
    assert (short_run / "stdout").read_text().count("saved save.p") == 3


@posix
def test_a_reader_who_leaves_ends_the_run_without_a_traceback(tmp_path, quick):
    command = f"'{sys.executable}' '{quick}' --seed 3 --batch-size 1 | head -n 2"
    done = subprocess.run(
        ["bash", "-c", command], cwd=str(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


def test_on_windows_a_pipe_that_was_closed_is_an_invalid_argument(monkeypatch):
    def write_to_it(*args):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    dropped = []
    monkeypatch.setattr(pong_pg, "run", write_to_it)
    monkeypatch.setattr(pong_pg, "output_goes_nowhere", lambda: dropped.append(1) or 1)
    assert pong_pg.main([]) == 1 and not dropped
    monkeypatch.setattr(sys, "platform", "win32")
    assert pong_pg.main([]) == 1 and dropped


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_output_on_a_full_disk_is_not_taken_for_the_checkpoint(tmp_path, quick):
    command = f"'{sys.executable}' '{quick}' --seed 3 --batch-size 1 > /dev/full"
    done = subprocess.run(
        ["sh", "-c", command], cwd=str(tmp_path), stderr=subprocess.PIPE, text=True, timeout=300
    )
    assert done.returncode == 1
    one_line(done.stderr, "the output cannot be written", os.strerror(errno.ENOSPC))
