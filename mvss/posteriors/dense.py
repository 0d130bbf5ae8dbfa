"""A view as matrices, and the Gaussians of all combinations of components, with their entries as arrays of their own.

S = Σ + Σ_β A^β C^β A^βᵀ,    r = y − Σ_β A^β m^β,    log N(r; 0, S)

A C Aᵀ of few numbers is one product of C with all pairs of rows of A, M (M + 1)/2 × D² numbers for each observation; of more
it is made in two steps (`images`).
"""

from __future__ import annotations

__all__ = ["DenseView", "assemble", "images", "log_normal", "project"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.posteriors.solvers import LDL, Cholesky, Symmetric
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.operators import LinearOperator
from mvss.problem.shared_view import measured, unmasked
from mvss.problem.views import View
from mvss.runtime.memory import ensure_memory
from mvss.runtime.rng import Stream

PAIRS = 2**20
"""Bytes of the pairs of rows of one observation's A up to which they are made."""


@dataclass(frozen=True)
class DenseView:
    """A view as matrices: y `(N, M)`, one matrix `(N, M, D_β)` per source, noise variances `(N, M)`.

    Behind masks there are as many columns as the observation with the most measured numbers needs. In others the rest have A
    and y of 0 and a variance of 1/2π: log N(0; 0, 1/2π) = 0 leaves no trace in the evidence.
    """

    y: Tensor
    matrices: tuple[Tensor, ...]
    noise: Tensor
    pixel: Tensor | None = None
    """Which of the view's numbers each column is of, `(N, M)`; None where all are there."""
    left: int = 0
    """How many of an observation's numbers are left out: what is decided and drawn by all of them does not depend on which
    observations are together."""

    @staticmethod
    def of(view: View) -> DenseView:
        """Materialise the operators of the sources that the view shows, in float64. Raises MvssError where memory does not
        suffice."""
        count, seen, (mask, operators) = len(view), measured(view), unmasked(view)
        y, noise = view.y.double().flatten(1), view.noise.white_variance(view.y.double()).flatten(1)
        if bool(seen.all()):
            _ensure_matrices(view, tuple(view.operators.values()))
            return DenseView(y, tuple(o.dense().expand(count, -1, -1) for o in view.operators.values()), noise)
        operators = tuple(view.operators.values()) if mask is None else operators
        seen = seen.flatten(1).expand(count, -1)
        most = int(seen.sum(1).max())
        _ensure_matrices(view, operators, most)
        pixel = seen.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        known = seen.gather(1, pixel)
        matrices = tuple(_rows_of(operator, pixel, known) for operator in operators)
        left = y.shape[1] - most
        y, noise = y.gather(1, pixel).where(known, 0.0), noise.gather(1, pixel).where(known, 0.5 / math.pi)
        return DenseView(y, matrices, noise, pixel, left)

    def draw_noise(self, stream: Stream, index: Tensor) -> Tensor:
        """Noise of every number, `(N, M)`, keyed by the numbers of the observations, `index`."""
        z = stream.normal(index, (self.y.shape[1] + self.left,), "noise", device=self.noise.device)
        return self.noise.sqrt() * (z if self.pixel is None else z.gather(1, self.pixel))

    @property
    def pairs(self) -> float:
        """Bytes of the pairs of rows of one observation's A."""
        observed = self.y.shape[1] + self.left
        return 4 * observed * (observed + 1) * max((a.shape[2] for a in self.matrices), default=0) ** 2

    @property
    def is_small(self) -> bool:
        """Whether A C Aᵀ is made from those, and its entries are arrays of their own."""
        return self.pairs <= PAIRS

    def select(self, index: Tensor | slice) -> DenseView:
        """The observations in `index`."""
        matrices = tuple(a[index] for a in self.matrices)
        pixel = None if self.pixel is None else self.pixel[index]
        return DenseView(self.y[index], matrices, self.noise[index], pixel, self.left)

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


def _rows_of(operator: LinearOperator, pixel: Tensor, known: Tensor) -> Tensor:
    """Rows `pixel` `(N, m)` of the matrices of a view, `(N, m, D)`, 0 where not known."""
    matrix = operator.dense().to(pixel.device)
    each = pixel.unsqueeze(-1).expand(-1, -1, matrix.shape[2])
    rows = matrix[0][pixel] if len(matrix) == 1 else matrix.gather(1, each)
    return rows.mul_(known.unsqueeze(-1))


def _ensure_matrices(view: View, operators: Sequence[LinearOperator], rows: int = 0) -> None:
    """That memory holds the matrices of a view, or, behind masks, so many rows of each observation's and a whole one beside
    them. Raises MvssError where it does not."""
    sizes = [math.prod(operator.source_shape) for operator in operators]
    whole = [8 * view.y[0].numel() * d * (o.count or 1) for o, d in zip(operators, sizes, strict=True)]
    size = 8 * len(view) * rows * sum(sizes) + max(whole, default=0) if rows else sum(whole)
    ensure_memory(size, f"{view.name}: the matrices of {len(view):,} observations", "separate fewer at a time", view.y.device)


def images(prior: GaussianMixture, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A m_k `(N, K, M)` and A C_k Aᵀ `(N, K, M, M)`."""
    mean = torch.einsum("nmd,kd->nkm", matrix, prior.means)
    across = torch.einsum("nmd,kde->nkme", matrix, prior.covariances) @ matrix.unsqueeze(1).mT
    return mean, across


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


def log_normal(system: LDL | Cholesky, residual: list[Tensor] | Tensor) -> Tensor:
    """log N(residual; 0, S). residual: M arrays, or `(…, M)` where S are matrices."""
    size = len(residual) if isinstance(residual, list) else residual.shape[-1]
    quadratic = system.quadratic(residual)  # type: ignore[arg-type]  # each of its own kind
    return -0.5 * (quadratic + system.log_determinant() + size * math.log(2 * math.pi))
