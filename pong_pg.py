"""Learn Atari Pong from pixels: a two-layer policy network and REINFORCE, in plain numpy.

    python pong_pg.py                            # train from scratch, until Ctrl-C
    python pong_pg.py --resume                   # go on from save.p
    python pong_pg.py --evaluate 1 --render      # watch the agent in save.p play a game
    python pong_pg.py --evaluate 100             # how good is it?
    python pong_pg.py --seed 1 --log pong.csv    # a run that can be repeated and plotted

The method and its names are those of Andrej Karpathy, "Deep Reinforcement Learning: Pong from
Pixels" (2016), http://karpathy.github.io/2016/05/31/rl/ ("the blog post" below), in the order in
which data flows, from the environment to training. Behind that stands the machine it runs on.
"""

import signal
from multiprocessing import connection, resource_tracker

STOP_SIGNALS = {s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM") or s.name == "SIGHUP"
                and signal.getsignal(s) != signal.SIG_IGN}  # which nohup has ignored  # fmt: skip
if __name__ == "__main__" and hasattr(signal, "pthread_sigmask"):
    resource_tracker.ensure_running()  # multiprocessing's: as it starts it lets signals through
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # they wait: see `raise_signal`

import argparse
import collections
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import pickle
import secrets
import sys
import threading
import time

try:
    import numpy as np
    from tqdm import tqdm
except ImportError as error:
    print(f"pong_pg: {error}: python -m pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

__version__ = "2.1.0"

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

UsageError = argparse.ArgumentTypeError  # what was asked for cannot be; the message says what can


class CheckpointError(ValueError):
    """A checkpoint or a log cannot be used; the message says what was expected and found."""


# ---- environment and preprocessing --------------------------------------------------------------


class Pong:
    """Gym's Pong-v0, the same on gym 0.21 and on gymnasium, with its chance in our hands.

    Pong-v0 holds an action for 2, 3 or 4 emulator frames, drawn evenly, and is sticky: at every
    frame the emulator repeats the last action with probability 0.25 (Machado et al., "Revisiting
    the Arcade Learning Environment", 2018, section 5). Here both draws come from the caller's
    generator and the emulator's own chance is off, so that a game depends on nothing else.
    """

    def __init__(self, show: bool = False):
        """Opens the emulator, with a window if `show`. Raises UsageError where it cannot."""
        options = {"frameskip": 1, "repeat_action_probability": 0.0}  # and no chance of its own
        self.ale = make_pong(**options, render_mode="human" if show else None).ale
        self.buttons = self.ale.getMinimalActionSet()  # Gym counts in these: 2 is RIGHT, or up
        self.screen = np.empty((210, 160), np.uint8)  # numbers of colours

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

    def prepro(self) -> np.ndarray:
        """What `prepro` makes of the screen; the numbers of its colours are faster to read."""
        self.ale.getScreen(self.screen)
        colours = self.screen[FIELD].ravel()  # 34, 228 and 0 have a red of 144, 109 and 0
        return ((colours != 34) & (colours != 228) & (colours != 0)).view(np.int8)


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


# ---- returns and update -------------------------------------------------------------------------


def discount_rewards(rewards, gamma: float = gamma) -> np.ndarray:
    """Rewards (T,) -> returns (T,) float64: R_t = r_t + gamma R_(t+1).

    The sum starts anew at every reward that is not 0: there a point was scored, and what comes
    after it is another rally (specific to Pong). Blog post, `discount_rewards`.
    """
    returns, running_add = [], 0.0
    for reward in reversed(np.asarray(rewards, dtype=np.float64).tolist()):
        running_add = reward + gamma * running_add if reward == 0 else reward
        returns.append(running_add)
    return np.array(returns[::-1], dtype=np.float64)


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
    returns = discount_rewards(rewards, gamma)
    advantage = (returns - np.mean(returns)) / (np.std(returns) or 1.0)  # 0, if it has no points
    return policy_backward(model, epx, eph, epdlogp * advantage)


Game = collections.namedtuple("Game", "points steps gradient")  # the rewards of its points
open_pong = functools.lru_cache(maxsize=None)(lambda show, thread: Pong(show))  # once a thread


def play_and_learn(model: dict, seed, gamma=None, show=False, live=False) -> Game:
    """Plays the game of `seed` and works out its gradient; without a gamma there is none.

    Of dW1 it gives the columns of the pixels that moved, for they may have to travel. If `live`,
    points are printed as they are scored.
    """
    on_point = (lambda reward: print(point_line(seed[1], reward), flush=True)) if live else None
    pong, rng = open_pong(show, threading.get_ident()), np.random.default_rng(seed)
    played = play_game(pong, model, rng, on_point)
    rewards, gradient = played[-1], None
    if gamma is not None:
        grad = game_gradient(model, played, gamma)
        moved = np.bitwise_or.reduce(played[0], axis=0).nonzero()[0]
        gradient = moved, grad["W1"].T[moved], grad["W2"]
    return Game([reward for reward in rewards if reward != 0], len(rewards), gradient)


def point_line(number: int, reward: float) -> str:
    return f"ep {number}: game finished, reward: {reward}" + (" !!!!!!!!" if reward > 0 else "")


# ---- training and evaluation --------------------------------------------------------------------
# The games of a batch do not depend on each other: a player has them played wherever there are
# cores. With `train` the method ends.


def train(args):
    """Plays, learns and saves until `args.episodes` games are over or a signal stops it."""
    model, state = start_run(args)
    hyper, saved, fresh = state["hyperparameters"], state["games"], not args.resume
    batch_size, rates = hyper["batch_size"], (hyper["learning_rate"], hyper["decay_rate"])
    save_every = args.save_every or -(-100 // batch_size) * batch_size
    if save_every % batch_size:
        raise UsageError(f"--save-every {save_every} is no multiple of the batch size {batch_size}")
    began = time.monotonic() - (cut_log(args.log, saved) if args.log and args.resume else 0)
    games = args.episodes and -(-args.episodes // batch_size) * batch_size
    end = saved + games if games else np.inf

    def save():
        nonlocal saved
        if state["games"] > saved:
            save_checkpoint(args.save, model, state)
            saved = state["games"]
            bar.write(f"saved {args.save}: {describe(state)}")

    bar = tqdm(total=games, unit="game", disable=not args.quiet)
    with contextlib.closing(open_player(args, batch_size)) as player, bar:
        try:
            while state["games"] < end:
                grad_buffer = {name: np.zeros(w.shape, order="F") for name, w in model.items()}
                running_mean, rows = state["running_mean"], []
                seeds = [(state["seed"], state["games"] + i) for i in range(batch_size)]
                for (_, number), game in zip(seeds, player.play(model, seeds, hyper["gamma"])):
                    moved, dW1, dW2 = game.gradient
                    grad_buffer["W1"].T[moved] += dW1  # in the order of the games' numbers, so that
                    grad_buffer["W2"] += dW2  # who plays them, and how fast, changes no bit
                    total = sum(game.points, 0.0)
                    running_mean = total if number == 0 else 0.99 * running_mean + 0.01 * total
                    rows.append(f"{number},{total},{running_mean},{game.steps}")
                    report(bar, number, game, running_mean, args.render)
                rmsprop_update(model, grad_buffer, state["rmsprop_cache"], *rates)
                state["games"], state["running_mean"] = number + 1, running_mean
                if fresh:  # what it finds is touched only when there is something to take its place
                    keep(args.save)
                if args.log:
                    write_log(args.log, rows, time.monotonic() - began, fresh)
                fresh = False
                if state["games"] // save_every > saved // save_every:
                    save()
        finally:
            save()  # what is there since the last whole batch


def evaluate(args):
    """Plays `args.evaluate` games with the checkpoint's policy frozen, and sums them up."""
    model, _ = load_checkpoint(args.save)
    seed, totals = secrets.randbits(32) if args.seed is None else args.seed, []
    print(f"evaluating {args.save}, seed {seed}")
    seeds = [(seed, k, 1) for k in range(args.evaluate)]
    with contextlib.closing(open_player(args, len(seeds))) as player:
        games = player.play(model, seeds)
        for game in tqdm(games, total=len(seeds), unit="game", disable=not args.quiet):
            totals.append(sum(game.points))
            if not args.quiet:
                print(f"game {len(totals) - 1}: {totals[-1]:+.0f} in {game.steps} steps")
    won, mean, std = sum(total > 0 for total in totals), np.mean(totals), np.std(totals)
    print(f"evaluation: games={len(totals)} won={won} mean={mean:+.2f} std={std:.2f}")


def start_run(args):
    """Gives (model, state) to train, fresh or from the checkpoint, and says which."""
    for path in filter(None, [args.save, args.log]):
        folder = os.path.dirname(os.path.realpath(path))
        if os.path.isdir(path) or not os.access(folder, os.W_OK):  # known now, not in hours
            raise UsageError(f"{path} cannot be written: expected a name in a folder that is there")
    if args.resume:
        model, state = load_checkpoint(args.save)
        if args.seed not in (None, state["seed"]):
            raise UsageError(f"--seed {args.seed}: {args.save} is of a run of seed {state['seed']}")
        print(f"resuming {args.save}: {describe(state)}")
    else:
        state = new_state(secrets.randbits(32) if args.seed is None else args.seed)
        model = init_model(np.random.default_rng(state["seed"]))
        print(f"training from scratch, seed {state['seed']} (README.md: how long until it wins?)")
        for path in filter(os.path.exists, [args.log or "", args.save]):
            print(f"after the first batch {path} will be kept as {free_name(path)}")
        with contextlib.suppress(CheckpointError):
            print(f"  it holds {describe(load_checkpoint(args.save)[1])}")
            for aim, flags in ("continue", "--resume"), ("watch", "--evaluate 1 --render"):
                print(f"  to {aim} it: python pong_pg.py {flags} --save {free_name(args.save)}")
    hyper = state["hyperparameters"]
    new = {name: getattr(args, name) for name in hyper if getattr(args, name) is not None}
    for name in new if args.resume else ():
        print(f"{name} {new[name]} replaces the checkpoint's {hyper[name]}")
    hyper.update(new)
    return model, state


def report(bar, number, game, running_mean, live):
    """Prints a game's lines, without its points if it was `live`. With --quiet the bar tells."""
    if bar.disable:
        lines = [point_line(number, reward) for reward in game.points if not live]
        text = f"episode reward total was {sum(game.points):f}. running mean: {running_mean:f}"
        return print(*lines, f"resetting env. {text}", sep="\n")
    bar.steps = getattr(bar, "steps", 0) + game.steps
    rate = bar.steps / bar.format_dict["elapsed"]
    bar.set_postfix_str(f"running mean {running_mean:.2f}, {rate:.0f} steps/s", refresh=False)
    return bar.update()


# ---- players ------------------------------------------------------------------------------------
# A player has games played: `play` yields them in the order of their seeds, `close` ends it. Who
# came for the method may skip this, and all that follows.


def open_player(args, games):
    screens = "DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"
    if args.render and sys.platform.startswith("linux") and not any(map(os.environ.get, screens)):
        raise UsageError("--render needs a display, and there is none (DISPLAY is not set)")
    count = 1 if args.render else min(args.workers, games)
    if args.cluster:
        return importlib.import_module("tools.dask_cluster").Cluster(args.cluster, count)
    return Workers(count, args.render, args.render and not args.quiet)


def raise_signal():
    """Raises KeyboardInterrupt if a signal waits. Players call it while they wait for a game."""
    for number in getattr(signal, "sigpending", set)() & STOP_SIGNALS:
        raise KeyboardInterrupt(number)


class Workers:
    """Processes of this machine, each at the other end of a pipe."""

    def __init__(self, count: int, show=False, live=False):
        # BLAS reads these as a worker starts. Two threads are slower here, and round differently.
        for blas in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM"):
            os.environ[blas + "_THREADS"] = "1"
        self.count, self.setup, self.idle, self.processes = count, (show, live), [], []

    def start(self):
        if len(self.processes) > self.count + 30:
            raise OSError("worker processes die again and again")
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        self.processes.append(context.Process(target=work, args=(theirs, *self.setup)))
        self.processes[-1].start()
        theirs.close()  # a pipe that nobody else holds ends when its worker does
        self.idle.append(pipe)

    def play(self, model: dict, seeds, gamma=None):
        """A worker that dies, at any instant, is replaced, and its game, the same, played anew."""
        todo, playing, games, informed = [*range(len(seeds))], {}, {}, set()
        for k, _ in enumerate(seeds):
            while k not in games:
                while len(self.idle) + len(playing) < self.count:
                    self.start()
                while todo and self.idle:
                    pipe, number = self.idle.pop(0), todo.pop(0)
                    playing[pipe] = number
                    with contextlib.suppress(OSError):  # it is dead, as shows below
                        pipe.send((None if pipe in informed else model, seeds[number], gamma))
                    informed.add(pipe)  # a worker is sent the weights once a batch
                raise_signal()
                for pipe in connection.wait(list(playing), timeout=0.005):
                    number = playing.pop(pipe)
                    try:
                        games[number] = pipe.recv()
                        self.idle.append(pipe)
                    except (EOFError, OSError):
                        todo.insert(0, number)
            if isinstance(games[k], UsageError):
                raise games[k]
            yield games.pop(k)

    def close(self):
        for process in self.processes:
            process.kill()  # there is nothing in a worker to lose


def work(pipe, show, live):
    """A worker process: plays the games that it is sent. It ends with its parent, if not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=lambda: connection.wait([parent]) and os._exit(1), daemon=True).start()
    model = None
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            weights, seed, gamma = pipe.recv()
            model = weights or model
            try:
                pipe.send(play_and_learn(model, seed, gamma, show, live))
            except UsageError as error:
                pipe.send(error)


def make_pong(**options):
    """Gym's Pong-v0, of gymnasium with today's ale-py, or of gym 0.21 with its own."""
    found = versions()
    old = "gym 0.21." in found and "ale-py 0.7." in found
    try:
        gym = importlib.import_module("gym" if old else "gymnasium")
        ale_py = importlib.import_module("ale_py")
        gym.logger.MIN_LEVEL = gym.logger.min_level = 40  # errors: not, that Pong-v0 is old
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        if not old:
            gym.register_envs(ale_py)
        return gym.make("Pong-v0", **options).unwrapped
    except Exception as error:
        why = f"{error}".partition("\n")[0] + f" (found: {found})"
        how = "python -m pip install -r requirements.txt brings gymnasium 1 or gym 0.21, and"
        how += " AutoROM --accept-license the ROM of gym 0.21"
        raise UsageError(f"Pong-v0 does not start: {why}: {how}") from error


def versions() -> str:
    found = [f"pong_pg {__version__}", f"Python {sys.version.split()[0]}"]
    for name in ("numpy", "gym", "gymnasium", "ale-py"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


# ---- checkpoint and log -------------------------------------------------------------------------
# Nothing that was saved is lost, and nothing that is read is run: a file is accepted only if it is,
# byte for byte, what `save_checkpoint` would write for what was read from it.

LOG_HEADER = "episode,reward,running_mean,steps,seconds\n"
describe = "{games} games, running mean {running_mean:.2f}, seed {seed}".format_map


def new_state(seed: int) -> dict:
    """The state of a run of no games yet, with the hyperparameters at the top of the script."""
    hyperparameters = {name: check(globals()[name]) for name, check in HYPERPARAMETERS.items()}
    state = {"format": 2, "seed": seed, "games": 0, "running_mean": 0.0}
    cache = {"W1": np.zeros((H, D), order="F"), "W2": np.zeros(H)}
    return {**state, "hyperparameters": hyperparameters, "rmsprop_cache": cache}


def save_checkpoint(path, model: dict, state: dict):
    """Writes model and state (see `new_state`) to `path`, which alone determine its bytes: at every
    instant it is the old checkpoint or the new one, whole. Raises OSError."""
    write_atomically(path, encode(model, state))


def load_checkpoint(path):
    """Gives (model, state). Raises CheckpointError, which says what is wrong with the file."""
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is not {'a file' if os.path.exists(path) else 'there'}")
    blank, layout = make_layout()
    wrong = "is not a checkpoint of this version. Another script's or an older one's is imported by"
    wrong += f": python tools/import_model.py {path} new.p"
    try:
        with open(path, "rb") as file:
            data, size = file.read(layout.itemsize + 4096), os.fstat(file.fileno()).st_size
        alike = data.startswith(blank[: layout.fields["W1"][1]])
        fits = 0 < size - layout.itemsize < 4096
        sound = data[-32:] == hashlib.sha256(data[:-32]).digest()
        if fits and sound:
            return decode(data, layout)
        units, more = divmod(size, 16 * (D + 1))
        if not sound and (fits or alike and size != layout.fields["caches"][1]):
            wrong = "is damaged: its checksum does not match"
        elif data[:40] == blank[:40] and len(blank) % (16 * (D + 1)) + 100 < more < 4096:
            wrong = f"has the size of {units} hidden units, and H is {H}"
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    except UsageError as error:
        wrong = f"holds what no run has: {error}"
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        pass  # it is another script's, or worse
    raise CheckpointError(f"{path} {wrong}")


def encode(model, state) -> bytes:
    """A pickle of the model, for any other Pong from Pixels script; the RMSProp caches, as little-
    endian float64; the rest of the state, as a line of JSON; the SHA-256 of all that."""
    plain = {name: np.array(model[name], "<f8", order="C") for name in ("W1", "W2")}
    pickled = pickle.dumps(plain, 3).replace(b"numpy._core", b"numpy.core", 1)  # numpy 2's new name
    caches = [state["rmsprop_cache"][name].astype("<f8").tobytes() for name in ("W1", "W2")]
    rest = {name: value for name, value in state.items() if name != "rmsprop_cache"}
    data = b"".join([pickled, *caches, json.dumps(rest).encode() + b"\n"])
    return data + hashlib.sha256(data).digest()


def make_layout():
    """A blank checkpoint, and where the four arrays stand in one, before the JSON."""
    shapes, marks = [(H, D), (H,)] * 2, np.array([np.pi, np.e, 1 / 3, 1 / 7], "<f8")
    W1, W2, *caches = [np.full(shape, mark) for shape, mark in zip(shapes, marks)]
    blank = encode({"W1": W1, "W2": W2}, {"rmsprop_cache": {"W1": caches[0], "W2": caches[1]}})
    names, formats = ["W1", "W2", "caches", "cache W2"], [("<f8", shape) for shape in shapes]
    offsets = [blank.index(mark.tobytes()) for mark in marks]
    return blank, np.dtype({"names": names, "formats": formats, "offsets": offsets})


def decode(data, layout):
    """(model, state). Whatever this takes for granted shows when they are encoded again."""
    record = np.frombuffer(data, layout, 1)[0]
    W1, W2, *caches = arrays = [record[name].astype(float, order="F") for name in layout.names]
    found = json.loads(data[layout.itemsize : -32])
    model, state = {"W1": W1, "W2": W2}, new_state(whole(found["seed"]))
    state["games"], state["running_mean"] = whole(found["games"]), finite(found["running_mean"])
    state["rmsprop_cache"] = {"W1": caches[0], "W2": caches[1]}
    for name, check in HYPERPARAMETERS.items():
        state["hyperparameters"][name] = check(found["hyperparameters"][name])
    if encode(model, state) != data:
        raise ValueError
    if not all(np.isfinite(array).all() for array in arrays) or min(map(np.min, caches)) < 0:
        raise UsageError("numbers that are not finite, or a negative RMSProp cache")
    return model, state


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


def keep(path):
    """Gives the file at `path`, if there is one, a second name, which nothing overwrites."""
    if os.path.exists(path):
        try:
            os.link(os.path.realpath(path), free_name(path))
        except OSError:  # a file system without links
            with open(path, "rb") as file:
                write_atomically(free_name(path), file.read())


def free_name(path) -> str:
    """The first of path.1, path.2, ... that is free."""
    return next(f"{path}.{n}" for n in range(1, 10**9) if not os.path.lexists(f"{path}.{n}"))


def write_log(path, rows, seconds, fresh):
    """Adds rows, which lack the seconds. A fresh run keeps the log that it finds."""
    if fresh:
        keep(path)
        write_atomically(path, LOG_HEADER.encode())
    with open(path, "a", newline="") as file:
        file.writelines(f"{row},{seconds:.3f}\n" for row in rows)


def cut_log(path, games: int) -> float:
    """Leaves of a log, if there is one, the rows of the first `games` games. Gives the seconds."""
    rows, seconds = [], 0.0
    try:
        if os.path.exists(path):
            with open(path, newline="", encoding="utf-8") as file:
                header, *rows = (line for line in file if line.endswith("\n"))  # a kill may cut one
            if header != LOG_HEADER:
                raise ValueError(f"its first line is not {LOG_HEADER.strip()}")
            rows = [row for row in rows if int(row.split(",")[0]) < games]
            seconds = float(rows[-1].split(",")[4]) if rows else 0.0
    except (LookupError, ValueError) as error:
        raise CheckpointError(f"{path} is not a log of this script: {error}") from None
    write_atomically(path, "".join([LOG_HEADER, *rows]).encode())
    return seconds


# ---- command line -------------------------------------------------------------------------------
# What may be asked for, and the exit status; for every mistake one line that says what to do.


def number(low, high, text):
    """The number in `text`, of the kind of `low` and `high`, or a UsageError."""
    with contextlib.suppress(ValueError):
        if low <= type(low)(text) <= high:
            return type(low)(text)
    raise UsageError(f"expected {type(low).__name__} from {low} to {high}, found {text!r:.60}")


natural = functools.partial(number, 1, 2**31 - 1)
whole = functools.partial(number, 0, 2**63 - 1)
finite = functools.partial(number, -sys.float_info.max, sys.float_info.max)
HYPERPARAMETERS = {
    "batch_size": natural,
    "learning_rate": functools.partial(number, sys.float_info.min, sys.float_info.max),
    "gamma": functools.partial(number, 0.0, 1.0),
    "decay_rate": functools.partial(number, 0.0, 1 - sys.float_info.epsilon),
}


def parse_arguments(argv=None):
    text = "Learn Atari Pong from pixels. Without flags: from scratch, until Ctrl-C."
    parser = argparse.ArgumentParser(usage="python pong_pg.py [flags]", description=text)
    parser.error = lambda text: parser.exit(2, f"pong_pg: {text} (--help shows the flags)\n")
    flag, N = parser.add_argument, {"type": natural, "metavar": "N"}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flag("--resume", action="store_true", default=resume, help="continue from the checkpoint")
    where = parser.add_mutually_exclusive_group().add_argument
    where("--render", action="store_true", default=render, help="show the game in a window")
    flag("--save", metavar="PATH", default="save.p", help="the checkpoint (default: save.p)")
    flag("--save-every", **N, help="games between checkpoints (default: 100 or just above)")
    flag("--episodes", **N, help="stop after N games, rounded up to whole batches")
    flag("--seed", type=whole, metavar="N", help="the same seed gives the same run")
    flag("--workers", **N, default=cores, help="processes that play (default: one a core)")
    where("--cluster", metavar="ADDRESS", help="a Dask cluster plays: its scheduler, or `local`")
    for name, check in HYPERPARAMETERS.items():
        text = f"{name.replace('_', ' ')} (default: {globals()[name]})"
        metavar = "N" if check is natural else "X"
        flag(f"--{name.replace('_', '-')}", type=check, metavar=metavar, help=text)
    flag("--log", metavar="PATH", help="a CSV file with a row a game, for plots")
    flag("--quiet", action="store_true", help="a progress bar instead of a line a point")
    flag("--evaluate", **N, help="play N games with the checkpoint's policy; learn nothing")
    flag("--version", action="version", version=versions(), help="the versions in use")
    args = parser.parse_args(argv)
    for name in (*HYPERPARAMETERS, "episodes", "save_every", "log"):
        if args.evaluate and getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} does not go with --evaluate")
    if args.log and os.path.realpath(args.log) == os.path.realpath(args.save):
        parser.error("--log and --save name the same file")
    return args


def main(argv=None) -> int:
    """The script; gives its exit status."""
    args = parse_arguments(argv)
    sys.stdout.reconfigure(line_buffering=True)
    try:
        raise_signal()
        (evaluate if args.evaluate else train)(args)
        return 0
    except KeyboardInterrupt as stop:
        return 128 + (stop.args or [signal.SIGINT])[0]
    except BrokenPipeError:
        os._exit(1)  # whoever read our output has left, with what a normal exit would still print
    except (UsageError, CheckpointError, ImportError, OSError) as error:
        print(f"pong_pg: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2


if __name__ == "__main__":
    sys.exit(main())
