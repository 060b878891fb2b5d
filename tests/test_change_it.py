"""The diffs of docs/change_it.md: each fits the script as it is, and the changed script trains."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, SCRIPT, SMALL, edited, run_here, run_script

PAGE = (ROOT / "docs" / "change_it.md").read_text(encoding="utf-8")
CHAPTERS = re.split(r"^## (.+)\n", PAGE, flags=re.M)[1:]
DIFFS = {
    title: re.search(r"^```diff\n(.*?)^```", text, re.M | re.S).group(1)
    for title, text in zip(CHAPTERS[::2], CHAPTERS[1::2])
    if "```diff" in text
}
SHORTER_GAMES = ("MAX_STEPS = 10_000", "MAX_STEPS = 100")
TEXT = SCRIPT.read_text(encoding="utf-8")


def hunks(diff):
    """Yields (where, old text, new text) of each."""
    for hunk in re.split("^@@ ", diff, flags=re.M)[1:]:
        where, *lines = hunk.splitlines()
        old = [line[1:] + "\n" for line in lines if line[0] in " -"]
        new = [line[1:] + "\n" for line in lines if line[0] in " +"]
        old, new = "".join(old), "".join(new)
        if old not in TEXT and new != "" and new in TEXT:
            pytest.skip("who runs this has made the change already")
        yield where, old, new


def changed(path, title):
    """Writes the script with a diff of the page applied, and shorter games. Returns its path."""
    return edited(path, SHORTER_GAMES, *[(old, new) for _, old, new in hunks(DIFFS[title])])


def imported(path):
    """Returns the script at `path` as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_the_page_has_a_diff_for_every_change_but_one():
    assert len(DIFFS) == 10 and all(diff.startswith("@@ ") for diff in DIFFS.values())


@pytest.mark.parametrize("title", DIFFS)
def test_a_hunk_stands_where_the_page_says(title):
    for where, old, _ in hunks(DIFFS[title]):
        before = TEXT[: TEXT.index(old)]
        place = re.findall(
            r"^(?:# |class |def |    def )(hyperparameters$|\w+(?=[(:]))", before, re.M
        )
        assert place[-1] == where.rpartition(".")[2]


@pytest.mark.parametrize("title", DIFFS)
def test_a_changed_script_trains_saves_and_resumes(title, tmp_path, monkeypatch, capsys):
    """As if it had never been interrupted; its games are short, and its network is small."""
    monkeypatch.chdir(tmp_path)
    script = imported(changed(tmp_path / "changed.py", title))
    if script.H == 200:
        script.H = 8
    flags = "--seed 3 --batch-size 1".split()
    assert run_here(*flags, "--episodes", 2, "--save", "whole.p", script=script) == 0
    one = "--episodes 1 --save new.p".split()
    for more, games in ([], 1), (["--resume"], 2):
        assert run_here(*flags, *more, *one, script=script) == 0
        out, err = capsys.readouterr()
        assert f"saved new.p: {games} games" in out and err == ""
    assert (tmp_path / "new.p").read_bytes() == (tmp_path / "whole.p").read_bytes()
    model, _ = script.load_checkpoint("new.p")
    start = script.init_model(np.random.default_rng(3))
    assert list(model) == list(start)
    assert all((model[name] != start[name]).any() for name in model)


def test_what_a_change_adds_to_the_model_travels_to_the_workers_and_back(tmp_path):
    path = changed(tmp_path / "changed.py", "A second hidden layer of 200")
    path.write_text(path.read_text(encoding="utf-8").replace(*SMALL[1]), encoding="utf-8")
    flags = "--seed 3 --batch-size 1 --episodes 1 --workers 1 --save".split()
    done = run_script(*flags, "new.p", script=path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert run_here(*flags, tmp_path / "here.p", script=imported(path)) == 0
    assert (tmp_path / "new.p").read_bytes() == (tmp_path / "here.p").read_bytes()


@pytest.mark.parametrize(
    "title", ["A leaky ReLU", "A second hidden layer of 200", "An entropy bonus"]
)
def test_a_changed_gradient_equals_central_differences(title, tmp_path):
    pong_pg = imported(changed(tmp_path / "changed.py", title))
    entropy_weight = 0.01 if title == "An entropy bonus" else 0.0
    rng = np.random.default_rng(0)
    model = pong_pg.init_model(rng)
    model["W2"] *= 10  # that p is not all but 1/2
    epx = rng.choice([-1, 0, 1], (70, pong_pg.D), p=[0.005, 0.99, 0.005]).astype(np.int8)
    p, eph = zip(*[pong_pg.policy_forward(model, x) for x in epx])
    up = rng.random(70) < p
    rewards = rng.choice([-1.0, 0.0, 1.0], 70, p=[0.1, 0.8, 0.1])
    returns = pong_pg.discount_rewards(rewards)
    advantage = (returns - np.mean(returns)) / np.std(returns)

    def objective():
        p = np.array([pong_pg.policy_forward(model, x)[0] for x in epx])
        entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
        log_p = np.log(np.where(up, p, 1 - p))
        return np.sum(advantage * log_p + entropy_weight * entropy)

    grad = pong_pg.game_gradient(model, (epx, np.array(eph), up - np.array(p), rewards), 0.99)
    assert list(grad) == list(model)
    e = 1e-5
    for name, weights in model.items():
        for flat in [np.abs(grad[name]).argmax(), *rng.integers(0, weights.size, 3)]:
            where = np.unravel_index(flat, weights.shape)
            before = weights[where]
            values = []
            for moved in (before + e, before - e):
                weights[where] = moved
                values.append(objective())
            weights[where] = before
            difference = (values[0] - values[1]) / (2 * e)
            assert grad[name][where] == pytest.approx(difference, rel=1e-4, abs=1e-5), name


def test_adam_is_that_of_its_paper(tmp_path):
    """Kingma and Ba (2015), algorithm 1, for one weight."""
    pong_pg = imported(changed(tmp_path / "changed.py", "Adam instead of RMSProp"))
    model = {"W": np.array([0.5])}
    cache = pong_pg.init_cache(model)
    theta, m, v = 0.5, 0.0, 0.0
    for t, g in enumerate([2.0, -0.5, 0.0, 3.0], 1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        theta += 1e-3 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        pong_pg.rmsprop_update(model, {"W": np.array([g])}, cache, 1e-3, 0.999)
        assert model["W"][0] == pytest.approx(theta, rel=1e-12)
    assert pong_pg.valid_cache(cache)


def test_the_script_to_profile_runs(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "profiled.py").write_text(code)
    edited(tmp_path / "pong_pg.py", SHORTER_GAMES)
    done = subprocess.run(
        [sys.executable, "profiled.py"],
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "(policy_forward)" in done.stdout


def test_the_page_names_test_modules_that_are_there():
    named = re.findall(r"tests/test_\w+\.py", PAGE)
    assert len(named) == 5 and all((ROOT / name).exists() for name in named)
