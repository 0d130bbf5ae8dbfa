"""How galaxies are cut out without a model of them: what a posterior has to be better than.

    segmentation   galaxy = y − background inside the segment at the centre, zero elsewhere
    symmetric      the segment and the pixels next to it; one that a neighbour or a gap takes is the one opposite, 2c − x
    aperture       galaxy = y − background inside a circle, mirrored likewise where a neighbour's segment or a gap is in it

Light of a neighbour that lies under the segment stays in, light of the galaxy outside is lost. That galaxies look the
same turned by 180° is what SDSS deblends by (Lupton et al. 2001). Detection as in SExtractor (Bertin & Arnouts 1996),
by sep.
"""

from __future__ import annotations

__all__ = ["Extraction", "Extractor", "aperture", "segmentation", "sized"]

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import sep
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor
from typing_extensions import override

from experiments.core.task import Model
from experiments.galaxies.data.stamps import GALAXY, Stamps
from mvss.problem.views import Draws, View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

THRESHOLD, AREA = 1.5, 5
"""Segments: at least that many connected pixels of the smoothed image that exceed so many standard deviations of the
noise."""
TOLERANCE = 3.0
"""Pixels between the centre of a stamp and the peak of its galaxy."""
ASYMMETRY, DEVIATIONS = 2.0, 3.0
"""A pixel is a neighbour's if it is so many times as bright as the one opposite, and so many standard deviations of the
noise brighter than that. The factor spares bright galaxies that are half a pixel off the centre."""
RADII = 2.0
"""Half-light radii in which blending is measured."""

Array = np.ndarray


@dataclass(frozen=True)
class Extraction:
    """galaxy `(N, 1, n, n)`; flux, its sum, with the standard deviation flux_error that the noise gives it, `(N,)`;
    detected: whether there is a segment at the centre, `(N,)`."""

    galaxy: Tensor
    flux: Tensor
    flux_error: Tensor
    detected: Tensor


@dataclass(frozen=True)
class _Segments:
    """Of one stamp, `(n, n)` each. light: y − background; good, sigma: as of `Stamps`; own: the galaxy's segment, empty
    where nothing is detected; others: those of its neighbours. variance: of the background."""

    light: Array
    good: Array
    sigma: Array
    own: Array
    others: Array
    variance: float


def segmentation(stamps: Stamps, radius: float, symmetric: bool = False) -> Extraction:
    """The segment at the centre. radius: of the aperture, in pixels, where nothing is detected there."""

    def choose(found: _Segments) -> tuple[Array, Array]:
        if not found.own.any():
            return _circle(found, radius)
        if not symmetric:
            return found.own, np.zeros_like(found.own)
        taken = found.others | ~found.good
        limit = ASYMMETRY * _turned(found.light).clip(0) + DEVIATIONS * np.hypot(found.sigma, _turned(found.sigma))
        foreign = taken | ((found.light > limit) & _turned(found.good))
        return binary_dilation(found.own) & ~foreign, foreign

    return _extract(stamps, choose)


def aperture(stamps: Stamps, radius: float) -> Extraction:
    """A circle of `radius` pixels around the centre."""
    return _extract(stamps, lambda found: _circle(found, radius))


def sized(stamps: Stamps) -> Stamps:
    """With x, y, half_light_radius and blending in the catalogue, as the stamps show them, instead of columns of these
    names.

    x and y are the centre's; the radius is that of half of the segment's light around it, the median one where nothing
    is detected there; blending is the neighbours' share of the light within two such radii.

    Raises MvssError where nothing is detected in any stamp.
    """
    middle = (stamps.pixels - 1) / 2
    found = [_segments(*arrays) for arrays in _arrays(stamps)]
    radius = np.array([sep.flux_radius(np.where(f.own, f.light, 0.0), [middle], [middle], [middle], 0.5)[0][0] for f in found])
    seen = np.array([f.own.any() for f in found]) & (radius > 0)
    if not seen.any():
        raise MvssError("no galaxy is detected at the centre of any stamp: do the positions of the catalogue fit the mosaics?")
    radius = np.where(seen, radius, np.median(radius[seen]))
    light = [
        [sep.sum_circle(np.where(which, f.light, 0.0), [middle], [middle], RADII * r)[0][0] for which in (f.own, f.others)]
        for f, r in zip(found, radius, strict=True)
    ]
    own, others = np.array(light).clip(0.0).T
    columns = {"half_light_radius": radius, "blending": others / (own + others).clip(1e-12)}
    centre = torch.full((len(stamps),), middle, dtype=torch.float64)
    measured = {name: torch.from_numpy(column) for name, column in columns.items()}
    return replace(stamps, catalogue=stamps.catalogue | measured | {"x": centre, "y": centre})


class Extractor(Model):
    """One of the above as `core.task.Model`; nothing is learned, and all draws are equal.

    extract: stamps to the galaxies cut out of them, e.g. `partial(aperture, radius=6.0)`, in the units of the
    observations, which must be linear in flux.
    """

    def __init__(self, extract: Callable[[Stamps], Extraction]) -> None:
        self.extract = extract

    @property
    @override
    def sources(self) -> tuple[str, ...]:
        return (GALAXY,)

    @override
    def separate(
        self, view: View, draws: int = 1, seed: int | Stream = 0, progress: Callable[[float], None] = lambda _: None
    ) -> Draws:
        """`(draws, N, 1, n, n)`, the same one `draws` times; none where the view shows no galaxy."""
        if GALAXY not in view.sources:
            return {}
        galaxy = self.galaxies(view)
        progress(1.0)
        return {GALAXY: galaxy.expand(draws, *galaxy.shape)}

    def galaxies(self, view: View, good: Tensor | None = None) -> Tensor:
        """The galaxies `(N, 1, n, n)`. good: measured pixels, of the shape of y; those that an operator of the view reaches
        if not given."""
        operator = view.operators[GALAXY]
        if operator.source_shape != view.observation_shape:
            shapes = f"{operator.source_shape} from {view.observation_shape}"
            raise MvssError(f"{view.name}: no segment gives a source {shapes}; extract from a view at the source's resolution")
        if good is None:  # a mask is what sends a flat source to zeros
            flat = torch.ones(len(view), *operator.source_shape, dtype=view.y.dtype, device=view.y.device)
            good = operator.forward(flat) != 0
        stamps = Stamps(view.y, good, view.noise.variance(view.y).sqrt())
        return self.extract(stamps).galaxy.to(view.y)

    @override
    def sample(self, source: str, count: int, seed: int | Stream = 0, stratified: bool = False) -> Tensor:
        """There is none."""
        raise MvssError("a segmentation has no prior to draw galaxies from; leave the scores of prior draws out")


def _extract(stamps: Stamps, choose: Callable[[_Segments], tuple[Array, Array]]) -> Extraction:
    """choose: the pixels of a stamp that are kept, and those that are not the galaxy's, which are filled from opposite
    ones that are, as far as what is kept and its mirror image reach."""
    galaxies, rows = [], []
    for y, good, sigma in _arrays(stamps):
        found = _segments(y, good, sigma)
        kept, foreign = choose(found)
        filled = foreign & (kept | _turned(kept)) & ~_turned(foreign)
        galaxy = np.where(filled, _turned(found.light), np.where(kept, found.light, 0.0))
        weight = kept.astype(float) + _turned(filled)  # a pixel that was mirrored counts twice, its error too
        variance = (weight**2 * sigma**2).sum() + weight.sum() ** 2 * found.variance
        galaxies.append(galaxy)
        rows.append((galaxy.sum(), math.sqrt(variance), found.own.any()))
    flux, error, detected = torch.tensor(rows, dtype=torch.float64).T
    return Extraction(torch.from_numpy(np.stack(galaxies)).unsqueeze(1), flux, error, detected.bool())


def _arrays(stamps: Stamps) -> Iterator[tuple[Array, ...]]:
    """y, good and sigma of each."""
    return zip(*(v[:, 0].cpu().numpy() for v in (stamps.y.double(), stamps.good, stamps.sigma.double())), strict=True)


def _segments(y: Array, good: Array, sigma: Array) -> _Segments:
    """Detect twice: the second time over the background of what is in no segment."""
    n, free = len(y), good
    y, sigma = np.ascontiguousarray(np.where(good, y, 0.0)), np.ascontiguousarray(sigma)
    background = variance = 0.0
    objects, labels = np.zeros(0), np.zeros((n, n), dtype=int)
    for _ in range(2):
        if free.sum() < n:  # too few to tell the background from: that of before
            break
        background = float(np.median(y[free]))  # SExtractor's mode of so few pixels has three times the variance
        variance = math.pi / 2 * float((sigma[free] ** 2).mean() / free.sum())
        # "conv": in units of the noise of a pixel, as SExtractor has it, not of the smoothed image
        settings = {"mask": ~good, "minarea": AREA, "filter_type": "conv", "segmentation_map": True}
        objects, labels = sep.extract(y - background, THRESHOLD, err=sigma, **settings)
        free = good & (labels == 0)
    own = labels == _central(objects, labels)
    own &= labels > 0
    return _Segments(np.where(good, y - background, 0.0), good, sigma, own, (labels > 0) & ~own, variance)


def _central(objects: Array, labels: Array) -> int:
    """The segment whose peak is nearest the centre; far from it, the one that covers it: a galaxy that was not told
    from its neighbour is that neighbour."""
    if len(objects):
        middle = (len(labels) - 1) / 2
        distance = np.hypot(objects["xcpeak"] - middle, objects["ycpeak"] - middle)
        if distance.min() <= TOLERANCE:
            return int(distance.argmin()) + 1
    return int(labels[len(labels) // 2, len(labels) // 2])


def _circle(found: _Segments, radius: float) -> tuple[Array, Array]:
    offset = np.arange(len(found.light)) - (len(found.light) - 1) / 2
    inside, taken = np.hypot(offset[:, None], offset) <= radius, found.others | ~found.good
    return inside & ~taken, inside & taken


def _turned(x: Array) -> Array:
    """By 180° about the centre of the stamp."""
    return x[::-1, ::-1]
