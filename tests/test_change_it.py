"""The diffs of docs/change_it.md: each fits the script as it is, and the changed script trains."""

import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, SCRIPT, SMALL, edited, files, one_line, run_here, run_script

from tools import change, logs

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
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
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
    named = set(re.findall(r"test_\w+\.py", PAGE))
    assert len(named) == 5 and all((ROOT / "tests" / name).exists() for name in named)


# ---- slips --------------------------------------------------------------------------------------

UPDATE = "        model[name] += learning_rate * g / (np.sqrt(cache[name]) + 1e-5)\n"
RUN = "--seed 3 --batch-size 1 --episodes 2 --save-every 2".split()


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("H = 200 ", "H = 0 ", ["H: expected int from 1 to", "found 0"]),
        ("H = 200 ", "H = 200.0 ", ["H: expected int", "200.0"]),
        ("learning_rate = 1e-4", "learning_rate = -1e-4", ["learning_rate: expected float"]),
        ('W1), "W2": W2}', 'W1), "W2": W2, "b": 0.0}', ["array of floats as b", "0.0"]),
        ('W1), "W2": W2}', 'W1), "W2": W2.tolist()}', ["array of floats as W2", "["]),
        (
            UPDATE,
            UPDATE + '        cache.setdefault("mean " + name, np.zeros_like(g))\n',
            ["cannot be saved and read again", "'mean W1'", "init_cache makes ['W1', 'W2']"],
        ),
        (
            "    state.running_mean = running_mean\n",
            "    state.running_mean = int(running_mean)\n",
            ["cannot be saved and read again", "another type"],
        ),
        (
            "    state.running_mean = running_mean\n",
            "    state.running_mean = state.best = running_mean\n",
            ["cannot be saved and read again", "encode does not write best of State"],
        ),
        (
            "    state.running_mean = running_mean\n",
            "    state.running_mean, state.m = running_mean, np.ones(3)\n",
            ["cannot be saved and read again", "encode does not write m of State"],
        ),
        (
            "    state.games += hyper.batch_size",
            "    hyper.batch_size",
            ["train_batch has not counted its games"],
        ),
        (
            "    decay_rate: float = decay_rate\n",
            "    decay_rate: float = decay_rate\n    beta: float = 0.1\n",
            ["LIMITS has", "'beta'", "a hyperparameter stands in both"],
        ),
        (
            "    return all((squares",
            "    all((squares",
            ["RMSProp cache is negative (valid_cache)"],
        ),
        (UPDATE, UPDATE + "        cache[name] *= np.inf\n", ["RMSProp cache of W1 is not finite"]),
    ],
)
def test_a_slip_that_would_cost_the_run_is_told_by_the_end_of_the_first_batch(
    old, new, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    script = imported(edited(tmp_path / "slip.py", SHORTER_GAMES, (old, new)))
    if script.H == 200 and isinstance(script.H, int):
        script.H = 8
    with np.errstate(invalid="ignore"):
        assert run_here(*RUN, script=script) == 2
    out, err = capsys.readouterr()
    one_line(err, *words)
    assert out.count("resetting env") <= 1 and files(tmp_path) == ["slip.py"]


def test_a_first_update_that_fails_leaves_the_files_as_they_were(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "save.p", "log.csv":
        (tmp_path / name).write_text("of an earlier run")
    infinite = UPDATE + "        model[name] += np.inf\n"
    script = imported(edited(tmp_path / "slip.py", SHORTER_GAMES, (UPDATE, infinite)))
    script.H = 8
    assert run_here(*RUN, "--log", "log.csv", script=script) == 2
    one_line(capsys.readouterr().err, "W1 is not finite", "left as it was")
    assert files(tmp_path) == ["log.csv", "save.p", "slip.py"]
    for name in "save.p", "log.csv":
        assert (tmp_path / name).read_text() == "of an earlier run"


def test_weights_that_an_update_leaves_as_they_are_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new = UPDATE.replace("model[name] +=", "model = {**model, name: model[name] +").replace(
        "1e-5)\n", "1e-5)}\n"
    )
    script = imported(edited(tmp_path / "slip.py", SHORTER_GAMES, (UPDATE, new)))
    script.H = 8
    assert run_here(*RUN, script=script) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert "the update left W1 as it was" in first and "left W2 as it was" in second


def test_ten_games_without_a_point_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lost = ("rewards.append(reward)", "rewards.append(0.0)")
    script = imported(edited(tmp_path / "slip.py", SHORTER_GAMES, lost))
    script.H = 8
    assert run_here(*"--seed 3 --batch-size 4 --episodes 16".split(), script=script) == 0
    one_line(capsys.readouterr().err, "no point was scored in 12 games: there is nothing to learn")


def test_rewards_at_other_steps_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    alive = ("rewards.append(reward)", "rewards.append(reward or -0.01)")
    script = imported(edited(tmp_path / "slip.py", SHORTER_GAMES, alive))
    script.H = 8
    assert run_here(*RUN, script=script) == 0
    one_line(capsys.readouterr().err, "100 points in 1 games, which have at most 41 each")


def test_a_state_that_grows_beyond_a_checkpoint_is_told_before_it_is_written(
    tmp_path, monkeypatch, capsys
):
    """What was saved before can be read, and goes on."""
    monkeypatch.chdir(tmp_path)
    grows = (
        ("    running_mean: float = 0.0\n", "    running_mean: float = 0.0\n    all: tuple = ()\n"),
        (
            "    state.running_mean = running_mean\n",
            "    state.running_mean = running_mean\n    state.all = (*state.all, *[1.5] * 400)\n",
        ),
        (
            '"running_mean": state.running_mean,\n',
            '"running_mean": state.running_mean,\n        "all": state.all,\n',
        ),
        (
            "        running_mean=running_mean,\n",
            '        running_mean=running_mean,\n        all=tuple(rest["all"]),\n',
        ),
    )
    script = imported(edited(tmp_path / "slip.py", SHORTER_GAMES, *grows))
    script.H = 8
    every = "--seed 3 --batch-size 1 --episodes 4 --save-every 1".split()
    assert run_here(*every, script=script) == 2
    one_line(capsys.readouterr().err, "State takes", "4096 is the most")
    _, state = script.load_checkpoint("save.p")
    assert state.games == 1 and len(state.all) == 400


def test_of_a_recursion_without_an_end_only_the_last_calls_are_shown(tmp_path):
    endless = "def there(x):\n    return back(x)\n\n\ndef back(x):\n    return there(x)\n\n\n"
    changes = ("def sigmoid(x):", f"{endless}def sigmoid(x):"), ("p = sigmoid(np", "p = there(np")
    slip = edited(tmp_path / "slip.py", SHORTER_GAMES, *changes)
    done = run_script(*RUN, "--workers", 1, script=slip, cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) < 35
    assert "return there(x)" in done.stderr and "RecursionError" in done.stderr


def test_what_a_worker_prints_is_seen_where_output_is_a_file(tmp_path):
    printing = (
        "    points = [reward for",
        "    print('a game of', len(rewards))\n    points = [reward for",
    )
    slip = edited(tmp_path / "slip.py", SHORTER_GAMES, printing)
    env = {"PYTHONUNBUFFERED": ""}
    done = run_script(*RUN, "--workers", 1, script=slip, cwd=tmp_path, env=env)
    assert done.returncode == 0 and done.stdout.count("a game of 100\n") == 2, done.stdout


def test_an_error_of_your_own_file_in_the_update_is_shown_with_its_line(
    tmp_path, monkeypatch, capsys
):
    slow = (
        "    state.running_mean = running_mean\n",
        "    state.running_mean = running_mean\n    np.save('there/is/none.npy', model['W2'])\n",
    )
    slip = edited(tmp_path / "slip.py", SHORTER_GAMES, slow)
    done = run_script(*RUN, "--workers", 1, script=slip, cwd=tmp_path)
    assert done.returncode == 1 and files(tmp_path) == ["slip.py"]
    assert "np.save('there/is/none.npy'" in done.stderr
    assert done.stderr.rstrip().endswith("No such file or directory: 'there/is/none.npy'")


def test_a_game_may_hand_more_to_its_gradient(tmp_path, monkeypatch, capsys):
    """The values of a baseline, say: what is logged stays the score."""
    monkeypatch.chdir(tmp_path)
    more = ("np.array(epdlogp), rewards\n", "np.array(epdlogp), rewards, [0.5] * len(rewards)\n")
    taken = ("epx, eph, epdlogp, rewards = played", "epx, eph, epdlogp, rewards, _ = played")
    script = imported(edited(tmp_path / "more.py", SHORTER_GAMES, more, taken))
    plain = imported(edited(tmp_path / "plain.py", SHORTER_GAMES))
    script.H = plain.H = 8
    for module in script, plain:
        assert run_here(*RUN, "--save", f"{module.__name__}.p", script=module) == 0
    assert (tmp_path / "more.p").read_bytes() == (tmp_path / "plain.p").read_bytes()


def test_a_log_may_have_a_column_more(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    header = (
        '"episode,reward,running_mean,steps,seconds"',
        '"episode,won,reward,running_mean,steps,seconds"',
    )
    row = ('row = f"{number},{sum', 'row = f"{number},{game.points.count(1)},{sum')
    script = imported(edited(tmp_path / "more.py", SHORTER_GAMES, header, row))
    script.H = 8
    for more in [], ["--resume"]:
        assert run_here(*RUN, *more, "--log", "log.csv", script=script) == 0
    assert capsys.readouterr().err == ""
    log = logs.read_log("log.csv")
    assert log["games"].tolist() == [1, 2, 3, 4] and set(log["length"]) == {100}


@pytest.mark.parametrize(
    "old, new, words",
    [
        (
            "np.dot(epdlogp, eph)}",
            "np.dot(epdlogp, eph).sum()}",
            ["found a gradient of W2 of ()", "'W2': (200,)"],
        ),
        (
            'return {"W1": dW1.T,',
            'return {"W1": dW1,',
            ["found a gradient of W1 of (6400, 200)", "'W1': (200, 6400)"],
        ),
        ("np.dot(epdlogp, eph)}", "np.full(H, lambda: 1)}", ["lambda", "ickle"]),
        ("other_background) & (field != 0)).view(np.int8)", "0)).astype(np.uint8)", ["uint8"]),
        ('return {"W1": dW1.T,', 'return {"b": 0.0, "W1": dW1.T,', ["found a gradient of b of ()"]),
        (
            "    return float(p), h",
            "    return h, float(p)",
            ["expected a probability p", "array(["],
        ),
        (
            "    returns = discount_rewards(",
            '    model["W2"] *= 0.9\n    returns = discount_rewards(',
            ['model["W2"] *= 0.9', "read-only"],
        ),
        ("p = sigmoid(np", "p = (np", ["policy_forward: expected a probability"]),
        ("p = sigmoid(np", "p = np.nan * sigmoid(np", ["expected a probability", "found nan"]),
        ("rewards = played[3]\n", "os._exit(0)\n", ["exited with status 0"]),
        ("rewards = played[3]\n", "np.ones(2**50)\n", ["np.ones(2**50)", "fewer --workers"]),
        ('"frameskip": 1', '"frame_skip": 1', ["check the options", "'frame_skip': 1"]),
    ],
)
def test_a_slip_in_a_worker_is_told_with_its_reason(old, new, words, tmp_path):
    slip = edited(tmp_path / "slip.py", SHORTER_GAMES, (old, new))
    done = run_script(*RUN, "--workers", 1, script=slip, cwd=tmp_path)
    assert done.returncode == (2 if "options" in words[0] else 1)
    assert len(done.stderr.splitlines()) < 15 and files(tmp_path) == ["slip.py"]
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["adam", "second-layer", "crop", "baseline"])
def test_a_whole_checkpoint_of_another_copy_is_not_called_damaged(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = imported(changed(tmp_path / "changed.py", name))
    plain = imported(edited(tmp_path / "plain.py", SHORTER_GAMES))
    for script, reader in (other, plain), (plain, other):
        script.H = reader.H = 8
        model = script.init_model(np.random.default_rng(0))
        script.save_checkpoint("save.p", model, script.State(3, script.init_cache(model)))
        with pytest.raises(reader.CheckpointError, match="^save.p is of a script with another"):
            reader.load_checkpoint("save.p")


def test_a_script_that_is_edited_after_its_import_is_refused(tmp_path):
    """As in a notebook: the workers would play the new one, and the update be the old one's."""
    edited(tmp_path / "pong_pg.py", SHORTER_GAMES)
    code = "import pong_pg, sys; open('pong_pg.py', 'a').write('#'); sys.exit(pong_pg.main(%r))"
    command = [sys.executable, "-c", code % [*RUN, "--workers", "1"]]
    done = subprocess.run(command, cwd=str(tmp_path), capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "save.p").exists()
    one_line(done.stderr, "pong_pg.py was changed", "start Python again")
