"""Fixtures: one short real run, small networks, and an end to all that a test has started."""

import copy
import os
import signal
import subprocess
import sys
import time

import pytest

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy reads it as it is first imported
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` may have it ignored
import helpers  # noqa: E402

import pong_pg  # noqa: E402


def pytest_addoption(parser):
    group = parser.getgroup("torture", "tests/test_torture.py, run by -m slow")
    for flag, default in ("kills", 20), ("worker-kills", 6), ("signals", 12), ("flips", 100):
        group.addoption(f"--{flag}", type=int, metavar="N", default=default)
    group.addoption("--moments", type=int, metavar="SEED", default=0, help="when things strike")


END_THEM = """
import contextlib, sys, psutil
sys.stdin.read()  # until whoever started this closes it, or is no more
for process in psutil.process_iter():
    with contextlib.suppress(psutil.Error):
        started = process.environ().get("PONG_PG_TESTS") == sys.argv[1]
        started = started and process.pid != int(sys.argv[1])  # Windows shows what is set later
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
    """A folder in which six games were trained in batches of two, saved after every batch.

    The first process of the tests that asks for it makes it, and the others wait.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "short_run"
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 120
        while not (folder / "stderr").exists():
            assert time.monotonic() < deadline, "the process that makes it has failed"
            time.sleep(0.05)
        return folder
    flags = "--seed 3 --episodes 6 --batch-size 2 --save-every 2 --learning-rate 1e-3 --log log.csv"
    done = helpers.run_script(*flags.split(), cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.fixture(scope="session")
def quick(tmp_path_factory):
    """The script with a small network and games of 100 steps."""
    return helpers.edited(tmp_path_factory.mktemp("quick") / "quick.py", *helpers.SMALL)


@pytest.fixture(scope="session")
def real_state(short_run):
    """The state of a real run, without its large arrays: it is asked for some 200 times."""
    _, state = pong_pg.load_checkpoint(short_run / "save.p")
    state.rmsprop_cache = {}
    return state


@pytest.fixture
def shrink(monkeypatch, real_state):
    """shrink(h, d) makes the network small. It returns a model and a real run's state for it."""

    def shrink(h, d):
        monkeypatch.setattr(pong_pg, "H", h)
        monkeypatch.setattr(pong_pg, "D", d)
        model, state = helpers.make_model(h, d), copy.deepcopy(real_state)
        state.rmsprop_cache = {name: w * w for name, w in model.items()}
        return model, state

    return shrink


@pytest.fixture(autouse=True)
def no_run_is_left_behind():
    yield
    while helpers.Run.begun:
        run = helpers.Run.begun.pop()
        run.kill()
        helpers.end_session(run.pid)
