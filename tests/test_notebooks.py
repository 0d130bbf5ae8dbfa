"""Notebooks as they are committed: each pair says the same, and shows what came out. `make notebooks` runs them."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))


def test_there_are_pairs() -> None:
    assert NAMES and sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_says_the_same_and_shows_what_came_out(name: str) -> None:
    edited = jupytext.read(NOTEBOOKS / f"{name}.py")
    shown = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert [(cell.cell_type, cell.source) for cell in edited.cells] == [(cell.cell_type, cell.source) for cell in shown.cells]
    outputs = [output for cell in shown.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    numbers = [cell.execution_count for cell in shown.cells if cell.cell_type == "code"]
    assert numbers == list(range(1, len(numbers) + 1)), "not run from top to bottom"
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_links_of_notebooks_lead_to_files(name: str) -> None:
    cells = jupytext.read(NOTEBOOKS / f"{name}.py").cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    targets = [part.split(")")[0].split("#")[0] for part in text.split("](")[1:]]
    assert targets and all((NOTEBOOKS / target).exists() for target in targets if "://" not in target)
