"""Moments of x given x_t and y for large sources, such as images, under operators and noise that a view shares.

    p(x^β | x_t^β) ≈ Σ_k w_k N(μ_k + δ, V_k),    δ = d − d_mixture,    V_k = σ² C_k (C_k + σ² I)⁻¹

As `dense_moments`, but for the covariances, which are those of the mixture alone: they do not depend on the observation,
so that one factorisation per noise level serves a whole view, and a draw costs one evaluation of each network and no
Jacobian. For priors that are mixtures this is exact.
"""

from __future__ import annotations

__all__ = ["SharedMoments"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mvss.posteriors.shared_gaussians import Levels, SharedGaussians, SharedGiven
from mvss.priors.local_law import shared_local
from mvss.priors.prior import Prior
from mvss.problem.shared_view import SharedView
from mvss.runtime.rng import Stream


class SharedMoments:
    """E[x^β | x_t, y] and draws of p({x^β} | x_t, y), for `samplers.sample`.

    priors: of the sources that the view shows, in its order. levels: factorisations so far, and where they are kept.
    After use, `evaluations` counts network evaluations per observation.
    """

    clamped = residual = 0.0

    def __init__(self, priors: Sequence[Prior], view: SharedView, levels: Levels) -> None:
        self.priors, self.view, self.levels, self.evaluations = tuple(priors), view, levels, 0

    @property
    def row_bytes(self) -> int:
        """See `Moments`: of one residual for each combination, and of the components of each source."""
        residuals = self.view.y.shape[1] * math.prod(len(prior.mixture) for prior in self.priors)
        return 8 * (residuals + 4 * sum(len(prior.mixture) * prior.mixture.dimension for prior in self.priors))

    def select(self, rows: slice) -> SharedMoments:
        """Those of some of the observations; factorisations are shared."""
        return SharedMoments(self.priors, self.view.select(rows), self.levels)

    @torch.no_grad()
    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Means `(N, *shape_β)` for x_t of the same shapes and σ `(N,)`, all equal."""
        return tuple(m.reshape(x.shape) for m, x in zip(self._given(x_t, sigma).mean(), x_t, strict=True))

    @torch.no_grad()
    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One joint draw of x, `(N, *shape_β)`. index: numbers of the observations, which randomness is keyed by."""
        drawn = self._given(x_t, sigma).draw(stream, index)
        return tuple(d.reshape(x.shape) for d, x in zip(drawn, x_t, strict=True))

    def _given(self, x_t: Sequence[Tensor], sigma: Tensor) -> SharedGiven:
        sources = [shared_local(prior, x, sigma) for prior, x in zip(self.priors, x_t, strict=True)]
        self.evaluations += sum(prior.network is not None for prior in self.priors)
        level = float(sigma[0])
        if level not in self.levels:
            self.levels[level] = SharedGaussians(self.view, sources)
        return self.levels[level].given(self.view.y, sources, self.view.woodbury)
