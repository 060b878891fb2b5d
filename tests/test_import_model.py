"""Other scripts' files: whatever wrote them, they are imported; whatever is hostile, is refused."""

import ast
import base64
import bz2
import collections
import contextlib
import dataclasses
import gzip
import importlib
import io
import json
import lzma
import os
import pickle
import pickletools
import re
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from helpers import ROOT, bits, make_model, pickled_model, signed, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pong_pg

sys.path.insert(0, str(ROOT / "tools"))
import import_model

TOOL = ROOT / "tools" / "import_model.py"


def read(path, data):
    """(model, state, remarks) of `data`."""
    write(path, data)
    return import_model.read_theirs(path)


def assert_read(path, data, expected):
    """A bare model that equals `expected` to the bit. Gives the remarks."""
    model, state, remarks = read(path, data)
    assert state is None and bits(model) == bits(expected)
    for name, w in model.items():
        assert w.dtype == np.float64 and w.shape == expected[name].shape
    return remarks


def refusal(path, data):
    """Why `data` is refused: one line that names the file."""
    with pytest.raises(pong_pg.CheckpointError) as refused:
        read(path, data)
    line = str(refused.value)
    assert line.startswith(f"{path} ") and line.isprintable() and len(line) < 1000, line
    return line


def format_1(model, state):
    """A checkpoint of the first version: two pickles and a checksum."""
    return signed(pickled_model(model) + pickle.dumps(state_of_format_1(state), 3))


def state_of_format_1(state):
    caches = {name: c.astype("<f8").tobytes() for name, c in state.rmsprop_cache.items()}
    hyperparameters = dataclasses.asdict(state.hyperparameters)
    return {
        "format": 1, "seed": state.seed, "games": state.games, "running_mean": state.running_mean,
        "hyperparameters": hyperparameters, "rmsprop_cache": caches,
    }  # fmt: skip


@pytest.fixture
def old(shrink, tmp_path):
    """A file of format 1 of a network of 2 x 3, where its second pickle begins, and a path."""
    model, state = shrink(2, 3)
    return format_1(model, state), len(pickled_model(model)), tmp_path / "save.p"


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def tool(tmp_path, monkeypatch, capsys):
    """Runs the tool in tmp_path; gives its status and what it wrote to either stream."""
    monkeypatch.chdir(tmp_path)

    def tool(*args):
        try:
            status = import_model.main(list(map(str, args)))
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return tool


def test_format_1_comes_over_with_its_whole_state_in_whatever_order(short_run, tool, tmp_path):
    model, state = pong_pg.load_checkpoint(short_run / "save.p")
    found = state_of_format_1(state)
    found["hyperparameters"] = dict(reversed(list(found["hyperparameters"].items())))
    second = pickle.dumps(dict(reversed(list(found.items()))), 3)
    (tmp_path / "old.p").write_bytes(signed(pickled_model(model) + second))
    status, out, _ = tool("old.p", "new.p")
    assert status == 0 and "new.p written: 6 games" in out
    assert (tmp_path / "new.p").read_bytes() == (short_run / "save.p").read_bytes()


def test_a_bare_model_begins_at_game_0_with_fresh_caches(tmp_path):
    model = pong_pg.init_model(np.random.default_rng(0))
    (tmp_path / "theirs.p").write_bytes(pickle.dumps(model))
    command = [sys.executable, str(TOOL), "theirs.p", "new.p", "--seed", "5"]
    out = subprocess.run(command, cwd=str(tmp_path), stdout=subprocess.PIPE, check=True).stdout
    assert b"--resume --save new.p" in out
    found, state = pong_pg.load_checkpoint(tmp_path / "new.p")
    assert bits(found) == bits(model)
    assert bits(state.rmsprop_cache) == bits({name: np.zeros_like(w) for name, w in model.items()})
    assert (state.seed, state.games, state.running_mean) == (5, 0, 0.0)
    assert state.hyperparameters == pong_pg.Hyperparameters()


def test_of_a_changed_scripts_checkpoint_the_model_comes_over(shrink, tool, tmp_path):
    """With Adam it has two caches of each array."""
    model, state = shrink(2, 3)
    for name, squares in list(state.rmsprop_cache.items()):
        state.rmsprop_cache[f"mean of {name}"] = -squares
    data = pong_pg.encode(model, state)
    (tmp_path / "adam.p").write_bytes(data)
    status, out, _ = tool("adam.p", "new.p")
    assert status == 0 and "adam.p: a changed script wrote it: its model is taken" in out
    found, state = pong_pg.load_checkpoint(tmp_path / "new.p")
    assert bits(found) == bits(model) and state.games == 0
    assert not any(squares.any() for squares in state.rmsprop_cache.values())
    middle = len(data) // 2
    for damaged in data[:-40], data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]:
        (tmp_path / "adam.p").write_bytes(damaged)
        status, out, err = tool("adam.p", "other.p")
        assert (status, out) == (2, "") and "adam.p is damaged: its checksum" in err


def test_what_was_done_to_a_file_is_said(shrink, tool, tmp_path):
    shrink(2, 3)
    (tmp_path / "theirs.p").write_bytes(ORIGINAL.replace(b"\n", b"\r\n") + pickle.dumps(1000, 0))
    status, out, _ = tool("theirs.p", "new.p")
    assert status == 0 and "theirs.p: it holds more than the model" in out
    assert "theirs.p: its lines end in \\r\\n" in out and "new.p written: a model alone" in out


def test_nothing_is_overwritten_and_bad_input_is_one_line(short_run, tool, tmp_path):
    shutil.copy(short_run / "save.p", tmp_path / "ours.p")
    model, state = pong_pg.load_checkpoint(tmp_path / "ours.p")
    (tmp_path / "old.p").write_bytes(format_1(model, state))
    (tmp_path / "theirs.p").write_bytes(pickle.dumps(model, 2))
    half = pong_pg.H // 2
    (tmp_path / "other.p").write_bytes(pickle.dumps(make_model(half, pong_pg.D), 2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for args, status, words in [
        (["theirs.p", "ours.p"], 2, ["ours.p", "there already"]),
        (["theirs.p", "theirs.p"], 2, ["theirs.p", "there already"]),
        (["ours.p", "new.p"], 2, ["ours.p", "nothing to import"]),
        (["old.p", "new.p", "--seed", 4], 2, ["old.p", "of seed 3"]),
        (["other.p", "new.p"], 2, ["other.p", f"({half}, ", f"({2 * half}, ", f"H = {half}"]),
        (["theirs.p", "new.p", "--seed", -1], 2, ["--seed", "expected int from 0"]),
        (["theirs.p"], 2, ["OURS"]),
        (["theirs.p", "nowhere/new.p"], 2, ["nowhere/new.p", "cannot be written"]),
    ]:
        found, out, err = tool(*args)
        assert (found, out) == (status, "") and all(word in err for word in words), err
        assert err.startswith("import_model: ") and len(err.splitlines()) == 1, err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- compatible ---------------------------------------------------------------------------------

# {"W1": W1, "W2": W2} of make_model(2, 3), W1 in either order, as the cPickle of Python 2.7 with
# numpy 1.16 wrote it in each of its protocols. A dict of name and bytes; text, zlib, base64.
PYTHON_2 = ast.literal_eval(
    zlib.decompress(
        base64.b64decode("""
eNrtmG1v2jAQx78KqiaFFx2KDeRhqsSLTZVYpU5qNfWNKxTnAZDA0NRIVFO/++5soAlxaNqmLJp4gbnaZ3M+//K/uH+sZbqQi3Ax
a9nnre+tRRrFqfWtxc/a0ZIwcWvdUYuJJWUiFKv58qkTLtK4M1/N5DRI0+CJiVEahwvxKNNVKMGzy0RbuzIhoo3Psge9Q5sJeWtx
WE/eLPvYQ7CBteV2RiSfljH4OzBwayUe+OI0dIQ5Lrp3MaoLGLi+vh5+hQHd4OJ8aNs4ytgajANNhA1P0ArRcuZo8p3JlZlgpPwR
ckAwBx4TY9zduLgZP7sZjFCOXYyp1mig8e0vQ/yi6iugA5O7MkNnkHX1KQ70BsLgyh20ooHebefsvJWD4vIERb1QkDdGU3rAr0Vq
AsAE0VuhIDmlsJ4fIGTS/g0tvaP4B62GBbp2i1xgd699hXmQuCjh8gb7+qqPqJbuw4EOjo4h8dRc5axnumpOVy12AYT8ZOskyX4K
HfrXNTowjdjqVIwfOCg8JzwKlUDMnzY4GonkOjMEI/Emas8T4xZldoMqYomOro7iAyFszlwfuZKNPTc0tGJsfAAXLRd5H6ACoZB8
1bH2iLg8EXFMIkg1IozHXB5ZAYACOVWJoHmNYGsPI6MfI8MMxpXestfXeQPLzdKhcofDJj4KeOxmv5sQWMGvH5BJ+U5lZp8qZuh3
FCYqlCbrBs3rxomSf0SJ13QtmQcyna4/ARK9cHVGdqA4JzlpnJzYWVBquaxs8Th4V8GbxukS2+hL7C+sMXH0YxpKxUYI/bM4lFM4
dyYyo5AiTEF7hsBAqw5Kpw4yFlREqG+87zqFlLuFlO8z5BkZ8o/M0FFOLQgg38R+eWQJbCcYYy7HxdQRmvtfwdivHdVNUPhbkOo8
UrSA1K4uHUBLVax7Vara9/quk1HmXvXy1Te+4zhl9cs1Sbqhfnll9Ut+qHo1qmTEkHiRfWvgWNv6k0P5C/feESdM1lKW4xhXg59I
C3UsipMAEIjMgpUZ3QhWOBrx1RSYEaMRE7Ppo9Q1D+jtvjxRvcpF8F0K1lD1yldAVJhSUSHFGuj/FzWQFpAqEawcWkqwTGg9bB+F
m6yM0ePJWMlV7ZMUrLb3b/G62HDz+7ds5Nv3819JQg5l""")
    ).decode()
)
ORIGINAL = PYTHON_2["protocol 0, C order"]


@pytest.mark.parametrize("writer", sorted(PYTHON_2))
def test_models_that_python_2_pickled_are_read(shrink, tmp_path, writer):
    shrink(2, 3)
    as_windows_wrote_it = PYTHON_2[writer].replace(b"(I2\nI3\n", b"(L2L\nL3L\n")
    for data in PYTHON_2[writer], as_windows_wrote_it:
        assert assert_read(tmp_path / "save.p", data, make_model(2, 3)) == []


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_models_of_every_protocol_and_order_are_read(shrink, tmp_path, protocol, order):
    shrink(4, 3)
    expected = make_model(4, 3)
    for dtype in "<f8", ">f8":
        written = {name: np.array(w, dtype, order=order) for name, w in expected.items()}
        files = [pickle.dumps(written, protocol)]
        if protocol < 4:  # in which the names of numpy 1 and of numpy 2 can be replaced
            files.append(files[0].replace(b"numpy._core", b"numpy.core"))
            files.append(files[1].replace(b"numpy.core", b"numpy._core"))
        for data in files:
            assert assert_read(tmp_path / "save.p", data, expected) == []
        if protocol < 3:  # bytes are text with the name of its encoding
            line = refusal(tmp_path / "save.p", data.replace(b"latin1", b"utf-16"))
            assert "'utf-16', expected latin1" in line


def test_the_python_2_originals_file_is_read_at_full_size(tmp_path):
    """Protocol 0: text, in which an array's bytes are the repr of a string."""
    small, model, data = make_model(2, 3), make_model(pong_pg.H, pong_pg.D), ORIGINAL
    model = {name: np.sin(w) for name, w in model.items()}  # all 256 bytes occur
    for name, shape, now in ("W1", b"(I2\nI3\n", b"(I%d\nI%d\n"), ("W2", b"(I2\nt", b"(I%d\nt"):
        text, longer = (b"S" + repr(m[name].tobytes())[1:].encode() for m in (small, model))
        assert data.count(text) == 1 and data.count(shape) == 1
        data = data.replace(text, longer).replace(shape, now % model[name].shape)
    assert_read(tmp_path / "save.p", data, model)


DRESSES = {
    "OrderedDict": collections.OrderedDict,
    "defaultdict": lambda model: collections.defaultdict(list, model),
    "defaultdict of None": lambda model: collections.defaultdict(None, model),
    "float32": lambda model: {name: w.astype(np.float32) for name, w in model.items()},
    "float32, big-endian": lambda model: {name: w.astype(">f4") for name, w in model.items()},
    "float16": lambda model: {name: w.astype(np.float16) for name, w in model.items()},
    "matrix": lambda model: {name: w.view(np.matrix) for name, w in model.items()},
    "W2 is a row": lambda model: {**model, "W2": model["W2"][np.newaxis]},
    "W2 is a column": lambda model: {**model, "W2": model["W2"][:, np.newaxis]},
}


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_model_in_another_dress_is_taken_over_exactly(shrink, tmp_path, protocol, dress):
    shrink(4, 3)
    dressed = DRESSES[dress](make_model(4, 3))
    expected = {name: np.asarray(w, np.float64).reshape(w.size) for name, w in dressed.items()}
    expected["W1"] = expected["W1"].reshape(4, 3)
    data = pickle.dumps(dressed, protocol)
    assert assert_read(tmp_path / "save.p", data, expected) == []


def test_windows_line_ends_are_put_back_in_text_and_named_in_binary(shrink, tmp_path):
    """git's autocrlf, FTP and Windows' text mode write \\r\\n for \\n."""
    shrink(2, 3)
    path, model = tmp_path / "save.p", make_model(2, 3)
    texts = [data for writer, data in PYTHON_2.items() if "protocol 0" in writer]
    for data in [*texts, pickle.dumps(model, 0)]:
        remarks = assert_read(path, data.replace(b"\n", b"\r\n"), model)
        assert len(remarks) == 1 and "\\r\\n" in remarks[0]
    model["W2"] = np.frombuffer(b"\n\r\r\n" * 4)
    for protocol in 1, 2, 3:
        data = pickle.dumps(model, protocol)
        assert assert_read(path, data, model) == []  # the ends of no lines
        assert "as text" in refusal(path, data.replace(b"\n", b"\r\n"))


def test_a_line_that_ends_in_a_number_of_the_model_is_left_as_it_is(shrink, tmp_path):
    """Python 3.6 left \\r as it is in protocol 0: not Windows, but a 13 before a line end."""
    shrink(2, 3)
    model = {"W1": np.full((2, 3), np.frombuffer(b"?\xf0\0\0\0\0\0\r", ">f8")), "W2": np.ones(2)}
    data = pickle.dumps({name: w.astype(">f8") for name, w in model.items()}, 0)
    raw = data.replace(b"\\u000d", b"\r")
    assert b"\r\n" in raw
    assert assert_read(tmp_path / "save.p", raw, model) == []


def test_what_is_behind_a_model_is_left_out_and_said(old):
    """(model, counter), dumped one after the other; a line end that an editor adds is nothing."""
    data, end, path = old
    model = data[:end]
    rewards = pickle.dumps(list(map(float, range(9999)))) + pickle.dumps(np.float64(-3.5))
    for behind in pickle.dumps(1000), pickle.dumps({"episode": 7}, 0), rewards, ROUTES["REDUCE"]:
        remarks = assert_read(path, model + behind, make_model(2, 3))
        assert len(remarks) == 1 and "left out" in remarks[0]
    assert not os.path.exists("canary")
    assert assert_read(path, model + b"\r\n", make_model(2, 3)) == []


# ---- what else people have ----------------------------------------------------------------------


def saved_by(save, *args, **kwargs):
    file = io.BytesIO()
    save(file, *args, **kwargs)
    return file.getvalue()


MODEL = pickle.dumps(make_model(2, 3), 2)
NO_PICKLES = {  # the file, and words of the line about it
    "gzip": (gzip.compress(MODEL), "gzip -dc"),
    "bzip2": (bz2.compress(MODEL), "bzip2 -dc"),
    "xz": (lzma.compress(MODEL), "xz -dc"),
    "lzma": (lzma.compress(MODEL, lzma.FORMAT_ALONE), "joblib.load it"),
    **{f"zlib {n}": (zlib.compress(MODEL, n), "joblib.load it") for n in (0, 1, 3, 6, 9)},
    "lz4": (b"\x04\x22\x4d\x18\x64\x40", "lz4 -dc"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x58", "zstd -dc"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive: unpack it"),
    "np.save": (saved_by(np.save, make_model(2, 3)["W1"]), "np.load it"),
    "np.savez": (saved_by(np.savez, **make_model(2, 3)), "of np.savez: np.load it"),
    "np.savez_compressed": (saved_by(np.savez_compressed, W1=1.0), "of np.savez: np.load it"),
    "torch.save": (b"PK\3\4" + bytes(22) + b"\x10\0\0\0archive/data.pkl", "torch.load it"),
    "torch.save of old": (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + MODEL, "torch.load it"),
    "Keras": (b"PK\3\4" + bytes(22) + b"\x0d\0\0\0metadata.json", "of Keras: load it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n\0\0", "HDF5, as Keras"),
    "zip": (b"PK\3\4" + bytes(22) + b"\x06\0\0\0save.p", "zip archive: unpack it"),
    "half a zip": (b"PK\3\4", "zip archive: unpack it"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
    "a web page": (b"\n\n<!DOCTYPE html>\n<html>", "download the file itself"),
    "JSON": (b'{"W1": [[0.25]], "W2": [1]}', "json.load it"),
    "JSON with a mark": (b"\xef\xbb\xbf [1, 2]", "json.load it"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(1000), "is not a pickle, or a damaged one: it begins with b'\\x00\\x00"),
    "404": (b"404: Not Found", "it begins with b'404: Not Found'"),
    "a script": (b"import numpy as np\nimport gym\n", "it begins with b'import numpy as np"),
    "CSV": (b"0.25,1.5\n0.5,3\n", "it begins with b'0.25,1.5"),
    "cut off": (MODEL[:-20], "is cut off"),
    "joblib": (b"\x80\3cjoblib.numpy_pickle\nNumpyArrayWrapper\n.", "'joblib.numpy_pickle.NumpyA"),
    "lists": (pickle.dumps({"W1": [[0.5] * 3] * 2, "W2": []}, 2), "expected an array: where it"),
    "long lists": (pickle.dumps([[float(n) for n in range(3000)]]), "lists of numbers?"),
}


@pytest.mark.parametrize("kind", NO_PICKLES)
def test_a_file_of_another_kind_is_named_with_what_to_do(old, kind):
    data, words = NO_PICKLES[kind]
    assert words in refusal(old[2], data)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_model_of_another_size_says_what_to_set(monkeypatch, tmp_path, protocol):
    """Also where it is larger than what is read at all."""
    monkeypatch.setattr(pong_pg, "H", 2)
    for d, h, wide, words in [
        (3, 30_000, 3, "set H = 30000 in pong_pg.py"),
        (3, 5, 80 * 75, "set H = 5 and D = 75 * 80 and FIELD = np.s_[35:185:2, ::2] in"),
        (80 * 75, 2, 80 * 80, "set D = 80 * 80 and FIELD = np.s_[35:195:2, ::2] in pong_pg.py"),
        (80 * 80, 2, 84 * 84, "set D = 7056 and FIELD to that many of the 210 x 160 pixels in"),
        (3, 3, 2, "expected (2, 3): save W1.T"),
    ]:
        monkeypatch.setattr(pong_pg, "D", d)
        model = {"W1": np.full((h, wide), 1 / 3), "W2": np.zeros(h)}
        line = refusal(tmp_path / "save.p", pickle.dumps(model, protocol))
        assert f"W1 of shape ({h}, {wide})" in line and words in line


def test_the_field_that_is_named_is_that_size():
    frame = np.zeros((210, 160))
    for rows in 75, 80, 87:
        setting = re.search(r"np\.s_\[.*\]", import_model.crop(rows * 80)).group()
        assert frame[eval(setting, {"np": np})].size == rows * 80


# ---- sound --------------------------------------------------------------------------------------


def test_every_bit_that_flips_and_every_length_that_is_cut_is_noticed(old):
    data, end, path = old
    assert read(path, data)[1].games == 6
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        refusal(path, bytes(flipped))
        if place != end:  # where the first pickle ends, what is left is another script's whole file
            refusal(path, data[:place])
    for more in b"\0", b".", data:
        refusal(path, data + more)
        refusal(path, signed(data[:-32] + more))


def test_a_frame_does_not_hide_what_is_behind_a_model(old):
    """What a frame of protocol 4 claims to contain might reach beyond the end of the pickle."""
    model = pickle.dumps(make_model(2, 3), 3)[2:]
    framed = b"\x80\4\x95" + struct.pack("<Q", len(model) + 4) + model
    assert bits(read(old[2], framed)[0]) == bits(make_model(2, 3))
    refusal(old[2], framed + b"junk")


NAN, INF, HUGE = float("nan"), float("inf"), 1 << 2000
W1, W2 = make_model(2, 3).values()


@pytest.mark.parametrize(
    "model, words",
    [
        *[([W1, W2], []), (W1, []), (None, ["None"]), ({}, ["{}"]), ({"W1": W1}, ["W1"])],
        ({"W1": W1, "W2": W2, "W3": W2}, ["W3"]),
        ({"W1": W1, "W2": None}, ["W2", "None", "expected an array"]),
        ({"W1": W1.tolist(), "W2": W2}, ["W1", "0.25", "expected an array"]),
        ({"W1": W1.T, "W2": W2}, ["W1", "(3, 2)", "(2, 3)"]),
        ({"W1": W1, "W2": W1}, ["W2", "(2, 3)", "(2,)"]),
        ({"W1": W1, "W2": W2[np.newaxis, np.newaxis]}, ["W2", "(1, 1, 2)", "(2,)"]),
        *[({"W1": W1, "W2": W2.astype(dtype)}, ["W2", "float64"]) for dtype in "gqDOVU"],
        (collections.OrderedDict(W1=W1, W3=W2), []),
        ({"W1": np.zeros((2, 3), "f8,f8"), "W2": W2}, ["W1", "float64"]),
        ({"W1": np.ma.array(W1), "W2": np.float64(1)}, ["expected"]),
        *[({"W1": W1 * wrong, "W2": W2}, ["W1", "not finite"]) for wrong in (NAN, INF, -INF)],
        ({"W1": W1, "W2": np.array([1, NAN])}, ["W2", "not finite"]),
    ],
)
def test_a_model_that_is_wrong_is_refused_with_what_was_found(old, model, words):
    """Whether it is another script's, or ours with the checksum of whoever made it wrong."""
    data, end, path = old
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        wrong = pickle.dumps(model, protocol)
        for line in refusal(path, wrong), refusal(path, signed(wrong + data[end:-32])):
            if "which no checkpoint needs" not in line:  # a name that no array of floats brings
                assert all(word in line for word in words or ["expected a dict"]), line


CACHES = [bytes(16), bytes(17), *(struct.pack("<2d", 1, x) for x in (NAN, INF, -INF, -1e-300))]
VALUES = [None, [], {}, (), "1", b"1", True, False, NAN, INF, -INF, HUGE, -HUGE, -1, 0, 1, 10**12]
VALUES += [-0.1, 0.0, 1.0, 2.5, *CACHES, "missing"]
RIGHT = {  # those that may stand where, each of its exact type
    "format": [1],
    "seed": [0, 1, 10**12],
    "games": [0, 1, 10**12],
    "running_mean": [-0.1, 0.0, 1.0, 2.5],
    "hyperparameters batch_size": [1],
    "hyperparameters learning_rate": [1.0, 2.5],
    "hyperparameters gamma": [0.0, 1.0],
    "hyperparameters decay_rate": [0.0],
    "rmsprop_cache W2": [bytes(16)],
}
NOWHERE = "hyperparameters", "rmsprop_cache", "rmsprop_cache W1"
MORE = "extra", "hyperparameters extra", "rmsprop_cache W3"


@pytest.mark.parametrize("name", [*RIGHT, *NOWHERE, *MORE])
def test_a_state_that_no_run_can_have_is_refused(old, name):
    data, end, path = old
    *outer, last = name.split()
    for value in VALUES:
        state = where = pickle.loads(data[end:-32])
        for key in outer:
            where = where[key]
        where[last] = value
        if value == "missing":
            del where[last]
        changed = signed(data[:end] + pickle.dumps(state, 3))
        right = [repr(it) for it in RIGHT.get(name, ["missing"] if name in MORE else [])]
        if repr(value) in right:
            assert isinstance(read(path, changed)[1], pong_pg.State)
        else:
            assert "checksum" not in refusal(path, changed)


LIMITS = {**import_model.STATE, **import_model.HYPERPARAMETERS}
del LIMITS["format"]


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_are_those_of_the_script(old, name):
    """So that it resumes what the import wrote."""
    data, end, path = old
    _, state, _ = read(path, data)
    for limit in LIMITS[name][1:]:
        if name in import_model.HYPERPARAMETERS:
            hyper = dataclasses.replace(state.hyperparameters, **{name: limit})
            changed = dataclasses.replace(state, hyperparameters=hyper)
        else:
            changed = dataclasses.replace(state, **{name: limit})
        pong_pg.save_checkpoint(str(path), make_model(2, 3), changed)
        assert pong_pg.load_checkpoint(str(path))[1].games == changed.games


# ---- safe: hostile files ------------------------------------------------------------------------
# Opcodes of what a hostile pickle is made of.


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(string):
    data = string.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def call(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def big(opcode, start=b""):
    """20 MB behind an opcode, the most that is read at once; see `written_out`."""
    return opcode + struct.pack("<I", len(start) + SIZE // 2) + start + b"<20 MB of a>"


def model_of(shape=b"M\xc8\0M\0\x19\x86", data=b"C\0"):
    """An array of this shape and data for W1, and it again for W2."""
    dtype = call(name("numpy", "dtype"), text("f8")) + b"(K\3" + text("<") + b"NNNNNNtb"
    made = call(name("numpy.core.multiarray", "_reconstruct")) + b"(K\1" + shape + dtype
    return b"}(" + text("W1") + made + b"\x89" + data + b"tbq\xff" + text("W2") + b"h\xffu."


SIZE = 40_000_000  # bytes; a line may have 900,000 more
WIDE = "\U0001f600".encode()  # a text that contains it takes four bytes a letter in memory
MAKE, SYSTEM = text("mkdir canary"), name("os", "system")
SHOWN_OFTEN = b"q\0" + b"".join(b"(" + b"h%c" % n * 6 + b"tq%c" % (n + 1) for n in range(2))

ROUTES = {  # what runs MAKE in whoever opens it with plain `pickle`
    "REDUCE": call(SYSTEM, MAKE) + b".",
    "INST": b"(S'mkdir canary'\nios\nsystem\n.",
    "OBJ": b"(" + SYSTEM + MAKE + b"o.",
    "STACK_GLOBAL": b"\x80\4" + text("os") + text("system") + b"\x93" + MAKE + b"\x85R.",
    "a dotted name": b"\x80\4" + text("shutil") + text("os.system") + b"\x93" + MAKE + b"\x85R.",
    "BUILD": call(name("types", "SimpleNamespace")) + b"N}" + text("__setstate__") + SYSTEM
    + b"s\x86b" + MAKE + b"b.",
    "EXT": call(name("copyreg", "add_extension"), text("os"), text("system"), b"K\1")
    + b"0\x82\1" + MAKE + b"\x85R.",
}  # fmt: skip
HOSTILE = {
    **ROUTES,
    "REDUCE behind a model": b"<model>" + ROUTES["REDUCE"],
    "a terminal's escapes": b"K\1N}" + text("\x1b[31m\x1b]0;owned\x07\r") + b"Ns\x86b.",
    "half of a surrogate pair": b"}" + text("\ud800 \u202e") + b"Ns.",
    "a name of no locale": b"c\xf0\x9f\x98\x80\n\x1b[31m\n.",
    "a dict that contains itself": b"}q\0" + text("W1") + b"h\0s" + text("W2") + b"h\0s.",
    "a shape of 10**12": model_of(b"J\0\x10\xa5\xd4\x85"),
    "40 million Nones": b"(<40 MB of N>t.",
    "a key of pairs of pairs of pairs": b"}N" + b"q\0h\0\x86" * 40 + b"Ns.",
    "a key of pairs of pairs by DUP": b"}N" + b"2\x86" * 200 + b"Ns.",
    **{f"2 GB in {code}": code + b"\xff\xff\xff\x7fabc." for code in (b"X", b"B", b"\x8b")},
    "9 EB": b"\x8e" + b"\xff" * 7 + b"\x7f.",
    "80 MB in a line": b"V<40 MB of a><40 MB of a>\n.",
    "80 MB of text": b"X" + struct.pack("<I", 80_000_000) + WIDE + b"<40 MB of a><40 MB of a>.",
    **{f"512 MB in {code}": bytes([code, 0, 0, 0, 32, *bytes(5)]) for code in b"\x8d\x8e\x95\x96"},
    **{f"40 MB in a line of {op}": op + b"<40 MB of 1>\n." for op in (b"I", b"F", b"g", b"P")},
    **{f"40 MB in a line of {op}": op + b"<40 MB of 1>L\n." for op in (b"L", b"L0x")},
    **{f"40 MB in a line of {op}": op + WIDE + b"<40 MB of a>\nx\n." for op in (b"c", b"(i")},
    **{f"40 MB of {part}": b"V<40 MB of %b>\n." % part for part in (b"a", b"\\U0001f600")},
    **{f"40 MB of {part}": b"S'<40 MB of %b>'\n." % part for part in (b"\xff", b"\\x01")},
    "20 MB of a name": text("os") + big(b"X", WIDE) + b"\x93.",
    "20 MB of text as data": model_of(data=big(b"X", WIDE)),
    "20 MB of bytes as data": model_of(data=big(b"B")),
    "bytes in a shape, shown often": model_of(big(b"B") + SHOWN_OFTEN),
    "a number": big(b"\x8b") + b".",
    "a number, shown often": big(b"\x8b") + SHOWN_OFTEN + b".",
    "text, shown often": big(b"X", WIDE) + SHOWN_OFTEN + b".",
    "text, encoded often": b"<model>" + big(b"X", WIDE) + b"q\1"
    + call(name("_codecs", "encode"), b"h\1", text("latin1")) * 20 + b".",
    "buffers of 100 MB": call(name("numpy.core.numeric", "_frombuffer"), b"J\0\xe1\xf5\5") * 20,
}  # fmt: skip


def written_out(data):
    for size in 20, 40:
        part = b"<%d MB of (.+?)>" % size
        data = re.sub(part, lambda m: m.group(1) * (size * 10**6 // len(m.group(1))), data)  # noqa: B023
    if data.startswith(b"<model>"):  # and the words of format 1, so that more than it is read
        words = text("hyperparameters") + b"0" + text("rmsprop_cache") + b"0"
        data = signed(pickle.dumps(make_model(pong_pg.H, pong_pg.D), 3) + words + data[7:])
    return data


@pytest.mark.parametrize("route", ROUTES)
def test_the_attacks_are_real(tmp_path, route):
    """Plain `pickle` carries them out, so that there is something to be safe from."""
    (tmp_path / "hostile.p").write_bytes(ROUTES[route])
    code = "import pickle; pickle.load(open('hostile.p', 'rb'))"
    subprocess.run([sys.executable, "-c", code], cwd=str(tmp_path), check=True)
    assert (tmp_path / "canary").exists()


RESUME = "--resume", "--batch-size", "2", "--save-every", "3", "--save"  # which ends by itself

JUDGE = """
import json, os, resource, signal, sys
import numpy, import_model, pong_pg
model = pong_pg.init_model(numpy.random.default_rng(0))  # each file is compared with these, and
frames = pong_pg.pickle_frames(model)  # to make them takes longer than to refuse most files
pong_pg.init_model = lambda rng: model
pong_pg.pickle_frames = lambda model: frames
getattr(sys, "set_int_max_str_digits", print)(0)  # as in the Pythons of before 2022
for line in sys.stdin:
    module, *arguments = json.loads(line)
    if os.fork():
        print(os.wait()[1], flush=True)
        continue
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1), os.dup2(said, 2)
    signal.alarm(60)  # what goes wrong hurts nobody
    resource.setrlimit(resource.RLIMIT_CPU, (9, 9))
    if sys.platform != "darwin":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    status = sys.modules[module].main(arguments)
    used = resource.getrusage(resource.RUSAGE_SELF)
    memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if memory > 300e6 or used.ru_utime + used.ru_stime > 1:
        print("TOO MUCH:", used, flush=True)
    sys.stderr.flush()  # Python 3.8 holds it back where it goes to a file
    os._exit(status)
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A function that has the tool or the script open a file in a process of its own: is there one
    line, and no more than a second and 300 MB? And the folder in which this is done."""
    if not hasattr(os, "fork"):
        pytest.skip("processes cannot be forked here")
    folder = tmp_path_factory.mktemp("judge")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tools")])
    judge = subprocess.Popen(
        [sys.executable, "-c", JUDGE], cwd=str(folder), env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def assert_refused(module, *arguments):
        judge.stdin.write(json.dumps([module, *arguments]) + "\n")
        judge.stdin.flush()
        status, said = int(judge.stdout.readline()), (folder / "said").read_text()
        assert (status, said.count("\n"), len(said) < 1500) == (2 << 8, 1, True), said[-999:]
        assert said.startswith(f"{module}: ") and "hostile.p" in said and said[:-1].isprintable()
        assert {entry.name for entry in folder.iterdir()} <= {"hostile.p", "said"}

    yield assert_refused, folder
    judge.communicate()


@pytest.fixture
def assert_refused(judge):
    for path in judge[1].iterdir():
        path.unlink()
    return judge[0], judge[1] / "hostile.p"


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_file_is_refused_within_a_second_and_nothing_of_it_runs(assert_refused, title):
    """By the import; a few by --resume too, which looks at sizes and never unpickles."""
    assert_refused, path = assert_refused
    data = written_out(HOSTILE[title])
    path.write_bytes(data)
    assert_refused("import_model", path.name, "new.p")
    if "REDUCE" in title:
        assert_refused("pong_pg", *RESUME, path.name)
    assert path.read_bytes() == data


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "proc", "folder", "800 MB"])
def test_a_path_that_is_no_checkpoint_file_is_refused(assert_refused, kind):
    assert_refused, path = assert_refused
    if kind == "pipe":
        os.mkfifo(str(path))
    elif kind == "800 MB":
        path.touch()
        os.truncate(str(path), 800_000_000)
    else:  # the status says that it has no bytes, and has
        links = {"device": "/dev/zero", "loop": path.name, "proc": "/proc/self/status"}
        path.symlink_to(links.get(kind, "."))
    assert_refused("import_model", path.name, "new.p")
    assert_refused("pong_pg", *RESUME, path.name)


def test_no_name_is_looked_up(old):
    """But for those of arrays and dicts, which are not what they say either."""
    modules = "os builtins subprocess shutil pickle _codecs io ctypes collections"
    modules += " numpy numpy.core.multiarray"
    for module in modules.split():
        deeper = "__class__", "dtype.__class__", "_reconstruct.__globals__", "encode.__self__"
        for attribute in [*dir(importlib.import_module(module)), *deeper]:
            line = refusal(old[2], name(module, attribute) + b".")
            known = f"{module}.{attribute}" in import_model.SafeUnpickler.NAMES
            assert ("which no checkpoint needs" in line) != known, line
    assert len(import_model.SafeUnpickler.NAMES) == 13


FILES = [*PYTHON_2.values(), *(pickle.dumps(make_model(2, 3), protocol) for protocol in range(5))]
PARTS = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
PARTS += [MAKE, call(SYSTEM, MAKE), b"N}" + text("__setstate__") + SYSTEM + b"s\x86b"]
DAMAGE = st.tuples(
    st.integers(0, 420), st.integers(0, 9), st.sampled_from(PARTS) | st.binary(max_size=9)
)


@settings(
    deadline=None, suppress_health_check=list(HealthCheck), max_examples=100, derandomize=True
)
@given(data=st.sampled_from(FILES), damages=st.lists(DAMAGE, min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore:.*invalid.* escape:DeprecationWarning")  # of pickle
def test_damage_gives_a_model_or_nothing(shrink, tmp_path, monkeypatch, data, damages):
    shrink(2, 3)
    monkeypatch.chdir(tmp_path)
    for start, length, other in damages:
        data = data[:start] + other + data[start + length :]
    with contextlib.suppress(pong_pg.CheckpointError):
        model, state, _ = read(tmp_path / "save.p", data)
        assert state is None and all(np.isfinite(w).all() for w in model.values())
        assert (model["W1"].shape, model["W2"].shape) == ((2, 3), (2,))
    assert not (tmp_path / "canary").exists()
