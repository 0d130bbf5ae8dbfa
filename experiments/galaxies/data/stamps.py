"""Stamps of the sky: what every data set of galaxies is handed on as, y = sky + galaxy + η.

Units: fluxes of a simulation and of the archive are in units of which the noise of a usual pixel has the standard
deviation `NOISE`; the deep field's are its display levels, 0 to 1. Positions and sizes are in pixels; the centre of a
stamp of n pixels is (n − 1) / 2 in both directions, x along rows.
"""

from __future__ import annotations

__all__ = ["GALAXY", "NOISE", "SKY", "Stamps"]

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvss.runtime.errors import MvssError

SKY, GALAXY = "sky", "galaxy"
"""Names of the sources."""
NOISE = 0.02
"""Standard deviation of the noise of a usual pixel, in the units of the fluxes."""


@dataclass(frozen=True)
class Stamps:
    """N stamps of n × n pixels, linear in flux, float64.

    y: observations `(N, 1, n, n)`, finite everywhere; what stands where `good` is false means nothing.
    good: the pixels that were measured, bool of the same shape.
    sigma: standard deviation of their noise, of the same shape, positive and finite everywhere.
    sky, galaxy: truth of the two sources without noise, `(N, 1, n, n)`, for scores alone; None where nobody knows. The
    galaxy is zero in random fields.
    catalogue: of the central galaxy, or of the stamp, `(N,)` each: flux, magnitude, half_light_radius, blending (share
    of the neighbours in the light inside the galaxy's aperture), x, y ... what a data set knows.
    wcs: headers of the stamps' world coordinates as FITS cards, N of them, or none.
    """

    y: Tensor
    good: Tensor
    sigma: Tensor
    sky: Tensor | None = None
    galaxy: Tensor | None = None
    catalogue: dict[str, Tensor] = field(default_factory=dict)
    wcs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.y.shape
        if len(shape) != 4 or shape[1] != 1 or shape[2] != shape[3]:
            raise MvssError(f"stamps must be (N, 1, n, n), got {tuple(shape)}")
        others = {"good": self.good, "sigma": self.sigma, "sky": self.sky, "galaxy": self.galaxy}
        for name, value in others.items():
            if value is not None and value.shape != shape:
                raise MvssError(f"stamps: {name} has the shape {tuple(value.shape)}, y has {tuple(shape)}")
        if any(len(v) != shape[0] for v in self.catalogue.values()):
            raise MvssError(f"stamps: every column of the catalogue needs {shape[0]} rows")
        if self.wcs and len(self.wcs) != shape[0]:
            raise MvssError(f"stamps: {len(self.wcs)} headers of world coordinates for {shape[0]} stamps")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def pixels(self) -> int:
        """n."""
        return self.y.shape[-1]

    def select(self, index: Tensor | slice) -> Stamps:
        """The stamps in `index`: numbers `(k,)`, a bool for each, or a slice."""
        sky, galaxy = (None if v is None else v[index] for v in (self.sky, self.galaxy))
        catalogue = {name: column[index] for name, column in self.catalogue.items()}
        wcs = tuple(self.wcs[i] for i in torch.arange(len(self))[index]) if self.wcs else ()
        return Stamps(self.y[index], self.good[index], self.sigma[index], sky, galaxy, catalogue, wcs)
