"""Moments of x given x_t and y for large sources by products alone: any operators, any noise.

    S v = y − Σ_β A^β d_β,    S = Σ + Σ_β A^β V^β A^βᵀ,    E[x^β | x_t, y] = d_β + V^β A^βᵀ v      by conjugate gradients

What V^β is:
    learned      diag Var[x^β | x_t], the network's own: one evaluation a step, and an x_0 can be drawn (`matheron`). A source
                 without it keeps the V of its mixture, of the component that is likeliest given x_t, or is drawn.
    Jacobian     V u = σ² Jᵀ u, J = ∂d_β/∂x_t (Tweedie; a vector–Jacobian product, since the exact J is symmetric), as in
                 MMPS (Rozet et al. 2024, arXiv 2405.13712; paper, section 4). It gives means, no draws.

Preconditioners: where every V is diagonal and every A one of scaled pixels, S is diagonal, and one iteration is exact. Beside
a mixture's V, which is a matrix, S⁻¹ with the mean variances of all observations. Of Jacobians, S⁻¹ of the components
that are likeliest given x_t, where a view shares its operators: one iteration is exact where the mixtures are all there is.
(One Gaussian with a mixture's whole covariance is a poor stand-in.)
"""

from __future__ import annotations

__all__ = ["JacobianMoments", "LearnedMoments"]

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from mvss.posteriors.matheron import matheron
from mvss.posteriors.shared_gaussians import SharedGaussians, ensure_factors
from mvss.posteriors.solvers import conjugate_gradients
from mvss.presets.posterior import CGConfig
from mvss.priors.local_law import Components, Pixels, shared_local
from mvss.priors.prior import Prior
from mvss.problem.shared_view import SharedView, measured, shared_rows
from mvss.problem.views import View
from mvss.problem.woodbury import Woodbury
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream, choose

LEARNED = CGConfig(iterations=100, tolerance=1e-5)
"""As good as exact beside what the Gaussians leave out; an iteration costs little beside a network."""
Precondition = Callable[[Tensor], Tensor] | None


class _Iterative(ABC):
    """For `samplers.sample`. priors: of the sources that the view shows, in its order.

    After use, `evaluations` counts network evaluations per observation; `residual` is the largest relative residual of a
    solve.
    """

    clamped = 0.0
    row_bytes = 0  # nothing is larger than what networks take

    def __init__(self, priors: Sequence[Prior], view: View, config: CGConfig) -> None:
        self.priors, self.view, self.config = tuple(priors), view, config
        self.evaluations, self.residual = 0, 0.0

    def select(self, rows: slice) -> _Iterative:
        """Those of some of the observations."""
        part = copy.copy(self)
        part.view, part.evaluations, part.residual = self.view.select(rows), 0, 0.0
        return part

    @abstractmethod
    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Means `(N, *shape_β)` for x_t of the same shapes and σ `(N,)`."""

    @abstractmethod
    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One joint draw of x, `(N, *shape_β)`. index: numbers of the observations, which randomness is keyed by."""

    def _posterior(
        self,
        x: Sequence[Tensor],
        spread: Callable[[list[Tensor]], Sequence[Tensor]],
        noise: Tensor | float,
        precondition: Precondition,
    ) -> list[Tensor]:
        """Of means, or of draws, of the sources and the noise: those given y. spread: u of each source ↦ V u of each."""
        y, operators = self.view.y, tuple(self.view.operators.values())
        seen = measured(self.view).to(y)  # no noise of a pixel that was not measured is known

        def pull(v: Tensor) -> Sequence[Tensor]:
            return spread([a.adjoint(v) for a in operators])

        def image(parts: Sequence[Tensor]) -> Tensor:
            return torch.stack([a.forward(u.to(y)) for a, u in zip(operators, parts, strict=True)]).sum(0)

        def product(v: Tensor) -> Tensor:
            v = v.reshape(y.shape)
            return (seen * self.view.noise.apply(seen * v) + image(pull(v))).flatten(1)

        def solve(residual: Tensor) -> Tensor:
            v, report = conjugate_gradients(product, (seen * residual).flatten(1), self.config, precondition)
            self.residual = max(self.residual, float(report.residual.max()))
            self._iterations = report.iterations
            return v.reshape(y.shape)

        return matheron(x, y - noise, image, solve, pull)


class LearnedMoments(_Iterative):
    """With variances that networks have learned."""

    def __init__(self, priors: Sequence[Prior], view: View) -> None:
        super().__init__(priors, view, LEARNED)
        self._rows = None if all(p.learns_variance for p in priors) else shared_rows(view)

    def select(self, rows: slice) -> LearnedMoments:
        """See `_Iterative`; mean variances are of those that are together."""
        return LearnedMoments(self.priors, self.view.select(rows))

    @torch.no_grad()
    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        local = [self._local(p, x, sigma, None) for p, x in zip(self.priors, x_t, strict=True)]
        return self._given(local, [part.mean for part in local], 0.0)

    @torch.no_grad()
    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One joint draw of x, `(N, *shape_β)`. index: numbers of the observations, which randomness is keyed by."""
        local, drawn, device = [], [], x_t[0].device
        for place, (prior, x) in enumerate(zip(self.priors, x_t, strict=True)):
            uniform = stream.uniform(index, (), "component", place, device=device)
            part = self._local(prior, x, sigma, uniform)
            local.append(part)
            drawn.append(part.mean + part.root(stream.normal(index, (part.numbers,), "source", place, device=device)))
        z = stream.normal(index, self.view.observation_shape, "noise", device=device)
        return self._given(local, drawn, self.view.noise.color(z))

    def _local(self, prior: Prior, x_t: Tensor, sigma: Tensor, uniform: Tensor | None) -> Pixels | _Chosen:
        """p(x | x_t) of one source. uniform: `(N,)`, to draw a component by; None for the likeliest."""
        if prior.learns_variance:
            self.evaluations += 1
            return Pixels(*prior.estimate(x_t, sigma))
        self.evaluations += prior.network is not None
        components = shared_local(prior, x_t, sigma)
        weight = components.log_weight
        return _Chosen(components, weight.argmax(1) if uniform is None else choose(weight, uniform), x_t.shape[1:])

    def _given(self, local: Sequence[Pixels | _Chosen], x: Sequence[Tensor], noise: Tensor | float) -> tuple[Tensor, ...]:
        def spread(parts: list[Tensor]) -> list[Tensor]:
            return [law.apply(u) for law, u in zip(local, parts, strict=True)]

        return tuple(self._posterior(x, spread, noise, self._precondition(local)))

    def _precondition(self, local: Sequence[Pixels | _Chosen]) -> Precondition:
        """About S⁻¹ r for r `(N, M)`."""
        if self._rows is not None:
            factor = torch.linalg.cholesky(_typical(self._rows, local))
            return lambda r: torch.cholesky_solve(r.mT, factor).mT
        terms = [self.view.noise.variance(self.view.y)]
        operators = self.view.operators.values()
        terms += [a.power(part.variance()) for a, part in zip(operators, local, strict=True)]
        diagonal = torch.stack(torch.broadcast_tensors(*terms)).sum(0).flatten(1)
        return lambda r: r / diagonal


class JacobianMoments(_Iterative):
    """With the Jacobians of whole denoisers. levels: of noise, whose factorisations are kept where a view is shared."""

    def __init__(self, priors: Sequence[Prior], view: View, config: CGConfig, levels: int = 1) -> None:
        super().__init__(priors, view, config)
        shared = shared_rows(view)
        if shared:
            ensure_factors(shared, [Components.of(prior.mixture) for prior in priors], levels)
        self._inverse = _Inverse(priors, shared.regularised(config.regularisation)) if shared else None
        self._woodbury = shared.woodbury if shared else None

    def select(self, rows: slice) -> JacobianMoments:
        """See `_Iterative`; factorisations are shared."""
        part = super().select(rows)
        assert isinstance(part, JacobianMoments)
        part._woodbury = self._woodbury and self._woodbury.select(rows)
        return part

    @torch.no_grad()
    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        if not bool((sigma == sigma[0]).all()):
            raise MvssError("large sources are drawn at one noise level at a time")
        with torch.enable_grad():  # one graph, kept for all products
            leaves = [x.detach().requires_grad_(True) for x in x_t]
            values = [p.denoise(x, sigma) for p, x in zip(self.priors, leaves, strict=True)]

        def spread(parts: list[Tensor]) -> list[Tensor]:
            back = [u.to(x) for u, x in zip(parts, values, strict=True)]
            return [sigma[0] ** 2 * g for g in torch.autograd.grad(values, leaves, back, retain_graph=True)]

        precondition = self._inverse.at(x_t, sigma, self._woodbury) if self._inverse else None
        out = self._posterior([v.detach() for v in values], spread, 0.0, precondition)
        networks = sum(p.network is not None for p in self.priors)
        self.evaluations += networks * (2 + self._iterations)  # the denoisers', the solver's, and the last product
        return tuple(out)

    @override
    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """Not by products alone."""
        raise MvssError("conjugate gradients give means, no draws: set sampler.method to pc, ddim or heun")


class _Chosen:
    """One component for each observation: N(mean, V_k)."""

    def __init__(self, components: Components, chosen: Tensor, shape: torch.Size) -> None:
        self.components, self.chosen, self.shape = components, chosen, shape
        rows = torch.arange(len(chosen), device=chosen.device)
        self.mean = components.mean[rows, chosen].reshape(-1, *shape)
        self.numbers = components.spread.shape[1] + components.spread.shape[2]

    def variance(self) -> Tensor:
        """The diagonal of V."""
        diagonal = self.components.spread.square().sum(2) + self.components.floor[:, None]
        return diagonal[self.chosen].reshape(-1, *self.shape)

    def apply(self, x: Tensor) -> Tensor:
        """V x."""
        return self._each(lambda k, rows: rows @ self.components.covariance(k), x.flatten(1)).reshape(x.shape)

    def root(self, z: Tensor) -> Tensor:
        """V^½ z for z `(N, numbers)`."""
        return self._each(self.components.shift, z).reshape(-1, *self.shape)

    def _each(self, work: Callable[[int, Tensor], Tensor], x: Tensor) -> Tensor:
        """`work` on the rows of each component, `(N, D)`."""
        out = x.new_empty(len(x), self.components.spread.shape[1])
        for k in self.chosen.unique().tolist():
            rows = self.chosen == k
            out[rows] = work(k, x[rows])
        return out


def _typical(view: SharedView, local: Sequence[Pixels | _Chosen]) -> Tensor:
    """S of an observation of mean variances, `(M, M)`; nothing is masked."""
    total = view.covariance.clone()
    for place, part in enumerate(local):
        if isinstance(part, Pixels):
            across = view.image(place, torch.diag(part.spread.flatten(1).mean(0)))
        else:
            share = torch.bincount(part.chosen, minlength=len(part.components.floor)) / len(part.chosen)
            weighted = [float(w) * part.components.covariance(k) for k, w in enumerate(share.tolist()) if w]
            across = view.image(place, torch.stack(weighted).sum(0))
        total = total + view.image(place, across.mT)
    return 0.5 * (total + total.mT)


class _Inverse:
    """S⁻¹ of the likeliest components given x_t; the factorisations of a noise level are kept."""

    def __init__(self, priors: Sequence[Prior], view: SharedView) -> None:
        self.mixtures, self.view = [p.mixture for p in priors], view
        self.levels: dict[float, SharedGaussians] = {}

    def at(self, x_t: Sequence[Tensor], sigma: Tensor, woodbury: Woodbury | None) -> Callable[[Tensor], Tensor]:
        """r `(N, M)`, 0 where masked, ↦ S⁻¹ r, at x_t of every source and σ `(N,)`, all equal. woodbury: the odd pixels."""
        sources = [shared_local(m, x, sigma) for m, x in zip(self.mixtures, x_t, strict=True)]
        level = float(sigma[0])
        if level not in self.levels:
            self.levels[level] = SharedGaussians(self.view, sources)
        combinations = self.levels[level].combinations
        chosen = torch.zeros_like(sigma, dtype=torch.long)  # their numbers, in the order of `itertools.product`
        for source in sources:
            chosen = chosen * len(source.floor) + source.log_weight.argmax(1)

        def solve(r: Tensor) -> Tensor:
            out = torch.empty_like(r)
            for number in chosen.unique().tolist():
                rows, combination = chosen == number, combinations[number]
                part = r[rows]
                if woodbury is not None:
                    part = woodbury.select(rows).correct(combination.precision, part)[0]
                out[rows] = combination.solve(part)
            return out

        return solve
