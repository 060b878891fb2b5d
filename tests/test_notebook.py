"""examples/pong_from_pixels.ipynb: it runs from the top to the end, and shows what it would show.

After a change to the notebook this executes it, in minutes, and keeps what it shows:

    jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
        examples/pong_from_pixels.ipynb
"""

import copy
import json
import re
import shutil
import sys

import pytest
from helpers import ROOT, put_agent

pytestmark = pytest.mark.skipif(sys.version_info < (3, 9), reason="the notebook needs Python 3.9")
for package in ("ipykernel", "matplotlib", "PIL"):
    pytest.importorskip(package)
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

NOTEBOOK = ROOT / "examples" / "pong_from_pixels.ipynb"
MOST_BYTES = 3_000_000


@pytest.fixture
def committed():
    return nbformat.read(str(NOTEBOOK), as_version=4)


@pytest.fixture
def executed(committed, tmp_path):
    """The notebook, run with little training, in a folder as a clone has it."""
    for name in ("pong_pg.py", "tools/watch.py", "results/agent.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    put_agent(tmp_path)
    (tmp_path / "examples").mkdir()
    notebook = copy.deepcopy(committed)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in tags(cell))
    parameters.source = "GAMES = 8\nSTOP_AFTER = 4"
    where = {"metadata": {"path": str(tmp_path / "examples")}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    return notebook


def tags(cell):
    return cell.metadata.get("tags", [])


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def kinds(cell):
    """What kinds of things stand under a cell: text, pictures, sources."""
    return sorted(sorted(output.get("data", ["text"])) for output in cell.outputs)


def sources(cell):
    """The functions of pong_pg.py that it shows."""
    shown = [output.data for output in cell.outputs if output.output_type == "display_data"]
    return [data["text/plain"] for data in shown if "text/html" in data]


@pytest.mark.slow  # it executes the whole notebook
def test_it_runs_and_shows_what_is_committed(committed, executed):
    """But for what it says of the training, which is shorter here."""
    numbers = shown = 0
    trained = []
    for before, now in zip(code_cells(committed), code_cells(executed)):
        assert kinds(now) == kinds(before), now.source
        assert sources(now) == sources(before), "pong_pg.py has changed: execute the notebook"
        shown += len(sources(now))
        if "varies" in tags(now):
            trained.append(printed(now))
        else:
            assert printed(now) == printed(before), now.source
            numbers += len(printed(now).splitlines())
    assert numbers >= 15 and shown >= 6
    assert trained[0] == "interrupted after 4 games\n"
    assert trained[1].startswith("8 games, running mean")


def test_it_is_committed_executed(committed):
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(output.get("name") != "stderr" for output in outputs), "a warning"
    assert all(output.output_type in ("stream", "display_data") for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 12
    assert NOTEBOOK.stat().st_size < MOST_BYTES


def test_it_names_no_path_and_no_machine(committed):
    for cell in code_cells(committed):
        assert set(cell.metadata) <= {"tags"}
        for output in cell.outputs:
            output.get("data", {}).pop("image/png", None)  # its letters spell anything
    assert set(committed.metadata) == {"kernelspec", "language_info"}
    assert committed.metadata.kernelspec.name == "python3"
    path = r"/(home|root|tmp|Users|usr|opt|work|content)/|[A-Z]:\\|site-packages"
    assert not re.search(path, json.dumps(committed))


def test_what_it_links_to_is_there(committed):
    text = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    local = [link for link in links if not link.startswith("http")]
    assert len(local) >= 5
    for link in local:
        assert (NOTEBOOK.parent / link).exists(), link
