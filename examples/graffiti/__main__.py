"""Paint on a brick wall: both from photographs that come with scikit-image, the sum of them made here.

    wall   `skimage.data.brick()`, at half its size and turned, so that bricks lie: windows of 16 × 16 pixels
    paint  `skimage.data.page()`, whose paper is divided out: printed letters, as bright as mortar

Windows to learn from lie in other bricks and other lines of print than the strip that is read in the end.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage import data, filters, morphology, transform

from examples.worked import CLOSED, LEARNED, Arrays, Example, Result, compared, judged, main

SIDE = 16
NOISE = 0.05
BRIGHT = 0.35
"""Of paint, where the wall is 0.3 to 0.7."""
COUNT, FEW = 2000, 48
STRIP = (slice(103, 135), slice(0, 256))
"""Of the page: two lines."""

Image = NDArray[np.float64]


def make(small: bool) -> tuple[Arrays, Arrays]:
    """Windows of walls, bare and painted, and the tiles of one strip."""
    rng = np.random.default_rng(0)
    wall, paint, count = _wall(), _paint(), FEW if small else COUNT
    bricks, lines = wall[:224], paint[44:101]
    arrays = {"wall.npy": _noisy(_windows(bricks, count, rng), rng)}
    arrays["painted.npy"] = _noisy(_windows(bricks, count, rng) + _windows(lines, count, rng), rng)
    truth = {"wall": _tiles(wall[224:]), "paint": _tiles(paint[STRIP])}
    return {**arrays, "new.npy": _noisy(truth["wall"] + truth["paint"], rng)}, truth


def picture(result: Result) -> Figure:
    """The strip, what came out of it, and what is true."""
    mean = {method: {source: x.mean(0) for source, x in draws.items()} for method, draws in result.draws.items()}
    ours = result.draws[LEARNED]
    rows = {
        "what is seen": (result.arrays["new.npy"], 1.0),
        "paint: mean of draws": (mean[LEARNED]["paint"], BRIGHT),
        "paint: one draw": (ours["paint"][0], BRIGHT),
        "paint: SD of draws": (ours["paint"].std(0), BRIGHT / 3),
        "paint: closed form, mean": (mean[CLOSED]["paint"], BRIGHT),
        "paint: truth": (result.truth["paint"], BRIGHT),
        "wall: mean of draws": (mean[LEARNED]["wall"], 1.0),
        "wall: truth": (result.truth["wall"], 1.0),
    }
    figure, axes = plt.subplots(len(rows) // 2, 2, figsize=(12, 4.2), layout="constrained")
    for axis, (title, (x, top)) in zip(axes.T.flat, rows.items(), strict=True):
        axis.imshow(_whole(x), cmap="gray", vmin=0, vmax=top)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    return figure


def paragraph(result: Result) -> str:
    """What was learned, in words."""
    return (
        f"Both were learned from {COUNT:,} windows of bare wall and {COUNT:,} of painted wall. On the strip that was "
        f"held back the paint is {compared(result, 'paint')}; the wall is "
        f"{compared(result, 'wall')}. {judged(result, 'paint', 'wall')}"
    )


def _wall() -> Image:
    return np.asarray(transform.downscale_local_mean(data.brick() / 255, (2, 2)).T)


def _paint() -> Image:
    page = data.page() / 255
    paper = filters.gaussian(morphology.closing(page, morphology.disk(9)), 4)
    return np.asarray(BRIGHT * np.clip(1.25 * (1 - page / paper) - 0.08, 0, None))


def _windows(image: Image, count: int, rng: np.random.Generator) -> Image:
    rows, columns = (rng.integers(0, size - SIDE + 1, count) for size in image.shape)
    return np.stack([image[i : i + SIDE, j : j + SIDE] for i, j in zip(rows, columns, strict=True)])


def _noisy(x: Image, rng: np.random.Generator) -> Image:
    return x + NOISE * rng.standard_normal(x.shape)


def _tiles(strip: Image) -> Image:
    height, width = (size // SIDE for size in strip.shape)
    return strip.reshape(height, SIDE, width, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)


def _whole(tiles: Image) -> Image:
    return tiles.reshape(2, -1, SIDE, SIDE).swapaxes(1, 2).reshape(2 * SIDE, -1)


EXAMPLE = Example(Path(__file__).parent, "images", make, picture, paragraph)

if __name__ == "__main__":
    main(EXAMPLE)
