"""The method of pong_pg.py in PyTorch: autograd works out the policy gradient.

    python examples/with_torch.py                    # train from scratch, until Ctrl-C
    python examples/with_torch.py --resume           # go on from save.p, whichever script wrote it
    python examples/with_torch.py --device cuda      # learn on a GPU

`pong_pg.play_game` plays the games, in numpy: torch and a GPU are slow at single steps (README.md
here has the times). Then a whole game passes through the network once more, in torch, and there is
no `policy_backward`. In float64 the scripts differ by rounding alone: each resumes the other's run.
"""

import argparse
import contextlib
import functools
import math
import os
import secrets
import sys
from dataclasses import replace

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pong_pg

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("torch is missing: pip install -r examples/requirements.txt", file=sys.stderr)
    sys.exit(2)


class Policy(torch.nn.Module):
    """p(up) = sigmoid(W2 . max(0, W1 x)), with the weights of a model of pong_pg.py."""

    def __init__(self, model: dict):
        super().__init__()
        self.W1T = torch.nn.Parameter(torch.tensor(model["W1"].T.copy()))  # (D, H)
        self.W2 = torch.nn.Parameter(torch.tensor(model["W2"]))  # (H,)

    def forward(self, epx):  # inputs (T, D) int8 -> logits (T,), whose sigmoid is p(up)
        return self.hidden(epx) @ self.W2

    def hidden(self, epx: np.ndarray):
        """max(0, W1 x), (T, H). W1 x is the sum of the columns of W1 whose pixels moved, some 20 of
        6400: `embedding_bag` adds them up, with far less to do than `epx @ self.W1T` has."""
        flat = np.flatnonzero(epx != 0)
        first = np.searchsorted(flat, pong_pg.D * np.arange(len(epx)))  # of each step
        arrays = flat % pong_pg.D, first, epx.ravel()[flat]
        on, first, signs = (torch.from_numpy(array).to(self.W2.device) for array in arrays)
        signs = signs.to(self.W2.dtype)
        return F.embedding_bag(on, self.W1T, first, mode="sum", per_sample_weights=signs).relu()


def loss(policy: Policy, played, gamma: float):
    """Minus the sum over a game of advantage_t log p(action_t), whose gradient is REINFORCE's.

    `played` is what `pong_pg.play_game` gives. epdlogp is y - p, above 0 where the action was up.
    """
    epx, _, epdlogp, rewards = played
    returns = pong_pg.discount_rewards(rewards, gamma)
    advantage = (returns - returns.mean()) / (returns.std() or 1.0)
    y, advantage = (torch.from_numpy(array).to(policy.W2) for array in (epdlogp > 0, advantage))
    return F.binary_cross_entropy_with_logits(policy(epx), y, advantage, reduction="sum")


def make_optimiser(policy: Policy, hyper: pong_pg.Hyperparameters, cache: dict):
    """RMSProp with the rates and caches of a run. Its formula is that of `rmsprop_update`."""
    optimiser = torch.optim.RMSprop(
        policy.parameters(), hyper.learning_rate, alpha=hyper.decay_rate, eps=1e-5
    )
    for weights, mean_square in zip(policy.parameters(), (cache["W1"].T, cache["W2"])):
        square_avg = torch.tensor(mean_square.copy(), device=weights.device)
        optimiser.state[weights] = {"step": torch.tensor(0.0), "square_avg": square_avg}
    return optimiser


def to_numpy(tensors) -> dict:
    """A copy of W1T and W2, or of their caches, in the form of pong_pg.py."""
    return dict(zip(("W1", "W2"), (tensor.detach().cpu().numpy().copy().T for tensor in tensors)))


def train(args, check_signals):
    """Plays and learns as pong_pg.py does, one game after the other; saves after every batch."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise pong_pg.UsageError("--device cuda: torch finds no GPU here")
    if args.resume:
        model, state = pong_pg.load_checkpoint(args.save)
        if args.seed not in (None, state.seed):
            raise pong_pg.UsageError(f"{args.save} is of a run of --seed {state.seed}")
    else:
        seed = secrets.randbits(32) if args.seed is None else args.seed
        model = pong_pg.init_model(np.random.default_rng(seed))
        state = pong_pg.State(seed, pong_pg.init_cache(model))
    print(f"{'resuming' if args.resume else 'starting'} {args.save}: {pong_pg.describe(state)}")
    given = {name: getattr(args, name) for name in pong_pg.LIMITS}
    changes = {name: value for name, value in given.items() if value is not None}
    hyper = replace(state.hyperparameters, **changes)
    state.hyperparameters = hyper
    pong = pong_pg.Pong()
    policy = Policy(model).to(args.device)
    optimiser = make_optimiser(policy, hyper, state.rmsprop_cache)
    last = state.games + (args.episodes or math.inf)
    while state.games < last:
        optimiser.zero_grad()
        for _ in range(hyper.batch_size):
            rng = np.random.default_rng([state.seed, state.games])
            played = pong_pg.play_game(pong, model, rng)
            loss(policy, played, hyper.gamma).backward()  # adds to the gradient of the batch
            count_game(state, played[3])
            check_signals()
        optimiser.step()
        model = to_numpy(policy.parameters())
        state.rmsprop_cache = to_numpy(s["square_avg"] for s in optimiser.state.values())
        if not args.resume and state.games == hyper.batch_size:
            pong_pg.keep(args.save)  # an earlier run's, if there is one
        pong_pg.save_checkpoint(args.save, model, state)


def count_game(state: pong_pg.State, rewards: list) -> pong_pg.Game:
    """Counts in a game that is over, prints its lines and returns it."""
    game = pong_pg.Game([reward for reward in rewards if reward != 0], len(rewards))
    total = sum(game.points, 0.0)
    mean = total if state.games == 0 else 0.99 * state.running_mean + 0.01 * total
    pong_pg.Display(quiet=False, live=False, games=None).game(state.games, game, mean)
    state.running_mean = mean
    state.games += 1
    return game


def natural(text: str) -> int:
    """The type of a flag: a number from 1 on."""
    return pong_pg.checked_number(*pong_pg.NATURAL, text)


def whole(text: str) -> int:
    """The type of a flag: a number from 0 on."""
    return pong_pg.checked_number(*pong_pg.WHOLE, text)


def run(parser, train, argv) -> int:
    """Reads the command line and trains. Returns the exit status, as pong_pg.py's."""
    parser.error = lambda text: parser.exit(2, f"{parser.prog}: {text} (--help shows the flags)\n")
    args = parser.parse_args(argv)
    pong_pg.prepare_output()
    log = getattr(args, "log", None)
    if log is not None and os.path.realpath(log) == os.path.realpath(args.save):
        parser.error("--log and --save name the same file")
    log_owned = contextlib.nullcontext() if log is None else pong_pg.owned("--log", log)
    try:
        with pong_pg.noted_signals() as check, pong_pg.owned("--save", args.save), log_owned:
            train(args, check)
        return 0
    except BrokenPipeError:
        return pong_pg.output_goes_nowhere()
    except pong_pg.Stopped as stopped:
        return 128 + stopped.args[0]
    except KeyboardInterrupt:  # the second Ctrl-C
        return 130
    except (pong_pg.UsageError, pong_pg.CheckpointError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="pong_pg.py's method in PyTorch, by autograd.")
    flag = parser.add_argument
    flag("--resume", action="store_true", help="continue from the checkpoint")
    flag("--save", metavar="PATH", default="save.p", help="the checkpoint (default: save.p)")
    flag("--device", choices=["cpu", "cuda"], default="cpu", help="where to learn (default: cpu)")
    flag("--episodes", type=natural, metavar="N", help="stop after N games, in whole batches")
    flag("--seed", type=whole, metavar="N", help="the same seed gives the same run")
    for name, limits in pong_pg.LIMITS.items():
        limited = functools.partial(pong_pg.checked_number, *limits)
        flag(f"--{name.replace('_', '-')}", type=limited, metavar="X", help="as of pong_pg.py")
    return run(parser, train, argv)


if __name__ == "__main__":
    sys.exit(main())
