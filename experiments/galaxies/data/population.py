"""The law of the simulated galaxies, in the manner of HST's COSMOS field in F814W. All of its numbers are here.

    magnitude      counts N(< m) ∝ 10^(0.35 m) between two limits, about the slope of the I band's counts of faint galaxies
    size           scale length of discs r_d: p(r) ∝ r exp(−(r/a)^(4/3)), of median ln(r_d/1″) = −1.145 − 0.269 (m − 23), along
                   the major axis; bulges have the half-light radius r_d (Miller et al. 2013, MNRAS 429, 2858)
    Sérsic index   late types, four of five: 0.5 to 2 about 1; early types 2.5 to 4; a choice, in steps because every index
                   costs GalSim a table. Beyond magnitude 24.5 all are exponential discs: none is resolved well enough
                   to tell
    ellipticity    |g| of Rayleigh's law with 0.26 per component, the shape noise of Leauthaud et al. (2007, ApJS 172, 219),
                   and below 0.7; |g| = (a − b)/(a + b), at a random position angle
    density        `config.REAL_DENSITY`: 1.2 million objects to magnitude 26.5 in 1.64 square degrees (Leauthaud et al. 2007)

Not in it: stars, spiral arms, dust, clustering, colours.
"""

from __future__ import annotations

__all__ = ["Galaxy", "draw_galaxies"]

from dataclasses import dataclass

import numpy as np
from scipy.stats import gamma

SLOPE = 0.35
FAINT = 24.5
"""Magnitude from which every galaxy is a plain exponential disc."""
LATE = ((0.5, 0.15), (1.0, 0.5), (1.5, 0.25), (2.0, 0.1))
EARLY = ((2.5, 0.4), (3.0, 0.3), (4.0, 0.3))
"""Sérsic indices and their shares within the type."""
EARLY_SHARE = 0.2
SHAPE_NOISE, FLATTEST = 0.26, 0.7
RADII = (0.03, 0.8)
"""Half-light radii are kept within these, in arcseconds; larger galaxies need stamps larger than 3.2″."""
SIZES = gamma(1.5)
DISC = 1.6783
"""Half-light radius of an exponential disc in scale lengths."""


@dataclass(frozen=True)
class Galaxy:
    """magnitude, half_light_radius (arcsec, of the circle of equal area), n_sersic, and the reduced shear g1, g2."""

    magnitude: float
    half_light_radius: float
    n_sersic: float
    g1: float
    g2: float


def _magnitudes(u: np.ndarray, bright: float, faint: float) -> np.ndarray:
    low, high = 10 ** (SLOPE * bright), 10 ** (SLOPE * faint)
    return np.log10(low + u * (high - low)) / SLOPE


def draw_galaxies(rng: np.random.Generator, count: int, bright: float, faint: float) -> list[Galaxy]:
    """`count` galaxies between the magnitudes `bright` and `faint`."""
    magnitude = _magnitudes(rng.random(count), bright, faint)
    early = (rng.random(count) < EARLY_SHARE) & (magnitude < FAINT)
    (n_late, p_late), (n_early, p_early) = zip(*LATE, strict=True), zip(*EARLY, strict=True)
    n = np.where(early, rng.choice(n_early, count, p=p_early), rng.choice(n_late, count, p=p_late))
    n[magnitude >= FAINT] = 1.0
    inside = -np.expm1(-0.5 * (FLATTEST / SHAPE_NOISE) ** 2)
    g = SHAPE_NOISE * np.sqrt(-2 * np.log1p(-inside * rng.random(count)))
    angle = 2 * np.pi * rng.random(count)
    median = np.where(early, 1.0, DISC) * np.exp(-1.145 - 0.269 * (magnitude - 23)) * np.sqrt((1 - g) / (1 + g))
    # (r/a)^(4/3) is a gamma variable of shape 3/2 and median 1.183; by its quantiles, so that it ends at the largest radius
    below = SIZES.cdf(1.183 * (RADII[1] / median) ** (4 / 3))
    radius = median * (SIZES.ppf(rng.random(count) * below) / 1.183) ** 0.75
    columns = (magnitude, radius.clip(*RADII), n, g * np.cos(angle), g * np.sin(angle))
    return [Galaxy(*map(float, row)) for row in zip(*columns, strict=True)]
