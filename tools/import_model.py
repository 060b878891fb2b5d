"""Makes a checkpoint of pong_pg.py of another script's, or of an older version's.

    python tools/import_model.py theirs.p new.p    # then: python pong_pg.py --resume --save new.p

It reads the pickles of the Python 2 original and of its ports, {"W1": (200, 6400), "W2": (200,)},
whatever protocol, order and numpy wrote them: the run then goes on at game 0 with fresh RMSProp
caches. Format 1 of pong_pg.py comes over with its whole state. Of the checkpoint of a script that
you changed, to Adam say, only the model does. A pickle can run code as it is loaded: here nothing
is looked up, called or built that it names.
"""

import argparse
import contextlib
import hashlib
import io
import math
import os
import pickle
import reprlib
import shlex
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pong_pg
from pong_pg import CheckpointError, UsageError, command

DUMP = "pickle.dump({'W1': np.array(W1), 'W2': np.array(W2)}, open('model.p', 'wb'))"
ANEW = "where it was made, " + DUMP
JOBLIB = "joblib.load it, if you trust it, and " + DUMP
SIGNATURES = [  # how a file that is no pickle begins, what it is, and what to do; {} is its name
    (b"\x1f\x8b", "compressed by gzip", "gzip -dc {} > model.p, and import that"),
    (b"BZh", "compressed by bzip2", "bzip2 -dc {} > model.p, and import that"),
    (b"\xfd7zXZ\0", "compressed by xz", "xz -dc {} > model.p, and import that"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "lz4 -dc {} > model.p, and import that"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -dc {} > model.p, and import that"),
    (b"]\0\0", "compressed by lzma, as joblib does", JOBLIB),
    (b"x\x01", "compressed by zlib, as joblib does", JOBLIB),
    (b"x\x5e", "compressed by zlib, as joblib does", JOBLIB),
    (b"x\x9c", "compressed by zlib, as joblib does", JOBLIB),
    (b"x\xda", "compressed by zlib, as joblib does", JOBLIB),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"\x93NUMPY", "a file of np.save", "np.load it, and " + DUMP),
    (
        b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "a file of torch.save",
        "torch.load it, and " + DUMP,
    ),
    (b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it", "load it with Keras, and " + DUMP),
    (b"version https://git-lfs", "Git LFS's pointer to the file", "git lfs pull brings it"),
    (b"<", "a web page", "download the file itself (on GitHub: Raw)"),
    (b"{", "JSON", "json.load it, and " + DUMP),
    (b"[", "JSON", "json.load it, and " + DUMP),
]
IN_ZIP = [  # how the name of the first file in a zip archive ends, what that is, and what to do
    (".npy", "a file of np.savez", "np.load it, and " + DUMP),
    (".pkl", "a file of torch.save", "torch.load it, and " + DUMP),
    (".json", "a file of Keras", "load it with Keras, and " + DUMP),
    ("", "a zip archive", "unpack it first"),
]
DICTS = "collections.OrderedDict", "collections.defaultdict"
STATE = {  # of format 1: the type of each number, the least and the greatest
    "format": (int, 1, 1),
    "seed": (int, *pong_pg.WHOLE),
    "games": (int, *pong_pg.WHOLE),
    "running_mean": (float, -sys.float_info.max, sys.float_info.max),
}
HYPERPARAMETERS = {name: (type(ends[0]), *ends) for name, ends in pong_pg.LIMITS.items()}


def read_theirs(path):
    """Gives (model, state, remarks) of a file in another format.

    `state` is None where the file holds just a model; `remarks` is a list of lines on what was done
    to it. Raises CheckpointError, a line that says what the file is and what to do.
    """
    guarded = None
    try:
        if not os.path.isfile(path):
            raise CheckpointError("is not there" if not os.path.exists(path) else "is not a file")
        with open(path, "rb") as file:
            refuse_by_first_bytes(file.read(512), path)
            guarded = Guarded(file)
            return read_pickles(guarded)
    except (CheckpointError, UsageError) as error:
        raise CheckpointError(f"{path} {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # whatever a hostile pickle leads to
        raise CheckpointError(f"{path} {damage(guarded, error)}") from None


def damage(guarded, error) -> str:
    if guarded.repaired:
        return "went through a transfer as text (its lines end in \\r\\n): fetch it as binary"
    if isinstance(error, EOFError):
        return "is cut off in the middle of a pickle: save or download it again"
    return f"is not a pickle, or a damaged one: it begins with {guarded.head[:20]!a}"


def refuse_by_first_bytes(head, path):
    if not head:
        raise CheckpointError("is empty: save or download it again")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")  # what an editor puts before text
    for start, what, cure in SIGNATURES:
        if text.startswith(start):
            raise CheckpointError(f"is {what}: {cure.replace('{}', shlex.quote(str(path)))}")
    if head.startswith(b"PK\3\4"):
        length = int.from_bytes(head[26:28], "little")
        name = head[30 : 30 + length].decode("latin-1")
        what, cure = next((what, cure) for end, what, cure in IN_ZIP if name.endswith(end))
        raise CheckpointError(f"is {what}: {cure}")


def read_pickles(guarded):
    """A pickle of the model, and what may be behind it: the state of format 1, or a stranger's."""
    file, remarks = guarded.file, []
    model = read_model(SafeUnpickler(guarded).load())
    if guarded.repaired:
        remarks.append("its lines end in \\r\\n, as on Windows, and were read as they were written")
    end = file.tell()
    behind = file.read(most_bytes())
    if is_ours(behind):
        if end > most_bytes():
            raise CheckpointError(f"holds more than two arrays: {ANEW}")
        file.seek(0)
        data = file.read(end + len(behind))
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise CheckpointError("is damaged: its checksum does not match")
        if not data[:-32].endswith(b"}\n"):  # as format 2 does
            return model, read_state(data[end:-32]), remarks
        remarks.append("a changed script wrote it: its model is taken, and its caches are not")
    elif behind.strip():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != pickle.STOP:
            raise CheckpointError("is damaged: there is something behind its model, and no pickle")
        remarks.append("it holds more than the model: what is behind it is left out")
    return model, None, remarks


def is_ours(behind) -> bool:
    """Two of the words of a state are enough: one of them may be damaged."""
    words = b"running_mean", b"hyperparameters", b"rmsprop_cache"
    return sum(word in behind for word in words) >= 2


class Call:
    """What a pickle calls, with what, and the state and the items that it gives to the result."""

    def __init__(self, name, *arguments):
        self.name, self.arguments, self.state, self.items = name, arguments, (), {}

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.items[key] = value

    def __repr__(self):
        return self.name


class Guarded:
    """A file that ends what would take hours: opcodes by the million, numbers of megabytes, and
    pairs of pairs of pairs, which take twice as long to hash at each level.

    What is larger than the arrays of this network is passed over and reads as empty: so the shape,
    which says what is wrong, is found in a file of any size.
    """

    COPY = pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.DUP

    def __init__(self, file):
        self.file, self.last = file, b""
        self.opcodes = 2000  # that are left; an honest checkpoint costs 700 at most
        self.room = most_bytes()  # that are left
        file.seek(0)
        self.head = file.read(200)
        self.from_windows = self.head.partition(b"\n")[0].endswith(b"\r")
        self.repaired = False  # is it from Windows, and was any line of it read?
        file.seek(0)

    def read(self, size):
        self.spend(100 if self.last in self.COPY else 1)
        if size > self.room // 2:  # the most that an array takes outside protocol 0
            self.file.seek(size, os.SEEK_CUR)
            return b""
        self.last = self.file.read(size)
        self.room -= size
        if len(self.last) < size:
            raise EOFError
        return self.last

    def spend(self, opcodes):
        self.opcodes -= opcodes
        if self.opcodes < 0:
            raise CheckpointError(f"holds more than two arrays (lists of numbers?): {ANEW}")

    def readline(self):
        if self.last in (pickle.STRING, pickle.UNICODE):
            line = self.read_text()
        else:
            line = self.file.readline(99)
        if self.from_windows and line.endswith(b"\r\n"):
            self.repaired = True
            line = line[:-2] + b"\n"
        return line

    def read_text(self):
        line = self.file.readline(self.room)
        if line.endswith(b"\n"):
            self.room -= len(line)
            return line
        while line:
            self.spend(1)
            line = self.file.readline(2**20)
            if line.endswith(b"\n"):
                return b"''\n"
        raise EOFError


def most_bytes() -> int:
    """What W1 and W2 can take in a pickle: in protocol 0 a byte may be written as four."""
    return 4 * 8 * pong_pg.H * (pong_pg.D + 1) + 2**20


class SafeUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, for a pickle that may be hostile."""

    NAMES = {
        "numpy.core.multiarray._reconstruct",  # makes an empty array; protocols 0 to 4
        "numpy.core.numeric._frombuffer",  # makes an array; protocol 5
        "numpy.ndarray",
        "numpy.matrix",
        "numpy.matrixlib.defmatrix.matrix",
        "numpy.dtype",
        "_codecs.encode",  # makes bytes of text; protocols 0 to 2 of Python 3
        "collections.OrderedDict",
        "collections.defaultdict",
        *(f"builtins.{kind}" for kind in ("dict", "float", "int", "list")),  # of its new items
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
        name = f"{module[:80]}.{name[:80]}"
        for new, old in ("numpy._core", "numpy.core"), ("__builtin__", "builtins"):
            name = name.replace(new, old)
        if not name.replace(".", "").isidentifier():
            raise pickle.UnpicklingError("a text, by chance with the letters of opcodes")
        if name not in self.NAMES:
            raise CheckpointError(f"names {name!a}, which no checkpoint needs: {ANEW}")
        return lambda *arguments: Call(name, *arguments)


def read_model(found) -> dict:
    H, D = pong_pg.H, pong_pg.D
    found = plain_dict(found)
    check_keys("model", found, ["W1", "W2"])
    W1 = read_array("W1", found["W1"], [(H, D)])
    W2 = read_array("W2", found["W2"], [(H,), (1, H), (H, 1)])
    return {"W1": W1, "W2": W2.reshape(H)}


def plain_dict(found):
    """The dict that an OrderedDict or a defaultdict is; anything else as it is."""
    if not isinstance(found, Call) or found.name not in DICTS:
        return found
    pairs = ()
    if found.name == "collections.OrderedDict" and found.arguments:  # Python 2 wrote it so
        pairs = found.arguments[0]
    return {**dict(pairs), **found.items}


def read_array(name, array, expected) -> np.ndarray:
    """float64, in one of the shapes that are expected."""
    made_by = getattr(array, "name", None)
    if made_by == "numpy.core.multiarray._reconstruct":
        _, shape, dtype, fortran, data = array.state
    elif made_by == "numpy.core.numeric._frombuffer":
        data, dtype, shape, order = array.arguments
        fortran = order == "F"
    else:
        raise CheckpointError(f"has {brief(array)} for {name}, expected an array: {ANEW}")
    if shape not in expected:
        what = f"has {name} of shape {brief(shape)}, expected {expected[0]}"
        raise CheckpointError(what + advice(name, shape))
    order, kind = dtype.state[1], dtype.arguments[0]
    if order not in ("<", ">") or kind not in ("f2", "f4", "f8"):
        what = f"has {name} of dtype {brief((order, kind))}, expected float64"
        raise CheckpointError(f"{what}: save {name}.astype(float)")
    if isinstance(data, Call):
        data, encoding = data.arguments
        if encoding != "latin1":
            raise CheckpointError(f"has {name} in {brief(encoding)}, expected latin1")
    if isinstance(data, str):
        data = data.encode("latin-1")
    return read_floats(name, data, shape, order + kind, "F" if fortran else "C")


def advice(name, shape) -> str:
    """How the line about a wrong shape ends: with what to do, where that can be known."""
    H, D = pong_pg.H, pong_pg.D
    if shape == (D, H):
        return f": save {name}.T"
    pair = isinstance(shape, tuple) and len(shape) == 2
    if name != "W1" or not pair or not all(type(n) is int and 0 < n <= 210 * 160 for n in shape):
        return ", by H and D in pong_pg.py"
    settings = []
    if shape[0] != H:
        settings.append(f"H = {shape[0]}")
    if shape[1] != D:
        settings.append(crop(shape[1]))
    return f": set {' and '.join(settings)} in pong_pg.py"


def crop(inputs) -> str:
    """The settings of a script with so many inputs, if it crops from row 35 on, as most do."""
    rows, rest = divmod(inputs, 80)
    end = 35 + 2 * rows
    if rest or not 35 < end <= 210:
        return f"D = {inputs} and FIELD to that many of the 210 x 160 pixels"
    return f"D = {rows} * 80 and FIELD = np.s_[35:{end}:2, ::2]"


def read_floats(name, data, shape, dtype="<f8", order="C") -> np.ndarray:
    size = np.dtype(dtype).itemsize * math.prod(shape)
    if not isinstance(data, bytes) or len(data) != size:
        raise CheckpointError(f"has {brief(data)} for {name}, expected {size} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order=order)
    if not np.isfinite(array).all():
        raise CheckpointError(f"has numbers in {name} that are not finite")
    return array.astype(np.float64)


def read_state(data) -> pong_pg.State:
    """The second pickle of format 1: the state, with the caches as bytes."""
    behind = io.BytesIO(data)
    found = SafeUnpickler(Guarded(behind)).load()
    if behind.read(1):
        raise CheckpointError("has something behind its second pickle")
    check_keys("state", found, [*STATE, "hyperparameters", "rmsprop_cache"])
    check_keys("hyperparameters", found["hyperparameters"], HYPERPARAMETERS)
    check_numbers(found, STATE)
    check_numbers(found["hyperparameters"], HYPERPARAMETERS)
    check_keys("rmsprop_cache", found["rmsprop_cache"], ["W1", "W2"])
    caches = {}
    for name, shape in ("W1", (pong_pg.H, pong_pg.D)), ("W2", (pong_pg.H,)):
        title = f"the RMSProp cache of {name}"
        caches[name] = read_floats(title, found["rmsprop_cache"][name], shape)
        if (caches[name] < 0).any():
            raise CheckpointError(f"has negative numbers in {title}")
    return pong_pg.State(
        seed=found["seed"],
        games=found["games"],
        running_mean=found["running_mean"],
        hyperparameters=pong_pg.Hyperparameters(**found["hyperparameters"]),
        rmsprop_cache=caches,
    )


def check_keys(name, found, expected):
    if not isinstance(found, dict) or found.keys() != set(expected):
        what = f"has {brief(found)} as {name}, expected a dict of {list(expected)}"
        raise CheckpointError(f"{what}: {ANEW}" if name == "model" else what)


def check_numbers(found, rules):
    for name, (kind, least, greatest) in rules.items():
        number = found[name]
        if type(number) is not kind or not least <= number <= greatest:
            raise CheckpointError(f"has {brief(number)} as {name}, which no run has")


class Brief(reprlib.Repr):
    def repr_bytes(self, x, level):
        return f"{len(x)} bytes"


def brief(value) -> str:
    short = Brief()
    short.maxlevel = 2
    return short.repr(value)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"import_model: {message} (see --help)\n")


def main(argv=None) -> int:
    """The tool; gives its exit status."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=plain)
    parser.add_argument("theirs", metavar="THEIRS", help="the file to import")
    parser.add_argument("ours", metavar="OURS", help="the checkpoint to write, a new name")
    text = "of the run that goes on from a bare model (default: 0)"
    parser.add_argument("--seed", **pong_pg.limited(*pong_pg.WHOLE), help=text)
    args = parser.parse_args(argv)
    try:
        if os.path.lexists(args.ours):
            raise UsageError(f"{args.ours} is there already, and is left as it is")
        with contextlib.suppress(CheckpointError):
            pong_pg.load_checkpoint(args.theirs)
            raise UsageError(f"{args.theirs} is a checkpoint of this version: nothing to import")
        model, state, remarks = read_theirs(args.theirs)
        if state and args.seed not in (None, state.seed):
            of = f"{args.theirs} is of a run of seed {state.seed}"
            raise UsageError(f"--seed {args.seed}: {of}")
        what = "a model alone: 0 games, fresh RMSProp caches"
        if state:
            what = f"{state.games} games, running mean {state.running_mean:.2f}, seed {state.seed}"
        else:
            state = pong_pg.State(args.seed or 0, pong_pg.init_cache(model))
        with pong_pg.owned("OURS", args.ours):
            pong_pg.save_checkpoint(args.ours, model, state)
    except (UsageError, CheckpointError, OSError) as error:
        print(f"import_model: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    for remark in remarks:
        print(f"{args.theirs}: {remark}")
    print(f"{args.ours} written: {what}")
    print(f"  to continue it: {command('--resume', '--save', args.ours)}")
    print(f"  to watch it:    {command('--evaluate', '1', '--render', '--save', args.ours)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
