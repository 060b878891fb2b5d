"""The player behind `python pong_pg.py --cluster ADDRESS`: the workers of a Dask cluster.

It gives a run what pong_pg.Workers gives it: `play(model, seeds, gamma)` yields the games in the
order of their seeds, and `close()` ends it. The run hands in its own module, so that nothing is
imported twice. See docs/cluster.md.
"""

import asyncio
import atexit
import hashlib
import importlib
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import CancelledError

import numpy as np


def functions_of_workers():
    """Returns two functions for the workers. From within this one they travel by value.

    A worker imports the script by its name: it is uploaded there.
    """

    def learn(seed, name, model, gamma):
        """Returns (kind, content), as a worker process of pong_pg.Workers sends it."""
        import distributed

        script = importlib.import_module(name)
        worker = distributed.get_worker()
        try:
            pongs = worker.__dict__.setdefault("pongs", {})  # one a thread, open from game to game
            thread = threading.get_ident()
            if thread not in pongs:
                pongs[thread] = script.Pong()
            model = {name: w.copy("F") for name, w in model.items()}  # Dask's is not aligned: slow
            return "game", tuple(script.play_and_learn(pongs[thread], model, seed, gamma))
        except script.UsageError as error:
            return "refused", f"{worker.address}: {error}"
        except Exception:  # of code that somebody has changed
            return "failed", traceback.format_exc()

    def rounding():
        """A digest of sums, which another numpy, BLAS or processor rounds otherwise; its numpy."""
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((64, 7)), rng.standard_normal((64, 200))
        sigmoid = np.exp(-np.logaddexp(0.0, -a))
        sums = np.dot(a.T, b), np.dot(a[:33, 0], b[:33]), np.dot(b[0], b[1]), sigmoid
        return hashlib.sha256(b"".join(x.tobytes() for x in sums)).hexdigest(), np.__version__

    return learn, rounding


class Cluster:
    """The workers of the Dask cluster at `address`, or `local`: `count` of them on this machine."""

    def __init__(self, script, address: str, count: int, check_signals):
        """Waits for a worker. Raises UsageError where no scheduler is found."""
        try:
            import distributed
        except ImportError as error:
            text = f"--cluster needs dask ({error}): python -m pip install distributed"
            raise script.UsageError(text) from None
        self.script = script
        self.check_signals = check_signals
        self.futures: list = []
        for name in list(logging.root.manager.loggerDict):  # what matters, we say
            if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
                logging.getLogger(name).disabled = True
        where = {"address": address, "timeout": 5}
        if address == "local":
            where = {"n_workers": count, "threads_per_worker": 1}
            where["dashboard_address"] = "127.0.0.1:0"  # for this machine only
            where["silence_logs"] = logging.CRITICAL
        try:
            with script.signals_held_back():  # in the processes of a local cluster for good
                self.client = distributed.Client(**where)
        except Exception as error:  # TypeError, too, for a tls:// address without certificates
            check_signals()
            text = f"no Dask scheduler is found at {address}: {error}"
            raise script.UsageError(text) from None
        self.wait_for_a_worker(address)
        script.check_unchanged()
        stem = os.path.splitext(os.path.basename(script.__file__))[0]
        digest = hashlib.sha256(script.TEXT_AS_IMPORTED).hexdigest()
        self.name = f"{stem}_{digest[:12]}"  # another script called pong_pg may be there as well
        try:
            self.upload(script.TEXT_AS_IMPORTED)
        except Exception as error:
            text = f"a worker of the cluster cannot run {script.__file__}: {error}"
            raise script.UsageError(f"{text}: install what it needs there") from None
        if address == "local":  # at its end the emulator's library would report leaks
            self.client.run(atexit.register, os._exit, 0)
        self.learn, rounding = functions_of_workers()
        self.warn_of_rounding(rounding)

    def upload(self, text: bytes):
        """Has all workers import this script, as self.name."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, f"{self.name}.py")
            with open(path, "wb") as file:
                file.write(text)
            self.client.upload_file(path)

    def wait_for_a_worker(self, address):
        if not self.client.scheduler_info()["workers"]:
            print(f"waiting for a worker of the cluster at {address}")
        while not self.client.scheduler_info()["workers"]:
            self.check_signals()
            time.sleep(0.1)

    def warn_of_rounding(self, rounding):
        """Names each worker whose sums are rounded in another way than here."""
        digest, _ = rounding()
        for address, (theirs, version) in self.client.run(rounding).items():
            if theirs != digest:
                text = f"rounds differently: numpy {version} there, {np.__version__} here"
                print(f"pong_pg: {address} {text}; see docs/cluster.md", file=sys.stderr)

    def play(self, model: dict, seeds, gamma=None):
        """Yields the Games of seeds. Raises UsageError, WorkerError, OSError and Stopped."""
        import distributed

        try:
            (weights,) = self.client.scatter([model], broadcast=True, hash=False)
            how = {"name": self.name, "model": weights, "gamma": gamma, "pure": False}
            self.futures = self.client.map(self.learn, seeds, **how)
            while self.futures:
                while not self.futures[0].done():
                    self.check_signals()
                    time.sleep(0.005)
                kind, content = self.futures.pop(0).result()
                if kind == "refused":
                    raise self.script.UsageError(content)
                if kind == "failed":
                    raise self.script.WorkerError(content)
                yield self.script.Game(*content)
        except (CancelledError, OSError, asyncio.TimeoutError):  # on 3.11 that is an OSError
            self.check_signals()  # Ctrl-C may have struck the cluster, too
            text = "the scheduler of the cluster is gone, or all its workers at once"
            raise OSError(text) from None
        except distributed.KilledWorker:
            text = "a game was tried on four workers, and each of them died: out of memory?"
            raise OSError(text) from None

    def close(self):
        """Cancels what is not begun; a game in progress on a worker ends by itself."""
        self.client.cancel(self.futures, force=True)
        self.client.close()
