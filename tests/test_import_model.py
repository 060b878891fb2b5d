"""Other scripts' files: whatever wrote them, they are imported; whatever is hostile, is refused."""

import ast
import base64
import collections
import contextlib
import functools
import json
import os
import pickle
import pickletools
import random
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from conftest import ROOT, make_model
from test_checkpoint import bits, other_pythons, signed, write

import pong_pg

sys.path.insert(0, str(ROOT / "tools"))
import import_model


def read(path, data):
    write(path, data)
    return import_model.read_theirs(path)


def refusal(path, data):
    """Why `data` is refused: one line that names the file."""
    with pytest.raises(pong_pg.CheckpointError) as refused:
        read(path, data)
    line = str(refused.value)
    assert line.startswith(f"{path} ") and line.isprintable() and len(line) < 1000, line
    return line


def format_1(model, state):
    """A checkpoint of the first version: two pickles and a checksum."""
    caches = {name: c.astype("<f8").tobytes() for name, c in state["rmsprop_cache"].items()}
    second = pickle.dumps({**state, "format": 1, "rmsprop_cache": caches}, 3)
    return signed(pong_pg.pickled(model) + second)


@pytest.fixture
def old(shrink, tmp_path):
    """A file of format 1 of a network of 2 x 3, where its second pickle begins, and a path."""
    model, state = shrink(2, 3)
    return format_1(model, state), len(pong_pg.pickled(model)), tmp_path / "save.p"


# ---- the command --------------------------------------------------------------------------------


def tool(*args, cwd):
    command = [sys.executable, str(ROOT / "tools" / "import_model.py"), *map(str, args)]
    return subprocess.run(command, cwd=str(cwd), capture_output=True, text=True, timeout=100)


def test_format_1_comes_over_with_its_whole_state(short_run, tmp_path):
    model, state = pong_pg.load_checkpoint(short_run / "save.p")
    (tmp_path / "old.p").write_bytes(format_1(model, state))
    done = tool("old.p", "new.p", cwd=tmp_path)
    assert done.returncode == 0 and "new.p written: 6 games" in done.stdout, done.stderr
    assert (tmp_path / "new.p").read_bytes() == (short_run / "save.p").read_bytes()


def test_a_bare_model_begins_at_game_0_with_fresh_caches(short_run, tmp_path):
    model, _ = pong_pg.load_checkpoint(short_run / "save.p")
    (tmp_path / "theirs.p").write_bytes(pickle.dumps(model))
    done = tool("theirs.p", "new.p", "--seed", 5, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "--resume --save new.p" in done.stdout
    found, state = pong_pg.load_checkpoint(tmp_path / "new.p")
    assert bits(found) == bits(model) and bits(state["rmsprop_cache"]) == bits(
        {name: np.zeros_like(w) for name, w in model.items()}
    )
    assert (state["seed"], state["games"], state["running_mean"]) == (5, 0, 0.0)
    assert state["hyperparameters"] == pong_pg.new_state(0)["hyperparameters"]


def test_the_order_of_a_state_does_not_matter(shrink, tmp_path):
    model, state = shrink(2, 3)
    turned = {name: state[name] for name in reversed(state)}
    hyper = state["hyperparameters"]
    turned["hyperparameters"] = {name: hyper[name] for name in reversed(hyper)}
    (tmp_path / "old.p").write_bytes(format_1(model, turned))
    pong_pg.save_checkpoint(tmp_path / "expected.p", model, state)
    assert import_model.main([str(tmp_path / "old.p"), str(tmp_path / "new.p")]) == 0
    assert (tmp_path / "new.p").read_bytes() == (tmp_path / "expected.p").read_bytes()


def test_nothing_is_overwritten_and_bad_input_is_one_line(short_run, tmp_path):
    shutil.copy(short_run / "save.p", tmp_path / "ours.p")
    model, state = pong_pg.load_checkpoint(tmp_path / "ours.p")
    (tmp_path / "old.p").write_bytes(format_1(model, state))
    (tmp_path / "half.p.tmp").write_bytes(pickle.dumps(model, 2))
    (tmp_path / "theirs.p").write_bytes(pickle.dumps(model, 2))
    (tmp_path / "other.p").write_bytes(pickle.dumps(make_model(100, 6400), 2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for args, words in [
        (["theirs.p", "ours.p"], ["ours.p", "there already"]),
        (["theirs.p", "theirs.p"], ["theirs.p", "there already"]),
        (["ours.p", "new.p"], ["ours.p", "nothing to import"]),
        (["half.p.tmp", "half.p"], ["half.p.tmp", "there already"]),
        (["old.p", "new.p", "--seed", 4], ["old.p", "of seed 3"]),
        (["nowhere.p", "new.p"], ["nowhere.p", "not there"]),
        (["other.p", "new.p"], ["other.p", "(100, 6400)", "(200, 6400)"]),
        (["theirs.p"], ["OURS"]),
    ]:
        done = tool(*args, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == "", done
        assert done.stderr.startswith("import_model: ") and len(done.stderr.splitlines()) == 1
        assert all(word in done.stderr for word in words), done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    done = tool("theirs.p", "nowhere/new.p", cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


# ---- compatible ---------------------------------------------------------------------------------

# {"W1": numpy.array(W1, order=...), "W2": W2} of make_model(2, 3), as the `pickle` (under Python
# 2.7: `cPickle`) of each of these Pythons wrote it. A dict of name and bytes; text, zlib, base64.
RECORDED = ast.literal_eval(
    zlib.decompress(
        base64.b64decode(
            """
eNrtml1v8jYUx78KejQJLjoUO5CEqVIvkKJ1k6qp1ehzEQk1gUClNrA0SK2mfvedc5w3iJMGwmvnC4Lj2M7x8e/vE8L5t/3XRz
RfBC3eNa9awep1+dFiXWZctZbhIlp4i5eWdtWyW4twMg3bv7XcH53JkjnBQ/uRt51gyZ3Ao15dbxFOu6+rl+j5KQyfPpxgHE69
RfAWhSsvgpa6E3REUycIJnGbZQ9qbzUniB7aLowX3S/7WMPwAGNHSY9J9LGcQnsDLjy0fQvaYjdsCH1MbK6jVddw4e7u7vZXuC
AOOLh7q2l41XHeoVBxmODB9bHkYcl4xaKbFl0q+mip+wY+YOgDywlmOLtZcTKD/GTQwmhmok1sS2sKhlDRM26+svSXW/ga8PgL
m/Swz0DLX3jiN4FkeNfA0uRGzLb746r1NSz8qjXMYGk775YGk+Gf/8CRdf7G8iPHE14PG2yqF7DB2t6f5KV3q4+jMhdK5j1e6H
fwCsMDx8sbCGETgwzxLRqCWqe9Teqt05jXQNIfzrvv5z+FChokwvsPoBfThFmyD6wnLieuGPkZ3SwKLhb8yBUOYmiINUc75uUz
jXLzJJuh3sD2JpnSwI6YD4EH0rHZDAsAX9YG0EKygo02QBACFLmrbrsmPbai5/T0WHXokSJRbl4BlgJlTenR1vYeFaj2Eaj2ao
0s8FQFN1nw2legYutbTbMtpiPfYzpC3EJ3UX57oSOPZJtLp7C7RM22FlrE/e8tnbl0ilF+gmRxRLsKPfNc5LbC1h9pFCkHJ0Wr
R8qJHl/0rpWRwnulAagNAQhmMnoE8DES1Qw/XBp+9GTHxkDkjb3FZOq9OcE0wBJcx2A0ckXcGb08Rc8B3tXEDrDr0/4eLWFdoc
hYYa9fsjQ8ZhGM4T1HvoXFXhwLSMXQvE8DGXE0G11jG1MW0JYM+guwZmSj46w0DYPG119HX2icBThqRm7j5CxO8+XgHvdt9Mhx
fWDCM1ykWbYmHPwzIxdz8gw31p4NlhxGnKG7DuUIMMtKDR+gCToZpjM0vDa9tqJXSi9rsmjHCmj/b3plUVrr/BQ/47LoIeISqx
+xuTxi63E4o+hdJFoE8J/it2F2d5fiNlYb+WpBPIVuGtDC6AilgMK5W4yTWO0VHgnC4nR9C5tOc/TjuY/jMk08JhSMvMaLbIvn
BmzPxR4/F/P+vTx45z+ejmzDNxeA0LkXnyMfVOHmK7iAJu3BE3VQiScligUVwyQV9Kv3ptgfpUeNKFaU9+dCfXQ+uUFH0G9uWk
bWIzf3qWy4RRTx4ZGZc4Jsvs4UgyeniAoDGuRp7WEQa9w5LmHe6djrOH7H+3vZPCdk4pTKft1nJdnvL6XXo+qVNdZrXYFtj1il
JCt1r/R6EL1Wvdjfi27lsk1fXlYJdwfdIpapdPGV6IZ619+Llui3TL74MhffoopxD6RfvAmRpKJtvETbCHi+CRcpOF6wdRGnfw
VkMs58fwoRJ9PdVce20vF56dhqpuNvE4WVjuvrWJfGY/24Oh7Sy1zSbqIRI/cKWqI+q6C+SKq+YFN7Lo3rlWsv3E552pQi6PCM
3jPTFkMUaGXQsxLoqSpZA6YTUD0J9n1s59HEm73mJ2mSreYWxNqK2KbEWsMz+g/tmxPbk+6xPfALGO4bVXHiE0NkB3p44t8wPB
VnrC8nOm2geWtsU/1Az10XA+QqzIT4XNvU2XgyjDM/qIeJ3/dknwR5rE+Whm4msC9awX0rPkupXx9Yjxuya6zagnVsfnabMxqV
WiYWlSe+ooO55vH4IUTm6qwJqGMPYGeW1cfaVlifDOuz2sG/EdZ96W7dF1jjXXbCmuewhuI0fPZytLhjP1y8uivfn4Z5mGCsga
HV+0FxDjtbmQRPJZOieJPhhikX93lzctSS76vZa+h+uo+7ST08CaVm1UfWLkd2enHIHnPXuhxk7fNEtkRRG+gylrDLu1vnOo1V
spNKdjppukgFvrbCV2U7XSi+O2U7jVX6hEp3UulOB02fqBCsrQSr8p1UvtOFCLZRvtNYJUqohCeV8HTURIkKIdtKyCrjSWU8Xb
iQG2U8jVUCiUp5OlgCSQWytkJW5TxdELLVOU/mjn9JGiVIq+wQlfS03+yQCq5txbXKevpuXFdnPU125FrPc63SnlTa005pTxXM
VqQ9+ZfHrMp7+hZ5T5//AfHNYhA=
"""
        )
    ).decode()
)


@pytest.mark.parametrize("writer", sorted(RECORDED))
def test_models_that_other_versions_pickled_are_read(shrink, tmp_path, writer):
    shrink(2, 3)
    model, state = read(tmp_path / "save.p", RECORDED[writer])
    assert state is None and bits(model) == bits(make_model(2, 3))


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_models_of_every_protocol_and_order_are_read(shrink, tmp_path, protocol, order):
    shrink(4, 3)
    expected = make_model(4, 3)
    for dtype in "<f8", ">f8":
        written = {name: np.array(w, dtype, order=order) for name, w in expected.items()}
        model, state = read(tmp_path / "save.p", pickle.dumps(written, protocol))
        assert state is None and bits(model) == bits(expected)


def python2_file(model):
    """What Python 2's cPickle makes of `model`: protocol 0, bytes as the repr of a string."""
    data = RECORDED["Python 2.7, numpy 1.16, protocol 0, C order"]
    small = make_model(2, 3)
    for name, shape in ("W1", b"I2\nI3"), ("W2", b"I2"):
        now = b"\n".join(b"I%d" % n for n in model[name].shape)
        data = data.replace(b"(I1\n(" + shape + b"\n", b"(I1\n(" + now + b"\n")
        text, now = (repr(m[name].tobytes())[1:].encode() for m in (small, model))
        assert data.count(b"S" + text) == 1
        data = data.replace(b"S" + text, b"S" + now)
    return data


def test_the_python_2_originals_file_is_read_at_full_size(tmp_path):
    model = {name: np.sin(w) for name, w in make_model(pong_pg.H, pong_pg.D).items()}
    found, state = read(tmp_path / "save.p", python2_file(model))
    assert state is None and bits(found) == bits(model)


def test_python_2_itself_writes_what_is_read(tmp_path):
    if "python2.7" not in other_pythons():
        pytest.skip("no Python 2.7 with numpy; its recorded bytes are read in the tests above")
    code = (
        "import cPickle as pickle, numpy as np\n"
        "W1 = (np.arange(200 * 6400) / 7.0 - 0.25).reshape(200, 6400)\n"
        "model = {'W1': W1, 'W2': np.arange(200) / 7.0 - 0.25}\n"
        "pickle.dump(model, open('save.p', 'wb'))"
    )
    subprocess.run(["python2.7", "-c", code], cwd=str(tmp_path), check=True)
    model, state = import_model.read_theirs(tmp_path / "save.p")
    assert state is None and bits(model) == bits(make_model(200, 6400))


def test_long_integers_of_python_2_are_read(shrink, tmp_path):
    """On Windows, Python 2 pickled shapes as `L2L`."""
    shrink(2, 3)
    data = RECORDED["Python 2.7, numpy 1.16, protocol 0, C order"]
    data = data.replace(b"(I2\nI3\n", b"(L2L\nL3L\n")
    assert b"L3L" in data and bits(read(tmp_path / "save.p", data)[0]) == bits(make_model(2, 3))


# ---- sound --------------------------------------------------------------------------------------


def test_every_bit_that_flips_and_every_length_that_is_cut_is_noticed(old):
    data, end, path = old
    assert read(path, data)[1]["games"] == 6
    for place in range(len(data)):
        for bit in (0, 3, 6):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            refusal(path, bytes(flipped))
        if place != end:  # where the first pickle ends, what is left is another script's whole file
            refusal(path, data[:place])
    for more in b"\0", b".", data:
        refusal(path, data + more)
        refusal(path, signed(data[:-32] + more))


def test_a_frame_does_not_hide_what_is_behind_a_model(old):
    """What a frame of protocol 4 claims to contain might reach beyond the end of the pickle."""
    _, _, path = old
    model = pickle.dumps(make_model(2, 3), 3)[2:]
    for more in b"", b"junk", b"cos\nsystem\n(S'touch canary'\ntR.":
        framed = b"\x80\4\x95" + struct.pack("<Q", len(model + more)) + model + more
        if more:
            refusal(path, framed)
        else:
            assert bits(read(path, framed)[0]) == bits(make_model(2, 3))


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
def test_noise_is_refused_and_nothing_else_happens(old):
    """Opcodes at random, and checkpoints in which stretches are replaced, doubled and dropped."""
    data, end, path = old
    chance = random.Random(1)
    codes = [op.code.encode("latin-1") for op in pickletools.opcodes]
    for _ in range(2000):
        if chance.random() < 0.3:
            length = chance.randrange(60)
            noise = b"".join(chance.choice([*codes, b"\0", b"\n", b"1"]) for _ in range(length))
        else:
            noise = bytearray(chance.choice([data[:end], *RECORDED.values()]))
            for _ in range(chance.randrange(1, 4)):
                start, source = chance.randrange(len(noise)), chance.randrange(len(noise))
                length, other = chance.randrange(9), chance.randrange(9)
                noise[start : start + length] = noise[source : source + other]
        write(path, noise)
        with contextlib.suppress(pong_pg.CheckpointError):
            model, state = import_model.read_theirs(path)
            assert state is None and all(np.isfinite(w).all() for w in model.values())
            assert (model["W1"].shape, model["W2"].shape) == ((2, 3), (2,))


NAN, INF = float("nan"), float("inf")
W1, W2 = make_model(2, 3).values()


@pytest.mark.parametrize(
    "model, words",
    [
        ([W1, W2], ["expected a dict of W1 and W2"]),
        (W1, ["expected a dict of W1 and W2"]),
        (None, ["None", "expected a dict of W1 and W2"]),
        ({}, ["{}", "expected a dict of W1 and W2"]),
        ({"W1": W1}, ["W1", "expected a dict of W1 and W2"]),
        ({"W1": W1, "W2": W2, "W3": W2}, ["W3", "expected a dict of W1 and W2"]),
        ({"w1": W1, "W2": W2}, ["w1", "expected a dict of W1 and W2"]),
        ({"W1": W1, "W2": None}, ["W2", "None", "expected an array"]),
        ({"W1": W1.tolist(), "W2": W2}, ["W1", "0.25", "expected an array"]),
        ({"W1": W1, "W2": "f8"}, ["W2", "'f8'", "expected an array"]),
        ({"W1": W1, "W2": W1}, ["W2", "(2, 3)", "(2,)"]),
        ({"W1": W1.T, "W2": W2}, ["W1", "(3, 2)", "(2, 3)"]),
        ({"W1": W1.ravel(), "W2": W2}, ["W1", "(6,)", "(2, 3)"]),
        ({"W1": W1[None], "W2": W2}, ["W1", "(1, 2, 3)", "(2, 3)"]),
        ({"W1": W1[:0], "W2": W2}, ["W1", "(0, 3)", "(2, 3)"]),
        *[
            ({"W1": W1, "W2": W2.astype(dtype)}, ["W2", "expected float64"])
            for dtype in "f4 f2 i8 u8 c8 c16 ? S8 U2 O M8[s] m8 V8".split()
        ],
        ({"W1": np.zeros((2, 3), "f8,f8"), "W2": W2}, ["W1", "expected float64"]),
        ({"W1": W1, "W2": np.zeros(2, {"names": ["x"], "formats": ["f8"]})}, ["W2", "float64"]),
        ({"W1": np.ma.array(W1), "W2": W2}, ["expected"]),
        ({"W1": W1, "W2": np.float64(1)}, ["expected"]),
        *[
            ({"W1": W1 * wrong, "W2": W2}, ["W1", "not finite"]) for wrong in (NAN, INF, -INF)
        ],
        ({"W1": W1, "W2": np.array([1, NAN])}, ["W2", "not finite"]),
        ({"W1": W1, "W2": np.array([INF, 1])}, ["W2", "not finite"]),
    ],
)  # fmt: skip
def test_a_model_that_is_wrong_is_refused_with_what_was_found(old, model, words):
    """Whether it is another script's, or ours with the checksum of whoever made it wrong."""
    data, end, path = old
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        wrong = pickle.dumps(model, protocol)
        for line in refusal(path, wrong), refusal(path, signed(wrong + data[end:-32])):
            if "which no checkpoint needs" not in line:  # a name that no array of floats brings
                assert all(word in line for word in words), line


HUGE = 1 << 40000
FLOAT, WHOLE, TEXT = [1.0], [1, HUGE], ["1", b"1"]
STATE = {
    "format": [0, 3, -1, HUGE, True, *FLOAT, *TEXT],
    "seed": [-1, HUGE, -HUGE, True, *FLOAT, *TEXT],
    "games": [-1, HUGE, -HUGE, False, *FLOAT, *TEXT],
    "running_mean": [NAN, INF, -INF, True, *WHOLE, *TEXT],
    "hyperparameters": [{}, {"gamma": 0.99}, [], 1, "gamma", {1: 2}],
    "hyperparameters batch_size": [0, -1, 10**12, HUGE, -HUGE, True, NAN, *FLOAT, *TEXT],
    "hyperparameters learning_rate": [0.0, -1e-4, NAN, INF, True, *WHOLE, *TEXT],
    "hyperparameters gamma": [-0.1, 1.1, NAN, INF, True, *WHOLE, *TEXT],
    "hyperparameters decay_rate": [-0.1, 1.0, NAN, INF, True, *WHOLE, *TEXT],
    "hyperparameters extra": [1],
    "rmsprop_cache": [{}, {"W1": b""}, b"", [], None],
    "rmsprop_cache W1": [b"", bytes(47), bytes(49), bytes(16), "0" * 48, [0.0] * 6, 0.0],
    "rmsprop_cache W2": [b"", bytes(48), struct.pack("<2d", 1, NAN), struct.pack("<2d", INF, 1),
                         struct.pack("<2d", -1e-300, 1)],
    "rmsprop_cache W3": [bytes(16)],
    "extra": [1],
}  # fmt: skip


@pytest.mark.parametrize("name", STATE)
def test_a_state_that_no_run_can_have_is_refused(old, name):
    data, end, path = old
    *outer, last = name.split()
    for wrong in [*STATE[name], None, [], {}, {"W1": {}}, ()]:
        state = where = pickle.loads(data[end:-32])
        for key in outer:
            where = where[key]
        where[last] = wrong
        line = refusal(path, signed(data[:end] + pickle.dumps(state, 3)))
        assert "checksum" not in line, line
        if where.keys() - {"extra", "W3"} == where.keys():
            del where[last]
            refusal(path, signed(data[:end] + pickle.dumps(state, 3)))


# ---- safe: hostile files ------------------------------------------------------------------------
# The script opens each in a process of its own, forked from one that has imported it. Memory and
# time of that process are limited, so that what goes wrong hurts nobody.

JUDGE = """
import contextlib, json, os, resource, signal, sys, time, traceback
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tools"]
import import_model, pong_pg
for line in sys.stdin:
    arguments, began = json.loads(line), time.time()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            for number, name in enumerate(["stdout", "stderr"], 1):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            with contextlib.suppress(ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            resource.setrlimit(resource.RLIMIT_CPU, (8, 8))
            signal.alarm(60)
            if arguments[0] == "--resume":
                status = pong_pg.main(arguments)
            else:
                status = import_model.main(arguments)
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    _, status, used = os.wait4(child, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps([status, used.ru_maxrss * unit, time.time() - began]), flush=True)
"""
Verdict = collections.namedtuple("Verdict", "status stdout stderr memory seconds")


class Judge:
    """Opens checkpoints in `folder`. Its locale is the poorest, and whole numbers have no limit of
    digits, as in the Pythons of before 2022."""

    def __init__(self, folder):
        self.folder = folder
        env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONINTMAXSTRDIGITS": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", JUDGE, str(ROOT)],
            cwd=str(folder),
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def open(self, path, tool=False):
        """Has the script resume `path`, or the tool import it. A --save-every that does not fit
        ends the script before it plays, should it not end by itself."""
        resume = ["--resume", "--save", path, "--batch-size", "2", "--save-every", "3"]
        arguments = [path, "new.p"] if tool else resume
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        status, memory, seconds = json.loads(self.process.stdout.readline())
        out, err = ((self.folder / name).read_text() for name in ("stdout", "stderr"))
        return Verdict(-(status & 127) or status >> 8, out, err, memory, seconds)

    def close(self):
        self.process.communicate()


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("processes cannot be forked here")
    with contextlib.closing(Judge(tmp_path_factory.mktemp("judge"))) as judge:
        yield judge


# Opcodes of what a hostile pickle is made of.


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(string):
    data = string.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def python(value):
    """A value, without the opcodes at a pickle's two ends."""
    return pickle.dumps(value, 2)[2:-1]


def call(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def build(thing, *state):
    return thing + b"(" + b"".join(state) + b"tb"


def set_attributes(thing, **values):
    items = b"".join(text(key) + value for key, value in values.items())
    return build(thing, b"N}(" + items + b"u")


def make_dtype(code, order="<", flags=0):
    state = text(order), b"NNN", *map(python, (-1, -1, flags))
    return build(call(DTYPE, text(code), b"K\0K\1"), b"K\3", *state)


def make_array(shape=b"K\xc8M\0\x19\x86", dtype=None, data=b"C\x10" + bytes(16)):
    return build(call(RECONSTRUCT, ARRAY), b"K\1", shape, dtype or make_dtype("f8"), b"\x89", data)


def make_model_of(thing):
    """The file in which `thing` stands for both arrays."""
    return make_dict(W1=thing + b"q\xff", W2=b"h\xff") + b"."


def make_dict(**values):
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def nested(thing, levels=6):
    """`thing` in tuples of six that are in tuples of six, and so on."""
    return (
        thing + b"q\0" + b"".join(b"(" + b"h%c" % n * 6 + b"tq%c" % (n + 1) for n in range(levels))
    )


def big(opcode, size, start=b""):
    return opcode + struct.pack("<I", size) + start + b"a" * (size - len(start))


def line(opcode, letter=b"1", end=b"\n."):
    return opcode + letter * (MOST // len(letter)) + end


MOST = 40_900_000  # bytes; no checkpoint has more
WIDE = "\U0001f600".encode()  # a text that contains it takes four bytes a letter in memory
TOUCH = "touch canary"
WRITE = "open('canary', 'w')"
DTYPE, ARRAY, SYSTEM = name("numpy", "dtype"), name("numpy", "ndarray"), name("os", "system")
RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
FROMBUFFER, ENCODE = name("numpy.core.numeric", "_frombuffer"), name("_codecs", "encode")
FLOAT64, OS = make_dtype("f8"), call(name("builtins", "__import__"), text("os"))

CALLS = [
    ("os", "system", TOUCH), ("posix", "system", TOUCH), ("nt", "system", TOUCH),
    ("os", "popen", TOUCH), ("os", "mkdir", "canary"), ("os", "remove", "hostile.p"),
    ("os", "rename", "hostile.p", "canary"), ("os", "truncate", "hostile.p", 0), ("os", "abort"),
    ("os", "_exit", 0), ("os", "kill", 0, 9), ("os", "fork"), ("signal", "raise_signal", 9),
    ("os", "execvp", "touch", ["touch", "canary"]), ("pty", "spawn", ["touch", "canary"]),
    ("subprocess", "Popen", ["touch", "canary"]), ("subprocess", "call", ["touch", "canary"]),
    ("builtins", "eval", WRITE), ("builtins", "exec", WRITE), ("__builtin__", "eval", WRITE),
    ("builtins", "open", "canary", "w"), ("builtins", "__import__", "antigravity"),
    ("builtins", "compile", "1", "1", "eval"), ("builtins", "input"), ("builtins", "breakpoint"),
    ("builtins", "bytearray", 10**9), ("builtins", "bytes", 10**9), ("builtins", "list", "1"),
    ("io", "open", "canary", "w"), ("_io", "FileIO", "canary", "w"),
    ("codecs", "open", "canary", "w"), ("_codecs", "decode", b"x", "zip"),
    ("importlib", "import_module", "antigravity"), ("runpy", "run_path", "hostile.p"),
    ("timeit", "timeit", WRITE), ("cProfile", "run", WRITE), ("pdb", "run", WRITE),
    ("shutil", "copy", "hostile.p", "canary"), ("shutil", "rmtree", "."),
    ("logging", "FileHandler", "canary"), ("sys", "exit", 0), ("pickle", "loads", b"N."),
    ("_pickle", "loads", b"N."), ("marshal", "loads", b"\xe3"), ("types", "CodeType"),
    ("types", "FunctionType"), ("ctypes", "CDLL", "libc.so.6"), ("ctypes", "string_at", 0),
    ("ctypes", "PyDLL", ""), ("numpy", "load", "hostile.p"), ("numpy", "save", "canary", 1),
    ("numpy", "memmap", "canary"), ("numpy", "fromfile", "hostile.p"), ("numpy", "zeros", 10**9),
    ("numpy.ctypeslib", "load_library", "libc", "."), ("numpy.core.multiarray", "scalar"),
    ("numpy.core", "_ufunc_reconstruct", "os", "system"), ("numpy.core.numeric", "load", "x"),
    ("numpy.core.multiarray", "_reconstruct.__globals__"), ("numpy.core.records", "recarray", 9),
    ("numpy.testing._private.utils", "runstring", WRITE, {}),
    ("numpy.distutils.exec_command", "exec_command", TOUCH),
    ("numpy.random._pickle", "__randomstate_ctor"), ("copyreg", "_reconstructor", 1, 2, 3),
    ("copy_reg", "_reconstructor", 1, 2, 3), ("copyreg", "__newobj__", 1),
    ("copyreg", "add_extension", "os", "system", 1), ("functools", "partial", 1),
    ("functools", "reduce", 1, [2, 3]), ("operator", "attrgetter", "system"),
    ("operator", "methodcaller", "system", TOUCH), ("pong_pg", "keep", "hostile.p"),
    ("pong_pg", "write_atomically", "canary", b""), ("pong_pg", "save_checkpoint", "canary", {}),
    ("__main__", "main"), ("pong_pg", "os.system", TOUCH), ("numpy", "dtype.__class__"),
    ("numpy.core.multiarray._reconstruct", "__class__"), ("", ""), ("numpy", ""), ("numpy.", "x"),
]  # fmt: skip


# What runs TOUCH in whoever opens it with plain `pickle`; a test makes sure that it would.
ROUTES = {
    "REDUCE": call(SYSTEM, text(TOUCH)),
    "INST": b"(S'touch canary'\nios\nsystem\n",
    "OBJ": b"(" + SYSTEM + text(TOUCH) + b"o",
    "STACK_GLOBAL": b"\x80\4" + text("os") + text("system") + b"\x93" + text(TOUCH) + b"\x85R",
    "a dotted name": b"\x80\4" + text("shutil") + text("os.system") + b"\x93"
    + text(TOUCH) + b"\x85R",
    "eval": call(name("builtins", "eval"), text("__import__('os').system('touch canary')")),
    "exec": call(name("builtins", "exec"), text("import os; os.system('touch canary')")),
    "getattr": call(call(name("builtins", "getattr"), OS, text("system")), text(TOUCH)),
    "functools.partial": call(call(name("functools", "partial"), SYSTEM, text(TOUCH))),
    "methodcaller": call(call(name("operator", "methodcaller"), text("system"), text(TOUCH)), OS),
    "map": call(name("builtins", "list"), call(name("builtins", "map"), SYSTEM, python([TOUCH]))),
    "pickle in a pickle": call(name("_pickle", "loads"), python(call(SYSTEM, text(TOUCH)) + b".")),
    "check_call": call(name("subprocess", "check_call"), python(["touch", "canary"])),
    "__setstate__": set_attributes(call(name("types", "SimpleNamespace")), __setstate__=SYSTEM)
    + text(TOUCH) + b"b",
    "copyreg": call(name("copyreg", "add_extension"), text("os"), text("system"), b"K\1")
    + b"0\x82\1" + text(TOUCH) + b"\x85R",
}  # fmt: skip

STAND_IN = RECONSTRUCT + b"q\xfe"  # a function of ours, which a pickle may try to change
ODD = {
    "an empty file": b"",
    "a text file": b"import os\nos.system('touch canary')\n",
    "a zip": b"PK\3\4" + bytes(99),
    "a numpy file": b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
    "nothing but STOP": b".",
    "an empty stack": b"0.",
    "a mark that is missing": b"t.",
    "protocol 255": b"\x80\xff.",
    "an opcode that does not exist": b"\xff.",
    "a persistent id": b"Ptouch canary\n.",
    "a persistent id from the stack": b"NQ.",
    "extension 1": b"\x82\1.",
    "extension 2**31": b"\x84\xff\xff\xff\xff.",
    "a buffer out of band": b"\x97.",
    "a buffer that is no buffer": b"N\x98.",
    "an array of objects": pickle.dumps({"W1": np.full((200, 6400), None), "W2": W2}, 2),
    "objects, flags rewritten": make_model_of(make_array(dtype=make_dtype("O8", "|", 0))),
    "objects, flags as they are": make_model_of(make_array(dtype=make_dtype("O8", "|", 63))),
    "elements of 2 GB": make_model_of(make_array(dtype=make_dtype("V2147483647"))),
    "elements with fields": make_model_of(make_array(dtype=make_dtype("f8,O"))),
    "a scalar of bytes": make_model_of(
        call(name("numpy.core.multiarray", "scalar"), make_dtype("O8", "|"), b"C\x08" + b"A" * 8)
    ),
    "10**12 elements": make_model_of(make_array(python((10**6, 10**6)))),
    "a negative shape": make_model_of(make_array(python((-200, -6400)))),
    "a shape of fractions": make_model_of(make_array(python((200.5, 6400.5)))),
    "a shape that is text": make_model_of(make_array(python("(200, 6400)"))),
    "a shape that is a stand-in": make_model_of(make_array(STAND_IN)),
    "data that are too few": make_model_of(make_array()),
    "data that are no bytes": make_model_of(make_array(data=python([0.0] * 9))),
    "data that are a number": make_model_of(make_array(data=b"K\1")),
    "data beyond latin-1": make_model_of(make_array(data=text("\U0001f600"))),
    "an array without data": make_model_of(call(RECONSTRUCT, ARRAY)),
    "an array of two parts": make_model_of(build(call(RECONSTRUCT, ARRAY), b"NN")),
    "an array that is not made": make_model_of(ARRAY),
    "a dtype without order": make_model_of(make_array(dtype=call(DTYPE, text("f8")))),
    "a dtype whose order is a list": make_model_of(
        make_array(dtype=build(call(DTYPE, text("f8")), b"K\3]NNN"))
    ),
    "a dtype without a state": make_model_of(make_array(dtype=call(DTYPE, text("f8")) + b"K\1b")),
    "a buffer of 10**12 bytes": make_model_of(
        call(FROMBUFFER, python(10**12), FLOAT64, python((200, 6400)), text("C"))
    ),
    "text as a number of bytes": make_model_of(call(ENCODE, python(10**12), text("latin1"))),
    "an encoding that is a codec": make_model_of(call(ENCODE, text(TOUCH), text("zip"))),
    "functions": make_model_of(STAND_IN),
    "a function without arguments": call(DTYPE) + b".",
    "a function of itself": call(STAND_IN, b"h\xfe") + b".",
    "new globals": set_attributes(STAND_IN, __globals__=b"}") + b".",
    "new code": set_attributes(STAND_IN, __code__=b"C\1S") + b".",
    "new defaults": set_attributes(DTYPE, __defaults__=SYSTEM) + b".",
    "another class": set_attributes(STAND_IN, __class__=DTYPE) + b".",
    "a function as its own state": set_attributes(STAND_IN, __setstate__=b"h\xfe") + b"Nb.",
    "a function as a list": set_attributes(STAND_IN, append=b"h\xfe") + b"Na.",
    "a function as a class": set_attributes(STAND_IN, __new__=b"h\xfe") + b")\x81.",
    "a number as a class": b"K\1)\x81.",
    "a class with keywords": STAND_IN + b")" + make_dict(x=b"N") + b"\x92.",
    "a terminal's escapes": b"K\1N}" + text("\x1b[31m\x1b]0;owned\x07\r") + b"Ns\x86b.",
    "half of a surrogate pair": b"K\1N}" + text("\ud800") + b"Ns\x86b.",
    "text of no locale": text("\U0001f600 \u202e \x1b[31m") + b".",
    "a name of no locale": b"c\xf0\x9f\x98\x80\n\x1b[31m\n.",
    "a dict with a list as its key": b"}]Ns.",
    "a dict that contains itself": b"}q\0" + text("W1") + b"h\0s" + text("W2") + b"h\0s.",
    "a list that contains itself": b"]q\0h\0a.",
    "900 tuples as a key": b"}N" + b"\x85" * 900 + b"Ns.",
    "900 lists": b"]" * 900 + b"a" * 899 + b".",
    "900 stand-ins": b"(" + STAND_IN + (b"(h\xfe") * 400 + b"o" * 400 + b".",
}  # fmt: skip

BOMBS = {
    "100,000 marks": lambda: b"(" * 100_000,
    "40 million Nones": lambda: b"(" + b"N" * MOST + b"t.",
    "a million tuples as a key": lambda: b"}N" + b"\x85" * 10**6 + b"Ns.",
    "a million Nones": lambda: b"(" + b"N" * 10**6 + b"t.",
    "100,000 lists in lists": lambda: b"]" * 10**5 + b"a" * 10**5 + b".",
    "100,000 tuples in tuples": lambda: b"N" + b"\x85" * 10**5 + b".",
    "100,000 dicts as states": lambda: b"}" * 10**5 + b"b" * 10**5 + b".",
    "a memo index of 2**26": lambda: b"Nr\0\0\0\4.",
    "a memo index of 2**32 - 1": lambda: b"Nr\xff\xff\xff\xff.",
    "a memo index of 10**18": lambda: b"Np1000000000000000000\n.",
    "a text of a gigabyte": lambda: b"X\0\0\0\x40abc.",
    "bytes of two gigabytes": lambda: b"B\xff\xff\xff\x7fabc.",
    "text of 2**62 bytes": lambda: b"\x8d" + struct.pack("<Q", 2**62) + b"abc.",
    "bytes of 2**62 bytes": lambda: b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "a bytearray of 2**40 bytes": lambda: b"\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "a bytearray of 2**64 - 1 bytes": lambda: b"\x96" + b"\xff" * 8 + b"abc.",
    "a frame of 2**62 bytes": lambda: b"\x80\4\x95" + struct.pack("<Q", 2**62) + b"N.",
    "a number of two gigabytes": lambda: b"\x8b\xff\xff\xff\x7f" + b"1" * 99,
    "a number of -1 bytes": lambda: b"\x8b\xff\xff\xff\xff.",
    "a number of 40 MB": lambda: big(b"\x8b", MOST) + b".",
    "a number of 40 MB as a key": lambda: b"}" + big(b"\x8b", MOST) + b"Ns.",
    "40 million digits": lambda: line(b"I"),
    "40 million digits, long": lambda: line(b"L", end=b"L\n."),
    "40 million hexadecimal digits": lambda: line(b"L0x", end=b"L\n."),
    "40 million digits of a fraction": lambda: line(b"F"),
    "40 MB of no fraction": lambda: line(b"F", b"\1"),
    "40 million digits of a memo": lambda: line(b"Np"),
    "40 million digits of a memo got": lambda: line(b"g"),
    "40 MB of a persistent id": lambda: line(b"P"),
    "40 MB of a module": lambda: line(b"c" + WIDE, b"a", b"\nx\n."),
    "40 MB of a module, renamed": lambda: line(b"c" + WIDE, b"numpy._core", b"\nx\n."),
    "40 MB of a class": lambda: line(b"(i", b"a", b"\nx\n."),
    "40 MB of a name": lambda: text("os") + big(b"X", MOST, WIDE) + b"\x93.",
    "wide text": lambda: big(b"X", MOST, WIDE) + b".",
    "wide text in a line": lambda: line(b"V\\U0001f600", b"a"),
    "escapes in a line": lambda: line(b"V", b"\\U0001f600"),
    "a string of escapes": lambda: line(b"S'", b"\\x01", b"'\n."),
    "a string without escapes": lambda: line(b"S'", b"\xff", b"'\n."),
    "wide text as data": lambda: make_model_of(make_array(data=big(b"X", MOST - 999, WIDE))),
    "wide text as a dtype": lambda: make_model_of(
        make_array(dtype=build(call(DTYPE, big(b"X", MOST - 999, WIDE)), b"K\3" + text("<")))
    ),
    "40 MB of bytes as data": lambda: make_model_of(make_array(data=big(b"B", MOST - 999))),
    "40 MB of bytes for a model": lambda: make_model_of(big(b"B", MOST - 999)),
    "bytes, shown often": lambda: nested(big(b"B", MOST - 999)) + b".",
    "bytes in a shape, shown often": lambda: make_model_of(make_array(nested(big(b"B", 10**7)))),
    "a number, shown often": lambda: nested(big(b"\x8b", 10**5)) + b".",
    "wide text, shown often": lambda: nested(big(b"X", 10**7, WIDE)) + b".",
    "text encoded 300 times": lambda: ENCODE + b"q\0" + big(b"X", 10**7) + b"q\1"
    + text("latin1") + b"\x86q\2" + b"h\0h\2R" * 300 + b".",
    "a dtype that grows": lambda: call(DTYPE, text("f8")) + b"(K\1" + big(b"X", 10**7) + b"tq\1b"
    + b"h\1b" * 300 + b".",
    "a dtype of bytes that grows": lambda: call(DTYPE, b"C\0") + b"(K\1" + big(b"B", 10**7)
    + b"tq\1b" + b"h\1b" * 300 + b".",
    "buffers of 100 MB": lambda: FROMBUFFER + b"q\0" + python(10**8) + b"NNN(0"
    + b"h\0(J\0\xe1\xf5\5NNNtR" * 100 + b".",
    "a gigabyte in the second pickle": lambda: signed(good_model() + b"X\0\0\0\x40abc."),
    "100,000 marks in the second pickle": lambda: signed(good_model() + b"(" * 10**5),
    "bytes shown often in the second": lambda: signed(
        good_model() + nested(big(b"B", 10**7)) + b"."
    ),
    "a number of 28 MB as a seed": lambda: signed(
        good_model() + second_pickle(seed=big(b"\x8b", 28 * 10**6))
    ),
    "a number of 28 MB as a batch size": lambda: signed(
        good_model() + second_pickle(batch_size=big(b"\x8b", 28 * 10**6))
    ),
}  # fmt: skip
for route in ("REDUCE", "STACK_GLOBAL", "eval", "copyreg"):
    BOMBS[f"a good model, then {route}"] = functools.partial(
        lambda second: signed(good_model() + second + b"."), ROUTES[route]
    )


@functools.lru_cache(maxsize=None)
def good_model():
    return pickle.dumps(make_model(200, 6400), 3)


def second_pickle(**wrong):
    """The second pickle of format 1, but for empty caches and what is `wrong`, as opcodes."""
    hyper = {"batch_size": 10, "learning_rate": 1e-4, "gamma": 0.99, "decay_rate": 0.99}
    hyper = make_dict(**{name: wrong.get(name, python(hyper[name])) for name in hyper})
    state = {"format": b"K\1", "seed": b"K\0", "games": b"K\0", "running_mean": python(0.0)}
    state = {name: wrong.get(name, state[name]) for name in state}
    caches = make_dict(W1=b"C\0", W2=b"C\0")
    return b"\x80\3" + make_dict(**state, hyperparameters=hyper, rmsprop_cache=caches) + b"."


def hostile_files():
    """Yields (name, function that gives the file)."""
    for module, attribute, *arguments in CALLS:
        data = call(name(module, attribute), *map(python, arguments)) + b"."
        yield f"{module}.{attribute}", functools.partial(bytes, data)
    for route, data in ROUTES.items():
        yield route, functools.partial(bytes, data + b".")
    for odd, data in ODD.items():
        yield odd, functools.partial(bytes, data)
    yield from BOMBS.items()


def judge_file(judge, data, tool=False):
    """Opens the file; gives what is wrong with how that ended, and the verdict."""
    write(judge.folder / "hostile.p", data)
    verdict, wrong = judge.open("hostile.p", tool), []
    lines = verdict.stderr.splitlines()
    start = "import_model: hostile.p " if tool else "pong_pg: hostile.p "
    if verdict.status != 2 or len(lines) != 1 or not lines[0].isprintable():
        wrong.append(f"status {verdict.status}, standard error {verdict.stderr[-500:]!r}")
    if not verdict.stderr.startswith(start) or len(verdict.stderr) > 1500:
        wrong.append(f"it says {verdict.stderr[:500]!r}")
    if verdict.memory > 300e6:
        wrong.append(f"it took {verdict.memory / 1e6:.0f} MB")
    made = {path.name for path in judge.folder.iterdir()}
    if (
        made != {"hostile.p", "stdout", "stderr"}
        or (judge.folder / "hostile.p").read_bytes() != data
    ):
        wrong.append(f"there is {made}, or the file has changed")
    return wrong, verdict


@pytest.mark.parametrize("title, make", [pytest.param(*f, id=f[0]) for f in hostile_files()])
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(judge, title, make):
    """Neither by --resume nor by the import."""
    data = make()
    for tool in (False, True):
        wrong, _ = judge_file(judge, data, tool)
        assert not wrong, wrong


@pytest.mark.parametrize("route", ROUTES)
def test_the_attacks_are_real(tmp_path, route):
    """Plain `pickle` carries them out, so that there is something to be safe from."""
    (tmp_path / "hostile.p").write_bytes(ROUTES[route] + b".")
    code = "import pickle; pickle.load(open('hostile.p', 'rb'))"
    subprocess.run([sys.executable, "-c", code], cwd=str(tmp_path), check=True)
    assert (tmp_path / "canary").exists()


def test_there_are_enough_of_them():
    assert len({make() for title, make in hostile_files() if title not in BOMBS}) > 100
    assert len(BOMBS) > 40


@pytest.mark.parametrize(
    "kind", ["folder", "pipe", "device", "loop", "dangling", "terabyte", "proc"]
)
def test_a_path_that_is_no_checkpoint_file_is_refused(judge, kind):
    path, words = judge.folder / "odd.p", "is not a file"
    if kind == "folder":
        path.mkdir()
        words = "cannot be written"
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind in ("loop", "dangling"):
        path.symlink_to("odd.p" if kind == "loop" else "nowhere")
        words = "is not there"
    elif kind == "proc":
        path.symlink_to("/proc/self/status")  # says that it has no bytes, and has
        words = "odd.p "
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
        words = "is not a checkpoint"
    try:
        verdict = judge.open("odd.p")
        assert verdict.status == 2 and words in verdict.stderr, verdict
        assert len(verdict.stderr.splitlines()) == 1 and verdict.memory < 300e6, verdict
    finally:
        path.rmdir() if kind == "folder" else path.unlink()
