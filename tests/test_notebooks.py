"""The notebooks are stored as they ran: with outputs, without errors, small; `make acceptance` runs them again."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "docs" / "notebooks"
NOTEBOOKS = ["calcium", "spiking"]
MAX_BYTES = 400_000


def code_cells(path: Path) -> list[dict[str, Any]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(cells: list[dict[str, Any]], kind: str) -> list[str]:
    """Return all outputs of a MIME type as text."""
    data = [output.get("data", {}) for cell in cells for output in cell["outputs"]]
    return ["".join(each[kind]) for each in data if kind in each]


def test_there_are_no_other_notebooks() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_as_it_ran(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] in ("error", "stream")]
    assert len(outputs(cells, "image/png")) == 4
    assert any("fraction_of_ceiling" in table for table in outputs(cells, "text/html"))
    captions = outputs(cells, "text/markdown")
    assert any("receptive field" in text.lower() for text in captions)
    assert any("predicted" in text for text in captions)
    assert path.stat().st_size < MAX_BYTES
    assert str(Path.home()) not in path.read_text(encoding="utf-8")


@pytest.mark.acceptance
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_scores_as_stored(name: str, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the extra `notebooks` is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")
    pytest.importorskip("ipykernel", reason="the extra `notebooks` is not installed")
    stored = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(stored, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    nbformat.write(notebook, tmp_path / "again.ipynb")
    before, after = (mean_scores(code_cells(path)) for path in (stored, tmp_path / "again.ipynb"))
    assert before.keys() == after.keys()
    # another processor may round differently
    assert after == pytest.approx(before, abs=0.02)


def mean_scores(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of every score in the notebook's table, by stimulus and score."""
    (table,) = [text for text in outputs(cells, "text/plain") if "fraction_of_ceiling" in text]
    found, stimulus = {}, ""
    for line in table.splitlines():
        words = line.split()
        if len(words) < 4 or not words[-1].isdigit():
            continue
        stimulus = words[0] if len(words) == 5 else stimulus
        found[f"{stimulus} {words[-4]}"] = float(words[-3])
    return found
