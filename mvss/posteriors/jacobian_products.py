"""Joint posterior of large sources, such as images, at noise level σ, by products alone: any operators and noise.

Moment matching (MMPS; Rozet et al. 2024, arXiv 2405.13712; paper, section 4): with d_β the denoiser, mixture and network,
and V^β u = σ² Jᵀ u, J = ∂d_β/∂x_t (Tweedie; a vector–Jacobian product, since the exact J is symmetric),
    (Σ + Σ_β A^β V^β A^βᵀ) v = y − Σ_β A^β d_β,    E[x^β | x_t, y] ≈ d_β + V^β A^βᵀ v
by conjugate gradients. `shared_moments` is cheaper and exact for mixtures, but leaves out a network's own Jacobian, and
needs operators and noise that a whole view shares.

Preconditioner, for such a view: S⁻¹ of the mixtures' components that are likeliest given x_t, one of each source. Where
weights are nearly 0 or 1, as they are in many dimensions, the mixture's Jacobian is that of its likeliest component, so that
the solver has only what the network adds left to find. (One Gaussian with a mixture's whole covariance is a poor stand-in.)
"""

from __future__ import annotations

__all__ = ["MatrixFreePosterior"]

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mvss.posteriors.shared_gaussians import SharedGaussians, SharedView
from mvss.posteriors.shared_moments import local_components
from mvss.posteriors.solvers import CGConfig, conjugate_gradients
from mvss.priors.diffusion import Denoiser
from mvss.problem.shared_view import shared_rows, unmasked
from mvss.problem.views import View
from mvss.problem.woodbury import Exceptional
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream


class MatrixFreePosterior:
    """E[x^β | x_t, y] for `samplers.sample`, with the Jacobian of the whole denoiser.

    denoisers: of the sources that the view shows. config: of the solver.
    After use, `evaluations` counts evaluations and vector–Jacobian products of networks, per observation; `residual` is the
    largest relative residual of a solve, `breakdowns` the share of solves that broke down.
    """

    clamped = 0.0

    def __init__(self, denoisers: Sequence[Denoiser], view: View, config: CGConfig) -> None:
        self.denoisers, self.view, self.config = tuple(denoisers), view, config
        self.evaluations, self.residual = 0, 0.0
        self._solved, self._broken = 0, 0
        shared = shared_rows(view)
        self._inverse = _Inverse(denoisers, shared.regularised(config.regularisation)) if shared else None
        self._own = shared.own if shared else None

    @property
    def breakdowns(self) -> float:
        """The share of solves that broke down."""
        return self._broken / max(self._solved, 1)

    def select(self, rows: slice) -> MatrixFreePosterior:
        """The posterior of some of the observations; factorisations are shared."""
        part = copy.copy(self)
        part.view = self.view.select(torch.arange(len(self.view))[rows])
        part._own = self._own and self._own.select(rows)
        part.evaluations, part.residual, part._solved, part._broken = 0, 0.0, 0, 0
        return part

    @torch.no_grad()
    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Means `(N, *shape_β)` for x_t of the same shapes and σ `(N,)`, all equal."""
        if not bool((sigma == sigma[0]).all()):
            raise MvssError("large sources are drawn at one noise level at a time")
        with torch.enable_grad():  # one graph, kept for all products
            leaves = [x.detach().requires_grad_(True) for x in x_t]
            values = [d(x, sigma) for d, x in zip(self.denoisers, leaves, strict=True)]
        y, operators = self.view.y.double(), [self.view.operators[beta] for beta in self.view.shown]
        mask, _ = unmasked(self.view)
        seen = torch.ones_like(y[:1]) if mask is None else mask.to(y)  # no noise of a pixel that was not measured is known

        def forward(x: Sequence[Tensor]) -> Tensor:
            terms = [a.forward(v.double()) for a, v in zip(operators, x, strict=True)]
            return torch.stack(terms).sum(0)

        def pull(v: Tensor) -> list[Tensor]:
            """V Aᵀ v of each source."""
            back = [a.adjoint(v.reshape(y.shape)).to(x) for a, x in zip(operators, values, strict=True)]
            products = torch.autograd.grad(values, leaves, back, retain_graph=True)
            return [sigma[0] ** 2 * g for g in products]

        def product(v: Tensor) -> Tensor:
            noise = seen * self.view.noise.apply(seen * v.reshape(y.shape))
            return (noise + forward(pull(v))).flatten(1)

        means = [v.detach() for v in values]
        precondition = self._inverse.at(x_t, sigma, self._own) if self._inverse else None
        v, report = conjugate_gradients(product, (seen * (y - forward(means))).flatten(1), self.config, precondition)
        networks = sum(d.network is not None for d in self.denoisers)
        self.evaluations += networks * (2 + report.iterations)  # the denoisers', the solver's, and the last product
        self.residual = max(self.residual, float(report.residual.max()))
        self._solved, self._broken = self._solved + len(v), self._broken + int(report.broken.sum())
        return tuple(m + p for m, p in zip(means, pull(v), strict=True))

    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """Not by products alone."""
        raise MvssError("conjugate gradients give means, no draws: set sampler.method to pc, ddim or heun")


class _Inverse:
    """S⁻¹ of the likeliest components given x_t; the factorisations of a noise level are kept."""

    def __init__(self, denoisers: Sequence[Denoiser], view: SharedView) -> None:
        self.mixtures, self.view = [d.mixture for d in denoisers], view
        self.levels: dict[float, SharedGaussians] = {}

    def at(self, x_t: Sequence[Tensor], sigma: Tensor, own: Exceptional | None) -> Callable[[Tensor], Tensor]:
        """r `(N, M)`, 0 where masked, ↦ S⁻¹ r, at x_t of every source and σ `(N,)`, all equal. own: the exceptional pixels."""
        sources = [local_components(m, x.flatten(1), sigma) for m, x in zip(self.mixtures, x_t, strict=True)]
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
                if own is not None:
                    part = own.select(rows).correct(combination.precision, part)[0]
                out[rows] = combination.solve(part)
            return out

        return solve
