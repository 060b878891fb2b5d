"""The diffs of docs/change_it.md: each fits the script as it is, and the changed script trains."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, SCRIPT, SMALL, edited, files, one_line, run_here, run_script

from tools import change

PAGE = change.PAGE.read_text(encoding="utf-8")
SHORTER_GAMES = ("MAX_STEPS = 10_000", "MAX_STEPS = 100")
TEXT = SCRIPT.read_text(encoding="utf-8")


def changed(path, name, *more):
    """Writes the script with a change of the page, and with shorter games. Returns its path."""
    for _, old, new in change.read_hunks(name):
        if old not in TEXT and new != "" and new in TEXT:
            pytest.skip("who runs this has made the change already")
    text = change.apply(name)
    for old, new in (SHORTER_GAMES, *more):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def imported(path):
    """Returns the script at `path` as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_every_diff_of_the_page_has_a_name():
    chapters = re.split(r"^## (.+)\n", PAGE, flags=re.M)[1:]
    with_diff = [title for title, text in zip(chapters[::2], chapters[1::2]) if "```diff" in text]
    assert with_diff == list(change.CHANGES.values())


@pytest.mark.parametrize("name", change.CHANGES)
def test_a_hunk_stands_where_the_page_says(name):
    hunks = change.read_hunks(name)
    assert hunks
    for where, old, _ in hunks:
        before = TEXT[: TEXT.index(old)]
        place = re.findall(
            r"^(?:# |class |def |    def )(hyperparameters$|\w+(?=[(:]))", before, re.M
        )
        assert place[-1] == where.rpartition(".")[2]


@pytest.mark.parametrize("name", change.CHANGES)
def test_a_changed_script_trains_saves_and_resumes(name, tmp_path, monkeypatch, capsys):
    """As if it had never been interrupted; its games are short, and its network is small."""
    monkeypatch.chdir(tmp_path)
    script = imported(changed(tmp_path / "changed.py", name))
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
    assert all((model[array] != start[array]).any() for array in model)


def test_what_a_change_adds_to_the_model_travels_to_the_workers_and_back(tmp_path):
    path = changed(tmp_path / "changed.py", "second-layer", SMALL[1])
    flags = "--seed 3 --batch-size 1 --episodes 1 --workers 1 --save".split()
    done = run_script(*flags, "new.p", script=path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert run_here(*flags, tmp_path / "here.p", script=imported(path)) == 0
    assert (tmp_path / "new.p").read_bytes() == (tmp_path / "here.p").read_bytes()


@pytest.mark.parametrize("name", ["leaky-relu", "second-layer", "entropy"])
def test_a_changed_gradient_equals_central_differences(name, tmp_path):
    pong_pg = imported(changed(tmp_path / "changed.py", name))
    entropy_weight = 0.01 if name == "entropy" else 0.0
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
    for array, weights in model.items():
        for flat in [np.abs(grad[array]).argmax(), *rng.integers(0, weights.size, 3)]:
            where = np.unravel_index(flat, weights.shape)
            before = weights[where]
            values = []
            for moved in (before + e, before - e):
                weights[where] = moved
                values.append(objective())
            weights[where] = before
            difference = (values[0] - values[1]) / (2 * e)
            assert grad[array][where] == pytest.approx(difference, rel=1e-4, abs=1e-5), array


def test_adam_is_that_of_its_paper(tmp_path):
    """Kingma and Ba (2015), algorithm 1, for one weight."""
    pong_pg = imported(changed(tmp_path / "changed.py", "adam"))
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


def test_the_tool_writes_a_copy_but_never_over_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert change.main(["adam"]) == 0 and change.main(["crop", "--out", "my.py"]) == 0
    said = "my.py is written. It trains with: python my.py --save my.p --log my.csv"
    assert capsys.readouterr().out.splitlines()[1] == said
    assert (tmp_path / "adam.py").read_text(encoding="utf-8") == change.apply("adam") != TEXT
    (tmp_path / "adam.py").write_text("edited")
    assert change.main(["adam"]) == 2
    one_line(capsys.readouterr().err, "adam.py is there already: --out PATH", tool="change")
    assert (tmp_path / "adam.py").read_text() == "edited"
    for flags in ([], ["adamm"]):
        with pytest.raises(SystemExit) as stop:
            change.main(flags)
        assert stop.value.code == 2
        one_line(capsys.readouterr().err, "--help shows the names", tool="change")


def test_a_change_that_does_not_fit_is_named_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(change, "ROOT", tmp_path)
    (tmp_path / "pong_pg.py").write_text(TEXT.replace("epdlogp * advantage", "advantage * epdlogp"))
    assert change.main(["entropy"]) == 2
    message = "entropy does not fit: pong_pg.py was edited in game_gradient"
    one_line(capsys.readouterr().err, message, tool="change")
    assert files(tmp_path) == ["pong_pg.py"]


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
