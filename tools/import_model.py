"""Makes a checkpoint of pong_pg.py of another script's, or of an older version's.

    python tools/import_model.py theirs.p save.p     # then: python pong_pg.py --resume

It reads the pickles of the Python 2 original and of its ports, {"W1": (200, 6400), "W2": (200,)},
whatever protocol, order and numpy wrote them: the run then goes on at game 0 with fresh RMSProp
caches. Format 1 of pong_pg.py comes over with its whole state. A pickle can run code as it is
loaded: here nothing is looked up, called or built that it names.
"""

import argparse
import contextlib
import hashlib
import io
import math
import os
import pickle
import reprlib
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pong_pg
from pong_pg import CheckpointError, UsageError


def read_theirs(path):
    """Gives (model, state) of a file in another format; state is None where it holds just a model.

    Raises CheckpointError, which says what is wrong with the file.
    """
    try:
        if not os.path.isfile(path):
            raise CheckpointError("is not there" if not os.path.exists(path) else "is not a file")
        most = 4 * 8 * pong_pg.H * (pong_pg.D + 1) + 2**20
        with open(path, "rb") as file:
            data = file.read(most + 1)
        size = len(data)
        if size > most:
            raise CheckpointError(f"has more than the {most} bytes that a checkpoint can have")
        pickles = Guarded(data)
        model = read_model(SafeUnpickler(pickles).load())
        if pickles.tell() == size:
            return model, None
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise CheckpointError("is damaged: its checksum does not match")
        state = read_state(SafeUnpickler(pickles).load())
        if pickles.tell() != size - 32:
            raise CheckpointError("has something behind its second pickle")
        return model, state
    except (CheckpointError, UsageError) as error:
        raise CheckpointError(f"{path} {error}") from None
    except Exception as error:  # whatever a hostile pickle leads to
        reason = ascii(f"{type(error).__name__}: {error}"[:200])
        raise CheckpointError(f"{path} cannot be imported: {reason}") from None


class Call:
    """What a pickle calls, with what, and the state that it gives to the result."""

    def __init__(self, name, *arguments):
        self.name, self.arguments, self.state = name, arguments, ()

    def __setstate__(self, state):
        self.state = state

    def __repr__(self):
        return self.name


class Guarded(io.BytesIO):
    """A file that ends what would take hours: opcodes by the million, numbers of megabytes, and
    pairs of pairs of pairs, which take twice as long to hash at each level."""

    left, last = 2000, b""  # an honest checkpoint costs 700 at most
    COPY = pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.DUP

    def read(self, size):
        self.last = super().read(size)
        self.left -= 60 if self.last in self.COPY else 1
        if self.left < 0:
            raise pickle.UnpicklingError("too many opcodes")
        return self.last

    def readline(self):
        return super().readline(-1 if self.last in (pickle.STRING, pickle.UNICODE) else 99)


class SafeUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, for a pickle that may be hostile."""

    NAMES = {
        "numpy.core.multiarray._reconstruct",  # makes an empty array; protocols 0 to 4
        "numpy.core.numeric._frombuffer",  # makes an array; protocol 5
        "numpy.ndarray",
        "numpy.dtype",
        "_codecs.encode",  # makes bytes of text; protocols 0 to 2 of Python 3
    }

    def __init__(self, file):
        super().__init__(file, encoding="latin-1")  # Python 2 pickled an array's bytes as a string
        library = self.dispatch
        self.dispatch = {
            **library,
            pickle.BYTEARRAY8[0]: library[pickle.BINBYTES8[0]],  # its own takes what is claimed
            pickle.FRAME[0]: lambda self: self.read(8),  # frames only serve speed
        }
        del self.dispatch[pickle.LONG4[0]]  # no number has more than 255 bytes

    def find_class(self, module, name):
        name = f"{module[:80].replace('numpy._core', 'numpy.core')}.{name[:80]}"
        if name not in self.NAMES:
            raise pickle.UnpicklingError(f"it names {name!a}, which no checkpoint needs")
        return lambda *arguments: Call(name, *arguments)


def read_model(found) -> dict:
    shapes = {"W1": (pong_pg.H, pong_pg.D), "W2": (pong_pg.H,)}
    check_keys("model", found, shapes)
    return {name: read_array(name, found[name], shape) for name, shape in shapes.items()}


def read_array(name, array, expected) -> np.ndarray:
    made_by = getattr(array, "name", None)
    if made_by == "numpy.core.multiarray._reconstruct":
        _, shape, dtype, fortran, data = array.state
    elif made_by == "numpy.core.numeric._frombuffer":
        data, dtype, shape, order = array.arguments
        fortran = order == "F"
    else:
        raise CheckpointError(f"has {brief(array)} for {name}, expected an array")
    if shape != expected:
        sizes = f"expected {expected}, by H and D in pong_pg.py"
        raise CheckpointError(f"has {name} of shape {brief(shape)}, {sizes}")
    dtype = dtype.state[1], dtype.arguments[0]
    if dtype not in (("<", "f8"), (">", "f8")):
        raise CheckpointError(f"has {name} of dtype {brief(dtype)}, expected float64")
    if isinstance(data, Call):
        data, encoding = data.arguments
        if encoding != "latin1":
            raise CheckpointError(f"has {name} in {brief(encoding)}, expected latin1")
    if isinstance(data, str):
        data = data.encode("latin-1")
    return read_floats(name, data, shape, "".join(dtype), "F" if fortran else "C")


def read_floats(name, data, shape, dtype="<f8", order="C") -> np.ndarray:
    size = 8 * math.prod(shape)
    if not isinstance(data, bytes) or len(data) != size:
        raise CheckpointError(f"has {brief(data)} for {name}, expected {size} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order=order)
    if not np.isfinite(array).all():
        raise CheckpointError(f"has numbers in {name} that are not finite")
    return array.astype(np.float64)


def read_state(found) -> dict:
    """The second pickle of format 1: the state, with the caches as bytes."""
    state, whole, finite = pong_pg.new_state(0), pong_pg.whole, pong_pg.finite
    check_keys("state", found, state)
    for name in "hyperparameters", "rmsprop_cache":
        check_keys(name, found[name], state[name])
    rules = {"format": whole, "seed": whole, "games": whole, "running_mean": finite}
    numbers = {**found, **found["hyperparameters"]}
    for name, rule in {**rules, **pong_pg.HYPERPARAMETERS}.items():
        kind = type(numbers[name])
        if kind not in (int, float) or type(rule(numbers[name])) is not kind:
            raise CheckpointError(f"has {brief(numbers[name])} as {name}, which no run has")
    if found["format"] != 1:
        raise CheckpointError(f"is of format {found['format']}, expected 1")
    state.update({name: found[name] for name in ("seed", "games", "running_mean")})
    state["hyperparameters"].update(found["hyperparameters"])
    for name, blank in state["rmsprop_cache"].items():
        title = f"the RMSProp cache of {name}"
        cache = read_floats(title, found["rmsprop_cache"][name], blank.shape)
        if (cache < 0).any():
            raise CheckpointError(f"has negative numbers in {title}")
        state["rmsprop_cache"][name] = cache
    return state


def check_keys(name, found, expected):
    if not isinstance(found, dict) or found.keys() != expected.keys():
        raise CheckpointError(f"has {brief(found)} as {name}, expected a dict of {list(expected)}")


class Brief(reprlib.Repr):
    def repr_bytes(self, x, level):
        return f"{len(x)} bytes"


def brief(value) -> str:
    short = Brief()
    short.maxlevel = 2
    return short.repr(value)


def main(argv=None) -> int:
    """The tool; gives its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = lambda text: parser.exit(2, f"import_model: {text} (see --help)\n")
    parser.add_argument("theirs", metavar="THEIRS", help="the file to import")
    parser.add_argument("ours", metavar="OURS", help="the checkpoint to write, a new name")
    text = "of the run that goes on from a bare model (default: 0)"
    parser.add_argument("--seed", type=pong_pg.whole, metavar="N", help=text)
    args = parser.parse_args(argv)
    try:
        for path in args.ours, f"{args.ours}.tmp":  # which is there while the former is written
            if os.path.lexists(path):
                raise UsageError(f"{path} is there already, and is left as it is")
        with contextlib.suppress(CheckpointError):
            pong_pg.load_checkpoint(args.theirs)
            raise UsageError(f"{args.theirs} is a checkpoint of this version: nothing to import")
        model, state = read_theirs(args.theirs)
        if state and args.seed not in (None, state["seed"]):
            seed = state["seed"]
            raise UsageError(f"--seed {args.seed}: {args.theirs} is of a run of seed {seed}")
        pong_pg.save_checkpoint(args.ours, model, state or pong_pg.new_state(args.seed or 0))
    except (UsageError, CheckpointError, OSError) as error:
        print(f"import_model: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    what = pong_pg.describe(state) if state else "a model alone: 0 games, fresh RMSProp caches"
    print(f"{args.ours} written: {what}")
    print(f"  to continue it: python pong_pg.py --resume --save {args.ours}")
    print(f"  to watch it:    python pong_pg.py --evaluate 1 --render --save {args.ours}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
