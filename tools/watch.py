"""Shows the agent that ships play a game, wherever your own training has left it.

    python tools/watch.py              # in a window
    python tools/watch.py --seed 102   # another game; other flags of --evaluate go here too

A first run from scratch keeps the save.p that it finds as save.p.1. Here the agent is known by its
content, its number of games and its running mean.
Where training went on from it, git brings it back as save.p.1 or the next name that is free.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pong_pg

ROOT = Path(__file__).resolve().parent.parent
GAMES = 37_690  # of the agent, as in the last line of its log, results/agent.csv
RUNNING_MEAN = 7.886829482459917


def find_agent(folder=ROOT):
    """The path of the agent that ships among save.p, save.p.1, ... in `folder`, or None."""
    for path in sorted(Path(folder).glob("save.p*")):
        try:
            state = pong_pg.load_checkpoint(path)[1]
        except pong_pg.CheckpointError:
            continue
        if (state.games, state.running_mean) == (GAMES, RUNNING_MEAN):
            return path
    return None


def get_agent(folder=ROOT):
    """The agent's path. Training may have gone on from it: git then brings it back. OSError."""
    found = find_agent(folder)
    if found is None and shutil.which("git"):
        show = ["git", "-C", str(folder), "show", "HEAD:./save.p"]
        done = subprocess.run(show, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            brought_back = pong_pg.free_name(f"{folder}/save.p")
            with open(brought_back, "xb") as file:  # and never over what a run keeps just now
                file.write(done.stdout)
            found = find_agent(folder)
            if found is None:
                os.remove(brought_back)
    if found is None:
        text = f"the agent that ships is not in {folder}, or pong_pg.py was changed and"
        raise FileNotFoundError(f"{text} it does not fit: download save.p or pong_pg.py once more")
    return found


def main(flags) -> int:
    if "-h" in flags or "--help" in flags:
        print(__doc__)
        return 0
    if any(flag.startswith("--save") for flag in flags):
        play = "python pong_pg.py --evaluate 1 --render --save PATH"
        print(f"watch: this shows the agent that ships; another: {play}", file=sys.stderr)
        return 2
    try:
        agent = get_agent()
    except OSError as error:
        print(f"watch: {error}", file=sys.stderr)
        return 2
    print(f"{agent.name} plays", flush=True)
    command = [sys.executable, str(ROOT / "pong_pg.py"), "--evaluate", "1", "--render"]
    try:
        return subprocess.call([*command, "--save", agent.name, *flags], cwd=ROOT)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
