"""All sources of an observation given y, each with a Gaussian law of its own before: the likelihood step of split Gibbs.

    z^β ~ N(x^β, ρ_β² I),  or N(m, V) of a source whose prior is one Gaussian;    y = Σ_β A^β z^β + η

One exact joint draw by Matheron's rule (`matheron`), with S = Σ + Σ_β ρ_β² A^β A^βᵀ + A V Aᵀ of the numbers that were measured
solved

    number by number     where S is diagonal: white noise, under masks, weights and averages
    by one Cholesky      where all observations share it, up to 8,192 numbers
    by one of each       up to 256 numbers
    by conjugate gradients, preconditioned by the diagonal of S, else
"""

from __future__ import annotations

__all__ = ["LikelihoodStep"]

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mvss.posteriors.matheron import matheron
from mvss.posteriors.solvers import Cholesky, conjugate_gradients
from mvss.presets.posterior import CGConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.prior import column
from mvss.problem.noise import Noise
from mvss.problem.operators import Composition, LinearOperator
from mvss.problem.shared_view import measured
from mvss.problem.views import Draws, View
from mvss.runtime.memory import rows_within
from mvss.runtime.rng import Stream

Solve = Callable[[Tensor], Tensor]
COPIES, SHARED, EACH = 4, 2**31, 2**21
"""Of S, that its factorisation holds at once; and bytes of these where one serves all observations, and where each has its
own: how many are together decides nothing."""


class LikelihoodStep:
    """Draws of z given x and y. gaussians: priors of one component each, of the sources that enter with their own law. solver:
    how far conjugate gradients go. `chunk` is how many observations memory holds at a time. After use, `residual` is the
    largest relative one that conjugate gradients left."""

    def __init__(self, view: View, gaussians: Mapping[str, GaussianMixture], solver: CGConfig) -> None:
        self.view, self.gaussians, self.solver, self.residual = view, gaussians, solver, 0.0
        self.split = [source for source in view.sources if source not in gaussians]
        operators = view.operators.values()
        white, size = view.noise.is_white, view.y[0].numel()
        self.diagonal = white and not gaussians and all(_orthogonal(operator) for operator in operators)
        self.shared = all(operator.count is None for operator in operators) and view.noise.is_shared
        self.seen, held = measured(view).to(view.y), 8 * COPIES * size**2
        self.dense = held <= (SHARED if self.shared else EACH)
        self.chunk = len(view) if self.shared or self.diagonal or not self.dense else rows_within(held)
        self._powers: dict[str, Tensor] = {}
        self._outers: dict[str, Tensor] = {}

    def select(self, rows: slice) -> LikelihoodStep:
        """That of some of the observations; what all share is made once."""
        part = LikelihoodStep(self.view.select(rows), self.gaussians, self.solver)
        if self.shared:
            part._powers, part._outers = self._powers, self._outers
        return part

    def draw(self, x: Draws, rho: Mapping[str, Tensor], stream: Stream) -> Draws:
        """z of every source, `(N, *shape)`. x: of those that are split. rho: of those, `(N,)`, in their units; all equal
        where operators and noise are."""
        view = self.view
        before = [self._before(source, place, x, rho, stream) for place, source in enumerate(view.sources)]
        normal = stream.normal(view.numbers, view.observation_shape, "noise", dtype=view.y.dtype, device=view.y.device)

        def image(sources: Sequence[Tensor]) -> Tensor:
            return view.predicted(dict(zip(view.sources, sources, strict=True)))

        def pull(v: Tensor) -> list[Tensor]:
            return [self._spread(source, view.operators[source].adjoint(v), rho) for source in view.sources]

        drawn = matheron(before, view.y - view.noise.color(normal), image, self._solver(rho), pull)
        return dict(zip(view.sources, drawn, strict=True))

    def _before(self, source: str, place: int, x: Draws, rho: Mapping[str, Tensor], stream: Stream) -> Tensor:
        """A draw without y."""
        view, shape = self.view, self.view.shapes[source]
        normal = stream.normal(view.numbers, shape, "source", place, dtype=view.y.dtype, device=view.y.device)
        if source not in self.gaussians:
            return x[source] + column(rho[source], normal) * normal
        law = self.gaussians[source]
        factors = law.factors[0].to(view.y)
        along = stream.normal(view.numbers, factors.shape[1:], "factors", place, dtype=view.y.dtype, device=view.y.device)
        return law.means[0].to(view.y).reshape(shape) + (along @ factors.mT).reshape(-1, *shape) + law.floor * normal

    def _spread(self, source: str, u: Tensor, rho: Mapping[str, Tensor]) -> Tensor:
        """V u of one source."""
        if source not in self.gaussians:
            return column(rho[source], u) ** 2 * u
        law, flat = self.gaussians[source], u.flatten(1)
        factors = law.factors[0].to(flat)
        return ((flat @ factors) @ factors.mT + law.floor**2 * flat).reshape(u.shape)

    def _solver(self, rho: Mapping[str, Tensor]) -> Solve:
        view, seen = self.view, self.seen
        if self.diagonal:
            total = self._diagonal(rho)
            return lambda r: r / total
        if self.dense:
            factor = Cholesky.of(self._matrix(rho))
            if self.shared:
                inverse = factor.matrix()[0]
                return lambda r: ((seen * r).flatten(1) @ inverse).reshape(r.shape)
            return lambda r: factor.solve_rows((seen * r).flatten(1)).reshape(r.shape)
        total = self._diagonal(rho).expand_as(view.y).flatten(1)

        def product(p: Tensor) -> Tensor:
            v = p.reshape(view.y.shape)
            terms = [view.operators[s].forward(self._spread(s, view.operators[s].adjoint(v), rho)) for s in view.sources]
            return (seen * view.noise.apply(seen * v) + torch.stack(terms).sum(0)).flatten(1)

        def solve(r: Tensor) -> Tensor:
            v, report = conjugate_gradients(product, (seen * r).flatten(1), self.solver, lambda p: p / total)
            self.residual = max(self.residual, float(report.residual.max()))
            return v.reshape(r.shape)

        return solve

    def _diagonal(self, rho: Mapping[str, Tensor]) -> Tensor:
        """Of S, `(N or 1, *observation_shape)`."""
        view = self.view
        total = view.noise.variance(view.y[:1] if self.shared else view.y)
        for source, operator in view.operators.items():
            power = self._power(source, operator)
            total = total + (power if source in self.gaussians else column(self._squared(rho, source), total) * power)
        return total

    def _matrix(self, rho: Mapping[str, Tensor]) -> Tensor:
        """S, `(N or 1, M, M)`; of numbers that were not measured, which nothing depends on, 1."""
        view, seen = self.view, self.seen.flatten(1)
        total = _covariance(view.noise, view.y) * seen[:, :, None] * seen[:, None, :] + torch.diag_embed(1 - seen)
        for source in view.sources:
            outer = self._outer(source)
            total = total + (outer if source in self.gaussians else column(self._squared(rho, source), outer) * outer)
        return total

    def _squared(self, rho: Mapping[str, Tensor], source: str) -> Tensor:
        """ρ², `(N or 1,)`."""
        return rho[source][:1].square() if self.shared else rho[source].square()

    def _power(self, source: str, operator: LinearOperator) -> Tensor:
        """The diagonal of A Aᵀ of a source that is split, of A V Aᵀ of another, made once."""
        if source not in self._powers:
            variance = self.view.y.new_ones(1, *operator.source_shape)
            if (law := self.gaussians.get(source)) is not None:
                variance = (law.factors[0].square().sum(1) + law.floor**2).to(variance).reshape(variance.shape)
            self._powers[source] = operator.power(variance.expand(operator.count or 1, *operator.source_shape))
        return self._powers[source]

    def _outer(self, source: str) -> Tensor:
        """A Aᵀ of a source that is split, A V Aᵀ of another, made once."""
        if source not in self._outers:
            matrix = self.view.operators[source].dense(self.view.y.dtype).to(self.view.y)
            outer = matrix @ matrix.mT
            if source in self.gaussians:
                law = self.gaussians[source]
                along = matrix @ law.factors[0].to(matrix)
                outer = along @ along.mT + law.floor**2 * outer
            self._outers[source] = outer
        return self._outers[source]


def _orthogonal(operator: LinearOperator) -> bool:
    """Whether A Aᵀ is known to be diagonal."""
    if isinstance(operator, Composition) and operator.outer.is_diagonal:
        return _orthogonal(operator.inner)
    return operator.is_diagonal or operator.is_tight


def _covariance(noise: Noise, like: Tensor) -> Tensor:
    """Σ, `(N or 1, M, M)`."""
    if noise.is_white:
        return torch.diag_embed(noise.variance(like[:1] if noise.is_shared else like).flatten(1))
    eye = torch.eye(like[0].numel(), dtype=like.dtype, device=like.device)
    return noise.apply(eye.reshape(-1, *like.shape[1:])).reshape(1, len(eye), -1)
