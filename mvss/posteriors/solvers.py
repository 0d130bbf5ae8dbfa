"""Symmetric systems S v = r, one per observation.

Small ones, S = L D Lᵀ, for very many observations at once: LAPACK calls on millions of 3×3 matrices are slow, so the entries
are kept as separate arrays ("structure of arrays") and the factorisation is written out over the M observed numbers; all work
is then element-wise, at memory speed. Those of more than a few numbers, S = L Lᵀ, are LAPACK's.

Large ones, which are known by their products S p alone: conjugate gradients (Hestenes & Stiefel 1952), preconditioned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.presets.posterior import CGConfig
from mvss.runtime.errors import MvssError

__all__ = ["LDL", "CGReport", "Cholesky", "Symmetric", "conjugate_gradients", "factorise"]

Symmetric = list[list[Tensor]]
"""Lower triangle: `S[i][j]`, j ≤ i, each of one batch shape."""


@dataclass
class LDL:
    """S = L D Lᵀ with unit lower triangular L (strict lower entries in `lower`) and pivots D."""

    pivots: list[Tensor]
    lower: list[list[Tensor]]

    def at(self, index: Tensor) -> LDL:
        """The systems in `index`, of a one-dimensional batch."""
        return LDL([d[index] for d in self.pivots], [[e[index] for e in row] for row in self.lower])

    def pick(self, column: Tensor) -> LDL:
        """Of a batch `(N, …)` the systems at one flat position per row, `(N,)`."""

        def at(entry: Tensor) -> Tensor:
            return entry.flatten(1).gather(1, column[:, None]).squeeze(1)

        return LDL([at(d) for d in self.pivots], [[at(e) for e in row] for row in self.lower])

    def log_determinant(self) -> Tensor:
        """log |S|."""
        return sum((d.log() for d in self.pivots[1:]), self.pivots[0].log())

    def whiten(self, r: list[Tensor]) -> list[Tensor]:
        """L⁻¹ r."""
        z: list[Tensor] = []
        for i, r_i in enumerate(r):
            for j in range(i):
                r_i = r_i - self.lower[i][j] * z[j]
            z.append(r_i)
        return z

    def quadratic(self, r: list[Tensor]) -> Tensor:
        """rᵀ S⁻¹ r."""
        terms = [z * z / d for z, d in zip(self.whiten(r), self.pivots, strict=True)]
        return sum(terms[1:], terms[0])

    def solve(self, r: list[Tensor]) -> list[Tensor]:
        """S⁻¹ r."""
        v = [z / d for z, d in zip(self.whiten(r), self.pivots, strict=True)]
        for i in reversed(range(len(v))):
            for k in range(i + 1, len(v)):
                v[i] = v[i] - self.lower[k][i] * v[k]
        return v

    def solve_rows(self, r: Tensor) -> Tensor:
        """S⁻¹ r for r `(…, M)`."""
        return torch.stack(self.solve(list(r.unbind(-1))), dim=-1)

    def inverse(self) -> Symmetric:
        """Lower triangle of S⁻¹ = L⁻ᵀ D⁻¹ L⁻¹."""
        size = len(self.pivots)
        unit: list[list[Tensor]] = []  # strict lower triangle of L⁻¹
        for i in range(size):
            row = []
            for j in range(i):
                row.append(sum((-self.lower[i][k] * unit[k][j] for k in range(j + 1, i)), -self.lower[i][j]))
            unit.append(row)
        weight = [d.reciprocal() for d in self.pivots]
        scaled = [[e * weight[i] for e in row] for i, row in enumerate(unit)]
        entries: Symmetric = []
        for i in range(size):
            row = [sum((scaled[k][i] * unit[k][j] for k in range(i + 1, size)), scaled[i][j]) for j in range(i)]
            row.append(sum((scaled[k][i] * unit[k][i] for k in range(i + 1, size)), weight[i]))
            entries.append(row)
        return entries


@dataclass
class Cholesky:
    """S = L Lᵀ, lower: `(…, M, M)`."""

    lower: Tensor

    @staticmethod
    def of(matrices: Tensor) -> Cholesky:
        """Of symmetric positive definite S `(…, M, M)`. Raises MvssError where rounding makes it none."""
        lower, failed = torch.linalg.cholesky_ex(matrices)
        if bool(failed.any()):
            raise MvssError(
                "the noise is lost in rounding beside sources that some numbers of y show alike: give a larger noise, or leave "
                "only one of such numbers"
            )
        return Cholesky(lower)

    def at(self, index: Tensor) -> Cholesky:
        """The systems in `index`, of a one-dimensional batch."""
        return Cholesky(self.lower[index])

    def log_determinant(self) -> Tensor:
        """log |S|."""
        return 2 * self.lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def quadratic(self, r: Tensor) -> Tensor:
        """rᵀ S⁻¹ r for r `(…, M)`."""
        return torch.linalg.solve_triangular(self.lower, r.unsqueeze(-1), upper=False).square().sum((-2, -1))

    def solve_rows(self, r: Tensor) -> Tensor:
        """S⁻¹ r for r `(…, M)`."""
        return torch.cholesky_solve(r.unsqueeze(-1), self.lower).squeeze(-1)

    def matrix(self) -> Tensor:
        """S⁻¹, `(…, M, M)`."""
        return torch.cholesky_inverse(self.lower)


def factorise(entries: Symmetric, least: list[Tensor] | None = None) -> LDL:
    """Factorise S = L D Lᵀ.

    entries: lower triangle of S, M rows of arrays of one batch shape.
    least: lower bounds of the pivots. Where S = Σ + (something positive semi-definite), no pivot can be below the
        smallest eigenvalue of Σ, so that raising pivots to it mends rounding and the indefinite Jacobians of networks.
    """
    size = len(entries)
    pivots: list[Tensor] = []
    lower: list[list[Tensor]] = [[] for _ in range(size)]
    scaled: list[list[Tensor]] = [[] for _ in range(size)]  # L D, kept to spare a product
    for j in range(size):
        d = entries[j][j]
        for k in range(j):
            d = d - lower[j][k] * scaled[j][k]
        if least is not None:
            d = torch.maximum(d, least[j])
        pivots.append(d)
        for i in range(j + 1, size):
            s = entries[i][j]
            for k in range(j):
                s = s - lower[i][k] * scaled[j][k]
            scaled[i].append(s)
            lower[i].append(s / d)
    return LDL(pivots, lower)


@dataclass(frozen=True)
class CGReport:
    """residual: |r − S v| / |r| of each system, `(N,)`, infinite where r is not finite. iterations: products with S that were
    made."""

    residual: Tensor
    iterations: int


def conjugate_gradients(
    matvec: Callable[[Tensor], Tensor],
    right_hand_side: Tensor,
    config: CGConfig,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, CGReport]:
    """v `(N, M)` with S v = r, from v = 0, for symmetric positive definite S of each row.

    matvec: S p for p `(N, M)`, row by row. right_hand_side: r `(N, M)`; the work is done in float64 at least, which matvec and
    precondition are given. precondition: about S⁻¹ p, symmetric positive definite and the same at every call.
    A row that is done stays as it is, whatever the others do, as does one at its last good iterate where S or the
    preconditioner is not positive definite, or gives numbers that are not finite.
    """
    dtype = torch.promote_types(right_hand_side.dtype, torch.float64)
    residual = right_hand_side.to(dtype)
    sound = residual.isfinite().all(1)
    residual = torch.where(sound[:, None], residual, 0.0)  # NaN must not reach a product that rows share
    size, v = residual.norm(dim=1), torch.zeros_like(residual)
    active, made = sound & (size > 0), 0
    direction, old = torch.zeros_like(residual), torch.ones_like(size)
    while made < config.iterations and bool(active.any()):
        z = residual if precondition is None else precondition(residual)
        new = (residual * z).sum(1)
        active = active & _is_good(new)
        direction = torch.where(active[:, None], z + (new / old)[:, None] * direction, 0.0)
        product = matvec(direction) + config.regularisation * direction
        made += 1
        curvature = (direction * product).sum(1)
        active = active & _is_good(curvature)
        step = (new / curvature)[:, None]
        v = torch.where(active[:, None], v + step * direction, v)
        residual = torch.where(active[:, None], residual - step * product, residual)
        old = torch.where(active, new, old)
        active = active & (residual.norm(dim=1) > config.tolerance * size)
    relative = torch.where(sound, residual.norm(dim=1) / size.where(size > 0, 1.0), math.inf)
    return v.to(right_hand_side.dtype), CGReport(relative, made)


def _is_good(form: Tensor) -> Tensor:
    """Where quadratic forms are positive and finite."""
    return (form > 0) & form.isfinite()
