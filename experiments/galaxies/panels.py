"""Stamps at two contrasts: linear up to a peak for the bright parts, and around zero in units of the noise for the faint.

    left    x from 0 to the peak                    right   asinh(x / σ), grey at zero, black and white at ∓ 5 σ

White gaps lie between stamps; pixels that were not measured are orange.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mvss.plotting import caption

__all__ = ["SIGMAS", "Array", "Rows", "show_strip", "two_contrasts"]

SIGMAS = 5.0
"""Standard deviations of the noise, to either side, that the hard contrast shows."""
UNMEASURED = "#E69F00"
Array = NDArray[np.float64]
Rows = Sequence[tuple[str, Array]]
"""Names of rows, and their stamps `(N, n²)`, in fluxes; n may differ between rows."""


def two_contrasts(rows: Rows, text: str, peaks: Array | None, sigma: float | None, columns: int = 6) -> Figure:
    """Rows of stamps, twice. peaks: white in the linear contrast, one per column; None: the peak of each stamp itself.
    sigma: of the noise; None: the linear contrast alone."""
    columns = min(columns, *(len(images) for _, images in rows))
    blocks = 1 if sigma is None else 2
    size = (0.8 * columns * blocks + 1.7, 0.8 * len(rows) + 0.75)
    figure, axes = plt.subplots(len(rows), blocks, figsize=size, squeeze=False)
    figure.get_layout_engine().set(h_pad=0.015, hspace=0.0, wspace=0.02)  # type: ignore[union-attr]
    for line, (name, images) in zip(axes, rows, strict=True):
        few = images[:columns]
        tops = _peaks(few) if peaks is None else peaks[:columns]
        show_strip(line[0], few / np.maximum(tops, 1e-12)[:, None], 0.0, 1.0)
        if sigma is not None:
            show_strip(line[1], np.arcsinh(few / sigma), -math.asinh(SIGMAS), math.asinh(SIGMAS))
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    axes[0, 0].set_title(f"linear, 0 to the peak{' of each' if peaks is None else ' of what is observed'}", fontsize=8)
    if sigma is not None:
        axes[0, 1].set_title(f"asinh, ± {SIGMAS:g} σ of the noise", fontsize=8)
    caption(figure, text)
    return figure


def _peaks(images: Array) -> Array:
    """Of stamps `(N, n²)`, of what is measured; 0 where nothing is."""
    return np.where(np.isfinite(images), images, 0.0).max(1)


def show_strip(ax: Axes, images: Array, low: float, high: float, cmap: str = "gray") -> None:
    """Stamps `(N, n²)` side by side in one row."""
    side = math.isqrt(images.shape[1])
    colours = plt.get_cmap(cmap).with_extremes(bad=UNMEASURED)
    painted = colours(Normalize(low, high)(np.ma.masked_invalid(images.reshape(-1, side, side))))
    painted = np.pad(painted, ((0, 0), (0, 0), (0, max(1, side // 16)), (0, 0)), constant_values=1.0)
    ax.imshow(painted.transpose(1, 0, 2, 3).reshape(side, -1, 4), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
