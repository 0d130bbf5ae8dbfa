"""What a page lets one browse: pictures of the same observations, row by row, as an experiment makes them of kept samples.

    Browser    of a problem: what all methods have in common (observation, truth), what each made of it, and its laps
    Strip      a name, and a picture for each observation

All pictures of a browser are tiles of one sheet, a PNG: a row for each strip, a column for each observation.
"""

from __future__ import annotations

__all__ = ["Browser", "Group", "Laps", "Strip", "clouds", "sheet"]

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
UNMEASURED = (230, 159, 0)
CLOUD = 112
"""Pixels across a cloud of points."""


@dataclass(frozen=True)
class Strip:
    """images: `(N, height, width)`, 0 is black and 1 white; NaN was not measured."""

    name: str
    images: Array


@dataclass(frozen=True)
class Group:
    """Strips under one label."""

    label: str
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Laps:
    """What a method made of training observations, lap by lap. frames: of each lap the same strips."""

    label: str
    common: Sequence[Strip]
    laps: Sequence[int]
    frames: Sequence[Sequence[Strip]]

    def strips(self) -> list[Strip]:
        """All of them, the frames in turn."""
        return [*self.common, *(strip for frame in self.frames for strip in frame)]


@dataclass(frozen=True)
class Browser:
    """problem: its name, as in tables. item: what the slider goes through. note: what is seen, and what is missing."""

    problem: str
    item: str
    note: str
    common: Sequence[Strip]
    groups: Sequence[Group]
    laps: Sequence[Laps] = field(default=())

    def strips(self) -> list[Strip]:
        """All of the separations, in the order of the rows of their sheet."""
        return [*self.common, *(strip for group in self.groups for strip in group.strips)]


def sheet(strips: Sequence[Strip]) -> tuple[bytes, int]:
    """The PNG of all strips, and how many columns it has: as many as the shortest strip has pictures. Smaller pictures are
    shown as large as the largest."""
    columns = min(len(strip.images) for strip in strips)
    side = max(max(strip.images.shape[1:]) for strip in strips)
    rows = [np.concatenate([_tile(image, side) for image in strip.images[:columns]], axis=1) for strip in strips]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), columns


def _tile(image: Array, side: int) -> Array:
    """`(side, side, 3)`, uint8."""
    height, width = image.shape
    image = image[np.arange(side) * height // side][:, np.arange(side) * width // side]
    measured = np.isfinite(image)
    grey = np.round(255 * np.where(measured, image, 0).clip(0, 1)).astype(np.uint8)
    return np.where(measured[..., None], grey[..., None], np.array(UNMEASURED, np.uint8))


def clouds(points: Array, limit: float) -> Array:
    """Points `(N, D)` as pictures `(D // 2, CLOUD, CLOUD)`, one for each pair of coordinates, each from −limit to limit; the
    more points there are, the brighter."""
    ends = [[-limit, limit]] * 2
    pairs = [points[:, [2 * k + 1, 2 * k]] for k in range(points.shape[1] // 2)]
    counts = np.stack([np.histogram2d(-pair[:, 0], pair[:, 1], CLOUD, ends)[0] for pair in pairs])
    shown: Array = np.minimum(1.0, np.sqrt(counts / 3))
    return shown
