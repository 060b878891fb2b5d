"""The blog post's own loop in examples/textbook.py, and pong_pg.py: one and the same run."""

import dataclasses

import numpy as np
import pytest
import textbook
from helpers import InThisProcess, files, run_here

import pong_pg

RUN = pong_pg.Hyperparameters(batch_size=2, learning_rate=1e-3)


def difference(found, expected, start):
    """The largest difference of two models, as a part of the largest step from `start`."""
    return max(
        np.abs(found[name] - expected[name]).max() / np.abs(expected[name] - start[name]).max()
        for name in start
    )


def without_cache(state):
    return {k: v for k, v in dataclasses.asdict(state).items() if k != "rmsprop_cache"}


def test_it_starts_with_the_weights_of_pong_pg():
    model, state = textbook.start(5)
    expected = pong_pg.init_model(np.random.default_rng(5))
    for name, weights in expected.items():
        np.testing.assert_array_equal(model[name], weights)
        assert not state.rmsprop_cache[name].any()
    assert state.hyperparameters == pong_pg.Hyperparameters()


def test_a_batch_makes_the_step_of_pong_pg_for_every_weight(monkeypatch):
    monkeypatch.setattr(pong_pg, "MAX_STEPS", 200)
    start = pong_pg.init_model(np.random.default_rng(3))
    model = pong_pg.init_model(np.random.default_rng(3))
    state = pong_pg.State(3, pong_pg.init_cache(model), RUN)
    player = InThisProcess()
    pong_pg.train_batch(model, state, player)
    found, found_state = textbook.start(3)
    found_state.hyperparameters = RUN
    textbook.train_batch(found, found_state, player.pong)
    assert without_cache(found_state) == without_cache(state)
    for name, weights in model.items():
        step = np.abs(weights - start[name])
        assert step.max() > 1e-3
        assert (np.abs(found[name] - weights) <= 1e-6 * step + 1e-15).all()
        cache = state.rmsprop_cache[name]
        np.testing.assert_allclose(found_state.rmsprop_cache[name], cache, 1e-6, 1e-15)


@pytest.mark.parametrize(
    "steps, units", [(200, 8), pytest.param(10_000, 200, marks=pytest.mark.slow)]
)
def test_each_resumes_the_others_run(tmp_path, monkeypatch, capsys, steps, units):
    """Textbook, pong_pg.py, textbook: as if the run of six games had never changed hands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pong_pg, "MAX_STEPS", steps)
    monkeypatch.setattr(pong_pg, "H", units)
    monkeypatch.setattr(textbook, "H", units)
    flags = "--seed 3 --batch-size 2 --learning-rate 1e-3 --save whole.p".split()
    assert run_here(*flags, "--episodes", 6) == 0
    whole = capsys.readouterr().out

    model, state = textbook.start(3)
    state.hyperparameters = RUN
    textbook.train_batch(model, state, pong_pg.Pong())
    pong_pg.save_checkpoint("save.p", model, state)
    assert run_here("--resume", "--episodes", 2) == 0
    textbook.main(["--resume", "--episodes", "2"])
    found, found_state = pong_pg.load_checkpoint("save.p")
    expected, state = pong_pg.load_checkpoint("whole.p")
    start = pong_pg.init_model(np.random.default_rng(3))
    no_cache = pong_pg.init_cache(start)
    assert difference(found, expected, start) < 1e-6
    assert difference(found_state.rmsprop_cache, state.rmsprop_cache, no_cache) < 1e-6
    assert without_cache(found_state) == without_cache(state)

    def lines(text):
        return [line for line in text.splitlines() if line.startswith(("ep ", "resetting env."))]

    assert lines(capsys.readouterr().out) == lines(whole)


def test_it_keeps_the_run_that_it_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "save.p").write_bytes(b"an earlier run")
    monkeypatch.setattr(textbook, "train_batch", one_batch)
    textbook.main(["--seed", "7", "--episodes", "11"])
    assert (tmp_path / "save.p.1").read_bytes() == b"an earlier run"
    _, state = pong_pg.load_checkpoint("save.p")
    assert (state.seed, state.games) == (7, 20)  # in whole batches


def one_batch(model, state, pong):
    state.games += state.hyperparameters.batch_size


def test_what_it_cannot_do_it_says_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pong_pg.save_checkpoint("one.p", *textbook.start(1))
    with pong_pg.owned("--save", "taken.p"):
        for flags, words in (
            ("--resume", "save.p is not there"),
            ("--resume --save one.p --seed 2", "--seed 2: one.p belongs to a run of 1"),
            ("--save taken.p", "taken.p is in use by another run"),
            ("--save no/where.p", "no/where.p cannot be written"),
            ("--seed -1", "expected int from 0 to"),
        ):
            with pytest.raises(SystemExit) as stop:
                textbook.main(flags.split())
            assert stop.value.code == 2
            assert words in capsys.readouterr().err.splitlines()[-1]
    assert files(tmp_path) == ["one.p"]
