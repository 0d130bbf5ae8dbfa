"""Stamps of the Hubble deep field that ships with scikit-image, y = sky + galaxy + η, on which truth is known nowhere.

The image is a picture, 872 × 1000 × 3 in 8 bits, stretched for display and JPEG-compressed. We adopt the stretch: grey,
the mean of the channels over 255, is modelled as it is, as if light added up in it. It does so roughly below 0.4;
bright cores are compressed. The sky stands at 0.051 (median) and stays in.

Noise, as differences of sky pixels some pixels apart have it: σ = 0.018. Next neighbours correlate by 0.23 (JPEG,
resampling), those two apart by −0.05, all others by 0.02 (faint light): white beyond a pixel. σ is one number, though
second differences of neighbours are 0.011 on the sky, at most 0.0145, at levels of 0.1 to 0.15, 0.012 at 0.4, and 0.004
above 0.7, where the stretch ends.

    columns         tuning: 0 to 165    test: 166 to 499    train: 500 to 999    (no pixel is in two of the six areas)
    rows   0-580    galaxies            galaxies            galaxies
    rows 581-871    random fields       random fields       random fields

Settings are chosen on the scores of `tuning`, and reported on those of `test`; both learn from `train`.
"""

from __future__ import annotations

__all__ = ["LIMIT", "Part", "clipped_sigma", "copies_apart", "deep_field", "detections", "grey", "noise_level"]

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor

from experiments.galaxies.data.stamps import Stamps
from mvss.priors.augmentation import turned
from mvss.problem.held_out import held_out_count
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import generator

LIMIT = 5.0
"""Least flux of a central galaxy, in display levels summed over its pixels, less the sky: about 600 galaxies in the
image."""
DETECTION = {"thresh": 2.0, "minarea": 8, "deblend_cont": 0.02}
KERNEL = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])
STARS = ((166, 253), (578, 754))
"""Row and column of the two stars with diffraction spikes."""
SPIKES = 20
"""Half the side of the square around each that no stamp touches."""
ROWS = 581
COLUMNS = {"tuning": (0, 166), "test": (166, 500), "train": (500, 1000)}
"""Where the areas meet."""
LAG = 4
"""Distance in pixels at which noise is as good as uncorrelated."""
Part = Literal["tuning", "test", "train"]


@dataclass(frozen=True)
class Detections:
    """M objects: centroids x, y in pixels of the image, flux above the sky, peak above the sky, half-light radius in
    pixels, and blending: share of others' light in what is inside twice that radius; `(M,)` each, brightest first."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    peak: NDArray[np.float64]
    half_light_radius: NDArray[np.float64]
    blending: NDArray[np.float64]


@cache
def grey() -> NDArray[np.float64]:
    """The image `(872, 1000)`, display levels in [0, 1]; not to be written to."""
    from skimage import data

    levels = data.hubble_deep_field().mean(axis=2) / 255
    levels.flags.writeable = False
    return levels


@cache
def noise_level() -> float:
    """σ of the sky's pixels, in display levels: of differences of pixels 4 apart where nothing is detected."""
    # The threshold needs a σ first: of the whole image, which its objects make a little larger.
    rough = clipped_sigma(np.diff(grey()[::LAG], axis=0)) / np.sqrt(2)
    sky = ~binary_dilation(_extract(rough)[1] > 0, iterations=3)
    both = sky[LAG:] & sky[:-LAG]
    return clipped_sigma((grey()[LAG:] - grey()[:-LAG])[both]) / np.sqrt(2)


def clipped_sigma(x: NDArray[np.float64]) -> float:
    """Standard deviation within 3 σ, σ by the median absolute deviation first; corrected for what that cuts off a
    Gaussian."""
    deviation = np.abs(x - np.median(x))
    sigma = 1.4826 * float(np.median(deviation))
    for _ in range(20):
        sigma = float(x[deviation < 3 * sigma].std()) / 0.98658
    return sigma


def _extract(sigma: float) -> tuple[NDArray[np.void], NDArray[np.int32]]:
    """Objects as sep gives them, and the image's pixels labelled with their numbers, from 1."""
    import sep

    return sep.extract(grey() - np.median(grey()), err=sigma, filter_kernel=KERNEL, segmentation_map=True, **DETECTION)


@cache
def detections() -> Detections:
    """Everything that is detected but the two stars, to any flux."""
    import sep

    found, labels = _extract(noise_level())
    levels = grey() - np.median(grey())
    numbers = np.arange(1, len(found) + 1)
    x, y = found["x"], found["y"]
    # sep leaves the pixels of other objects out where it is given the labels.
    radius, _ = sep.flux_radius(levels, x, y, 6 * found["a"], 0.5, normflux=found["flux"], seg_id=numbers, segmap=labels)
    light, _, _ = sep.sum_circle(levels, x, y, 2 * radius, subpix=5)
    objects = zip(numbers.tolist(), x, y, 2 * radius, strict=True)
    others = np.array([_others(levels, labels, *each) for each in objects])
    blending = np.clip(others / np.maximum(light, 1e-9), 0, 1)
    far = np.all([np.hypot(y - row, x - column) > SPIKES for row, column in STARS], axis=0)
    order = np.argsort(-found["flux"], kind="stable")
    order = order[far[order]]
    return Detections(x[order], y[order], found["flux"][order], found["peak"][order], radius[order], blending[order])


def _others(levels: NDArray[np.float64], labels: NDArray[np.int32], number: int, x: float, y: float, radius: float) -> float:
    """Light inside a circle that belongs to other objects."""
    top, left = max(int(y - radius), 0), max(int(x - radius), 0)
    box = slice(top, int(y + radius) + 2), slice(left, int(x + radius) + 2)
    rows, columns = np.indices(labels[box].shape)
    near = np.hypot(rows + top - y, columns + left - x) <= radius
    theirs = near & (labels[box] > 0) & (labels[box] != number)
    return float(levels[box][theirs].sum())


def deep_field(
    part: Part,
    *,
    galaxies: bool,
    count: int | None = None,
    seed: int = 0,
    pixels: int = 32,
    copies: int = 1,
) -> Stamps:
    """Stamps of one part of the deep field, the sky left in; truth is not known.

    part: whose two areas. galaxies: those centred on a galaxy (nearest pixel), or at random positions, which may
    overlap. count: how many; None for all that there are, of galaxies alone. Galaxies come in random order, each once
    before any comes again. seed: of positions, order and turns. copies: how often each galaxy enters, 1 to 8, turned or
    mirrored one of eight ways, never twice the same, and so are random fields, once.

    Catalogue: row and column of the stamp's upper left pixel in the image and turn (0 to 7, as of `training.turned`),
    with which a stamp can be found again; of galaxies also x and y in the stamp as turned, flux, peak,
    half_light_radius, blending.

    Raises:
        MvssError: fewer galaxies than asked for, or copies that do not differ.
    """
    if not 1 <= copies <= (8 if galaxies else 1):
        raise MvssError(f"copies={copies}: 1 to 8 of a galaxy, 1 of a random field")
    rng = generator(seed, "galaxies", "deep field", part, int(galaxies))
    allowed = _corners(part, galaxies, pixels)
    if not galaxies:
        if count is None:
            raise MvssError("random fields of the deep field: say how many with count")
        corner = allowed.nonzero()[torch.randint(int(allowed.sum()), (count,), generator=rng)]
        turn = torch.randint(8, (count,), generator=rng)
        return _stamps(corner, turn, pixels, {})
    number, corner, position = _centred(allowed, pixels)
    if count is not None and count > (there := copies * len(number)):
        raise MvssError(f"{count} galaxies asked for, the deep field's {part} part has {there}: take fewer, or more copies")
    order = torch.stack([torch.randperm(len(number), generator=rng) for _ in range(copies)])
    ways = torch.stack([torch.randperm(8, generator=rng) for _ in number])
    turn = ways.T[:copies].gather(1, order).flatten()[:count]
    chosen = order.flatten()[:count]
    columns = {
        name: torch.from_numpy(getattr(detections(), name))[number[chosen]]
        for name in ("flux", "peak", "half_light_radius", "blending")
    }
    return _stamps(corner[chosen], turn, pixels, columns | _turned_position(position[chosen], turn, pixels))


def copies_apart(stamps: Stamps, share: float) -> Stamps:
    """All copies of the first galaxy, all of the second, and so on, so that no network learns from a copy of what is held
    out from it, the first `share` of the stamps. Of the galaxy in which that ends, further copies are left out."""
    places = list(zip(*(stamps.catalogue[name].tolist() for name in ("row", "column")), strict=True))
    rows = sorted(range(len(places)), key=lambda row: places.index(places[row]))
    while (first := held_out_count(len(rows), share)) and places[rows[first - 1]] == places[rows[first]]:
        del rows[first]
    return stamps.select(torch.tensor(rows))


def _centred(allowed: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """The galaxies whose stamps are allowed: their numbers among the detections `(K,)`, the rows and columns of their
    stamps' corners `(K, 2)`, and their own in the stamps."""
    found = detections()
    centre = torch.from_numpy(np.stack([found.y, found.x], axis=1))
    corner = (centre - pixels / 2 + 1).floor().long()  # of the stamp whose centre, (n − 1) / 2, is nearest
    inside = ((corner >= 0) & (corner < torch.tensor(allowed.shape))).all(1) & torch.from_numpy(found.flux >= LIMIT)
    number = inside.nonzero().squeeze(1)
    number = number[allowed[tuple(corner[number].T)]]
    return number, corner[number], centre[number] - corner[number]


def _corners(part: Part, galaxies: bool, pixels: int) -> Tensor:
    """At which rows and columns of the image the upper left pixel of a stamp may lie, bool `(872, 1000)`."""
    height, width = grey().shape
    top, bottom = (0, ROWS) if galaxies else (ROWS, height)
    left, right = COLUMNS[part]
    most = min(height - ROWS, *(end - start for start, end in COLUMNS.values()))
    if not 2 <= pixels <= most:
        raise MvssError(f"pixels={pixels}: stamps of the deep field have 2 to {most} pixels")
    allowed = torch.zeros(height, width, dtype=torch.bool)
    allowed[top : bottom - pixels + 1, left : right - pixels + 1] = True
    for row, column in STARS:
        reach = SPIKES + pixels - 1
        allowed[max(row - reach, 0) : row + SPIKES + 1, max(column - reach, 0) : column + SPIKES + 1] = False
    return allowed


def _stamps(corner: Tensor, turn: Tensor, pixels: int, columns: dict[str, Tensor]) -> Stamps:
    """Cut and turn. corner: row and column `(N, 2)`."""
    image = torch.from_numpy(grey().copy())
    y = torch.empty(len(corner), 1, pixels, pixels, dtype=torch.float64)
    for i, ((row, column), way) in enumerate(zip(corner.tolist(), turn.tolist(), strict=True)):
        y[i] = turned(image[None, row : row + pixels, column : column + pixels], way)
    place = {"row": corner[:, 0], "column": corner[:, 1], "turn": turn}
    return Stamps(y, torch.ones_like(y, dtype=torch.bool), torch.full_like(y, noise_level()), catalogue=place | columns)


def _turned_position(offset: Tensor, turn: Tensor, pixels: int) -> dict[str, Tensor]:
    """x and y of what is at row and column `offset` `(N, 2)` once the stamp is turned."""
    row, column = offset.T
    for quarter in range(1, 4):  # rot90 takes (row, column) to (n − 1 − column, row)
        more = turn % 4 >= quarter
        row, column = torch.where(more, pixels - 1 - column, row), torch.where(more, row, column)
    return {"x": torch.where(turn >= 4, pixels - 1 - column, column), "y": row}
