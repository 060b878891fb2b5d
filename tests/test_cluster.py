"""The same run on a Dask cluster: a real scheduler and real workers on this machine."""

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
from helpers import (
    ROOT,
    SCRIPT,
    Run,
    edited,
    games_in,
    log_without_seconds,
    one_line,
    refused,
    run_script,
    sha256,
)

import pong_pg
from tools import dask_cluster

distributed = pytest.importorskip("distributed")
RUN = "--seed 3 --batch-size 2 --save-every 2 --learning-rate 1e-3 --log log.csv".split()
ENV = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s"}


class Process(subprocess.Popen):
    """A scheduler or a worker, in a session of its own; its output goes to `log`."""

    def __init__(self, command, log, env=None):
        self.log = log
        command = [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]]
        with log.open("w") as file:
            super().__init__(
                command, stdout=file, stderr=file, cwd=str(log.parent), env={**ENV, **(env or {})},
                start_new_session=True,
            )  # fmt: skip

    def wait_for(self, pattern):
        deadline = time.monotonic() + 60
        while not re.search(pattern, self.log.read_text()):
            assert self.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return re.search(pattern, self.log.read_text()).group(1)

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class Dask:
    """A scheduler with workers."""

    def __init__(self, folder, workers):
        self.folder, self.workers = folder, []
        self.scheduler = Process(
            ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
            folder / "scheduler",
        )
        try:
            self.address = self.scheduler.wait_for(r"Scheduler at:\s+(tcp://\S+)")
            for _ in range(workers):
                self.add()
            for worker in self.workers:
                worker.wait_for(r"(Registered to)")
        except BaseException:  # there is nobody yet who could close it
            self.close()
            raise

    def add(self, env=None):
        log = self.folder / f"worker{len(self.workers)}"
        command = ["worker", self.address, "--nthreads", "1", "--no-dashboard"]
        self.workers.append(Process(command, log, env))
        return self.workers[-1]

    def close(self):
        for process in [*self.workers, self.scheduler]:
            process.end()


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    with contextlib.closing(Dask(tmp_path_factory.mktemp("dask"), 2)) as dask:
        yield dask


@pytest.fixture
def own(tmp_path_factory):
    """dask(n): a cluster that may be harmed."""
    with contextlib.ExitStack() as stack:
        yield lambda n: stack.enter_context(
            contextlib.closing(Dask(tmp_path_factory.mktemp("own"), n))
        )


def same(folder, short_run):
    assert sha256(folder / "save.p") == sha256(short_run / "save.p")
    assert log_without_seconds(folder / "log.csv") == log_without_seconds(short_run / "log.csv")


LOCAL = "local"
REMOTE = pytest.param("dask", marks=pytest.mark.slow)  # the scheduler and workers of a fixture


def address_of(cluster, request):
    return cluster if cluster == LOCAL else request.getfixturevalue(cluster).address


@pytest.mark.parametrize("cluster", [LOCAL, REMOTE])
def test_a_cluster_gives_the_same_bits_and_lines(cluster, request, short_run, tmp_path):
    address = address_of(cluster, request)
    done = run_script(*RUN, "--episodes", 6, "--cluster", address, "--workers", 2, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (short_run / "stdout").read_text()
    same(tmp_path, short_run)


@pytest.mark.slow
def test_evaluation_on_a_cluster_is_the_same(dask, short_run):
    flags = ["--evaluate", 2, "--seed", 8]
    lines = [run_script(*flags, *more, cwd=short_run).stdout
             for more in (["--workers", 1], ["--cluster", dask.address])]  # fmt: skip
    assert lines[0] == lines[1] and "evaluation: games=2" in lines[0]


@pytest.mark.slow
def test_workers_that_are_killed_or_join_change_no_bit(own, short_run, tmp_path):
    dask = own(2)
    run = Run(tmp_path / "run", *RUN, "--episodes", 6, "--cluster", dask.address)
    run.wait_until(run.games)
    dask.workers[0].end()
    dask.add()
    assert run.end() == (0, "") and run.stdout == (short_run / "stdout").read_text()
    same(tmp_path / "run", short_run)


@pytest.mark.slow
def test_a_scheduler_that_goes_away_ends_the_run_with_one_line(own, tmp_path):
    dask = own(1)
    run = Run(tmp_path / "run", *RUN, "--cluster", dask.address)
    run.wait_until(run.saved)
    dask.scheduler.end()
    began = time.monotonic()
    status, error = run.end()
    assert status == 1 and run.leaves_nobody() and time.monotonic() - began < 20
    one_line(error, "scheduler of the cluster is gone")
    assert games_in(tmp_path / "run" / "save.p") == run.saved()


@pytest.mark.parametrize(
    "raised, words",
    [
        (distributed.KilledWorker("a game", None, 3), "on four workers, and each of them died"),
        (CancelledError(), "or all its workers at once"),
        (asyncio.TimeoutError(), "or all its workers at once"),
    ],
)
def test_workers_that_die_of_a_game_end_the_run_with_one_line(raised, words):
    """What Dask says when one takes all its workers with it; to kill them takes half a minute."""
    cluster = object.__new__(dask_cluster.Cluster)
    cluster.name = "pong_pg"
    cluster.script, cluster.check_signals, cluster.learn = pong_pg, lambda: None, None
    future = mock.Mock(result=mock.Mock(side_effect=raised))
    cluster.client = mock.Mock(scatter=lambda *a, **b: [None], map=lambda *a, **b: [future])
    with pytest.raises(OSError, match=words):
        list(cluster.play({}, [0]))


@pytest.mark.slow
def test_two_scripts_of_one_name_share_a_cluster(dask, tmp_path):
    """Each run has its games played by its own script, whichever came last."""
    clusters = []
    for folder, steps in ("long", 100), ("short", 20):
        (tmp_path / folder).mkdir()
        most = ("MAX_STEPS = 10_000", f"MAX_STEPS = {steps}")
        path = edited(tmp_path / folder / "pong_pg.py", most)
        spec = importlib.util.spec_from_file_location(f"pong_pg_{folder}", path)
        script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        clusters.append(dask_cluster.Cluster(script, dask.address, 1, lambda: None))
    model = pong_pg.init_model(np.random.default_rng(0))
    for cluster, steps in zip(clusters, (100, 20)):
        with contextlib.closing(cluster):
            (game,) = cluster.play(model, [(0, 0)])
            assert game.steps == steps


@pytest.mark.slow
def test_a_worker_that_lacks_a_package_is_told_in_one_line(own, tmp_path):
    (tmp_path / "tqdm.py").write_text("raise ImportError('no tqdm here')\n")
    dask = own(0)
    dask.add({"PYTHONPATH": str(tmp_path)}).wait_for(r"(Registered to)")
    (tmp_path / "run").mkdir()
    done = run_script(*RUN, "--cluster", dask.address, cwd=tmp_path / "run")
    assert done.returncode == 2 and not list((tmp_path / "run").iterdir())
    one_line(done.stderr, "a worker of the cluster cannot run", "no tqdm here", "install what")


@pytest.mark.slow
def test_a_worker_that_cannot_play_is_named(own, tmp_path):
    (tmp_path / "gymnasium.py").write_text("raise ImportError('no gymnasium here')\n")
    (tmp_path / "gym.py").write_text("raise ImportError('no gym here')\n")
    dask = own(0)
    worker = dask.add({"PYTHONPATH": str(tmp_path)})
    worker.wait_for(r"(Registered to)")
    (tmp_path / "run").mkdir()
    done = run_script(*RUN, "--cluster", dask.address, cwd=tmp_path / "run")
    assert done.returncode == 2 and not list((tmp_path / "run").iterdir())
    one_line(done.stderr, "tcp://127.0.0.1:", "here", "pip install -r requirements.txt")


@pytest.mark.slow
def test_an_address_without_a_scheduler_is_refused(tmp_path):
    addresses = ["tcp://127.0.0.1:9", "nonsense://x", "no.such.host.invalid:1"]

    def try_address(address):
        folder = tmp_path / str(addresses.index(address))
        folder.mkdir()
        refused(run_script(*RUN, "--cluster", address, cwd=folder), "no Dask scheduler", address)
        assert list(folder.iterdir()) == []

    with ThreadPoolExecutor() as pool:  # Dask tries for some seconds
        list(pool.map(try_address, addresses))


def test_what_is_missing_or_does_not_go_together_is_said(tmp_path):
    (tmp_path / "distributed.py").write_text("raise ImportError\n")
    done = run_script("--cluster", "local", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    refused(done, "pip install distributed")
    done = run_script("--cluster", "local", "--render", cwd=tmp_path)
    refused(done, "--render", "--cluster")


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [LOCAL, REMOTE])
def test_a_signal_ends_it_and_leaves_nothing_running(cluster, request, tmp_path):
    """Ctrl-C in a terminal strikes a local cluster, too; `kill` one process alone."""
    address = address_of(cluster, request)
    flags = [*RUN, "--cluster", address, "--workers", 2]
    run = Run(tmp_path / "run", *flags)
    run.wait_until(run.saved)
    (os.killpg if cluster == LOCAL else os.kill)(run.pid, signal.SIGINT)
    assert run.end() == (130, "") and run.leaves_nobody()
    assert games_in(tmp_path / "run" / "save.p") == run.saved()
    if cluster != LOCAL:
        with distributed.Client(address, set_as_default=False) as client:
            deadline = time.monotonic() + 20
            while any(client.processing().values()):
                assert time.monotonic() < deadline
                time.sleep(0.1)


@pytest.mark.slow
def test_it_waits_for_the_first_worker_and_can_be_interrupted(own, tmp_path):
    dask = own(0)
    run = Run(tmp_path / "run", *RUN, "--cluster", dask.address)
    run.wait_until(lambda: "waiting for a worker" in run.stdout)
    os.kill(run.pid, signal.SIGTERM)
    assert run.end() == (143, "") and run.leaves_nobody()
    run = Run(tmp_path / "run", *RUN, "--episodes", 2, "--cluster", dask.address)
    run.wait_until(lambda: "waiting for a worker" in run.stdout)
    dask.add()
    assert run.end() == (0, "")


@pytest.mark.slow
def test_a_worker_that_rounds_differently_is_named(own, tmp_path):
    """Here pong_pg's digest is another one on the worker, as with another BLAS."""
    (tmp_path / "sitecustomize.py").write_text(
        "import hashlib, builtins\nreal = hashlib.sha256\n"
        "hashlib.sha256 = lambda data=b'': real(bytes(data) + b'other')\n"
    )
    dask = own(0)
    dask.add({"PYTHONPATH": str(tmp_path)}).wait_for(r"(Registered to)")
    flags = [*RUN, "--episodes", 2, "--cluster", dask.address]
    (tmp_path / "run").mkdir()
    done = run_script(*flags, cwd=tmp_path / "run")
    assert done.returncode == 0
    one_line(done.stderr, "tcp://127.0.0.1:", "rounds differently", "numpy")


@pytest.mark.slow
def test_a_worker_has_one_blas_thread(dask):
    with distributed.Client(dask.address, set_as_default=False) as client:
        for found in client.run(os.getenv, "OPENBLAS_NUM_THREADS").values():
            assert found == "1"


def test_the_commands_of_the_page_are_there():
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for command in re.findall(r"^ *python pong_pg\.py (.*)", page, re.M):
        flags = command.split("#")[0].split("&")[0].replace("$seed", "0").strip("`. ").split()
        assert pong_pg.parse_arguments(flags).cluster
    assert SCRIPT.name in page
