"""A view as matrices, and the Gaussians of all combinations of components, with their entries as arrays of their own.

S = Σ + Σ_β A^β C^β A^βᵀ,    r = y − Σ_β A^β m^β,    log N(r; 0, S)
"""

from __future__ import annotations

__all__ = ["DenseView", "assemble", "log_normal", "project"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.posteriors.solvers import LDL, Symmetric
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.views import View


@dataclass(frozen=True)
class DenseView:
    """A view as matrices: y `(N, M)`, one matrix `(N, M, D_β)` per source, noise variances `(N, M)`."""

    y: Tensor
    matrices: tuple[Tensor, ...]
    noise: Tensor

    @staticmethod
    def of(view: View) -> DenseView:
        """Materialise the operators of the sources that the view shows, in float64."""
        count = len(view)
        y = view.y.double()
        matrices = tuple(operator.dense().expand(count, -1, -1) for operator in view.operators.values())
        return DenseView(y.flatten(1), matrices, view.noise.white_variance(y).flatten(1))

    def select(self, index: Tensor | slice) -> DenseView:
        """The observations in `index`."""
        return DenseView(self.y[index], tuple(a[index] for a in self.matrices), self.noise[index])

    def __len__(self) -> int:
        return self.y.shape[0]

    def image(self, x: Sequence[Tensor]) -> Tensor:
        """Σ A x, `(N, M)`, for x `(N, D_β)` of every source."""
        terms = [torch.einsum("nmd,nd->nm", a, v) for a, v in zip(self.matrices, x, strict=True)]
        return torch.stack(terms).sum(0)


def project(prior: GaussianMixture, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A m_k `(N, K, M)` and the lower triangles of A C_k Aᵀ `(N, K, M(M+1)/2)`."""
    size = matrix.shape[1]
    rows, columns = torch.tril_indices(size, size, device=matrix.device)
    mean = torch.einsum("nmd,kd->nkm", matrix, prior.means)
    products = (matrix[:, rows, :, None] * matrix[:, columns, None, :]).flatten(2)
    return mean, torch.einsum("npq,kq->nkp", products, prior.covariances.flatten(1))


def assemble(y: Tensor, noise: Tensor, picked: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], Symmetric]:
    """Residual y − Σ A m and entries of Σ + Σ A C Aᵀ; the last axis of the arguments holds M, or M(M+1)/2, numbers."""
    size = y.shape[-1]
    residual, entries, position = [], [], 0
    for i in range(size):
        residual.append(sum((-mean[..., i] for mean, _ in picked), y[..., i]))
        line = []
        for j in range(i + 1):
            terms = [packed[..., position] for _, packed in picked] + ([noise[..., i]] if i == j else [])
            line.append(sum(terms[1:], terms[0]))
            position += 1
        entries.append(line)
    return residual, entries


def log_normal(system: LDL, residual: list[Tensor]) -> Tensor:
    """log N(residual; 0, S)."""
    constant = len(residual) * math.log(2 * math.pi)
    return -0.5 * (system.quadratic(residual) + system.log_determinant() + constant)
