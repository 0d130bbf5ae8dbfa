"""Injection recovery: known galaxies put on random fields of real sky, the honest test where nobody knows the truth.

    y = field + galaxy,    galaxy: a real, isolated one, cut out and averaged with itself turned by 180°

Its noise, halved in variance by the mean, counts as the galaxy's. The field holds its own noise, so that of the sky no
noise-free truth is known.
"""

from __future__ import annotations

import torch

from experiments.galaxies.measures import flux, within
from experiments.galaxies.segmentation import RADII, segmentation
from experiments.galaxies.stamps import Stamps
from mvss.errors import MvssError

__all__ = ["injected_into"]

ISOLATED = 0.03
"""Largest share of others in a galaxy's light; where the catalogue does not tell, all galaxies are taken."""


def injected_into(fields: Stamps, galaxies: Stamps) -> Stamps:
    """The fields with a galaxy each, in turn. Catalogue: half_light_radius and flux of the galaxies, and blending, the field's
    share in the light within 2 half-light radii.

    Raises MvssError where no galaxy is isolated.
    """
    if "half_light_radius" not in galaxies.catalogue:
        raise MvssError("the catalogue of the galaxies has no half_light_radius: injected ones cannot be measured")
    blending = galaxies.catalogue.get("blending")
    if blending is not None:
        galaxies = galaxies.select(blending < ISOLATED)
    if not len(galaxies):
        raise MvssError("no galaxy is isolated enough to be injected elsewhere: more stamps are needed")
    radius = galaxies.catalogue["half_light_radius"]
    found = segmentation(galaxies, radius=2 * float(radius.median()), symmetric=True).galaxy
    known = 0.5 * (found + found.flip(-1, -2))
    bright = flux(known, torch.ones_like(known)) > 0
    known, radius = known[bright], radius[bright]
    number = torch.arange(len(fields)) % len(known)
    galaxy, catalogue = known[number], {"half_light_radius": radius[number]}
    own = Stamps(fields.y + galaxy, fields.good, fields.sigma, None, galaxy, catalogue)
    near = within(own, RADII)
    level = fields.y.median()
    others = flux((fields.y - level) * fields.good, near).clamp_min(0.0)
    light = flux(galaxy, near)
    catalogue |= {"flux": flux(galaxy, within(own)), "blending": others / (others + light).clamp_min(1e-12)}
    return own
