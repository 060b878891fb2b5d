"""The agent that ships, save.p: that it wins, goes on learning, and is what README.md says."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, run_script

import pong_pg

sys.path.insert(0, str(ROOT / "tools"))
import figures  # noqa: E402
import watch  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
AGENT = (ROOT / "docs" / "agent.md").read_text(encoding="utf-8")


def rows_of(path):
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).tolist()


@pytest.fixture(scope="module")
def trained():
    """The games of docs/save.csv: (number, score, running mean, steps, seconds) each."""
    return rows_of(ROOT / "docs" / "save.csv")


@pytest.fixture(scope="module")
def agent(trained, tmp_path_factory):
    """A folder in which save.p is the agent that ships, whatever training has left in this one."""
    folder = tmp_path_factory.mktemp("agent")
    found = watch.find_agent()
    if found:
        shutil.copy(found, folder / "save.p")
    else:  # somebody went on training it
        command = ["git", "-C", str(ROOT), "show", "HEAD:save.p"]
        with (folder / "save.p").open("wb") as file:
            subprocess.run(command, stdout=file, check=True)
    assert watch.find_agent(folder) == folder / "save.p", "save.p and docs/save.csv differ"
    return folder


def test_the_agent_wins(agent):
    done = run_script("--evaluate", 5, "--seed", 101, cwd=agent)
    won, mean = re.search(r"won=(\d+) mean=(\S+)", done.stdout.splitlines()[-1]).groups()
    assert int(won) > 2 and float(mean) > 0, done.stdout


def test_the_agent_goes_on_learning(agent, trained, tmp_path):
    shutil.copy(agent / "save.p", tmp_path)
    shutil.copy(ROOT / "docs" / "save.csv", tmp_path)
    done = run_script(
        "--resume", "--episodes", 1, "--batch-size", 2, "--log", "save.csv", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert pong_pg.load_checkpoint(tmp_path / "save.p")[1]["games"] == len(trained) + 2
    assert [row[0] for row in rows_of(tmp_path / "save.csv")] == list(range(len(trained) + 2))


def test_another_script_reads_the_agent(agent):
    code = "import pickle; model = pickle.load(open('save.p', 'rb')); print(model['W1'].shape)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(agent), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "(200, 6400)\n", done.stderr


def test_the_agent_is_found_under_any_name_and_watched(agent, tmp_path):
    """After a first run of your own it is save.p.1, and save.p is yours."""
    for name in ("pong_pg.py", "tools/watch.py", "docs/save.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "tools/watch.py", "--seed", "101"]
    screen = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    options = {"cwd": str(tmp_path), "env": {**os.environ, **screen}, "stderr": subprocess.PIPE}
    done = subprocess.run(command, **options)
    assert done.returncode == 2 and b"git show HEAD:save.p" in done.stderr
    shutil.copy(agent / "save.p", tmp_path / "save.p.1")
    (tmp_path / "save.p").write_bytes(b"my own")
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as run:
        lines = [run.stdout.readline() for _ in range(3)]
        run.send_signal(signal.SIGINT)
    assert lines[:2] == [b"save.p.1 plays\n", b"evaluating save.p.1, seed 101\n"]
    assert lines[2].startswith(b"ep 0: game finished, reward: ") and run.returncode == 130


def test_readmes_commands_work_in_one_folder_in_any_order(tmp_path):
    """Train first, then test: the first run makes save.p the newcomer's own."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth", "1", ROOT.as_uri(), str(clone)], check=True)
    train = [sys.executable, "pong_pg.py", "--batch-size", "1"]
    with subprocess.Popen(train, cwd=str(clone), stdout=subprocess.PIPE, text=True) as run:
        while "resetting env" not in run.stdout.readline():
            pass
        run.send_signal(signal.SIGINT)
        assert "saved save.p: " in run.stdout.read()
    assert run.returncode == 130 and (clone / "save.p.1").exists()
    test = [sys.executable, "-m", "pytest", "-n", "0", "tests/test_agent.py"]
    test += ["-k", "another_script or commands_in_the_readme or games_and_hours"]
    done = subprocess.run(test, cwd=str(clone), stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    status = subprocess.run(
        ["git", "status", "--short"], cwd=str(clone), stdout=subprocess.PIPE, text=True
    )
    assert status.stdout == " M save.p\n"


def test_the_commands_in_the_readme_made_the_agent(agent, trained):
    block = re.search(r"<!-- train the agent -->\n```bash\n(.*?)```", AGENT, re.S).group(1)
    commands = [pong_pg.parse_arguments(shlex.split(line)[2:]) for line in block.splitlines()]
    state = pong_pg.load_checkpoint(agent / "save.p")[1]
    assert [args.resume for args in commands] == [False] + [True] * (len(commands) - 1)
    assert {args.log for args in commands} == {"docs/save.csv"}
    assert commands[0].seed == state["seed"]
    assert sum(args.episodes for args in commands) == state["games"]
    hyperparameters = state["hyperparameters"]
    assert commands[-1].learning_rate == hyperparameters["learning_rate"]
    for name in ("batch_size", "gamma", "decay_rate"):
        assert hyperparameters[name] == getattr(pong_pg, name)  # the commands leave them alone
        assert {getattr(args, name) for args in commands} == {None}


def test_the_readme_tells_games_and_hours_of_the_log(trained):
    row = re.search(r"^\| `save\.p` .*", README, re.M).group()
    assert f"| {len(trained):,} |" in row and f"| {trained[-1][4] / 3600:.1f} hours |" in row


@pytest.mark.parametrize("name", ["game.gif", "curve.png", "weights.png", "default.png"])
def test_the_readme_shows_pictures_of_moderate_size(name):
    assert f"(docs/{name})" in README or f"({name})" in AGENT
    assert 10_000 < (ROOT / "docs" / name).stat().st_size < 3_000_000


@pytest.mark.parametrize("name, part", [("how long", 0), ("normal", 1)])
def test_the_readmes_tables_are_those_of_the_logs(name, part):
    names = ["default", "seed10", "seed11", "seed12", "save"]
    logs = [f"docs/{name}.csv" for name in names]
    command = [sys.executable, "tools/figures.py", "table", *logs]
    printed = subprocess.run(command, cwd=str(ROOT), capture_output=True, text=True, check=True)
    shown = README.split(f"<!-- {name} -->\n")[1].split("\n\n")[0]
    assert printed.stdout.strip().split("\n\n")[part] == shown
    if name == "how long":
        even = sorted(map(int, re.findall(r"^\| seed.*, (\d+) min \|$", shown, re.M)))
        assert "{}, {} and {} minutes".format(*even) in README


def test_the_readme_tells_what_the_blog_posts_rates_came_to():
    text, log = " ".join(README.split()), figures.read_log(ROOT / "docs" / "default.csv")
    told = re.search(r"untouched, very long: (.*?)\. Other seeds", text).group(1)
    marks = re.findall(r"(-\d+) after (\d+,\d+)", told)
    games = [int(number.replace(",", "")) for _, number in marks]
    assert [int(score) for score, _ in marks] == [round(log["running_mean"][n - 1]) for n in games]
    assert f" {log['steps'][games[-1] - 1]:.0f} million steps" in told
    assert f"in {games[-1]:,} games" in AGENT and f"--games {games[-1]} " in AGENT
    assert games[-1] == len(log["steps"])
    within = int(re.search(r"come there within (\S+) games", text).group(1).replace(",", ""))
    logs = [figures.read_log(ROOT / "docs" / f"seed{seed}.csv") for seed in (10, 11, 12)]
    score = log["running_mean"][-1]
    slowest = max(figures.first_up_to(score, faster["running_mean"]) + 1 for faster in logs)
    assert within - 50 < slowest <= within


def test_the_readme_tells_where_seed_10_came_to():
    rows = rows_of(ROOT / "docs" / "seed10.csv")
    hours = sum(row[3] for row in rows) / figures.SPEED / 3600
    mean = np.mean([row[1] for row in rows[-2000:]])
    told = "the last 2,000 of its {:,} games, {:.1f} hours in, had a mean score of {:+.1f}."
    assert told.format(len(rows), hours, mean) in README


def test_the_fast_commands_play_the_games_of_the_logs(tmp_path):
    """Two batches of each seed, for the second shows the rates; the others go on, 800 games in."""
    block = re.search(r"<!-- fast -->\n```bash\n(.*?)```", README, re.S).group(1)
    first, *others = (shlex.split(line)[2:] for line in block.splitlines())
    first[first.index("--episodes") + 1] = "4"
    for seed in "10", "11", "12":
        flags = ["--seed", seed, "--log", f"{seed}.csv", "--workers", 1]
        done = run_script(*first, *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        logged = rows_of(ROOT / "docs" / f"seed{seed}.csv")[:4]
        assert [row[:4] for row in rows_of(tmp_path / f"{seed}.csv")] == [row[:4] for row in logged]
    assert len(others) == 2 and all(pong_pg.parse_arguments(other).resume for other in others)
