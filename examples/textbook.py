"""The blog post's own loop, to read beside pong_pg.py: dense, in one process, with nothing faster.

    python examples/textbook.py --seed 1    # train from scratch, until Ctrl-C
    python examples/textbook.py --resume    # go on from save.p, whichever script wrote it

Emulator, chance, output and save.p are those of pong_pg.py, and the weights are, to rounding: each
script resumes the other's run. A long game takes up a gigabyte, for its inputs are float64.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pong_pg

H = pong_pg.H  # number of hidden units; the other hyperparameters are those of the run
D = 80 * 80  # input dimensionality


def prepro(frame):
    """(210, 160, 3) uint8 frame -> (6400,) float64 of 0 and 1."""
    image = frame[35:195:2, ::2, 0].copy()  # crop, every second row and column, red channel
    image[image == 144] = 0  # background
    image[image == 109] = 0  # the other background
    image[image != 0] = 1  # paddles and ball
    return image.astype(np.float64).ravel()


def discount_rewards(r, gamma):
    """Rewards (T,) -> returns (T,): R_t = r_t + gamma R_(t+1)."""
    discounted_r = np.zeros(len(r))
    running_add = 0.0
    for t in reversed(range(len(r))):
        if r[t] != 0:
            running_add = 0.0  # a point was scored: the sum starts anew
        running_add = r[t] + gamma * running_add
        discounted_r[t] = running_add
    return discounted_r


def policy_forward(model, x):
    """Input (D,) -> the probability of up, and the hidden state (H,)."""
    h = np.dot(model["W1"], x)
    h[h < 0] = 0  # ReLU
    p = 1.0 / (1.0 + np.exp(-np.dot(model["W2"], h)))  # sigmoid
    return p, h


def policy_backward(model, epx, eph, epdlogp):
    """epx (T, D), eph (T, H), epdlogp (T,) -> the gradient, in the shapes of the model."""
    dh = np.outer(epdlogp, model["W2"])
    dh[eph <= 0] = 0  # backpropagate through the ReLU
    return {"W1": np.dot(dh.T, epx), "W2": np.dot(eph.T, epdlogp)}


def train_batch(model, state, pong):
    """Plays a batch of games and learns from it, in place on model and state."""
    hyper = state.hyperparameters
    grad_buffer = {k: np.zeros_like(v) for k, v in model.items()}
    for episode_number in range(state.games, state.games + hyper.batch_size):
        rng = np.random.default_rng([state.seed, episode_number])
        xs, hs, dlogps, drs = [], [], [], []
        prev_x = None
        done = False
        pong.reset()
        while not done and len(drs) < pong_pg.MAX_STEPS:
            cur_x = prepro(pong.ale.getScreenRGB())
            x = cur_x - prev_x if prev_x is not None else np.zeros(D)
            prev_x = cur_x
            aprob, h = policy_forward(model, x)
            y = 1 if rng.random() < aprob else 0  # roll the dice: 1 is up
            reward, done = pong.step(2 if y == 1 else 3, rng)
            xs.append(x)
            hs.append(h)
            dlogps.append(y - aprob)  # the gradient that encourages the action that was taken
            drs.append(reward)
            if reward != 0:
                won = " !!!!!!!!" if reward > 0 else ""
                print(f"ep {episode_number}: game finished, reward: {reward}{won}")
        discounted_epr = discount_rewards(drs, hyper.gamma)
        discounted_epr -= np.mean(discounted_epr)
        discounted_epr /= np.std(discounted_epr) or 1.0  # it is 0 in a game without a point
        epdlogp = np.array(dlogps) * discounted_epr  # modulate the gradient with the advantage
        grad = policy_backward(model, np.vstack(xs), np.vstack(hs), epdlogp)
        for k in model:
            grad_buffer[k] += grad[k]
        mean = 0.99 * state.running_mean + 0.01 * sum(drs) if episode_number > 0 else sum(drs)
        state.running_mean = mean
        print(f"resetting env. episode reward total was {sum(drs):f}. running mean: {mean:f}")
    for k, g in grad_buffer.items():  # RMSProp
        cache = hyper.decay_rate * state.rmsprop_cache[k] + (1 - hyper.decay_rate) * g**2
        model[k] += hyper.learning_rate * g / (np.sqrt(cache) + 1e-5)
        state.rmsprop_cache[k] = cache
    state.games += hyper.batch_size


def start(seed):
    """Returns (model, state) of a new run."""
    rng = np.random.default_rng(seed)
    model = {"W1": rng.standard_normal((H, D)) / np.sqrt(D)}
    model["W2"] = rng.standard_normal(H) / np.sqrt(H)
    return model, pong_pg.State(seed, {k: np.zeros_like(v) for k, v in model.items()})


def main(argv=None):
    parser = argparse.ArgumentParser(description="The blog post's own loop, from and to save.p.")
    flag = parser.add_argument
    flag("--resume", action="store_true", help="continue from the checkpoint")
    flag("--save", metavar="PATH", default="save.p", help="the checkpoint (default: save.p)")
    count, whole = pong_pg.limited(*pong_pg.NATURAL), pong_pg.limited(*pong_pg.WHOLE)
    flag("--episodes", default=float("inf"), help="stop after N games", **count)
    flag("--seed", help="the same seed gives the same run (default: 1)", **whole)
    args = parser.parse_args(argv)
    pong_pg.prepare_output()
    try:
        with pong_pg.owned("--save", args.save):
            first_seed = 1 if args.seed is None else args.seed
            model, state = pong_pg.load_checkpoint(args.save) if args.resume else start(first_seed)
            if args.seed not in (None, state.seed):
                parser.error(f"--seed {args.seed}: {args.save} belongs to a run of {state.seed}")
            end = state.games + args.episodes
            pong = pong_pg.Pong()
            while state.games < end:
                train_batch(model, state, pong)
                if not args.resume and state.games == state.hyperparameters.batch_size:
                    pong_pg.keep(args.save)  # an earlier run, if there is one, as save.p.1
                pong_pg.save_checkpoint(args.save, model, state)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(pong_pg.output_goes_nowhere())
    except (pong_pg.UsageError, pong_pg.CheckpointError, OSError) as error:
        status = 1 if isinstance(error, OSError) else 2
        parser.exit(status, f"textbook.py: {error}\n")


if __name__ == "__main__":
    main()
