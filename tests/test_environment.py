"""Pong-v0 with its chance in our hands, and what the preprocessing makes of its frames."""

import hashlib

import numpy as np
import pytest

import pong_pg


class NoChance:
    """A generator that always holds an action for `frames` frames and is never sticky."""

    chance = 0.25  # exactly at the limit: the new action is taken over

    def __init__(self, frames):
        self.frames = frames

    def integers(self, low, high):
        assert (low, high) == (2, 5)
        return self.frames

    def random(self):
        return self.chance


class Sticky(NoChance):
    """A generator that always has the last action carried out again."""

    chance = np.nextafter(0.25, 0)


@pytest.fixture(scope="module")
def pong():
    return pong_pg.Pong()


gyms_own = pong_pg.make_pong


def trace(pong, seed, steps):
    """Plays at random; gives the rewards that were not 0 with their steps, and a checksum."""
    rng, frames, points = np.random.default_rng(seed), hashlib.sha256(), []
    pong.reset()
    frames.update(pong.ale.getScreenRGB().tobytes())
    for t in range(steps):
        reward, done = pong.step(2 if rng.random() < 0.5 else 3, rng)
        frames.update(pong.ale.getScreenRGB().tobytes())
        if reward:
            points.append((t, reward))
        if done:
            break
    return points, t + 1, frames.hexdigest()


def test_both_environments_play_the_recorded_games(pong):
    """Recorded once with gym 0.21.0 and ale-py 0.7.5; gymnasium must play the same to the pixel."""
    assert trace(pong, [0, 0], 100_000) == RECORDED[0]
    assert trace(pong, [0, 1], 100_000) == RECORDED[1]


def test_a_game_does_not_depend_on_the_games_before(pong):
    new = trace(pong_pg.Pong(), [0, 1], 400)
    assert new[0] == [point for point in RECORDED[1][0] if point[0] < 400]
    trace(pong, [5, 5], 77)
    assert trace(pong, [0, 1], 400) == new


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_without_chance_it_is_gyms_pong_to_the_pixel(pong, frames):
    gyms = gyms_own(frameskip=frames, repeat_action_probability=0.0)
    gyms.reset()
    pong.reset()
    np.testing.assert_array_equal(pong.ale.getScreenRGB(), gyms.ale.getScreenRGB())
    rng, rewards = np.random.default_rng(1), 0
    for _ in range(250):
        action = int(rng.integers(2, 4))
        reward, done = pong.step(action, NoChance(frames))
        expected, expected_reward, expected_done = gyms.step(action)[:3]
        np.testing.assert_array_equal(pong.ale.getScreenRGB(), expected)
        assert (reward, done) == (expected_reward, expected_done)
        rewards += reward != 0
    assert rewards > 0


def test_a_draw_below_a_quarter_carries_out_the_last_action_again(pong):
    plain, sticky = NoChance(2), Sticky(2)

    def screen(*held):
        pong.reset()
        for action, rng in held:
            for _ in range(5):
                pong.step(action, rng)
        return pong.ale.getScreenRGB()

    np.testing.assert_array_equal(screen((2, sticky)), screen((0, plain)))
    up_up = screen((2, plain), (2, plain))
    np.testing.assert_array_equal(screen((2, plain), (3, sticky)), up_up)
    assert (screen((2, plain), (3, plain)) != up_up).any()


def test_pong_v0_holds_an_action_for_2_3_or_4_frames_as_we_do(pong):
    def counts(ale, step, steps=800):
        seen = []
        for _ in range(steps):
            before = ale.getEpisodeFrameNumber()
            step()
            seen.append(ale.getEpisodeFrameNumber() - before)
            if ale.game_over():
                ale.reset_game()
        return np.array([seen.count(n) for n in (2, 3, 4)]), len(seen)

    gyms, rng = gyms_own(), np.random.default_rng(2)
    gyms.reset()
    pong.reset()
    theirs, n = counts(gyms.ale, lambda: gyms.step(2))
    ours, _ = counts(pong.ale, lambda: pong.step(2, rng))
    for share in (theirs / n, ours / n):
        np.testing.assert_allclose(share, 1 / 3, atol=5 * np.sqrt(2 / 9 / n))
        assert share.sum() > 0.97  # the rest: a step in which the game was over


def test_pong_v0_carries_out_the_last_action_again_as_often_as_we_do(pong):
    """After frames of rest, UP is pressed: stickiness delays the frame in which the paddle moves.

    Pong reads the joystick in every second frame. A reading still finds the old action with
    probability 0.25 at first, and 1/16 of that from one reading to the next.
    """

    class OneFrame:
        integers = staticmethod(lambda low, high: 1)
        random = np.random.default_rng(5).random

    def delays(ale, rest, press, trials):
        ale.reset_game()
        for _ in range(60):
            rest()
        start, seen = ale.cloneState(), []
        for _ in range(trials):
            ale.restoreState(start)
            for _ in range(6):
                rest()
            paddle, frames = ale.getRAM()[51], 0
            while ale.getRAM()[51] == paddle:
                press()
                frames += 1
            seen.append(frames)
        return np.bincount(seen, minlength=40)[:40] / trials

    theirs = gyms_own(frameskip=1).ale  # sticky is what Pong-v0 is by default
    up = pong.buttons[2]
    pong.reset()
    gyms = delays(theirs, lambda: theirs.act(0), lambda: theirs.act(up), 1000)
    ours = delays(pong.ale, lambda: pong.step(0, OneFrame), lambda: pong.step(2, OneFrame), 500)
    none = int(np.argmax(ours > 0))  # frames until the paddle moves when nothing is delayed
    assert none == int(np.argmax(gyms > 0))
    expected = np.array([0.75, 0, 0.25 * (1 - 1 / 16), 0, 0.25 / 16 * (1 - 1 / 16)])
    for trials, delayed in (500, ours), (1000, gyms):
        shares = delayed[none:][:5]
        atol = 5 * np.sqrt(expected * (1 - expected) / trials)
        assert (np.abs(shares - expected) <= atol).all(), shares


# ---- preprocessing


def frames_of_a_game(pong, steps=400):
    rng = np.random.default_rng(8)
    pong.reset()
    yield pong.ale.getScreenRGB()
    for _ in range(steps):
        pong.step(2 if rng.random() < 0.5 else 3, rng)
        yield pong.ale.getScreenRGB()


def by_the_book(frame):
    """The blog post's preprocessing, line by line, in float64."""
    image = frame[35:195].copy()
    image = image[::2, ::2, 0]
    image[image == 144] = 0
    image[image == 109] = 0
    image[image != 0] = 1
    return image.astype(np.float64).ravel()


def test_prepro_equals_the_blog_posts(pong):
    for frame in frames_of_a_game(pong):
        before = frame.copy()
        got = pong_pg.prepro(frame)
        assert got.shape == (pong_pg.D,) and set(np.unique(got)) <= {0, 1}
        np.testing.assert_array_equal(got, by_the_book(frame))
        np.testing.assert_array_equal(frame, before)  # not modified
    random = np.random.default_rng(0).integers(0, 256, (210, 160, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pong_pg.prepro(random), by_the_book(random))
    read_only = random.copy()
    read_only.setflags(write=False)
    pong_pg.prepro(read_only)


def test_the_pong_sees_what_prepro_makes_of_its_frames():
    """From the first frame on and at every new colour, whichever frames were seen before."""
    for first in (0, 1, 150):
        pong = pong_pg.Pong()
        for t, frame in enumerate(frames_of_a_game(pong, 250)):
            if t >= first:
                np.testing.assert_array_equal(pong.pixels(), by_the_book(frame))


def test_paddles_and_ball_survive_scores_and_walls_do_not(pong):
    ball_seen = 0
    for frame in frames_of_a_game(pong):
        field = pong_pg.prepro(frame).reshape(80, 80)
        left, right, between = field[:, 8:10], field[:, 70:72], field[:, 10:70]
        assert field[:, :8].sum() + field[:, 72:].sum() <= 2  # beyond the paddles: a lost ball
        assert between.sum() <= 2  # 4 x 2 pixels of ball: one or two after downsampling
        assert left.sum() <= 18 and right.sum() <= 18  # 4 x 16 pixels of paddle, and the ball
        ball_seen += between.any()
        walls_and_scores = np.r_[frame[:34].ravel(), frame[194:].ravel()]
        assert walls_and_scores.any()
        frame = frame.copy()
        frame[:34], frame[195:] = 0, 0
        np.testing.assert_array_equal(field.ravel(), pong_pg.prepro(frame))
    assert field[:, 8:10].any() or field[:, 70:72].any()
    assert ball_seen > 100


# ---- a game


def test_the_first_input_is_zero_and_the_others_are_differences(pong, monkeypatch):
    monkeypatch.setattr(pong_pg, "MAX_STEPS", 400)
    model = pong_pg.init_model(np.random.default_rng(0))
    epx, eph, epdlogp, rewards = pong_pg.play_game(pong, model, np.random.default_rng([0, 0]))
    T = len(rewards)
    assert (
        T == 400
        and epx.shape == (T, pong_pg.D)
        and eph.shape == (T, pong_pg.H)
        and epdlogp.shape == (T,)
    )
    assert epx.dtype == np.int8 and not epx[0].any() and epx[1:100].any()
    rng = np.random.default_rng([0, 0])
    pong.reset()
    previous = None
    for t in range(T):
        current = by_the_book(pong.ale.getScreenRGB())
        x = current * 0 if previous is None else current - previous
        np.testing.assert_array_equal(epx[t], x)
        p, h = pong_pg.policy_forward(model, epx[t])
        up = rng.random() < p
        np.testing.assert_array_equal(eph[t], h)
        assert epdlogp[t] == (1 if up else 0) - p
        reward, done = pong.step(2 if up else 3, rng)
        assert rewards[t] == reward
        previous = current
        assert not done
    assert any(rewards)


def test_a_game_is_cut_at_the_limit(pong, monkeypatch):
    monkeypatch.setattr(pong_pg, "MAX_STEPS", 30)
    model = pong_pg.init_model(np.random.default_rng(0))
    epx, eph, epdlogp, rewards = pong_pg.play_game(pong, model, np.random.default_rng(0))
    assert len(epx) == len(eph) == len(epdlogp) == len(rewards) == 30


def test_in_a_game_to_its_end_the_sparse_formulas_equal_the_dense_ones(pong):
    model = pong_pg.init_model(np.random.default_rng(0))
    epx, eph, epdlogp, rewards = pong_pg.play_game(pong, model, np.random.default_rng([0, 2]))
    assert max(rewards.count(1.0), rewards.count(-1.0)) == 21 and rewards[-1] != 0
    for x, h in zip(epx[::10], eph[::10]):
        dense = np.maximum(0, model["W1"] @ x.astype(np.float64))
        np.testing.assert_allclose(h, dense, rtol=1e-10, atol=1e-13)
    got = pong_pg.policy_backward(model, epx, eph, epdlogp)
    dh = np.outer(epdlogp, model["W2"]) * (eph > 0)
    expected = {"W1": dh.T @ epx.astype(np.float64), "W2": epdlogp @ eph}
    for name in ("W1", "W2"):
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-10, atol=1e-12 * scale)


# fmt: off
RECORDED = [
    (
        [(80, -1.0), (203, -1.0), (249, -1.0), (294, -1.0), (340, -1.0), (474, -1.0), (521, -1.0),
         (734, -1.0), (899, 1.0), (987, -1.0), (1034, -1.0), (1078, -1.0), (1125, -1.0),
         (1171, -1.0), (1218, -1.0), (1266, -1.0), (1395, -1.0), (1441, -1.0), (1486, -1.0),
         (1535, -1.0), (1659, -1.0), (1707, -1.0)],
        1708,
        "ea64490b0903c72566206b167cd9486041b7434bfa010915e8c1e286637e2971",
    ),
    (
        [(84, -1.0), (131, -1.0), (175, -1.0), (223, -1.0), (352, -1.0), (488, -1.0), (616, -1.0),
         (744, -1.0), (791, -1.0), (837, -1.0), (883, -1.0), (1008, -1.0), (1055, -1.0),
         (1103, -1.0), (1152, -1.0), (1365, -1.0), (1412, -1.0), (1458, -1.0), (1502, -1.0),
         (1550, -1.0), (1594, -1.0)],
        1595,
        "7bf0fe354b17bb74d3b64c3a45147eae9d6f9453290d215334c0712b9a176613",
    ),
]
