"""Which stamps are cut of which mosaic: which parts of the sky are for train and test, for galaxies and for random
fields.

    declination     the northern TEST of the catalogue is for tests
    cells           CELL stamps wide; every second one of every second row is for random fields

A galaxy whose stamp might touch the line between train and test, or a cell for random fields, is set aside.
"""

from __future__ import annotations

__all__ = ["Plan", "anywhere", "corners", "plan_for"]

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.galaxies.archive.layouts import Picture
from experiments.galaxies.archive.mosaics import Mosaic
from experiments.galaxies.data.stamps import NOISE
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import generator

TEST = 0.2
"""Share of the catalogue's galaxies in the test part."""
CELL = 6
"""Stamps across a cell of the sky."""
UNLIKE = 1.5
"""Ratio of noises from where on mosaics are told apart."""
PROBES = 2000
"""Random positions tried on each mosaic to see how much room it has for random fields."""
Places = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What all mosaics need to know. positions: of the catalogue `(M, 2)`, degrees; number: its rows `(M,)`. cut:
    declination of the line between train and test; margin: degrees that a centre must be off it. cell: side of a cell,
    degrees. fields: random ones to be cut of each mosaic, by the room that it has for them. binning: of the mosaics'
    pixels (`Mosaic`)."""

    pixels: int
    randoms: float
    factor: float
    positions: Places
    number: NDArray[np.int64]
    cut: float
    margin: float
    cell: float
    fields: tuple[int, ...] = ()
    binning: int = 1

    def depth(self, places: Places) -> Places:
        """Degrees from right ascensions and declinations `(K, 2)` to the border of the cells for random fields, which
        are every second one of every second row; negative outside of them, and where there are none."""
        if not self.randoms:
            return np.full(len(places), -np.inf)
        # From a place of the catalogue: right ascension has no seam near it.
        east = (places[:, 0] - self.positions[0, 0] + 180) % 360 - 180
        row = np.floor(places[:, 1] / self.cell)
        found = np.full(len(places), -np.inf)
        for here in (row - 1, row, row + 1):
            along = east * np.cos(np.radians((here + 0.5) * self.cell)) / self.cell % 2
            up = places[:, 1] / self.cell - here
            inside = np.stack([np.minimum(along, 1 - along), np.minimum(up, 1 - up)])
            inside[0] = np.where(along < 1.5, inside[0], along - 2)  # the next such cell is nearer
            depth = np.where((inside >= 0).all(0), inside.min(0), -np.hypot(*inside.clip(max=0)))
            found = np.maximum(found, np.where(here % 2 == 0, depth, -np.inf))
        return found * self.cell

    def split(self, dec: Places) -> NDArray[np.int64]:
        """0 train, 1 test, −1 on the line between, of centres at these declinations."""
        return np.where(np.abs(dec - self.cut) <= self.margin, -1, (dec > self.cut).astype(int))


def plan_for(
    pictures: Sequence[Picture], positions: Places, pixels: int, randoms: float, binning: int
) -> tuple[Plan, dict[str, object], NDArray[np.bool_]]:
    """Look at all mosaics' headers: the plan, the archive's first attributes, and which finite positions any mosaic
    holds."""
    number = np.flatnonzero(np.isfinite(positions).all(1) & (np.abs(positions[:, 1]) <= 90))
    positions = positions[number]
    on_mosaic = np.zeros(len(number), dtype=bool)
    noises: list[float] = []
    scale, kind, dark = 0.0, ("", ""), 0
    for picture in pictures:
        with Mosaic(picture, binning) as mosaic:
            inside = corners(mosaic, positions, pixels)[1]
            on_mosaic |= inside
            noises.append(mosaic.usual_noise)  # of each, so that a bad one is found before the work begins
            dark += mosaic.dark
            own = mosaic.unit, mosaic.band
            if not scale:
                scale, kind = mosaic.pixel_scale, own
            if abs(mosaic.pixel_scale / scale - 1) > 0.01 or own != kind:
                this, that = (", ".join(name or "unknown" for name in names) for names in (own, kind))
                raise MvssError(
                    f"{mosaic.name} has {mosaic.pixel_scale:.4f} arcsec a pixel, unit and filter {this}, but "
                    f"{pictures[0].name} {scale:.4f}, {that}: keep mosaics of one kind in the folder"
                )
    if not on_mosaic.any():
        raise MvssError("no stamp around a position of the catalogue lies on a mosaic: are they of the same part of the sky?")
    _say(noises, dark, kind[0])
    factor = NOISE / float(np.median(noises))
    margin = (1.02 * pixels / np.sqrt(2) + 1) * scale / 3600  # a stamp's centre is up to 0.7 pixels off its galaxy
    cut = float(np.quantile(positions[on_mosaic, 1], 1 - TEST))
    cell = CELL * pixels * scale / 3600
    plan = Plan(pixels, randoms, factor, positions, number, cut, margin, cell, binning=binning)
    plan = replace(plan, fields=_fields(pictures, plan, randoms * int(on_mosaic.sum())))
    attributes: dict[str, object] = {
        "factor": factor,
        "noise": NOISE,
        "unit": f"{kind[0] or 'the mosaics unit'} times factor, which makes the noise of a usual pixel {NOISE}",
        "pixel_scale": scale,
        "binning": binning,
        "pixels": pixels,
        "split_declination": cut,
    }
    return plan, attributes, on_mosaic


def _say(noises: Sequence[float], dark: int, unit: str) -> None:
    """What is unusual of mosaics with this noise each, of which `dark` do not tell the photons."""
    low, high = np.quantile(noises, [0.05, 0.95])
    if high > UNLIKE * low:
        print(
            f"the mosaics' noise goes from {low:.3g} to {high:.3g}: those of very different depth do not belong in one archive",
            file=sys.stderr,
        )
    if dark:
        print(
            f"{dark} of {len(noises)} mosaics do not tell how many electrons their fluxes are (BUNIT {unit or 'missing'}; "
            "EXPTIME, the gain): the noise of galaxies' photons is left out",
            file=sys.stderr,
        )


def _fields(pictures: Sequence[Picture], plan: Plan, wanted: float) -> tuple[int, ...]:
    """Of as many random fields as are wanted of all mosaics those of each, which need not show a galaxy."""
    rooms = []
    for picture in pictures:
        with Mosaic(picture, plan.binning) as mosaic:
            places, split = anywhere(mosaic, plan, PROBES, "room")
            rooms.append(float((split >= 0).mean()) * math.prod(mosaic.shape) if len(places) else 0.0)
    shares = np.cumsum([0.0, *rooms]) / max(sum(rooms), 1e-300)
    return tuple(np.diff(np.round(wanted * shares)).astype(int).tolist())


def corners(mosaic: Mosaic, positions: Places, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows and columns of the first pixels of the stamps around positions, and which stamps lie on the mosaic."""
    where = mosaic.where(positions)
    first = np.floor(np.nan_to_num(where, nan=-1e6) - pixels / 2 + 1).astype(np.int64)
    return first, np.asarray(((first >= 0) & (first + pixels <= np.array(mosaic.shape))).all(1))


def anywhere(mosaic: Mosaic, plan: Plan, count: int, key: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixels `(count, 2)` of stamps at random, none where none fits; and the part of each, −1 if it is for no
    random field."""
    room = torch.tensor(mosaic.shape) - plan.pixels + 1
    if not bool((room > 0).all()):
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64)
    rng = generator(0, "galaxies", "archive", key, mosaic.name)
    corners = (torch.rand(count, 2, generator=rng, dtype=torch.float64) * room).long().numpy()
    middles = corners + (plan.pixels - 1) / 2
    centres = mosaic.sky(middles) if count else np.zeros((0, 2))
    free = (plan.depth(centres) > plan.margin) & ~_shows_own(mosaic, plan, middles)
    return corners, np.where(free, plan.split(centres[:, 1]), -1)


def _shows_own(mosaic: Mosaic, plan: Plan, middles: Places) -> NDArray[np.bool_]:
    """Which stamps in these places `(count, 2)` show the galaxy that the mosaic is a cut-out around, if it is: of those
    that random fields hold, it alone is not there by chance."""
    own, reach = (np.array(mosaic.shape) - 1) / 2, plan.pixels / 2
    away = np.linalg.norm(mosaic.where(plan.positions) - own, axis=1)
    if not np.nanmin(away, initial=np.inf) <= reach / 2:
        return np.zeros(len(middles), dtype=bool)
    return np.asarray((np.abs(middles - own) < 2 * reach).all(1))
