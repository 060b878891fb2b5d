"""Kills, full disks, signals and dying workers: nothing that was saved is lost, nothing lingers."""

import collections
import contextlib
import errno
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from conftest import ROOT, SCRIPT

import pong_pg

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
SIGNALS = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
RUN = "--batch-size 1 --save-every 1 --workers 1 --learning-rate 3e-3 --seed 3".split()

# ---- runs that things are done to ---------------------------------------------------------------


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
        """Waits for the end; gives (exit status, standard error)."""
        return self.process.wait(timeout=600), self.stderr

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(timeout=300)

    def workers(self):
        """The processes that play for it; multiprocessing's housekeeper is another child."""
        return [
            pid for pid, ppid, _, args in processes() if ppid == self.pid and "spawn_main" in args
        ]

    def leaves_nobody(self):
        """Is each process of its session gone? One that a killed parent left may need a while."""
        deadline = time.monotonic() + 10
        while any(pgid == self.pid for _, _, pgid, _ in processes()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def takes_signals(self):
        """Has the script asked them to wait until it looks? Before, nothing of it runs."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/status") as status:
            blocked = re.search(r"SigBlk:\s*(\w+)", status.read())
            return bool(int(blocked.group(1), 16) >> (signal.SIGTERM - 1) & 1)
        return "training" in self.stdout


def handle(ignored):
    """Has a process take signals by their default, were the tests themselves under nohup."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def none_is_left_behind():
    yield
    while Run.begun:
        Run.begun.pop().kill()


def processes():
    """(pid, parent, group, command) of each process that is not dead and merely unburied."""
    for process in psutil.process_iter(["pid", "ppid", "status", "cmdline"]):
        found = process.info
        if found["status"] not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            with contextlib.suppress(ProcessLookupError):
                group = os.getpgid(found["pid"])
                yield found["pid"], found["ppid"], group, " ".join(found["cmdline"] or [])


def in_pairs(function, jobs):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda job: function(*job), jobs))


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def games_in(path):
    return pong_pg.load_checkpoint(path)[1]["games"]


def one_line(error, *words):
    assert len(error.splitlines()) == 1 and error.startswith("pong_pg: "), error
    assert all(word in error for word in words), error


# ---- killed while it saves ----------------------------------------------------------------------


def saving(folder):
    """What changes as soon as a checkpoint is being written: names, and which file save.p is."""
    with contextlib.suppress(FileNotFoundError):
        return [
            (e.name, e.stat().st_ino) for e in os.scandir(folder) if e.name.startswith("save.p")
        ]


def go_on(folder, *flags):
    resume = ["--resume"] if (folder / "save.p").exists() else []
    if not resume and (folder / "log.csv").exists():
        (folder / "log.csv").unlink()  # a fresh run would keep it, which is not the question here
    return Run(folder, *flags, "--log", "log.csv", *resume)


def kill_again_and_again(folder, kills, seed, flags=RUN):
    """Kills a run, resumes it, kills it ..., and checks what each kill leaves. Gives counts.

    Four kills of five are aimed: they strike up to 40 ms after a checkpoint begins to be written.
    The others come at any moment.
    """
    chance, games, ends = random.Random(seed), 0, collections.Counter()
    for _ in range(kills):
        run = go_on(folder, *flags)
        try:
            if chance.random() < 0.8:
                before = saving(folder)
                run.wait_until(lambda b=before: saving(folder) != b, pause=0.0003)
                time.sleep(chance.uniform(0, 0.04))
            else:
                time.sleep(chance.uniform(0, 3))
        finally:
            run.kill()
        assert "Traceback" not in run.stderr and run.leaves_nobody()
        left = set(files(folder))
        assert left <= {"save.p", "save.p.tmp", "log.csv", "log.csv.tmp"}, left
        if "save.p" in left:
            now = games_in(folder / "save.p")  # it loads: it is whole
            assert now >= max(games, run.saved()), (now, games, run.saved())
            ends["an old checkpoint, whole" if now == games else "a new checkpoint, whole"] += 1
            games = now
        else:
            assert games == run.saved() == 0
            ends["no checkpoint yet"] += 1
        ends["of these, a temporary file beside it"] += "save.p.tmp" in left
    return ends


def log_without_seconds(path):
    return [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]


def finish_and_compare(folder, flags=RUN):
    """Resumes for one more game; that equals a run of as many games that nobody disturbed."""
    run = go_on(folder, *flags, "--episodes", 1)
    assert run.end() == (0, "")
    assert files(folder) == ["log.csv", "save.p"]
    games = games_in(folder / "save.p")
    calm = Run(folder.parent / "calm", *flags, "--log", "log.csv", "--episodes", games)
    assert calm.end() == (0, "")
    for name, content in ("save.p", sha256), ("log.csv", log_without_seconds):
        assert content(folder / name) == content(folder.parent / "calm" / name)


def test_whenever_it_is_killed_the_checkpoint_is_whole_and_never_older(tmp_path):
    kill_again_and_again(tmp_path / "run", 4, 0)
    finish_and_compare(tmp_path / "run")


# ---- saves that fail ----------------------------------------------------------------------------


@pytest.fixture
def tiny(short_run, tmp_path):
    """save() writes a new small checkpoint over an old one: (save, path, bytes old, bytes new)."""
    _, state = pong_pg.load_checkpoint(short_run / "save.p")
    arrays = {"W1": np.arange(8.0).reshape(2, 4), "W2": np.arange(2.0)}
    path = tmp_path / "run" / "save.p"
    path.parent.mkdir()
    contents = []
    for scale in (2, 1):
        state["rmsprop_cache"] = model = {name: scale * a for name, a in arrays.items()}
        pong_pg.save_checkpoint(path, model, state)
        contents.append(path.read_bytes())
    new, old = contents
    state["rmsprop_cache"] = model = {name: 2 * a for name, a in arrays.items()}
    return lambda: pong_pg.save_checkpoint(path, model, state), path, old, new


def test_a_write_that_fails_after_any_number_of_bytes_leaves_the_old_checkpoint(tiny):
    """The system itself refuses every byte beyond the limit, as a full disk would."""
    resource = pytest.importorskip("resource")
    save, path, old, new = tiny
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in range(len(new)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(OSError, match="save.p"):
                save()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == old and files(path.parent) == ["save.p"]
    save()
    assert path.read_bytes() == new and files(path.parent) == ["save.p"]


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_step_of_saving_that_fails_leaves_the_old_checkpoint(tiny, monkeypatch, call):
    """A file system that became read-only, a disk that does not answer, a file that is held."""
    save, path, old, new = tiny

    def fail(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(f"builtins.{call}" if call == "open" else f"os.{call}", fail)
        with pytest.raises(OSError, match="save.p"):
            save()
    assert path.read_bytes() == old and files(path.parent) == ["save.p"]
    save()
    assert path.read_bytes() == new and files(path.parent) == ["save.p"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tiny, monkeypatch):
    """Or a power failure could leave the name without the bytes."""
    save, path, old, new = tiny
    fsync, events = os.fsync, []

    def record_fsync(fd):
        fsync(fd)
        events.append(("synced", os.fstat(fd).st_ino, os.fstat(fd).st_size))

    def recorded(rename):
        def record(source, target):
            events.append(("renamed", os.stat(source).st_ino, os.stat(source).st_size))
            rename(source, target)

        return record

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", recorded(os.replace))
    monkeypatch.setattr(os, "rename", recorded(os.rename))
    save()
    file = os.stat(path).st_ino
    assert events == [(what, file, len(new)) for what in ("synced", "renamed")]


def test_a_save_does_not_write_into_the_old_file(tiny):
    save, path, old, new = tiny
    os.link(path, path.parent / "kept")
    with path.open("rb") as reader:
        save()
        assert reader.read() == old == (path.parent / "kept").read_bytes()


def faulty(path, fault):
    """A script that is pong_pg.py in a system with a fault; gives its path."""
    path.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport pong_pg\n"
        f"def fail(*args, **kwargs): raise OSError({fault[1]}, os.strerror({fault[1]}))\n"
        f"if __name__ == '__main__':\n"
        f"    os.{fault[0]} = fail\n    sys.exit(pong_pg.main(sys.argv[1:]))\n"
    )
    return path


@pytest.mark.parametrize("fresh", [False, True])
def test_a_full_disk_ends_the_run_with_one_line_and_the_old_checkpoint(short_run, tmp_path, fresh):
    """The disk says so when the bytes are to be on it; a small disk is really filled below."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(short_run / "save.p", folder)
    script = faulty(tmp_path / "full.py", ("fsync", errno.ENOSPC))
    status, error = Run(folder, *RUN, *([] if fresh else ["--resume"]), script=script).end()
    assert status == 1
    one_line(error, "save.p", os.strerror(errno.ENOSPC))
    assert files(folder) == (["save.p", "save.p.1"] if fresh else ["save.p"])
    for name in files(folder):
        assert sha256(folder / name) == sha256(short_run / "save.p")


def test_a_folder_that_vanishes_ends_the_run_with_one_line(tmp_path):
    folder = tmp_path / "run"
    (folder / "saves").mkdir(parents=True)
    run = Run(folder, *RUN, "--save", "saves/save.p")
    run.wait_until(run.saved)
    (folder / "saves").rename(folder / "elsewhere")
    status, error = run.end()
    assert status == 1 and run.leaves_nobody()
    one_line(error, "save.p", os.strerror(errno.ENOENT))
    assert games_in(folder / "elsewhere" / "save.p") >= run.saved()


@contextlib.contextmanager
def small_disk(folder):
    """A disk of 30 MB in memory; gives a function that mounts it with other options."""

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        return subprocess.run(command, stderr=subprocess.PIPE).returncode == 0

    folder.mkdir()
    if not shutil.which("mount") or not mount("size=30m"):
        pytest.skip("no right to mount a small disk; the tests above fill one in other ways")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_or_read_only(tmp_path):
    """There is room for one checkpoint; then for two; then nothing can be written any more."""
    folder = tmp_path / "disk"
    with small_disk(folder) as mount:
        status, error = Run(folder, *RUN).end()
        assert status == 1 and files(folder) == ["save.p"] and games_in(folder / "save.p") == 1
        one_line(error, "save.p", os.strerror(errno.ENOSPC))
        assert mount("remount", "size=80m")
        run = Run(folder, *RUN, "--resume")
        run.wait_until(run.saved)
        deadline = time.monotonic() + 20  # it is busy while a file is being written
        while not mount("remount", "ro") and time.monotonic() < deadline:
            time.sleep(0.01)
        status, error = run.end()
        assert status == 1 and games_in(folder / "save.p") >= run.saved() >= 2
        one_line(error, "save.p", os.strerror(errno.EROFS))
        assert "save.p" in files(folder)
        status, error = Run(folder, *RUN, "--resume").end()
        assert status == 2
        one_line(error, "save.p", "cannot be written")


def test_a_folder_without_permission_is_refused_at_the_start(short_run, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; a read-only disk is tried above")
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(short_run / "save.p", folder)
    folder.chmod(0o555)
    try:
        status, error = Run(folder, *RUN, "--resume").end()
    finally:
        folder.chmod(0o755)
    assert status == 2 and files(folder) == ["save.p"]
    one_line(error, "save.p", "cannot be written")


# ---- a fresh run keeps what it finds ------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_a_fresh_run_keeps_the_files_it_finds_under_the_next_free_names(tmp_path, links):
    """A damaged checkpoint too; where the file system has no links, as a copy."""
    folder, script = tmp_path / "run", SCRIPT
    folder.mkdir()
    if not links:
        script = faulty(tmp_path / "no_links.py", ("link", errno.EPERM))
    found = {"save.p": "damaged", "save.p.1": "an earlier one", "log.csv": "a,b\n"}
    for name, content in found.items():
        (folder / name).write_text(content)
    run = Run(folder, *RUN, "--episodes", 2, "--log", "log.csv", script=script)
    assert run.end() == (0, "")
    said = run.stdout[: run.stdout.index("ep 0:")]
    for words in "save.p will be kept as save.p.2", "log.csv will be kept as log.csv.1":
        assert words in said, said
    assert files(folder) == ["log.csv", "log.csv.1", "save.p", "save.p.1", "save.p.2"]
    for old, new in ("save.p", "save.p.2"), ("save.p.1", "save.p.1"), ("log.csv", "log.csv.1"):
        assert (folder / new).read_text() == found[old]
    assert games_in(folder / "save.p") == 2 and len(log_without_seconds(folder / "log.csv")) == 3


def test_a_fresh_run_says_what_it_found_and_touches_nothing_before_it_saves(short_run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in "save.p", "log.csv":
        shutil.copy(short_run / name, folder)
    run = Run(folder, *RUN[2:], "--batch-size", 500, "--save-every", 500, "--log", "log.csv")
    run.wait_until(run.games)
    os.kill(run.pid, signal.SIGINT)
    assert run.end() == (130, "")
    mean = pong_pg.load_checkpoint(folder / "save.p")[1]["running_mean"]
    for words in (
        "after the first batch save.p will be kept as save.p.1\n",
        f"it holds 6 games, running mean {mean:.2f}, seed 3\n",
        "python pong_pg.py --resume --save save.p.1\n",  # save.p will be the new run's
        "python pong_pg.py --evaluate 1 --render --save save.p.1\n",
    ):
        assert words in run.stdout
    assert files(folder) == ["log.csv", "save.p"]
    for name in files(folder):
        assert sha256(folder / name) == sha256(short_run / name)


# ---- workers that die ---------------------------------------------------------------------------


def kill_workers(run, moments):
    """Kills a worker of the run each time it has played as many games as `moments` say.

    On a busy machine the run may be over before the last of them; the first must be met.
    """
    killed = []
    for games in moments:
        run.wait_until(lambda g=games: killed and run.over() or run.games() >= g and run.workers())
        time.sleep(0.1)
        for pid in run.workers()[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    assert killed


def test_workers_that_are_killed_change_neither_a_bit_nor_a_line(short_run, tmp_path):
    flags = "--seed 3 --episodes 6 --batch-size 2 --save-every 2 --learning-rate 1e-3 --workers 2"
    run = Run(tmp_path / "run", *flags.split())
    kill_workers(run, [0, 1, 2])
    assert run.end() == (0, "") and run.leaves_nobody()
    assert sha256(tmp_path / "run" / "save.p") == sha256(short_run / "save.p")
    assert run.stdout == (short_run / "stdout").read_text()


def test_workers_that_cannot_be_replaced_end_the_run_with_a_checkpoint(tmp_path):
    run = Run(tmp_path / "run", *"--batch-size 1 --save-every 100 --seed 3".split())
    run.wait_until(run.games)
    while not run.over():
        for pid in run.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    status, error = run.end()
    assert status == 1 and run.leaves_nobody()
    one_line(error, "worker")
    assert games_in(tmp_path / "run" / "save.p") == run.games() == run.saved()


def test_a_parent_that_is_killed_leaves_no_worker_behind(tmp_path):
    """Not even one in the middle of a game that lasts for minutes."""
    script = tmp_path / "endless.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport pong_pg\n"
        "def step(*args, step=pong_pg.Pong.step): return step(*args)[0], False\n"
        "pong_pg.Pong.step, pong_pg.MAX_STEPS = step, 1_000_000\n"
        "if __name__ == '__main__': sys.exit(pong_pg.main(sys.argv[1:]))\n"
    )
    run = Run(tmp_path / "run", *"--batch-size 2 --workers 2 --seed 3".split(), script=script)
    run.wait_until(lambda: len(run.workers()) == 2)
    time.sleep(2)  # until they play
    run.kill()
    assert run.leaves_nobody()


# ---- signals ------------------------------------------------------------------------------------


def stop(folder, number, whole_group, moment):
    """Signals a run so many seconds after it began to listen, as the terminal or `kill` would."""
    run = Run(folder, *"--batch-size 2 --save-every 1000 --workers 2 --seed 3".split())
    run.wait_until(run.takes_signals, pause=0.001)
    if moment is None:
        run.wait_until(lambda: run.games() >= 2)
    else:
        time.sleep(moment)
    began = time.monotonic()
    (os.killpg if whole_group else os.kill)(run.pid, number)
    assert run.end() == (128 + number, ""), (number, moment, run.stderr)
    seconds = time.monotonic() - began
    assert run.leaves_nobody()
    games = run.games() // 2 * 2  # whole batches
    assert files(folder) == (["save.p"] if games else [])
    assert not games or games_in(folder / "save.p") == run.saved() == games
    return seconds


def test_a_signal_at_any_moment_ends_the_run_cleanly(tmp_path):
    """While it imports, starts workers, plays, or after a batch, which it then saves."""
    chance = random.Random(0)
    kinds = [(number, group) for number in SIGNALS for group in (True, False)]
    moments = [chance.uniform(0, 1.2) for _ in kinds[1:]] + [None]
    jobs = [(tmp_path / str(n), *kind, moments[n]) for n, kind in enumerate(kinds)]
    in_pairs(stop, jobs)


def test_an_evaluation_is_interrupted_as_cleanly(short_run, tmp_path):
    run = Run(tmp_path / "run", "--evaluate", 99, "--save", short_run / "save.p")
    run.wait_until(lambda: "game 0" in run.stdout)
    os.killpg(run.pid, signal.SIGINT)
    assert run.end() == (130, "") and run.leaves_nobody()
    assert "evaluation:" not in run.stdout


def test_a_run_under_nohup_outlives_its_terminal(tmp_path):
    run = Run(tmp_path / "run", *RUN, ignored=[signal.SIGHUP])
    run.wait_until(lambda: run.games() >= 1)
    os.killpg(run.pid, signal.SIGHUP)
    games = run.games()
    run.wait_until(lambda: run.games() > games)
    os.killpg(run.pid, signal.SIGTERM)
    assert run.end() == (143, "") and run.leaves_nobody()
    assert games_in(tmp_path / "run" / "save.p") == run.games()
