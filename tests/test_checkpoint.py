"""The checkpoint: what is saved is read back to the bit, and nothing else is accepted."""

import copy
import hashlib
import io
import json
import math
import pickle
import pickletools
import random
import shutil
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers import bits, make_model, pickled_model, refusal, signed, write

import pong_pg

# ---- small checkpoints --------------------------------------------------------------------------


@pytest.fixture
def small(shrink, tmp_path):
    """The bytes of a whole checkpoint of a network of 2 x 3, and where to write others."""
    path = tmp_path / "save.p"
    pong_pg.save_checkpoint(path, *shrink(2, 3))
    return path.read_bytes(), path


def parts(data):
    """The parts of a checkpoint of 2 x 3: pickle, caches, JSON; and the checksum."""
    file = io.BytesIO(data)
    pickle.load(file)
    end = file.tell()
    return data[:end], data[end : end + 64], data[end + 64 : -32], data[-32:]


# ---- complete -----------------------------------------------------------------------------------


def test_load_gives_back_every_bit_that_was_saved(shrink, tmp_path):
    model, state = shrink(3, 5)
    model["W1"][0, :4] = -0.0, 5e-324, 1.7976931348623157e308, -math.pi
    before = copy.deepcopy((model, state))
    pong_pg.save_checkpoint(tmp_path / "save.p", model, state)
    pong_pg.save_checkpoint(tmp_path / "again.p", *pong_pg.load_checkpoint(tmp_path / "save.p"))
    assert (tmp_path / "save.p").read_bytes() == (tmp_path / "again.p").read_bytes()
    for now in (model, state), pong_pg.load_checkpoint(tmp_path / "save.p"):
        assert bits(before[0]) == bits(now[0])
        assert bits(before[1].rmsprop_cache) == bits(now[1].rmsprop_cache)
        assert replace(before[1], rmsprop_cache={}) == replace(now[1], rmsprop_cache={})


def test_what_was_loaded_can_be_trained(small):
    model, state = pong_pg.load_checkpoint(small[1])
    for arrays in (model, state.rmsprop_cache):
        for array in arrays.values():
            assert array.dtype == np.float64 and array.dtype.isnative and array.flags.writeable
        assert arrays["W1"].flags.f_contiguous  # whose columns are fast to read
    pong_pg.rmsprop_update(model, make_model(2, 3), state.rmsprop_cache, 1e-3, 0.99)


def test_the_bytes_depend_on_the_values_alone(shrink, tmp_path):
    """Not on memory order, and not on the numpy at work: the digest is that of 1.24 and of 2.4."""
    model, state = shrink(3, 4)
    hyper = pong_pg.Hyperparameters(2, 1e-3, 0.99, 0.99)
    state = pong_pg.State(3, state.rmsprop_cache, hyper, games=6, running_mean=-20.5)
    pong_pg.save_checkpoint(tmp_path / "c.p", model, state)
    for arrays in (model, state.rmsprop_cache):
        arrays.update({name: np.asfortranarray(a) for name, a in arrays.items()})
    pong_pg.save_checkpoint(tmp_path / "f.p", model, state)
    data = (tmp_path / "c.p").read_bytes()
    assert data == (tmp_path / "f.p").read_bytes()
    assert hashlib.sha256(data).hexdigest() == DIGEST


DIGEST = "1f17be27391d831a5a85946db17a4851d9eb3b5d64e49b3cfbf0371ab20a91c7"


def test_the_file_is_what_the_design_says(small):
    """A pickle of protocol 3 that needs no more names than an array does; caches; JSON; SHA-256."""
    pickled, caches, text, checksum = parts(small[0])
    assert checksum == hashlib.sha256(pickled + caches + text).digest()
    operations = list(pickletools.genops(pickled))
    names = {arg for op, arg, _ in operations if op.name == "GLOBAL"}
    array = {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert array <= names <= array | {"_codecs encode"}
    assert (operations[0][0].name, operations[0][1]) == ("PROTO", 3)
    model, rest = pickle.loads(pickled), json.loads(text)
    assert all(model[name].flags.c_contiguous for name in model)
    assert bits(model) == bits(make_model(2, 3))
    assert caches == b"".join(bits({n: w * w for n, w in make_model(2, 3).items()}).values())
    assert text.endswith(b"}\n") and text.count(b"\n") == 1
    assert list(rest) == ["format", "seed", "games", "running_mean", "hyperparameters"]
    assert (rest["format"], rest["seed"], rest["games"]) == (2, 3, 6)


def other_pythons():
    """Pythons with numpy that are found on this machine, beside the one that runs this."""
    code = "import sys, numpy; print(sys.executable, numpy.__version__)"
    for command in ["python2.7"] + [f"python3.{minor}" for minor in range(6, 20)]:
        if shutil.which(command) and command != "python{}.{}".format(*sys.version_info):
            found = subprocess.run([command, "-c", code], capture_output=True, text=True)
            if found.returncode == 0:
                yield command


def test_other_pythons_read_the_model(small, tmp_path):
    """With a bare `pickle.load`; so do the older ports of the script."""
    code = (
        "import pickle; model = pickle.load(open('save.p', 'rb'))\n"
        "assert sorted(model) == ['W1', 'W2'] and model['W1'].flags.c_contiguous\n"
        "assert str(model['W1'].dtype) == 'float64' and model['W1'].shape == (2, 3)"
    )
    for python in [sys.executable, *(p for p in other_pythons() if p != "python2.7")]:
        done = subprocess.run(
            [python, "-c", code], cwd=str(tmp_path), capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), (python, done.stderr)


# ---- sound --------------------------------------------------------------------------------------


def test_every_bit_that_flips_is_noticed(small):
    data, path = small
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            assert "is damaged: its checksum does not match" in refusal(path, bytes(flipped))


def test_every_length_that_is_cut_is_noticed(small):
    data, path = small
    for length in range(len(data)):
        refusal(path, data[:length])
    for more in b"\0", b".", data:
        assert "damaged" in refusal(path, data + more)
        refusal(path, data[:-32] + more + data[-32:])
        refusal(path, signed(data[:-32] + more))


def test_no_more_is_parsed_than_a_run_can_have_written(small, monkeypatch):
    data, path = small
    pickled, caches, text, _ = parts(data)
    lengths = []
    loads = json.loads
    monkeypatch.setattr(pong_pg.json, "loads", lambda s: lengths.append(len(s)) or loads(s))
    long = b'{"format": [' + b"[]," * 1_600 + b"[]]}\n"
    for more in long, text + b" " * 500:  # as long as what a changed script might write
        refusal(path, signed(pickled + caches + more))
    assert max(lengths) <= pong_pg.MOST_JSON + 1


def test_damage_to_a_file_of_full_size_is_noticed(short_run, tmp_path):
    path = tmp_path / "save.p"
    data = (short_run / "save.p").read_bytes()
    chance = random.Random(0)
    for _ in range(4):
        cut = data[: 4096 * chance.randrange(1, len(data) // 4096)]
        assert "is damaged: its checksum" in refusal(path, cut)
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        assert "checksum" in refusal(path, bytes(flipped))


NAN, INF, HUGE = float("nan"), float("inf"), 10**3000
TEXT = ["1", None, [], {}, [1], True]


@pytest.mark.parametrize("place", range(16))
@pytest.mark.parametrize("value", [NAN, INF, -INF, -1.0])
def test_arrays_that_no_run_can_have_are_refused(small, place, value):
    """Whoever made them took care of the checksum; only weights may be negative."""
    data, path = small
    pickled, caches, text, _ = parts(data)
    model = pickle.loads(pickled)
    if place < 8:
        array, at = (model["W1"], divmod(place, 3)) if place < 6 else (model["W2"], place - 6)
        array[at] = value
        pickled = pickled_model(model)
    else:
        at = 8 * (place - 8)
        caches = caches[:at] + struct.pack("<d", value) + caches[at + 8 :]
    if value == -1.0 and place < 8:
        write(path, signed(pickled + caches + text))
        assert pong_pg.load_checkpoint(path)
    else:
        line = refusal(path, signed(pickled + caches + text))
        assert "is not finite" in line or "the RMSProp cache is negative" in line


STATE = {
    "format": [0, 1, 3, -1, 2.0, HUGE, *TEXT],
    "seed": [-1, 2**63, HUGE, -HUGE, 1.0, *TEXT],
    "games": [-1, 2**63, HUGE, -HUGE, 1.0, *TEXT],
    "running_mean": [NAN, INF, -INF, 1, HUGE, *TEXT],
    "hyperparameters": [{"gamma": 0.99}, 1, "gamma", *TEXT],
    "hyperparameters batch_size": [0, -1, 10**12, HUGE, NAN, 2.0, *TEXT],
    "hyperparameters learning_rate": [0.0, -1e-4, NAN, INF, 1, HUGE, *TEXT],
    "hyperparameters gamma": [-0.1, 1.1, NAN, INF, 1, *TEXT],
    "hyperparameters decay_rate": [-0.1, 1.0, NAN, INF, 0, *TEXT],
    "hyperparameters extra": [1, "x"],
    "extra": [1, "x", {}],
}


@pytest.mark.parametrize("name", STATE)
def test_a_state_that_no_run_can_have_is_refused(small, name):
    data, path = small
    pickled, caches, text, _ = parts(data)
    *outer, last = name.split()
    for wrong in [*STATE[name], "missing"]:
        rest = where = json.loads(text)
        for key in outer:
            where = where[key]
        where[last] = wrong
        if wrong == "missing":
            del where[last]
        if rest != json.loads(text):
            data = pickled + caches + json.dumps(rest).encode() + b"\n"
            assert "checksum" not in refusal(path, signed(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b", ", b","),
        lambda text: text.replace(b": ", b":  "),
        lambda text: text[:-1],
        lambda text: text + b"\n",
        lambda text: b" " + text,
        lambda text: text.replace(b'"seed": 3', b'"seed": 4, "seed": 3'),
        lambda text: text.replace(b'"seed"', b'"s\\u0065ed"'),
        lambda text: text.replace(b"0.99", b"0.990"),
        lambda text: text.replace(b"0.001", b"1e-3"),
        lambda text: text.decode().encode("utf-16"),
        lambda text: b"",
        lambda text: b"[" * 4000,
        lambda text: b'{"seed":' * 500,
        lambda text: b"1" * 4000,
        lambda text: b"\xff" * 100,
        lambda text: text * 100,
        lambda text: b"[" * 10**6,
    ],
)
def test_json_that_save_would_not_write_is_refused(small, change):
    data, path = small
    pickled, caches, text, _ = parts(data)
    assert pong_pg.load_checkpoint(path) and change(text) != text
    refusal(path, signed(pickled + caches + change(text)))


def test_a_pickle_that_save_would_not_write_is_refused(small):
    """It may be loaded to the same arrays: what stands around them must be the same too."""
    data, path = small
    pickled, caches, text, _ = parts(data)
    model = pickle.loads(pickled)
    swapped = {"W2": model["W2"], "W1": model["W1"]}
    fortran = {"W1": np.asfortranarray(model["W1"]), "W2": model["W2"]}
    for other in (
        *(pickle.dumps(model, protocol) for protocol in (0, 1, 2, 4)),
        pickle.dumps(swapped, 3),
        pickle.dumps(fortran, 3),
        pickletools.optimize(pickled),
        pickled.replace(b"multiarray", b"MultiArray"),
        pickled[:-1] + b"0cos\nsystem\n(S'mkdir canary'\ntR.",
    ):
        assert other != pickled
        refusal(path, signed(other + caches + text))


# ---- said ---------------------------------------------------------------------------------------


def test_another_number_of_hidden_units_is_said(short_run, tmp_path, monkeypatch):
    units = pong_pg.H
    for h in (units // 2, units + 1, 2 * units):
        monkeypatch.setattr(pong_pg, "H", h)
        path = tmp_path / f"{h}.p"
        line = refusal(path, (short_run / "save.p").read_bytes())
        assert f"has the size of {units} hidden units, and H is {h}" in line


def test_a_file_that_is_foreign_is_told_from_one_that_is_damaged(shrink, tmp_path):
    """Foreign: with the command that imports it."""
    path, model = tmp_path / "save.p", make_model(2, pong_pg.D)
    pong_pg.save_checkpoint(path, *shrink(2, pong_pg.D))
    data, pickled = path.read_bytes(), pickled_model(model)
    for foreign in (
        pickled,
        pickle.dumps(model, 2),
        signed(pickled + pickle.dumps({"format": 1}, 3)),
        b"",
        b"hello",
    ):
        assert f"python tools/import_model.py {path} new.p" in refusal(path, foreign)
    assert "import_model" not in refusal(path, data[:-1])
