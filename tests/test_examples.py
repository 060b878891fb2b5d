"""What examples/ promises. It is skipped where torch is missing: training needs none of it."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT, SMALL, edited, posix, run_script

import pong_pg

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "examples"))
import step_times  # noqa: E402
import with_ppo  # noqa: E402
import with_torch  # noqa: E402

SCRIPTS = {
    "with_torch": with_torch,
    "with_ppo": with_ppo,
    "step_times": step_times,
}
BATCH = "--seed 3 --episodes 2 --batch-size 2 --learning-rate 1e-3".split()  # as `short_run` has it


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def interrupted(script, *flags, cwd, file, words):
    """Runs a script until Ctrl-C, when `words` are in this file of its; gives its output."""
    command = [sys.executable, str(script), *flags]
    with open(cwd / "out", "w") as out, subprocess.Popen(
        command, cwd=str(cwd), start_new_session=True,
        stdout=out, stderr=subprocess.PIPE, universal_newlines=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # `&` has it ignored
    ) as process:  # fmt: skip
        seen = ""
        while words not in seen and process.poll() is None:
            time.sleep(0.02)
            seen = (cwd / file).read_text() if (cwd / file).exists() else ""
        os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to the workers as well
        assert (process.communicate(timeout=300), process.returncode) == ((None, ""), 130)
    return (cwd / "out").read_text()


def short_games(folder, name, more=""):
    """A script that is this example with games of at most 300 steps. Returns its path."""
    path = folder / f"short_{name}.py"
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'examples')!r})\nimport {name}\n"
        f"{name}.pong_pg.MAX_STEPS = 300\n{more}\n"
        f"if __name__ == '__main__': sys.exit({name}.main())\n"
    )
    return path


def call(main, *args):
    """Exit status of `main(ARGS)`."""
    try:
        return main(list(map(str, args)))
    except SystemExit as stop:
        return stop.code


def difference(path, other, start):
    """The largest difference of two checkpoints' weights, as a part of the steps from `start`."""
    found, expected = (pong_pg.load_checkpoint(p)[0] for p in (path, other))
    return max(
        (np.abs(found[name] - w)).max() / np.abs(w - start[name]).max()
        for name, w in expected.items()
    )


def without_cache(path):
    state = pong_pg.load_checkpoint(path)[1]
    return {k: v for k, v in dataclasses.asdict(state).items() if k != "rmsprop_cache"}


# ---- the same method, with torch


def test_torch_is_numpy_to_rounding_and_each_resumes_the_other(tmp_path, short_run, capsys):
    start = pong_pg.init_model(np.random.default_rng(3))
    by_numpy, by_torch = tmp_path / "numpy.p", tmp_path / "torch.p"
    by_torch.write_bytes(b"an earlier run")
    assert run_script(*BATCH, "--save", by_numpy, cwd=tmp_path).returncode == 0
    assert call(with_torch.main, *BATCH, "--save", by_torch) == 0
    assert (tmp_path / "torch.p.1").read_bytes() == b"an earlier run"

    # the update: every weight, and every cache, to a thousandth of its step
    (found, state), (expected, oracle) = map(pong_pg.load_checkpoint, (by_torch, by_numpy))
    for name, w in expected.items():
        step = np.abs(w - start[name])
        assert (step > 0).any()
        assert (np.abs(found[name] - w) <= 1e-3 * step + 1e-12).all()  # steps are of 1e-2
        cache = oracle.rmsprop_cache[name]
        assert np.allclose(state.rmsprop_cache[name], cache, rtol=1e-6, atol=0)
    assert without_cache(by_torch) == without_cache(by_numpy)

    # the run goes on, numpy after torch and torch after numpy, as if it had never changed hands
    more = ["--resume", "--episodes", 2, "--save", by_torch]
    assert run_script(*more, cwd=tmp_path).returncode == 0
    assert call(with_torch.main, *more) == 0
    assert difference(by_torch, short_run / "save.p", start) < 1e-3
    assert without_cache(by_torch) == without_cache(short_run / "save.p")

    printed = [line for line in capsys.readouterr().out.splitlines() if "torch.p" not in line]
    lines = (short_run / "stdout").read_text().splitlines()
    ends = [at for at, line in enumerate(lines) if line.startswith("resetting env.")]
    first = next(at for at, line in enumerate(lines) if line.startswith("ep 0"))
    games = [lines[a:b] for a, b in zip([first, *(at + 1 for at in ends)], [at + 1 for at in ends])]
    games = [[line for line in game if not line.startswith("saved")] for game in games]
    assert printed == sum([*games[:2], *games[4:]], [])  # numpy played the two in the middle


def test_torch_resumes_with_the_hyperparameters_of_the_run(tmp_path, short_run):
    path = tmp_path / "save.p"
    path.write_bytes((short_run / "save.p").read_bytes())
    assert call(with_torch.main, "--resume", "--episodes", 1, "--save", path, "--gamma", 0.9) == 0
    state, before = without_cache(path), without_cache(short_run / "save.p")
    assert state["games"] == before["games"] + 2  # a whole batch
    assert state["hyperparameters"] == {**before["hyperparameters"], "gamma": 0.9}


def test_loss_has_the_gradient_of_the_game(shrink, monkeypatch):
    """With the oracle of a textbook loop: dense, step by step, in plain numpy."""
    model, _ = shrink(7, 60)
    model = {name: w / 100 for name, w in model.items()}
    rng = np.random.default_rng(0)
    epx = rng.integers(-1, 2, (50, 60)).astype(np.int8)
    epx[0] = 0  # as at the first step of a game
    epx[:, 5] = 0
    rewards = rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0], 50)
    up = rng.random(50) < 0.5
    returns = pong_pg.discount_rewards(rewards, 0.9)
    advantage = (returns - np.mean(returns)) / np.std(returns)
    expected = {"W1": np.zeros((7, 60)), "W2": np.zeros(7)}
    epdlogp = []
    for x, y, a in zip(epx, up, advantage):
        h = np.maximum(0, model["W1"] @ x)
        epdlogp.append(y - 1 / (1 + np.exp(-model["W2"] @ h)))
        expected["W2"] += a * epdlogp[-1] * h
        expected["W1"] += np.outer(a * epdlogp[-1] * model["W2"] * (h > 0), x)
    policy = with_torch.Policy(model)
    with_torch.loss(policy, (epx, None, np.array(epdlogp), rewards), 0.9).backward()
    assert np.allclose(-policy.W1T.grad.numpy().T, expected["W1"], rtol=1e-9, atol=1e-12)
    assert np.allclose(-policy.W2.grad.numpy(), expected["W2"], rtol=1e-9, atol=1e-12)


# ---- another algorithm


def test_ppo_advantages_are_the_sums_of_their_definition():
    rng = np.random.default_rng(0)
    T, E = 40, 3
    rewards = rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0], (T, E))
    values = rng.normal(size=(T + 1, E))
    ends = (rewards != 0) | (rng.random((T, E)) < 0.05)
    expected = np.zeros((T, E))
    for e in range(E):
        for t in range(T):
            weight = 1.0
            for u in range(t, T):
                after = 0 if ends[u, e] else pong_pg.gamma * values[u + 1, e]
                expected[t, e] += weight * (rewards[u, e] + after - values[u, e])
                weight *= pong_pg.gamma * with_ppo.LAMBDA
                if ends[u, e]:
                    break
    arguments = (torch.from_numpy(a.astype(float)) for a in (rewards, values, ends))
    assert np.allclose(with_ppo.advantages(*arguments), expected)


def test_ppo_compares_each_step_with_itself(monkeypatch):
    """Before the first minibatch is learnt from, the new policy is the old one: ratio 1."""
    seen = []

    def spy(log_p, old_log_p, advantage):
        seen.append((log_p.detach().numpy(), old_log_p.numpy(), advantage.numpy()))
        return true_objective(log_p, old_log_p, advantage)

    true_objective = with_ppo.clipped_objective
    monkeypatch.setattr(with_ppo, "clipped_objective", spy)
    monkeypatch.setattr(with_ppo, "MINIBATCH", 50)
    rng = np.random.default_rng(0)
    inputs = (rng.random((31, 4, pong_pg.D)) < 0.01).astype(np.int8)
    ups, ends = (torch.from_numpy(rng.random((30, 4)) < p) for p in (0.5, 0.1))
    rewards = ends * torch.from_numpy(rng.normal(size=(30, 4))).float()
    network = with_ppo.ActorCritic(pong_pg.init_model(rng))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    with_ppo.update(network, optimiser, inputs, ups, rewards, ends.float(), rng)
    assert len(seen) == with_ppo.EPOCHS * 3  # 120 steps in minibatches of at most 50
    assert np.allclose(seen[0][0], seen[0][1], atol=1e-6)
    assert not np.allclose(seen[-1][0], seen[-1][1], atol=1e-3)
    taken = [
        {pair for _, old, gain in seen[at : at + 3] for pair in zip(old.tolist(), gain.tolist())}
        for at in range(0, len(seen), 3)
    ]
    assert len(taken[0]) == 120 and all(steps == taken[0] for steps in taken)  # once an epoch


@pytest.mark.parametrize(
    "ratio, advantage, objective, gradient",
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.1, 2.0, 2.2, 2.2),
        (1.5, 2.0, 2.4, 0.0),  # likelier than 1.2 times, and good: no more to gain
        (1.5, -2.0, -3.0, -3.0),  # likelier, and bad: to be undone
        (0.5, -2.0, -1.6, 0.0),
        (0.5, 2.0, 1.0, 1.0),
    ],
)
def test_ppo_has_nothing_to_gain_beyond_the_clip(ratio, advantage, objective, gradient):
    log_p = torch.tensor(np.log(ratio), requires_grad=True)
    found = with_ppo.clipped_objective(log_p, torch.tensor(0.0), advantage)
    found.backward()
    assert found.item() == pytest.approx(objective)
    assert log_p.grad.item() == pytest.approx(gradient)


def test_ppo_probabilities_and_entropy():
    logits = torch.tensor([-50.0, -1.0, 0.0, 2.0, 50.0], dtype=torch.float64)
    p = 1 / (1 + np.exp(-logits.numpy()))
    ups = torch.tensor([False, True, True, False, True])
    expected = np.log(np.where(ups, p, 1 - p))
    assert np.allclose(with_ppo.log_probability(logits, ups), expected)
    q = p[1:-1]
    expected = [0, *(-q * np.log(q) - (1 - q) * np.log(1 - q)), 0]
    assert np.allclose(with_ppo.entropy(logits), expected)


def test_ppo_network_is_the_policy_of_pong_pg(shrink):
    model = pong_pg.init_model(np.random.default_rng(1))
    x = np.random.default_rng(2).integers(-1, 2, (9, pong_pg.D)).astype(np.int8)
    x[0] = 0
    network = with_ppo.ActorCritic(model)
    logits, values = network(x)
    expected = [pong_pg.policy_forward(model, row)[0] for row in x]
    assert np.allclose(torch.sigmoid(logits).detach(), expected, atol=1e-5)
    assert values.shape == (9,) and (values == 0).all()


def test_ppo_learns_what_pays(monkeypatch):
    """Two pictures; up pays at one, down at the other, and a third has nothing to choose."""
    monkeypatch.setattr(with_ppo, "MINIBATCH", 100)
    rng = np.random.default_rng(0)
    network = with_ppo.ActorCritic(pong_pg.init_model(rng))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    pictures = np.zeros((3, pong_pg.D), np.int8)
    for k in range(3):
        pictures[k, rng.choice(pong_pg.D, 30, replace=False)] = 1

    def look():
        with torch.no_grad():
            logits, values = network(pictures)
        return torch.sigmoid(logits).numpy(), values.numpy()

    for _ in range(8):
        shown = rng.integers(0, 3, (101, 4))
        ups = rng.random((100, 4)) < look()[0][shown[:-1]]
        rewards = np.where(shown[:-1] == 2, 1.0, np.where(ups == (shown[:-1] == 0), 1.0, -1.0))
        steps = torch.from_numpy(ups), *map(torch.tensor, (rewards, np.ones_like(rewards)))
        steps = steps[0], *(array.float() for array in steps[1:])
        with_ppo.update(network, optimiser, pictures[shown], *steps, rng)
    p, values = look()
    assert p[0] > 0.9 and p[1] < 0.1 and 0.1 < p[2] < 0.9
    assert values[2] > 0.7


def test_ppo_game_is_the_game_of_pong_pg():
    """The emulator stops in the middle of games, and what it plays is what play_game plays."""
    model = pong_pg.init_model(np.random.default_rng(1))
    emulator = with_ppo.Emulator(5, 3)
    oracle = pong_pg.Pong()
    games = [
        pong_pg.play_game(oracle, model, np.random.default_rng([5, number])) for number in (3, 11)
    ]
    inputs, ups, rewards, ends = (np.concatenate(parts) for parts in zip(*expected_arrays(games)))
    over = []
    for start in range(0, len(inputs) - with_ppo.STEPS, with_ppo.STEPS):
        block = slice(start, start + with_ppo.STEPS)
        found = emulator.play(model)
        over += found[-1]
        assert np.array_equal(found[0][:-1], inputs[block])
        assert np.array_equal(found[0][-1], inputs[block.stop])
        for array, expected in zip(found[1:4], (ups, rewards, ends)):
            assert np.array_equal(array, expected[block])
    assert over == [games[0][-1]]


def expected_arrays(games):
    for epx, _, epdlogp, rewards in games:
        ends = np.array(rewards) != 0
        ends[-1] = True
        yield epx, epdlogp > 0, rewards, ends


class InThisProcess(with_ppo.Players):
    """All emulators at the other end of one pipe, without a process behind it."""

    def __init__(self, count, seed):
        self.emulators = [with_ppo.Emulator(seed, k) for k in range(with_ppo.EMULATORS)]
        self.pipes = [self]

    def send(self, model):
        self.model = model

    def recv(self):
        return [emulator.play(self.model) for emulator in self.emulators]


@posix
def test_ppo_one_seed_one_run_that_pong_pg_can_show(tmp_path, monkeypatch):
    """The same bits, whoever plays; the lines, the log and the checkpoint of pong_pg.py; and Ctrl-C
    saves what was learnt."""
    flags = "--seed 5 --save ppo.p --log ppo.csv".split()
    folder, other = tmp_path / "two workers", tmp_path / "none"
    folder.mkdir(), other.mkdir()
    (folder / "ppo.p").write_bytes(b"an earlier run")
    smaller = {"EPOCHS": 1, "EMULATORS": 4, "STEPS": 128}
    short = short_games(tmp_path, "with_ppo", f"vars(with_ppo).update({smaller})")
    monkeypatch.setattr(pong_pg, "MAX_STEPS", 300)
    for name, number in smaller.items():
        monkeypatch.setattr(with_ppo, name, number)
    out = interrupted(short, *flags, "--workers", "2", cwd=folder, file="ppo.csv", words="\n0,")
    assert (folder / "ppo.p.1").read_bytes() == b"an earlier run"
    assert not list(folder.glob("*.tmp"))
    model, state = pong_pg.load_checkpoint(folder / "ppo.p")
    monkeypatch.chdir(other)
    monkeypatch.setattr(with_ppo, "Players", InThisProcess)
    assert call(with_ppo.main, *flags, "--episodes", state.games) == 0
    assert (folder / "ppo.p").read_bytes() == (other / "ppo.p").read_bytes()

    header, *rows = (line.split(",") for line in (folder / "ppo.csv").read_text().splitlines())
    assert header == ["episode", "reward", "running_mean", "steps", "seconds"]
    assert [row[0] for row in rows] == [str(number) for number in range(len(rows))] != []
    others = (other / "ppo.csv").read_text().splitlines()[1:]
    assert [row[:4] for row in rows] == [line.split(",")[:4] for line in others]
    start = pong_pg.init_model(np.random.default_rng(5))
    assert (model["W2"] != start["W2"]).all()
    assert state.seed == 5 and state.games == len(rows)
    assert state.running_mean == float(rows[-1][2])
    total = float(rows[0][1])
    points = [line for line in out.splitlines() if line.startswith("ep 0: game finished, reward: ")]
    assert sum(-1 if "-1.0" in line else 1 for line in points) == total
    assert f"\nresetting env. episode reward total was {total:f}. running mean: {total:f}\n" in out

    script = edited(tmp_path / "pong_pg.py", SMALL[0])
    done = run_script("--evaluate", 1, "--save", "ppo.p", "--seed", 1, cwd=folder, script=script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("evaluation: games=1 ")


# ---- both, as commands


@posix
def test_ctrl_c_saves_what_was_learnt(tmp_path):
    flags = "--seed 5 --save save.p --batch-size 1".split()
    script = short_games(tmp_path, "with_torch")
    interrupted(script, *flags, cwd=tmp_path, file="out", words="\nep 1: ")  # after an update
    assert pong_pg.load_checkpoint(tmp_path / "save.p")[1].games >= 1
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    "name, flags, named",
    [
        ("with_torch", "--device cuda", "GPU"),
        ("with_torch", "--device tpu", "tpu"),
        ("with_torch", "--episodes 0", "--episodes"),
        ("with_torch", "--learning-rate -1", "--learning-rate"),
        ("with_torch", "--save nowhere/save.p", "nowhere/save.p"),
        ("with_torch", "--resume --save theirs.p", "theirs.p"),
        ("with_torch", "--resume --save ours.p --seed 4", "--seed 3"),
        ("with_ppo", "--seed x", "--seed"),
        ("with_ppo", "--save .", "--save '.'"),
        ("with_ppo", "--resume", "--resume"),
        ("with_ppo", "--log .", "--log '.'"),
        ("with_ppo", "--save a.csv --log a.csv", "the same file"),
        ("step_times", "--device cuda", "GPU"),
        ("step_times", "--save theirs.p", "theirs.p"),
    ],
)
def test_bad_input_is_one_line(name, flags, named, tmp_path, short_run, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "theirs.p").write_bytes(b"something else")
    (tmp_path / "ours.p").write_bytes((short_run / "save.p").read_bytes())
    assert call(SCRIPTS[name].main, *flags.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and named in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.p", "theirs.p"]


@pytest.mark.parametrize("name", ["with_torch", "with_ppo", "step_times"])
def test_without_torch_it_says_how_to_get_it(name, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "examples/requirements.txt" in done.stderr


# ---- the table


def test_step_times_add_up(monkeypatch, capsys):
    monkeypatch.setattr(step_times, "REPEATS", 1)
    monkeypatch.setattr(step_times, "EVERY", 100)
    assert call(step_times.main) == 0
    title, _, header, _, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("A game of ") and title.endswith(" steps, on one thread:")
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in [header, *rows]]
    names, *parts, everything, share, gain = cells
    assert names[1:] == ["numpy", "torch, cpu, dense", "torch, cpu, with_torch.py"]
    assert len(parts) == 5
    for column in range(1, 4):
        times = [float(row[column]) for row in parts]
        assert min(times) > 0 and times[0] == max(times[:2])  # the emulator is the most of playing
        total = float(everything[column])
        assert sum(times) == pytest.approx(total, abs=2)
        learning = sum(times[2:])
        assert float(share[column].rstrip("%")) == pytest.approx(100 * learning / total, abs=1.5)
        assert float(gain[column].split()[0]) == pytest.approx(total / sum(times[:2]), rel=0.02)
