"""setup_macos.sh under a PATH of fakes that record their calls, and its pip part for real."""

import fnmatch
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SCRIPT = REPO / "setup_macos.sh"
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")
pty = pytest.importorskip("pty")  # which Windows has not

URL = "https://repo.anaconda.com/miniconda/Miniconda3-py312_25.7.0-2-MacOSX-{}.sh"
SHA256 = {  # as Anaconda publishes them: a second copy, on purpose
    "arm64": "8d67e7824088d7aa3bde938a4fc4365bb39ba1f710104cfe7bd9cfb9a99bd8d2",
    "x86_64": "e8f6aed58d708cc544ba6bacbebad86787cb8df56667ff4729ad2fe36af32846",
}

# One program under all the names: it records its call, fails where FAIL (a pattern) says so, and
# does of its namesake's work what the next step relies on. FAKES is the folder it is copied from.
FAKE = r"""#!BASH
set -eu
name=${0##*/} base=${0%/*}/..
call="$name $*"
printf '%s\n' "${call//$'\n'/ }" >>"$LOG"
fails() { [[ "$call" == ${FAIL:-nothing} ]]; }
copy() { mkdir -p "$2" && cp "$FAKES/fake" "$2/$1"; }
case "$call" in
    "uname -s") echo "${SYSTEM:-Darwin}" ;;
    "uname -m") echo "$PROCESSOR" ;;
    "brew install wget") ! fails && copy wget "$FAKES" ;;
    "wget -O "*)
        echo 'exec "$FAKES/fake-installer" "$@" #' "$3${CORRUPT:-}" >"$2"
        ! fails || { echo half >"$2" && exit 4; } ;;
    "shasum -a 256")
        read -r text
        case "$text" in
            *"$ARM64_URL") echo "$ARM64_SHA256  -" ;;
            *"$X86_64_URL") echo "$X86_64_SHA256  -" ;;
            *) echo "0123456789abcdef0123456789abcdef  -" ;;
        esac
        ! fails ;;
    "fake-installer -b -u -p "*)
        mkdir -p "$4/pkgs"
        ! fails || exit 1
        copy conda "$4/bin" && mkdir -p "$4/etc/profile.d"
        echo 'conda() { echo "the function conda: $*"; }' >"$4/etc/profile.d/conda.sh" ;;
    "conda info --base") ! fails && cd -P "${CONDA_BASE:-$base}" && pwd ;;
    "conda create -y -p "*) mkdir -p "$4/conda-meta" && ! fails && copy python "$4/bin" ;;
    "python -c import pip, sys;"*) ! fails && echo "${FOUND_PYTHON:-3.8}" ;;
    "python -m pip install -r "*)
        [ -r "$5" ] && ! fails && copy AutoROM "${0%/*}" ;;
    "python -c "*"gym.make"*)
        ! fails && [ -e "$base/rom" ] || exit 1
        [[ "$call" != *"range(10)"*"env.step"*"ten steps"* ]] || echo "ten steps played" ;;
    "python -c import gym; print"*) ! fails && printf '0.21.0\n1.24.4\n' ;;
    "AutoROM --accept-license"*)
        [ $# = 1 ] || [ -r "$3" ]
        ! fails && { [ -n "${SWALLOW:-}" ] || >"$base/rom"; } ;;
    *) ! fails ;;
esac
"""

PROBES = ("uname", "conda info", "python -c import pip", "python -c import gym; gym.make")
PINS = "python -m pip install pip<24.1 setuptools<66 wheel<0.39"
VERSIONS = "python -c import gym; print(gym.__version__); import numpy; print(numpy.__version__)"


class Mac:
    """A Mac as it comes, Homebrew aside, below a folder with a space in its name."""

    def __init__(self, root):
        self.root = root
        self.home, self.fakes, self.log = root / "home", root / "fakes", root / "log"
        self.repo, self.prefix = root / "the repo", root / "home" / "miniconda3"
        tools = root / "tools"  # and nothing else: no wget, conda or python of this machine
        for folder in (self.home, self.fakes, self.repo, tools):
            folder.mkdir(parents=True)
        for tool in ("bash", "cat", "cp", "dirname", "grep", "ls", "mkdir", "mv", "rm", "sh"):
            (tools / tool).symlink_to(shutil.which(tool))
        shutil.copy(str(SCRIPT), str(self.repo))
        shutil.copy(str(REPO / "requirements.txt"), str(self.repo))
        self.fake("fake", "brew", "uname", "shasum", "fake-installer")
        self.environment = {
            "PATH": f"{self.fakes}:{tools}",
            "HOME": str(self.home),
            "SHELL": "/bin/zsh",
            "LOG": str(self.log),
            "FAKES": str(self.fakes),
            "PROCESSOR": "arm64",
            **{f"{p.upper()}_URL": URL.format(p) for p in SHA256},
            **{f"{p.upper()}_SHA256": SHA256[p] for p in SHA256},
        }

    def fake(self, *names, folder=None):
        (folder or self.fakes).mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder or self.fakes).joinpath(name).write_text(FAKE.replace("BASH", BASH, 1))
            (folder or self.fakes).joinpath(name).chmod(0o755)

    def run(self, *arguments, stdin=subprocess.DEVNULL, **environment):
        """Runs the script; the calls of this run are then in `calls` and `changes`."""
        self.log.write_text("")
        done = subprocess.run(
            [BASH, str(self.repo / "setup_macos.sh"), *map(str, arguments)],
            env={**self.environment, **environment},
            cwd=str(self.root),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=600,
        )
        self.calls = self.log.read_text().splitlines()
        self.changes = [call for call in self.calls if not call.startswith(PROBES)]
        return done

    def set_up(self, *arguments, **environment):
        done = self.run("--accept-license", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        assert "ten steps played" in done.stdout
        return done

    def fails(self, *arguments, status=1, **environment):
        """Runs the script, which must fail with one line of its own; gives the line."""
        done = self.run(*arguments, **environment)
        assert done.returncode == status, done.stdout + done.stderr
        lines = done.stderr.splitlines()
        assert [line.startswith("setup_macos.sh: ") for line in lines].count(True) == 1
        assert lines[-1].startswith("setup_macos.sh: ")
        assert "ten steps played" not in done.stdout
        return lines[-1]

    def tree(self):
        files = (path for path in self.root.rglob("*") if path != self.log)
        return {str(path): path.read_bytes() if path.is_file() else None for path in files}


@pytest.fixture
def mac(tmp_path):
    return Mac(tmp_path)


def steps(mac, prefix=None, processor="arm64", roms=""):
    """What changes a bare Mac, in order; ten steps of Pong come after them."""
    prefix = prefix or mac.prefix
    installer, environment = f"{prefix}.installer.sh", f"{prefix}/envs/py38"
    return [
        "brew install wget",
        f"wget -O {installer}.part {URL.format(processor)}",
        "shasum -a 256",
        f"fake-installer -b -u -p {prefix}",
        f"conda create -y -p {environment} --override-channels -c conda-forge python=3.8 pip",
        PINS,
        f"python -m pip install -r {mac.repo}/requirements.txt",
        f"AutoROM --accept-license{roms}",
        VERSIONS,
    ]


# ---- the way through ----------------------------------------------------------------------------


@pytest.mark.parametrize("processor", ["arm64", "x86_64"])
def test_a_bare_mac_is_set_up_in_order(mac, processor):
    done = mac.set_up(PROCESSOR=processor)
    *changes, ten_steps = mac.changes
    assert changes == steps(mac, processor=processor) and "range(10)" in ten_steps
    assert done.stdout.endswith(f'cd "{mac.repo}"\nconda activate py38\npython pong_pg.py\n')
    assert "0.21.0\n1.24.4\n" in done.stdout
    assert [path.name for path in mac.home.iterdir() if "installer" in path.name] == []


def test_miniconda_and_the_roms_may_lie_elsewhere(mac):
    (mac.root / "my Roms.tar.gz").write_text("")  # both relative to where the user is
    mac.set_up("--prefix", "elsewhere/conda/", "--roms", "my Roms.tar.gz")
    roms = f" --source-file {mac.root}/my Roms.tar.gz"
    assert mac.changes[:-1] == steps(mac, mac.root / "elsewhere" / "conda", roms=roms)
    assert not mac.prefix.exists()


def test_a_second_run_adds_nothing_and_asks_nothing(mac):
    mac.set_up()
    before = mac.tree()
    for arguments, programs in ([], {"python"}), (["--dry-run"], set()):
        assert mac.run(*arguments).returncode == 0
        assert mac.tree() == before
        assert {call.split(" ")[0] for call in mac.changes} == programs


def test_the_wget_and_conda_that_are_there_are_used(mac):
    mac.fake("wget", "conda")
    base = mac.root / "other conda"  # a space is none of our business here
    base.mkdir()
    mac.set_up(CONDA_BASE=str(base))
    assert mac.changes[0].startswith(f"conda create -y -p {base}/envs/py38 ")
    assert not mac.prefix.exists()
    assert f'export PATH="{base}/condabin:$PATH"' in (mac.home / ".zshrc").read_text()


# ---- failures -----------------------------------------------------------------------------------

FAILURES = {
    "brew install*": "Homebrew could not install wget",
    "wget*": "cannot download https://repo.anaconda.com",
    "shasum*": "shasum failed",
    "fake-installer*": "the Miniconda installer failed",  # and leaves a half-made Miniconda
    "conda create*": "conda could not make py38",  # and leaves a half-made environment
    "*pip<24.1*": "pip could not replace itself",
    "*requirements.txt": "pip could not install requirements.txt",
    "AutoROM*": "AutoROM failed",
    "*gym.__version__*": "gym or numpy does not start",
    "*range(10)*": "Pong does not play",
}


@pytest.mark.parametrize("failing", FAILURES)
def test_a_step_that_fails_ends_the_run_and_the_next_run_carries_on(mac, failing):
    assert FAILURES[failing] in mac.fails("--accept-license", FAIL=failing)
    failed, done_before = mac.changes[-1], mac.changes[:-1]
    assert fnmatch.fnmatch(failed, failing) and done_before == steps(mac)[: len(done_before)]
    mac.set_up()
    again = ["python -m pip"] + ["shasum"] * failing.startswith("fake-installer")
    expected = [s for s in steps(mac) if s not in done_before or s.startswith(tuple(again))]
    expected += [VERSIONS] * ("range" in failing)
    assert mac.changes[:-1] == expected


def has_thesis(mac):
    mac.prefix.mkdir()
    (mac.prefix / "thesis.tex").write_text("mine")


REFUSED = {  # what is there before, how it is run, what the line says
    "no Homebrew": (
        lambda mac: (mac.fakes / "brew").unlink(), {},
        "Homebrew is missing: install it as https://brew.sh says",
    ),
    "Linux": (None, {"SYSTEM": "Linux"}, "take a Mac (arm64 or x86_64)"),
    "an old Mac": (None, {"PROCESSOR": "ppc"}, "take a Mac (arm64 or x86_64)"),
    "a folder that is not ours": (
        has_thesis, {}, "{prefix} is there but has no working conda"
    ),
    "a conda that does not work": (
        lambda mac: mac.fake("conda", folder=mac.prefix / "bin"), {"FAIL": "conda info --base"},
        "has no working conda",
    ),
    "another Python in py38": (
        lambda mac: mac.set_up(), {"FOUND_PYTHON": "3.11"},
        "has Python 3.11, not 3.8: conda env remove -n py38",
    ),
    "a home with a space": (
        lambda mac: (mac.root / "Jane Doe").mkdir(), {"HOME": "{root}/Jane Doe"},
        "Miniconda refuses a path with spaces ({root}/Jane Doe/miniconda3): give another place"
        " with --prefix DIR",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_work_with_is_named_and_left_alone(mac, case):
    prepare, environment, words = REFUSED[case]
    if prepare:
        prepare(mac)
    paths = {"root": mac.root, "prefix": mac.prefix}
    before = mac.tree()
    line = mac.fails(**{name: value.format(**paths) for name, value in environment.items()})
    assert words.format(**paths) in line
    after = mac.tree()
    after.pop(str(mac.fakes / "wget"), before.pop(str(mac.fakes / "wget"), None))
    assert after == before and mac.changes in ([], ["brew install wget"])


BAD = {  # how it is run, what the line says: what it makes and cannot use
    "a new conda that does not work": (
        {"FAIL": "conda info --base"}, "{prefix}/bin/conda does not work: remove {prefix}",
    ),
    "another sum": ({"CORRUPT": " and more"}, "wrong SHA-256 and was deleted"),
    "the other processor's sum": ({"ARM64_SHA256": SHA256["x86_64"]}, "wrong SHA-256"),
    "no ROM though AutoROM is content": (
        {"SWALLOW": "yes"}, "AutoROM has left no ROM of Pong: check the network, or give --roms",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_download_is_named_and_the_next_run_carries_on(mac, case):
    environment, words = BAD[case]
    line = mac.fails("--accept-license", **environment)
    assert words.format(prefix=mac.prefix) in line
    if "SHA-256" in words:
        assert mac.changes[-1] == "shasum -a 256" and list(mac.home.iterdir()) == []
    mac.set_up()


# ---- the shell's profile ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shell, there, profile",
    [
        ({}, [], "home/.zshrc"),
        ({"SHELL": ""}, [], "home/.zshrc"),  # macOS's own
        ({"ZDOTDIR": "{root}"}, [], ".zshrc"),
        ({"SHELL": "/bin/bash"}, [], "home/.bash_profile"),
        ({"SHELL": "/bin/bash"}, [".profile"], "home/.profile"),  # else bash would not read it
        ({"SHELL": "/bin/bash"}, [".profile", ".bash_profile"], "home/.bash_profile"),
    ],
)
def test_the_profile_gets_path_and_conda_once(mac, shell, there, profile):
    shell = {name: value.format(root=mac.root) for name, value in shell.items()}
    for name in there:
        (mac.home / name).write_text("export MINE=kept")  # with no newline at its end
    mac.set_up(**shell)
    mac.set_up(**shell)
    found = [path for folder in (mac.root, mac.home) for path in folder.glob(".[a-z]*")]
    changed = [path for path in found if "condabin" in path.read_text()]
    assert changed == [mac.root / profile] and changed[0].read_text().count("condabin") == 1
    probe = f'. "{changed[0]}" && echo "$PATH" "${{MINE:-}}" && conda activate py38'
    said = subprocess.check_output([BASH, "-c", probe], env={"PATH": "/bin"}).decode()
    kept = " kept" if there else " "
    assert said == f"{mac.prefix}/condabin:/bin{kept}\nthe function conda: activate py38\n"


def test_what_conda_init_wrote_is_enough(mac):
    block = f'# >>> conda initialize >>>\n. "{mac.prefix}/etc/profile.d/conda.sh"\n'
    (mac.home / ".zshrc").write_text(block)
    mac.set_up()
    assert (mac.home / ".zshrc").read_text() == block


def test_a_profile_that_is_not_written_is_said_with_what_to_add(mac):
    done = mac.set_up(SHELL="/opt/bin/fish")
    assert f"/opt/bin/fish is neither zsh nor bash: put {mac.prefix}/condabin" in done.stdout
    assert [path for path in mac.home.iterdir() if path.is_file()] == []
    (mac.home / ".zshrc").mkdir()
    assert f"cannot write {mac.home}/.zshrc: add to it: export PATH=" in mac.fails()


# ---- the licence of the ROM ---------------------------------------------------------------------


@pytest.mark.parametrize("text", ["y\n", "Yes\n", "n\n", "\n", "yeah\n", "\x04", None])
def test_the_licence_is_asked_at_the_terminal_and_without_a_yes_there_is_no_rom(mac, text):
    if text is None:
        assert "no terminal to ask about the ROMs at: give --accept-license" in mac.fails()
    else:
        ours, theirs = pty.openpty()
        os.write(ours, text.encode())
        done = mac.run(stdin=theirs)
        os.close(ours)
        os.close(theirs)
        assert "I own a license to these Atari 2600 ROMs" in done.stdout
        assert done.returncode == (0 if text[0] in "yY" and text != "yeah\n" else 1)
        assert done.returncode == 0 or "without this licence" in done.stderr.splitlines()[-1]
    assert ("AutoROM --accept-license" in mac.changes) == (text in ("y\n", "Yes\n"))


# ---- the command line ---------------------------------------------------------------------------


def test_dry_run_says_all_and_does_nothing(mac):
    before = mac.tree()
    done = mac.run("--dry-run")
    assert done.returncode == 0, done.stderr
    assert mac.tree() == before and mac.changes == []
    said = [line for line in done.stdout.splitlines() if line.startswith("would run: ")]
    words = ["brew install wget", "mkdir", "wget -O", "mv", "check_sha256", "bash", "rm"]
    words += ["append_line", "/conda create", "pip\\<24.1", "requirements.txt"]
    words += ["AutoROM --accept-license", "make_pong", "__version__", "range"]
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said))


def test_help_names_every_option(mac):
    done = mac.run("--help")
    assert done.returncode == 0 and done.stderr == "" and mac.calls == []
    for option in ("--accept-license", "--roms", "--prefix", "--dry-run", "--help"):
        assert f"\n  {option} " in done.stdout
    assert os.access(str(SCRIPT), os.X_OK)


@pytest.mark.parametrize(
    "arguments",
    [["--typo"], ["file"], ["--prefix"], ["--prefix", ""], ["--prefix", "/"], ["--roms", "none"]],
)
def test_bad_usage_is_exit_2(mac, arguments):
    assert "--help" in mac.fails(*arguments, status=2)
    assert mac.calls == []


# ---- for real -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info[:2] != (3, 8), reason="installs gym 0.21")
def test_pip_part_for_real(mac):
    """From the newest pip that Python 3.8 can have to ten steps of Pong, with the real gym 0.21."""
    base = mac.root / "other conda"
    environment = base / "envs" / "py38"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", "-q", "-U", "pip", "setuptools", "wheel"], check=True)
    newest = subprocess.check_output([*pip, "--version"]).decode().split()[1]
    assert tuple(map(int, newest.split(".")[:2])) >= (24, 1)  # one that refuses gym 0.21
    download = [*pip, "download", "-q", "--no-deps", "--no-build-isolation", "-d", str(mac.root)]
    roms = ["--no-binary", ":all:", "AutoROM.accept-rom-license==0.6.1"]
    subprocess.run(download + roms, check=True)
    (archive,) = mac.root.glob("AutoROM*.tar.gz")
    with tarfile.open(str(archive)) as tar, (mac.root / "Roms.tar.gz").open("wb") as file:
        (member,) = (name for name in tar.getnames() if name.endswith("/Roms.tar.gz"))
        shutil.copyfileobj(tar.extractfile(member), file)

    mac.fake("wget", "conda")
    for name in os.environ:  # where pip finds its index
        if name.startswith(("PIP_", "SSL_")) or name.lower().endswith("_proxy"):
            mac.environment[name] = os.environ[name]
    done = mac.set_up("--roms", "Roms.tar.gz", CONDA_BASE=str(base))
    assert "\n0.21.0\n1." in done.stdout
    assert mac.changes == []  # nothing was faked but the Mac
    done = mac.set_up(CONDA_BASE=str(base))
    assert "it is there already" in done.stdout
