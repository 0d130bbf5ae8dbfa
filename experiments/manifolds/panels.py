"""Panels, legends and titles that the figures of the manifold experiments share."""

from __future__ import annotations

__all__ = ["fraction", "is_leftmost", "legend", "panels", "title"]

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.manifolds.problems import PROBLEMS
from experiments.report.methods import CHOSEN, OURS, RIVALS, method_named


def fraction(problem: str) -> float:
    """f_mix of a mixed problem."""
    return PROBLEMS[problem].mixing[0][1]


def title(problem: str) -> str:
    """A problem's name above a panel."""
    name = f"$f_\\mathrm{{mix}}$ = {fraction(problem):g}" if problem.startswith("mixed-") else problem.replace("-", " ")
    if problem.endswith("-separate"):
        return name + ", separate A"
    return name + ", $\\mathbb{R}^2$" if problem.endswith("-r2") else name


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend above all panels, where it covers nothing: methods in the order of the table, then the rest."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    methods = [method_named(name).short for name in (OURS, CHOSEN, *RIVALS)]
    labels = sorted(handles, key=lambda label: methods.index(label) if label in methods else len(methods))
    columns = max(1, int(figure.get_figwidth() / 1.9))
    figure.legend([handles[label] for label in labels], labels, loc="outside upper center", ncols=min(len(labels), columns))


def is_leftmost(ax: Axes) -> bool:
    """Whether a panel is in the first column."""
    place = ax.get_subplotspec()
    return place is not None and place.is_first_col()


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, four in a row at most, that share their axes."""
    rows = math.ceil(count / 4)
    columns = math.ceil(count / rows)
    size = (max(4.4, width * columns), height * rows + 0.7)  # room for the legend and the small print of a single panel
    figure, axes = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    # The panel above an empty place is the last of its column: it carries the axis.
    for place, ax in enumerate(axes.flat[:count]):
        ax.tick_params(labelbottom=place + columns >= count)
    return figure, list(axes.flat[:count])
