"""Gaussian sources under operators and noise that a whole view shares, given y: one factorisation serves all observations.

    y_i = Σ_β A^β x_i^β + η_i,    x_i^β ~ Σ_k w_ik^β N(μ_ik^β, V_k^β),    η_i ~ N(0, Σ)
    p(k | y_i) ∝ Π_β w_ik_β · N(y_i; Σ_β A^β μ_ik_β, S_k),    S_k = Σ + Σ_β A^β V_{k_β} A^βᵀ    for each combination k
    x^β | y_i, k:  mean μ_ik_β + V_{k_β} A^βᵀ S_k⁻¹ (y_i − Σ A μ_ik),  covariance V_{k_β} − V_{k_β} A^βᵀ S_k⁻¹ A^β V_{k_β}

Means and weights may differ between observations, covariances may not: a mixture prior is such a thing, and so is the law of x
given a noised x_t, at any noise level. This is what makes images cheap. Few pixels of an observation may be masked, or have a
variance of their own: S_i⁻¹ is S⁻¹ with a correction of their number (`woodbury`).
"""

from __future__ import annotations

__all__ = ["Combination", "Components", "Given", "SharedGaussians", "SharedView", "is_shared"]

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.shared_view import SharedView, is_shared
from mvss.problem.woodbury import Exceptional
from mvss.runtime.rng import Stream, choose

NEGLIGIBLE = 1e-12
"""A probability that changes no mean: in many dimensions most combinations have none."""


@dataclass(frozen=True)
class Components:
    """What is known of a source before y, K Gaussians with V_k = B_k B_kᵀ + floor_k I.

    log_weight: `(N, K)`, mean: `(N, K, D)`; both may have N = 1 for all. spread: the B_k, `(K, D, R)`. floor: `(K,)`.
    """

    log_weight: Tensor
    mean: Tensor
    spread: Tensor
    floor: Tensor

    @staticmethod
    def of(prior: GaussianMixture) -> Components:
        """A mixture prior."""
        floor = prior.weights.new_full((len(prior),), prior.floor**2)
        return Components(prior.weights.log()[None], prior.means[None], prior.factors, floor)

    def covariance(self, k: int) -> Tensor:
        """V_k, `(D, D)`."""
        eye = torch.eye(self.spread.shape[1], dtype=self.spread.dtype, device=self.spread.device)
        return self.spread[k] @ self.spread[k].mT + self.floor[k] * eye

    def shift(self, k: int, z: Tensor) -> Tensor:
        """V_k^½ z `(n, D)` for standard-normal z `(n, R + D)`."""
        rank = self.spread.shape[2]
        return z[:, :rank] @ self.spread[k].mT + self.floor[k].sqrt() * z[:, rank:]


@dataclass(frozen=True)
class Combination:
    """One component of each source. numbers: which. cholesky: of S, `(M, M)`. across: A V of each source, `(M, D_β)`."""

    numbers: tuple[int, ...]
    cholesky: Tensor
    across: tuple[Tensor, ...]

    def solve(self, rows: Tensor) -> Tensor:
        """S⁻¹ r for r `(n, M)`."""
        return torch.cholesky_solve(rows.mT, self.cholesky).mT

    @cached_property
    def precision(self) -> Tensor:
        """S⁻¹, `(M, M)`."""
        return torch.cholesky_inverse(self.cholesky)


class SharedGaussians:
    """The factorisations of all combinations, for a view and covariances that do not change."""

    def __init__(self, view: SharedView, sources: Sequence[Components]) -> None:
        self.view = view
        parts = []
        for place, source in enumerate(sources):
            across = [view.image(place, source.covariance(k)).mT for k in range(len(source.floor))]
            parts.append([(a, view.image(place, a)) for a in across])
        self.combinations = []
        for numbers in itertools.product(*(range(len(s.floor)) for s in sources)):
            picked = [part[k] for part, k in zip(parts, numbers, strict=True)]
            total = sum((p[1] for p in picked), view.covariance)
            total = 0.5 * (total + total.mT)
            self.combinations.append(Combination(numbers, torch.linalg.cholesky(total), tuple(p[0] for p in picked)))

    def given(self, y: Tensor, sources: Sequence[Components], own: Exceptional | None = None) -> Given:
        """What y `(N, M)` says of the sources; the covariances are those of the start, means and weights may be new.

        own: the exceptional pixels of these observations.
        """
        log_joint, residuals = [], []
        for combination in self.combinations:
            residual, log_weight = y, y.new_zeros(1)
            for place, (source, k) in enumerate(zip(sources, combination.numbers, strict=True)):
                residual = residual - self.view.image(place, source.mean[:, k])
                log_weight = log_weight + source.log_weight[:, k]
            white = torch.linalg.solve_triangular(combination.cholesky, residual.mT, upper=False)
            log_det = 2 * combination.cholesky.diagonal().log().sum() + y.shape[1] * math.log(2 * math.pi)
            misfit = white.square().sum(0) + log_det
            if own is not None:
                residual, *more = own.correct(combination.precision, residual)
                misfit = misfit + sum(more)
            log_joint.append(log_weight - 0.5 * misfit)
            residuals.append(residual)
        return Given(self, tuple(sources), torch.stack(log_joint, dim=1), residuals, own)


@dataclass(frozen=True)
class Given:
    """The sources given y. log_joint: log p(y, k), `(N, C)` for all combinations. residuals: r of each, `(N, M)`, with
    S⁻¹ r = S_i⁻¹ (y − Σ A μ); that is y − Σ A μ itself, but for the exceptional pixels `own`."""

    gaussians: SharedGaussians
    sources: tuple[Components, ...]
    log_joint: Tensor
    residuals: list[Tensor]
    own: Exceptional | None = None

    def log_evidence(self) -> Tensor:
        """log p(y) of the pixels that are not masked, `(N,)`, nats."""
        return self.log_joint.logsumexp(1)

    def responsibility(self) -> Tensor:
        """p(k | y), `(N, C)`."""
        return self.log_joint.softmax(1)

    def component_mean(self, number: int, rows: Tensor | slice = slice(None)) -> list[Tensor]:
        """E[x^β | y, k] of combination `number`, `(n, D_β)` per source."""
        combination = self.gaussians.combinations[number]
        v = combination.solve(self.residuals[number][rows])
        pairs = zip(self.sources, combination.numbers, combination.across, strict=True)
        return [_rows(source.mean, rows)[:, k] + v @ across for source, k, across in pairs]

    def precision(self, number: int, weight: Tensor) -> Tensor:
        """Σ_i w_i S_i⁻¹ of combination `number`, `(M, M)`, for weights `(N,)`."""
        inverse = self.gaussians.combinations[number].precision
        if self.own is None:
            return weight.sum() * inverse
        return weight.sum() * inverse - inverse @ self.own.removed(inverse, weight) @ inverse

    def mean(self) -> list[Tensor]:
        """E[x^β | y], `(N, D_β)` per source."""
        out = [s.mean.new_zeros(len(self.log_joint), s.spread.shape[1]) for s in self.sources]
        for number, weight in enumerate(self.responsibility().mT):
            rows = (weight > NEGLIGIBLE).nonzero().squeeze(1)
            if len(rows):
                for x, mean in zip(out, self.component_mean(number, rows), strict=True):
                    x[rows] += weight[rows, None] * mean
        return out

    def draw(self, stream: Stream, index: Tensor) -> list[Tensor]:
        """One joint draw `(N, D_β)` per source. index: the observations' numbers `(N,)`, which randomness is keyed by."""
        device, view = self.log_joint.device, self.gaussians.view
        uniform = stream.uniform(index, (), "combination", device=device)
        chosen = choose(self.log_joint, uniform)
        noise = view.draw_noise(stream.normal(index, view.noise.shape[:1], "noise", device=device), self.own)
        normal = [
            stream.normal(index, (s.spread.shape[1] + s.spread.shape[2],), "source", beta, device=device)
            for beta, s in enumerate(self.sources)
        ]
        out = [z.new_empty(len(z), s.spread.shape[1]) for z, s in zip(normal, self.sources, strict=True)]
        for number in chosen.unique().tolist():
            rows = (chosen == number).nonzero().squeeze(1)
            combination, simulated, shifts = self.gaussians.combinations[number], noise[rows], []
            for place, (source, k, z) in enumerate(zip(self.sources, combination.numbers, normal, strict=True)):
                shifts.append(source.shift(k, z[rows]))
                simulated = simulated + view.image(place, shifts[-1])
            if self.own is not None:
                simulated = self.own.select(rows).correct(combination.precision, simulated)[0]
            v = combination.solve(self.residuals[number][rows] - simulated)
            pairs = zip(self.sources, combination.numbers, combination.across, shifts, strict=True)
            for x, (source, k, across, shift) in zip(out, pairs, strict=True):
                x[rows] = _rows(source.mean, rows)[:, k] + shift + v @ across
        return out


def _rows(values: Tensor, rows: Tensor | slice) -> Tensor:
    """Rows of what may be one for all."""
    return values if len(values) == 1 else values[rows]
