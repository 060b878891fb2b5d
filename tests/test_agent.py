"""The agent that ships, save.p: that it wins, goes on learning, and was made as its page says."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from helpers import ROOT, one_line, posix, put_agent, run_script

import pong_pg

sys.path.insert(0, str(ROOT / "tools"))
import watch  # noqa: E402

PAGE = (ROOT / "results" / "README.md").read_text(encoding="utf-8")


def rows_of(path):
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).tolist()


@pytest.fixture(scope="module")
def trained():
    """The games of results/agent.csv: (number, score, running mean, steps, seconds) each."""
    return rows_of(ROOT / "results" / "agent.csv")


@pytest.fixture(scope="module")
def agent(trained, tmp_path_factory):
    """A folder in which save.p is the agent that ships, whatever training has left in this one."""
    folder = tmp_path_factory.mktemp("agent")
    put_agent(folder)
    assert watch.find_agent(folder) == folder / "save.p", "save.p and results/agent.csv differ"
    return folder


@pytest.mark.slow
def test_the_agent_wins(agent):
    done = run_script("--evaluate", 3, "--seed", 101, cwd=agent)
    won, mean = re.search(r"won=(\d+) mean=(\S+)", done.stdout.splitlines()[-1]).groups()
    assert int(won) >= 2 and float(mean) > 0, done.stdout


@pytest.mark.slow
def test_the_agent_goes_on_learning(agent, trained, tmp_path):
    shutil.copy(agent / "save.p", tmp_path)
    shutil.copy(ROOT / "results" / "agent.csv", tmp_path / "log.csv")
    done = run_script(
        "--resume", "--episodes", 1, "--batch-size", 1, "--log", "log.csv", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert pong_pg.load_checkpoint(tmp_path / "save.p")[1].games == len(trained) + 1
    assert [row[0] for row in rows_of(tmp_path / "log.csv")] == list(range(len(trained) + 1))


def test_another_script_reads_the_agent(agent):
    code = "import pickle; model = pickle.load(open('save.p', 'rb')); print(model['W1'].shape)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(agent), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "(200, 6400)\n", done.stderr


def test_another_checkpoint_is_not_watched_as_the_agent(capsys):
    assert watch.main(["--save=mine.p"]) == 2
    one_line(capsys.readouterr().err, "--evaluate 1 --render --save PATH", tool="watch")


@posix
@pytest.mark.slow
def test_the_agent_is_found_under_any_name_and_watched(agent, tmp_path):
    """After a first run of your own it is save.p.1, and save.p is yours."""
    for name in ("pong_pg.py", "tools/watch.py", "results/agent.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "tools/watch.py", "--seed", "101"]
    screen = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    options = {"cwd": str(tmp_path), "env": {**os.environ, **screen}, "stderr": subprocess.PIPE}
    done = subprocess.run(command, **options)
    assert done.returncode == 2 and b"download save.p or pong_pg.py once more" in done.stderr
    shutil.copy(agent / "save.p", tmp_path / "save.p.1")
    (tmp_path / "save.p").write_bytes(b"my own")
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as run:
        lines = [run.stdout.readline() for _ in range(3)]
        run.send_signal(signal.SIGINT)
    assert lines[:2] == [b"save.p.1 plays\n", b"evaluating save.p.1, seed 101\n"]
    assert lines[2].startswith(b"ep 0: game finished, reward: ") and run.returncode == 130


def test_the_agent_is_known_by_the_end_of_its_log(trained):
    game, _, running_mean, *_ = trained[-1]
    assert (game + 1, running_mean) == (watch.GAMES, watch.RUNNING_MEAN)


def test_an_agent_that_training_went_on_from_is_brought_back(agent, tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    shutil.copy(agent / "save.p", tmp_path)
    for command in ["init", "-q"], ["add", "save.p"], ["commit", "-q", "-m", "the agent"]:
        subprocess.run([*git, *command], check=True)
    for mine in "save.p", "save.p.1":
        (tmp_path / mine).write_bytes(b"my own")
    assert watch.get_agent(tmp_path) == tmp_path / "save.p.2" == watch.find_agent(tmp_path)
    assert (tmp_path / "save.p.2").read_bytes() == (agent / "save.p").read_bytes()
    assert (tmp_path / "save.p").read_bytes() == (tmp_path / "save.p.1").read_bytes() == b"my own"
    assert watch.get_agent(tmp_path) == tmp_path / "save.p.2"  # it is only brought back once
    changed = mock.patch.object(pong_pg, "H", 100)
    with changed, pytest.raises(FileNotFoundError, match="pong_pg.py was changed"):
        watch.get_agent(tmp_path)
    assert not (tmp_path / "save.p.3").exists()


@posix
@pytest.mark.slow
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
    test += ["-k", "another_script or made_the_agent"]
    done = subprocess.run(test, cwd=str(clone), stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    status = subprocess.run(
        ["git", "status", "--short"], cwd=str(clone), stdout=subprocess.PIPE, text=True
    )
    assert status.stdout == " M save.p\n"


def test_the_commands_of_the_page_made_the_agent(agent, trained):
    block = re.search(r"<!-- train the agent -->\n```bash\n(.*?)```", PAGE, re.S).group(1)
    commands = [pong_pg.parse_arguments(shlex.split(line)[2:]) for line in block.splitlines()]
    state = pong_pg.load_checkpoint(agent / "save.p")[1]
    assert [args.resume for args in commands] == [False] + [True] * (len(commands) - 1)
    assert {args.log for args in commands} == {"results/agent.csv"}
    assert commands[0].seed == state.seed
    assert sum(args.episodes for args in commands) == state.games
    hyperparameters = state.hyperparameters
    assert commands[-1].learning_rate == hyperparameters.learning_rate
    for name in ("batch_size", "gamma", "decay_rate"):
        assert getattr(hyperparameters, name) == getattr(
            pong_pg, name
        )  # the commands leave them alone
        assert {getattr(args, name) for args in commands} == {None}
