"""tools/fast.py: the recipe for the cores, its commands, and going on where it was stopped."""

import shlex

import numpy as np
import pytest
from helpers import (
    ROOT,
    SMALL_MODULE,
    InThisProcess,
    games_in,
    make_model,
    run_here,
    run_script,
    write_log,
)

import pong_pg
from tools import fast, logs


def call(*args):
    """Exit status of `fast.py ARGS`."""
    try:
        return fast.main(list(map(str, args)))
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The commands that fast.py runs in tmp_path, which play nothing."""
    commands = []
    monkeypatch.setattr(pong_pg, "main", lambda argv: commands.append(argv) or 0)
    monkeypatch.chdir(tmp_path)
    return commands


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """checkpoint(games, batch) writes fast.p, of a small network."""
    monkeypatch.setattr(pong_pg, "H", 2)
    monkeypatch.setattr(pong_pg, "D", 3)

    def checkpoint(games, batch):
        model, hyper = make_model(2, 3), pong_pg.Hyperparameters(batch_size=batch)
        state = pong_pg.State(3, pong_pg.init_cache(model), hyper, games)
        pong_pg.save_checkpoint(tmp_path / "fast.p", model, state)

    return checkpoint


def test_the_recipe_is_the_one_for_as_many_cores_or_fewer():
    chosen = {cores: fast.choose(cores) for cores in (1, 2, 3, 4, 7, 8, 15, 16, 64)}
    assert list(chosen.values()) == [2, 2, 2, 4, 4, 8, 8, 16, 16]
    for cores, recipe in chosen.items():
        assert recipe in fast.RECIPES and (recipe <= cores or cores == 1)


def test_the_commands_are_run_one_after_the_other(ran, capsys):
    assert call("--cores", 2, "--seed", 10, "--quiet") == 0
    common = "--save fast.p --log fast.csv --seed 10 --quiet"
    assert [shlex.join(command) for command in ran] == [
        f"--episodes 800 --batch-size 2 --learning-rate 2e-3 --decay-rate 0.9 {common}",
        f"--resume --episodes 2500 --learning-rate 1e-3 --gamma 0.998 --decay-rate 0.95 {common}",
        f"--resume --learning-rate 3e-4 --gamma 0.99 {common}",
    ]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("recipe for 2 cores, 0 games played: some 36 minutes to an even")
    assert said[1:] == [pong_pg.command(*command) for command in ran]


@pytest.mark.parametrize(
    "games, legs, first",
    [
        (100, 3, "--resume --episodes 700 --batch-size 2"),
        (800, 2, "--resume --episodes 2500 --learning-rate 1e-3"),
        (802, 2, "--resume --episodes 2498 --learning-rate 1e-3"),
        (3300, 1, "--resume --learning-rate 3e-4"),
        (9000, 1, "--resume --learning-rate 3e-4"),
    ],
)
def test_it_goes_on_where_it_was_stopped(games, legs, first, ran, checkpoint):
    checkpoint(games, 2)
    assert call("--cores", 2) == 0
    assert len(ran) == legs and shlex.join(ran[0]).startswith(first)


def test_a_command_that_fails_or_is_stopped_is_the_last(ran, monkeypatch):
    monkeypatch.setattr(pong_pg, "main", lambda argv: ran.append(argv) or 130)
    assert call("--cores", 2) == 130 and len(ran) == 1


def test_a_dry_run_runs_nothing(ran, capsys):
    assert call("--cores", 8, "--dry-run") == 0 and ran == []
    assert capsys.readouterr().out.count("pong_pg.py ") == len(fast.RECIPES[8])


def test_a_recipe_that_serves_other_cores_too_was_measured_for_them():
    played = {run.cores: run for run in logs.recipes()}
    runs = {run.cores: run for run in fast.measured()}
    assert list(runs) == [2, 4, 8, 16] == list(fast.RECIPES)
    assert all(runs[cores] == played[cores] for cores in (2, 8, 16))
    assert runs[4] == played[8]._replace(cores=4, label="fast recipe on 4 cores")


def test_the_forecast_is_by_the_logs():
    logged = [logs.read_log(path) for path in logs.recipes()[0].paths]
    evens = [logs.first_up_to(0, log["running_mean"]) for log in logged]
    for games in (0, 1000):
        left = []
        for log, even in zip(logged, evens):
            minutes = logs.minutes_on(2, log["length"], 2)
            left.append(minutes[even] - (minutes[games - 1] if games else 0))
        low, median, high = (round(x) for x in (min(left), np.median(left), max(left)))
        told = f"some {median} minutes to an even score ({low} to {high}, by the logs of 3 seeds)"
        assert fast.forecast(2, 2, games) == told
    assert "some 6" in fast.forecast(2, 1, 0)  # on one core it takes nearly twice as long
    assert fast.forecast(2, 2, 9000) == "no run was measured from here to an even score"


def test_the_forecast_is_by_the_seeds_that_got_there(tmp_path, monkeypatch):
    paths = tmp_path / "seed-1.csv", tmp_path / "seed-2.csv"
    for path, last in zip(paths, (1, -1)):
        write_log(path, [-21, -5, last], [4750 * 60] * 3)
    monkeypatch.setattr(fast, "measured", lambda: [logs.Run("mine", paths, batch=1)])
    assert fast.forecast(2, 2, 0) == "some 3 minutes to an even score (by the log of one seed)"


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--cores 8", "fast.p has batches of 2 games, and the recipe for 8 cores 8: --save NEW.p"),
        ("--save damaged.p", "damaged.p is not a checkpoint"),
        ("--gamma 0.5", "--gamma does not go with a recipe: python pong_pg.py --gamma"),
        ("--episodes 5", "--episodes does not go with a recipe"),
        ("--cores 0", "--cores 0: expected 1 or more"),
        ("--no-such-flag", "unrecognized arguments: --no-such-flag"),
    ],
)
def test_bad_input_is_one_line_and_status_2(flags, message, ran, checkpoint, tmp_path, capsys):
    checkpoint(100, 2)
    (tmp_path / "damaged.p").write_bytes(b"nothing")
    assert call(*flags.split()) == 2 and ran == []
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and message in err


def test_a_recipe_is_learnt_and_continued(tmp_path, monkeypatch):
    """Really, with few games: the second start plays what the first has left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pong_pg, "MAX_STEPS", 100)
    monkeypatch.setattr(pong_pg, "H", 8)
    monkeypatch.setattr(pong_pg, "choose_player", lambda *how: InThisProcess())
    first = (1, "--batch-size 1 --learning-rate 1e-3")
    short = [first, (1, "--gamma 0.9")]
    long = [first, (2, "--gamma 0.8")]
    for recipe, games in (short, 2), (long, 3):
        monkeypatch.setattr(fast, "RECIPES", {1: recipe})
        assert call("--seed", 3) == 0
        state = pong_pg.load_checkpoint(tmp_path / "fast.p")[1]
        assert (state.games, state.seed) == (games, 3)
    assert state.hyperparameters.gamma == 0.8
    assert logs.read_log(tmp_path / "fast.csv")["games"].tolist() == [1, 2, 3]


def test_the_tool_plays_with_workers(tmp_path):
    script = tmp_path / "fast.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport pong_pg\n{SMALL_MODULE}\n"
        "from tools import fast\nfast.RECIPES = {1: [(1, '--batch-size 1')]}\n"
        "if __name__ == '__main__': sys.exit(fast.main())\n"
    )
    assert run_script("--cores", 1, script=script, cwd=tmp_path).returncode == 0
    assert games_in(tmp_path / "fast.p") == 1


@pytest.mark.slow
@pytest.mark.parametrize("run", logs.recipes(), ids=lambda run: f"{run.cores}-cores")
def test_a_recipe_plays_the_games_of_its_logs(run, tmp_path, monkeypatch):
    """Two batches of a seed, for the second shows the rates."""
    leg = fast.commands(run.cores, 0)[0]
    leg[leg.index("--episodes") + 1] = str(2 * run.batch)
    path = run.paths[0]
    monkeypatch.chdir(tmp_path)
    assert run_here(*leg, "--seed", logs.seed_of(path), "--log", "log.csv") == 0
    played, logged = (logs.read_log(log) for log in (tmp_path / "log.csv", path))
    for column in "score", "running_mean", "length":
        assert played[column].tolist() == logged[column][: 2 * run.batch].tolist()
