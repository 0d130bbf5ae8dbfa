"""Moments of the components of one source, gathered from observations, and the components of greatest likelihood for them.

N_k = Σ r_k,   mean_k = Σ r_k m_k / N_k,   C_k = Σ r_k (m_k m_kᵀ + P_k) / N_k − mean_k mean_kᵀ
C_k ≈ W Wᵀ + diag(own), W: its leading eigenvectors                                             (principal factors)
"""

from __future__ import annotations

__all__ = ["Moments", "factor_analysis", "solve"]

import torch
from torch import Tensor

from mvss.posteriors.shared_gaussians import NEGLIGIBLE, SharedGiven
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.principal_factors import eigh
from mvss.problem.operators import Shape

UNSEEN = 1e-10
"""Relative precision below which a direction is taken as unseen: what all observations mask has one of rounding errors."""
REGULAR = 1e-10
"""Least eigenvalue of a component beside its largest: a Cholesky factor of what is flatter may not exist in float64."""


class Moments:
    """Σ r, Σ r m and Σ r (m mᵀ + P) of the components of one source."""

    def __init__(self, components: int, size: int) -> None:
        self.count = torch.zeros(components, dtype=torch.float64)
        self.first = torch.zeros(components, size, dtype=torch.float64)
        self.second = torch.zeros(components, size, size, dtype=torch.float64)
        self.precision, self.force = torch.zeros_like(self.second), torch.zeros_like(self.first)
        self.pulled, self.expected = torch.zeros_like(self.first), torch.zeros_like(self.first)

    def pull(self, k: int, weight: Tensor, given: SharedGiven, number: int, place: int, total: Tensor) -> None:
        """Add Σ r Aᵀ S⁻¹ A and Σ r Aᵀ S⁻¹ (y − Σ A mean). place: of the source among those that the view shows. number: of the
        combination. total: Σ r S⁻¹, `(M, M)`."""
        view, residual, inverse = given.gaussians.view, given.residuals[number], given.gaussians.combinations[number].precision
        precision = view.pull(place, view.pull(place, total).mT)
        self.precision[k] += precision
        self.force[k] += view.pull(place, ((weight @ residual) @ inverse)[None])[0]
        rows = (weight > NEGLIGIBLE).nonzero().squeeze(1)
        self.pulled[k] += weight[rows] @ view.pull(place, residual[rows] @ inverse).square()
        self.expected[k] += precision.diagonal()

    def add(self, k: int, weight: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """covariance: Σ r P, `(D, D)`."""
        self.count[k] += weight.sum()
        self.first[k] += weight @ mean
        self.second[k] += (weight[:, None] * mean).mT @ mean + covariance

    def mixture(self, rank: int, floor: float, shape: Shape, before: Tensor | None = None) -> GaussianMixture:
        """The maximum-likelihood components. One that no observation wants keeps the law of all of them together.

        before: the means so far `(K, D)`, to move them by the direct solution.
        """
        means, covariances, steps = [], [], []
        mean_square = self.second.diagonal(dim1=1, dim2=2).sum(0) / self.count.sum()
        spread = float((mean_square - (self.first.sum(0) / self.count.sum()).square()).mean())  # the variance of a number
        for k in range(len(self.count)):
            some = float(self.count[k]) > 1.0
            count = self.count[k] if some else self.count.sum()
            centre = (self.first[k] if some else self.first.sum(0)) / count
            second = (self.second[k] if some else self.second.sum(0)) / count
            mean = centre
            if some and before is not None:
                mean = before[k] + solve(self.precision[k], self.force[k], 1 / spread, centre - before[k])
            means.append(mean)
            covariances.append(second - torch.outer(centre, centre))
            steps.append(self._step(k) if some and before is not None else torch.zeros_like(mean))
        weights = self.count.clamp_min(1.0)
        mixture = factor_analysis(weights, torch.stack(means), torch.stack(covariances), rank, floor, torch.stack(steps))
        mixture.shape = shape
        return mixture

    def _step(self, k: int) -> Tensor:
        """Fisher scoring of the variance of each number by itself: (mean g² − p) / p², where g = Aᵀ S⁻¹ (y − Σ A mean) and
        p = diag Aᵀ S⁻¹ A is what g² should be; 0 where no observation tells."""
        squared, expected = self.pulled[k] / self.count[k], self.expected[k] / self.count[k]
        return torch.where(expected > UNSEEN * expected.max(), (squared - expected) / expected.square().clamp_min(1e-30), 0.0)


def solve(system: Tensor, right: Tensor, least: float = 0.0, otherwise: Tensor | None = None) -> Tensor:
    """The shortest solution `(D,)` of a symmetric system. (Torch's own by pivots, gelsy, often takes a wrong rank for that of a
    singular system, and its answer is then wrong.)

    least: in directions of no more precision than this, where noise would be made loud, the answer is `otherwise`, `(D,)`, or
    zero.
    """
    values, vectors = torch.linalg.eigh(system)
    seen = values > UNSEEN * values[-1]
    found = torch.where(seen & (values > least), values.reciprocal() * (vectors.mT @ right), 0.0)
    if otherwise is not None:
        found += torch.where(seen & (values <= least), vectors.mT @ otherwise, 0.0)
    return vectors @ found


def factor_analysis(
    weights: Tensor, means: Tensor, covariances: Tensor, rank: int, floor: float, steps: Tensor | None = None
) -> GaussianMixture:
    """The mixture of covariances `(K, D, D)` kept to `rank` directions (0: all) and a variance of each number by itself, which
    `steps` `(K, D)` are added to, and which is at least floor². No eigenvalue is below REGULAR of the largest."""
    values, vectors = eigh(covariances)
    size = values.shape[1]
    if 0 < rank < size:
        leading = vectors[:, :, -rank:] * values[:, None, -rank:].clamp_min(0.0).sqrt()
        own = (covariances - leading @ leading.mT).diagonal(dim1=1, dim2=2)
        own = (own if steps is None else own + steps).clamp_min(floor**2)
        values, vectors = eigh(leading @ leading.mT + torch.diag_embed(own))
    values = values.maximum(REGULAR * values.amax(1, keepdim=True))
    factors = vectors * (values - floor**2).clamp_min(0.0).sqrt().unsqueeze(1)
    return GaussianMixture(weights, means, factors, floor)
