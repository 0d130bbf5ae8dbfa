"""Covariances of few columns and a variance of each number by itself, found again in what they add up to.

    C = W Wᵀ + diag(own),    W (D, R):    W ← R leading eigenvectors of C − diag(own),    own ← diag(C − W Wᵀ)

(iterated principal factors, Harman 1976), which converges in a few steps where C is of this form.
"""

from __future__ import annotations

__all__ = ["eigh", "factors_of", "principal_factors"]

import math

import torch
from scipy import linalg
from torch import Tensor

RANKS = (4, 8, 16, 32)
STEPS, FALLS = 32, 0.8
CLOSE = 1e-4
"""Of the mean variance: the largest difference between numbers of C and of what is found."""


def principal_factors(covariances: Tensor) -> tuple[Tensor, Tensor] | None:
    """W `(K, D, R)` and own `(K, D)` of covariances `(K, D, D)`, with the least R of `RANKS` that is a tenth of D at most; None
    where none of these will do."""
    size = float(covariances.diagonal(dim1=1, dim2=2).mean())
    for rank in RANKS:
        if 10 * rank > covariances.shape[1]:
            return None
        own, before = torch.zeros_like(covariances[:, 0]), math.inf
        for _ in range(STEPS):
            values, vectors = eigh(covariances - torch.diag_embed(own))
            w = vectors[:, :, -rank:] * values[:, None, -rank:].clamp_min(0.0).sqrt()
            left = covariances - w @ w.mT
            own = left.diagonal(dim1=1, dim2=2)
            off = float((left - torch.diag_embed(own)).abs().amax())
            if off <= CLOSE * size:
                return w, own
            if off > FALLS * before:  # it does where the rank suffices
                break
            before = off
    return None


def factors_of(w: Tensor, own: Tensor, floor: float) -> Tensor:
    """Factors `(K, D, D)` of a mixture with that floor."""
    values, vectors = eigh(w @ w.mT + torch.diag_embed(own))
    return vectors * (values - floor**2).clamp_min(0.0).sqrt().unsqueeze(1)


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """As `torch.linalg.eigh` of `(K, D, D)`; where many eigenvalues are the same, its algorithm may fail, and LAPACK's slower
    one does not."""
    try:
        return torch.linalg.eigh(matrices)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if not bool(matrices.isfinite().all()):
            raise
        parts = [map(torch.from_numpy, linalg.eigh(m.numpy(force=True), driver="ev")) for m in matrices]
        values, vectors = zip(*parts, strict=True)
        return torch.stack(values).to(matrices), torch.stack(vectors).to(matrices)
