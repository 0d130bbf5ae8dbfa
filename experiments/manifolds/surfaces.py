"""Sources in R^8 that fill it and are far from Gaussian: a curved sheet with heavy tails, a ring of ten modes, sparse spikes.

    sheet     x = R u + b sin(V u + c),             u in R^2 with the density of Student's t, cut at |u| = 6
    ring      x = Q (r cos θ, r sin θ, h sin 3θ),   θ on one of ten arcs with gaps between them
    spikes    x = Q s,                              s_d = 0, or, with probability p, N(0, a²)

and τ z, z ~ N(0, I), on each, so that it has a density; R, V, c and rotations Q are drawn anew for each seed.

Each law is made of Gaussians: patches that touch the sheet, pieces of the arcs, one for each of the 2^8 sets of spikes. So
moments, log p and exact posteriors are known; but there are many more of them than mixtures that are fitted have.
"""

from __future__ import annotations

__all__ = ["Surface", "make_surfaces", "ring", "sheet", "spikes"]

import math

import torch
from torch import Tensor

from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.runtime.rng import Stream

DIMENSION = 8
THICKNESS = 0.1
"""τ."""
PATCHES, REACH, FREEDOM, BEND = 320, 6.0, 3.0, 0.7
"""Of the sheet: patches, where it ends, degrees of freedom of the density of u, and b."""
MODES, PIECES, RADIUS, HEIGHT, ARC = 10, 5, 2.0, 0.7, 0.5
"""Of the ring: modes, Gaussians in each, r, h, and the share of the ring that is arcs."""
SHARE, SIZE = 0.2, 1.5
"""Of the spikes: p and a."""
OVERLAP = 0.6
"""Standard deviation of a patch or piece, in distances between them."""


class Surface:
    """One source, by its law."""

    def __init__(self, law: GaussianMixture) -> None:
        self.law = law

    def sample(self, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """`(count, 8)` draws: independent, or stratified, of each Gaussian as many as its weight asks for."""
        seed = int(torch.randint(2**62, (), generator=rng))
        return self.law.sample(count, Stream(seed), stratified)

    def place(self, x: Tensor) -> Tensor:
        """The Gaussian that each of x `(N, 8)` is likeliest from, `(N,)`."""
        parts = x.split(256)  # a number for each Gaussian, coordinate and row
        return torch.cat([self.law.component_posteriors(part, part.new_zeros(len(part)))[0].argmax(1) for part in parts])

    def exact(self) -> GaussianMixture:
        """The law."""
        return self.law


def make_surfaces(seed: int) -> tuple[Surface, ...]:
    """The three sources of a seed."""
    made = (sheet, ring, spikes)
    return tuple(Surface(make(Stream(seed, ("surfaces", b)).generator())) for b, make in enumerate(made))


def sheet(rng: torch.Generator) -> GaussianMixture:
    """Patches of one size: their places u spread evenly over a disc (a sunflower's), their weights as the density is there."""
    k = torch.arange(PATCHES, dtype=torch.float64)
    angle = k * math.pi * (3 - math.sqrt(5))
    u = REACH * ((k + 0.5) / PATCHES).sqrt().unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], dim=1)
    density = (1 + u.square().sum(1) / FREEDOM) ** (-FREEDOM / 2 - 1)
    plane, waves = 4 / 3 * _rotation(rng)[:, :2], torch.randn(DIMENSION, 2, generator=rng, dtype=torch.float64)
    phase = u @ waves.mT + 2 * math.pi * torch.rand(DIMENSION, generator=rng, dtype=torch.float64)
    slopes = plane + BEND * phase.cos().unsqueeze(-1) * waves
    apart = REACH * math.sqrt(math.pi / PATCHES)
    return GaussianMixture(density, u @ plane.mT + BEND * phase.sin(), OVERLAP * apart * slopes, THICKNESS)


def ring(rng: torch.Generator) -> GaussianMixture:
    """Pieces of one length on ten arcs of one length."""
    within = ARC * ((torch.arange(PIECES, dtype=torch.float64) + 0.5) / PIECES - 0.5)
    angle = 2 * math.pi / MODES * (torch.arange(MODES).unsqueeze(1) + within).flatten()
    point = torch.stack([RADIUS * angle.cos(), RADIUS * angle.sin(), HEIGHT * (3 * angle).sin()], dim=1)
    along = torch.stack([-RADIUS * angle.sin(), RADIUS * angle.cos(), 3 * HEIGHT * (3 * angle).cos()], dim=1)
    space, apart = _rotation(rng)[:, :3], 2 * math.pi / MODES * ARC / PIECES
    return GaussianMixture(torch.ones(len(angle)), point @ space.mT, OVERLAP * apart * (space @ along.unsqueeze(-1)), THICKNESS)


def spikes(rng: torch.Generator) -> GaussianMixture:
    """One Gaussian for each set of spikes, along rotated axes."""
    on = torch.cartesian_prod(*[torch.arange(2, dtype=torch.float64)] * DIMENSION)
    weights = (SHARE**on * (1 - SHARE) ** (1 - on)).prod(1)
    return GaussianMixture(weights, torch.zeros_like(on), SIZE * _rotation(rng) * on.unsqueeze(1), THICKNESS)


def _rotation(rng: torch.Generator) -> Tensor:
    """`(8, 8)`, orthogonal."""
    return torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=rng, dtype=torch.float64)).Q
