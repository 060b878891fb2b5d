"""Training with GPU: where the time of a step goes, and how much of it a faster learner could save.

    python examples/step_times.py                    # a game of weights that have learnt nothing
    python examples/step_times.py --save save.p      # a game of an agent, with long rallies
    python examples/step_times.py --device cuda      # with columns for a GPU

Prints a table in Markdown, in microseconds a step, for one thread. The same game is played several
times over, and of each of its steps the shortest time counts: other programs only add to it.
"""

import argparse
import os
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in the workers of pong_pg.py
import numpy as np
from with_torch import Policy, loss, pong_pg, torch

REPEATS = 5  # of everything that is timed
EVERY = 9  # one of so many inputs is enough for the time of a forward pass
RATE, DECAY = pong_pg.learning_rate, pong_pg.decay_rate


class DensePolicy(Policy):
    """The policy as one would write it first, all 6400 inputs times W1, in float32."""

    def __init__(self, model):
        super().__init__(model)
        self.float()

    def hidden(self, epx):
        return (torch.from_numpy(epx).to(self.W1T) @ self.W1T).relu()


class TimedPong(pong_pg.Pong):
    """A Pong that notes how long the emulator and preprocessing take at every step."""

    def reset(self):
        super().reset()
        self.times = {"emulator": [], "input": []}

    def step(self, action, rng):
        return self.timed("emulator", super().step, action, rng)

    def pixels(self):
        return self.timed("input", super().pixels)

    def timed(self, part, function, *args):
        began = time.perf_counter()
        result = function(*args)
        self.times[part].append(time.perf_counter() - began)
        return result


def play(model, seed):
    """(what `pong_pg.play_game` gives, {"emulator": microseconds a step, "input": the same})."""
    pong, shortest = TimedPong(), {}
    for _ in range(REPEATS):
        played = pong_pg.play_game(pong, model, np.random.default_rng([seed, 0]))
        for part, times in pong.times.items():
            shortest[part] = np.minimum(shortest.get(part, np.inf), times)
    return played, {part: 1e6 * times.mean() for part, times in shortest.items()}


def shortest_time(function, *args) -> float:
    """Of REPEATS calls, in microseconds."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - began)
    return 1e6 * min(times)


def numpy_learner(model, played):
    """(forward of one input, backward of the game, update of the weights): three functions."""
    weights = {name: w.copy(order="K") for name, w in model.items()}
    cache = {name: np.ones_like(w) for name, w in model.items()}
    grad = pong_pg.game_gradient(model, played, pong_pg.gamma)
    return (
        lambda x: pong_pg.policy_forward(model, x),
        lambda: pong_pg.game_gradient(model, played, pong_pg.gamma),
        lambda: pong_pg.rmsprop_update(weights, grad, cache, RATE, DECAY),
    )


def torch_learner(policy, played, device):
    """The same in torch. A GPU works on while Python goes on: so it is waited for."""
    policy = policy.to(device)
    optimiser = torch.optim.RMSprop(policy.parameters(), RATE, alpha=DECAY, eps=1e-5)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return (
        lambda x: policy(x[None]).item(),
        lambda: (loss(policy, played, pong_pg.gamma).backward(), wait()),
        lambda: (optimiser.step(), wait()),
    )


def times(environment, learner, epx) -> dict:
    """Microseconds a step of each part; an update comes once in a batch of games."""
    forward, backward, update = learner
    with torch.no_grad():
        one_input = np.mean([shortest_time(forward, x) for x in epx[::EVERY]])
    return {
        **environment,
        "forward, one input": one_input,
        "backward, a whole game": shortest_time(backward) / len(epx),
        "update, every 10 games": shortest_time(update) / (pong_pg.batch_size * len(epx)),
    }


def print_table(columns):
    """Columns are {name: {part: microseconds}}."""
    print("| microseconds a step |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for part in next(iter(columns.values())):
        cells = [column[part] for column in columns.values()]
        print(f"| {part} |", " | ".join(f"{us:.{0 if us > 9.95 else 1}f}" for us in cells), "|")
    sums = [sum(column.values()) for column in columns.values()]
    playing = [column["emulator"] + column["input"] for column in columns.values()]
    print("| **all** |", " | ".join(f"{us:.0f}" for us in sums), "|")
    shares = [f"{100 * (1 - play / us):.0f}%" for play, us in zip(playing, sums)]
    print("| the learner's share |", " | ".join(shares), "|")
    gains = [f"{us / play:.2f} times as fast" for play, us in zip(playing, sums)]
    print("| if learning took no time |", " | ".join(gains), "|")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Where the time of a step goes: a table.")
    flag = parser.add_argument
    flag("--save", metavar="PATH", help="the checkpoint that plays (default: fresh weights)")
    flag("--device", choices=["cpu", "cuda"], default="cpu", help="what to compare the CPU with")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, f"{parser.prog}: --device cuda: torch finds no GPU here\n")
    try:
        fresh = pong_pg.init_model(np.random.default_rng(1))
        model = pong_pg.load_checkpoint(args.save)[0] if args.save else fresh
        played, environment = play(model, seed=1)
    except (pong_pg.UsageError, pong_pg.CheckpointError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    torch.set_num_threads(1)
    learners = {"numpy": numpy_learner(model, played)}
    for device in dict.fromkeys(["cpu", args.device]):
        learners[f"torch, {device}, dense"] = torch_learner(DensePolicy(model), played, device)
        learners[f"torch, {device}, with_torch.py"] = torch_learner(Policy(model), played, device)
    print(f"A game of {len(played[0]):,} steps, on one thread:\n")
    print_table({name: times(environment, how, played[0]) for name, how in learners.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
