"""Learn Atari Pong from pixels: a two-layer policy network and REINFORCE, in plain numpy.

    python pong_pg.py                            # train from scratch, until Ctrl-C
    python pong_pg.py --resume                   # continue from save.p
    python pong_pg.py --evaluate 1 --render      # watch the agent in save.p play a game
    python pong_pg.py --evaluate 100             # how good is it?
    python pong_pg.py --seed 1 --log pong.csv    # a run that can be repeated and plotted

The input x_t is the difference of two preprocessed frames. Then:

    policy     h_t = max(0, W1 x_t),  p_t = sigmoid(W2 . h_t)
    action     up with probability p_t (y_t = 1), else down (y_t = 0)
    returns    R_t = r_t + gamma R_(t+1), where the sum restarts after every point
    advantage  A_t = (R_t - mean of R) / standard deviation of R, over a game
    gradient   g = sum_t A_t grad log p(y_t | x_t);  with respect to W2 . h_t it is A_t (y_t - p_t)
    update     every 10 games: cache = 0.99 cache + 0.01 g^2,  W += 1e-4 g / (sqrt(cache) + 1e-5)

Source: Andrej Karpathy, "Deep Reinforcement Learning: Pong from Pixels" (2016),
http://karpathy.github.io/2016/05/31/rl/, called "the blog post" below. Its names are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import glob
import hashlib
import importlib.metadata
import io
import json
import math
import multiprocessing
import os
import pickle
import secrets
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass, replace
from multiprocessing import connection, resource_tracker
from typing import Any, Callable, Iterator, NamedTuple, NoReturn

import numpy as np
from tqdm import tqdm

__version__ = "3.0.0"

# hyperparameters
H = 200  # number of hidden units
batch_size = 10  # games played for one parameter update
learning_rate = 1e-4
gamma = 0.99  # discount factor of the rewards
decay_rate = 0.99  # of RMSProp's running mean of squared gradients
resume = False  # continue from the checkpoint?
render = False  # show the game in a window?

D = 80 * 80  # input dimensionality: the pixels of a preprocessed frame
UP, DOWN = 2, 3  # the two actions of Pong that the policy chooses from
FIELD = np.s_[35:195:2, ::2]  # every second pixel of the field: 80 x 80 of the 210 x 160
MAX_STEPS = 10_000  # of a game


# ---- environment and preprocessing --------------------------------------------------------------


class Pong:
    """Gym's Pong-v0, the same on gym 0.21 and on gymnasium, with all random draws made by us.

    Pong-v0 holds an action for 2, 3 or 4 emulator frames, drawn evenly, and is sticky: at every
    frame the emulator repeats the last action with probability 0.25 (Machado et al., "Revisiting
    the Arcade Learning Environment", 2018, section 5). Here both draws come from the caller's
    generator and the emulator's own chance is off, so that a game depends on nothing else.
    """

    def __init__(self, show: bool = False) -> None:
        """Opens the emulator, with a window if `show`. Raises UsageError where it cannot."""
        options = {"frameskip": 1, "repeat_action_probability": 0.0}
        self.ale = make_pong(**options, render_mode="human" if show else None).ale
        self.buttons = self.ale.getMinimalActionSet()  # Gym's action 2 is the button RIGHT: up
        self.colours = np.empty((210, 160), np.uint8)

    def reset(self) -> None:
        """Starts a game."""
        self.ale.reset_game()
        self.carried_out = self.buttons[0]  # the button that the emulator pressed last: none

    def step(self, action: int, rng: np.random.Generator) -> tuple[float, bool]:
        """Holds `action` for 2 to 4 sticky frames. Returns (reward, is the game over?)."""
        reward = 0.0
        for _ in range(rng.integers(2, 5)):
            if rng.random() >= 0.25:
                self.carried_out = self.buttons[action]
            reward += self.ale.act(self.carried_out)
        return reward, self.ale.game_over()

    def pixels(self) -> np.ndarray:
        """Returns what `prepro` makes of the screen, (D,) int8."""
        # The emulator's own colour numbers are read faster: 34 and 228 have the reds 144 and 109.
        self.ale.getScreen(self.colours)
        return foreground(self.colours, 34, 228)


def prepro(frame: np.ndarray) -> np.ndarray:
    """(210, 160, 3) uint8 frame -> (6400,) int8 of 0 and 1, where 1 is a paddle or the ball.

    A run calls `Pong.pixels` instead, which gives the same but faster: what is to change both goes
    into `foreground`. The red channel is enough: its background is 144 or 109. Blog post, `prepro`.
    """
    return foreground(frame[..., 0], 144, 109)


def foreground(screen: np.ndarray, background: int, other_background: int) -> np.ndarray:
    """(210, 160) uint8 screen -> (6400,) int8 of 0 and 1: what is not background, nor 0.

    Crops the field (rows 35 to 194) and takes every second pixel. The screen is not modified.
    """
    field = screen[FIELD].ravel()
    return ((field != background) & (field != other_background) & (field != 0)).view(np.int8)


# ---- policy -------------------------------------------------------------------------------------


def sigmoid(x):
    """1 / (1 + exp(-x)) of a float or an array, with no overflow at any x."""
    return np.exp(-np.logaddexp(0.0, -x))


def init_model(rng: np.random.Generator) -> dict:
    """Returns {"W1": (H, D), "W2": (H,)} float64, drawn with variance 1 / inputs.

    The blog post calls that "Xavier". W1 is kept in Fortran order, so that `W1.T[pixels]` reads
    whole rows of memory.
    """
    W1 = rng.standard_normal((H, D)) / np.sqrt(D)
    W2 = rng.standard_normal(H) / np.sqrt(H)
    return {"W1": np.asfortranarray(W1), "W2": W2}


def policy_forward(model: dict, x: np.ndarray) -> tuple[float, np.ndarray]:
    """x (D,) int8 or float -> (p, h): the probability of UP and the hidden state (H,) float64.

    h = max(0, W1 x), p = sigmoid(W2 . h). Some 20 to 30 of the 6400 inputs are not 0: only their
    columns of W1 are read.
    """
    moved = (x != 0).nonzero()[0]
    h = np.dot(x.take(moved), model["W1"].T.take(moved, axis=0))
    np.maximum(h, 0.0, out=h)  # ReLU
    p = sigmoid(np.dot(model["W2"], h))
    return float(p), h


def policy_backward(model: dict, epx: np.ndarray, eph: np.ndarray, epdlogp: np.ndarray) -> dict:
    """Returns the policy gradient of a game, summed over its T steps, in the shapes of the model.

    epx (T, D) are the inputs, eph (T, H) the hidden states and epdlogp (T,) the gradients of
    log-probability, y - p, already multiplied by the standardised returns (the advantage):

        dW2 = sum_t epdlogp_t h_t,    dW1 = sum_t (epdlogp_t W2 * [h_t > 0]) x_t^T

    In a block of 64 steps only a few hundred pixels move: only they take part in the product.
    """
    dW1 = np.zeros(model["W1"].shape[::-1])  # transposed: a pixel is then a row of memory
    for start in range(0, len(epx), 64):
        block = slice(start, start + 64)
        x = epx[block]
        moved = (x != 0).any(axis=0).nonzero()[0]
        dh = np.outer(epdlogp[block], model["W2"])
        dh[eph[block] <= 0] = 0.0  # backpropagate through the ReLU
        dW1[moved] += np.dot(x[:, moved].T.astype(np.float64), dh)
    return {"W1": dW1.T, "W2": np.dot(epdlogp, eph)}


# ---- returns and update -------------------------------------------------------------------------


def discount_rewards(rewards, gamma: float = gamma) -> np.ndarray:
    """Rewards (T,) -> returns (T,) float64: R_t = r_t + gamma R_(t+1).

    The sum starts anew at every reward that is not 0: there a point was scored, and what comes
    after it is another rally (specific to Pong). Blog post, `discount_rewards`.
    """
    rewards = np.asarray(rewards, dtype=np.float64).tolist()
    returns = np.zeros(len(rewards))
    running_add = 0.0
    for t in reversed(range(len(rewards))):
        if rewards[t] != 0:
            running_add = 0.0
        running_add = rewards[t] + gamma * running_add
        returns[t] = running_add
    return returns


def init_cache(model: dict) -> dict:
    """Returns what RMSProp begins with: zeros in the shapes of the model."""
    return {name: np.zeros_like(weights) for name, weights in model.items()}


def valid_cache(cache: dict) -> bool:
    """Returns whether RMSProp can produce this cache: means of squares are not negative."""
    return all((squares >= 0).all() for squares in cache.values())


def rmsprop_update(model, grad, cache, learning_rate: float, decay_rate: float) -> None:
    """Takes one step of gradient ascent, in place on model and cache.

    cache = decay_rate cache + (1 - decay_rate) g^2;  W += learning_rate g / (sqrt(cache) + 1e-5).
    All three are {"W1": (H, D), "W2": (H,)} float64. Hinton, Coursera lecture 6e (2012).
    """
    for name, g in grad.items():
        cache[name] *= decay_rate
        cache[name] += (1 - decay_rate) * g**2
        model[name] += learning_rate * g / (np.sqrt(cache[name]) + 1e-5)


# ---- one game -----------------------------------------------------------------------------------


def play_game(pong: Pong, model: dict, rng: np.random.Generator, on_point: Callable | None = None):
    """Plays a game of T steps with the policy. It is a function of model and rng alone.

    Returns what the gradient needs: epx (T, D) int8, eph (T, H) float64, epdlogp (T,) float64
    (y - p, "the gradient that encourages the action that was taken to be taken") and rewards, a
    list of T floats. `on_point(reward)` is called as a point is scored.
    """
    model = {**model, "W1": np.asfortranarray(model["W1"])}  # else its columns are read slowly
    epx = np.empty((MAX_STEPS, D), np.int8)  # memory is only taken up by the steps played
    eph = np.empty((MAX_STEPS, model["W2"].shape[-1]))
    epdlogp, rewards = [], []
    pong.reset()
    pixels = pong.pixels()  # the first difference is then 0: nothing has moved yet
    for t in range(MAX_STEPS):
        previous, pixels = pixels, pong.pixels()
        x = np.subtract(pixels, previous, out=epx[t], casting="safe")
        p, eph[t] = policy_forward(model, x)
        if np.ndim(p) != 0 or not 0 <= p <= 1:
            raise ValueError(f"policy_forward: expected a probability p, found {p!r:.60}")
        up = rng.random() < p  # sample an action
        epdlogp.append(up - p)
        reward, done = pong.step(UP if up else DOWN, rng)
        rewards.append(reward)
        if reward != 0 and on_point is not None:
            on_point(reward)
        if done:
            break
    return epx[: t + 1], eph[: t + 1], np.array(epdlogp), rewards


def game_gradient(model: dict, played: tuple, gamma: float) -> dict:
    """Returns the policy gradient of what `play_game` returns."""
    epx, eph, epdlogp, rewards = played
    returns = discount_rewards(rewards, gamma)
    deviation = np.std(returns) or 1.0  # a game without a point has 0: its advantage is then 0
    advantage = (returns - np.mean(returns)) / deviation
    return policy_backward(model, epx, eph, epdlogp * advantage)


class Game(NamedTuple):
    """The result of a game: the rewards of its points, its steps and its gradient.

    The gradient of W1 is 0 but for the pixels that moved. So that less of it has to travel, it is
    (moved, dW1): the numbers of these pixels, and (their count, H) float64.
    """

    points: list
    steps: int
    gradient: dict | None = None


def play_and_learn(pong: Pong, model: dict, seed, gamma=None, on_point=None) -> Game:
    """Plays the game of `seed` and computes its gradient, unless gamma is None."""
    played = play_game(pong, model, np.random.default_rng(seed), on_point)
    rewards = played[3]
    points = [reward for reward in rewards if reward != 0]
    if gamma is None:
        return Game(points, steps=len(rewards))
    grad = game_gradient(model, played, gamma)
    shapes = {name: weights.shape for name, weights in model.items()}
    for name, g in grad.items():
        if np.shape(g) != shapes.get(name):
            raise ValueError(f"found a gradient of {name} of {np.shape(g)}: the model has {shapes}")
    dW1 = grad["W1"].T
    moved = dW1.any(axis=1).nonzero()[0]
    return Game(points, steps=len(rewards), gradient={**grad, "W1": (moved, dW1[moved])})


# ---- training and evaluation --------------------------------------------------------------------
# The games of a batch do not depend on each other. A player has them played wherever there are
# cores: `player.play(model, seeds, gamma)` yields each `Game` in the order of the seeds.


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of a run. The constants at the top of the script are the defaults."""

    batch_size: int = batch_size
    learning_rate: float = learning_rate
    gamma: float = gamma
    decay_rate: float = decay_rate


@dataclass
class State:
    """The state of a run, apart from its model."""

    seed: int
    rmsprop_cache: dict
    hyperparameters: Hyperparameters = Hyperparameters()
    games: int = 0
    running_mean: float = 0.0


def train_batch(model: dict, state: State, player: Any, on_game: Callable | None = None) -> None:
    """Plays a batch of games, adds up their gradients, and updates model and state in place.

    The gradients are added in the order of the games' numbers, so the result does not depend on
    who plays them, or how fast. `on_game(number, game, running_mean)` is called for each.
    """
    hyper = state.hyperparameters
    running_mean = state.running_mean
    grad_buffer = {name: np.zeros_like(weights) for name, weights in model.items()}
    seeds = [(state.seed, state.games + k) for k in range(hyper.batch_size)]
    for (_, number), game in zip(seeds, player.play(model, seeds, hyper.gamma)):
        moved, dW1 = game.gradient["W1"]
        grad_buffer["W1"].T[moved] += dW1
        grad_buffer["W2"] += game.gradient["W2"]
        score = sum(game.points, 0.0)
        running_mean = score if number == 0 else 0.99 * running_mean + 0.01 * score
        if on_game is not None:
            on_game(number, game, running_mean)
    state.games += hyper.batch_size  # before the update: one that fails is then never saved
    state.running_mean = running_mean
    rmsprop_update(model, grad_buffer, state.rmsprop_cache, hyper.learning_rate, hyper.decay_rate)


def train(model: dict, state: State, player: Any, games=math.inf, on_game=None, on_batch=None):
    """Plays and learns at least `games` games, in whole batches; `on_batch()` ends each."""
    end = state.games + games
    while state.games < end:
        train_batch(model, state, player, on_game)
        if on_batch is not None:
            on_batch()


def evaluate(model: dict, seed: int, games: int, player: Any) -> Iterator[Game]:
    """Yields `games` games with the policy frozen: actions are drawn, but nothing is learnt."""
    return player.play(model, [(seed, k, 1) for k in range(games)])


# That is the whole method. The rest is infrastructure: workers, checkpoint, log, command line.


# ---- errors and limits --------------------------------------------------------------------------


class UsageError(argparse.ArgumentTypeError):
    """What was asked for cannot be done; the message says what can. argparse shows it, too."""


class CheckpointError(ValueError):
    """A checkpoint or a log cannot be used; the message says what was expected and found."""


class WorkerError(Exception):
    """An exception in a worker process; the message is its traceback."""


NATURAL, WHOLE = (1, 2**31 - 1), (0, 2**63 - 1)
LIMITS = {  # the least and the most that a hyperparameter can be
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-100, 1e100),
    "gamma": (0.0, 1.0),
    "decay_rate": (0.0, 1 - sys.float_info.epsilon),
}


def checked_number(least: float, most: float, found: Any, name: str = "") -> Any:
    """Returns what `found`, a number or a text, says in the type of its limits, or UsageError."""
    kind = type(least)
    with contextlib.suppress(ValueError):
        if least <= kind(str(found)) <= most:
            return kind(str(found))
    text = f"expected {kind.__name__} from {least} to {most}, found {found!r:.60}"
    raise UsageError(f"{name}: {text}" if name else text)


def checked_hyperparameters(values: dict) -> Hyperparameters:
    """Raises UsageError for a value outside its limits, including constants edited by hand."""
    return Hyperparameters(
        **{name: checked_number(*LIMITS[name], values[name], name) for name in LIMITS}
    )


# ---- emulator -----------------------------------------------------------------------------------


def make_pong(**options: Any) -> Any:
    """Makes Gym's Pong-v0 by gym 0.21 with its ale-py, or else by gymnasium. UsageError."""
    found = versions()
    old = found.get("gym", "").startswith("0.21.") and found.get("ale-py", "").startswith("0.7.")
    try:
        import ale_py

        if old:
            import gym
        else:
            import gymnasium as gym

            gym.register_envs(ale_py)
        gym.logger.MIN_LEVEL = gym.logger.min_level = 40  # errors, and not that Pong-v0 is old
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        return gym.make("Pong-v0", **options).unwrapped
    except Exception as error:
        reason = str(error).partition("\n")[0]
        cure = "python -m pip install -r requirements.txt brings gymnasium 1 or gym 0.21, and "
        cure += "AutoROM --accept-license the ROM of gym 0.21"
        if "unexpected keyword" in reason:
            cure = f"check the options that Pong gives: {options}"
        if "SDL" in reason:
            cure = "the display cannot be opened: check DISPLAY, or leave out --render"
        for package in ("gym", "gymnasium", "ale_py"):
            if os.path.exists(os.path.join(sys.path[0], f"{package}.py")):
                cure = f"{package}.py in {sys.path[0]} hides the package: rename it"
        text = f"Pong-v0 does not start: {reason} (found: {in_a_line(found)}): {cure}"
        raise UsageError(text) from error


def versions() -> dict:
    """Returns {name: version} of what a bug report needs to name, as far as it is installed."""
    found = {"pong_pg": __version__, "Python": sys.version.split()[0]}
    for package in ("numpy", "gym", "gymnasium", "ale-py"):
        # a folder that pip has left empty gives None, or one of the other errors
        with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError, KeyError):
            found[package] = importlib.metadata.version(package) or "unknown"
    return found


def in_a_line(found: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


# ---- signals ------------------------------------------------------------------------------------

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # Windows has none
    STOP_SIGNALS.append(signal.SIGHUP)


class Stopped(Exception):
    """A signal, of this number, asked the run to end."""


@contextlib.contextmanager
def noted_signals() -> Iterator[Callable]:
    """Yields a function that raises Stopped if a signal has arrived; a second one ends at once.

    A run calls it between games and while it waits for them, so that no update is interrupted.
    """
    noted: list = []  # the number and the moment of the first one
    handlers_before: dict = {}

    def note(number: int, frame: object) -> None:
        if noted and time.monotonic() > noted[1] + 0.3:  # `timeout` sends each signal twice
            signal.signal(number, handlers_before[number])
            signal.raise_signal(number)
        elif not noted:
            noted.extend([number, time.monotonic()])

    def check() -> None:
        if noted:
            raise Stopped(noted[0])

    in_main_thread = threading.current_thread() is threading.main_thread()  # or Python refuses
    for number in STOP_SIGNALS:
        if in_main_thread and signal.getsignal(number) not in (signal.SIG_IGN, None):  # by nohup
            handlers_before[number] = signal.signal(number, note)
    try:
        yield check
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """While a process is being started: a signal then would show the traceback of the child."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # this unblocks two of them again, hence once more:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- worker processes ---------------------------------------------------------------------------


SCRIPT = os.path.abspath(globals().get("__file__", "<stdin>"))


def script_text() -> bytes:
    """Returns what this file says now, or nothing where it is none."""
    with contextlib.suppress(OSError), open(SCRIPT, "rb") as file:
        return file.read()
    return b""


TEXT_AS_IMPORTED = script_text()


def check_unchanged() -> None:
    """Raises UsageError where a worker would read another script than ours."""
    if script_text() != TEXT_AS_IMPORTED:
        raise UsageError(f"{SCRIPT} was changed after Python had read it: start Python again")


def check_guarded() -> None:
    """Raises UsageError in a worker that would start workers as it reads its parent's script."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        text = "your script is read by a worker, too: what plays in it belongs under"
        raise UsageError(f'{text} if __name__ == "__main__":')


class Worker:
    """A process that plays one game at a time, and the pipe to it."""

    def __init__(self, show: bool) -> None:
        """Raises OSError, and UsageError as `check_unchanged` does."""
        check_guarded()
        check_unchanged()
        context = multiprocessing.get_context("spawn")
        vars(sys.modules["__main__"]).setdefault("__spec__", None)  # pdb and %run take it away
        try:
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=work, args=(theirs, show), daemon=True)
            with signals_held_back():
                self.process.start()
        except (OSError, AttributeError, pickle.PicklingError) as error:
            cure = "try --workers 1; for a debugger or a profiler see docs/change_it.md"
            raise OSError(f"a worker process cannot be started: {error}: {cure}") from None
        theirs.close()  # so that the pipe ends when the worker does
        self.idle = False  # not before it says that it is ready
        self.task: Any = None  # the game that it plays: its place in the batch, its seed
        self.batch = 0  # the batch whose weights it has

    def start_game(self, batch: int, model: dict, task: tuple, gamma: float | None) -> None:
        """Sends it a game to play, and the weights if they are new to it."""
        weights = None if self.batch == batch else model
        self.idle = False
        self.task = task
        self.batch = batch
        _, seed = task
        with contextlib.suppress(OSError):  # it has died, which shows when its answer is awaited
            self.pipe.send((weights, seed, gamma))


class Workers:
    """A player: `count` processes of this machine. They are started when the first game is."""

    def __init__(self, count: int, check_signals=None, show=False, on_point=None) -> None:
        # A worker's BLAS reads these as it starts. Two threads are slower, and round differently.
        for blas in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM"):
            os.environ[f"{blas}_THREADS"] = "1"
        # Windows waits for 63 things at once.
        self.count = min(count, 60) if sys.platform == "win32" else count
        self.check_signals = check_signals
        self.show = show
        self.on_point = on_point
        self.workers: list = []
        self.batch = 0
        self.deaths = 0  # since the last finished game

    def play(self, model: dict, seeds: list, gamma: float | None = None) -> Iterator[Game]:
        """Yields the game of each seed, in order. UsageError, WorkerError, OSError, Stopped."""
        self.batch += 1
        waiting = list(enumerate(seeds))
        games: dict = {}
        self.hand_out(waiting, model, gamma)
        for place in range(len(seeds)):
            while place not in games:
                if self.check_signals is not None:
                    self.check_signals()
                self.collect(waiting, games)
                self.hand_out(waiting, model, gamma)
            yield games.pop(place)

    def hand_out(self, waiting: list, model: dict, gamma: float | None) -> None:
        """Gives a waiting game to each idle worker. Starts the workers, and replaces dead ones."""
        while len(self.workers) < self.count:
            self.workers.append(Worker(self.show))
        for worker in self.workers:
            if worker.idle and waiting:
                worker.start_game(self.batch, model, waiting.pop(0), gamma)

    def collect(self, waiting: list, games: dict) -> None:
        """Receives what the workers say within a tenth of a second."""
        busy = {worker.pipe: worker for worker in self.workers if not worker.idle}
        speaking: list = []
        with contextlib.suppress(InterruptedError):  # Ctrl-C on Windows: it has been noted
            speaking = connection.wait(list(busy), timeout=0.1)
        for pipe in speaking:
            worker = busy[pipe]
            try:
                kind, content = pipe.recv()
            except (EOFError, OSError):
                self.bury(worker, waiting)
                continue
            if kind == "refused":
                raise UsageError(content)
            if kind == "failed":
                raise WorkerError(content)
            if kind == "point":
                _, seed = worker.task
                self.on_point(seed[1], content)
                continue
            worker.idle = True
            if kind == "game" and worker.batch == self.batch:  # not of a batch that was given up
                place, _ = worker.task
                games[place] = Game(*content)
                self.deaths = 0

    def bury(self, worker: Worker, waiting: list) -> None:
        """Has the game of a dead worker played again. OSError where a new one would die, too."""
        worker.process.join()
        self.workers.remove(worker)
        if worker.batch == self.batch:  # and not one that was given up
            waiting.insert(0, worker.task)
        status = worker.process.exitcode  # None where somebody else has waited for it
        if status is not None and status >= 0:  # nobody killed it; on Windows that cannot be told
            raise OSError(f"a worker process exited with status {status}")
        self.deaths += 1
        if self.deaths > 30:
            text = f"31 worker processes died in a row, the last with status {status}"
            raise OSError(f"{text}: out of memory (-9)? try fewer --workers")

    def close(self) -> None:
        for worker in self.workers:
            worker.process.kill()  # there is nothing in a worker to lose
            worker.process.join()


def work(pipe: Any, show: bool) -> None:
    """A worker process: plays the games that it is sent, for as long as its parent lives."""
    prepare_output()
    parent: Any = multiprocessing.parent_process()

    def end_with_parent() -> None:  # in the middle of a game, too
        connection.wait([parent.sentinel])
        os._exit(1)

    def send_point(reward: float) -> None:
        pipe.send(("point", reward))

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=end_with_parent, daemon=True).start()
    pong: Any = None
    model: Any = None
    answer = pickle.dumps(("ready", None))
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            pipe.send_bytes(answer)
            weights, seed, gamma = pipe.recv()
            if weights is not None:
                model = weights
                for array in model.values():  # so that a game depends on model and seed alone
                    array.flags.writeable = False
            try:
                pong = pong or Pong(show)
                game = play_and_learn(pong, model, seed, gamma, send_point if show else None)
                answer = pickle.dumps(("game", tuple(game)))
            except UsageError as error:
                answer = pickle.dumps(("refused", str(error)))
            except BaseException as error:  # of code that somebody has changed
                text = traceback.format_exc(limit=-10)
                if isinstance(error, MemoryError):
                    text += "pong_pg: out of memory: try fewer --workers\n"
                answer = pickle.dumps(("failed", text))


# ---- checkpoint ---------------------------------------------------------------------------------
# Nothing that is read is run: a file is accepted only if it is, byte for byte, what
# `save_checkpoint` would write for what was read from it.

MOST_JSON = 4096  # bytes


def save_checkpoint(path: str, model: dict, state: State) -> None:
    """Writes `path`, whose bytes depend on model and state alone. OSError, CheckpointError."""
    check_numbers(path, model, state)
    write_atomically(path, encode(model, state))


def check_numbers(path: str, model: dict, state: State) -> None:
    """Raises CheckpointError for numbers that `load_checkpoint` would refuse."""
    wrong = fault(model, state.rmsprop_cache)
    if wrong:
        text = f"after {state.games} games {wrong}: {path} is left as it was"
        raise CheckpointError(f"{text}; try a smaller --learning-rate, or undo your last change")


def check_readable(model: dict, state: State) -> None:
    """Raises CheckpointError if what `save_checkpoint` would write could not be read again."""
    blank = init_model(np.random.default_rng(0))
    names, expected = list(state.rmsprop_cache), list(init_cache(blank))
    try:
        if names != expected:
            raise ValueError(f"the cache has {names}, and init_cache makes {expected}")
        read = vars(decode(encode(model, state), pickle_frames(blank), blank, init_cache(blank)))
        read["rmsprop_cache"] = state.rmsprop_cache  # which decode has compared
        for name, value in vars(state).items():
            if name not in read or repr(read[name]) != repr(value):
                raise ValueError(f"encode does not write {name} of State, or decode not read it")
    except Exception as error:
        text = "what you changed cannot be saved and read again (do State, Hyperparameters, encode "
        text += f"and decode agree?): {type(error).__name__}: {error}"
        raise CheckpointError(text) from None


def load_checkpoint(path: str) -> tuple[dict, State]:
    """Returns (model, state). Raises CheckpointError, which says what is wrong with the file."""
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is not {'a file' if os.path.exists(path) else 'there'}")
    model = init_model(np.random.default_rng(0))  # of the shapes to expect
    cache = init_cache(model)
    frames = pickle_frames(model)
    framing = len(b"".join(frames))
    weights = sum(8 * array.size for array in model.values())
    arrays = weights + sum(8 * array.size for array in cache.values())
    least = framing + arrays + 32
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(max(4 * least, 2**26))  # more than a changed script is likely to write
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    whole = len(data) == size and hashlib.sha256(data[:-32]).digest() == data[-32:]
    fits = least < size <= least + MOST_JSON
    has_our_W1 = data.startswith(frames[0])
    bare_model = size == framing + weights  # as another script saves it
    if not whole and (fits or has_our_W1) and not bare_model:
        raise CheckpointError(f"{path} is damaged: its checksum does not match")
    try:
        return model, decode(data, frames, model, cache)
    except UsageError as error:
        raise CheckpointError(f"{path} contains what no run can produce: {error}") from None
    except (LookupError, TypeError, ValueError, RecursionError):
        units, rest = divmod(size, arrays // H)
        if not (whole and data[:-32].endswith(b"}\n")):  # in format 1 that is a pickle
            text = "is not a checkpoint of this version. A file of another script or of an older "
            text += "version is imported by: python tools/import_model.py "
            text += f"{shlex.quote(str(path))} new.p"
        elif units != H and rest < MOST_JSON and not has_our_W1:
            text = f"has the size of {units} hidden units, and H is {H}: set H = {units}"
        else:
            text = "is of a script with another network, optimiser or checkpoint: use that one"
            text += ", or begin anew with --save other.p"
        raise CheckpointError(f"{path} {text}") from None


def encode(model: dict, state: State) -> bytes:
    """A pickle of the model, for any other script; the caches; a line of JSON; the SHA-256."""
    rest = {
        "format": 2,
        "seed": state.seed,
        "games": state.games,
        "running_mean": state.running_mean,
        "hyperparameters": asdict(state.hyperparameters),
    }
    caches = [values.astype("<f8").tobytes() for values in state.rmsprop_cache.values()]
    line = json.dumps(rest).encode() + b"\n"
    if len(line) > MOST_JSON:
        text = f"State takes {len(line)} bytes as JSON, and {MOST_JSON} is the most"
        raise CheckpointError(f"{text}: write what grows to a file of its own")
    data = b"".join([pickle_model(model), *caches, line])
    return data + hashlib.sha256(data).digest()


def decode(data: bytes, frames: list, model: dict, cache: dict) -> State:
    """Fills model and cache. At the end, what was read is encoded again and must be the same."""
    file = io.BytesIO(data[:-32])
    gaps = [len(frame) for frame in frames] + [0] * len(cache)  # before each array
    for gap, array in zip(gaps, (*model.values(), *cache.values())):
        file.seek(gap, os.SEEK_CUR)
        array[...] = np.frombuffer(file.read(8 * array.size), "<f8").reshape(array.shape)
    rest = json.loads(file.read(MOST_JSON + 1))
    seed = checked_number(*WHOLE, rest["seed"], "seed")
    games = checked_number(*WHOLE, rest["games"], "games")
    most = sys.float_info.max
    running_mean = checked_number(-most, most, rest["running_mean"], "running_mean")
    hyper = checked_hyperparameters(rest["hyperparameters"])
    state = State(
        seed=seed,
        rmsprop_cache=cache,
        hyperparameters=hyper,
        games=games,
        running_mean=running_mean,
    )
    if encode(model, state) != data:
        raise ValueError("what is read is not what was written: a number of another type, say")
    wrong = fault(model, cache)
    if wrong:
        raise UsageError(wrong)
    return state


def pickle_model(model: dict) -> bytes:
    """Pickles plain arrays to the same bytes with numpy 1 and numpy 2."""
    plain = {name: np.array(weights, "<f8", order="C") for name, weights in model.items()}
    return pickle.dumps(plain, 3).replace(b"numpy._core", b"numpy.core", 1)


def pickle_frames(model: dict) -> list:
    """Returns what pickle writes before, between and behind the arrays of such a model."""
    marked = {name: np.full(model[name].shape, 1.5 + n) for n, name in enumerate(model)}
    frames, rest = [], pickle_model(marked)
    for weights in marked.values():
        frame, _, rest = rest.partition(weights.astype("<f8").tobytes())
        frames.append(frame)
    return [*frames, rest]


def fault(model: dict, cache: dict) -> str:
    """Returns what is wrong with these numbers, or nothing."""
    named = [*model.items(), *((f"the RMSProp cache of {name}", cache[name]) for name in cache)]
    for name, array in named:
        if not np.isfinite(array).all():
            return f"{name} is not finite"
    return "" if valid_cache(cache) else "the RMSProp cache is negative (valid_cache)"


# ---- files --------------------------------------------------------------------------------------


def write_atomically(path: str, data: bytes) -> None:
    """Replaces `path` by a file with these bytes. Where it raises OSError, `path` is unchanged."""
    path = os.path.realpath(path)
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # there is none yet
            shutil.copymode(path, temporary)
        replace_patiently(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise OSError(f"{path} cannot be written, and is left as it was: {error}") from None


def temporary_name(path: str) -> str:
    return f"{path}.{os.getpid()}.tmp"


def replace_patiently(temporary: str, path: str) -> None:
    """On Windows another program, a virus scanner say, may hold the file for a moment."""
    for _ in range(30):
        with contextlib.suppress(PermissionError):
            os.replace(temporary, path)
            return
        time.sleep(0.1)
    os.replace(temporary, path)


def keep(path: str) -> None:
    """Gives the file at `path`, if there is one, a second name, which nothing overwrites."""
    if os.path.exists(path):
        try:
            os.link(os.path.realpath(path), free_name(path))
        except OSError:  # a file system without links
            try:
                with open(path, "rb") as file:
                    write_atomically(free_name(path), file.read())
            except OSError as error:
                raise OSError(f"{path} cannot be kept under another name: {error}") from None


def free_name(path: str) -> str:
    """Returns the first of path.1, path.2, ... that is free, beside the file if path is a link.

    A name that has a lock is not free: a run is about to write there.
    """
    path = os.path.realpath(path) if os.path.islink(path) else path
    n = 1
    while os.path.lexists(f"{path}.{n}") or os.path.lexists(f"{path}.{n}.lock"):
        n += 1
    return f"{path}.{n}"


@contextlib.contextmanager
def owned(flag: str, path: str) -> Iterator[None]:
    """Locks `path`, by a file beside it. UsageError if that, or to write there, cannot be done."""
    with refused_if_not_writable(flag, path):
        check_name(flag, path)
        real = os.path.realpath(path)
        lock = f"{real}.lock"
        if os.path.exists(lock) and os.path.getsize(lock) > 0:
            text = f"{lock} is in the way: it is none of our locks, which are empty"
            raise UsageError(f"{text}: choose another name: {flag} PATH")
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        lock_file(descriptor, lock)
    except (BlockingIOError, FileNotFoundError):  # gone: it has just ended
        os.close(descriptor)
        cure = f"wait until it ends, or choose another name: {flag} PATH"
        raise UsageError(f"{path} is in use by another run: {cure}") from None
    except OSError as error:  # a file system without locks
        warning = f"{path} cannot be locked ({error}): do not start a second run with it"
        print(f"pong_pg: {warning}", file=sys.stderr)
    try:
        with refused_if_not_writable(flag, path):
            check_replaceable(real)
        for left in glob.glob(f"{glob.escape(real)}.[0-9]*.tmp"):  # by a run that was killed
            if left[len(real) + 1 : -len(".tmp")].isdecimal():  # save.p.1.23.tmp is save.p.1's
                with contextlib.suppress(OSError):  # somebody else's, in a folder like /tmp
                    os.remove(left)
        yield
    finally:
        if sys.platform == "win32":  # there nobody can remove what is open
            os.close(descriptor)
        with contextlib.suppress(OSError):
            os.remove(lock)
        if sys.platform != "win32":  # and here a second run could take the lock before it goes
            os.close(descriptor)


@contextlib.contextmanager
def refused_if_not_writable(flag: str, path: str) -> Iterator[None]:
    """Raises UsageError for an OSError."""
    try:
        yield
    except OSError as error:
        cure = f"expected a name in a folder that is there and where you may write: {flag} PATH"
        raise UsageError(f"{path} cannot be written: {error.strerror}: {cure}") from None


def check_name(flag: str, path: str) -> None:
    """Raises UsageError for what cannot be the name of a regular file of a run."""
    stream = os.path.abspath(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    not_regular = os.path.exists(path) and not os.path.isfile(path)
    no_name = os.path.basename(path) in ("", ".", "..") or path.endswith(".lock")
    if stream or not_regular or no_name:
        raise UsageError(f"{flag} {path!r} cannot be written: expected the name of a regular file")


def check_replaceable(path: str) -> None:
    """Raises OSError where `write_atomically` would fail, before there is anything to lose."""
    temporary = temporary_name(path)
    os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o666))
    os.remove(temporary)
    if not os.path.exists(path):
        return
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, "it is write-protected")
    if path in mount_points():
        raise OSError(errno.EBUSY, "it is mounted alone, and not with its folder")
    if hasattr(os, "geteuid"):
        folder = os.stat(os.path.dirname(path))
        owners = (0, folder.st_uid, os.stat(path).st_uid)
        if folder.st_mode & stat.S_ISVTX and os.geteuid() not in owners:  # like /tmp
            raise PermissionError(errno.EPERM, "it belongs to another user")


def mount_points() -> list:
    """Returns where something is mounted, on Linux: a file in a container, say."""
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", "rb") as mounts:
        return [os.fsdecode(line.split()[4].replace(b"\\040", b" ")) for line in mounts]
    return []


def lock_file(descriptor: int, path: str) -> None:
    """Locks the file that was opened at `path`. OSError where there are no locks.

    Raises BlockingIOError if another process has it, FileNotFoundError if it is gone.
    """
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError from None
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samefile(path, descriptor):
            raise BlockingIOError  # another run has made it anew


# ---- what a run leaves --------------------------------------------------------------------------

LOG_HEADER = "episode,reward,running_mean,steps,seconds"


@dataclass
class Records(contextlib.AbstractContextManager):
    """Writes the checkpoint and the log of a run, a CSV row per game, and decides when."""

    save_path: str
    save_every: int
    log_path: str | None
    model: dict
    state: State
    fresh: bool  # what is found under these names is then to be kept

    def __post_init__(self) -> None:
        """Raises CheckpointError if the log is there and not that of the run that is resumed."""
        self.found_save = self.found_log = self.fresh
        self.whole_games = self.saved_games = self.state.games
        self.batch_rows: list = []  # of the batch that is played
        self.rows: list = []  # of whole batches, not written yet
        self.played = self.points = 0
        self.model_before: Any = {name: w.copy() for name, w in self.model.items()}
        self.began = time.monotonic()
        if self.log_path is not None and not self.fresh:
            self.began -= cut_log(self.log_path, self.state)

    def add_game(self, number: int, game: Game, running_mean: float) -> None:
        row = f"{number},{sum(game.points, 0.0)},{running_mean},{game.steps}"
        self.batch_rows.append(row)
        self.played += 1
        self.points += len(game.points)

    def end_batch(self) -> None:
        if self.state.games == self.whole_games:
            raise CheckpointError("train_batch has not counted its games: state.games is as it was")
        check_numbers(self.save_path, self.model, self.state)  # before anything is written
        if self.model_before is not None and (self.points > 0 or self.played >= 10):
            self.check_first_update()
            self.model_before = None
        if self.found_save:  # not before there is something to take its place
            keep(self.save_path)
            self.found_save = False
        self.whole_games = self.state.games  # from here on they may be saved
        if self.log_path is not None:
            self.rows += self.batch_rows
        self.batch_rows.clear()
        self.write_rows()
        if self.whole_games // self.save_every > self.saved_games // self.save_every:
            self.save()

    def check_first_update(self) -> None:
        """Says what a change to the method has broken, before more games are played in vain."""
        check_readable(self.model, self.state)
        if self.points == 0:
            text = f"no point was scored in {self.played} games: there is nothing to learn from"
            print(f"pong_pg: {text}", file=sys.stderr)
            return
        if self.points > 41 * self.played:
            text = f"{self.points} points in {self.played} games, which have at most 41 each: "
            text += "discount_rewards begins anew at each reward that is not 0"
            print(f"pong_pg: {text}", file=sys.stderr)
        can_learn = self.state.hyperparameters.gamma < 1  # else 21 lost points teach nothing
        for name, weights in self.model.items():
            if can_learn and np.array_equal(weights, self.model_before[name]):
                text = f"the update left {name} as it was: is its gradient 0, or not added up?"
                print(f"pong_pg: {text}", file=sys.stderr)

    def write_rows(self, otherwise: str = "wait") -> None:
        """Adds the rows of whole batches to the log, or leaves it as it is and warns."""
        path = self.log_path
        if path is None or not self.rows:
            return
        seconds = time.monotonic() - self.began
        try:
            if self.found_log and os.path.exists(path):
                os.replace(os.path.realpath(path), free_name(path))
            self.found_log = False
            with open(path, "ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                lines = [f"{row},{seconds:.3f}\n" for row in self.rows]
                data = "".join(lines if size > 0 else [LOG_HEADER + "\n", *lines]).encode()
                if file.write(data) < len(data):
                    file.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.rows.clear()
        except OSError as error:  # a spreadsheet has it open, say
            text = f"{path} cannot be written, {len(self.rows)} rows {otherwise}: {error}"
            print(f"pong_pg: {text}", file=sys.stderr)

    def save(self) -> None:
        """Saves what is new. After an update that failed half way, state and model do not match."""
        if self.saved_games < self.whole_games == self.state.games:
            save_checkpoint(self.save_path, self.model, self.state)
            self.saved_games = self.whole_games
            tqdm.write(f"saved {self.save_path}: {describe(self.state)}")

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is not KeyboardInterrupt:  # a second Ctrl-C: at once
            try:
                self.save()
            finally:  # the rows that wait, if the log can be written by now
                self.write_rows("are lost (resume with --log other.csv)")


def cut_log(path: str, state: State) -> float:
    """Cuts a log to the games of a checkpoint. Returns its seconds so far, or CheckpointError."""
    if not os.path.exists(path):
        return 0.0
    columns = LOG_HEADER.split(",")
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:  # a spreadsheet's mark
            header, *lines = file.read().splitlines() or [LOG_HEADER]
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if header != LOG_HEADER:
        raise CheckpointError(f"{path} is not a log of this script: line 1: expected {LOG_HEADER}")
    rows: list = [LOG_HEADER]
    last: tuple | None = None  # (game, running mean, seconds) of the last row that is kept
    for n, line in enumerate(lines, 2):
        try:
            numbers = [float(text) for text in line.split(",")]
            row = dict(zip(columns, numbers))
            game = row["episode"]
            follows = last is None or game == last[0] + 1
            follows = follows and len(numbers) == len(columns) and np.isfinite(numbers).all()
        except ValueError:
            follows = False
        if line == "" or (n > len(lines) and not follows):  # a kill may have cut the last line
            continue
        if not follows:
            wanted = "a game" if last is None else f"game {last[0] + 1:.0f}"
            text = f"line {n}: expected {len(columns)} numbers of {wanted}, found {line!r:.60}"
            raise CheckpointError(f"{path} is not the log of this run: {text}")
        if game >= state.games:  # this and what follows is played again
            if last is None:  # whose rows these are cannot be told
                print(f"{path} has no game before {state.games}: it is kept as {free_name(path)}")
                keep(path)
            break
        rows.append(line)
        last = game, row["running_mean"], row["seconds"]
    if last and (last[0] != state.games - 1 or not math.isclose(last[1], state.running_mean)):
        ends = f"it ends with game {last[0]:.0f} and a running mean of {last[1]:.2f}"
        wanted = f"expected game {state.games - 1} and {state.running_mean:.2f}"
        cure = "start a new log with --log other.csv"
        raise CheckpointError(f"{path} is not the log of this run: {ends}, {wanted}: {cure}")
    write_atomically(path, "\n".join([*rows, ""]).encode())
    return last[2] if last else 0.0


class Display:
    """Shows a run: as a line a point and a line a game, or as a progress bar."""

    def __init__(self, quiet: bool, live: bool, games: float | None) -> None:
        self.live = live  # points are shown as they are scored
        self.bar = tqdm(total=games, unit="game", disable=not quiet)
        self.steps = 0

    def point(self, number: int, reward: float) -> None:
        if self.bar.disable:
            won = " !!!!!!!!" if reward > 0 else ""
            print(f"ep {number}: game finished, reward: {reward}{won}")

    def game(self, number: int, game: Game, running_mean: float) -> None:
        if self.bar.disable:
            if not self.live:
                for reward in game.points:
                    self.point(number, reward)
            total = f"episode reward total was {sum(game.points):f}"
            print(f"resetting env. {total}. running mean: {running_mean:f}")
        else:
            self.steps += game.steps
            rate = self.steps / self.bar.format_dict["elapsed"]
            text = f"running mean {running_mean:.2f}, {rate:.0f} steps/s"
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update()


# ---- a run --------------------------------------------------------------------------------------


def start_run(save: str, log: str | None, seed: int | None, changes: dict) -> tuple[dict, State]:
    """Returns (model, state) of a new run. Says under which names existing files will be kept."""
    seed = secrets.randbits(32) if seed is None else seed
    model = init_model(np.random.default_rng(seed))
    for name, weights in (*model.items(), *init_cache(model).items()):
        if not isinstance(weights, np.ndarray) or weights.dtype.kind != "f":
            text = " ".join(repr(weights).split())
            raise UsageError(f"expected an array of floats as {name}, found {text:.60}")
    hyper = checked_hyperparameters({**asdict(Hyperparameters()), **changes})
    print(f"training from scratch, seed {seed} (README.md: how long until it wins?)")
    for path in (log, save):
        if path is not None and os.path.exists(path):
            print(f"after the first batch {path} will be kept as {free_name(path)}")
    with contextlib.suppress(CheckpointError):
        _, found = load_checkpoint(save)
        print(f"  it holds {describe(found)}")
        print(f"  to continue it: {command('--resume', '--save', free_name(save))}")
        print(f"  to watch it: {command('--evaluate', '1', '--render', '--save', free_name(save))}")
    return model, State(seed=seed, rmsprop_cache=init_cache(model), hyperparameters=hyper)


def resume_run(save: str, seed: int | None, changes: dict) -> tuple[dict, State]:
    """Returns (model, state) of a checkpoint, with hyperparameters replaced by `changes`."""
    model, state = load_checkpoint(save)
    if seed not in (None, state.seed):
        raise UsageError(f"--seed {seed}: {save} belongs to a run of seed {state.seed}")
    print(f"resuming {save}: {describe(state)}")
    for name, old in asdict(state.hyperparameters).items():
        if changes.get(name, old) != old:
            print(f"{name} {changes[name]} replaces the checkpoint's {old}")
    state.hyperparameters = replace(state.hyperparameters, **changes)
    print(f"  with {in_a_line(asdict(state.hyperparameters))} (only flags change these)")
    return model, state


def command(*flags: str, script: str | None = None) -> str:
    """Returns what to type in this folder to run this script, or another one, with these flags."""
    python = "python" if shutil.which("python") == sys.executable else from_here(sys.executable)
    join = subprocess.list2cmdline if sys.platform == "win32" else shlex.join
    return join([python, from_here(script or SCRIPT), *flags])


def from_here(path: str) -> str:
    """Returns a shorter path, if what is at `path` is below this folder."""
    here = os.path.join(os.getcwd(), "")
    return path[len(here) :] if path.startswith(here) else path


def describe(state: State) -> str:
    return f"{state.games} games, running mean {state.running_mean:.2f}, seed {state.seed}"


# ---- command line -------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"pong_pg: {message} (--help shows the flags)\n")


def limited(least: Any, most: Any) -> dict:
    """Returns what tells argparse that a flag takes a number within these limits."""
    letter = "N" if isinstance(least, int) else "X"
    return {"type": functools.partial(checked_number, least, most), "metavar": letter}


CPU_LIMIT = "/sys/fs/cgroup/cpu.max"  # of a container: its microseconds in a period, the period


def usable_cores() -> int:
    """Returns how many cores this process may use."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError), open(CPU_LIMIT, encoding="utf-8") as file:
        quota, period = map(int, file.read().split())  # ValueError where there is no limit: "max"
        cores = min(cores, math.ceil(quota / period))
    return cores


def parse_arguments(argv: list | None = None) -> argparse.Namespace:
    """Exits with one line and status 2 for flags that make no sense."""
    description = "Learn Atari Pong from pixels. Without flags, train from scratch until Ctrl-C."
    parser = Parser(usage="python pong_pg.py [flags]", description=description)
    cores = usable_cores()
    switch: dict = {"action": "store_true"}
    path: dict = {"metavar": "PATH"}
    count = limited(*NATURAL)
    hyper = {name: limited(*limits) for name, limits in LIMITS.items()}
    version = {"action": "version", "version": in_a_line(versions())}
    flags: dict = {
        "resume": ("continue from the checkpoint", {**switch, "default": resume}),
        "render": ("show the game in a window (one worker)", {**switch, "default": render}),
        "save": ("the checkpoint (default: save.p)", {**path, "default": "save.p"}),
        "save-every": ("games between saves (default: 100 or just above)", count),
        "episodes": ("stop after N more games, in whole batches", count),
        "seed": ("the same seed gives the same run", limited(*WHOLE)),
        "workers": ("processes that play (default: one per core)", {**count, "default": cores}),
        "cluster": ("a Dask cluster plays: its scheduler, or `local`", {"metavar": "ADDRESS"}),
        "batch-size": (f"games per parameter update (default: {batch_size})", hyper["batch_size"]),
        "learning-rate": (f"learning rate (default: {learning_rate})", hyper["learning_rate"]),
        "gamma": (f"discount factor of the rewards (default: {gamma})", hyper["gamma"]),
        "decay-rate": (f"decay rate of RMSProp (default: {decay_rate})", hyper["decay_rate"]),
        "log": ("write a CSV file with one row per game", path),
        "quiet": ("show a progress bar instead of lines", switch),
        "evaluate": ("play N games without learning, and sum up", count),
        "version": ("show the versions, for a bug report", version),
    }
    for name, (text, how) in flags.items():
        parser.add_argument(f"--{name}", help=text, **how)
    args = parser.parse_args(argv)
    for name in (*LIMITS, "episodes", "save_every", "log"):
        if args.evaluate is not None and getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} does not go with --evaluate")
    if args.render and args.cluster is not None:
        parser.error("--render does not go with --cluster")
    if args.log is not None and os.path.realpath(args.log) == os.path.realpath(args.save):
        parser.error("--log and --save name the same file")
    return args


def prepare_output() -> None:
    """Makes sure that output never ends a run."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed, or this is pythonw
            nowhere = io.FileIO(os.devnull, "w")
            setattr(sys, name, io.TextIOWrapper(nowhere, errors="backslashreplace"))
        elif hasattr(stream, "reconfigure"):  # that of a notebook has not
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    tqdm.set_lock(threading.RLock())  # its own needs a process, which complains when a run is cut


def output_goes_nowhere() -> int:
    """Drops what Python would still write, and cannot. Returns the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def run(args: argparse.Namespace, check_signals: Callable) -> None:
    """Trains or evaluates. What these two call does not see `args`."""
    if not TEXT_AS_IMPORTED:
        text = "workers read the script too, so it must be a file"
        raise UsageError(f"{text}: python pong_pg.py, or import pong_pg; pong_pg.main([])")
    check_guarded()
    checked_number(*NATURAL, H, "H")  # UsageError for one that is none
    names = list(asdict(Hyperparameters()))
    if list(LIMITS) != names:
        text = f"Hyperparameters has {names}, and LIMITS has {list(LIMITS)}"
        raise UsageError(f"{text}: a hyperparameter stands in both, and in parse_arguments")
    pixels = np.empty((210, 160))[FIELD].size
    if pixels != D:
        text = f"FIELD takes {pixels} pixels of a frame, and D is {D}: set D = {pixels}"
        if pixels > 0 and D % pixels == 0:
            times = f"{D // pixels} * D"
            text += f" (and write {times} in init_model and play_game if frames are stacked)"
        raise UsageError(text)
    if args.evaluate is None:
        run_training(args, check_signals)
    else:
        run_evaluation(args, check_signals)


def run_training(args: argparse.Namespace, check_signals: Callable) -> None:
    """Runs a new or a resumed training: shows it, logs it and saves it."""
    given = {name: getattr(args, name) for name in LIMITS}
    changes = {name: value for name, value in given.items() if value is not None}
    log_owned = contextlib.nullcontext() if args.log is None else owned("--log", args.log)
    with owned("--save", args.save), log_owned:
        if args.resume:
            model, state = resume_run(args.save, args.seed, changes)
        else:
            model, state = start_run(args.save, args.log, args.seed, changes)
        batch_size = state.hyperparameters.batch_size
        save_every = args.save_every or whole_batches(100, batch_size)
        if save_every % batch_size != 0:
            text = f"--save-every {save_every} is not a multiple of the batch size {batch_size}"
            raise UsageError(text)
        games = math.inf if args.episodes is None else whole_batches(args.episodes, batch_size)
        records = Records(args.save, save_every, args.log, model, state, not args.resume)
        display = Display(args.quiet, args.render, games)
        workers = min(args.workers, batch_size)
        how = (args.cluster, args.render, workers, check_signals, display.point)

        def on_game(number: int, game: Game, running_mean: float) -> None:
            records.add_game(number, game, running_mean)
            display.game(number, game, running_mean)

        with display.bar, records, contextlib.closing(choose_player(*how)) as player:
            train(model, state, player, games, on_game, records.end_batch)


def whole_batches(games: int, batch_size: int) -> int:
    return math.ceil(games / batch_size) * batch_size


def run_evaluation(args: argparse.Namespace, check_signals: Callable) -> None:
    """Plays games with the policy of a checkpoint, and sums them up."""
    model, _ = load_checkpoint(args.save)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    print(f"evaluating {args.save}, seed {seed}")
    scores = []
    display = Display(args.quiet, args.render, args.evaluate)
    workers = min(args.workers, args.evaluate)
    how = (args.cluster, args.render, workers, check_signals, display.point)
    with display.bar, contextlib.closing(choose_player(*how)) as player:
        for game in evaluate(model, seed, args.evaluate, player):
            scores.append(sum(game.points))
            if args.quiet:
                display.bar.update()
            else:
                print(f"game {len(scores) - 1}: {scores[-1]:+.0f} in {game.steps} steps")
    won = sum(score > 0 for score in scores)
    summary = f"won={won} mean={np.mean(scores):+.2f} std={np.std(scores):.2f}"
    print(f"evaluation: games={args.evaluate} {summary}")


def choose_player(cluster, render: bool, workers: int, check_signals, on_point) -> Any:
    """Returns the player: worker processes, one with a window, or a Dask cluster."""
    if cluster is not None:
        try:
            from tools import dask_cluster
        except ImportError as error:
            text = f"--cluster needs tools/dask_cluster.py beside pong_pg.py: {error}"
            raise UsageError(text) from None
        return dask_cluster.Cluster(sys.modules[__name__], cluster, workers, check_signals)
    if render:
        choose_display()
        return Workers(1, check_signals, show=True, on_point=on_point)
    return Workers(workers, check_signals)


def choose_display() -> None:
    """Names SDL's driver: without one it would play on, silently, where there is no display."""
    if sys.platform.startswith("linux") and not os.environ.get("SDL_VIDEODRIVER"):
        drivers = {"DISPLAY": "x11", "WAYLAND_DISPLAY": "wayland"}
        found = [driver for variable, driver in drivers.items() if os.environ.get(variable)]
        if not found:
            raise UsageError("--render needs a display, and there is none (DISPLAY is not set)")
        os.environ["SDL_VIDEODRIVER"] = found[0]
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # there is nothing to hear


def main(argv: list | None = None) -> int:
    """Runs the script. Returns its exit status."""
    prepare_output()
    args = parse_arguments(argv)
    with noted_signals() as check_signals:
        try:
            run(args, check_signals)
            return 0
        except Stopped as stopped:
            return 128 + stopped.args[0]
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except BrokenPipeError:
            return output_goes_nowhere()
        except WorkerError as error:
            print(error, end="", file=sys.stderr)
            return 1
        except (UsageError, CheckpointError, OSError) as error:
            if getattr(error, "filename", None) is not None:  # of a file that is none of ours
                raise
            number = getattr(error, "errno", None)
            if number == errno.EINVAL and sys.platform == "win32":  # there, a broken pipe
                return output_goes_nowhere()
            if number == errno.ENOSPC:
                print(f"pong_pg: the output cannot be written: {error}", file=sys.stderr)
                return output_goes_nowhere()
            print(f"pong_pg: {error}", file=sys.stderr)
            return 1 if isinstance(error, OSError) else 2


# /// script
# requires-python = ">=3.9"
# dependencies = [
#     "numpy",
#     "tqdm",
#     "gymnasium>=1.0",
#     "ale-py>=0.10",
#     "ale-py<0.12; sys_platform == 'darwin' and platform_machine == 'x86_64'",
# ]
# ///

if __name__ == "__main__":
    sys.exit(main())
