"""One number of a table: its decimals, its spread over seeds, and whether it is the best."""

from __future__ import annotations

__all__ = ["NONE", "Cell", "cell_of", "in_markdown", "paper_cell"]

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.report.columns import Column
from experiments.report.methods import method_named

NONE = "–"


class Cell(NamedTuple):
    """What stands in a cell. value: by which it is sorted; None for what is not measured, and for names."""

    text: str
    value: float | None = None
    best: bool = False


def cell_of(row: Mapping[str, Any] | None, column: Column, best: float | None = None) -> Cell:
    """best: the mean of the best method, if there is one."""
    if row is None or row["mean"] is None:
        return Cell(NONE)
    mean = row["mean"] * column.scale
    # Three figures are enough for what varies between seeds; small numbers get the column's decimals.
    decimals = min(column.decimals, max(0, 2 - math.floor(math.log10(abs(mean))))) if mean else column.decimals
    decimals = max(decimals, min(column.decimals, 2)) if abs(mean) < 1000 else decimals
    text = f"{mean:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    if row["std"] is not None:
        text += f" ± {row['std'] * column.scale:,.{decimals}f}"
    is_best = best is not None and row["mean"] == best and not method_named(row["method"]).knows_truth
    return Cell(text, mean, is_best)


def paper_cell(value: float | None, column: Column) -> Cell:
    """The paper's number."""
    return Cell(NONE) if value is None else Cell(f"{value * column.scale:g}", value * column.scale)


def in_markdown(cell: Cell) -> str:
    """A cell in Markdown."""
    return f"**{cell.text}**" if cell.best else cell.text
