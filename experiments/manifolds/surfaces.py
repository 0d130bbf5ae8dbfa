"""Sources of full rank in R^8 that no Gaussian resembles, each a mixture of many, so that its density is known.

sheet     x = f(z) + 0.15 ε,  z ~ Student t with 4 degrees of freedom, in two dimensions: a curved sheet with long tails
ring      ten modes on a circle of radius 2, 0.15 wide in its plane and 0.4 across
spikes    of eight numbers each is large (1.5) with probability ¼ and else small (0.1)

Each is turned at random, so that no coordinate is special.
"""

from __future__ import annotations

__all__ = ["SPACE", "Cloud", "make_clouds"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.runtime.rng import Stream

SPACE = 8
"""Dimensions."""
PATCHES, WIDTH = 2000, 0.15
"""Gaussians that the sheet is made of, and how wide each is."""
FREEDOM, MODES, RADIUS, ACROSS = 4, 10, 2.0, 0.4
LARGE, SMALL, RARE = 1.5, 0.1, 0.25


class Cloud:
    """A source whose law is a mixture of Gaussians."""

    def __init__(self, law: GaussianMixture) -> None:
        self.law = law

    def sample(self, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """`(count, 8)` draws: independent, or every Gaussian as often as its weight says."""
        return self.law.sample(count, Stream(int(torch.randint(2**62, (1,), generator=rng))), stratified)

    def spread(self, pool: Tensor, count: int) -> Tensor:
        """`(count, 8)` of `pool`: every so many of them, in the order of their density."""
        order = self.law.log_prob(pool).argsort(stable=True)
        return pool[order[((torch.arange(count) + 0.5) / count * len(pool)).long()]]

    def polyline(self, _segments: int) -> GaussianMixture:
        """The law itself."""
        return self.law


def make_clouds(seed: int) -> tuple[Cloud, ...]:
    """Sheet, ring and spikes of a seed."""
    makers: tuple[Callable[[torch.Generator], GaussianMixture], ...] = (_sheet, _ring, _spikes)
    return tuple(Cloud(make(Stream(seed, ("surfaces", b)).generator("law"))) for b, make in enumerate(makers))


def _turn(rng: torch.Generator) -> Tensor:
    """A random orthogonal matrix, `(8, 8)`."""
    q, r = torch.linalg.qr(torch.randn(SPACE, SPACE, generator=rng, dtype=torch.float64))
    return q * r.diagonal().sign()


def _sheet(rng: torch.Generator) -> GaussianMixture:
    normal = torch.randn(PATCHES, 2 + FREEDOM, generator=rng, dtype=torch.float64)
    a, b = (normal[:, :2] / normal[:, 2:].square().mean(1, keepdim=True).sqrt()).mT
    zero = torch.zeros_like(a)
    bent = [0.8 * a, 0.8 * b, torch.asinh(a * a - b * b), torch.asinh(a * b), torch.sin(2 * a), torch.cos(2 * b), zero, zero]
    return GaussianMixture(
        torch.ones(PATCHES), torch.stack(bent, 1) @ _turn(rng), torch.zeros(PATCHES, SPACE, 0).double(), WIDTH
    )


def _ring(rng: torch.Generator) -> GaussianMixture:
    turn = _turn(rng)
    angle = 2 * math.pi * torch.arange(MODES, dtype=torch.float64) / MODES
    means = RADIUS * (angle.cos()[:, None] * turn[0] + angle.sin()[:, None] * turn[1])
    across = math.sqrt(ACROSS**2 - WIDTH**2) * turn[2:].mT
    return GaussianMixture(torch.ones(MODES), means, across.expand(MODES, -1, -1), WIDTH)


def _spikes(rng: torch.Generator) -> GaussianMixture:
    large = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * SPACE)
    weights = torch.where(large > 0, RARE, 1 - RARE).prod(1)
    factors = math.sqrt(LARGE**2 - SMALL**2) * _turn(rng).mT * large[:, None, :]
    return GaussianMixture(weights, torch.zeros(len(large), SPACE).double(), factors, SMALL)
