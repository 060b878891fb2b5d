"""docs/walkthrough.md: a reader who pastes its blocks one after the other sees what it shows."""

import doctest
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from helpers import ROOT, SCRIPT, edited

import pong_pg

GYM = "gymnasium" if find_spec("gymnasium") else "gym"
TEXT = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^(?:<!-- (\w+) -->\n)?```(.*)\n((?:(?!```).*\n)*)```\n", re.M)


def blocks():
    """Gives (heading, gym or gymnasium or "" for both, language, code, output) of each block."""
    parts = re.split(r"^## (.+)\n", TEXT, flags=re.M)
    for heading, text in zip(parts[1::2], parts[2::2]):
        found = FENCED.findall(text)
        for (which, language, code), (_, _, output) in zip(found[::2], found[1::2]):
            yield heading, which, language, code, output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The script; and for the shell one with short games, for an agent's is long, and `python`.

    Beside that is a checkpoint, the repository's if it has one.
    """
    folder = tmp_path_factory.mktemp("walkthrough")
    as_shown = (f"H = {pong_pg.H} ", "H = 200 ")
    edited(folder / SCRIPT.name, as_shown)
    shell = folder / "shell"
    shell.mkdir()
    edited(shell / SCRIPT.name, as_shown, ("MAX_STEPS = 10_000", "MAX_STEPS = 200"))
    if (ROOT / "save.p").exists():
        shutil.copy(ROOT / "save.p", shell)
    else:
        model = pong_pg.init_model(np.random.default_rng(0))
        (shell / "save.p").write_bytes(pickle.dumps(model))
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return folder


def run(language, code, folder):
    command, where = [sys.executable, "-c", code], folder
    if language == "bash":
        command, where = ["bash", "-euc", code], folder / "shell"
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    screen = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    return subprocess.run(
        command, cwd=str(where), env={**os.environ, **screen, "PATH": path},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_every_block_is_code_followed_by_its_output():
    """So that none escapes the test below."""
    fences = re.findall(r"^```(.*)", TEXT, flags=re.M)[::2]
    assert len(fences) % 2 == 0 and set(fences[::2]) == {"bash", "python"}
    assert set(fences[1::2]) == {"text"}
    assert len(list(blocks())) == len(fences) // 2
    for heading in re.findall(r"^## (.+)", TEXT, flags=re.M):
        shown = [which for name, which, *_ in blocks() if name == heading]
        assert shown.count("gym") == shown.count("gymnasium") and shown, heading
        assert set(shown) in ({"gym", "gymnasium"}, {""}), heading


@pytest.mark.parametrize(
    "language, code, output",
    [
        pytest.param(language, code, output, id=heading.replace(" ", "-"))
        for heading, which, language, code, output in blocks()
        if which in ("", GYM)
    ],
)
def test_a_block_prints_what_is_shown(folder, language, code, output):
    if language == "bash" and os.name != "posix":
        pytest.skip("the block is for a shell as POSIX has it")
    done = run(language, code, folder)
    assert done.returncode == 0, done.stderr
    alike = doctest.OutputChecker().check_output
    assert alike(output, done.stdout, doctest.ELLIPSIS), f"{output}\nbut got\n{done.stdout}"
