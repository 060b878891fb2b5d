"""Writes a copy of pong_pg.py with a change of docs/change_it.md in it, to train and compare.

    python tools/change.py adam                    # writes adam.py
    python adam.py --save adam.p --log adam.csv    # trains it
    python tools/change.py grey --out my.py        # under another name

`--help` lists the names.
"""

import argparse
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pong_pg
from pong_pg import UsageError

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "change_it.md"
CHANGES = {  # the name of each and its heading on the page
    "hidden-units": "100 hidden units",
    "leaky-relu": "A leaky ReLU",
    "second-layer": "A second hidden layer of 200",
    "adam": "Adam instead of RMSProp",
    "entropy": "An entropy bonus",
    "baseline": "A baseline by a running mean of returns",
    "run-on": "Returns that run on over the points",
    "frame": "The frame itself instead of the difference",
    "crop": "The crop without its lowest ten rows",
    "grey": "Grey frames of the whole screen",
}


def read_hunks(name: str) -> list:
    """Returns (where, old text, new text) of each hunk of a change."""
    chapter = PAGE.read_text(encoding="utf-8").partition(f"\n## {CHANGES[name]}\n")[2]
    diff = chapter.partition("```diff\n")[2].partition("```\n")[0]
    hunks = []
    for hunk in re.split("^@@ ", diff, flags=re.M)[1:]:
        where, *lines = hunk.splitlines()
        old = [line[1:] + "\n" for line in lines if line[0] in " -"]
        new = [line[1:] + "\n" for line in lines if line[0] in " +"]
        hunks.append((where, "".join(old), "".join(new)))
    return hunks


def apply(name: str) -> str:
    """Returns the text of pong_pg.py with a change in it. Raises UsageError if it does not fit."""
    text = (ROOT / "pong_pg.py").read_text(encoding="utf-8")
    for where, old, new in read_hunks(name):
        if text.count(old) != 1:
            raise UsageError(f"{name} does not fit: pong_pg.py was edited in {where}")
        text = text.replace(old, new)
    return text


def parse_arguments(argv):
    text = "Write a copy of pong_pg.py with a change of docs/change_it.md in it."
    parser = argparse.ArgumentParser(description=text)
    parser.error = lambda text: parser.exit(2, f"change: {text} (--help shows the names)\n")
    parser.add_argument("name", metavar="NAME", choices=CHANGES, help=", ".join(CHANGES))
    parser.add_argument("--out", metavar="PATH", help="the copy (default: NAME.py)")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_arguments(argv)
    path = args.out or f"{args.name}.py"
    try:
        script = apply(args.name)
        with open(path, "x", encoding="utf-8") as file:  # never over one that has been edited
            try:
                file.write(script)
                file.flush()
            except OSError:  # a full disk
                os.remove(path)
                raise
    except FileExistsError:
        print(f"change: {path} is there already: --out PATH takes another name", file=sys.stderr)
        return 2
    except (UsageError, OSError) as error:
        print(f"change: {error}", file=sys.stderr)
        return 2
    stem = os.path.splitext(path)[0]
    flags = ["--save", f"{stem}.p", "--log", f"{stem}.csv"]
    command = pong_pg.command(*flags, script=os.path.abspath(path))
    print(f"{path} is written. It trains with: {command}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
