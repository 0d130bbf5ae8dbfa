"""Joint posterior of large sources, such as images, at noise level σ, for views whose operators all observations share.

    p(x^β | x_t^β) ≈ Σ_k w_k N(μ_k + δ, V_k),    δ = d − d_mixture,    V_k = σ² C_k (C_k + σ² I)⁻¹

As `moment_matching`, but for the covariances, which are those of the mixture alone: they do not depend on the observation, so
that one factorisation per noise level serves a whole view, and a draw costs one evaluation of each network and no Jacobian.
For a denoiser that is a mixture this is exact. The law of x given x_t alone, for prior draws, is the same without a view.
"""

from __future__ import annotations

__all__ = ["Levels", "SharedPosterior", "local_components"]

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mvss.posteriors.shared_gaussians import Components, Given, SharedGaussians, SharedView
from mvss.priors.diffusion import Denoiser
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream, choose

Levels = dict[float, SharedGaussians]
"""Factorisations by noise level."""


class SharedPosterior:
    """E[x^β | x_t (, y)] and draws of p({x^β} | x_t (, y)), for `samplers.sample`.

    denoisers: of the sources that the view shows. view: None for the prior. levels: factorisations
    so far, and where they are kept.
    After use, `evaluations` counts network evaluations per observation.
    """

    clamped = 0.0

    def __init__(self, denoisers: Sequence[Denoiser], view: SharedView | None = None, levels: Levels | None = None) -> None:
        self.denoisers, self.view = tuple(denoisers), view
        self.evaluations = 0
        self._levels: Levels = {} if levels is None else levels

    def select(self, rows: slice) -> SharedPosterior:
        """The posterior of some of the observations; factorisations are shared."""
        assert self.view is not None
        return self.of(self.view.select(rows))

    def of(self, view: SharedView) -> SharedPosterior:
        """The posterior of other observations under the same operators and noise; factorisations are shared."""
        return SharedPosterior(self.denoisers, view, self._levels)

    def exact(self) -> Given:
        """The sources given y under the mixtures alone, without an x_t."""
        assert self.view is not None
        sources = [Components.of(d.mixture) for d in self.denoisers]
        if 0.0 not in self._levels:
            self._levels[0.0] = SharedGaussians(self.view, sources)
        return self._levels[0.0].given(self.view.y, sources, self.view.own)

    @torch.no_grad()
    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Means `(N, *shape_β)` for x_t of the same shapes and σ `(N,)`, all equal."""
        sources = self._locals(x_t, sigma)
        if self.view is None:
            means = [(s.log_weight.exp().unsqueeze(-1) * s.mean).sum(1) for s in sources]
        else:
            means = self._given(sources, sigma).mean()
        return tuple(m.reshape(x.shape) for m, x in zip(means, x_t, strict=True))

    @torch.no_grad()
    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One joint draw of x, `(N, *shape_β)`. index: numbers of the observations, which randomness is keyed by."""
        sources = self._locals(x_t, sigma)
        if self.view is None:
            drawn = [_draw(s, stream.child(beta), index) for beta, s in enumerate(sources)]
        else:
            drawn = self._given(sources, sigma).draw(stream, index)
        return tuple(d.reshape(x.shape) for d, x in zip(drawn, x_t, strict=True))

    def _given(self, sources: Sequence[Components], sigma: Tensor) -> Given:
        assert self.view is not None
        level = float(sigma[0])
        if level not in self._levels:
            self._levels[level] = SharedGaussians(self.view, sources)
        return self._levels[level].given(self.view.y, sources, self.view.own)

    def _locals(self, x_t: Sequence[Tensor], sigma: Tensor) -> list[Components]:
        if not bool((sigma == sigma[0]).all()):
            raise MvssError("large sources are drawn at one noise level at a time")
        self.evaluations += sum(d.network is not None for d in self.denoisers)
        return [_local(d, x, sigma) for d, x in zip(self.denoisers, x_t, strict=True)]


def _local(denoiser: Denoiser, x_t: Tensor, sigma: Tensor) -> Components:
    """p(x | x_t) of one source."""
    found = local_components(denoiser.mixture, x_t.flatten(1), sigma)
    if denoiser.network is None:
        return found
    base = (found.log_weight.exp().unsqueeze(-1) * found.mean).sum(1).reshape(x_t.shape)
    return replace(found, mean=found.mean + denoiser.correction(x_t, base, sigma).flatten(1).unsqueeze(1))


def local_components(mixture: GaussianMixture, x_t: Tensor, sigma: Tensor) -> Components:
    """p(x | x_t) under a mixture, for x_t `(N, D)` and σ `(N,)`, all equal."""
    log_weight, mean, shrink = mixture.component_posteriors(x_t, sigma)
    return Components(log_weight, mean, *_spread(mixture, shrink[0], float(sigma[0])))


def _spread(mixture: GaussianMixture, shrink: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Factors `(K, D, R)` and floors `(K,)` of V_k."""
    floor = mixture.floor**2 * sigma**2 / (mixture.floor**2 + sigma**2)
    width = (sigma**2 * shrink - floor).clamp_min(0.0).sqrt()
    return mixture.eigenvectors * width.unsqueeze(1), width.new_full((len(mixture),), floor)


def _draw(source: Components, stream: Stream, index: Tensor) -> Tensor:
    """One draw of a source by itself, `(N, D)`."""
    device = source.mean.device
    uniform = stream.uniform(index, (), "component", device=device)
    chosen = choose(source.log_weight, uniform)
    size = source.spread.shape[1] + source.spread.shape[2]
    z = stream.normal(index, (size,), "source", device=device)
    out = torch.empty_like(source.mean[:, 0])
    for k in chosen.unique().tolist():
        rows = chosen == k
        out[rows] = source.mean[rows, k] + source.shift(k, z[rows])
    return out
