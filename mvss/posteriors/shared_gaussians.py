"""Gaussian sources under operators and noise that a whole view shares, given y: one factorisation serves all observations.

    y_i = Σ_β A^β x_i^β + η_i,    x_i^β ~ Σ_k w_ik^β N(μ_ik^β, V_k^β),    η_i ~ N(0, Σ)
    p(k | y_i) ∝ Π_β w_ik_β · N(y_i; Σ_β A^β μ_ik_β, S_k),    S_k = Σ + Σ_β A^β V_{k_β} A^βᵀ    for each combination k
    x^β | y_i, k:  mean μ_ik_β + V_{k_β} A^βᵀ S_k⁻¹ (y_i − Σ A μ_ik),  covariance V_{k_β} − V_{k_β} A^βᵀ S_k⁻¹ A^β V_{k_β}

Means and weights may differ between observations, covariances may not: a mixture prior is such a thing, and so is the law of x
given a noised x_t, at any noise level. This is what makes images cheap. Pixels of an observation may be masked, or have a
variance of their own: S_i⁻¹ is S⁻¹ with a correction of their number (`woodbury`).
"""

from __future__ import annotations

__all__ = [
    "Combination",
    "Factors",
    "Levels",
    "SharedExact",
    "SharedGaussians",
    "SharedGiven",
    "ensure_factors",
    "factor_bytes",
]

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from typing_extensions import override

from mvss.posteriors.matheron import matheron
from mvss.posteriors.posterior import Given, Separation, unflatten
from mvss.posteriors.solvers import Cholesky
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.local_law import Components
from mvss.problem.shared_view import SharedView, shared_rows
from mvss.problem.views import Draws, View
from mvss.problem.woodbury import Woodbury
from mvss.runtime.memory import AT_ONCE, ensure_memory, rows_within
from mvss.runtime.rng import Stream, choose

NOMINAL = 1024
"""Observations of a view, for choices that must be the same however many there are."""
NEGLIGIBLE = 1e-12
"""A probability that changes no mean: in many dimensions most combinations have none."""


@dataclass(frozen=True)
class Combination:
    """One component of each source. numbers: which. cholesky: of S, `(M, M)`. across: A V of each source, `(M, D_β)`."""

    numbers: tuple[int, ...]
    cholesky: Tensor
    across: tuple[Tensor, ...]

    def solve(self, rows: Tensor) -> Tensor:
        """S⁻¹ r for r `(n, M)`."""
        return torch.cholesky_solve(rows.mT, self.cholesky).mT

    def pull(self, v: Tensor) -> list[Tensor]:
        """V Aᵀ v of each source, `(n, D_β)`, for v `(n, M)`."""
        return [v @ across for across in self.across]

    @cached_property
    def precision(self) -> Tensor:
        """S⁻¹, `(M, M)`."""
        return torch.cholesky_inverse(self.cholesky)


class SharedGaussians:
    """The factorisations of all combinations, for a view and covariances that do not change."""

    def __init__(self, view: SharedView, sources: Sequence[Components]) -> None:
        self.view, self.bytes = view, factor_bytes(view.y.shape[1], sources)
        parts = []
        for place, source in enumerate(sources):
            across = [view.image(place, source.covariance(k)).mT for k in range(len(source.floor))]
            parts.append([(a, view.image(place, a)) for a in across])
        self.combinations = []
        for numbers in itertools.product(*(range(len(s.floor)) for s in sources)):
            picked = [part[k] for part, k in zip(parts, numbers, strict=True)]
            total = sum((p[1] for p in picked), view.covariance)
            total = 0.5 * (total + total.mT)
            self.combinations.append(Combination(numbers, Cholesky.of(total).lower, tuple(p[0] for p in picked)))

    @staticmethod
    def alone(view: SharedView, sources: Sequence[Components]) -> SharedGaussians:
        """Those of one noise level. Raises MvssError where memory does not suffice."""
        ensure_factors(view, sources)
        return SharedGaussians(view, sources)

    @property
    def row_bytes(self) -> int:
        """Of one observation in `given`."""
        return 24 * len(self.combinations) * self.view.y.shape[1]

    def pieces(self, view: SharedView) -> Iterator[SharedView]:
        """Observations, as many at a time as memory should hold."""
        size = rows_within(self.row_bytes, 4 * AT_ONCE)
        for start in range(0, len(view.y), size):
            yield view if size >= len(view.y) else view.select(slice(start, start + size))

    def given(self, y: Tensor, sources: Sequence[Components], woodbury: Woodbury | None = None) -> SharedGiven:
        """What y `(N, M)` says of the sources; the covariances are those of the start, means and weights may be new.

        woodbury: the odd pixels of these observations.
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
            if woodbury is not None:
                residual, *more = woodbury.correct(combination.precision, residual)
                misfit = misfit + sum(more)
            log_joint.append(log_weight - 0.5 * misfit)
            residuals.append(residual)
        return SharedGiven(self, y, tuple(sources), torch.stack(log_joint, dim=1), residuals, woodbury)


@dataclass(frozen=True)
class SharedGiven:
    """The sources given y, `(N, M)`.

    log_joint: log p(y, k), `(N, C)` for all combinations. residuals: r of each, `(N, M)`, with S⁻¹ r = S_i⁻¹ (y − Σ A μ);
    that is y − Σ A μ itself, but for the odd pixels of `woodbury`.
    """

    gaussians: SharedGaussians
    y: Tensor
    sources: tuple[Components, ...]
    log_joint: Tensor
    residuals: list[Tensor]
    woodbury: Woodbury | None = None

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
        parts = zip(self.sources, combination.numbers, combination.pull(v), strict=True)
        return [_rows(source.mean, rows)[:, k] + moved for source, k, moved in parts]

    def precision(self, number: int, weight: Tensor) -> Tensor:
        """Σ_i w_i S_i⁻¹ of combination `number`, `(M, M)`, for weights `(N,)`."""
        inverse = self.gaussians.combinations[number].precision
        if self.woodbury is None:
            return weight.sum() * inverse
        return weight.sum() * inverse - inverse @ self.woodbury.removed(inverse, weight) @ inverse

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
        chosen = torch.zeros_like(index, device=device)
        if self.log_joint.shape[1] > 1:
            chosen = choose(self.log_joint, stream.uniform(index, (), "combination", device=device))
        noise = view.draw_noise(stream.normal(index, view.noise.shape[:1], "noise", device=device), self.woodbury)
        normal = [
            stream.normal(index, (s.spread.shape[1] + s.spread.shape[2],), "source", beta, device=device)
            for beta, s in enumerate(self.sources)
        ]
        out = [z.new_empty(len(z), s.spread.shape[1]) for z, s in zip(normal, self.sources, strict=True)]
        for number in chosen.unique().tolist():
            rows = (chosen == number).nonzero().squeeze(1)
            combination = self.gaussians.combinations[number]
            parts = zip(self.sources, combination.numbers, normal, strict=True)
            x = [_rows(source.mean, rows)[:, k] + source.shift(k, z[rows]) for source, k, z in parts]
            left, solve = self.y[rows] - noise[rows], partial(self._solve, combination, rows)
            for place, drawn in zip(out, matheron(x, left, view.images, solve, combination.pull), strict=True):
                place[rows] = drawn
        return out

    def _solve(self, combination: Combination, rows: Tensor, residual: Tensor) -> Tensor:
        """S_i⁻¹ r of some of the observations."""
        if self.woodbury is not None:
            residual = self.woodbury.select(rows).correct(combination.precision, residual)[0]
        return combination.solve(residual)


class Factors:
    """The factorisations of views by noise level, from call to call, as long as a view has the same operators and noise, and
    the sources the same mixtures."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, tuple[str, ...]], tuple[SharedView, tuple[GaussianMixture, ...], Levels]] = {}

    def levels(self, view: View, rows: SharedView, mixtures: Sequence[GaussianMixture], wanted: Iterable[float] = ()) -> Levels:
        """Those of a view, of which `rows` is what its observations share, under mixtures of the sources that it shows. wanted:
        noise levels that will be kept. Raises MvssError where memory does not suffice for all of them."""
        key = (view.name, tuple(view.operators))
        like, before, levels = self._kept.get(key, (None, (), {}))
        if like is None or not rows.same_factors(like) or any(a is not b for a, b in zip(mixtures, before, strict=True)):
            levels = {}
            self._kept[key] = (replace(rows, y=rows.y[:1], woodbury=None), tuple(mixtures), levels)
        if missing := len(set(wanted) - levels.keys()):
            held = sum(level.bytes for _, _, kept in self._kept.values() for level in kept.values())
            ensure_factors(rows, [Components.of(mixture) for mixture in mixtures], missing, held)
        return levels


class SharedExact(Given):
    """`Given` of a view under the closed-form priors: one factorisation for each combination of components."""

    def __init__(self, view: View, rows: SharedView, sources: Sequence[Components], gaussians: SharedGaussians) -> None:
        self.view, self.sources, self.gaussians = view, sources, gaussians
        self.pieces = list(gaussians.pieces(rows))
        self.law = self._law(self.pieces[0]) if len(self.pieces) == 1 else None

    @staticmethod
    def of(view: View, mixtures: Sequence[GaussianMixture], factors: Factors) -> SharedExact | None:
        """None where observations share nothing, or where the factors would take more than the matrices of a search: this is
        as if there were NOMINAL observations, since draws must not depend on how many there are."""
        if (rows := shared_rows(view)) is None:
            return None
        sources, observed = [Components.of(mixture) for mixture in mixtures], rows.y.shape[1]
        searched = 8 * NOMINAL * observed * sum(s.spread.shape[1] for s in sources)
        if view.noise.is_white and factor_bytes(observed, sources) > searched:
            return None
        levels = factors.levels(view, rows, mixtures)
        if 0.0 not in levels:
            levels[0.0] = SharedGaussians.alone(rows, sources)
        return SharedExact(view, rows, sources, levels[0.0])

    @override
    def draw(self, stream: Stream, start: Draws | None = None) -> Separation:
        """See `Posterior.draw`."""
        keyed, numbers = stream.child("exact"), self.view.numbers.split([len(piece.y) for piece in self.pieces])
        parts = [(self.law or self._law(piece)).draw(keyed, index) for piece, index in zip(self.pieces, numbers, strict=True)]
        return Separation(unflatten(self.view, [torch.cat(x) for x in zip(*parts, strict=True)]))

    def _law(self, piece: SharedView) -> SharedGiven:
        return self.gaussians.given(piece.y, self.sources, piece.woodbury)


def ensure_factors(view: SharedView, sources: Sequence[Components], levels: int = 1, held: float = 0.0) -> None:
    """That memory holds the factorisations of all combinations at so many noise levels at once. held: bytes of those kept.

    Raises MvssError where it does not.
    """
    observed, count = view.y.shape[1], math.prod(len(s.floor) for s in sources)
    what = f"{count} factorisations of {observed} numbers" + (f" at each of {levels} noise levels" if levels > 1 else "")
    instead = "fit mixtures of fewer components" + (", or take fewer steps" if levels > 1 else "")
    ensure_memory(levels * factor_bytes(observed, sources), what, instead, view.y.device, held)


def factor_bytes(observed: int, sources: Sequence[Components]) -> int:
    """Of the factorisations of all combinations, and of what they are made from, for M observed numbers."""
    counts = [len(s.floor) for s in sources]
    parts = sum(k * (observed + s.spread.shape[1]) for k, s in zip(counts, sources, strict=True))
    return 8 * observed * (2 * math.prod(counts) * observed + parts)


def _rows(values: Tensor, rows: Tensor | slice) -> Tensor:
    """Rows of what may be one for all."""
    return values if len(values) == 1 else values[rows]


Levels = dict[float, SharedGaussians]
"""Factorisations by noise level."""
