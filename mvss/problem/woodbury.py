"""Pixels of an observation whose noise is not that of the view: masked ones, or of another variance. Few of them cost little,
and all of them no more than a factorisation of each observation.

    Σ_i = Σ + E Δ Eᵀ,    E: the m columns of I at the odd pixels,    Δ⁻¹ = 0 for a masked one
    S_i⁻¹ r = P (r − E K⁻¹ Eᵀ P r),    K = Δ⁻¹ + Eᵀ P E,    P = S⁻¹ with the noise of the view       (Woodbury)
    log |S_i| = log |S| + log |K| + log |Δ|

For a masked pixel log |Δ| and its log 2π are left out: what remains is the density of the measured pixels alone. Less noise
than the view's is allowed (Δ < 0): K is then indefinite, and S_i positive definite all the same.
"""

from __future__ import annotations

__all__ = ["Woodbury"]

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK, ENTRIES = 128, 2**22
"""Observations, and numbers of their K, in memory at once."""


@dataclass(frozen=True)
class Woodbury:
    """Of N observations at most m odd pixels each.

    pixel: which, `(N, m)`, no two the same. inverse: Δ⁻¹, `(N, m)`, in the units of the observation to the power −2.
    here: `(N, m)`, False where an observation has fewer than m.
    """

    pixel: Tensor
    inverse: Tensor
    here: Tensor

    @staticmethod
    def of(measured: Tensor, extra: Tensor) -> Woodbury | None:
        """measured: `(N, M)`, bool. extra: variance beyond the view's, `(N, M)`. None if there are no such pixels."""
        odd = ~measured | (extra != 0)
        most = int(odd.sum(1).max())
        if most == 0:
            return None
        pixel = odd.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        here, known = odd.gather(1, pixel), measured.gather(1, pixel)
        inverse = torch.where(here & known, extra.gather(1, pixel).reciprocal(), 0.0)
        return Woodbury(pixel, inverse, here)

    @property
    def masked(self) -> Tensor:
        """Those that were not measured, `(N, m)`."""
        return self.here & (self.inverse == 0)

    def select(self, rows: Tensor | slice) -> Woodbury:
        """Those of some of the observations."""
        return Woodbury(self.pixel[rows], self.inverse[rows], self.here[rows])

    def scale(self, variance: Tensor) -> Tensor:
        """Standard deviations over the view's, `(N, M)`, for noise that is independent between pixels. variance: `(M,)`."""
        finite = self.here & ~self.masked
        factor = torch.where(finite, 1 + (self.inverse * variance[self.pixel]).where(finite, 1.0).reciprocal(), 1.0)
        return variance.new_ones(len(self.pixel), len(variance)).scatter(1, self.pixel, factor.sqrt())

    def correct(self, precision: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r' with P r' = S_i⁻¹ r, `(N, M)`; and what the odd pixels add to rᵀ S⁻¹ r and to log |S| + M log 2π, `(N,)`.

        precision: P, `(M, M)`. residual: r, `(N, M)`.
        """
        out, quadratic = residual.clone(), residual.new_zeros(len(residual))
        sizes = torch.where(self.masked, -math.log(2 * math.pi), -self.inverse.abs().log().where(self.inverse != 0, 0.0))
        log_determinant = sizes.sum(1)
        for rows, pixel, here, system in self._systems(precision):
            part = residual[rows]
            pulled = _entries(part, precision, pixel, here)
            factors, pivots = torch.linalg.lu_factor(system)
            solved = torch.linalg.lu_solve(factors, pivots, pulled.unsqueeze(2)).squeeze(2)
            out[rows] = part.scatter_add(1, pixel, -solved)
            quadratic[rows] = -(pulled * solved).sum(1)
            log_determinant[rows] += factors.diagonal(dim1=1, dim2=2).abs().log().sum(1)
        return out, quadratic, log_determinant

    def removed(self, precision: Tensor, weight: Tensor) -> Tensor:
        """Σ_i w_i E K⁻¹ Eᵀ, `(M, M)`, for weights `(N,)`: then Σ_i w_i S_i⁻¹ = Σ_i w_i P − P (Σ_i w_i E K⁻¹ Eᵀ) P."""
        size = len(precision)
        out = precision.new_zeros(size * size)
        for rows, pixel, here, system in self._systems(precision):
            both = here.unsqueeze(2) & here.unsqueeze(1)
            block = torch.where(both, weight[rows, None, None] * torch.linalg.inv(system), 0.0)
            out.index_add_(0, (size * pixel.unsqueeze(2) + pixel.unsqueeze(1)).flatten(), block.flatten())
        return out.reshape(size, size)

    def _systems(self, precision: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Rows, their pixels, which are here, and K `(n, m, m)`, unit rows for those that are not: in chunks of rows with
        about as many, so that one observation with many does not pad all others."""
        count = self.here.sum(1)
        order, start = count.argsort(descending=True)[: int((count > 0).sum())], 0
        while start < len(order):
            most = int(count[order[start]])
            rows = order[start : start + max(1, min(CHUNK, ENTRIES // most**2))]
            start += len(rows)
            pixel, here = self.pixel[rows, :most], self.here[rows, :most]
            both = here.unsqueeze(2) & here.unsqueeze(1)
            place = len(precision) * pixel.unsqueeze(2) + pixel.unsqueeze(1)
            entries = precision.reshape(-1).index_select(0, place.flatten()).reshape(place.shape)  # faster than indexing
            system = torch.where(both, entries, 0.0)
            system.diagonal(dim1=1, dim2=2).add_(self.inverse[rows, :most].where(here, 1.0))
            yield rows, pixel, here, system


def _entries(rows: Tensor, matrix: Tensor, pixel: Tensor, here: Tensor) -> Tensor:
    """The numbers of rows @ matrix at a few columns of each row, `(n, m)`, 0 where not here: no others are computed."""
    ends = torch.cat([here.new_zeros(1, dtype=torch.long), here.sum(1).cumsum(0)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")  # "in beta state"
        pattern = torch.sparse_csr_tensor(
            ends, pixel[here], rows.new_zeros(int(ends[-1])), (len(rows), len(matrix)), check_invariants=True
        )
    values = torch.sparse.sampled_addmm(pattern, rows, matrix, beta=0.0).values()
    return rows.new_zeros(here.shape).masked_scatter(here, values)
