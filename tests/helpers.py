"""What the test modules share: the script as a command, runs that things are done to, files."""

import contextlib
import csv
import functools
import hashlib
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pytest

import pong_pg
from tools import watch

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "pong_pg.py"
SIGNALS = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
ONE_AT_A_TIME = threading.Lock()
posix = pytest.mark.skipif(os.name != "posix", reason="signals, files, a shell of POSIX")

# ---- the script as a command --------------------------------------------------------------------


def run_script(*args, cwd, script=SCRIPT, timeout=600, env=None, **options):
    """Runs `python pong_pg.py ARGS` in `cwd` to its end. Returns the process with its output."""
    return subprocess.run(
        [sys.executable, str(script), *map(str, args)],
        cwd=str(cwd),
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


def edited(path, *changes):
    """Writes the script as a reader has changed it: (old text, new text), ... Returns the path."""
    text = SCRIPT.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


# For what does not depend on how games are played: a batch takes milliseconds, a checkpoint 0.8 MB.
SMALL = ("MAX_STEPS = 10_000", "MAX_STEPS = 100"), (f"H = {pong_pg.H} ", "H = 8 ")
SMALL_MODULE = "pong_pg.MAX_STEPS, pong_pg.H = 100, 8"


def wrapped(path, before="", always="", in_parent=""):
    """Writes a script that imports pong_pg and runs it, on another system say. Returns its path.

    `before` comes before the import; `always` is done in workers, too; `in_parent` is not.
    """
    path.write_text(
        f"import os, sys\n{before}\nsys.path.insert(0, {str(ROOT)!r})\nimport pong_pg\n{always}\n"
        f"if __name__ == '__main__':\n"
        + "".join(f"    {line}\n" for line in in_parent.splitlines())
        + "    sys.exit(pong_pg.main(sys.argv[1:]))\n"
    )
    return path


def failing(call, error):
    """Returns a line for `wrapped`: from now on `os.CALL` fails with this error number."""
    return f"def fail(*args): raise OSError({error}, os.strerror({error}))\nos.{call} = fail"


class Run:
    """The script with `flags` in `folder`, in a session of its own; its output goes to files."""

    begun = []

    def __init__(self, folder, *flags, script=SCRIPT, ignored=(), **options):
        folder.mkdir(exist_ok=True)
        self.output = [folder.parent / f"{folder.name}.{name}" for name in ("stdout", "stderr")]
        with self.output[0].open("wb") as stdout, self.output[1].open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(script), *map(str, flags)],
                cwd=str(folder),
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=lambda: handle(ignored),
                **options,
            )
        self.begun.append(self)
        self.pid = self.process.pid

    @property
    def stdout(self):
        return self.output[0].read_text()

    @property
    def stderr(self):
        return self.output[1].read_text()

    def games(self):
        return self.stdout.count("resetting env")

    def saved(self):
        """The games of the last checkpoint that it announced."""
        return max(map(int, re.findall(r"saved \S+: (\d+) games", self.stdout)), default=0)

    def wait_until(self, condition, pause=0.005):
        deadline = time.monotonic() + 120
        while not condition():
            assert not self.over(), f"it ended too early: {self.stderr}"
            assert time.monotonic() < deadline, f"waited in vain: {self.stdout[-200:]}"
            time.sleep(pause)

    def over(self):
        return self.process.poll() is not None

    def end(self):
        """Waits for the end. Returns (exit status, standard error)."""
        return self.process.wait(timeout=120), self.stderr

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(timeout=300)

    def workers(self):
        """The processes that play for it; multiprocessing's housekeeper is another child."""
        return [p.pid for p, command in session(self.pid) if "spawn_main" in command]

    def leaves_nobody(self):
        """Is each process of its session gone? One that a killed parent left may need a while."""
        deadline = time.monotonic() + 10
        while list(session(self.pid)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def takes_signals(self):
        """Does the script take them itself? Before, nothing of it runs."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/status") as status:
            caught = re.search(r"SigCgt:\s*(\w+)", status.read())
            return bool(int(caught.group(1), 16) >> (signal.SIGTERM - 1) & 1)
        return "training" in self.stdout


def handle(ignored):
    """Has a process take signals by their default, were the tests themselves under nohup."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)


def session(leader):
    """Yields (process, command line) of those in a session that are not dead and unburied."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if os.getsid(process.pid) == leader and alive:
                yield process, " ".join(process.cmdline())


def end_session(leader):
    """Ends all that a test has started in a session, however the test ended."""
    for process, _ in list(session(leader)):
        with contextlib.suppress(psutil.Error):
            process.kill()


def in_pairs(function, jobs):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda job: function(*job), jobs))


@functools.lru_cache(maxsize=None)
def environment():
    """Gym's Pong, made once: that takes longer than a short game."""
    return pong_pg.make_pong(frameskip=1, repeat_action_probability=0.0)


class InThisProcess:
    """A player without worker processes, for the script or for a changed one."""

    def __init__(self, script=pong_pg):
        self.script = script
        made = environment()
        with mock.patch.object(script, "make_pong", lambda **options: made):
            self.pong = script.Pong()

    def play(self, model, seeds, gamma=None):
        for seed in seeds:
            yield self.script.play_and_learn(self.pong, model, seed, gamma)

    def close(self):
        pass


def run_here(*args, script=pong_pg):
    """Runs the script in this process, which plays the games too. Returns the exit status."""
    with mock.patch.object(script, "choose_player", lambda *how: InThisProcess(script)):
        return script.main(list(map(str, args)))


# ---- what is said -------------------------------------------------------------------------------


def one_line(error, *words, tool="pong_pg"):
    assert len(error.splitlines()) == 1 and error.startswith(f"{tool}: "), error
    for word in words:
        assert word in error, error


def refused(done, *words):
    """Bad usage or bad input: status 2 and one line."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    one_line(done.stderr, *words)


# ---- files --------------------------------------------------------------------------------------


def files(folder):
    """Their names, but for what Python keeps of an imported script."""
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path):
    """The (model, state) of a checkpoint, were it of a smaller network than ours."""
    units = path.stat().st_size // (2 * 8 * (pong_pg.D + 1))
    with ONE_AT_A_TIME, mock.patch.object(pong_pg, "H", min(units, pong_pg.H)):
        return pong_pg.load_checkpoint(path)


def games_in(path):
    return load(path)[1].games


def log_without_seconds(path):
    with path.open() as file:
        return [row[:4] for row in csv.reader(file)]


def write_log(path, running_mean, lengths, scores=None, seconds=None):
    """A log as --log writes it: the running mean and the steps of each game."""
    rows = ["episode,reward,running_mean,steps,seconds"]
    for game, (mean, length) in enumerate(zip(running_mean, lengths)):
        score = mean if scores is None else scores[game]
        rows.append(f"{game},{score},{mean},{length},{game if seconds is None else seconds[game]}")
    path.write_text("\n".join(rows) + "\n")


def put_agent(folder):
    """Puts the agent that ships into a folder as save.p, whatever training has left of it here."""
    found = watch.find_agent()
    if found:
        shutil.copy(found, folder / "save.p")
    else:  # somebody went on training it
        command = ["git", "-C", str(ROOT), "show", "HEAD:save.p"]
        with (folder / "save.p").open("wb") as file:
            subprocess.run(command, stdout=file, check=True)


# ---- checkpoints --------------------------------------------------------------------------------


def make_model(h, d):
    """A model whose bits are the same on every machine: division is exact by definition."""
    return {"W1": (np.arange(h * d) / 7 - 0.25).reshape(h, d), "W2": np.arange(h) / 7 - 0.25}


def pickled_model(model):
    """The first part of a checkpoint, as numpy 1.24 pickles it."""
    arrays = {name: np.ascontiguousarray(model[name], "<f8") for name in ("W1", "W2")}
    return pickle.dumps(arrays, 3).replace(b"numpy._core", b"numpy.core", 1)


def signed(data):
    return data + hashlib.sha256(data).digest()


def bits(arrays):
    return {name: np.ascontiguousarray(a, "<f8").tobytes() for name, a in arrays.items()}


def write(path, data):
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # to write a file over, ext4 waits for the disk
    path.write_bytes(data)


def refusal(path, data):
    """Returns why `data` is refused as a checkpoint: one line that names the file."""
    write(path, data)
    with pytest.raises(pong_pg.CheckpointError) as refused:
        pong_pg.load_checkpoint(path)
    line = str(refused.value)
    assert line.startswith(f"{path} ") and line.isprintable() and len(line) < 1000, line
    return line
