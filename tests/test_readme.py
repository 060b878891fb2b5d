"""README.md and its translation: their commands work, their links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, edited

import pong_pg

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
KOREAN = (ROOT / "docs" / "README.ko.md").read_text(encoding="utf-8")
PAGES = [
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "examples/*.md", "results/*.md", ".github/*.md")
    for page in sorted(ROOT.glob(pattern))
]
BLOCK = re.compile(r"^((?:<!-- .+ -->\n)?)```(.+)\n((?:(?!```).*\n)+)```$", re.M)


def blocks(text):
    """Returns [(marker, language, code)] of the fenced blocks of a page."""
    return [match.groups() for match in BLOCK.finditer(text)]


def everyday_commands():
    chapter = README.partition("\n## Everyday commands\n")[2].partition("\n## ")[0]
    return [command.split() for command in re.findall("^- `(.+?)`: ", chapter, re.M)]


def test_the_readme_is_read_in_ten_minutes():
    written = re.sub(r"<!-- table: .+ -->.*?<!-- end -->", "", README, flags=re.S)
    assert 900 <= len(written.split()) <= 1200
    assert README.count("```") == 2 * len(blocks(README))


def test_the_readme_shows_the_help_screen():
    command = [sys.executable, str(ROOT / "pong_pg.py"), "--help"]
    env = {**os.environ, "COLUMNS": "80"}
    screen = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    (shown,) = (code for marker, _, code in blocks(README) if marker == "<!-- help -->\n")
    assert screen.replace("\noptional arguments:\n", "\noptions:\n") == shown  # of Python 3.8, 3.9


def test_the_translation_has_the_readmes_commands():
    translated = blocks(KOREAN)
    assert len(translated) == len(blocks(README)) - 1  # without the help screen
    assert all(block in blocks(README) for block in translated)


def test_the_lines_for_a_notebook_train(tmp_path):
    edited(tmp_path / "pong_pg.py", *SMALL)
    (code,) = (code for _, language, code in blocks(README) if language == "python")
    command = [sys.executable, "-c", code.replace('"100"', '"10"')]
    done = subprocess.run(command, cwd=str(tmp_path), stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "saved save.p: 10 games" in done.stdout


@pytest.mark.slow
def test_everyday_commands_work_one_after_the_other(tmp_path):
    """Those that would go on until Ctrl-C play ten games."""
    edited(tmp_path / "pong_pg.py", ("MAX_STEPS = 10_000", "MAX_STEPS = 50"))
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    model = pong_pg.init_model(np.random.default_rng(0))
    (tmp_path / "theirs.p").write_bytes(pong_pg.pickle_model(model))
    screen = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    for command in everyday_commands():
        if "curve" in command and not find_spec("matplotlib"):
            continue
        if command[1] == "pong_pg.py" and "--evaluate" not in command:
            command += ["--episodes", "10"]
        command[0] = sys.executable
        done = subprocess.run(
            command,
            cwd=str(tmp_path),
            env={**os.environ, **screen},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, (command, done.stdout)
    assert {"save.p", "save.p.1", "pong.csv", "new.p"} <= set(os.listdir(str(tmp_path)))


@pytest.mark.parametrize("page", PAGES)
def test_no_block_to_copy_has_a_comment(page):
    """To zsh, the shell of a Mac, and to cmd of Windows a # is a word, and a quote in it opens."""
    for _, language, code in blocks((ROOT / page).read_text(encoding="utf-8")):
        assert language not in ("bash", "powershell") or not re.search(r"(^|\s)#", code), code


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_has_flags_that_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in re.findall(r"^ *(?:\S*/)?python pong_pg\.py( .*)?$", text, re.M):
        flags = line.replace("$seed", "1").rstrip(" &")
        pong_pg.parse_arguments(shlex.split(flags, comments=True))
    for tool in re.findall(r"python3? ((?:tools|examples)/\w+\.py)", text):
        assert (ROOT / tool).exists(), tool


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!https?:)[^)\s]*)\)", text):
        name, _, heading = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)", path.read_text(encoding="utf-8"), re.M)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, target


def test_the_version_is_the_same_everywhere():
    for name, pattern in [
        ("pyproject.toml", r'^version = "(.+)"$'),
        ("CITATION.cff", r"^version: (.+)$"),
        ("CHANGELOG.md", r"^## (\d\S*)$"),
    ]:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.search(pattern, text, re.M).group(1) == pong_pg.__version__, name
