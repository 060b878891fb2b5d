"""The mathematics of design section 1 against hand-computed cases and independent oracles."""

import warnings

import autograd.numpy as anp
import numpy as np
import pytest
import textbook
from autograd import grad
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pong_pg
from pong_pg import D, H

finite = st.floats(-1e3, 1e3)


def some_game(kind, T=150, seed=0):
    """Inputs of a game: a few pixels that move as in Pong, a crowd of them, or none."""
    rng = np.random.default_rng(seed)
    model = pong_pg.init_model(rng)
    share = {"sparse": 0.005, "crowded": 0.6, "empty": 0.0}[kind]
    epx = rng.choice([-1, 0, 1], (T, D), p=[share / 2, 1 - share, share / 2])
    epx = epx.astype(np.int8)
    eph = np.array([textbook.policy_forward(model, x.astype(np.float64))[1] for x in epx])
    return model, epx, eph, rng.standard_normal(T)


# ---- policy


def test_init_model_draws_W1_then_W2_with_unit_variance_over_inputs():
    model = pong_pg.init_model(np.random.default_rng(5))
    rng = np.random.default_rng(5)
    W1 = rng.standard_normal((H, D)) / np.sqrt(D)
    W2 = rng.standard_normal(H) / np.sqrt(H)
    assert model["W1"].dtype == model["W2"].dtype == np.float64
    np.testing.assert_array_equal(model["W1"], W1)
    np.testing.assert_array_equal(model["W2"], W2)
    assert set(model) == {"W1", "W2"}


def test_sigmoid_by_hand_and_without_overflow():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pong_pg.sigmoid(0.0) == pytest.approx(0.5, abs=1e-15)
        assert pong_pg.sigmoid(np.log(3.0)) == pytest.approx(0.75, rel=1e-14)
        assert pong_pg.sigmoid(1000.0) == 1.0
        assert pong_pg.sigmoid(-1000.0) == 0.0
        np.testing.assert_allclose(
            pong_pg.sigmoid(np.array([-1000, -40, 40, 1000.0])),
            [0, np.exp(-40), 1, 1],
            rtol=1e-12,
        )


@given(st.floats(-700, 700))
def test_sigmoid_is_a_probability_and_symmetric(x):
    p = pong_pg.sigmoid(x)
    assert 0 <= p <= 1
    assert p + pong_pg.sigmoid(-x) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["sparse", "crowded", "empty"])
@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_sparse_forward_equals_the_dense_formula(kind, dtype):
    model, epx, _, _ = some_game(kind, T=20)
    for layout in (np.asfortranarray, np.ascontiguousarray):
        laid_out = {"W1": layout(model["W1"]), "W2": model["W2"]}
        for x in epx.astype(dtype):
            p, h = pong_pg.policy_forward(laid_out, x)
            p_dense, h_dense = textbook.policy_forward(model, x.astype(np.float64))
            assert isinstance(p, float) and h.shape == (H,) and h.dtype == np.float64
            np.testing.assert_allclose(h, h_dense, rtol=1e-10, atol=1e-13)
            assert p == pytest.approx(p_dense, rel=1e-10)


def test_forward_by_hand(monkeypatch):
    model = {"W1": np.zeros((2, D)), "W2": np.array([2.0, -1.0])}
    model["W1"][:, 7] = [0.5, 3.0]
    model["W1"][:, 9] = [0.25, 4.0]
    x = np.zeros(D, np.int8)
    x[7], x[9] = 1, -1  # W1 x = (0.25, -1)
    p, h = pong_pg.policy_forward(model, x)
    np.testing.assert_array_equal(h, [0.25, 0.0])
    assert p == pytest.approx(1 / (1 + np.exp(-0.5)), rel=1e-14)


@pytest.mark.parametrize("kind", ["sparse", "crowded", "empty"])
@pytest.mark.parametrize("T", [1, 63, 64, 65, 150])
def test_sparse_backward_equals_the_dense_formula(kind, T):
    model, epx, eph, epdlogp = some_game(kind, T)
    got = pong_pg.policy_backward(model, epx, eph, epdlogp)
    expected = textbook.policy_backward(model, epx.astype(np.float64), eph, epdlogp)
    for name in ("W1", "W2"):
        assert got[name].shape == model[name].shape and got[name].dtype == np.float64
        scale = np.abs(expected[name]).max() or 1.0
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-10, atol=1e-12 * scale)


def log_probability(W1, W2, epx, up, advantage):
    """sum_t advantage_t log pi(action_t | x_t), in autograd's numpy: the objective itself."""
    h = anp.maximum(0.0, anp.dot(epx, W1.T))
    logit = anp.dot(h, W2)
    return anp.sum(advantage * (up * logit - anp.logaddexp(0.0, logit)))


def a_small_problem():
    rng = np.random.default_rng(11)
    model = {"W1": rng.standard_normal((5, D)), "W2": rng.standard_normal(5)}
    epx = np.zeros((130, D), np.int8)
    epx[:, ::400] = rng.integers(-1, 2, (130, 16))
    played = [pong_pg.policy_forward(model, x) for x in epx]
    p, eph = np.array([p for p, _ in played]), np.array([h for _, h in played])
    up, advantage = rng.integers(0, 2, 130), rng.standard_normal(130)
    got = pong_pg.policy_backward(model, epx, eph, (up - p) * advantage)
    return model, epx, up, advantage, got


def test_gradient_equals_that_of_an_independent_autodiff():
    model, epx, up, advantage, got = a_small_problem()
    for argument, name in enumerate(["W1", "W2"]):
        oracle = grad(log_probability, argument)(
            model["W1"], model["W2"], epx.astype(float), up, advantage
        )
        np.testing.assert_allclose(got[name], oracle, rtol=1e-9, atol=1e-10)


def test_gradient_equals_central_differences():
    model, epx, up, advantage, got = a_small_problem()
    x, e = epx.astype(float), 1e-6
    for name, where in [("W1", (0, 0)), ("W1", (3, 800)), ("W1", (4, 6000)), ("W2", (2,))]:
        values = []
        for sign in (1, -1):
            moved = {n: w.copy() for n, w in model.items()}
            moved[name][where] += sign * e
            values.append(log_probability(moved["W1"], moved["W2"], x, up, advantage))
        difference = (values[0] - values[1]) / (2 * e)
        assert got[name][where] == pytest.approx(difference, rel=1e-5, abs=1e-6)


# ---- returns


def test_discount_rewards_by_hand():
    got = pong_pg.discount_rewards([0, 0, 1, 0, -1, 0, 0], 0.5)
    np.testing.assert_array_equal(got, [0.25, 0.5, 1, -0.5, -1, 0, 0])
    assert got.dtype == np.float64
    assert pong_pg.discount_rewards([0, 1])[0] == 0.99
    assert pong_pg.discount_rewards([]).shape == (0,)


@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0, -1.0]), max_size=60), st.floats(0, 1))
def test_discount_rewards_is_the_sum_up_to_the_next_point(rewards, gamma):
    got = pong_pg.discount_rewards(np.array(rewards), gamma)
    for t in range(len(rewards)):
        next_point = next((k for k in range(t, len(rewards)) if rewards[k] != 0), None)
        expected = 0 if next_point is None else gamma ** (next_point - t) * rewards[next_point]
        assert got[t] == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("reward", [0.0, -1.0])
def test_a_game_whose_returns_are_all_alike_adds_no_gradient(reward):
    """Without a point, as one that is cut short may be, or with a deviation of 0 all the same."""
    model, epx, eph, epdlogp = some_game("sparse")
    played = epx, eph, epdlogp, [reward] * len(epx)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient = pong_pg.game_gradient(model, played, 0.99)
    assert not gradient["W1"].any() and not gradient["W2"].any()


def test_game_gradient_multiplies_by_the_standardised_returns():
    model, epx, eph, epdlogp = some_game("sparse", T=4)
    returns = np.array([0.25, 0.5, 1.0, -1.0])
    advantage = (returns - returns.mean()) / returns.std()
    got = pong_pg.game_gradient(model, (epx, eph, epdlogp, [0, 0, 1.0, -1.0]), 0.5)
    expected = textbook.policy_backward(model, epx.astype(np.float64), eph, epdlogp * advantage)
    np.testing.assert_allclose(got["W1"], expected["W1"], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(got["W2"], expected["W2"], rtol=1e-10)


# ---- RMSProp


def test_rmsprop_by_hand_is_an_ascent_in_place():
    model = {"W1": np.array([[1.0, -2.0]]), "W2": np.array([0.5])}
    grad = {"W1": np.array([[2.0, 0.0]]), "W2": np.array([-4.0])}
    cache = {"W1": np.array([[0.0, 1.0]]), "W2": np.array([3.0])}
    W1 = model["W1"]
    pong_pg.rmsprop_update(model, grad, cache, 0.1, 0.9)
    assert model["W1"] is W1
    np.testing.assert_allclose(cache["W1"], [[0.4, 0.9]], rtol=1e-14)
    np.testing.assert_allclose(cache["W2"], [4.3], rtol=1e-14)
    np.testing.assert_allclose(W1, [[1 + 0.2 / (np.sqrt(0.4) + 1e-5), -2.0]], rtol=1e-14)
    np.testing.assert_allclose(model["W2"], [0.5 - 0.4 / (np.sqrt(4.3) + 1e-5)], rtol=1e-14)


@settings(max_examples=50)
@given(
    hnp.arrays(np.float64, (2, 3), elements=finite),
    hnp.arrays(np.float64, (2, 3), elements=st.floats(0, 1e3)),
    st.floats(1e-6, 1),
    st.floats(0, 0.999),
)
def test_rmsprop_equals_its_formula(g, c, rate, decay):
    model, cache = {"W": np.ones((2, 3))}, {"W": c.copy()}
    pong_pg.rmsprop_update(model, {"W": g}, cache, rate, decay)
    for i in np.ndindex(2, 3):
        expected = decay * c[i] + (1 - decay) * g[i] * g[i]
        assert cache["W"][i] == pytest.approx(expected, rel=1e-12, abs=1e-300)
        step = rate * g[i] / (expected**0.5 + 1e-5)
        assert model["W"][i] == pytest.approx(1 + step, rel=1e-12, abs=1e-12)


# ---- all of it together


def test_a_bandit_of_two_patterns_is_learned():
    """Up pays for one picture, down for the other: p(up) must come to tell them apart."""
    rng = np.random.default_rng(0)
    model = pong_pg.init_model(rng)
    cache = {name: np.zeros_like(w) for name, w in model.items()}
    pictures = (rng.random((2, D)) < 0.01).astype(np.int8)
    for _ in range(30):
        shown = rng.integers(0, 2, 40)
        epx = pictures[shown]
        forward = [pong_pg.policy_forward(model, x) for x in epx]
        up = np.array([rng.random() < p for p, _ in forward])
        rewards = np.where(up == shown, 1.0, -1.0)
        epdlogp = up - np.array([p for p, _ in forward])
        played = epx, np.array([h for _, h in forward]), epdlogp, rewards
        gradient = pong_pg.game_gradient(model, played, 0.99)
        pong_pg.rmsprop_update(model, gradient, cache, 1e-3, 0.99)
    assert pong_pg.policy_forward(model, pictures[0])[0] < 0.1
    assert pong_pg.policy_forward(model, pictures[1])[0] > 0.9
