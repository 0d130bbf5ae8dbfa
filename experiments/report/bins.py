"""Scores by bins of what is scored, from rows such as `flux_coverage:mag<21.5,blend>0.3`: a line for each bin and method."""

from __future__ import annotations

__all__ = ["bins"]

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.cells import cell_of
from experiments.report.columns import BINS
from experiments.report.methods import method_named


def bins(rows: Mapping[tuple[str, str, str], Mapping[str, Any]], methods: Sequence[str], newest: str) -> list[str]:
    """In Markdown; nothing where there are none. rows: by method, source and metric. newest: the source."""
    names = list(dict.fromkeys(metric.partition(":")[2] for _, source, metric in rows if source == newest and ":" in metric))
    if not names:
        return []
    count, *scores = BINS
    lines = [["bin", "method", count.title, *(column.head(newest) for column in scores)]]
    for name in sorted(names):
        for method in methods:
            cells = [rows.get((method, newest, f"{column.metric}:{name}")) for column in scores]
            if known := [cell for cell in cells if cell is not None]:
                label = name.replace(",", ", ").replace("<", " < ").replace(">", " ≥ ")
                numbers = [
                    str(known[0]["samples"]),
                    *(cell_of(cell, column) for cell, column in zip(cells, scores, strict=True)),
                ]
                lines.append([label, method_named(method).label, *numbers])
    rule = ["---", "---"] + ["---:"] * len(BINS)
    return ["", *(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))]
