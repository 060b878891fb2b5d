"""What the tests share: the script as a command, and one short real run."""

import copy
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "pong_pg.py"
sys.path.insert(0, str(ROOT))
os.environ["OPENBLAS_NUM_THREADS"] = "1"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` may have it ignored
import pong_pg  # noqa: E402


def run_script(*args, cwd, timeout=600, env=None, **options):
    """Runs `python pong_pg.py ARGS` in `cwd` to its end; gives the process with its output."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, args)],
        cwd=str(cwd),
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


END_THEM = """
import contextlib, sys, psutil
sys.stdin.read()  # until whoever started this closes it, or is no more
for process in psutil.process_iter():
    with contextlib.suppress(psutil.Error):
        started = process.environ().get("PONG_PG_TESTS") == sys.argv[1]
        if started and not any("resource_tracker" in word for word in process.cmdline()):
            process.kill()  # multiprocessing's tracker ends by itself, and is missed before
"""


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running():
    """What the tests have started ends with them, were they themselves killed.

    A process beside them waits for that. It knows theirs by a variable of the environment.
    """
    command = [sys.executable, "-c", END_THEM, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        os.environ["PONG_PG_TESTS"] = str(os.getpid())
        yield


@pytest.fixture(scope="session")
def short_run(tmp_path_factory):
    """A folder in which six games were trained in batches of two, saved after every batch."""
    folder = tmp_path_factory.mktemp("short_run")
    flags = "--seed 3 --episodes 6 --batch-size 2 --save-every 2 --learning-rate 1e-3 --log log.csv"
    done = run_script(*flags.split(), cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def write_log(path, running_mean, lengths, scores=None, seconds=None):
    """A log as --log writes it: the running mean and the steps of each game."""
    rows = ["episode,reward,running_mean,steps,seconds"]
    for game, (mean, length) in enumerate(zip(running_mean, lengths)):
        score = mean if scores is None else scores[game]
        rows.append(f"{game},{score},{mean},{length},{game if seconds is None else seconds[game]}")
    path.write_text("\n".join(rows) + "\n")


def make_model(h, d):
    """A model whose bits are the same on every machine: division is exact by definition."""
    return {"W1": (np.arange(h * d) / 7 - 0.25).reshape(h, d), "W2": np.arange(h) / 7 - 0.25}


def pickled_model(model):
    """The first part of a checkpoint, as numpy 1.24 pickles it."""
    arrays = {name: np.ascontiguousarray(model[name], "<f8") for name in ("W1", "W2")}
    return pickle.dumps(arrays, 3).replace(b"numpy._core", b"numpy.core", 1)


@pytest.fixture(scope="session")
def real_state(short_run):
    """The state of a real run, without its large arrays: it is asked for some 200 times."""
    return {**pong_pg.load_checkpoint(short_run / "save.p")[1], "rmsprop_cache": None}


@pytest.fixture
def shrink(monkeypatch, real_state):
    """shrink(h, d) makes the network small, and gives a model and a real run's state for it."""

    def shrink(h, d):
        monkeypatch.setattr(pong_pg, "H", h)
        monkeypatch.setattr(pong_pg, "D", d)
        model, state = make_model(h, d), copy.deepcopy(real_state)
        state["rmsprop_cache"] = {name: w * w for name, w in model.items()}
        return model, state

    return shrink
