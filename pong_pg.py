# /// script
# requires-python = ">=3.9"
# dependencies = ["numpy", "tqdm", "gymnasium>=1.0", "ale-py>=0.10"]
# ///
"""Learn Atari Pong from pixels: a two-layer policy network and REINFORCE, in plain numpy.

    python pong_pg.py                            # train from scratch, until Ctrl-C
    python pong_pg.py --resume                   # go on from save.p
    python pong_pg.py --evaluate 1 --render      # watch the agent in save.p play a game
    python pong_pg.py --evaluate 100             # how good is it?
    python pong_pg.py --seed 1 --log pong.csv    # a run that can be repeated and plotted

The method and its names are those of Andrej Karpathy, "Deep Reinforcement Learning: Pong from
Pixels" (2016), http://karpathy.github.io/2016/05/31/rl/ ("the blog post" below). The file reads in
the order in which data flows: environment, preprocessing, policy, returns, update, one game; then
the machinery: worker processes, checkpoint, log, training and evaluation, command line.
"""

import os
import signal

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
                if hasattr(signal, name)]  # fmt: skip


def on_stop_signals(handler):
    for number in STOP_SIGNALS:  # nohup has SIGHUP ignored, and so it stays
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


if __name__ == "__main__":  # during the imports below a signal ends the script at once
    on_stop_signals(lambda number, _: os._exit(128 + number))

import argparse
import atexit
import collections
import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import io
import itertools
import math
import multiprocessing
import pickle
import platform
import reprlib
import secrets
import shutil
import struct
import sys
import threading
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection

try:
    import numpy as np
except ImportError:
    if __name__ != "__main__":
        raise
    print("pong_pg: numpy is missing: python -m pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

__version__ = "1.0.0"

# hyperparameters
H = 200  # number of hidden units
batch_size = 10  # games played for one parameter update
learning_rate = 1e-4
gamma = 0.99  # discount factor of the rewards
decay_rate = 0.99  # of RMSProp's running mean of squared gradients
resume = False  # go on from the checkpoint?
render = False  # show the game in a window?

D = 80 * 80  # input dimensionality: the pixels of a preprocessed frame
UP, DOWN = 2, 3  # the two actions of Pong that the policy chooses from
FIELD = np.s_[35:195:2, ::2]  # every second pixel of the field: 80 x 80 of the 210 x 160
MAX_STEPS = 10_000  # of a game
UNKNOWN = 2  # a pixel that is neither background, 0, nor else, 1


class UsageError(argparse.ArgumentTypeError):
    """The command line, or what is installed, does not serve; the message says what would."""


class CheckpointError(ValueError):
    """A checkpoint or a log cannot be used; the message says what was expected and found."""


class Stopped(Exception):
    """A signal asked for the end; `args[0]` is its number."""


# ---- environment --------------------------------------------------------------------------------


class Pong:
    """Gym's Pong-v0, the same on gym 0.21 and on gymnasium, with its chance in our hands.

    Pong-v0 holds an action for 2, 3 or 4 emulator frames, drawn evenly, and is sticky: at every
    frame the emulator carries out the last action once more with probability 0.25 (Machado et al.,
    "Revisiting the Arcade Learning Environment", 2018, section 5). Here both draws come from the
    caller's generator and the emulator's own chance is off, so that a game depends on nothing else:
    not on the version of the emulator, nor on the games played before.
    """

    def __init__(self, show: bool = False):
        """Opens the emulator, with a window if `show`. Raises UsageError where it cannot."""
        gym = import_gym()
        options = {"frameskip": 1, "repeat_action_probability": 0.0}
        if show:
            check_display()
            options["render_mode"] = "human"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they say that Pong-v0 is old; it is the blog post's
            try:
                self.ale = gym.make("Pong-v0", **options).unwrapped.ale
            except Exception as error:
                if "Unable to find" in str(error) or "ROM" in str(error):
                    raise UsageError(
                        "the ROM of Pong is missing: AutoROM --accept-license (see README)"
                    ) from error
                raise UsageError(f"Pong-v0 does not start: {str(error).splitlines()[0]}") from error
        actions = self.ale.getMinimalActionSet()  # Gym counts in these: 2 is RIGHT, which is up
        self.buttons = [action.value for action in actions]
        self.screen = np.empty((210, 160), np.uint8)  # numbers of colours
        self.rgb = np.empty((210, 160, 3), np.uint8)
        self.pixels = bytearray([UNKNOWN] * 256)  # what `prepro` makes of each colour

    def reset(self):
        """Starts a game."""
        self.ale.reset_game()
        self.carried_out = self.buttons[0]  # what the emulator carried out last: nothing

    def step(self, action: int, rng: np.random.Generator):
        """Holds `action` for 2 to 4 sticky frames. Gives (reward, is the game over?)."""
        reward = 0.0
        for _ in range(rng.integers(2, 5)):
            if rng.random() >= 0.25:
                self.carried_out = self.buttons[action]
            reward += self.ale.act(self.carried_out)
        return reward, self.ale.game_over()

    def frame(self) -> np.ndarray:
        """The screen, (210, 160, 3) uint8, in memory that is used again for every frame."""
        self.ale.getScreenRGB(self.rgb)
        return self.rgb

    def prepro(self) -> np.ndarray:
        """The same as `prepro(self.frame())`, but faster.

        The emulator has the numbers of the colours at hand and works out their red, green and blue
        pixel by pixel. So `prepro` itself only has to see the frames that show a new colour.
        """
        self.ale.getScreen(self.screen)
        colours = self.screen[FIELD].ravel().tobytes()  # alone, tobytes would be slow
        pixels = colours.translate(self.pixels)
        if UNKNOWN in pixels:
            pixels = prepro(self.frame()).tobytes()
            for colour, pixel in zip(colours, pixels):
                self.pixels[colour] = pixel
        return np.frombuffer(pixels, np.int8)


# ---- preprocessing ------------------------------------------------------------------------------


def prepro(frame: np.ndarray) -> np.ndarray:
    """(210, 160, 3) uint8 frame -> (6400,) int8 of 0 and 1: what is not background.

    Crops the field (rows 35 to 194), takes every second pixel of its red channel and erases the two
    backgrounds, 144 and 109. The frame is not modified. Blog post, `prepro`.
    """
    red = frame[..., 0][FIELD].ravel()
    paddles_and_ball = (red != 144) & (red != 109) & (red != 0)
    return paddles_and_ball.view(np.int8)


# ---- policy -------------------------------------------------------------------------------------


def sigmoid(x):
    """1 / (1 + exp(-x)) of a float or an array, with no overflow at any x."""
    return np.exp(-np.logaddexp(0.0, -x))


def init_model(rng: np.random.Generator) -> dict:
    """{"W1": (H, D), "W2": (H,)} float64, normal with variance 1 / inputs ("Xavier").

    W1 is kept in Fortran order: `W1.T[pixels]` then reads whole rows of memory.
    """
    W1 = rng.standard_normal((H, D)) / np.sqrt(D)
    W2 = rng.standard_normal(H) / np.sqrt(H)
    return {"W1": np.asfortranarray(W1), "W2": W2}


def policy_forward(model: dict, x: np.ndarray):
    """x (D,) int8 or float -> (p, h): the probability of UP, and the hidden state (H,) float64.

    h = max(0, W1 x), p = sigmoid(W2 . h). Some 33 of the 6400 inputs are not 0, so that only their
    columns of W1 are read.
    """
    on = (x != 0).nonzero()[0]
    h = np.dot(x.take(on), model["W1"].T.take(on, axis=0))
    np.maximum(h, 0.0, out=h)  # ReLU
    return float(sigmoid(np.dot(model["W2"], h))), h


def policy_backward(model: dict, epx: np.ndarray, eph: np.ndarray, epdlogp: np.ndarray) -> dict:
    """Policy gradient of one game: {"W1": (H, D), "W2": (H,)} float64, summed over its T steps.

    epx (T, D) are the inputs, eph (T, H) the hidden states and epdlogp (T,) the gradients of
    log-probability, y - p, already multiplied by the standardised returns (the advantage):

        dW2 = sum_t epdlogp_t h_t,    dW1 = sum_t (epdlogp_t W2 * [h_t > 0]) x_t^T

    In a block of 64 steps only a few hundred pixels move, and only they take part in the product.
    """
    dW1 = np.zeros(model["W1"].shape[::-1])  # transposed, for its rows to be whole in memory
    for start in range(0, len(epx), 64):
        block = slice(start, start + 64)
        x = epx[block]
        moved = (x != 0).any(axis=0).nonzero()[0]
        dh = np.outer(epdlogp[block], model["W2"])
        dh[eph[block] <= 0] = 0.0  # backpropagate through the ReLU
        dW1[moved] += np.dot(x[:, moved].T.astype(np.float64), dh)
    return {"W1": dW1.T, "W2": np.dot(epdlogp, eph)}


# ---- returns ------------------------------------------------------------------------------------


def discount_rewards(rewards, gamma: float = gamma) -> np.ndarray:
    """Rewards (T,) -> returns (T,) float64: R_t = r_t + gamma R_(t+1).

    The sum starts anew at every reward that is not 0: there a point was scored, and what comes
    after it is another rally (specific to Pong). Blog post, `discount_rewards`.
    """
    returns = []
    running_add = 0.0
    for reward in reversed(np.asarray(rewards, dtype=np.float64).tolist()):
        running_add = reward + gamma * running_add if reward == 0 else reward
        returns.append(running_add)
    return np.array(returns[::-1], dtype=np.float64)


def standardise(returns: np.ndarray) -> np.ndarray:
    """(returns - mean) / standard deviation; zeros where a game of no points has no deviation."""
    centred = returns - np.mean(returns)
    deviation = np.std(returns)
    return centred / deviation if deviation > 0 else np.zeros_like(centred)


# ---- RMSProp ------------------------------------------------------------------------------------


def rmsprop_update(model, grad, cache, learning_rate, decay_rate):
    """One step of gradient ascent on `model`, in place; `cache` is the mean of squared gradients.

    cache = decay_rate cache + (1 - decay_rate) g^2;  W += learning_rate g / (sqrt(cache) + 1e-5).
    All three are {"W1": (H, D), "W2": (H,)} float64. Hinton, Coursera lecture 6e (2012).
    """
    for name, g in grad.items():
        cache[name] *= decay_rate
        cache[name] += (1 - decay_rate) * g**2
        model[name] += learning_rate * g / (np.sqrt(cache[name]) + 1e-5)


# ---- one game -----------------------------------------------------------------------------------


def play_game(pong: Pong, model: dict, rng: np.random.Generator, on_point=None):
    """Plays a game with the policy. Gives what the gradient needs, of its T steps:

    epx (T, D) int8, eph (T, H) float64, epdlogp (T,) float64 (y - p, "the gradient that encourages
    the action that was taken to be taken"), and rewards, a list of T floats. `on_point(reward)` is
    called as a point is scored. The game is a function of model and rng alone.
    """
    epx = np.empty((MAX_STEPS, D), np.int8)  # memory is only taken up by the steps played
    eph = np.empty((MAX_STEPS, len(model["W2"])))
    epdlogp, rewards = [], []
    pong.reset()
    current = pong.prepro()  # so that nothing has moved at the first step
    for t in range(MAX_STEPS):
        previous, current = current, pong.prepro()
        x = np.subtract(current, previous, out=epx[t])  # the input is what moved
        p, eph[t] = policy_forward(model, x)
        up = rng.random() < p  # sample an action
        epdlogp.append(up - p)
        reward, done = pong.step(UP if up else DOWN, rng)
        rewards.append(reward)
        if reward != 0 and on_point:
            on_point(reward)
        if done:
            break
    return epx[: t + 1], eph[: t + 1], np.array(epdlogp), rewards


def game_gradient(model: dict, played, gamma: float) -> dict:
    """The policy gradient of what `play_game` gives."""
    epx, eph, epdlogp, rewards = played
    advantage = standardise(discount_rewards(rewards, gamma))
    return policy_backward(model, epx, eph, epdlogp * advantage)


# ---- one batch over the workers -----------------------------------------------------------------

Game = collections.namedtuple("Game", "points steps gradient")  # the rewards of its points


def play_batch(workers, model: dict, seeds, gamma: float, on_game) -> dict:
    """Plays a game for each of `seeds`; gives the sum of their gradients, added in this order.

    `on_game(seed, game)` is called in this order too. Of dW1 only the columns of the pixels that
    moved in the game travel.
    """
    grad_buffer = {name: np.zeros(w.shape, order="F") for name, w in model.items()}
    for seed, game in zip(seeds, workers.play(model, seeds, gamma)):
        moved, dW1, dW2 = game.gradient
        grad_buffer["W1"].T[moved] += dW1
        grad_buffer["W2"] += dW2
        on_game(seed, game)
    return grad_buffer


class Workers:
    """Processes that play games, through a `concurrent.futures` executor.

    Weights and gradients, megabytes each, travel in memory that all processes share, and only
    seeds and points through the executor's queues: weights are sent once a batch, and a worker that
    is killed as it sends can neither block nor garble anything. Record 0 of that memory holds the
    weights, each other one the gradient of a game.
    """

    def __init__(self, count: int, model: dict, stopped=(), show=False, live=False):
        """Has `count` processes at most. Numbers of signals appear in `stopped`. A worker shows
        the game if `show` (there is one then), and prints points as they are scored if `live`."""
        self.count, self.stopped = 1 if show else count, stopped
        self.slots = range(1, 2 if show else count + 2)  # a game waits, so that no worker has to
        # BLAS reads these as a worker starts. On two threads it would be slower, and round in
        # another way.
        for blas in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM"):
            os.environ[blas + "_THREADS"] = "1"
        self.context = multiprocessing.get_context("spawn")
        records = record_type(model["W1"].shape)
        memory = self.context.RawArray("B", (len(self.slots) + 1) * records.itemsize)
        self.records = np.frombuffer(memory, records)
        self.setup = memory, model["W1"].shape, show, live
        self.start()

    def start(self):
        with signals_held_back():
            self.executor = ProcessPoolExecutor(self.count, self.context, start_worker, self.setup)

    def play(self, model: dict, seeds, gamma=None):
        """Yields a Game for each of `seeds`, in their order; without a gamma its gradient is void.

        The games are dealt one by one. As a game is a function of weights and seed alone, those of
        a worker that died are simply played again. Raises Stopped, and
        OSError when workers cannot be replaced.
        """
        self.records["W1"][0], self.records["W2"][0] = model["W1"].T, model["W2"]
        todo, playing, played = collections.deque(seeds), {}, {}
        free, deaths = list(self.slots), 0
        for seed in seeds:
            while seed not in played:
                try:
                    while todo and free:
                        with signals_held_back():
                            future = self.executor.submit(play_in_worker, todo[0], free[-1], gamma)
                        playing[future] = todo.popleft(), free.pop()
                    for future in wait(playing, 0.1, FIRST_COMPLETED).done:
                        points, steps = future.result()
                        number, slot = playing.pop(future)
                        moved = self.records["moved"][slot].nonzero()[0]
                        dW1, dW2 = self.records["W1"][slot][moved], self.records["W2"][slot].copy()
                        played[number] = Game(points, steps, (moved, dW1, dW2))
                        free.append(slot)
                except BrokenProcessPool:
                    deaths += 1
                    if deaths > 10:
                        raise OSError("worker processes die again and again") from None
                    todo.extendleft(sorted((n for n, _ in playing.values()), reverse=True))
                    playing, free = {}, list(self.slots)
                    self.close()
                    self.start()
                if self.stopped:
                    raise Stopped(self.stopped[0])
            yield played.pop(seed)

    def close(self):
        for process in multiprocessing.active_children():
            process.kill()  # there is nothing in a worker to lose
        self.executor.shutdown()


def record_type(shape):
    H, D = shape
    return np.dtype([("W1", "f8", (D, H)), ("W2", "f8", H), ("moved", "?", D)], align=True)


@contextlib.contextmanager
def signals_held_back():
    """Has signals wait. A process started meanwhile never gets them: it ends when we end it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(memory, shape, show, live):
    """The first that a new worker process does: it keeps all this between games."""
    global worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    atexit.register(os._exit, 0)  # the emulator's library would report leaks as it is unloaded
    worker = np.frombuffer(memory, record_type(shape)), show, live


def end_with_parent():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


open_pong = functools.lru_cache(maxsize=None)(Pong)  # an emulator is opened once a process


def play_in_worker(seed, slot, gamma):
    records, show, live = worker
    model = {"W1": records["W1"][0].T, "W2": records["W2"][0]}
    on_point = functools.partial(print_point, seed[1]) if live else None
    played = play_game(open_pong(show), model, np.random.default_rng(seed), on_point)
    epx, rewards = played[0], played[-1]
    if gamma is not None:
        gradient = game_gradient(model, played, gamma)
        moved = records["moved"][slot] = np.bitwise_or.reduce(epx, axis=0) != 0
        records["W1"][slot][moved] = gradient["W1"].T[moved]
        records["W2"][slot] = gradient["W2"]
    return [reward for reward in rewards if reward != 0], len(rewards)


# ---- checkpoint ---------------------------------------------------------------------------------


def save_checkpoint(path, model: dict, state: dict):
    """Writes `path` anew: at every instant it is the old checkpoint or the new one, whole.

    The file is a pickle of the model alone, which any other Pong from Pixels script can read, a
    pickle of the state (see `new_state`), and the SHA-256 of both. Its bytes depend on model and
    state alone. Raises OSError, with the old file intact, when it cannot be written.
    """
    plain = {name: np.array(model[name], np.float64, order="C") for name in ("W1", "W2")}
    cache = {name: c.astype("<f8").tobytes() for name, c in state["rmsprop_cache"].items()}
    data = pickle.dumps(plain, 3).replace(b"numpy._core", b"numpy.core", 1)  # numpy 2's new name
    data += pickle.dumps({**state, "rmsprop_cache": cache}, 3)
    write_atomically(path, data + hashlib.sha256(data).digest())


def load_checkpoint(path):
    """Gives (model, state) of a checkpoint; state is None for a file that holds just a model.

    The file may come from anywhere: nothing in it is run. Raises CheckpointError, which says what
    is wrong with it.
    """
    try:
        if not os.path.isfile(path):
            raise CheckpointError("is not there" if not os.path.exists(path) else "is not a file")
        size, most = os.path.getsize(path), 4 * 8 * H * (D + 1) + 2**20
        if size > most:
            raise CheckpointError(f"has {size} bytes, expected at most {most}")
        with open(path, "rb") as file:
            data = file.read(most)
        pickles = io.BytesIO(data)
        model = read_model(SafeUnpickler(pickles, array_names()).load())
        if pickles.tell() == size:
            return model, None
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise CheckpointError("is damaged: its checksum does not match")
        state = read_state(SafeUnpickler(pickles, {}).load(), model)
        if pickles.tell() != size - 32:
            raise CheckpointError("has something behind its second pickle")
        return model, state
    except (CheckpointError, UsageError) as error:
        raise CheckpointError(f"{path} {error}") from None
    except Exception as error:  # whatever a hostile pickle leads to
        reason = ascii(f"{type(error).__name__}: {error}"[:200])
        raise CheckpointError(f"{path} is not a checkpoint: {reason}") from None


class SafeUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, for a pickle that may be hostile.

    The globals a pickle names are looked up in `names` and nowhere else.
    """

    class Fuse(dict):
        """Opcodes: an honest checkpoint has 100 or so. This stops the bombs of a million."""

        left, last = 1000, 0

        def __getitem__(self, opcode):
            self.left, self.last = self.left - 1, opcode
            if self.left < 0:
                raise pickle.UnpicklingError("too many opcodes")
            return super().__getitem__(opcode)

    def __init__(self, file, names):
        super().__init__(file, encoding="latin-1")  # Python 2 pickled an array's bytes as a string
        self.names = names
        self.dispatch = self.Fuse(pickle._Unpickler.dispatch)
        self.dispatch[pickle.BYTEARRAY8[0]] = SafeUnpickler.load_bytearray
        self.dispatch[pickle.FRAME[0]] = lambda self: self.read(8)  # frames only serve speed
        texts = pickle.STRING[0], pickle.UNICODE[0]  # a number or name of megabytes takes hours
        self._file_readline = lambda: file.readline(-1 if self.dispatch.last in texts else 99)

    def load_bytearray(self):  # the library's takes the memory that is claimed before it reads
        self.append(self.read(struct.unpack("<Q", self.read(8))[0]))

    def find_class(self, module, name):
        name = f"{module[:80].replace('numpy._core', 'numpy.core')}.{name[:80]}"
        if name not in self.names:
            raise pickle.UnpicklingError(f"it names {name!a}, which no checkpoint needs")
        return self.names[name]


class PickledDtype:
    def __init__(self, code, *_):
        self.order, self.code = None, code

    def __setstate__(self, state):
        self.order = state[1]


class PickledArray:
    """What the pickle of an array says of it, with nothing done about it."""

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.data = state


def pickled_array_5(data, dtype, shape, order):  # protocol 5 pickles arrays in one call
    array = PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def pickled_bytes(text, encoding):  # protocols 0 to 2 write bytes as text
    if encoding != "latin1":
        raise ValueError("bytes in another encoding than latin1")
    return text  # encoded once its length is known to be right


def array_names() -> dict:
    """Stand-ins for what the pickle of an array names; new ones, should a pickle change them."""
    return {
        "numpy.core.multiarray._reconstruct": lambda *_: PickledArray(),
        "numpy.core.numeric._frombuffer": lambda *args: pickled_array_5(*args),
        "numpy.ndarray": None,
        "numpy.dtype": lambda *args: PickledDtype(*args),
        "_codecs.encode": lambda *args: pickled_bytes(*args),
    }


def read_model(pickled) -> dict:
    expected = {"W1": (H, D), "W2": (H,)}
    if not isinstance(pickled, dict) or pickled.keys() != expected.keys():
        raise CheckpointError(f"holds {brief(pickled)}, expected a dict of W1 and W2")
    model = {}
    for name, shape in expected.items():
        array = pickled[name]
        if not isinstance(array, PickledArray):
            raise CheckpointError(f"has {brief(array)} for {name}, expected an array")
        if array.shape != shape:
            raise CheckpointError(f"has {name} of shape {brief(array.shape)}, expected {shape}")
        dtype = getattr(array.dtype, "order", None), getattr(array.dtype, "code", None)
        if dtype not in (("<", "f8"), (">", "f8")):
            raise CheckpointError(f"has {name} of dtype {brief(dtype)}, expected float64")
        data = array.data.encode("latin-1") if isinstance(array.data, str) else array.data
        model[name] = read_floats(name, data, shape, "".join(dtype), "F" if array.fortran else "C")
    return model


def read_floats(name, data, shape, dtype="<f8", order="C") -> np.ndarray:
    size = 8 * math.prod(shape)
    if not isinstance(data, bytes) or len(data) != size:
        raise CheckpointError(f"has {brief(data)} for {name}, expected {size} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order=order)
    if not np.isfinite(array).all():
        raise CheckpointError(f"has numbers in {name} that are not finite")
    return np.array(array, np.float64, order="F")


def new_state(seed: int, hyperparameters: dict) -> dict:
    """The state of a run of no games yet; in a checkpoint its arrays are little-endian bytes."""
    return {
        "format": 1,
        "seed": seed,
        "games": 0,
        "running_mean": 0.0,
        "hyperparameters": hyperparameters,
        "rmsprop_cache": {"W1": np.zeros((H, D), order="F"), "W2": np.zeros(H)},
    }


def read_state(pickled, model) -> dict:
    like = new_state(0, {name: check(globals()[name]) for name, check in HYPERPARAMETERS.items()})
    check_alike("state", pickled, {**like, "rmsprop_cache": {"W1": b"", "W2": b""}})
    if pickled["format"] != like["format"]:
        raise CheckpointError(f"is of format {brief(pickled['format'])}, expected {like['format']}")
    for name, check in HYPERPARAMETERS.items():
        check(pickled["hyperparameters"][name])
    whole = pickled["seed"], pickled["games"]
    if min(whole) < 0 or max(whole) >= 2**63 or not math.isfinite(pickled["running_mean"]):
        raise CheckpointError("has a seed, number of games or running mean that cannot be")
    cache = {}
    for name, data in pickled["rmsprop_cache"].items():
        cache[name] = read_floats(f"the RMSProp cache of {name}", data, model[name].shape)
        if (cache[name] < 0).any():
            raise CheckpointError(f"has negative numbers in the RMSProp cache of {name}")
    return {**pickled, "rmsprop_cache": cache}


def check_alike(name, found, like):
    """Has `found` the type of `like` and, where that is a dict, its keys with values alike?"""
    if type(found) is not type(like):
        raise CheckpointError(f"has {brief(found)} as {name}, expected {type(like).__name__}")
    if isinstance(like, dict):
        if found.keys() != like.keys():
            raise CheckpointError(f"has {brief(found)} as {name}, expected {', '.join(like)}")
        for key in like:
            check_alike(key, found[key], like[key])


class Brief(reprlib.Repr):
    def repr_bytes(self, x, level):
        return f"{len(x)} bytes"

    def repr_int(self, x, level):
        return super().repr_int(x, level) if x.bit_length() < 99 else "a huge number"


def brief(value) -> str:
    short = Brief()
    short.maxlevel = 2
    return short.repr(value).encode("ascii", "backslashreplace").decode()


def write_atomically(path, data: bytes):
    path = os.path.realpath(path)
    try:
        with open(path + ".tmp", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".tmp", path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(path + ".tmp")
        raise OSError(f"{path} cannot be written, and is as it was: {error}") from None
    if os.name == "posix":  # has the rename last through a power failure
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def free_name(path) -> str:
    """The first of path.1, path.2, ... that is free."""
    return next(f"{path}.{n}" for n in itertools.count(1) if not os.path.lexists(f"{path}.{n}"))


def keep(path):
    """Gives the file at `path`, if there is one, a second name, which nothing overwrites."""
    if os.path.exists(path):
        try:
            os.link(os.path.realpath(path), free_name(path))
        except OSError:  # a file system without links
            shutil.copy2(path, path + ".tmp")
            os.rename(path + ".tmp", free_name(path))


# ---- log ----------------------------------------------------------------------------------------

LOG_COLUMNS = ["episode", "reward", "running_mean", "steps", "seconds"]


class Log:
    """A CSV row a game. What is found at `path` is only touched when the first row is due."""

    def __init__(self, path, resuming: bool, games: int):
        """Goes on, if `resuming`, behind the rows of the first `games` games."""
        self.path, self.fresh, self.begun = path, not resuming, False
        self.rows = read_log(path, games) if path and resuming and os.path.exists(path) else []
        self.started = time.monotonic() - (float(self.rows[-1][-1]) if self.rows else 0.0)

    def write(self, rows):
        """Adds rows (episode, reward, running_mean, steps) of a batch that is done."""
        if self.path is None:
            return
        seconds = f"{time.monotonic() - self.started:.3f}"
        lines = [",".join(map(str, (*row, seconds))) + "\n" for row in rows]
        if self.begun:
            with open(self.path, "a", newline="") as file:
                file.writelines(lines)
            return
        if self.fresh:
            keep(self.path)
        lines = [",".join(row) + "\n" for row in [LOG_COLUMNS, *self.rows]] + lines
        write_atomically(self.path, "".join(lines).encode())
        self.begun = True


def read_log(path, games: int) -> list:
    """The rows of the first `games` games; a last line that a kill cut short does not count."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(line for line in file if line.endswith("\n"))
        if header != LOG_COLUMNS:
            raise ValueError(f"its first line is not {','.join(LOG_COLUMNS)}")
        for row in rows:
            if len([float(cell) for cell in row]) != len(LOG_COLUMNS):
                raise ValueError(f"its rows have not {len(LOG_COLUMNS)} columns")
        return [row for row in rows if int(row[0]) < games]
    except ValueError as error:
        raise CheckpointError(f"{path} is not a log of this script: {error}") from None


# ---- training and evaluation --------------------------------------------------------------------


def start_run(args):
    """Gives (model, state) to train, fresh or from the checkpoint, and says which."""
    seed = secrets.randbits(32) if args.seed is None else args.seed
    defaults = {name: check(globals()[name]) for name, check in HYPERPARAMETERS.items()}
    state = new_state(seed, defaults)
    if args.resume:
        model, found = load_checkpoint(args.save)
        if found is None:
            print(f"{args.save} is another script's: it goes on with fresh RMSProp caches")
        elif args.seed not in (None, found["seed"]):
            raise UsageError(f"--seed {args.seed}: {args.save} is of a run of seed {found['seed']}")
        state = found or state
        print(f"resuming {args.save}: {describe(state)}")
    else:
        model = init_model(np.random.default_rng(seed))
        print(f"training from scratch, seed {seed}")
        announce_kept(args)
    for name, old in state["hyperparameters"].items():
        new = getattr(args, name)
        if new not in (None, old):
            state["hyperparameters"][name] = new
            if args.resume:
                print(f"{name} {new} replaces the checkpoint's {old}")
    return model, state


def describe(state) -> str:
    return f"{state['games']} games, running mean {state['running_mean']:.2f}, seed {state['seed']}"


def announce_kept(args):
    """Says what a fresh run finds in its way, and what else could be done with it."""
    if os.path.exists(args.save):
        try:
            state = load_checkpoint(args.save)[1]
            holds = describe(state) if state else "another script's model"
        except CheckpointError as error:
            holds = f"unusable: {error}"
        save = "" if args.save == "save.p" else f" --save {args.save}"
        print(f"{args.save} ({holds}) will be kept as {free_name(args.save)}")
        print(f"  to continue it: python pong_pg.py --resume{save}")
        print(f"  to watch it:    python pong_pg.py --evaluate 1 --render{save}")
    if args.log and os.path.exists(args.log):
        print(f"{args.log} will be kept as {free_name(args.log)}")


def train(args, stopped: list):
    """Plays, learns and saves until `args.episodes` games are over or a signal has stopped it."""
    model, state = start_run(args)
    hyper = state["hyperparameters"]
    batch_size = hyper["batch_size"]
    save_every = args.save_every or math.ceil(100 / batch_size) * batch_size
    if save_every % batch_size:
        raise UsageError(f"--save-every {save_every} is no multiple of the batch size {batch_size}")
    log = Log(args.log, args.resume, state["games"])
    saved, kept = state["games"], args.resume
    batches = itertools.count() if args.episodes is None else range(-(-args.episodes // batch_size))
    report = Report(args, None if args.episodes is None else len(batches) * batch_size)

    def on_game(seed, game):
        nonlocal running_mean
        number, total = seed[1], sum(game.points, 0.0)
        running_mean = total if number == 0 else 0.99 * running_mean + 0.01 * total
        rows.append((number, total, running_mean, game.steps))
        lines = [point_line(number, reward) for reward in game.points if not args.render]
        lines.append(
            f"resetting env. episode reward total was {total:f}. running mean: {running_mean:f}"
        )
        report.game(game, lines, f"running mean {running_mean:.2f}")

    def save():
        nonlocal saved, kept
        if state["games"] > saved:
            if not kept:
                keep(args.save)
            kept = True
            save_checkpoint(args.save, model, state)
            saved = state["games"]
            report.line(f"saved {args.save}: {describe(state)}")

    workers = start_workers(args, model, stopped, batch_size)
    with contextlib.closing(workers), contextlib.closing(report):
        try:
            for _ in batches:
                rows, running_mean = [], state["running_mean"]
                seeds = [(state["seed"], state["games"] + i) for i in range(batch_size)]
                grad_buffer = play_batch(workers, model, seeds, hyper["gamma"], on_game)
                rmsprop_update(
                    model, grad_buffer, state["rmsprop_cache"],
                    hyper["learning_rate"], hyper["decay_rate"],
                )  # fmt: skip
                state["games"] += batch_size
                state["running_mean"] = running_mean
                log.write(rows)
                if state["games"] // save_every > saved // save_every:
                    save()
            save()
        except (Stopped, OSError):
            save()  # what is there since the last whole batch
            raise


def evaluate(args, stopped: list):
    """Plays `args.evaluate` games with the checkpoint's policy frozen, and sums them up."""
    model, _ = load_checkpoint(args.save)
    seed = args.seed
    if seed is None:
        seed = secrets.randbits(32)
        print(f"evaluating {args.save}, seed {seed}")
    report, totals = Report(args, args.evaluate), []
    workers = start_workers(args, model, stopped, args.evaluate)
    with contextlib.closing(workers), contextlib.closing(report):
        for k, game in enumerate(workers.play(model, [(seed, k, 1) for k in range(args.evaluate)])):
            totals.append(sum(game.points))
            line = f"game {k}: {totals[-1]:+.0f} in {game.steps} steps"
            report.game(game, [line], f"mean {np.mean(totals):+.2f}")
    won = sum(total > 0 for total in totals)
    mean, std = np.mean(totals), np.std(totals)
    print(f"evaluation: games={len(totals)} won={won} mean={mean:+.2f} std={std:.2f}")


def point_line(number: int, reward: float) -> str:
    return f"ep {number}: game finished, reward: {reward}" + (" !!!!!!!!" if reward > 0 else "")


def print_point(number: int, reward: float):
    print(point_line(number, reward), flush=True)


class Report:
    """What a run says of its games: lines on standard output or, if quiet, a bar on error's."""

    def __init__(self, args, games):
        self.bar, self.steps, self.began = None, 0, time.monotonic()
        if args.quiet:
            try:
                from tqdm import tqdm
            except ImportError:
                raise UsageError("--quiet needs tqdm: python -m pip install tqdm") from None
            self.bar = tqdm(total=games, unit="game")

    def game(self, game, lines, status):
        if self.bar is None:
            print("\n".join(lines), flush=True)
        else:
            self.steps += game.steps
            rate = self.steps / (time.monotonic() - self.began)
            self.bar.set_postfix_str(f"{status}, {rate:.0f} steps/s", refresh=False)
            self.bar.update()

    def line(self, text):
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.write(text)

    def close(self):
        if self.bar is not None:
            self.bar.close()


def start_workers(args, model, stopped, games):
    count = min(args.workers or usable_cores(), games)
    return Workers(count, model, stopped, args.render, args.render and not args.quiet)


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---- what must be installed ---------------------------------------------------------------------


def import_gym():
    """gymnasium with today's ale-py, or gym 0.21 with its own. Raises UsageError."""
    install = "python -m pip install -r requirements.txt"
    gymnasium, gym, ale_py = map(version, ("gymnasium", "gym", "ale-py"))
    if gymnasium and not gymnasium.startswith("0.") and not (ale_py or "").startswith("0.7."):
        name = "gymnasium"
    elif gym and gym.startswith("0.21."):
        name = "gym"
    elif gym or gymnasium:
        found = f"gym {gym}" if gym else f"gymnasium {gymnasium} with ale-py {ale_py}"
        raise UsageError(f"{found} is not supported, gymnasium 1.0 and gym 0.21 are: {install}")
    else:
        raise UsageError(f"neither gymnasium nor gym is installed: {install}")
    if ale_py is None:
        raise UsageError(f"ale-py, the Atari emulator, is not installed: {install}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gym, ale_py = importlib.import_module(name), importlib.import_module("ale_py")
            ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
            if name == "gymnasium":
                gym.register_envs(ale_py)
    except ImportError as error:
        raise UsageError(f"{error}: {install}") from error
    return gym


def version(package):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)


def check_display():
    names = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, names)):
        raise UsageError("--render needs a display, and there is none (DISPLAY is not set)")


def versions() -> str:
    found = [f"pong_pg {__version__}", f"Python {platform.python_version()}"]
    packages = ("numpy", "gym", "gymnasium", "ale-py")
    return ", ".join(found + [f"{name} {version(name)}" for name in packages if version(name)])


# ---- command line -------------------------------------------------------------------------------


def checked(kind, allowed, meaning):
    """A function that turns text into a `kind` of number, or says why it is not allowed."""

    def check(text):
        with contextlib.suppress(ValueError):
            if allowed(kind(text)):
                return kind(text)
        raise UsageError(f"{text!r} is not {meaning}")

    return check


natural = checked(int, lambda n: 1 <= n < 2**31, "a whole number above 0, and not a huge one")
HYPERPARAMETERS = {
    "batch_size": natural,
    "learning_rate": checked(float, lambda x: 0 < x < math.inf, "a number above 0"),
    "gamma": checked(float, lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "decay_rate": checked(float, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
}


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"pong_pg: {message} (--help shows the flags)\n")


def parse_arguments(argv=None):
    parser = OneLineParser(
        usage="python pong_pg.py [flags]",
        description="Learn Atari Pong from pixels. Without flags: from scratch, until Ctrl-C.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=24, width=100),
        allow_abbrev=False,
    )
    flag = parser.add_argument
    N = {"type": natural, "metavar": "N"}
    flag("--resume", action="store_true", default=resume, help="continue from the checkpoint")
    flag("--render", action="store_true", default=render, help="show the game in a window")
    flag("--save", metavar="PATH", default="save.p", help="the checkpoint (default: save.p)")
    flag("--save-every", **N, help="games between checkpoints (default: 100 or just above)")
    flag("--episodes", **N, help="stop after N games, rounded up to whole batches")
    flag(
        "--seed", type=checked(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1"),
        metavar="N", help="the same seed gives the same run (default: drawn, printed)",
    )  # fmt: skip
    flag("--workers", **N, help="processes that play (default: one a core)")
    for name, check in HYPERPARAMETERS.items():
        words, metavar = name.split("_"), "N" if check is natural else "X"
        text = f"{' '.join(words)} (default: {globals()[name]})"
        flag("--" + "-".join(words), type=check, metavar=metavar, help=text)
    flag("--log", metavar="PATH", help="a CSV file with a row a game, for plots")
    flag("--quiet", action="store_true", help="a progress bar instead of a line a point")
    flag("--evaluate", **N, help="play N games with the checkpoint's policy; learn nothing")
    flag("--version", action="version", version=versions(), help="the versions in use")
    args = parser.parse_args(argv)
    for name in (*HYPERPARAMETERS, "episodes", "save_every", "log"):
        if args.evaluate and getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} does not go with --evaluate")
    return args


def check_paths(args):
    """Refuses a checkpoint or log that could not be written, before hours are played for it."""
    for path in filter(None, [args.save, args.log]):
        folder = os.path.dirname(os.path.realpath(path))
        if os.path.isdir(path):
            raise UsageError(f"{path} is a folder, expected the name of a file")
        if not os.path.isdir(folder):
            raise UsageError(f"{path} cannot be written: there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{path} cannot be written: no permission in {folder}")
    if args.log and os.path.realpath(args.log) == os.path.realpath(args.save):
        raise UsageError("--log and --save name the same file")


def main(argv=None) -> int:
    """The script; gives its exit status."""
    args = parse_arguments(argv)
    stopped = []
    on_stop_signals(lambda number, _: stopped.append(number))
    try:
        if args.render:
            check_display()
        if args.evaluate:
            evaluate(args, stopped)
        else:
            check_paths(args)
            train(args, stopped)
        return 0
    except Stopped as stop:
        return 128 + stop.args[0]
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UsageError, CheckpointError, OSError) as error:
        print(f"pong_pg: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2


if __name__ == "__main__":
    sys.exit(main())
