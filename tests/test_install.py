"""What is missing is named, and the errors of docs/troubleshooting.md are the real ones.

What installs from the network runs where CI is set, on one Python: `CI=1 python -m pytest`.
"""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import venv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, SCRIPT, SMALL, edited, posix, run_script

import pong_pg

pytestmark = posix
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
INSTALL = "python -m pip install -r requirements.txt"
PYTHON38 = sys.version_info[:2] == (3, 8)
on_gym = pytest.mark.skipif(find_spec("gymnasium") is not None, reason="gym 0.21 is not installed")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="displays are Linux's trouble")
on_gymnasium = pytest.mark.skipif(find_spec("gymnasium") is None, reason="needs gymnasium")
ENV = {**os.environ, "PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1", "OPENBLAS_NUM_THREADS": "1"}


def in_ci(python38):
    return pytest.mark.skipif(
        not os.environ.get("CI") or python38 != PYTHON38,
        reason="installs from the network: in CI, on one Python",
    )


def run(*command, cwd=None, env=None, timeout=200):
    """Gives the exit status, and what was printed to either stream."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env or ENV, timeout=timeout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stdout


def python(code, *args, **options):
    return run(sys.executable, "-c", textwrap.dedent(code), *args, **options)


# ---- something is missing -----------------------------------------------------------------------


@pytest.fixture
def python_without(tmp_path):
    """Makes a Python that has all packages of this one but those named."""

    def make(*missing, but=()):
        folder = tmp_path / "venv"
        venv.create(folder, symlinks=True, with_pip=False)
        (site,) = folder.glob("lib/python*/site-packages")
        for entry in Path(np.__file__).parent.parent.iterdir():
            if re.split(r"[-.]", entry.name.lower())[0] not in missing:
                (site / entry.name).symlink_to(entry)
        for name, version, code in but:
            (site / f"{name}.py").write_text(f"__version__ = {version!r}\n{code}\n")
            info = site / f"{name}-{version}.dist-info"
            info.mkdir()
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            (info / "METADATA").write_text(metadata)
        return folder / "bin" / "python"

    return make


def refusal(python, folder, *flags, **env):
    """The one line that the script ends with."""
    folder = folder / "run"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(python), str(SCRIPT), *flags], cwd=str(folder), env={**ENV, **env},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("pong_pg: ") and not list(folder.iterdir())
    return done.stderr


STUB_026 = ("gym", "0.26.2", "import sys; print('Gym has been unmaintained', file=sys.stderr)")
STUB_029 = ("gymnasium", "0.29.1", "")


MISSING = {  # what is not there, what is there instead, what the line says
    "gym": (["gym", "gymnasium"], [], ["No module named 'gymnasium'", "gymnasium 1 or gym 0.21"]),
    "all": (["gym", "gymnasium", "ale_py"], [], ["No module named 'ale_py'"]),
    "ale-py": (["ale_py"], [], ["No module named "]),
    "gym 0.21": (["gym", "gymnasium"], [STUB_026], ["gym 0.26.2", "gymnasium 1 or gym 0.21"]),
    "gymnasium 1": (["gym", "gymnasium"], [STUB_029], ["gymnasium 0.29.1", "gymnasium 1 or"]),
    "either": (["gym", "gymnasium"], [STUB_026, STUB_029], ["gym"]),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named_with_the_command_that_installs_it(python_without, tmp_path, name):
    missing, but, words = MISSING[name]
    line = refusal(python_without(*missing, but=but), tmp_path, "--workers", "1")
    assert all(word in line for word in [*words, INSTALL]), line
    if name == "gym 0.21":
        seen("gym-0.26", line)


@pytest.mark.parametrize("package", ["numpy", "tqdm"])
def test_without_numpy_python_says_so_and_readme_what_to_type(python_without, tmp_path, package):
    code, out = run(python_without(package), SCRIPT, "--episodes", 1, cwd=tmp_path)
    assert code == 1 and out.endswith(f"No module named '{package}'\n")
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert re.search(r"No module named 'numpy'`, type `source \.venv/bin/activate`", readme)


@on_gymnasium
def test_another_gym_beside_gymnasium_is_left_alone(python_without, quick, tmp_path):
    python = python_without("gym", but=[STUB_026])
    code, out = run(python, quick, "--episodes", 1, "--batch-size", 1, cwd=tmp_path)
    assert code == 0 and "unmaintained" not in out


@on_gym
def test_a_missing_rom_is_named_with_the_command_that_installs_it(python_without, tmp_path):
    line = refusal(python_without("autorom"), tmp_path)
    assert "AutoROM --accept-license" in line
    seen("pong-rom", line)


@on_linux
def test_a_missing_display_is_named(tmp_path):
    nowhere = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "SDL_VIDEODRIVER": ""}
    seen("no-display", refusal(sys.executable, tmp_path, "--render", **nowhere))


# ---- the errors of docs/troubleshooting.md ------------------------------------------------------


def seen(name, output):
    """Is the error of this name on the page in the output? There `...` stands for anything."""
    (quote,) = re.findall(rf"^<!-- {re.escape(name)} -->\n```text\n(.*?)```\n", PAGE, re.M | re.S)
    pattern = r"\s+".join(re.escape(word).replace(r"\.\.\.", ".*?") for word in quote.split())
    assert re.search(pattern, output, re.S), f"{quote}\nis not in\n{output}"


def cure(heading):
    """The code that the page offers under this heading."""
    section = PAGE.split(f"\n### {heading}\n")[1].split("\n##")[0]
    return re.search(r"<!-- cure -->\n```\w+\n(.*?)```", section, re.S).group(1)


def test_every_error_of_the_page_is_provoked():
    names = re.findall(r"^<!-- (\S+) -->\n```text$", PAGE, re.M)
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in names if f'"{name}"' not in source] == []
    assert PAGE.count("```text") == len(names) > 10


@in_ci(python38=True)
def test_gym_021_is_refused_by_new_tools_and_the_cure_installs_it(tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    path = os.pathsep.join([str(tmp_path / "venv" / "bin"), os.environ["PATH"]])
    env = {**ENV, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def pip_install(*args):
        return run("python", "-m", "pip", "install", *args, env=env)

    assert pip_install("setuptools>=66")[0] == 0
    code, out = pip_install("--no-deps", "gym==0.21.0")
    assert code != 0
    seen("extras", out)
    assert pip_install("pip==24.0", "setuptools<66", "wheel>=0.39")[0] == 0
    code, out = pip_install("--no-deps", "gym==0.21.0")
    assert code != 0
    seen("wheel", out)
    assert pip_install("pip>=24.1", "uv")[0] == 0
    code, out = pip_install("--no-deps", "gym==0.21.0")
    assert code != 0
    seen("pip-metadata", out)

    requirements = [line for line in (ROOT / "requirements.txt").open() if line.startswith("gym[")]
    (tmp_path / "requirements.txt").write_text("".join(requirements))
    (tmp_path / "old.txt").write_text("setuptools<66\nwheel<0.39\n")
    uv = ["uv", "pip", "install", "--python", tmp_path / "venv", "-r", "requirements.txt"]
    code, out = run(*uv, cwd=tmp_path, env=env)
    assert code != 0
    seen("extras", out)
    code, out = run(*uv, "--build-constraint", "old.txt", cwd=tmp_path, env=env)
    assert code != 0
    seen("uv-metadata", out)

    commands = cure("gym 0.21 has invalid metadata")
    code, out = run("bash", "-euc", commands, cwd=tmp_path, env={**env, "PIP_NO_DEPS": "1"})
    assert code == 0, out
    code, out = run("python", "-m", "pip", "show", "gym", env=env)
    assert "Version: 0.21.0" in out


@in_ci(python38=False)
def test_where_there_is_no_wheel_of_ale_py_pip_tries_to_build_it(tmp_path):
    """As on Python 3.15, for which there is none; without a compiler, as on a bare machine."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    pip = [tmp_path / "venv" / "bin" / "python", "-m", "pip"]
    build = [*pip, "wheel", "--no-deps", "--no-binary", "ale-py", "ale-py"]
    no_compiler = {**ENV, "CC": "/bin/false", "CXX": "/bin/false"}
    code, out = run(*build, cwd=tmp_path, env=no_compiler, timeout=900)
    assert code != 0
    seen("no-wheel", out)


SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.mark.skipif(
    not list(Path("/usr/lib").glob("python3*/EXTERNALLY-MANAGED")),
    reason="the Python of this system is not externally managed",
)
def test_an_externally_managed_python_refuses_pip():
    code, out = run(SYSTEM_PYTHON, "-m", "pip", "install", "--no-index", "no-such-package")
    if "No module named pip" in out:
        pytest.skip("the system's Python has no pip")
    assert code != 0
    seen("externally-managed", out)


@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="Debian keeps venv apart")
def test_debian_without_python3_venv_says_so(tmp_path):
    """As if ensurepip, which is in that package, were not there."""
    code = """
        import os.path, subprocess, sys, venv

        def fail(*args, **options):
            raise subprocess.CalledProcessError(1, "ensurepip")

        there = os.path.exists
        os.path.exists = lambda path: "ensurepip" not in str(path) and there(path)
        venv.EnvBuilder._call_new_python = fail
        venv.main(sys.argv[1:])
    """
    code, out = run(SYSTEM_PYTHON, "-c", textwrap.dedent(code), tmp_path / "venv")
    assert code == 1
    seen("ensurepip", out)


PONG, LOOP = "gym.make('Pong-v0')", "env.reset(); observation, reward, done, info = env.step(0)"


@pytest.mark.parametrize(
    "name, gym, missing, code",
    [
        ("gym-rom", "gym", "autorom", PONG),
        ("unregistered", "gym", "ale_py", PONG),
        ("no-name", "gymnasium", "ale_py", PONG),
        ("no-namespace", "gymnasium", "ale_py", "gym.make('ALE/Pong-v5')"),
        ("unpack", "gymnasium", "", f"env = gym.make('CartPole-v1'); {LOOP}"),
        ("deprecated", "gym", "", "env = gym.make('Breakout-v0'); env.reset(); env.render()"),
    ],
)
def test_the_errors_of_gym_are_those_of_the_page(python_without, name, gym, missing, code):
    if find_spec("gymnasium" if gym == "gym" else "gym"):
        pytest.skip(f"{gym} is not what is installed")
    python = python_without(missing) if missing else sys.executable
    status, out = run(python, "-c", f"import {gym} as gym; {code}")
    assert status != 0
    seen(name, out)


@on_gym
def test_autorom_swallows_a_failed_download(tmp_path):
    command = [shutil.which("AutoROM", path=str(Path(sys.executable).parent)), "--accept-license"]
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    code, out = run(*command, "--install-dir", tmp_path, env={**ENV, **nowhere})
    assert code == 0 and not list(tmp_path.iterdir())
    seen("autorom", out)


@on_gym
@on_linux
def test_a_window_without_a_display_does_not_open(tmp_path):
    env = {key: value for key, value in ENV.items() if key != "WAYLAND_DISPLAY"}
    env.update(DISPLAY=":4242", SDL_VIDEODRIVER="x11", SDL_AUDIODRIVER="dummy")
    code, out = python("import gym; gym.make('Breakout-v0', render_mode='human')", env=env)
    assert code != 0
    seen("sdl", out)
    line = refusal(sys.executable, tmp_path, "--render", **env)
    assert "Failed to initialize SDL" in line


def test_what_numpy_2_pickles_numpy_1_cannot_load_but_the_import_can(tmp_path):
    model = {"W1": np.ones((pong_pg.H, pong_pg.D)), "W2": np.ones(pong_pg.H)}
    theirs = re.sub(b"numpy.(?:_core|core)", b"numpy._core", pickle.dumps(model, 2))
    (tmp_path / "theirs.p").write_bytes(theirs)
    if np.__version__.startswith("1."):
        code, out = python("import pickle; pickle.load(open('theirs.p', 'rb'))", cwd=tmp_path)
        assert code != 0
        seen("numpy-core", out)
    (tmp_path / "tools").mkdir()
    edited(tmp_path / "pong_pg.py", SMALL[0])
    shutil.copy(ROOT / "tools" / "import_model.py", tmp_path / "tools")
    done = run_script("--evaluate", 1, "--save", "theirs.p", cwd=tmp_path)
    assert done.returncode == 2
    seen("foreign", done.stderr)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    code, out = run(
        "bash", "-euc", cure("Another script's file"), cwd=tmp_path, env={**ENV, "PATH": path}
    )
    assert code == 0, out
    load = "import pickle; print(pickle.load(open('ours.p', 'rb'))['W1'].sum())"
    assert python(load, cwd=tmp_path) == (0, f"{pong_pg.H * pong_pg.D}.0\n")


# ---- what the newcomer types --------------------------------------------------------------------


def inline_metadata():
    """Of the block that uv reads at the top of the script (PEP 723): (Python, packages)."""
    script = SCRIPT.read_text(encoding="utf-8")
    (block,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+?)# ///\n", script, re.M)
    (python,) = re.findall(r'^# requires-python = "(.*)"$', block, re.M)
    (packages,) = re.findall(r"^# dependencies = \[\n(.*?)^# \]$", block, re.M | re.S)
    return python, re.findall(r'^# +"(.*)",$', packages, re.M)


def test_what_uv_installs_is_what_requirements_txt_says_for_python_39_and_newer():
    wanted = []
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        package, _, marker = (part.strip() for part in line.partition(";"))
        if marker == 'python_version >= "3.9"':
            marker = ""
        if package and not package.startswith("#") and marker != 'python_version < "3.9"':
            wanted.append("; ".join(filter(None, [package, marker.replace('"', "'")])))
    assert inline_metadata() == (">=3.9", wanted) and "numpy" in wanted


def test_the_versions_of_the_logs_are_known_for_all_that_training_needs():
    def names(path):
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        return {re.match(r"[\w-]+", line).group() for line in lines if re.match(r"\w", line)}

    assert names("results/constraints.txt") == names("requirements.txt") - {"gym", "autorom"}


@in_ci(python38=False)
def test_the_uv_line_installs_and_trains_and_leaves_nothing_beside_the_script(tmp_path):
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    line = re.search(r"<!-- uv -->\n```bash\n(.*)\n```", install).group(1)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    assert run(tmp_path / "venv" / "bin" / "python", "-m", "pip", "install", "uv")[0] == 0
    folder = tmp_path / "pong_pg"
    folder.mkdir()
    for name in ("pong_pg.py", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    path = os.pathsep.join([str(tmp_path / "venv" / "bin"), os.environ["PATH"]])
    line += " --batch-size 1 --episodes 1"
    code, out = run("bash", "-euc", line, cwd=folder, env={**ENV, "PATH": path})
    assert code == 0, out
    names = {"pong_pg.py", "requirements.txt", "pyproject.toml", "save.p"}
    assert {entry.name for entry in folder.iterdir()} == names


@in_ci(python38=False)
@pytest.mark.skipif(not shutil.which("apt-get"), reason="the lines are those of Debian and Ubuntu")
def test_the_readmes_linux_lines_take_a_bare_machine_to_a_game(tmp_path):
    """As typed in an empty clone; apt-get only says what it would install."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    section = install.split("\n## Linux\n")[1].split("\n##")[0]
    lines = re.findall(r"^```bash\n(.*?)```", section, re.M | re.S)
    lines += re.findall(r"^<!-- train -->\n```bash\n(.*?)```", readme, re.M | re.S)
    assert len(lines) == 2 and "sudo apt-get install" in lines[0] and "python3 -m venv" in lines[1]
    for name in ("pong_pg.py", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (binaries / "sudo").chmod(0o755)
    (binaries / "python3").symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "apt.conf").write_text('APT::Get::Simulate "true";\n')
    path = os.pathsep.join([str(binaries), os.environ["PATH"]])
    run = subprocess.Popen(
        ["bash", "-euc", "".join(lines)], cwd=str(tmp_path), start_new_session=True, text=True,
        env={**ENV, "PATH": path, "APT_CONFIG": str(tmp_path / "apt.conf")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    out = []
    for line in run.stdout:
        out.append(line)
        if line.startswith("ep 0: game finished, reward: "):
            os.killpg(run.pid, signal.SIGINT)
            break
    assert "python3-venv" in "".join(out), out
    out += run.communicate(timeout=30)[0]
    assert run.returncode == 130, "".join(out)
