"""Scores by bins of what is scored, from rows such as `flux_coverage:mag<21.5,blend>0.3`: a line for each bin and method."""

from __future__ import annotations

__all__ = ["bins"]

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.cells import Cell, cell_of
from experiments.report.columns import BINS
from experiments.report.methods import method_named


def bins(
    rows: Mapping[tuple[str, str, str], Mapping[str, Any]], methods: Sequence[str], newest: str
) -> tuple[list[str], list[list[Cell]]]:
    """The head and the lines, which may be none. rows: by method, source and metric. newest: the source."""
    names = {metric.partition(":")[2] for _, source, metric in rows if source == newest and ":" in metric}
    count, *scores = BINS
    lines = []
    for name in sorted(names):
        for method in methods:
            found = [rows.get((method, newest, f"{column.metric}:{name}")) for column in scores]
            if known := [row for row in found if row is not None]:
                label = name.replace(",", ", ").replace("<", " < ").replace(">", " ≥ ")
                galaxies = Cell(str(known[0]["samples"]), known[0]["samples"])
                numbers = [cell_of(row, column) for row, column in zip(found, scores, strict=True)]
                lines.append([Cell(label), Cell(method_named(method).label), galaxies, *numbers])
    return ["bin", "method", count.title, *(column.head(newest) for column in scores)], lines
