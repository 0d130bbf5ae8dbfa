"""Scenes of the simulated sky: which galaxies there are, how a survey sees them without noise, and the truth about
them.

    sky       galaxies of magnitude 20 to 26.5, uniform over the stamp and `MARGIN` beyond it, so that light leaks in
    galaxy    one of magnitude 20.5 to 24, within half a pixel of the stamp's centre; none in random fields

The laws of the galaxies are in `population`. Flux = 10^(0.4 (zero point − magnitude)); a pixel holds the flux that
falls in it.
"""

from __future__ import annotations

__all__ = [
    "FACTOR",
    "GROUND",
    "KERNEL",
    "SPACE",
    "WIDE",
    "Scene",
    "Survey",
    "catalogue_row",
    "draw_images",
    "draw_scene",
]

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import galsim
import numpy as np
from numpy.typing import NDArray

from experiments.galaxies.data.population import Galaxy, draw_galaxies
from experiments.galaxies.data.stamps import NOISE
from mvss.runtime.errors import MvssError

CENTRAL, NEIGHBOURS = (20.5, 24.0), (20.0, 26.5)
"""Magnitudes of galaxies in the centre, and of all others."""
DETECTED = 2.5
"""Galaxies in the centre have this mean surface brightness within their half-light radius, in a pixel's noise, or more,
so that their peak stands out by about 5: what a survey lists. The first such of TRIES is taken."""
TRIES = 64
MARGIN = 2.0
"""How far beyond the stamp's edge there are galaxies, in arcseconds."""
AIR = 1.2
"""Room between a scene and its periodic image, in arcseconds: far more than the PSF's wings."""


@dataclass(frozen=True)
class Survey:
    """pixel (arcsec), psf (round), zero_point (magnitude of flux 1), noise: standard deviation of a usual pixel's
    noise."""

    pixel: float
    psf: galsim.GSObject
    zero_point: float
    noise: float = NOISE


HUBBLE = galsim.Convolve(galsim.Airy(lam=814, diam=2.4, obscuration=0.33), galsim.Gaussian(fwhm=0.06))
"""Diffraction of HST's mirror at 814 nm, and diffusion of charge between pixels: FWHM 0.09″, and 0.12″ in pixels of
0.1″."""
SEEING = galsim.Moffat(beta=3, fwhm=0.7)
SPACE = Survey(pixel=0.1, psf=HUBBLE, zero_point=25.5)
"""As deep as COSMOS: a point source of magnitude 27.2 has 5 σ in an aperture of 0.24″ (Koekemoer et al. 2007)."""
WIDE = Survey(pixel=0.15, psf=HUBBLE, zero_point=25.06)
"""SPACE in pixels 1.5 times as wide, as deep: a pixel's noise is 1.5 times as much flux. Sources of
multi-resolution."""
FACTOR, KERNEL = 2, 11
GROUND = Survey(pixel=FACTOR * WIDE.pixel, psf=SEEING, zero_point=WIDE.zero_point - 5 * math.log10(FACTOR))
"""Seen through the air, in units of WIDE: a pixel holds the mean over FACTOR × FACTOR of WIDE's pixels."""


Place = tuple[float, float]
"""x and y, arcseconds from the centre of the stamp."""
Array = NDArray[np.float64]


class Scene(NamedTuple):
    """The galaxy in the centre, or None, its place, and the neighbours with theirs."""

    central: Galaxy | None
    place: Place
    neighbours: list[tuple[Galaxy, Place]]


def _flux(galaxy: Galaxy, survey: Survey) -> float:
    return 10 ** (0.4 * (survey.zero_point - galaxy.magnitude))


def _listed(galaxy: Galaxy, survey: Survey) -> bool:
    """Whether a survey has it in its lists, by DETECTED."""
    radius = galaxy.half_light_radius / survey.pixel
    return _flux(galaxy, survey) / (2 * np.pi * radius**2) > DETECTED * survey.noise


def draw_scene(rng: np.random.Generator, pixels: int, survey: Survey, density: float, central: bool) -> Scene:
    """A random scene for stamps of n × n pixels of the survey; density in galaxies per square arcminute."""
    reach = pixels * survey.pixel / 2 + MARGIN
    count = rng.poisson(density * (2 * reach / 60) ** 2)
    sky = list(zip(draw_galaxies(rng, count, *NEIGHBOURS), rng.uniform(-reach, reach, (count, 2)).tolist(), strict=True))
    if not central:
        return Scene(None, (0.0, 0.0), sky)
    place = rng.uniform(-survey.pixel / 2, survey.pixel / 2, 2).tolist()
    listed = [galaxy for galaxy in draw_galaxies(rng, TRIES, *CENTRAL) if _listed(galaxy, survey)]
    if not listed:
        raise MvssError("simulated sky: this survey's noise hides every galaxy; give it less noise, or a fainter zero point")
    return Scene(listed[0], place, sky)


def _profile(galaxy: Galaxy, place: Place, survey: Survey) -> galsim.GSObject:
    """Before the PSF; arcseconds from the stamp's centre."""
    flux = _flux(galaxy, survey)
    if galaxy.n_sersic == 1:
        profile = galsim.Exponential(half_light_radius=galaxy.half_light_radius, flux=flux)
    else:
        profile = galsim.Sersic(n=galaxy.n_sersic, half_light_radius=galaxy.half_light_radius, flux=flux)
    return profile.shear(g1=galaxy.g1, g2=galaxy.g2).shift(*place)


@cache
def _transfer(survey: Survey, pixels: int) -> tuple[NDArray[np.complex128], int, float]:
    """Fourier transform of PSF, pixel and the way from the stamp's centre to its first pixel, `(f·m, f·m)`; f; its
    step.

    m pixels are the period of a scene; frequencies up to f times the pixels' own, beyond which the PSF passes nothing,
    are folded onto these, as sampling does.
    """
    m = 2 * int(np.ceil((pixels * survey.pixel + 2 * MARGIN + AIR) / survey.pixel / 2))
    folds = int(np.ceil(survey.psf.maxk * survey.pixel / np.pi))
    step = 2 * np.pi / (m * survey.pixel)
    corner = (pixels - 1) / 2 * survey.pixel
    response = galsim.Convolve(survey.psf, galsim.Pixel(survey.pixel)).shift(corner, corner)
    return response.drawKImage(nx=folds * m, ny=folds * m, scale=step).array, folds, step


def _draw(profiles: list[galsim.GSObject], survey: Survey, pixels: int) -> Array:
    """All of them as the survey sees them, `(n, n)`: one Fourier transform, where GalSim would make one for each."""
    if not profiles:
        return np.zeros((pixels, pixels))
    transfer, folds, step = _transfer(survey, pixels)
    side = len(transfer)
    spectrum = transfer * galsim.Add(profiles).drawKImage(nx=side, ny=side, scale=step).array
    folded = np.fft.ifftshift(spectrum).reshape(folds, side // folds, folds, side // folds).sum((0, 2))
    return np.fft.ifft2(folded).real[:pixels, :pixels]


def draw_images(scene: Scene, survey: Survey, pixels: int) -> tuple[Array, Array]:
    """Sky and galaxy without noise, `(n, n)` each."""
    central = [] if scene.central is None else [(scene.central, scene.place)]
    sky, galaxy = ([_profile(*one, survey) for one in some] for some in (scene.neighbours, central))
    return _draw(sky, survey, pixels), _draw(galaxy, survey, pixels)


def catalogue_row(scene: Scene, sky: Array, galaxy: Array, survey: Survey) -> dict[str, float]:
    """The catalogue's row of one galaxy; its columns are told in `simulate`."""
    central, place, _ = scene
    assert central is not None  # random fields have no row
    n = len(galaxy)
    x, y = (n - 1) / 2 + place[0] / survey.pixel, (n - 1) / 2 + place[1] / survey.pixel
    radius = central.half_light_radius
    aperture = np.hypot(np.arange(n)[None, :] - x, np.arange(n)[:, None] - y) * survey.pixel < 2 * radius + survey.pixel
    guess = {"guess_centroid": galsim.PositionD(x + 1, y + 1), "guess_sig": np.hypot(radius / survey.pixel, 1.0)}
    shape = galsim.hsm.FindAdaptiveMom(galsim.ImageD(galaxy, scale=1.0), strict=False, **guess)
    measured = shape.moments_status == 0
    light, others = galaxy[aperture].sum(), sky[aperture].sum()
    return {
        "flux": _flux(central, survey),
        "magnitude": central.magnitude,
        "half_light_radius": radius / survey.pixel,
        "n_sersic": central.n_sersic,
        "e1": shape.observed_shape.e1 if measured else np.nan,
        "e2": shape.observed_shape.e2 if measured else np.nan,
        "x": x,
        "y": y,
        "blending": others / (light + others),
    }
