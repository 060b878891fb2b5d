"""Makes a checkpoint of pong_pg.py of another script's, or of an older version's.

    python tools/import_model.py theirs.p save.p     # then: python pong_pg.py --resume

It reads the pickles of the Python 2 original and of its ports, {"W1": (200, 6400), "W2": (200,)},
whatever protocol, order and numpy wrote them: the run then goes on at game 0 with fresh RMSProp
caches. Format 1 of pong_pg.py comes over with its whole state. A pickle can run code as it is
loaded: here nothing is looked up, called or built that it names.
"""

import argparse
import hashlib
import io
import math
import os
import pickle
import reprlib
import struct
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
        size, most = os.path.getsize(path), 4 * 8 * pong_pg.H * (pong_pg.D + 1) + 2**20
        if size > most:
            raise CheckpointError(f"has {size} bytes, expected at most {most}")
        with open(path, "rb") as file:
            data = file.read(most)
        pickles = io.BytesIO(data)
        model = read_model(SafeUnpickler(pickles, array_names()).load())
        if pickles.tell() == size:
            return model, None
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise CheckpointError("is damaged: its checksum does not match")
        state = read_state(SafeUnpickler(pickles, {}).load(), model)
        if pickles.tell() != size - 32:
            raise CheckpointError("has something behind its second pickle")
        return model, state
    except (CheckpointError, UsageError) as error:
        raise CheckpointError(f"{path} {error}") from None
    except Exception as error:  # whatever a hostile pickle leads to
        reason = ascii(f"{type(error).__name__}: {error}"[:200])
        raise CheckpointError(f"{path} cannot be imported: {reason}") from None


class SafeUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, for a pickle that may be hostile.

    The globals a pickle names are looked up in `names` and nowhere else.
    """

    class Fuse(dict):
        """Opcodes: an honest checkpoint has 100 or so. This stops the bombs of a million."""

        left, last = 1000, 0

        def __getitem__(self, opcode):
            self.left, self.last = self.left - 1, opcode
            if self.left < 0:
                raise pickle.UnpicklingError("too many opcodes")
            return super().__getitem__(opcode)

    def __init__(self, file, names):
        super().__init__(file, encoding="latin-1")  # Python 2 pickled an array's bytes as a string
        self.names = names
        self.dispatch = self.Fuse(pickle._Unpickler.dispatch)
        self.dispatch[pickle.BYTEARRAY8[0]] = SafeUnpickler.load_bytearray
        self.dispatch[pickle.FRAME[0]] = lambda self: self.read(8)  # frames only serve speed
        texts = pickle.STRING[0], pickle.UNICODE[0]  # a number or name of megabytes takes hours
        self._file_readline = lambda: file.readline(-1 if self.dispatch.last in texts else 99)

    def load_bytearray(self):  # the library's takes the memory that is claimed before it reads
        self.append(self.read(struct.unpack("<Q", self.read(8))[0]))

    def find_class(self, module, name):
        name = f"{module[:80].replace('numpy._core', 'numpy.core')}.{name[:80]}"
        if name not in self.names:
            raise pickle.UnpicklingError(f"it names {name!a}, which no checkpoint needs")
        return self.names[name]


class PickledDtype:
    def __init__(self, code, *_):
        self.order, self.code = None, code

    def __setstate__(self, state):
        self.order = state[1]


class PickledArray:
    """What the pickle of an array says of it, with nothing done about it."""

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.data = state


def pickled_array_5(data, dtype, shape, order):  # protocol 5 pickles arrays in one call
    array = PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def pickled_bytes(text, encoding):  # protocols 0 to 2 write bytes as text
    if encoding != "latin1":
        raise ValueError("bytes in another encoding than latin1")
    return text  # encoded once its length is known to be right


def array_names() -> dict:
    """Stand-ins for what the pickle of an array names; new ones, should a pickle change them."""
    return {
        "numpy.core.multiarray._reconstruct": lambda *_: PickledArray(),
        "numpy.core.numeric._frombuffer": lambda *args: pickled_array_5(*args),
        "numpy.ndarray": None,
        "numpy.dtype": lambda *args: PickledDtype(*args),
        "_codecs.encode": lambda *args: pickled_bytes(*args),
    }


def read_model(pickled) -> dict:
    expected = {"W1": (pong_pg.H, pong_pg.D), "W2": (pong_pg.H,)}
    if not isinstance(pickled, dict) or pickled.keys() != expected.keys():
        raise CheckpointError(f"holds {brief(pickled)}, expected a dict of W1 and W2")
    model = {}
    for name, shape in expected.items():
        array = pickled[name]
        if not isinstance(array, PickledArray):
            raise CheckpointError(f"has {brief(array)} for {name}, expected an array")
        if array.shape != shape:
            raise CheckpointError(f"has {name} of shape {brief(array.shape)}, expected {shape}")
        dtype = getattr(array.dtype, "order", None), getattr(array.dtype, "code", None)
        if dtype not in (("<", "f8"), (">", "f8")):
            raise CheckpointError(f"has {name} of dtype {brief(dtype)}, expected float64")
        data = array.data.encode("latin-1") if isinstance(array.data, str) else array.data
        model[name] = read_floats(name, data, shape, "".join(dtype), "F" if array.fortran else "C")
    return model


def read_floats(name, data, shape, dtype="<f8", order="C") -> np.ndarray:
    size = 8 * math.prod(shape)
    if not isinstance(data, bytes) or len(data) != size:
        raise CheckpointError(f"has {brief(data)} for {name}, expected {size} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order=order)
    if not np.isfinite(array).all():
        raise CheckpointError(f"has numbers in {name} that are not finite")
    return np.array(array, np.float64, order="F")


def read_state(pickled, model) -> dict:
    """The state of a checkpoint of format 1."""
    like = {**pong_pg.new_state(0), "rmsprop_cache": {"W1": b"", "W2": b""}}
    check_alike("state", pickled, like)
    if pickled["format"] != 1:
        raise CheckpointError(f"is of format {brief(pickled['format'])}, expected 1")
    for name, check in pong_pg.HYPERPARAMETERS.items():
        check(pickled["hyperparameters"][name])
    pong_pg.whole(pickled["seed"])
    pong_pg.whole(pickled["games"])
    pong_pg.finite(pickled["running_mean"])
    cache = {}
    for name, data in pickled["rmsprop_cache"].items():
        cache[name] = read_floats(f"the RMSProp cache of {name}", data, model[name].shape)
        if (cache[name] < 0).any():
            raise CheckpointError(f"has negative numbers in the RMSProp cache of {name}")
    return {**like, **pickled, "format": like["format"], "rmsprop_cache": cache}


def check_alike(name, found, like):
    """Has `found` the type of `like` and, where that is a dict, its keys with values alike?"""
    if type(found) is not type(like):
        raise CheckpointError(f"has {brief(found)} as {name}, expected {type(like).__name__}")
    if isinstance(like, dict):
        if found.keys() != like.keys():
            raise CheckpointError(f"has {brief(found)} as {name}, expected {', '.join(like)}")
        for key in like:
            check_alike(key, found[key], like[key])


class Brief(reprlib.Repr):
    def repr_bytes(self, x, level):
        return f"{len(x)} bytes"

    def repr_int(self, x, level):
        return super().repr_int(x, level) if x.bit_length() < 99 else "a huge number"


def brief(value) -> str:
    short = Brief()
    short.maxlevel = 2
    return short.repr(value).encode("ascii", "backslashreplace").decode()


def main(argv=None) -> int:
    """The tool; gives its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = lambda text: parser.exit(2, f"import_model: {text} (see --help)\n")
    parser.add_argument("theirs", metavar="THEIRS", help="the file to import")
    parser.add_argument("ours", metavar="OURS", help="the checkpoint to write, a new name")
    text = "of the run that goes on from a bare model (default: 0)"
    parser.add_argument("--seed", type=pong_pg.whole, metavar="N", default=0, help=text)
    args = parser.parse_args(argv)
    try:
        if os.path.lexists(args.ours):
            raise UsageError(f"{args.ours} is there already, and is left as it is")
        if is_ours(args.theirs):
            raise UsageError(f"{args.theirs} is a checkpoint of this version: nothing to import")
        model, state = read_theirs(args.theirs)
        pong_pg.save_checkpoint(args.ours, model, state or pong_pg.new_state(args.seed))
    except (UsageError, CheckpointError, OSError) as error:
        print(f"import_model: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    what = pong_pg.describe(state) if state else "a model alone: 0 games, fresh RMSProp caches"
    print(f"{args.ours} written: {what}")
    print(f"  to continue it: python pong_pg.py --resume --save {args.ours}")
    print(f"  to watch it:    python pong_pg.py --evaluate 1 --render --save {args.ours}")
    return 0


def is_ours(path) -> bool:
    try:
        pong_pg.load_checkpoint(path)
    except CheckpointError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
