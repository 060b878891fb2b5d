"""The player behind `python pong_pg.py --cluster ADDRESS`: the workers of a Dask cluster.

It gives a run what pong_pg.Workers gives it: `play(model, seeds, gamma)` yields the games in the
order of their seeds, and `close()` ends it. See docs/cluster.md.
"""

import atexit
import hashlib
import logging
import os
import sys
import time
import warnings
from concurrent.futures import CancelledError

import numpy as np

import pong_pg

try:
    import distributed
except ImportError as error:
    text = f"--cluster needs dask ({error}): python -m pip install distributed"
    raise pong_pg.UsageError(text) from None


def for_workers():
    """Two functions that workers run. From within this one they travel by value; they import
    pong_pg.py, which is uploaded, once, and keep its emulators open from game to game."""

    def learn(seed, model, gamma):
        model = {name: w.copy("F") for name, w in model.items()}  # Dask's is not aligned: slow
        try:
            return pong_pg.play_and_learn(model, seed, gamma)
        except pong_pg.UsageError as error:
            raise pong_pg.UsageError(f"{distributed.get_worker().address}: {error}") from None

    def rounding():
        """A digest of sums, which another numpy, BLAS or processor rounds otherwise; versions."""
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((64, 7)), rng.standard_normal((64, 200))
        sums = np.dot(a.T, b), np.dot(a[:33, 0], b[:33]), np.dot(b[0], b[1]), pong_pg.sigmoid(a)
        digest = hashlib.sha256(b"".join(x.tobytes() for x in sums)).hexdigest()
        return digest, pong_pg.versions()

    return learn, rounding


class Cluster:
    """The workers of the Dask cluster at `address`, or `local`: `count` of them on this machine."""

    def __init__(self, address: str, count: int):
        """Waits for a worker. Raises UsageError where no scheduler is found."""
        logging.disable()  # what matters, we say
        warnings.simplefilter("ignore")
        where = {"address": address, "timeout": 5}
        if address == "local":
            where = {"n_workers": count, "threads_per_worker": 1}
            where.update(dashboard_address=":0", silence_logs=logging.CRITICAL)
        try:
            self.client, self.futures = distributed.Client(**where), []
        except (OSError, ValueError) as error:
            text = f"no Dask scheduler is found at {address}: {error}"
            raise pong_pg.UsageError(text) from None
        if not self.client.scheduler_info()["workers"]:
            print(f"waiting for a worker of the cluster at {address}")
        while not self.client.scheduler_info()["workers"]:
            pong_pg.raise_signal()
            time.sleep(0.1)
        self.client.upload_file(pong_pg.__file__)
        if address == "local":  # at its end the emulator's library would report leaks
            self.client.run(atexit.register, os._exit, 0)
        self.learn, rounding = for_workers()
        digest, ours = rounding()
        for worker, (theirs, versions) in self.client.run(rounding).items():
            if theirs != digest:
                text = f"{worker} rounds differently, with {versions}; here: {ours}"
                print(f"pong_pg: {text}", file=sys.stderr)

    def play(self, model: dict, seeds, gamma=None):
        """Yields the Games of seeds. Raises KeyboardInterrupt if a signal came, and OSError."""
        try:
            (weights,) = self.client.scatter([model], broadcast=True, hash=False)
            how = {"model": weights, "gamma": gamma, "pure": False}
            self.futures = self.client.map(self.learn, seeds, **how)
            while self.futures:
                while not self.futures[0].done():
                    pong_pg.raise_signal()
                    time.sleep(0.005)
                yield self.futures.pop(0).result()  # and forgotten: a gradient has megabytes
        except (CancelledError, OSError):
            raise OSError("the scheduler of the cluster is gone") from None

    def close(self):
        """Cancels what is not begun; a game in progress on a worker ends by itself."""
        self.client.cancel(self.futures, force=True)
        self.client.close()
