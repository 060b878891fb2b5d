"""What the tests share: the script as a command, and one short real run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "pong_pg.py"
sys.path.insert(0, str(ROOT))
os.environ["OPENBLAS_NUM_THREADS"] = "1"


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
