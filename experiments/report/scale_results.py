"""Scores of digits against the number of mixtures in Markdown, for the reproduction page, and what was to be reached."""

from __future__ import annotations

__all__ = ["BARS", "curve"]

from collections.abc import Mapping
from typing import Any

from experiments.report.bars import Bar, bars_of
from experiments.report.digit_results import COLUMNS, DIGIT, MEAN
from experiments.report.lines import cell, head, line
from experiments.report.methods import AUTO, method_named

SHOWN = ("posterior_psnr", MEAN, "energy_score", "spread_ratio", "prior_frechet")
MOST = "N = 11,000"
BARS = (Bar(MOST, MEAN, least=26.0, method=AUTO, source=DIGIT), Bar(MOST, "spread_ratio", least=0.8, method=AUTO, source=DIGIT))


def curve(found: Mapping[str, Any] | None) -> str:
    """Where it comes from, the scores, the bars. found: the content of scale.json, None where there is none."""
    if found is None:
        return "Not in this checkout: `make mnist-grass-scale` makes it."
    titles = {metric: COLUMNS[metric] for metric in SHOWN}
    rows = {
        (f"N = {row['observations']:,}", row["method"], DIGIT, metric): _one(row[metric])
        for row in found["rows"]
        for metric in SHOWN
    }
    made = [f"Preset {found['preset']}, tuning seed {found['seed']}, {found['fresh']:,} fresh observations, made by"]
    made += [f"`{found['command']}`.", ""]
    lines = head(("mixtures", "method"), [title for title, _ in titles.values()])
    for size, method in dict.fromkeys(key[:2] for key in rows):
        cells = (cell(rows[size, method, DIGIT, metric], digits) for metric, (_, digits) in titles.items())
        lines.append(line(size.removeprefix("N = "), method_named(method).label, *cells))
    return "\n".join([*made, *lines, "", *bars_of(rows, BARS, titles)])


def _one(value: float | None) -> dict[str, Any]:
    """A row of a table, of one seed."""
    return {"mean": value, "std": None, "values": [value]}
