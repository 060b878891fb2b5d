"""The player behind `python pong_pg.py --cluster ADDRESS`: the workers of a Dask cluster.

It gives the run what pong_pg.Workers gives it: `play(model, seeds, gamma)` yields the games in the
order of their seeds, and `close()` ends it. See docs/cluster.md.
"""

import logging
import sys
import time
import warnings
from concurrent.futures import CancelledError

import distributed

import pong_pg


class Cluster:
    """The workers of the Dask cluster at `address`, or `local`: `count` of them on this machine."""

    def __init__(self, address: str, count: int):
        """Raises UsageError where no scheduler is found, or a worker that cannot play."""
        logging.disable()  # what matters, we say
        warnings.simplefilter("ignore")
        local = {"n_workers": count, "threads_per_worker": 1, "dashboard_address": ":0"}
        where = local if address == "local" else {"address": address, "timeout": 5}
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

        def learn(seed, model, gamma):  # from within a function, it travels by value
            model = {name: w.copy("F") for name, w in model.items()}  # Dask's is unaligned: slow
            try:
                return pong_pg.play_and_learn(model, seed, gamma)
            except pong_pg.UsageError as error:
                address = distributed.get_worker().address
                raise pong_pg.UsageError(f"{address}: {error}") from None

        self.learn = learn
        for worker, theirs in self.client.run(pong_pg.versions).items():
            if theirs != pong_pg.versions():
                text = f"{worker} may round differently: {theirs}; here: {pong_pg.versions()}"
                print(f"pong_pg: {text}", file=sys.stderr)

    def play(self, model: dict, seeds, gamma=None):
        """Yields the Games of seeds. Raises KeyboardInterrupt if a signal came, and OSError."""
        try:
            (weights,) = self.client.scatter([model], broadcast=True, hash=False)
            batch = {"model": weights, "gamma": gamma, "pure": False}
            self.futures = self.client.map(self.learn, seeds, **batch)
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
