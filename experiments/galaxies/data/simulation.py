"""Simulated sky with truth, by GalSim: y = sky + galaxy + η, both sources convolved with the PSF and integrated over
pixels.

η is the noise of HST's COSMOS mosaics averaged over the stamp's pixels, or white; there are bad pixels, tracks of
cosmic rays, and tracks on which one of four exposures was lost. What the sources are is told in `scenes` and
`population`. Stamp i of a seed is the same whatever the number of stamps is.

Multi-resolution: the sources live in WIDE's pixels, and a ground-based survey sees BlockAverage ·
Convolve(ground_kernel) of them, up to a small error, for it is drawn from the true profiles.
"""

from __future__ import annotations

__all__ = ["GroundStamps", "ground_kernel", "noise_covariance", "simulate", "simulate_ground"]

from dataclasses import dataclass
from functools import cache, lru_cache

import galsim
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.galaxies.config import DENSITY
from experiments.galaxies.data.sky import (
    FACTOR,
    GROUND,
    KERNEL,
    SPACE,
    WIDE,
    Survey,
    catalogue_row,
    draw_images,
    draw_scene,
)
from experiments.galaxies.data.stamps import NOISE, Stamps
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream, generator

LOST = (4 / 3) ** 0.5
"""Growth of the standard deviation where one of four exposures was lost."""
Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class GroundStamps:
    """Ground-based stamps, and their truth as WIDE sees it.

    stamps: y, good, sigma of `(N, 1, m, m)` with m = (n − KERNEL + 1) / FACTOR, over the scene's middle; catalogue of
    WIDE. sky, galaxy: `(N, 1, n, n)`, without noise.
    """

    stamps: Stamps
    sky: Tensor
    galaxy: Tensor


def _rng(seed: int, *key: str | int) -> np.random.Generator:
    return np.random.default_rng(generator(seed, "simulated sky", *key).initial_seed())


def _track(rng: np.random.Generator, pixels: int, length: int) -> tuple[Indices, Indices]:
    """Rows and columns of a straight track through a random pixel; what lies outside the stamp is cut off."""
    start, angle = rng.integers(0, pixels, 2), rng.uniform(0, 2 * np.pi)
    steps = np.arange(length)[:, None] * [np.sin(angle), np.cos(angle)]
    places = np.unique((start + steps).round().astype(int), axis=0)
    return tuple(places[((places >= 0) & (places < pixels)).all(1)].T)


def _defects(rng: np.random.Generator, pixels: int) -> tuple[NDArray[np.bool_], Array, Array]:
    """Which pixels were measured, growth of their standard deviation, and what stands where nothing was, `(n, n)`
    each."""
    good, growth = np.ones((pixels, pixels), bool), np.ones((pixels, pixels))
    garbage = np.zeros((pixels, pixels))
    if rng.random() < 0.5:  # dead and hot pixels
        where = tuple(rng.integers(0, pixels, (2, rng.integers(1, 4))))
        good[where], garbage[where] = False, rng.choice([-10 * NOISE, 100 * NOISE], len(where[0]))
    if rng.random() < 0.25:  # a cosmic ray
        where = _track(rng, pixels, int(rng.integers(2, max(3, pixels // 4))))
        good[where], garbage[where] = False, rng.exponential(50 * NOISE, len(where[0]))
    if rng.random() < 0.25:  # a cosmic ray that one exposure was lost to
        growth[_track(rng, pixels, int(rng.integers(2, max(3, pixels // 2))))] = LOST
    return good, growth, garbage


@cache
def _spectrum(pixels: int, pixel: float) -> Array:
    """Power of COSMOS's noise on a periodic grid of 2n × 2n pixels, `(2n, 2n)`, of which its variance 1 is the mean.

    The mosaics' correlation, between pixels of 0.03″ and linear between these lags, is averaged over the stamp's
    pixels.
    """
    fine, reach = 10, pixels - 1
    half = fine * pixels
    image = galsim.ImageD(2 * half + 1, 2 * half + 1, scale=pixel / fine)
    correlation = galsim.getCOSMOSNoise(rng=galsim.BaseDeviate(0), variance=1.0).drawImage(image).array
    lags = np.arange(-reach, reach + 1)
    triangle = (1 - np.abs(np.arange(-half, half + 1) / fine - lags[:, None])).clip(0)
    periodic = np.zeros((2 * pixels, 2 * pixels))
    periodic[np.ix_(lags, lags)] = triangle @ correlation @ triangle.T
    power = np.fft.fft2(periodic).real.clip(0)  # so that there is a noise with this correlation, to the last digit
    return power / power.mean()


def noise_covariance(pixels: int, survey: Survey = SPACE) -> Tensor:
    """Covariance of the correlated noise of two pixels by their lag, `(2n − 1, 2n − 1)`; lag zero is in the middle."""
    _check(1, 0.0, pixels)
    covariance = survey.noise**2 * np.fft.ifft2(_spectrum(pixels, survey.pixel)).real
    lags = np.arange(-pixels + 1, pixels)
    return torch.from_numpy(covariance[np.ix_(lags, lags)])


def _noise(stream: Stream, count: int, pixels: int, survey: Survey, correlated: bool) -> Tensor:
    """`(N, 1, n, n)`."""
    side = 2 * pixels if correlated else pixels
    z = stream.normal(torch.arange(count), (1, side, side), "noise")
    if correlated:
        z = torch.fft.ifft2(torch.fft.fft2(z) * torch.from_numpy(_spectrum(pixels, survey.pixel)).sqrt()).real
    return survey.noise * z[..., :pixels, :pixels]


def _check(count: int, density: float, pixels: int) -> None:
    if count < 1:
        raise MvssError(f"simulated sky: {count} stamps were asked for; ask for 1 or more")
    if not 0 <= density < float("inf"):
        raise MvssError(f"simulated sky: the density must be 0 or more galaxies per square arcminute, got {density}")
    if pixels < 8:
        raise MvssError(f"simulated sky: a stamp of {pixels} pixels holds no galaxy; take 8 or more")


def _observe(clean: Tensor, noise: Tensor, seed: int, key: tuple[str, ...], survey: Survey) -> tuple[Tensor, Tensor, Tensor]:
    """y, good and sigma of stamps without noise `(N, 1, n, n)`."""
    maps = zip(*(_defects(_rng(seed, *key, i), clean.shape[-1]) for i in range(len(clean))), strict=True)
    good, growth, garbage = (torch.from_numpy(np.stack(m)[:, None]) for m in maps)
    return torch.where(good, clean + growth * noise, garbage), good, survey.noise * growth


def _columns(rows: list[dict[str, float]]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in (rows[0] if rows else ())}


@lru_cache(maxsize=8)  # jobs of one process share them
def simulate(
    count: int,
    seed: int,
    *,
    galaxies: bool,
    pixels: int = 32,
    survey: Survey = SPACE,
    density: float = DENSITY,
    correlated: bool = True,
) -> Stamps:
    """Stamps with a galaxy in the centre, or random fields, with the truth of both sources.

    Args:
        count: N.
        seed: of everything; random fields and stamps with galaxies of one seed share nothing.
        galaxies: whether there is a galaxy in the centre.
        pixels: n.
        density: of the sky's galaxies down to magnitude 26.5, per square arcminute.
        correlated: noise of the covariance that `noise_covariance` tells; else white, of the same standard deviation.

    The catalogue, empty for random fields, holds the galaxy's true total flux and magnitude; half_light_radius before
    the PSF, in pixels, of the circle of equal area; n_sersic; e1, e2 = (a² − b²)/(a² + b²) (cos, sin)(2φ) of the
    adaptive moments of its image without noise, PSF included, NaN for one in twenty, too small in pixels; its place x,
    y; blending: share of the neighbours in the light within 2 half-light radii and one pixel of it.
    """
    _check(count, density, pixels)
    what = "galaxies" if galaxies else "fields"
    images, rows = [], []
    for i in range(count):
        scene = draw_scene(_rng(seed, what, "scene", i), pixels, survey, density, galaxies)
        images.append(draw_images(scene, survey, pixels))
        rows += [catalogue_row(scene, *images[-1], survey)] if galaxies else []
    sky, galaxy = torch.from_numpy(np.array(images)[:, :, None]).unbind(1)
    noise = _noise(Stream(seed, ("simulated sky", what)), count, pixels, survey, correlated)
    y, good, sigma = _observe(sky + galaxy, noise, seed, (what, "defects"), survey)
    return Stamps(y, good, sigma, sky, galaxy, _columns(rows))


@lru_cache(maxsize=8)
def simulate_ground(count: int, seed: int, *, galaxies: bool, pixels: int = 32, density: float = DENSITY) -> GroundStamps:
    """What `simulate(..., survey=WIDE)` sees, seen from the ground: the same scenes, with white noise of their own.

    Drawn from the true profiles with the true PSF, not from WIDE's pixels: `ground_kernel` is the model, this is the
    sky.
    """
    _check(count, density, pixels)
    size = (pixels - KERNEL + 1) // FACTOR
    if (pixels - KERNEL + 1) % FACTOR or size < 1:
        raise MvssError(f"simulated sky: {pixels} pixels less the kernel's {KERNEL - 1} must be even; take 32")
    what = "galaxies" if galaxies else "fields"
    scenes = [draw_scene(_rng(seed, what, "scene", i), pixels, WIDE, density, galaxies) for i in range(count)]
    space = [draw_images(scene, WIDE, pixels) for scene in scenes]
    clean = [sum(draw_images(scene, GROUND, size)) for scene in scenes]
    rows = [catalogue_row(scene, *images, WIDE) for scene, images in zip(scenes, space, strict=True)] if galaxies else []
    sky, galaxy = torch.from_numpy(np.array(space)[:, :, None]).unbind(1)
    noise = _noise(Stream(seed, ("simulated sky", what, "ground")), count, size, GROUND, correlated=False)
    seen = _observe(torch.from_numpy(np.array(clean)[:, None]), noise, seed, (what, "ground defects"), GROUND)
    return GroundStamps(Stamps(*seen, catalogue=_columns(rows)), sky, galaxy)


@cache
def ground_kernel() -> Tensor:
    """Kernel k `(KERNEL, KERNEL)` of sum 1 from WIDE's pixels to GROUND's PSF; BlockAverage by FACTOR comes after.

    The kernel t that matches the PSFs, GROUND's Fourier transform over WIDE's, has wings that k has no room for (13 %
    of the light). k makes up for them as well as it can: of sum 1, it minimises E‖(k − t) * s‖² + ridge ‖k − t‖²
    (within k) for sources s like a disc of half-light radius 0.4″ anywhere, whose covariance is its autocorrelation.
    """
    pixel, inner, wide, ridge = WIDE.pixel, KERNEL // 2, 41, 0.1
    reach = wide // 2 + inner

    def drawn(profile: galsim.GSObject, side: int) -> Array:
        return profile.drawImage(nx=side, ny=side, scale=pixel, method="no_pixel", dtype=float).array

    t = drawn(galsim.Convolve(GROUND.psf, galsim.Deconvolve(WIDE.psf)), wide)
    disc = galsim.Convolve(galsim.Exponential(half_light_radius=0.4), WIDE.psf, galsim.Pixel(pixel))
    covariance = drawn(galsim.AutoCorrelate(disc), 2 * reach + 1)
    covariance /= covariance.max()
    lags_k, lags_t = (np.moveaxis(np.mgrid[-h : h + 1, -h : h + 1], 0, -1).reshape(-1, 2) for h in (inner, wide // 2))
    blocks = [covariance[tuple((lags_k[:, None] - lags + reach).transpose(2, 0, 1))] for lags in (lags_k, lags_t)]
    within = t[wide // 2 - inner :][:KERNEL, wide // 2 - inner :][:, :KERNEL].ravel()
    size = KERNEL**2  # one more equation and unknown, Lagrange's, for the sum
    system = np.pad(blocks[0] + ridge * np.eye(size), (0, 1), constant_values=1.0)
    system[size, size] = 0.0
    k = np.linalg.solve(system, np.append(blocks[1] @ t.ravel() + ridge * within, 1.0))
    return torch.from_numpy(k[:size].reshape(KERNEL, KERNEL))
