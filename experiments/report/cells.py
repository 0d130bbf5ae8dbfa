"""One number of a table in Markdown: its decimals, its spread over seeds, and whether it is the best."""

from __future__ import annotations

__all__ = ["NONE", "cell_of"]

import math
from collections.abc import Mapping
from typing import Any

from experiments.report.columns import Column
from experiments.report.methods import method_named

NONE = "–"


def cell_of(row: Mapping[str, Any] | None, column: Column, best: float | None = None) -> str:
    """best: the mean of the best method, if there is one."""
    if row is None or row["mean"] is None:
        return NONE
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
    return f"**{text}**" if is_best else text
