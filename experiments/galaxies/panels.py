"""Stamps at two contrasts: linear up to a peak for the bright parts, and around zero in units of the noise for the
faint.

    left    x from 0 to the peak                    right   asinh(x / σ), from −3 σ to 30 σ

White gaps lie between stamps; pixels that were not measured are orange. Stamps from the ground have large pixels and
lie where they were taken, within those of the sources.
"""

from __future__ import annotations

__all__ = ["Array", "Rows", "peaks_of", "show_strip", "two_contrasts", "unmeasured"]

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from experiments.galaxies.data.sky import FACTOR
from experiments.report.style import caption

FAINT, BRIGHT = -3.0, 30.0
"""Ends of the hard contrast, in standard deviations of the noise: it shows the noise, and how a bright galaxy ends."""
UNMEASURED = "#E69F00"
Array = NDArray[np.float64]
Rows = Sequence[tuple[str, Array]]
"""Names of rows, and their stamps `(N, n²)`, in fluxes."""


def two_contrasts(rows: Rows, text: str, peaks: Array | None, sigma: float | None, columns: int = 6) -> Figure:
    """Rows of stamps, twice. peaks: white in the linear contrast, one per column; None: the peak of each stamp itself.
    sigma: of the noise; None: the linear contrast alone."""
    columns = min(columns, *(len(images) for _, images in rows))
    side = max(math.isqrt(images.shape[1]) for _, images in rows)
    blocks = 1 if sigma is None else 2
    size = (0.8 * columns * blocks + 1.7, 0.8 * len(rows) + 0.75)
    figure, axes = plt.subplots(len(rows), blocks, figsize=size, squeeze=False)
    if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
        engine.set(h_pad=0.015, hspace=0.0, wspace=0.02)
    for line, (name, images) in zip(axes, rows, strict=True):
        few = images[:columns]
        tops = peaks_of(few) if peaks is None else peaks[:columns]
        show_strip(line[0], few / np.maximum(tops, 1e-12)[:, None], 0.0, 1.0, side)
        if sigma is not None:
            show_strip(line[1], np.arcsinh(few / sigma), math.asinh(FAINT), math.asinh(BRIGHT), side)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    axes[0, 0].set_title(f"linear, 0 to the peak of each {'stamp' if peaks is None else 'column'}", fontsize=8)
    if sigma is not None:
        axes[0, 1].set_title(f"asinh, −{-FAINT:g} σ to {BRIGHT:g} σ of the noise", fontsize=8)
    caption(figure, text + unmeasured(*(images[:columns] for _, images in rows)))
    return figure


def unmeasured(*images: Array) -> str:
    """What a caption says of pixels that were not measured, if there are any."""
    return "" if all(np.isfinite(x).all() for x in images) else " Orange: not measured."


def peaks_of(images: Array) -> Array:
    """The brightest pixel of stamps `(N, n²)` that was measured; 0 where none was."""
    return np.where(np.isfinite(images), images, 0.0).max(1)


def show_strip(ax: Axes, images: Array, low: float, high: float, pixels: int, cmap: str = "gray") -> None:
    """Stamps `(N, n²)` side by side in one row. pixels: n of the sources; if those of the images are fewer, they are
    the ground's."""
    side = math.isqrt(images.shape[1])
    colours = plt.get_cmap(cmap).with_extremes(bad=UNMEASURED)
    painted = colours(Normalize(low, high)(np.ma.masked_invalid(images.reshape(-1, side, side))))
    if side < pixels:
        painted = painted.repeat(FACTOR, 1).repeat(FACTOR, 2)
        before = (pixels - FACTOR * side) // 2
        edges = (before, pixels - FACTOR * side - before)
        painted = np.pad(painted, ((0, 0), edges, edges, (0, 0)), constant_values=1.0)
    painted = np.pad(painted, ((0, 0), (0, 0), (0, max(1, pixels // 16)), (0, 0)), constant_values=1.0)
    ax.imshow(painted.transpose(1, 0, 2, 3).reshape(pixels, -1, 4), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
