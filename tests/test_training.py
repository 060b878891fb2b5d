"""Real runs, end to end: one seed, one result, whatever plays it and however often it is cut."""

import csv
import math
import pickle
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import log_without_seconds, run_script, sha256

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


# ---- one seed, one result


@pytest.mark.parametrize("workers, threads", [(1, "2"), (3, "7")])
def test_any_number_of_workers_gives_the_same_bits(short_run, tmp_path, workers, threads):
    env = {"OPENBLAS_NUM_THREADS": threads}
    flags = ["--episodes", 6, "--log", "log.csv", "--workers", workers]
    assert run_script(*RUN, *flags, cwd=tmp_path, env=env).returncode == 0
    assert sha256(tmp_path / "save.p") == sha256(short_run / "save.p")
    assert log_without_seconds(tmp_path / "log.csv") == log_without_seconds(short_run / "log.csv")


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


def test_resume_equals_uninterrupted(short_run, tmp_path):
    done = run_script(*RUN, "--episodes", 3, "--log", "log.csv", cwd=tmp_path)  # 4 in whole batches
    assert done.returncode == 0 and "saved save.p: 4 games" in done.stdout
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,-5.0,-20.0,1000,99\n5,-5.")  # rows of a batch that was not saved
    done = run_script("--resume", "--episodes", 2, "--log", "log.csv", cwd=tmp_path)
    assert "resuming save.p: 4 games" in done.stdout and "ep 4: game finished" in done.stdout
    assert sha256(tmp_path / "save.p") == sha256(short_run / "save.p")
    assert log_without_seconds(tmp_path / "log.csv") == log_without_seconds(short_run / "log.csv")
    seconds = [float(row[4]) for row in list(csv.reader((tmp_path / "log.csv").open()))[1:]]
    assert seconds == sorted(seconds)


def test_another_seed_gives_another_run_and_none_is_drawn_and_said(short_run, tmp_path):
    flags = "--episodes 1 --batch-size 1 --learning-rate 1e-3".split()
    done = run_script(*flags, cwd=tmp_path)
    seed = re.search(r"training from scratch, seed (\d+)", done.stdout).group(1)
    assert seed != "3"
    first = sha256(tmp_path / "save.p")
    again = run_script(*flags, "--seed", seed, cwd=tmp_path)
    assert again.returncode == 0 and sha256(tmp_path / "save.p") == first
    assert sha256(tmp_path / "save.p.1") == first  # what the second run found there


def test_hyperparameters_given_with_resume_replace_the_checkpoints(short_run, tmp_path):
    shutil.copy(short_run / "save.p", tmp_path)
    flags = "--resume --episodes 1 --gamma 0.98 --batch-size 1 --seed 3".split()
    done = run_script(*flags, cwd=tmp_path)
    assert "gamma 0.98 replaces the checkpoint's 0.99" in done.stdout
    assert "batch_size 1 replaces the checkpoint's 2" in done.stdout
    _, state = pong_pg.load_checkpoint(tmp_path / "save.p")
    assert state.games == 7
    assert state.hyperparameters == pong_pg.Hyperparameters(1, 1e-3, 0.98, 0.99)
    assert "learning_rate" not in done.stdout


# ---- evaluation


def test_evaluation_is_the_same_for_any_number_of_workers(short_run):
    before = sha256(short_run / "save.p")
    lines = [
        run_script("--evaluate", 3, "--seed", 8, "--workers", n, cwd=short_run).stdout.splitlines()
        for n in (1, 2)
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 5
    pattern = r"evaluation: games=3 won=(\d+) mean=([+-]\d+\.\d\d) std=(\d+\.\d\d)"
    won, mean, std = re.fullmatch(pattern, lines[0][-1]).groups()
    totals = [int(re.match(r"game \d: ([+-]\d+) in \d+ steps", line)[1]) for line in lines[0][1:4]]
    assert int(won) == sum(total > 0 for total in totals)
    assert float(mean) == pytest.approx(np.mean(totals), abs=0.005)
    assert float(std) == pytest.approx(np.std(totals), abs=0.005)
    assert sha256(short_run / "save.p") == before


def test_evaluation_games_are_those_of_the_evaluation_rule(short_run):
    model, _ = pong_pg.load_checkpoint(short_run / "save.p")
    pong = pong_pg.Pong()
    done = run_script("--evaluate", 1, "--seed", 8, cwd=short_run)
    played = pong_pg.play_game(pong, model, np.random.default_rng([8, 0, 1]))
    line = f"game 0: {sum(played[-1]):+.0f} in {len(played[-1])} steps"
    assert (done.stdout.splitlines()[1], done.stderr) == (line, "")


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
