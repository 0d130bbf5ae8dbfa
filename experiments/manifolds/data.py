"""Random smooth one-dimensional manifolds in R^5 and their mixtures (paper, section 5.1); the same of `surfaces` in R^8.

    f_d(z) = Σ_{j≥1} a_j j^(−s) sin(2π((j − 1) b_j z + c_j)),   a, b, c ~ U(0, 1),   z ~ U(0, 1)

for each coordinate d (Zenke & Vogels 2021, Neural Computation 33), with smoothness s, scaled so that each coordinate of
the whole curve (not of a sample) spans [−2, 2]. Observations are y_i = Σ_β c^{αβ} A_i x_i^β + η_i with unit-norm random
rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from experiments.core.config import Config
from experiments.core.task import Task
from experiments.manifolds.problems import Problem, problem_named
from experiments.manifolds.surfaces import make_surfaces
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.operators import Dense, LinearOperator, Scale
from mvss.problem.views import View, Views
from mvss.runtime.rng import Stream, generator

__all__ = [
    "DATA_RANGE",
    "Manifold",
    "ManifoldTask",
    "Source",
    "Split",
    "make_manifolds",
    "make_sources",
    "make_split",
    "make_task",
]

DIMENSION = 5
NOISE = 0.01
SMOOTHNESS = (3.0, 4.0, 5.0)
FREQUENCIES = 100
SEGMENTS = 512  # of the exact prior: the oracle's PSNR changes by 0.1 dB from 256 to 1,024
DATA_RANGE = 4.0
"""Each coordinate spans [−2, 2]."""


class Source(Protocol):
    """What a task knows of a source."""

    def sample(self, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """`(count, D)` draws: independent, or stratified, spread evenly over the law."""

    def place(self, x: Tensor) -> Tensor:
        """Where on the source each of its points x `(N, D)` is, `(N,)`: those of like numbers are near each other."""

    def exact(self) -> GaussianMixture:
        """Its law."""


class Manifold:
    """One random curve in R^5."""

    def __init__(self, smoothness: float, stream: Stream) -> None:
        self.smoothness = smoothness
        rng = stream.generator("manifold")
        self._a, self._b, self._c = torch.rand(3, DIMENSION, FREQUENCIES, generator=rng, dtype=torch.float64)
        self._low, self._high = torch.zeros(DIMENSION).double(), torch.ones(DIMENSION).double()
        fine = self._raw(torch.linspace(0, 1, 20_001, dtype=torch.float64))
        self._low, self._high = fine.amin(0), fine.amax(0)

    def _raw(self, z: Tensor) -> Tensor:
        j = torch.arange(1, FREQUENCIES + 1, dtype=torch.float64)
        out = torch.zeros(len(z), DIMENSION, dtype=torch.float64)
        for d in range(DIMENSION):
            phase = 2 * math.pi * ((j - 1) * self._b[d] * z[:, None] + self._c[d])
            out[:, d] = torch.sin(phase) @ (self._a[d] * j**-self.smoothness)
        return out

    def __call__(self, z: Tensor) -> Tensor:
        """Points `(N, 5)` at the coordinates z `(N,)` in [0, 1]."""
        return DATA_RANGE * ((self._raw(z) - self._low) / (self._high - self._low) - 0.5)

    def sample(self, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """`(count, 5)` draws: independent, or stratified, one z in each of `count` equal pieces of [0, 1]."""
        z = torch.rand(count, generator=rng, dtype=torch.float64)
        return self((torch.arange(count) + z) / count if stratified else z)

    def place(self, x: Tensor) -> Tensor:
        """The number of the nearest of 2,048 points along the curve, `(N,)`, for x `(N, 5)`."""
        return torch.cdist(x, self(torch.linspace(0, 1, 2048, dtype=torch.float64))).argmin(1)

    def exact(self) -> GaussianMixture:
        """A polyline so fine that it is the true prior for the exact posterior."""
        return self.polyline(SEGMENTS)

    def polyline(self, segments: int, inner: int = 8) -> GaussianMixture:
        """The law of the source as a mixture of Gaussians: one along each of `segments` equal pieces of z.

        At 1,024 segments a piece is no longer than about the noise, so that this is the true prior for the exact
        posterior.
        """
        z = (torch.arange(segments * inner, dtype=torch.float64) + 0.5) / (segments * inner)
        points = self(z).reshape(segments, inner, DIMENSION)
        means = points.mean(1)
        # uniform in z on the piece: `inner` midpoints have the variance of a piece shortened by 1 − 1/inner²
        spread = (points - means.unsqueeze(1)) / math.sqrt(inner * (1 - inner**-2))
        return GaussianMixture(torch.ones(segments), means, spread.mT, floor=1e-4)


@dataclass(frozen=True)
class Split:
    """Observations with the truth behind them: `truth[α][β]` is `(N, 5)`. The truth is for scoring only."""

    data: Views
    truth: tuple[tuple[Tensor, ...], ...]


def make_manifolds(problem: Problem, seed: int) -> tuple[Manifold, ...]:
    """The sources of a problem; they depend on the seed only, so that problems of one seed share them."""
    return tuple(Manifold(SMOOTHNESS[b], Stream(seed, ("manifolds", b))) for b in range(problem.sources))


def make_sources(problem: Problem, seed: int) -> Sequence[Source]:
    """The sources of a problem, whatever they are."""
    return make_surfaces(seed) if problem.surfaces else make_manifolds(problem, seed)


def make_split(problem: Problem, seed: int, count: int, split: str) -> Split:
    """`count` observations per view, with sources, matrices and noise of their own for each view and split."""
    made = make_sources(problem, seed)
    views, truth = [], []
    for alpha, weights in enumerate(problem.mixing):
        rng = generator(seed, "manifolds", problem.name, split, alpha)
        sources = tuple(source.sample(count, rng) for source in made)
        size = sources[0].shape[1]
        shared = Dense(_random_rows(count, problem.observed, size, rng))
        operators: dict[str, LinearOperator] = {}
        clean = torch.zeros(count, problem.observed, dtype=torch.float64)
        for beta, (weight, x) in enumerate(zip(weights, sources, strict=True), start=1):
            matrix = Dense(_random_rows(count, problem.observed, size, rng)) if problem.separate_matrices else shared
            if weight:
                operators[str(beta)] = Scale(weight, (problem.observed,)) @ matrix
                clean = clean + operators[str(beta)].forward(x)
        noise = NOISE * torch.randn(clean.shape, generator=rng, dtype=torch.float64)
        views.append(View(clean + noise, operators, NOISE, f"view {alpha + 1}"))
        truth.append(sources)
    return Split(Views(views), tuple(truth))


def _random_rows(count: int, observed: int, size: int, rng: torch.Generator) -> Tensor:
    rows = torch.randn(count, observed, size, generator=rng, dtype=torch.float64)
    return rows / rows.norm(dim=-1, keepdim=True)


class ManifoldTask(Task):
    """One problem with one seed, as the experiments' common loop wants it."""

    data_range = DATA_RANGE

    def __init__(self, name: str, seed: int, observations: int, fresh: int) -> None:
        problem = problem_named(name)
        self.sources = make_sources(problem, seed)
        train, new = make_split(problem, seed, observations, "train"), make_split(problem, seed, fresh, "fresh")
        self.train, self.train_truth = train.data, train.truth
        self.fresh, self.fresh_truth = new.data, new.truth
        self.scored_views = problem.scored_views or tuple(range(len(problem.mixing)))

    def sample_truth(self, source: int, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """Truth, `(count, D)`: independent draws, or spread evenly over the source."""
        return self.sources[source].sample(count, rng, stratified)

    def training_sources(self, source: int, count: int) -> Tensor:
        """`(count, D)` of the sources behind the training observations: every so many of them along the source."""
        pool = torch.cat([self.train_truth[a][source] for a in self.train.showing([str(source + 1)])])
        order = self.sources[source].place(pool).argsort(stable=True)
        return pool[order[((torch.arange(count) + 0.5) / count * len(pool)).long()]]

    def exact_priors(self) -> tuple[GaussianMixture, ...]:
        """The laws of the sources; of manifolds as polylines of Gaussians."""
        return tuple(source.exact() for source in self.sources)


def make_task(problem: str, seed: int, config: Config) -> ManifoldTask:
    """The data of one problem and seed, of the sizes that a preset asks for."""
    return ManifoldTask(problem, seed, config.observations, config.fresh)
