"""Linear-Gaussian latent variables under known noise, in latent space.

    y = G z + r + η,   z ~ N(0, I_L),   η ~ N(0, diag v),   K = I + Gᵀ v⁻¹ G
    log p(y) = −½ (M log 2π + Σ log v + log |K| + rᵀ v⁻¹ r − bᵀ K⁻¹ b),   b = Gᵀ v⁻¹ r
    z | y ~ N(K⁻¹ b, K⁻¹)

with r = y − mean. G is one matrix for all observations, or one for each (Woodbury's identity; Bishop 2006, section 12.2). A
number that was not measured has v⁻¹ = 0, and leaves log v in log p(y), whatever z is.
"""

from __future__ import annotations

__all__ = ["Latent", "loadings", "principal"]

import math

import torch
from torch import Tensor

from mvss.problem.operators import LinearOperator


def loadings(operator: LinearOperator, factors: Tensor) -> Tensor:
    """A W for factors W `(D, L)`: `(N, M, L)`, or `(1, M, L)` where one operator serves a whole view."""
    columns = factors.mT.reshape(-1, *operator.source_shape)
    if operator.count is None:
        return operator.forward(columns).flatten(1).mT.unsqueeze(0)
    spread = [operator.forward(c.expand(operator.count, *c.shape)).flatten(1) for c in columns]
    return torch.stack(spread, dim=-1)


def principal(covariance: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """Factors `(D, latents)` of a covariance `(D, D)`, and the variance that they leave in every other direction (Tipping &
    Bishop 1999). Where there are more latents than directions, the last factors are zero."""
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors, size = values.flip(0), vectors.flip(1), len(values)
    rest = values[latents:].mean().clamp_min(1e-6) if latents < size else 1e-3 * values[0].abs()
    factors, kept = covariance.new_zeros(size, latents), min(latents, size)
    factors[:, :kept] = vectors[:, :kept] * (values[:kept] - rest).clamp_min(1e-3 * rest).sqrt()
    return factors, rest


class Latent:
    """The posterior of z for residuals r `(N, M)` with loadings G `(N, M, L)` or `(1, M, L)` and variances v `(N, M)`.

    measured: `(N, M)`, 1 where a number was and 0 where not; all were if not given.
    """

    def __init__(self, matrix: Tensor, residual: Tensor, variance: Tensor, measured: Tensor | None = None) -> None:
        if len(matrix) == 1 and measured is None and bool((variance == variance[:1]).all()):
            variance = variance[:1]  # one factorisation for all
        precision = variance.reciprocal() if measured is None else measured / variance
        self.residual, self.variance, self.precision = residual, variance, precision
        latents = matrix.shape[2]
        if len(matrix) == len(precision) == 1:
            gram, self.b = matrix.mT @ (matrix * precision.unsqueeze(-1)), (precision * residual) @ matrix[0]
        elif len(matrix) == 1:  # one product with all g gᵀ: a weighted G for each observation takes M times the memory
            pairs = (matrix[0].unsqueeze(2) * matrix[0].unsqueeze(1)).flatten(1)
            gram, self.b = (precision @ pairs).reshape(-1, latents, latents), (precision * residual) @ matrix[0]
        else:
            weighted = matrix * precision.unsqueeze(-1)
            gram, self.b = matrix.mT @ weighted, (weighted.mT @ residual.unsqueeze(-1)).squeeze(-1)
        self.cholesky = torch.linalg.cholesky(torch.eye(latents, dtype=matrix.dtype, device=matrix.device) + gram)

    def log_prob(self) -> Tensor:
        """log p(y), `(N,)`, nats."""
        half = torch.linalg.solve_triangular(self.cholesky, self.b.unsqueeze(-1), upper=False).squeeze(-1)
        determinant = 2 * self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1) + self.variance.log().sum(1)
        quadratic = (self.residual.square() * self.precision).sum(1) - half.square().sum(1)
        return -0.5 * (self.residual.shape[1] * math.log(2 * math.pi) + determinant + quadratic)

    def mean(self) -> Tensor:
        """E[z | y], `(N, L)`."""
        return torch.cholesky_solve(self.b.unsqueeze(-1), self.cholesky).squeeze(-1)

    def draw(self, noise: Tensor) -> Tensor:
        """A draw of z given y, for standard-normal noise `(N, L)`."""
        spread = torch.linalg.solve_triangular(self.cholesky.mT, noise.unsqueeze(-1), upper=True)
        return self.mean() + spread.squeeze(-1)
