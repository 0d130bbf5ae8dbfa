"""What the demo shows: mixtures, what they are taken apart into, how sure that is, and the truth."""

from __future__ import annotations

__all__ = ["Part", "Separated", "curves", "images"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from experiments.report.methods import TRUTH
from experiments.report.style import caption
from mvss.problem.shared_view import measured
from mvss.problem.views import Draws, View

COLUMNS = 5
"""Observations that a picture of images shows."""
POINTS = 7
"""Of vectors."""
LAW = 4096
"""Points of a prior."""
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#882255")
"""Of vectors; told apart by most of those who do not see all colours (Okabe & Ito 2008)."""
HIDDEN = "#E69F00"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Draws `(K, N, *shape)` given a view. title: what is seen in it."""

    title: str
    view: View
    draws: Draws


@dataclass(frozen=True)
class Separated:
    """truth: `(N, *shape)` by source. blind: draws of the priors."""

    name: str
    parts: Sequence[Part]
    truth: Mapping[str, Tensor]
    blind: Mapping[str, Tensor]


def curves(found: Separated) -> tuple[Figure, str]:
    """Two coordinates of each source: the prior, and draws of some observations in a colour each, with a star for the truth.
    Returns the picture and what is in it, in a line."""
    (part,) = found.parts
    spread = torch.stack([x.var(0).sum(1) for x in part.draws.values()]).amax(0)
    ranks = sorted({len(spread) // 2**k for k in range(1, POINTS + 1)}, reverse=True)
    order = spread.argsort(descending=True)[ranks]
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 8.6), squeeze=False)
    for line, (source, truth) in zip(axes, found.truth.items(), strict=True):
        for ax, (first, second) in zip(line, ((0, 1), (2, 3)), strict=True):
            law, stars = found.blind[source][:LAW], truth[order]
            ax.scatter(law[:, first], law[:, second], s=14, color="0.85", linewidths=0, label="learned prior")
            ax.scatter(truth[:, first], truth[:, second], s=2, color=TRUTH, linewidths=0, label="true points")
            for colour, number in zip(COLOURS, order.tolist(), strict=False):
                x = part.draws[source][:, number]
                ax.scatter(x[:, first], x[:, second], s=16, color=colour, linewidths=0, label=f"draws: mixture {number + 1}")
            looks = {"s": 170, "marker": "*", "facecolors": "none", "linewidths": 1.4, "zorder": 3}
            ax.scatter(stars[:, first], stars[:, second], edgecolors=COLOURS[: len(order)], label="their truth", **looks)
            ax.set(title=f"source {source}", xlabel=f"$x_{first + 1}$", ylabel=f"$x_{second + 1}$")
            ax.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle("Three numbers of a sum, taken apart into two points of five numbers each", fontsize=12)
    caption(
        figure,
        f"Each colour is one of {len(spread)} new mixtures; some are all but certain, the last has the widest answers of all. "
        "Of each, three numbers of the sum of both sources are known, and nothing else. Dots are draws, answers that explain "
        "them; the star is the truth. Dots within their star: a sure answer. Dots along the curve, or in several places: the "
        "three numbers allow for all of these.",
    )
    alt = f"Clouds of points: both curves as learned, grey, and draws for {len(order)} mixtures in colour around their truth"
    return figure, alt


def images(found: Separated) -> tuple[Figure, str]:
    """Columns of observations, in blocks of what is seen of them, and rows of what they are taken apart into. Returns the
    picture and what is in it, in a line."""
    scale = _scale(found)
    strips = list(_rows(found, found.parts[0], scale))
    rows, columns = len(strips), len(strips[0][1])
    size = (0.95 * columns * len(found.parts) + 2.0, 0.95 * rows + 1.3)
    figure = plt.figure(figsize=size, layout="constrained")
    widths = [columns + 1.2] + [columns] * (len(found.parts) - 1)
    blocks = figure.subfigures(1, len(found.parts), squeeze=False, width_ratios=widths)
    for number, (block, part) in enumerate(zip(blocks.flat, found.parts, strict=True)):
        axes = block.subplots(rows, columns, squeeze=False)
        for line, (label, strip) in zip(axes, _rows(found, part, scale), strict=True):
            for ax, image in zip(line, strip, strict=True):
                _image(ax, image)
            if not number:
                line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
        block.suptitle(part.title, fontsize=11)
    first, second = found.truth
    caption(
        figure,
        f"Each column is one new mixture of {first} and {second}; the same ones left and right. Two draws are two answers that "
        "both explain what is seen. SD: how much answers differ, pixel by pixel, at twice its brightness. Orange: not "
        "measured. Nothing was learned anew for the right half: it has the same priors and another operator."
        + (" Brightness: asinh of the flux over the noise." if scale < 1.0 else ""),
    )
    alt = f"Pictures: mixtures of {first} and {second}, whole and half hidden; draws of both, their deviation, and the truth"
    return figure, alt


def _rows(found: Separated, part: Part, scale: float) -> Iterator[tuple[str, Array]]:
    """Labels and images `(columns, height, width)`, at most `COLUMNS`, from 0 to 1; NaN where nothing was measured."""
    yield "what is seen", _shown(part.view.y.where(measured(part.view), float("nan")), scale)
    for source in reversed(list(found.truth)):  # the newest first: it is what one looks for
        draws = part.draws[source]
        yield f"{source}: a draw", _shown(draws[0], scale)
        yield "another draw", _shown(draws[1], scale)
        yield "SD × 2", _shown(2 * draws.std(0), scale)
        yield "truth", _shown(found.truth[source], scale)


def _scale(found: Separated) -> float:
    """1 for images from 0 to 1; the noise for others, of which the brightest are far above all else."""
    noise = float(found.parts[0].view.noise.variance(found.parts[0].view.y).median()) ** 0.5
    return 1.0 if found.name == "mnist-grass" else noise


def _shown(x: Tensor, scale: float) -> Array:
    images = x[:COLUMNS].reshape(-1, *x.shape[-2:]).numpy()
    if scale == 1.0:
        return images
    low, high = np.arcsinh(-3.0), np.arcsinh(60.0)
    shown: Array = (np.arcsinh(images / scale) - low) / (high - low)
    return shown


def _image(ax: Axes, image: Array) -> None:
    colours = plt.get_cmap("gray").with_extremes(bad=HIDDEN)
    ax.imshow(image, cmap=colours, vmin=0.0, vmax=1.0, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
