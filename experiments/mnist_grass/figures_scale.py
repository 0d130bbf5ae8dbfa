"""The figure of `make mnist-grass-scale`, from its scale.json alone: scores of digits against the number of mixtures."""

from __future__ import annotations

__all__ = ["SCALE", "draw_scale"]

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.methods import FLOOR, OURS, method_named, method_order
from experiments.report.style import caption, save_figure, style

SCALE = "scale.json"
PANELS = {
    "posterior_psnr": "PSNR (dB)",
    "energy_score": "energy score",
    "spread_ratio": "spread ratio",
    "prior_frechet": "Fréchet distance of the prior",
}
MEANS = "posterior_mean_psnr"
SHARE = f"{OURS}_data_"
"""How the paper's rows of a share of its data begin; others but that of all are variations."""


def draw_scale(folder: Path) -> list[Path]:
    """Figures of a folder of results; none where there is no curve, or it cannot be read."""
    path = folder / SCALE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        print(f"figures: {path} cannot be read ({error}) and is left out", file=sys.stderr)
        return []
    style()
    return save_figure(_figure(found), folder / "figures", "scale")


def _figure(found: Mapping[str, Any]) -> Figure:
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11.0, 3.2))
    methods = method_order(row["method"] for row in found["rows"])
    for ax, (metric, title) in zip(axes, PANELS.items(), strict=True):
        for method in methods:
            _curve(ax, found["rows"], method, metric)
        ax.set(title=title, xlabel="mixtures", xscale="log")
    decibels, _, spread, distance = axes
    for method in methods:
        _curve(decibels, found["rows"], method, MEANS)
    _paper(decibels, found["paper"])
    spread.axhline(1.0, color="0.5", ls="-.", lw=1)
    distance.set_ylim(bottom=0)
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles))
    caption(
        figure,
        f"Digits of {found['fresh']:,} fresh observations, tuning seed {found['seed']}. PSNR: of single draws, dashed of means "
        "of 8; the paper's are of single draws, on other photographs, and scored on other digits.",
    )
    return figure


def _curve(ax: Axes, rows: Sequence[Mapping[str, Any]], method: str, metric: str) -> None:
    points = [(r["observations"], r[metric]) for r in rows if r["method"] == method and r[metric] is not None]
    if not points:
        return
    colour, marker, label = method_named(method).look
    line = "--" if metric == MEANS else ":" if method == FLOOR else "-"
    sizes, scores = zip(*points, strict=True)
    named = None if metric == MEANS else label  # once in the legend
    ax.plot(sizes, scores, color=colour, marker=marker, ls=line, ms=4, lw=1.3, label=named)


def _paper(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Its curve, and apart from it the best of its variations."""
    curve = [row for row in rows if row["method"] == OURS or row["method"].startswith(SHARE)]
    for own, mark, label in ((curve, "k*:", "the paper's"), ([r for r in rows if r not in curve], "k+", "its best ablation")):
        if own:
            ax.plot([r["observations"] for r in own], [r["posterior_psnr"] for r in own], mark, ms=6, lw=1, label=label)
