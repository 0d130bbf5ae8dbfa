"""The spread of draws against the error of their mean, by pixel of the digits.

    e / √(1 + 1/M)    against    s        in bins of pixels by s

s: standard deviation of the draws, e: error of the mean of M of them; of a bin, root mean squares. Where draws follow the
posterior, e² is s² for the truth and s²/M for the mean, so that the two are equal.
"""

from __future__ import annotations

__all__ = ["spread_figure", "spreads"]

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.core.drawn import MEANS
from experiments.report.digit_results import DIGIT
from experiments.report.methods import TRUTH, method_named
from experiments.report.samples import Arrays
from experiments.report.style import caption

BINS = 12
LEAST = 1e-3
"""What is less is drawn there: all draws of a pixel may be cut to the same."""
NAMES = [f"{kind}_{DIGIT}" for kind in ("mean", "width", "truth")]
Array = NDArray[Any]


def spreads(mean: Array, width: Array, truth: Array) -> tuple[Array, Array]:
    """s and e / √(1 + 1/M) of bins of as many pixels each, those of the least s first. mean: of M draws. width: s."""
    order = width.argsort(axis=None)
    squares = (np.array_split(x.ravel()[order].astype(float) ** 2, BINS) for x in (width, mean - truth))
    spread, error = (np.sqrt([part.mean() for part in parts if part.size]) for parts in squares)
    return spread, error / np.sqrt(1 + 1 / MEANS)


def spread_figure(found: Mapping[str, Arrays], seed: int) -> Figure | None:
    """Of every method that has kept means and widths of digits."""
    kept = {method: [own[name] for name in NAMES] for method, own in found.items() if set(NAMES) <= own.keys()}
    if not kept:
        return None
    figure, ax = plt.subplots(figsize=(6.0, 4.3))
    count = min(len(each) for own in kept.values() for each in own)
    for place, (method, own) in enumerate(kept.items()):
        colour, marker, label = method_named(method).look
        spread, error = (x.clip(LEAST) for x in spreads(*(each[:count] for each in own)))
        above = 3 + len(kept) - place
        ax.plot(spread, error, color=colour, marker=marker, label=label, markersize=5, linewidth=1, zorder=above, clip_on=False)
    ax.set(xscale="log", yscale="log", xlabel="SD of the draws", ylabel=f"error of their mean / √(1 + 1/{MEANS})")
    ends = (LEAST, max(ax.get_xlim()[1], ax.get_ylim()[1]))
    ax.plot(ends, ends, color=TRUTH, linewidth=1, label="calibrated", zorder=2)
    ax.set(xlim=ends, ylim=ends, box_aspect=1)
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=7)
    caption(
        figure,
        f"Seed {seed}, digits of {count} fresh observations: pixels in {BINS} bins of as many each, by the SD of their draws; "
        f"of each bin the root mean square of that SD and of the error of the mean of {MEANS} draws, without what so few add "
        "to it. Above the line draws are too narrow, below it too wide. SDs of few draws are off by chance: the first bins "
        f"hold those that are too small. What is below {LEAST:g} is drawn there, and methods that draw alike lie on one line.",
    )
    return figure
