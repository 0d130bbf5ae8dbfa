"""Joint posterior of large sources at noise level σ with variances that the networks have learned, under any operators.

    p(x^β | x_t^β) ≈ N(d_β, V^β),    V^β = diag Var[x^β | x_t^β], the network's own (`diffusion`)
    S v = y − Σ_β A^β d_β,    S = Σ + Σ_β A^β V^β A^βᵀ,    E[x^β | x_t, y] = d_β + V^β A^βᵀ v

One evaluation of each network a step, no Jacobian, and an x_0 can be drawn: x = d + V^½ z, then Matheron's rule. A source
without a network keeps the V of its mixture (of one component, where it has several: the likeliest given x_t, or one drawn).

Variances differ between observations, so that S does, too: it is solved with by conjugate gradients, which need only products
with A. Where every V is diagonal and every A is one of scaled pixels, S is diagonal, and one iteration is exact. Beside a
mixture's V, which is a matrix, the preconditioner is S⁻¹ with the mean variances of all observations.
"""

from __future__ import annotations

__all__ = ["LearnedPosterior"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.posteriors.shared_gaussians import Components
from mvss.posteriors.shared_moments import local_components
from mvss.posteriors.solvers import CGConfig, conjugate_gradients
from mvss.priors.diffusion import Denoiser
from mvss.problem.shared_view import SharedView, shared_rows, unmasked
from mvss.problem.views import View
from mvss.runtime.rng import Stream, choose

SOLVER = CGConfig(iterations=100, tolerance=1e-5)
"""As good as exact beside what the Gaussians leave out; an iteration costs little beside a network."""


class LearnedPosterior:
    """E[x^β | x_t (, y)] and draws of p({x^β} | x_t (, y)), for `samplers.sample`.

    denoisers: of the sources that the view shows; networks must learn their variance. view: None for the prior.
    After use, `evaluations` counts network evaluations per observation; `residual` is the largest relative residual of a solve.
    """

    clamped = 0.0

    def __init__(self, denoisers: Sequence[Denoiser], view: View | None = None) -> None:
        self.denoisers, self.view = tuple(denoisers), view
        self.evaluations, self.residual = 0, 0.0
        self._rows = None if view is None or all(d.learns_variance for d in denoisers) else shared_rows(view)

    def select(self, rows: slice) -> LearnedPosterior:
        """The posterior of some of the observations."""
        assert self.view is not None
        return LearnedPosterior(self.denoisers, self.view.select(torch.arange(len(self.view))[rows]))

    @torch.no_grad()
    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Means `(N, *shape_β)` for x_t of the same shapes and σ `(N,)`."""
        local = [self._local(d, x, sigma, None) for d, x in zip(self.denoisers, x_t, strict=True)]
        means = [part.mean for part in local]
        return tuple(means) if self.view is None else self._moved(self.view, local, means, 0.0)

    @torch.no_grad()
    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One joint draw of x, `(N, *shape_β)`. index: numbers of the observations, which randomness is keyed by."""
        local, device = [], x_t[0].device
        for beta, (denoiser, x) in enumerate(zip(self.denoisers, x_t, strict=True)):
            uniform = stream.uniform(index, (), "component", beta, device=device)
            local.append(self._local(denoiser, x, sigma, uniform))
        drawn = [
            part.mean + part.root(stream.normal(index, (part.numbers,), "source", beta, device=device))
            for beta, part in enumerate(local)
        ]
        if self.view is None:
            return tuple(drawn)
        z = stream.normal(index, tuple(self.view.y.shape[1:]), "noise", device=device)
        return self._moved(self.view, local, drawn, self.view.noise.color(z))

    def _local(self, denoiser: Denoiser, x_t: Tensor, sigma: Tensor, uniform: Tensor | None) -> _Pixels | _Chosen:
        """p(x | x_t) of one source. uniform: `(N,)`, to draw a component by; None for the likeliest."""
        if denoiser.learns_variance:
            self.evaluations += 1
            return _Pixels(*denoiser.estimate(x_t, sigma))
        found = local_components(denoiser.mixture, x_t.flatten(1), sigma)
        weight = found.log_weight
        chosen = weight.argmax(1) if uniform is None else choose(weight, uniform)
        return _Chosen(found, chosen, x_t.shape[1:])

    def _moved(
        self, view: View, local: Sequence[_Pixels | _Chosen], x: Sequence[Tensor], noise: Tensor | float
    ) -> tuple[Tensor, ...]:
        """x + V Aᵀ S⁻¹ (y − Σ A x − noise), `(N, *shape_β)`: of means, or of draws, which it makes those given y."""
        y, operators = view.y.double(), [view.operators[beta] for beta in view.shown]
        mask, _ = unmasked(view)
        seen = torch.ones_like(y[:1]) if mask is None else mask.to(y)  # no noise of a pixel that was not measured is known

        def forward(parts: Sequence[Tensor]) -> Tensor:
            return torch.stack([a.forward(p) for a, p in zip(operators, parts, strict=True)]).sum(0)

        def pull(v: Tensor) -> list[Tensor]:
            """V Aᵀ v of each source."""
            return [part.apply(a.adjoint(v)) for a, part in zip(operators, local, strict=True)]

        def product(v: Tensor) -> Tensor:
            v = v.reshape(y.shape)
            return (seen * view.noise.apply(seen * v) + forward(pull(v))).flatten(1)

        residual = (seen * (y - forward(x) - noise)).flatten(1)
        v, report = conjugate_gradients(product, residual, SOLVER, self._preconditioner(view, local))
        self.residual = max(self.residual, float(report.residual.max()))
        return tuple(a + b for a, b in zip(x, pull(v.reshape(y.shape)), strict=True))

    def _preconditioner(self, view: View, local: Sequence[_Pixels | _Chosen]) -> Callable[[Tensor], Tensor]:
        """About S⁻¹ r for r `(N, M)`."""
        if self._rows is not None:
            factor = torch.linalg.cholesky(_typical(self._rows, local))
            return lambda r: torch.cholesky_solve(r.mT, factor).mT
        terms = [view.noise.variance(view.y.double())]
        terms += [view.operators[b].power(part.variance()) for b, part in zip(view.shown, local, strict=True)]
        diagonal = torch.stack(torch.broadcast_tensors(*terms)).sum(0).flatten(1)
        return lambda r: r / diagonal


@dataclass(frozen=True)
class _Pixels:
    """N(mean, diag spread) of one source, `(N, *shape)` each."""

    mean: Tensor
    spread: Tensor

    @property
    def numbers(self) -> int:
        """Standard-normal numbers that a draw needs."""
        return self.mean[0].numel()

    def variance(self) -> Tensor:
        """The diagonal of V."""
        return self.spread

    def apply(self, x: Tensor) -> Tensor:
        """V x."""
        return self.spread * x

    def root(self, z: Tensor) -> Tensor:
        """V^½ z for z `(N, numbers)`."""
        return self.spread.sqrt() * z.reshape(self.mean.shape)


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


def _typical(view: SharedView, local: Sequence[_Pixels | _Chosen]) -> Tensor:
    """S of an observation of mean variances, `(M, M)`; nothing is masked."""
    total = view.covariance.clone()
    for place, part in enumerate(local):
        if isinstance(part, _Pixels):
            across = view.image(place, torch.diag(part.spread.flatten(1).mean(0)))
        else:
            share = torch.bincount(part.chosen, minlength=len(part.components.floor)) / len(part.chosen)
            mean = sum(float(w) * part.components.covariance(k) for k, w in enumerate(share.tolist()) if w)
            across = view.image(place, mean)  # type: ignore[arg-type]
        total = total + view.image(place, across.mT)
    return 0.5 * (total + total.mT)
