"""Another algorithm on the same pixels: Proximal Policy Optimization, in PyTorch.

    python examples/with_ppo.py --seed 1 --log ppo.csv          # train, until Ctrl-C
    python pong_pg.py --evaluate 100 --save ppo.p               # how good is it? --render shows it

Schulman et al., "Proximal Policy Optimization Algorithms" (2017): its clipped form. The
emulator and its chance, the input, the 200 hidden units and how an action is chosen are those of
pong_pg.py. What differs: a value head on the hidden layer predicts the return, which is the end of
the point, discounted by the steps until then. The advantage says how much better the point went
than predicted. An update uses 512 steps of each of eight emulators, and passes over them four
times. The games go on across updates.

Game k has the chance of pong_pg.py's game k, and emulator e plays games e, e + 8, e + 16 and so on:
one seed gives one run, for any number of workers, as long as processor and libraries stay the same.
A stopped run cannot be resumed: its checkpoint has no room for the value head and Adam's averages.
"""

import argparse
import contextlib
import multiprocessing
import os
import secrets
import signal
import sys

import numpy as np
from with_torch import F, Policy, count_game, natural, pong_pg, run, to_numpy, torch, whole

EMULATORS = 8  # that play at the same time
STEPS = 512  # that each plays from one update to the next
EPOCHS, MINIBATCH = 4, 1024  # an update takes each step four times, 1024 steps at once
CLIP = 0.2  # beyond 1 - CLIP and 1 + CLIP a ratio of new to old probability gains no more
LAMBDA = 0.95  # of generalised advantage estimation
LEARNING_RATE, SETTLE = 1e-3, 200  # Adam's rate falls with 1 / sqrt(1 + updates / SETTLE)
VALUE_WEIGHT, ENTROPY_WEIGHT = 0.5, 0.01  # in the loss
LARGEST_GRADIENT = 0.5  # its norm; a longer one is shortened


# ---- network ------------------------------------------------------------------------------------


class ActorCritic(Policy):
    """The policy and, on its hidden layer, the value of what is seen: the return to expect."""

    def __init__(self, model: dict):
        super().__init__(model)
        self.value = torch.nn.Linear(pong_pg.H, 1)
        for parameter in self.value.parameters():
            torch.nn.init.zeros_(parameter)
        self.float()

    def forward(self, x: np.ndarray):
        """Inputs (T, D) -> the logits of p(up) and the values, (T,) each."""
        h = self.hidden(x)
        return h @ self.W2, self.value(h)[:, 0]


# ---- PPO ----------------------------------------------------------------------------------------


def advantages(rewards, values, ends):
    """Generalised advantage estimation of T steps of E emulators; Schulman et al. (2016), eq. 16.

    Rewards and ends are (T, E), values (T + 1, E). A_t = d_t + gamma lambda A_(t+1), where
    d_t = r_t + gamma V_(t+1) - V_t. Nothing is carried back over an end. Every point is one.
    """
    result = torch.zeros_like(values)
    for t in reversed(range(len(rewards))):
        going_on = pong_pg.gamma * (1 - ends[t])
        surprise = rewards[t] + going_on * values[t + 1] - values[t]
        result[t] = surprise + going_on * LAMBDA * result[t + 1]
    return result[:-1]


def log_probability(logits, ups):
    """log p of the actions taken: log sigmoid(logit) where it was up, else log sigmoid(-logit)."""
    return F.logsigmoid(torch.where(ups, logits, -logits))


def clipped_objective(log_p, old_log_p, advantage):
    """ratio * advantage, where the ratio is p / old p, but with nothing to gain from a ratio above
    1 + CLIP if the advantage is positive, and below 1 - CLIP if it is negative; eq. 7."""
    ratio = torch.exp(log_p - old_log_p)
    return torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)


def entropy(logits):
    """Of the choice between up and down, in nats: a policy with more of it explores more."""
    p = torch.sigmoid(logits)
    return -p * F.logsigmoid(logits) - (1 - p) * F.logsigmoid(-logits)


def update(network, optimiser, inputs, ups, rewards, ends, rng):
    """Learns from T steps of E emulators: inputs (T + 1, E, D), the others (T, E); eq. 9."""
    x = inputs.reshape(-1, pong_pg.D)
    with torch.no_grad():
        logits, values = (output.view(inputs.shape[:2]) for output in network(x))
        old_log_p = log_probability(logits[:-1], ups).flatten()
        advantage = advantages(rewards, values, ends)
        returns = (advantage + values[:-1]).flatten()
        advantage = advantage.flatten()  # standardising would enlarge mere noise while all is lost
    ups, steps = ups.flatten(), ups.numel()
    for _ in range(EPOCHS):
        for some in np.split(rng.permutation(steps), range(MINIBATCH, steps, MINIBATCH)):
            logits, values = network(x[some])
            log_p = log_probability(logits, ups[some])
            gain = clipped_objective(log_p, old_log_p[some], advantage[some])
            gain = gain + ENTROPY_WEIGHT * entropy(logits)
            loss = VALUE_WEIGHT * F.mse_loss(values, returns[some]) - gain.mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
            optimiser.step()


# ---- playing ------------------------------------------------------------------------------------


class Emulator:
    """A Pong in the middle of a game; it plays the games `number`, `number` + EMULATORS, ..."""

    def __init__(self, seed: int, number: int):
        self.pong, self.seed, self.number = pong_pg.Pong(), seed, number
        self.new_game()

    def new_game(self):
        self.rng = np.random.default_rng([self.seed, self.number])
        self.rewards = []
        self.pong.reset()
        self.pixels, self.x = self.pong.pixels(), np.zeros(pong_pg.D, np.int8)

    def play(self, model: dict):
        """Plays STEPS steps. Gives inputs (STEPS + 1, D), the last one of what is seen after them,
        ups, rewards and ends (STEPS,), and a list of rewards for each game that was over."""
        inputs = np.empty((STEPS + 1, pong_pg.D), np.int8)
        ups, rewards, ends = np.empty((3, STEPS), np.float32)
        games = []
        for t in range(STEPS):
            inputs[t] = self.x
            p, _ = pong_pg.policy_forward(model, self.x)
            ups[t] = self.rng.random() < p
            reward, over = self.pong.step(pong_pg.UP if ups[t] else pong_pg.DOWN, self.rng)
            self.rewards.append(reward)
            over = over or len(self.rewards) == pong_pg.MAX_STEPS
            rewards[t], ends[t] = reward, over or reward != 0
            if over:
                games.append(self.rewards)
                self.number += EMULATORS
                self.new_game()
            else:
                before, self.pixels = self.pixels, self.pong.pixels()
                self.x = self.pixels - before
        inputs[STEPS] = self.x
        return inputs, ups, rewards, ends, games


def work(pipe, seed, numbers):
    """A worker process: its emulators play on whenever it is sent weights, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run sees to it
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, pong_pg.STOP_SIGNALS)
    emulators = [Emulator(seed, number) for number in numbers]
    with contextlib.suppress(EOFError, OSError):
        while True:
            model = pipe.recv()
            pipe.send([emulator.play(model) for emulator in emulators])


class Players:
    """EMULATORS emulators in `count` worker processes."""

    def __init__(self, count: int, seed: int):
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # which a worker reads as it starts
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for first in range(count):
            pipe, theirs = context.Pipe()
            numbers = range(first, EMULATORS, count)
            process = context.Process(target=work, args=(theirs, seed, numbers), daemon=True)
            with pong_pg.signals_held_back():
                process.start()
            theirs.close()  # it ends with its worker, then
            self.pipes.append(pipe)

    def play(self, model: dict):
        """What `Emulator.play` gives, of all: arrays with the emulators along axis 1, and games."""
        played: list = [None] * EMULATORS
        try:
            for pipe in self.pipes:
                pipe.send(model)
            for first, pipe in enumerate(self.pipes):
                played[first :: len(self.pipes)] = pipe.recv()
        except InterruptedError:  # Ctrl-C on Windows
            raise pong_pg.Stopped(signal.SIGINT) from None
        except (EOFError, OSError):
            raise OSError("a process that plays has died") from None
        *arrays, games = zip(*played)
        inputs, ups, rewards, ends = (np.stack(array, axis=1) for array in arrays)
        return inputs, *map(torch.from_numpy, (ups > 0, rewards, ends)), sum(games, [])


# ---- training -----------------------------------------------------------------------------------


def train(args, check_signals):
    """Plays and learns until `args.episodes` games are over, or for ever; saves every 100 games."""
    pong_pg.Pong()  # what is missing shows here, and not in the workers
    torch.set_num_threads(1)  # the players need the cores, and two threads round differently
    seed = secrets.randbits(32) if args.seed is None else args.seed
    print(f"training from scratch, seed {seed}")
    model = pong_pg.init_model(np.random.default_rng(seed))
    state = pong_pg.State(seed, pong_pg.init_cache(model))
    network = ActorCritic(model)
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, eps=1e-5, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: (1 + n / SETTLE) ** -0.5)
    players = Players(min(args.workers, EMULATORS), seed)
    rng = np.random.default_rng([seed, 0, 2])
    with pong_pg.Records(args.save, 100, args.log, model, state, True) as records:
        while args.episodes is None or state.games < args.episodes:
            *steps, games = players.play(model)
            check_signals()
            update(network, optimiser, *steps, rng)
            rate.step()
            model = to_numpy([network.W1T, network.W2])
            for rewards in games:
                number = state.games
                game = count_game(state, rewards)
                records.add_game(number, game, state.running_mean)
            if games:
                records.model = model
                records.end_batch()


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Learn Pong from the same pixels by PPO.")
    flag = parser.add_argument
    flag("--save", metavar="PATH", default="ppo.p", help="the policy (default: ppo.p)")
    flag("--episodes", type=natural, metavar="N", help="stop when N games are over")
    flag("--seed", type=whole, metavar="N", help="the same seed gives the same run")
    flag("--workers", type=natural, metavar="N", default=os.cpu_count(), help="that play, up to 8")
    flag("--log", metavar="PATH", help="a CSV file with a row a game, for plots")
    return run(parser, train, argv)


if __name__ == "__main__":
    sys.exit(main())
