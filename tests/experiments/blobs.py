"""Stamps of elliptical Gaussians, of which everything is known in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.galaxies.data.stamps import NOISE, Stamps
from mvss.runtime.rng import generator

N = 32
MIDDLE = (N - 1) / 2


def blob(flux: float, widths: Sequence[float] = (2.0, 2.0), x: float = MIDDLE, y: float = MIDDLE) -> Tensor:
    """`(1, n, n)`: of standard deviations `widths` along x and y, sampled at the centres of the pixels."""
    pixel = torch.arange(N, dtype=torch.float64)
    along, across = ((-((pixel - c) ** 2) / (2 * w**2)).exp() for c, w in ((x, widths[0]), (y, widths[1])))
    return (flux / (2 * torch.pi * widths[0] * widths[1]) * across.unsqueeze(1) * along).unsqueeze(0)


def stamps_of(galaxy: Tensor, sky: Tensor | None = None, seed: int = 0, **catalogue: Tensor) -> Stamps:
    """With white noise; the half-light radius is that of a round blob of width 2."""
    sky = torch.zeros_like(galaxy) if sky is None else sky
    noise = NOISE * torch.randn(galaxy.shape, generator=generator(seed, "blobs"), dtype=torch.float64)
    good = torch.ones_like(galaxy, dtype=torch.bool)
    radius = torch.full((len(galaxy),), 2 * 1.17741, dtype=torch.float64)
    columns = {"half_light_radius": radius, **catalogue}
    return Stamps(galaxy + sky + noise, good, torch.full_like(galaxy, NOISE), sky, galaxy, columns)
