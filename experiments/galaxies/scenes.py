"""Scenes of the simulated sky: which galaxies there are, how a survey sees them without noise, and the truth about them.

    sky       galaxies of magnitude 20 to 26.5, uniform over the stamp and `MARGIN` beyond it, so that light leaks in
    galaxy    one of magnitude 20.5 to 24, within half a pixel of the stamp's centre; none in random fields

The laws of the galaxies are in `population`. Flux = 10^(0.4 (zero point − magnitude)); a pixel holds the flux that falls in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import galsim
import numpy as np

from experiments.galaxies.population import FAINT, REAL_DENSITY, Galaxy, draw_galaxies
from experiments.galaxies.stamps import NOISE

__all__ = [
    "DENSITY",
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

DENSITY = 10 * REAL_DENSITY
"""Galaxies per square arcminute: ten times the real sky's, so that a stamp of 3.2″ holds six, of which two stand out."""
CENTRAL, NEIGHBOURS = (20.5, 24.0), (20.0, 26.5)
"""Magnitudes of galaxies in the centre, and of all others."""
DETECTED = 2.0
"""Galaxies in the centre have this mean surface brightness within their half-light radius, in a pixel's noise, so that their
peak stands out by 5: what a survey lists. Fainter ones are drawn again."""
MARGIN = 2.0
"""How far beyond the stamp's edge there are galaxies, in arcseconds."""
ACCURATE = galsim.GSParams(folding_threshold=1e-2, maxk_threshold=5e-3, kvalue_accuracy=1e-4)
ROUGH = galsim.GSParams(folding_threshold=5e-2, maxk_threshold=1e-2, kvalue_accuracy=1e-3)
"""GalSim's errors, for galaxies brighter and fainter than FAINT: well below the noise, as a test says, and fast."""


@dataclass(frozen=True)
class Survey:
    """pixel (arcsec), psf (round), zero_point (magnitude of flux 1), noise: standard deviation of a usual pixel's noise."""

    pixel: float
    psf: galsim.GSObject
    zero_point: float
    noise: float = NOISE


HUBBLE = galsim.Convolve(galsim.Airy(lam=814, diam=2.4, obscuration=0.33), galsim.Gaussian(fwhm=0.06))
"""Diffraction of HST's mirror at 814 nm, and diffusion of charge between pixels: FWHM 0.09″, and 0.12″ in pixels of 0.1″."""
SEEING = galsim.Moffat(beta=3, fwhm=0.7)
SPACE = Survey(pixel=0.1, psf=HUBBLE, zero_point=25.5)
"""As deep as COSMOS: a point source of magnitude 27.2 has 5 σ in an aperture of 0.24″ (Koekemoer et al. 2007)."""
WIDE = Survey(pixel=0.15, psf=HUBBLE, zero_point=25.06)
"""SPACE in pixels 1.5 times as wide, as deep: a pixel's noise is 1.5 times as much flux. Multi-resolution's sources live here."""
FACTOR, KERNEL = 2, 11
GROUND = Survey(pixel=FACTOR * WIDE.pixel, psf=SEEING, zero_point=WIDE.zero_point - 2.5 * np.log10(FACTOR**2))
"""Seen through the air, in units of WIDE: a pixel holds the mean over FACTOR × FACTOR of WIDE's pixels."""


Place = tuple[float, float]
"""x and y, arcseconds from the centre of the stamp."""


class Scene(NamedTuple):
    """The galaxy in the centre, or None, its place, and the neighbours with theirs."""

    central: Galaxy | None
    place: Place
    neighbours: list[tuple[Galaxy, Place]]


def _flux(galaxy: Galaxy, survey: Survey) -> float:
    return 10 ** (0.4 * (survey.zero_point - galaxy.magnitude))


def _listed(galaxy: Galaxy, survey: Survey) -> bool:
    radius = galaxy.half_light_radius / survey.pixel
    return _flux(galaxy, survey) / (2 * np.pi * radius**2) > DETECTED * survey.noise


def draw_scene(rng: np.random.Generator, pixels: int, survey: Survey, density: float, central: bool) -> Scene:
    reach = pixels * survey.pixel / 2 + MARGIN
    count = rng.poisson(density * (2 * reach / 60) ** 2)
    sky = list(zip(draw_galaxies(rng, count, *NEIGHBOURS), rng.uniform(-reach, reach, (count, 2)).tolist(), strict=True))
    if not central:
        return Scene(None, (0.0, 0.0), sky)
    place = rng.uniform(-survey.pixel / 2, survey.pixel / 2, 2).tolist()
    return Scene(next(g for g in iter(lambda: draw_galaxies(rng, 1, *CENTRAL)[0], None) if _listed(g, survey)), place, sky)


def _reaches(galaxy: Galaxy, place: Place, side: float) -> bool:
    """Whether a pixel of the stamp sees it: beyond 5 half-light radii an exponential disc has 0.2 % of its light."""
    outside = np.hypot(*(max(abs(u) - side / 2, 0.0) for u in place))
    return galaxy.n_sersic > 1 or outside < 5 * galaxy.half_light_radius + 0.3


def _draw(galaxy: Galaxy, place: Place, survey: Survey, pixels: int) -> np.ndarray:
    """One galaxy as the survey sees it, `(n, n)`."""
    flux = _flux(galaxy, survey)
    if galaxy.n_sersic == 1:
        profile = galsim.Exponential(half_light_radius=galaxy.half_light_radius, flux=flux)
    else:
        profile = galsim.Sersic(n=galaxy.n_sersic, half_light_radius=galaxy.half_light_radius, flux=flux)
    profile = profile.shear(g1=galaxy.g1, g2=galaxy.g2).shift(*place)
    seen = galsim.Convolve(profile, survey.psf, gsparams=ACCURATE if galaxy.magnitude < FAINT else ROUGH)
    return seen.drawImage(galsim.ImageD(pixels, pixels, scale=survey.pixel)).array


def draw_images(scene: Scene, survey: Survey, pixels: int, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Sky and galaxy without noise, `(n, n)` each, for a scene whose stamp has the side `side` (arcsec)."""
    sky, galaxy = np.zeros((2, pixels, pixels))
    for neighbour, place in scene.neighbours:
        if _reaches(neighbour, place, side):
            sky += _draw(neighbour, place, survey, pixels)
    if scene.central is not None:
        galaxy += _draw(scene.central, scene.place, survey, pixels)
    return sky, galaxy


def catalogue_row(scene: Scene, sky: np.ndarray, galaxy: np.ndarray, survey: Survey) -> dict[str, float]:
    """The catalogue's row of one galaxy; its columns are told in `simulate`."""
    central, place, _ = scene
    n = len(galaxy)
    x, y = (n - 1) / 2 + place[0] / survey.pixel, (n - 1) / 2 + place[1] / survey.pixel
    radius = central.half_light_radius
    aperture = np.hypot(np.arange(n)[None, :] - x, np.arange(n)[:, None] - y) * survey.pixel < 2 * radius + survey.pixel
    shape = galsim.hsm.FindAdaptiveMom(galsim.ImageD(galaxy, scale=1.0), strict=False)
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
