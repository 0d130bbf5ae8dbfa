"""How far a law of drawn galaxies, or of drawn sky, is from that of clean ones: what no draw tells of itself.

    galaxies    Kolmogorov–Smirnov statistics of flux, Σ of the pixels, and of half-light radius
                blank_share: stamps with no pixel above 5 σ;    edge_excess: of the light in the outermost two rows and
                columns over that in the next two, per pixel, in σ, mean over stamps. Beside those of the truth (the floor)
    sky         Wasserstein distance of the histograms of pixels, in σ;    that of power spectra (`mvss.metrics.images`)

Images are fluxes `(N, 1, n, n)`; σ is the noise of a usual pixel.
"""

from __future__ import annotations

__all__ = ["galaxy_distances", "half_light_radii", "sky_distances"]

import torch
from scipy.stats import ks_2samp, wasserstein_distance
from torch import Tensor

from mvss.metrics.images import spectrum_distance

SIGNIFICANT = 5.0
"""σ of the brightest pixel from which on a stamp shows a galaxy."""
FRAME = 2
"""Pixels."""


def galaxy_distances(x: Tensor, reference: Tensor, sigma: float) -> dict[str, float]:
    """ks_flux, ks_radius, where there is a reference; blank_share and edge_excess of x."""
    x = x.double()
    found = {
        "blank_share": float((x.amax((1, 2, 3)) <= SIGNIFICANT * sigma).double().mean()),
        "edge_excess": float((_frame(x, 0) - _frame(x, FRAME)).mean()) / sigma,
    }
    if len(reference):
        for name, measure in (("ks_flux", _fluxes), ("ks_radius", half_light_radii)):
            found[name] = float(ks_2samp(measure(x).numpy(), measure(reference.double()).numpy()).statistic)
    return found


def sky_distances(x: Tensor, reference: Tensor, sigma: float) -> dict[str, float]:
    """pixels, power_spectrum."""
    pixels = [(images / sigma).flatten().numpy() for images in (x.double(), reference.double())]
    return {"pixels": float(wasserstein_distance(*pixels)), "power_spectrum": spectrum_distance(x, reference)}


def half_light_radii(images: Tensor) -> Tensor:
    """Of circles around the centre that hold half of a stamp's light, pixels, `(N,)`; 0 where there is none."""
    n = images.shape[-1]
    offset = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    radius, order = torch.hypot(offset, offset[:, None]).flatten().sort()
    light = images.flatten(1)[:, order].cumsum(1)
    first = (light >= light[:, -1:] / 2).int().argmax(1)
    return torch.where(light[:, -1] > 0, radius[first], 0.0)


def _fluxes(images: Tensor) -> Tensor:
    return images.sum((1, 2, 3))


def _frame(images: Tensor, start: int) -> Tensor:
    """Mean of the pixels that are `start` or more, and fewer than FRAME more, from the nearest edge, `(N,)`."""
    position = torch.arange(images.shape[-1])
    depth = torch.minimum(position, position.flip(0))
    ring = torch.minimum(depth, depth[:, None])
    return images[:, 0, (ring >= start) & (ring < start + FRAME)].mean(1)
