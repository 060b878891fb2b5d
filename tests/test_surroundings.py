"""Where it runs: notebooks, closed streams, other encodings, other files beside it, other gyms."""

import os
import shutil
import subprocess
import sys

import pytest
from helpers import (
    ROOT,
    SCRIPT,
    SMALL,
    SMALL_MODULE,
    edited,
    files,
    games_in,
    one_line,
    posix,
    refused,
    run_script,
    sha256,
    wrapped,
)

import pong_pg

FLAGS = "--batch-size 1 --episodes 1 --workers 1 --learning-rate 3e-3 --seed 3"
RUN = FLAGS.split()


@pytest.fixture(scope="module")
def calm(tmp_path_factory, quick):
    """SHA-256 of the checkpoint of such a run."""
    folder = tmp_path_factory.mktemp("calm")
    assert run_script(*RUN, cwd=folder, script=quick).returncode == 0
    return sha256(folder / "save.p")


def shell(command, folder, **options):
    return subprocess.run(
        ["bash", "-c", command], cwd=str(folder), capture_output=True, text=True, timeout=300,
        **options,
    )  # fmt: skip


# ---- output that goes nowhere, or is no file ----------------------------------------------------


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-", "--quiet 2>&-"])
def test_a_run_whose_output_is_closed_is_the_same_run(tmp_path, quick, calm, closed):
    """As under pythonw, which has none."""
    done = shell(f"'{sys.executable}' '{quick}' {FLAGS} {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sha256(tmp_path / "save.p") == calm and files(tmp_path) == ["save.p"]


@posix
def test_bad_flags_have_their_status_where_all_output_is_closed(tmp_path):
    done = shell(f"'{sys.executable}' '{SCRIPT}' --workers 0 >&- 2>&- <&-", tmp_path)
    assert done.returncode == 2


@posix
def test_a_name_that_the_encoding_lacks_is_no_fault_where_output_is_closed(tmp_path, quick):
    command = f"'{sys.executable}' '{quick}' {FLAGS} --save é.p >&-"
    encoding = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(command, tmp_path, env={**os.environ, **encoding})
    assert (done.returncode, done.stderr) == (0, "")


NOTEBOOK = """
import os, signal, sys
class OutStream:  # what ipykernel has for it: no file, and no reconfigure
    encoding = "UTF-8"
    def write(self, text): os.write(1, text.encode())
    def flush(self): pass
sys.stdout = sys.stderr = OutStream()
"""
TWICE = """
before = [signal.getsignal(number) for number in pong_pg.STOP_SIGNALS]
assert pong_pg.main(sys.argv[1:]) == 0
assert pong_pg.main(["--resume", "--quiet", *sys.argv[1:]]) == 0
assert [signal.getsignal(number) for number in pong_pg.STOP_SIGNALS] == before
assert pong_pg.main(["--evaluate", "1", "--seed", "3"]) == 0
sys.argv[1:] = ["--evaluate", "2", "--seed", "3"]
"""


def test_it_runs_in_a_notebook_again_and_again(tmp_path):
    """Whose standard output has no `reconfigure`."""
    script = wrapped(tmp_path / "cell.py", always=NOTEBOOK + SMALL_MODULE, in_parent=TWICE)
    (tmp_path / "run").mkdir()
    done = run_script(*RUN, cwd=tmp_path / "run", script=script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("evaluation: games=2 ")
    assert games_in(tmp_path / "run" / "save.p") == 2


def test_a_cell_without_a_file_runs_it(tmp_path, short_run):
    """`import pong_pg; pong_pg.main([...])` where the main module is no file, as in a notebook."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pong_pg; pong_pg.MAX_STEPS = 9\n"
    code += "print(pong_pg.main('--evaluate 1 --seed 8 --workers 1 --save'.split() + sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(short_run / "save.p")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_no_name_is_too_foreign_for_the_output(tmp_path, quick, calm, encoding):
    """As in Windows when the output goes to a file: it is shown with escapes."""
    name = "\u6f22\u5b57.p"
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = run_script(*RUN, "--save", name, cwd=tmp_path, script=quick, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "saved \\u6f22\\u5b57.p: 1 games" in done.stdout
    assert sha256(tmp_path / name) == calm
    done = run_script("--resume", "--save", "\u6f22", cwd=tmp_path, script=quick, env=env)
    refused(done, "\\u6f22 is not there")


# ---- what stands beside it ----------------------------------------------------------------------


GYM_NAMES = ["gymnasium.py", "ale_py.py", "gym.py"]


@pytest.mark.parametrize("name", GYM_NAMES if sys.version_info >= (3, 9) else GYM_NAMES[1:])
def test_a_file_that_hides_a_package_is_named(tmp_path, name):
    """A reader calls his own experiment `gymnasium.py`."""
    script = edited(tmp_path / "pong_pg.py", *SMALL)
    (tmp_path / name).write_text("my_first_steps = 1\n")
    done = run_script(*RUN, cwd=tmp_path, script=script)
    if name != "gym.py" or sys.version_info < (3, 9):
        refused(done, name, str(tmp_path), "rename it")
    else:
        assert done.returncode == 0  # gymnasium plays


def test_a_file_that_hides_a_module_of_python_is_named(tmp_path):
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "random.py").write_text("my_first_steps = 1\n")
    done = run_script(*RUN, cwd=tmp_path, script=tmp_path / "pong_pg.py")
    assert done.returncode != 0 and str(tmp_path / "random.py") in done.stderr


def test_the_script_from_a_pipe_says_that_it_must_be_a_file(tmp_path):
    command = [sys.executable, "-", *RUN]
    done = subprocess.run(
        command, cwd=tmp_path, input=SCRIPT.read_text(), capture_output=True, text=True
    )
    assert done.returncode in (1, 2) and files(tmp_path) == []
    one_line(done.stderr, "file")


@pytest.mark.parametrize(
    "call, flags",
    [
        ("pong_pg.main({})", "--batch-size 2 --episodes 2"),
        ("sys.exit(pong_pg.main({}))", "--evaluate 2"),
    ],
)
def test_a_script_without_main_guard_gets_few_lines(tmp_path, short_run, call, flags):
    """A worker imports it, and so calls main(), too: what to write is said."""
    shutil.copy(short_run / "save.p", tmp_path)
    path = tmp_path / "user.py"
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport pong_pg\npong_pg.MAX_STEPS = 9\n"
    path.write_text(code + call.format(f"{flags} --workers 2".split()) + "\n")
    done = run_script(cwd=tmp_path, script=path)
    assert len(done.stderr.splitlines()) <= 5 and "Traceback" not in done.stderr, done.stderr
    assert 'if __name__ == "__main__"' in done.stderr


def test_own_workers_without_main_guard_end_with_what_to_write(tmp_path):
    path = tmp_path / "user.py"
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport numpy, pong_pg\n"
        "model = pong_pg.init_model(numpy.random.default_rng(0))\n"
        "print(list(pong_pg.evaluate(model, 1, 1, pong_pg.Workers(1))))\n"
    )
    done = run_script(cwd=tmp_path, script=path)
    assert done.returncode == 1
    assert 'what plays in it belongs under if __name__ == "__main__":' in done.stderr


def test_a_copy_of_the_script_alone_trains_resumes_and_evaluates(tmp_path, quick, calm):
    shutil.copy(quick, tmp_path / "pong_pg.py")
    for flags, games in (RUN, 1), ([*RUN, "--resume"], 2), (["--evaluate", 1], 2):
        done = run_script(*flags, cwd=tmp_path, script=tmp_path / "pong_pg.py")
        assert (done.returncode, done.stderr) == (0, "")
        assert games_in(tmp_path / "save.p") == games
    assert files(tmp_path) == ["pong_pg.py", "save.p"]


def test_a_copy_of_the_script_alone_says_what_a_cluster_needs(tmp_path):
    shutil.copy(SCRIPT, tmp_path)
    done = run_script("--cluster", "local", cwd=tmp_path, script=tmp_path / "pong_pg.py")
    refused(done, "--cluster", "tools/dask_cluster.py")
    assert not (tmp_path / "save.p").exists()


# ---- gyms ---------------------------------------------------------------------------------------


class FakeGym:
    """A gym, gymnasium or ale_py that knows who is asked for Pong."""

    logger = ALEInterface = LoggerMode = None

    def __init__(self, name):
        self.name = name
        self.logger = self.ALEInterface = self.LoggerMode = self
        self.unwrapped = name
        self.Error = 40

    def setLoggerMode(self, mode):
        pass

    def register_envs(self, module):
        pass

    def make(self, name, **options):
        return self


@pytest.mark.parametrize(
    "gym, ale_py, taken",
    [
        ("0.21.0", "0.7.5", "gym"),
        ("0.21.0", "0.10.1", "gymnasium"),  # gym is left over
        ("0.26.2", "0.7.5", "gymnasium"),
        (None, "0.10.1", "gymnasium"),
    ],
)
def test_of_two_gyms_the_one_that_fits_is_taken(monkeypatch, gym, ale_py, taken):
    found = {"gym": gym, "gymnasium": "1.0.0", "ale-py": ale_py}
    found = {name: version for name, version in found.items() if version}
    monkeypatch.setattr(pong_pg, "versions", lambda: found)
    for name in "gym", "gymnasium", "ale_py":
        monkeypatch.setitem(sys.modules, name, FakeGym(name))
    assert pong_pg.make_pong() == taken


def test_a_package_that_pip_has_half_removed_is_unknown(tmp_path, monkeypatch):
    (tmp_path / "gym-0.26.2.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert pong_pg.versions().get("gym", "unknown") == "unknown"
    code = "import pong_pg; print(pong_pg.in_a_line(pong_pg.versions()))"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    shown = subprocess.check_output([sys.executable, "-c", code], env=env, text=True)
    assert "gym 0.26.2" not in shown and "numpy" in shown


@pytest.mark.parametrize(
    "limit, cores",
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("", 8)],
)
def test_a_limit_of_a_container_counts_as_its_cores(limit, cores, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(pong_pg, "CPU_LIMIT", str(tmp_path / "cpu.max"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert pong_pg.parse_arguments([]).workers == cores


def test_where_the_cores_are_not_known_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(pong_pg, "CPU_LIMIT", str(tmp_path / "none"))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert pong_pg.parse_arguments([]).workers == 1


def test_where_no_gym_is_found_autorom_is_named_on_every_python(monkeypatch):
    for name in "gym", "gymnasium":
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "ale_py", FakeGym("ale_py"))  # the real one registers once
    with pytest.raises(pong_pg.UsageError) as refused:
        pong_pg.make_pong()
    for words in "pip install -r requirements.txt", "AutoROM --accept-license":
        assert words in str(refused.value)


# ---- a run that cannot go on --------------------------------------------------------------------


def test_a_policy_that_comes_to_nan_ends_the_run_and_leaves_the_checkpoint(tmp_path, quick):
    """After the second batch: save.p holds the first."""
    line = '    return {"W1": dW1.T, "W2": np.dot(epdlogp, eph)}\n'
    nan = '    if "save.p" in os.listdir():\n        dW1[0] = np.nan\n'
    script = edited(tmp_path / "reader.py", *SMALL, (line, nan + line))
    flags = [*RUN[:2], *RUN[4:], "--save-every", 1]
    (tmp_path / "run").mkdir()
    done = run_script(*flags, cwd=tmp_path / "run", script=script)
    assert done.returncode == 2
    one_line(done.stderr, "save.p", "as it was", "not finite", "smaller --learning-rate")
    assert games_in(tmp_path / "run" / "save.p") == done.stdout.count("saved save.p") == 1
    assert files(tmp_path / "run") == ["save.p"]


def test_a_run_that_grew_beyond_numbers_is_stopped_at_that_batch(tmp_path, quick):
    """Not after a hundred games."""
    line = "        model[name] += learning_rate * g / (np.sqrt(cache[name]) + 1e-5)\n"
    grown = (line, line + "        model[name] += np.inf\n")
    script = edited(tmp_path / "reader.py", *SMALL, grown)
    done = run_script(*RUN[:2], *RUN[4:], cwd=tmp_path, script=script)
    assert done.returncode == 2 and done.stdout.count("resetting env") == 1
    one_line(done.stderr, "save.p", "as it was", "not finite")
    assert not (tmp_path / "save.p").exists()
