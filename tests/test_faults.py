"""Full disks, folders that vanish, files that are held: nothing that was saved is lost."""

import contextlib
import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import (
    ROOT,
    SMALL_MODULE,
    Run,
    failing,
    files,
    games_in,
    log_without_seconds,
    one_line,
    posix,
    sha256,
    wrapped,
)

import pong_pg

pytestmark = posix
RUN = "--batch-size 1 --save-every 1 --workers 1 --learning-rate 3e-3 --seed 3".split()

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
        state.rmsprop_cache = model = {name: scale * a for name, a in arrays.items()}
        pong_pg.save_checkpoint(path, model, state)
        contents.append(path.read_bytes())
    new, old = contents
    state.rmsprop_cache = model = {name: 2 * a for name, a in arrays.items()}
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


@pytest.mark.parametrize("fresh", [False, True])
def test_a_full_disk_ends_the_run_with_one_line_and_the_old_checkpoint(short_run, tmp_path, fresh):
    """The disk says so when the bytes are to be on it; a small disk is really filled below."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(short_run / "save.p", folder)
    script = wrapped(tmp_path / "full.py", in_parent=failing("fsync", errno.ENOSPC))
    status, error = Run(folder, *RUN, *([] if fresh else ["--resume"]), script=script).end()
    assert status == 1
    one_line(error, "save.p", os.strerror(errno.ENOSPC))
    assert files(folder) == (["save.p", "save.p.1"] if fresh else ["save.p"])
    for name in files(folder):
        assert sha256(folder / name) == sha256(short_run / "save.p")


def test_a_folder_that_vanishes_ends_the_run_with_one_line(tmp_path, quick):
    folder = tmp_path / "run"
    (folder / "saves").mkdir(parents=True)
    run = Run(folder, *RUN, "--save", "saves/save.p", script=quick)
    run.wait_until(run.saved)
    (folder / "saves").rename(folder / "elsewhere")
    status, error = run.end()
    assert status == 1 and run.leaves_nobody()
    one_line(error, "save.p", os.strerror(errno.ENOENT))
    assert games_in(folder / "elsewhere" / "save.p") >= run.saved()


@contextlib.contextmanager
def small_disk(folder, size):
    """A disk in memory for so many bytes; gives a function that mounts it anew."""

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        return subprocess.run(command, stderr=subprocess.PIPE).returncode == 0

    folder.mkdir()
    if not shutil.which("mount") or not mount(f"size={size}"):
        pytest.skip("no right to mount a small disk; the tests above fill one in other ways")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_or_read_only(tmp_path, quick):
    """There is room for one checkpoint; then for two; then nothing can be written."""
    folder, checkpoint = tmp_path / "disk", 2 * 8 * 8 * (pong_pg.D + 1)
    with small_disk(folder, 3 * checkpoint // 2) as mount:
        status, error = Run(folder, *RUN, script=quick).end()
        assert status == 1 and files(folder) == ["save.p"] and games_in(folder / "save.p") == 1
        one_line(error, "save.p", os.strerror(errno.ENOSPC))
        assert mount("remount", f"size={4 * checkpoint}")
        flags = ["--resume", "--episodes", 1]
        assert Run(folder, *RUN, *flags, script=quick).end() == (0, "")
        assert games_in(folder / "save.p") == 2 and mount("remount", "ro")
        assert "save.p" in files(folder)
        status, error = Run(folder, *RUN, "--resume", script=quick).end()
        assert status == 2
        one_line(error, "save.p", "cannot be written")


# ---- a fresh run keeps what it finds ------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_a_fresh_run_keeps_the_files_it_finds_under_the_next_free_names(tmp_path, quick, links):
    """A damaged checkpoint too; where the file system has no links, as a copy."""
    folder, script = tmp_path / "run", quick
    folder.mkdir()
    if not links:
        no_links = failing("link", errno.EPERM)
        script = wrapped(tmp_path / "no_links.py", always=SMALL_MODULE, in_parent=no_links)
    found = {"save.p": "damaged", "save.p.1": "an earlier one", "log.csv": "a,b\n"}
    for name, content in found.items():
        (folder / name).write_text(content)
    run = Run(folder, *RUN, "--episodes", 2, "--log", "log.csv", script=script)
    assert run.end() == (0, "")
    said = run.stdout[: run.stdout.index("resetting env")]
    for words in "save.p will be kept as save.p.2", "log.csv will be kept as log.csv.1":
        assert words in said, said
    assert files(folder) == ["log.csv", "log.csv.1", "save.p", "save.p.1", "save.p.2"]
    for old, new in ("save.p", "save.p.2"), ("save.p.1", "save.p.1"), ("log.csv", "log.csv.1"):
        assert (folder / new).read_text() == found[old]
    assert games_in(folder / "save.p") == 2 and len(log_without_seconds(folder / "log.csv")) == 3


def test_a_fresh_run_says_what_it_found_and_touches_nothing_before_it_saves(
    short_run, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in "save.p", "log.csv":
        shutil.copy(short_run / name, folder)
    flags = ["--batch-size", 5000, "--save-every", 5000, "--log", "log.csv"]
    run = Run(folder, *RUN[4:], *flags)
    run.wait_until(run.games)
    os.kill(run.pid, signal.SIGINT)
    assert run.end() == (130, "")
    monkeypatch.chdir(folder)
    mean = pong_pg.load_checkpoint("save.p")[1].running_mean
    for words in (
        "after the first batch save.p will be kept as save.p.1\n",
        f"it holds 6 games, running mean {mean:.2f}, seed 3\n",
        pong_pg.command("--resume", "--save", "save.p.1") + "\n",  # save.p will be the new run's
        pong_pg.command("--evaluate", "1", "--render", "--save", "save.p.1") + "\n",
    ):
        assert words in run.stdout
    assert files(folder) == ["log.csv", "save.p"]
    for name in files(folder):
        assert sha256(folder / name) == sha256(short_run / name)


def test_a_command_that_is_shown_runs_in_any_folder_and_without_python_on_the_path(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for folder in ROOT, ROOT.parent, tmp_path:
        monkeypatch.chdir(folder)
        shown = pong_pg.command("--version")
        assert len(shown) < len(f"{sys.executable} {ROOT}/pong_pg.py --version") or folder != ROOT
        done = subprocess.run(["sh", "-c", shown], stdout=subprocess.PIPE, text=True, check=True)
        assert f"pong_pg {pong_pg.__version__}, Python {sys.version.split()[0]}" in done.stdout


def test_the_commands_that_are_shown_are_to_copy(short_run, tmp_path, monkeypatch, capsys):
    """They name this script, were it a changed one, and quote names with a space."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    monkeypatch.setattr(pong_pg, "SCRIPT", str(tmp_path / "my pong.py"))
    shutil.copy(short_run / "save.p", "my agent.p")
    pong_pg.start_run("my agent.p", None, 1, {})
    shown = [line for line in capsys.readouterr().out.splitlines() if "python" in line]
    assert [shlex.split(line.partition(": ")[2]) for line in shown] == [
        ["python", "my pong.py", "--resume", "--save", "my agent.p.1"],
        ["python", "my pong.py", "--evaluate", "1", "--render", "--save", "my agent.p.1"],
    ]


def test_a_link_stays_a_link_and_the_file_that_it_names_is_written(tmp_path):
    disk, link = tmp_path / "disk", tmp_path / "save.p"
    disk.mkdir()
    (disk / "save.p").write_bytes(b"old")
    link.symlink_to(disk / "save.p")
    pong_pg.write_atomically(str(link), b"new")
    assert link.is_symlink() and (disk / "save.p").read_bytes() == b"new"
