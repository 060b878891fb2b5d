"""Whatever a test starts ends with the tests, however they end."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from helpers import ROOT

LEAVES_ONE = """
import os, subprocess, sys
def test_that_leaves_a_process():
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    left = subprocess.Popen(sleep, start_new_session=True)
    with open("left", "w") as file:
        file.write(str(left.pid))
    {end}
"""
SLOW = pytest.mark.slow
ENDS = [
    pytest.param("pass", marks=SLOW),
    pytest.param("raise SystemExit", marks=SLOW),
    "os.abort()",
    "os.kill(os.getpid(), 9)",
]


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX has them")
@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_a_test_left_ends_with_the_tests(tmp_path, end):
    (tmp_path / "test_it.py").write_text(LEAVES_ONE.format(end=end))
    command = "-m pytest -q -p conftest -p no:cacheprovider -c nothing.ini test_it.py".split()
    (tmp_path / "nothing.ini").write_text("[pytest]\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    run = subprocess.run(
        [sys.executable, *command], cwd=str(tmp_path), env=env, timeout=120, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert (run.returncode == -signal.SIGKILL) == ("kill" in end), run.stdout
    left = int((tmp_path / "left").read_text())
    deadline = time.monotonic() + 30
    while not gone(left):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
