"""A texture in three parts that share nothing: for the observations of view 1, those of view 2, and fresh ones.

one photograph of scikit-image       seeds that are reported: three of its quarters, in an order of the seed's own
                                     tuning seeds: the fourth quarter, of which they alone see anything, in three parts
a folder of photographs              three sets of them, in an order of the seed's own; not for tuning
"""

from __future__ import annotations

__all__ = ["Part", "Texture", "crops", "regions", "texture_named"]

import hashlib
from collections.abc import Sequence
from functools import cache
from os.path import expanduser
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.core.pools import tunes
from experiments.mnist_grass.config import TEXTURES
from experiments.mnist_grass.digits import SHAPE, SIZE
from mvss.io.images import ENDINGS, image_files, image_of
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import generator

SCALES = (2.0, 3.0, 4.0, 5.0)
"""Sides of the squares that are cut from the one photograph, in units of its 28 pixels."""
WIDTH = 100
"""Height and width that each photograph of a folder is resized to (paper)."""
Part = Literal["view 1", "view 2", "fresh"]
PARTS: tuple[Part, ...] = get_args(Part)
Region = tuple[slice, slice]
"""Rows and columns of a photograph."""


class Texture(Protocol):
    """What grass is cut from. fingerprint: hash of its photographs, empty where its name says it all."""

    fingerprint: str

    def crops(self, part: Part, count: int, rng: torch.Generator, seed: int) -> Tensor:
        """`(count, 1, 28, 28)`, float64 in [0, 1]. seed: whose part."""


@cache  # a folder that changes during a run must not be two textures
def texture_named(name: str) -> Texture:
    """A texture of scikit-image, or the photographs in a folder.

    Raises:
        MvssError: it is neither, a file cannot be read, or there are too few.
    """
    if name in TEXTURES:
        return _Photograph(name)
    folder = Path(expanduser(name))
    if not name or not folder.is_dir():
        raise MvssError(f"unknown texture {name!r}: neither one of {', '.join(TEXTURES)} nor a folder of photographs")
    return _Photographs(folder)


class _Photograph:
    """One photograph of scikit-image, in regions."""

    fingerprint = ""

    def __init__(self, name: str) -> None:
        from skimage import data

        self._pixels = torch.from_numpy(getattr(data, name)().astype(np.float64) / 255)

    def crops(self, part: Part, count: int, rng: torch.Generator, seed: int) -> Tensor:
        """As of `Texture`."""
        return crops(self._pixels[regions(self._pixels.shape, seed)[part]], count, rng)


def regions(shape: Sequence[int], seed: int) -> dict[Part, Region]:
    """Three parts of a photograph of height and width `shape` that share no pixel. The upper left quarter is for tuning."""
    (up, low), (left, right) = ((slice(half), slice(half, 2 * half)) for half in (shape[0] // 2, shape[1] // 2))
    if tunes(seed):
        height, width = shape[0] // 4, shape[1] // 4
        below = slice(height, 2 * height)
        parts = [(slice(height), left), (below, slice(width)), (below, slice(width, 2 * width))]
    else:
        quarters = [(up, right), (low, left), (low, right)]
        parts = [quarters[i] for i in torch.randperm(3, generator=generator(seed, "mnist-grass", "quarters"))]
    return dict(zip(PARTS, parts, strict=True))


def crops(region: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """`(count, 1, 28, 28)` squares of several sizes anywhere in a region, turned by quarters and mirrored; in a region that
    is narrower than the largest, of its width."""
    out = torch.empty(count, *SHAPE, dtype=torch.float64)
    uniform = torch.rand(count, 5, generator=rng, dtype=torch.float64)
    for i, (scale, row, column, turn, mirror) in enumerate(uniform.tolist()):
        side = min(int(SIZE * SCALES[int(scale * len(SCALES))]), *region.shape)
        top, left = int(row * (region.shape[0] - side + 1)), int(column * (region.shape[1] - side + 1))
        square = region[top : top + side, left : left + side]
        out[i] = _turned(torch.nn.functional.adaptive_avg_pool2d(square[None], SIZE), turn, mirror)
    return out


def _turned(square: Tensor, turn: float, mirror: float) -> Tensor:
    """One of the eight turns and mirrors of `(1, n, n)`, as two numbers in [0, 1) have it."""
    square = square.rot90(int(4 * turn), (-2, -1))
    return square.flip(-1) if mirror < 0.5 else square


class _Photographs:
    """The photographs in a folder, grey, 100 × 100: a half for view 1, a quarter each for view 2 and fresh.

    Which is which is the seed's, from the order of the hashes of the files, whatever their names; copies of a file count
    once.
    """

    def __init__(self, folder: Path) -> None:
        files = image_files(folder)
        found = dict(_grey(file) for file in files)
        if len(found) < 4:
            kinds = ", ".join(ENDINGS)
            raise MvssError(
                f"{folder} holds {len(found)} different photographs ({kinds}): a texture needs at least 4, add some"
            )
        self.fingerprint = hashlib.sha256("".join(sorted(found)).encode()).hexdigest()
        self._pixels = torch.stack([found[key] for key in sorted(found)])

    def crops(self, part: Part, count: int, rng: torch.Generator, seed: int) -> Tensor:
        """As of `Texture`: 28 × 28 of its pixels, anywhere in any of the photographs."""
        whole, quarter, room = len(self._pixels), len(self._pixels) // 4, WIDTH - SIZE + 1
        order = torch.randperm(whole, generator=generator(seed, "mnist-grass", "photographs"))
        sets = order.split([whole - 2 * quarter, quarter, quarter])
        own = self._pixels[sets[PARTS.index(part)]]
        out = torch.empty(count, *SHAPE, dtype=torch.float64)
        uniform = torch.rand(count, 5, generator=rng, dtype=torch.float64)
        for i, (which, row, column, turn, mirror) in enumerate(uniform.tolist()):
            top, left = int(row * room), int(column * room)
            square = own[int(which * len(own)), None, top : top + SIZE, left : left + SIZE]
            out[i] = _turned(square.double() / 255, turn, mirror)
        return out


def _grey(file: Path) -> tuple[str, Tensor]:
    """The hash of a file, and its photograph `(100, 100)`, uint8."""
    content, image = image_of(file)
    grey: Image.Image = image.convert("L").resize((WIDTH, WIDTH), Image.Resampling.BILINEAR)  # averages where it makes smaller
    if image.mode.startswith(("I", "F")):  # these would become white, or black
        raise MvssError(f"{file} has more than 8 bits a pixel and channel: put a photograph of 8 in its place, or none")
    return hashlib.sha256(content).hexdigest(), torch.from_numpy(np.array(grey))
