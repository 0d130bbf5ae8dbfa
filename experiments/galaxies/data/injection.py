"""Injection recovery: known galaxies put on random fields of real sky, the honest test where nobody knows the truth.

    y = field + galaxy,    galaxy: I(r) ∝ exp(−b_k (r/r_e)^(1/k)), an ellipse (Sérsic 1963), fitted to a real, isolated one

Cut-outs of real ones would bring their own noise, and the edges of whatever cut them; a method that takes noise off
would be charged for it. Models have neither, and the sizes, shapes and fluxes of galaxies as the sky shows them, seeing
included. The field holds its own noise, so that of the sky no noise-free truth is known.
"""

from __future__ import annotations

__all__ = ["injected_into"]

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from experiments.galaxies.data.stamps import Stamps
from experiments.galaxies.scores.measures import flux, within
from experiments.galaxies.segmentation import RADII, segmentation
from mvss.runtime.errors import MvssError

ISOLATED = 0.03
"""Largest share of others in a galaxy's light; where the catalogue does not tell, all galaxies are taken."""
MODELS = 200
"""Galaxies that are fitted, at most."""
LEAST = 12
"""Pixels that a fit needs."""
FINE = 3
"""Points in the width of a pixel whose mean is its light."""
LOW, HIGH = (-2.0, -2.0, math.log(0.5), -0.6, -0.6, math.log(0.4)), (2.0, 2.0, math.inf, 0.6, 0.6, math.log(3.0))
"""Bounds of a model: x and y from the centre and log r_e, in pixels; both components of the shear; log k."""
Image = NDArray[np.float64]


def injected_into(fields: Stamps, galaxies: Stamps) -> Stamps:
    """The fields with a galaxy each, in turn. Catalogue: x, y, half_light_radius and flux of the galaxies, and
    blending, the field's share in the light within 2 half-light radii.

    Raises MvssError where no galaxy is isolated.
    """
    if "half_light_radius" not in galaxies.catalogue:
        raise MvssError("the catalogue of the galaxies has no half_light_radius: injected ones cannot be measured")
    blending = galaxies.catalogue.get("blending")
    if blending is not None:
        galaxies = galaxies.select(blending < ISOLATED)
    if len(galaxies) > MODELS:
        galaxies = galaxies.select(torch.linspace(0, len(galaxies) - 1, MODELS).round().long())
    known, x, y, radius = _modelled(galaxies)
    if not len(known):
        raise MvssError("no galaxy is isolated and bright enough to be injected elsewhere: more stamps are needed")
    number = torch.arange(len(fields)) % len(known)
    galaxy, catalogue = known[number], {"x": x[number], "y": y[number], "half_light_radius": radius[number]}
    own = Stamps(fields.y + galaxy, fields.good, fields.sigma, None, galaxy, catalogue)
    near = within(own, RADII)
    level = fields.y.median()
    others = flux((fields.y - level) * fields.good, near).clamp_min(0.0)
    light = flux(galaxy, near)
    catalogue |= {"flux": flux(galaxy, within(own)), "blending": others / (others + light).clamp_min(1e-12)}
    return own


def _modelled(galaxies: Stamps) -> tuple[torch.Tensor, ...]:
    """Models of those that can be fitted: images `(K, 1, n, n)`, and x, y and half-light radius `(K,)` of each."""
    if not len(galaxies):
        return galaxies.y, *[torch.zeros(0, dtype=torch.float64)] * 3
    radius = galaxies.catalogue["half_light_radius"]
    segments = segmentation(galaxies, radius=2 * float(radius.median()), symmetric=True).galaxy
    found = [_fitted(x[0].numpy(), float(r)) for x, r in zip(segments, radius, strict=True) if int((x != 0).sum()) >= LEAST]
    kept = [model for model in found if model is not None]
    images = torch.from_numpy(np.array([image for image, *_ in kept]).reshape(-1, *galaxies.y.shape[1:]))
    return images, *torch.tensor([numbers for _, *numbers in kept], dtype=torch.float64).reshape(-1, 3).T


def _fitted(segment: Image, radius: float) -> tuple[Image, float, float, float] | None:
    """The model of a galaxy that is nearest to its segment `(n, n)`, 0 outside of it: image, x, y, half-light radius;
    None where that has no light. radius: a half-light radius to begin with."""
    where, n = segment != 0, len(segment)

    def left(shape: Image) -> Image:
        profile = _profile(shape, n)[where]
        return segment[where] - profile * (profile @ segment[where]) / (profile @ profile)

    high = (*HIGH[:2], math.log(n / 4), *HIGH[3:])
    start = np.clip([0, 0, math.log(radius), 0, 0, 0], np.array(LOW) + 1e-3, np.array(high) - 1e-3)
    shape = least_squares(left, start, bounds=(LOW, high), max_nfev=40).x
    profile = _profile(shape, n)
    light = float(profile[where] @ segment[where] / (profile[where] @ profile[where]))
    if not light > 0:
        return None
    x, y = (n - 1) / 2 + shape[:2]
    row, column = np.indices(profile.shape)
    distance = np.hypot(row - y, column - x).flatten()
    order = distance.argsort()
    half = np.searchsorted(profile.flatten()[order].cumsum(), profile.sum() / 2)
    return light * profile, float(x), float(y), float(distance[order][half])


def _profile(shape: Image, n: int) -> Image:
    """Of the model with these numbers (see LOW), `(n, n)`. b_k as Ciotti & Bertin (1999) approximate it."""
    x, y, log_radius, g1, g2, log_index = shape
    k = math.exp(log_index)
    point = (np.arange(n * FINE) + 0.5) / FINE - n / 2
    dx, dy = point - x, point[:, None] - y
    along, across = (1 - g1) * dx - g2 * dy, (1 + g1) * dy - g2 * dx
    r = np.hypot(along, across) / math.sqrt(max(1 - g1**2 - g2**2, 1e-6)) / math.exp(log_radius)
    light = np.exp(-(2 * k - 1 / 3 + 0.009876 / k) * (r ** (1 / k) - 1))
    return np.asarray(light.reshape(n, FINE, n, FINE).mean((1, 3)))
