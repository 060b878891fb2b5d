"""The agent that ships, save.p: that it wins, goes on learning, and is what README.md says."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, run_script

import pong_pg

README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows_of(path):
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).tolist()


@pytest.fixture(scope="module")
def trained():
    """The games of docs/save.csv: (number, score, running mean, steps, seconds) each."""
    return rows_of(ROOT / "docs" / "save.csv")


@pytest.fixture(scope="module")
def agent(trained):
    model, state = pong_pg.load_checkpoint(ROOT / "save.p")
    shipped = state is not None and (state["games"], state["running_mean"]) == (
        len(trained), trained[-1][2],
    )  # fmt: skip
    assert shipped, "save.p is not the agent that ships: git checkout save.p docs/save.csv"
    return model, state


def test_the_agent_wins(agent):
    done = run_script("--evaluate", 10, "--seed", 101, cwd=ROOT)
    won, mean = re.search(r"won=(\d+) mean=(\S+)", done.stdout.splitlines()[-1]).groups()
    assert int(won) > 5 and float(mean) > 0, done.stdout


def test_the_agent_goes_on_learning(agent, tmp_path):
    (tmp_path / "save.p").write_bytes((ROOT / "save.p").read_bytes())
    (tmp_path / "save.csv").write_bytes((ROOT / "docs" / "save.csv").read_bytes())
    done = run_script(
        "--resume", "--episodes", 1, "--batch-size", 2, "--log", "save.csv", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    games = agent[1]["games"]
    assert pong_pg.load_checkpoint(tmp_path / "save.p")[1]["games"] == games + 2
    assert [row[0] for row in rows_of(tmp_path / "save.csv")] == list(range(games + 2))


def test_another_script_reads_the_agent(agent):
    code = "import pickle; model = pickle.load(open('save.p', 'rb')); print(model['W1'].shape)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "(200, 6400)\n", done.stderr


def test_the_commands_in_the_readme_made_the_agent(agent, trained):
    block = re.search(r"<!-- train the agent -->\n```bash\n(.*?)```", README, re.S).group(1)
    commands = [pong_pg.parse_arguments(shlex.split(line)[2:]) for line in block.splitlines()]
    state = agent[1]
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


@pytest.mark.parametrize("name", ["game.gif", "curve.png", "weights.png"])
def test_the_readme_shows_pictures_of_moderate_size(name):
    assert f"(docs/{name})" in README
    assert 10_000 < (ROOT / "docs" / name).stat().st_size < 3_000_000
