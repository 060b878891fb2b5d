"""Real runs, end to end: one seed, one result, whatever plays it and however often it is cut."""

import csv
import math
import pickle
import re
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers import (
    SMALL,
    InThisProcess,
    edited,
    load,
    log_without_seconds,
    run_here,
    run_script,
    sha256,
)

import pong_pg

RUN = "--seed 3 --batch-size 2 --save-every 2 --learning-rate 1e-3".split()


# ---- one run, looked at


def test_output_is_a_line_a_point_and_a_line_a_game(short_run):
    lines = (short_run / "stdout").read_text().splitlines()
    point = re.compile(r"ep (\d+): game finished, reward: (-1\.0|1\.0 !!!!!!!!)")
    game = re.compile(
        r"resetting env\. episode reward total was (-?\d+\.0{6})\. running mean: (-?\d+\.\d{6})"
    )
    number, total, mean, games = 0, 0.0, None, []
    for line in lines:
        if point.fullmatch(line):
            k, reward = point.fullmatch(line).groups()
            assert int(k) == number
            total += float(reward.split()[0])
        elif game.fullmatch(line):
            assert float(game.fullmatch(line).group(1)) == total
            mean = total if mean is None else 0.99 * mean + 0.01 * total
            assert float(game.fullmatch(line).group(2)) == pytest.approx(mean, abs=1e-6)
            games.append(total)
            number, total = number + 1, 0.0
        else:
            assert re.match(r"training from scratch, seed 3|saved save\.p: \d games", line), line
    assert len(games) == 6 and all(-21 <= g <= 21 for g in games)
    assert (short_run / "stderr").read_text() == ""


def test_log_has_a_row_a_game(short_run):
    header, *rows = csv.reader((short_run / "log.csv").open())
    assert header == ["episode", "reward", "running_mean", "steps", "seconds"]
    assert [int(row[0]) for row in rows] == list(range(6))
    mean = None
    for row in rows:
        reward = float(row[1])
        mean = reward if mean is None else 0.99 * mean + 0.01 * reward
        assert float(row[2]) == mean
        assert 500 < int(row[3]) <= 10_000
    seconds = [float(row[4]) for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert float(rows[-1][2]) == pong_pg.load_checkpoint(short_run / "save.p")[1].running_mean


def test_any_script_reads_the_model_with_one_pickle_load(short_run):
    with (short_run / "save.p").open("rb") as file:
        model = pickle.load(file)
    assert set(model) == {"W1", "W2"} and type(model) is dict
    assert model["W1"].shape == (pong_pg.H, pong_pg.D) and model["W1"].dtype == np.float64
    assert model["W1"].flags.c_contiguous and model["W2"].shape == (pong_pg.H,)


def test_such_a_model_plays_the_same_game_and_no_slower(shrink, monkeypatch):
    """In the order of init_model, for in another all of W1 would be read at each step."""
    model, _ = shrink(8, pong_pg.D)
    orders, forward = set(), pong_pg.policy_forward

    def noted(model, x):
        orders.add(model["W1"].flags.f_contiguous)
        return forward(model, x)

    monkeypatch.setattr(pong_pg, "policy_forward", noted)
    monkeypatch.setattr(pong_pg, "MAX_STEPS", 100)
    games = []
    for order in "CF":
        laid_out = {**model, "W1": np.array(model["W1"], order=order)}
        games.append(pong_pg.play_game(pong_pg.Pong(), laid_out, np.random.default_rng(3)))
        assert laid_out["W1"].flags[f"{order}_CONTIGUOUS"]
    assert all(np.array_equal(a, b) for a, b in zip(*games)) and orders == {True}


# ---- one seed, one result


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The script has a small network and short games, and finds its files in this folder."""
    monkeypatch.setattr(pong_pg, "MAX_STEPS", 100)
    monkeypatch.setattr(pong_pg, "H", 8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("workers, threads", [(1, "2"), (3, "7")])
def test_any_number_of_workers_gives_the_bits_of_none(quick, small, workers, threads):
    """With games to their end: below, where a run is resumed with another number."""
    flags = "--seed 3 --episodes 4 --batch-size 4 --learning-rate 1e-3 --workers".split()
    flags.append(workers)
    env = {"OPENBLAS_NUM_THREADS": threads}
    done = run_script(*flags, "--log", "log.csv", cwd=small, script=quick, env=env)
    assert done.returncode == 0
    assert run_here(*flags, "--log", "here.csv", "--save", "here.p") == 0
    assert sha256(small / "save.p") == sha256(small / "here.p")
    log = log_without_seconds(small / "log.csv")
    assert log == log_without_seconds(small / "here.csv") and "-1.0" in [row[1] for row in log]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_worker_has_one_blas_thread_whatever_is_said_outside(monkeypatch):
    """The products are too small here for threads to tell in the bits: not so on every BLAS."""
    for blas in ("OPENBLAS", "OMP", "MKL"):
        monkeypatch.setenv(blas + "_NUM_THREADS", "7")
    pong_pg.Workers(1)
    worker = pong_pg.Worker(show=False)
    proc = Path(f"/proc/{worker.process.pid}")
    while b"spawn_main" not in (proc / "cmdline").read_bytes():
        time.sleep(0.01)
    environment = (proc / "environ").read_bytes().split(b"\0")
    worker.process.kill()
    worker.process.join()
    assert {b"OPENBLAS_NUM_THREADS=1", b"OMP_NUM_THREADS=1", b"MKL_NUM_THREADS=1"} <= {*environment}


def test_resume_equals_uninterrupted_for_any_number_of_workers(short_run, tmp_path):
    three, one = ["--log", "log.csv", "--workers", 3], ["--log", "log.csv", "--workers", 1]
    env = {"OPENBLAS_NUM_THREADS": "7"}
    done = run_script(*RUN, "--episodes", 3, *three, cwd=tmp_path, env=env)  # 4 in whole batches
    assert done.returncode == 0 and "saved save.p: 4 games" in done.stdout
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,-5.0,-20.0,1000,99\n5,-5.")  # rows of a batch that was not saved
    done = run_script("--resume", "--episodes", 2, *one, cwd=tmp_path)
    assert "resuming save.p: 4 games" in done.stdout and "ep 4: game finished" in done.stdout
    assert sha256(tmp_path / "save.p") == sha256(short_run / "save.p")
    assert log_without_seconds(tmp_path / "log.csv") == log_without_seconds(short_run / "log.csv")
    seconds = [float(row[4]) for row in list(csv.reader((tmp_path / "log.csv").open()))[1:]]
    assert seconds == sorted(seconds)


def test_another_seed_gives_another_run_and_none_is_drawn_and_said(small, capsys):
    flags = "--episodes 1 --batch-size 1 --learning-rate 1e-3".split()
    assert run_here(*flags) == 0
    said = capsys.readouterr().out
    seed = re.search(r"training from scratch, seed (\d+)", said).group(1)
    first = sha256(small / "save.p")
    assert run_here(*flags, "--seed", seed) == 0
    assert sha256(small / "save.p") == first
    assert sha256(small / "save.p.1") == first  # what the second run found there
    assert run_here(*flags) == 0
    first_model, other_model = load(small / "save.p.1")[0], load(small / "save.p")[0]
    assert (first_model["W1"] != other_model["W1"]).all()  # of another seed


def test_hyperparameters_given_with_resume_replace_the_checkpoints(small, capsys):
    assert run_here(*RUN, "--episodes", 2) == 0
    assert run_here(*"--resume --episodes 1 --gamma 0.98 --batch-size 1 --seed 3".split()) == 0
    said = capsys.readouterr().out
    assert "gamma 0.98 replaces the checkpoint's 0.99" in said
    assert "batch_size 1 replaces the checkpoint's 2" in said
    assert "  with batch_size 1, learning_rate 0.001, gamma 0.98, decay_rate 0.99 (only" in said
    assert "learning_rate 0.001 replaces" not in said
    _, state = load(small / "save.p")
    assert state.games == 3
    assert state.hyperparameters == pong_pg.Hyperparameters(1, 1e-3, 0.98, 0.99)


# ---- evaluation


def test_evaluation_plays_the_games_of_its_rule_for_any_number_of_workers(small, monkeypatch):
    monkeypatch.setattr(pong_pg, "MAX_STEPS", 400)  # enough for the scores to differ
    script = edited(small / "quick.py", ("MAX_STEPS = 10_000", "MAX_STEPS = 400"), SMALL[1])
    model = pong_pg.init_model(np.random.default_rng(0))
    pong_pg.save_checkpoint("save.p", model, pong_pg.State(3, pong_pg.init_cache(model)))
    before = sha256(small / "save.p")
    pong = InThisProcess().pong
    games = []
    for k in range(2):
        *_, rewards = pong_pg.play_game(pong, model, np.random.default_rng([8, k, 1]))
        games.append(f"game {k}: {sum(rewards):+.0f} in 400 steps")
    assert games[0][8:] != games[1][8:]
    for workers in 1, 2:
        flags = "--evaluate", 2, "--seed", 8, "--workers", workers
        done = run_script(*flags, cwd=small, script=script)
        assert (done.stdout.splitlines()[1:-1], done.stderr) == (games, "")
    assert sha256(small / "save.p") == before


def test_evaluation_ends_with_the_games_won_their_mean_and_deviation(small, monkeypatch, capsys):
    model = pong_pg.init_model(np.random.default_rng(0))
    pong_pg.save_checkpoint("save.p", model, pong_pg.State(3, pong_pg.init_cache(model)))
    points = [[1.0] * 21 + [-1.0] * 18, [-1.0] * 21, [1.0, -1.0], [-1.0] * 3 + [1.0] * 21]
    player = mock.Mock()
    player.play = lambda model, seeds: (pong_pg.Game(points[k], 1500) for _, k, _ in seeds)
    monkeypatch.setattr(pong_pg, "choose_player", lambda *how: player)
    assert pong_pg.main("--evaluate 4 --seed 8".split()) == 0
    _, *games, last = capsys.readouterr().out.splitlines()
    assert games[0] == "game 0: +3 in 1500 steps" and games[1].startswith("game 1: -21 in")
    totals = [3, -21, 0, 18]
    pattern = r"evaluation: games=4 won=2 mean=([+-]\d+\.\d\d) std=(\d+\.\d\d)"
    mean, std = re.fullmatch(pattern, last).groups()
    assert float(mean) == pytest.approx(np.mean(totals), abs=0.005)
    assert float(std) == pytest.approx(np.std(totals), abs=0.005)


def test_a_game_without_a_point_changes_nothing_but_the_cache():
    model = pong_pg.init_model(np.random.default_rng(0))
    before = {name: w.copy() for name, w in model.items()}
    cache = {name: np.ones_like(w) for name, w in model.items()}
    epx = np.ones((5, pong_pg.D), np.int8)
    played = epx, np.ones((5, pong_pg.H)), np.ones(5), [0.0] * 5
    gradient = pong_pg.game_gradient(model, played, 0.99)
    pong_pg.rmsprop_update(model, gradient, cache, 1e-3, 0.99)
    for name in model:
        np.testing.assert_array_equal(model[name], before[name])
        assert math.isclose(cache[name].max(), 0.99)
