"""Mixture-of-Gaussians prior of one source, in closed form.

    p(x) = Σ_k π_k N(x; m_k, C_k),   C_k = B_k B_kᵀ + f² I
    p(x_t) = Σ_k π_k N(x_t; m_k, C_k + σ² I)          (variance exploding)
    E[x | x_t, k] = m_k + C_k (C_k + σ² I)⁻¹ (x_t − m_k),   Cov[x | x_t, k] = σ² C_k (C_k + σ² I)⁻¹

The floor f keeps every component from collapsing: the maximum-likelihood solution of a deconvolution is discrete.
Factors B_k may have fewer columns than the source has numbers (mixture of factor analysers).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.runtime.errors import MvssError

__all__ = ["GaussianMixture", "Hierarchy"]


class GaussianMixture(torch.nn.Module):
    """A mixture of K Gaussians over a source of D numbers.

    weights: `(K,)`, positive, made to sum to one.
    means: `(K, D)`.
    factors: `(K, D, R)`, the B_k.
    floor: f, in the units of the source.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    floor: float

    def __init__(self, weights: Tensor, means: Tensor, factors: Tensor, floor: float) -> None:
        super().__init__()
        if not floor > 0:
            raise MvssError(f"mixture: the covariance floor must be positive, got {floor}")
        if not all(bool(torch.isfinite(t).all()) for t in (weights, means, factors)):
            raise MvssError("mixture: weights, means or factors hold NaN or infinite values")
        k, d = means.shape
        if weights.shape != (k,) or factors.shape[:2] != (k, d):
            raise MvssError(
                f"mixture: weights {tuple(weights.shape)}, means {tuple(means.shape)}, factors {tuple(factors.shape)} "
                "do not fit; they must be (K,), (K, D), (K, D, R)"
            )
        self.floor = float(floor)
        left, singular, _ = torch.linalg.svd(factors.double(), full_matrices=False)
        weights, total = weights.double(), weights.double().sum()
        if abs(float(total) - 1) > 1e-12:  # not again where it was done: a mixture read back must be the same to the bit
            weights = weights / total
        self.register_buffer("weights", weights)
        self.register_buffer("means", means.double())
        self.register_buffer("factors", factors.double())
        # C_k = U (λ) Uᵀ + f² (I − U Uᵀ), with U the left singular vectors of B_k
        self.register_buffer("eigenvectors", left)
        self.register_buffer("eigenvalues", singular**2 + self.floor**2)

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    @property
    def covariances(self) -> Tensor:
        """C_k, `(K, D, D)`."""
        eye = torch.eye(self.dimension, dtype=self.means.dtype, device=self.means.device)
        return self.factors @ self.factors.mT + self.floor**2 * eye

    def sample(self, count: int, generator: torch.Generator, stratified: bool = False) -> Tensor:
        """`(count, D)` draws.

        stratified: every component gets its share of the draws to within one (systematic sampling). Each draw keeps the
        mixture's law, but they are not independent: for measuring the law itself, without the sampling noise.
        """
        weights = self.weights.cpu()
        if stratified:
            levels = (torch.arange(count) + torch.rand(1, generator=generator, dtype=torch.float64)) / count
            component = torch.searchsorted(weights.cumsum(0), levels).clamp_max(len(self) - 1)
            component = component[torch.randperm(count, generator=generator)]
        else:
            component = torch.multinomial(weights, count, replacement=True, generator=generator)
        rank = self.factors.shape[2]
        normal = torch.randn(count, rank + self.dimension, generator=generator, dtype=torch.float64)
        component, normal = component.to(self.means.device), normal.to(self.means.device)
        low_rank = (self.factors[component] @ normal[:, :rank, None]).squeeze(-1)
        return self.means[component] + low_rank + self.floor * normal[:, rank:]

    def state(self) -> dict[str, Tensor | float]:
        """What the constructor takes, for checkpoints: `GaussianMixture(**state)` is the mixture again."""
        return {"weights": self.weights, "means": self.means, "factors": self.factors, "floor": self.floor}

    def _rotate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of x − m_k along the eigenvectors `(N, K, R)`, and what is left of |x − m_k|², `(N, K)`."""
        k, d = self.means.shape
        directions = self.eigenvectors.to(x.dtype)
        offset = (self.means.unsqueeze(1) @ self.eigenvectors).squeeze(1).to(x.dtype)
        z = (x @ directions.permute(1, 0, 2).reshape(d, -1)).reshape(x.shape[0], k, -1) - offset
        if directions.shape[2] == d:
            return z, x.new_zeros(())
        norm = torch.cdist(x, self.means.to(x.dtype)).square()
        return z, (norm - z.square().sum(-1)).clamp_min(0.0)

    def _log_components(self, z: Tensor, rest: Tensor, sigma: Tensor) -> Tensor:
        """log π_k N(x; m_k, C_k + σ² I), `(N, K)`, from the rotated coordinates."""
        d, rank = self.dimension, self.eigenvalues.shape[1]
        total = self.eigenvalues.to(z.dtype) + sigma[:, None, None] ** 2
        outside = self.floor**2 + sigma[:, None] ** 2
        quadratic = (z.square() / total).sum(-1) + rest / outside
        log_det = total.log().sum(-1) + (d - rank) * outside.log()
        return self.weights.log().to(z.dtype) - 0.5 * (quadratic + log_det + d * math.log(2 * math.pi))

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """log density `(N,)` of x `(N, D)` under the mixture convolved with noise of level σ (a number or `(N,)`)."""
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        return torch.logsumexp(self._log_components(*self._rotate(x), sigma), dim=1)

    def component_posteriors(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k(x_t) `(N, K)` (normalised), E[x | x_t, k] `(N, K, D)`, and the shrinkage λ/(λ+σ²) `(N, K, R)`."""
        z, rest = self._rotate(x_t)
        log_weight = torch.log_softmax(self._log_components(z, rest, sigma), dim=1)
        eigenvalues = self.eigenvalues.to(x_t.dtype)
        variance = sigma[:, None, None] ** 2
        shrink = eigenvalues / (eigenvalues + variance)
        outside = (self.floor**2 / (self.floor**2 + sigma**2))[:, None, None]
        d = self.dimension
        means = self.means.to(x_t.dtype)
        directions = self.eigenvectors.to(x_t.dtype)
        mean = means + torch.einsum("nkr,kdr->nkd", (shrink - (outside if directions.shape[2] < d else 0)) * z, directions)
        if directions.shape[2] < d:
            mean = mean + outside * (x_t[:, None, :] - means)
        return log_weight, mean, shrink

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """E[x | x_t], `(N, D)`, for x_t `(N, D)` and σ `(N,)`."""
        log_weight, mean, _ = self.component_posteriors(x_t, sigma)
        return (log_weight.exp().unsqueeze(-1) * mean).sum(1)

    def resize(self, count: int, dead: float = 0.1) -> GaussianMixture:
        """`count` components: those lighter than `dead`/K go, the heaviest are cut into pieces along their main axis.

        A uniform segment of variance λ and length √(12 λ) falls into n pieces of variance λ/n² each, so that a
        component that is cut keeps its mass, mean and covariance.
        """
        pieces = (self.weights >= dead / len(self)).long()
        while int(pieces.sum()) < count:
            pieces[torch.argmax(self.weights / pieces.clamp_min(1) * (pieces > 0))] += 1
        parent = torch.repeat_interleave(torch.arange(len(self), device=pieces.device), pieces)
        number = torch.cat([torch.arange(n, device=pieces.device) for n in pieces.tolist()])
        size = pieces[parent].double()
        place = math.sqrt(12) * ((number + 0.5) / size - 0.5)
        u, s, v = torch.linalg.svd(self.factors, full_matrices=False)
        means = self.means[parent] + (place * s[parent, 0]).unsqueeze(1) * u[parent, :, 0]
        s = s[parent]
        s[:, 0] /= size
        return GaussianMixture(self.weights[parent] / size, means, (u[parent] * s.unsqueeze(1)) @ v[parent], self.floor)


@dataclass(frozen=True)
class Hierarchy:
    """A mixture seen coarse to fine: level l merges components into groups with the same mass, mean and covariance.

    levels: mixtures from coarse to the mixture itself.
    children: for each level but the last, `(K_l, 2)`: the groups of the next level that a group consists of; a group
        that cannot be divided is its own single child, with −1 in the second place.
    order: `(K,)`: the mixture's component that each component of the last level is.
    """

    levels: tuple[GaussianMixture, ...]
    children: tuple[Tensor, ...]
    order: Tensor

    @staticmethod
    def of(mixture: GaussianMixture, coarsest: int) -> Hierarchy:
        """Bisect along the main axis of the means until every group has one component; keep levels ≥ `coarsest`."""
        groups = [torch.arange(len(mixture))]
        partitions = [groups]
        while any(len(g) > 1 for g in groups):
            groups = [half for g in groups for half in _bisect(mixture, g)]
            partitions.append(groups)
        partitions = [p for p in partitions if len(p) >= min(coarsest, len(mixture))]
        children = []
        for coarse, fine in itertools.pairwise(partitions):
            table, position = [], 0
            for group in coarse:
                count = 2 if len(group) > 1 else 1
                table.append([position, position + 1 if count == 2 else -1])
                position += count
            assert position == len(fine)
            children.append(torch.tensor(table, device=mixture.means.device))
        order = torch.cat(partitions[-1]).to(mixture.means.device)
        levels = [_merge(mixture, p) for p in partitions[:-1]] + [_reorder(mixture, order)]
        return Hierarchy(tuple(levels), tuple(children), order)


def _bisect(mixture: GaussianMixture, group: Tensor) -> list[Tensor]:
    if len(group) == 1:
        return [group]
    centred = mixture.means[group] - mixture.means[group].mean(0)
    axis = torch.linalg.svd(centred, full_matrices=False)[2][0]
    order = torch.argsort(centred @ axis).to(group.device)
    half = len(group) // 2
    return [group[order[:half]], group[order[half:]]]


def _reorder(mixture: GaussianMixture, order: Tensor) -> GaussianMixture:
    return GaussianMixture(mixture.weights[order], mixture.means[order], mixture.factors[order], mixture.floor)


def _merge(mixture: GaussianMixture, groups: list[Tensor]) -> GaussianMixture:
    weights, means, factors = [], [], []
    covariances = mixture.covariances
    eye = torch.eye(mixture.dimension, dtype=mixture.means.dtype, device=mixture.means.device)
    for group in groups:
        share = mixture.weights[group] / mixture.weights[group].sum()
        mean = share @ mixture.means[group]
        spread = mixture.means[group] - mean
        covariance = torch.einsum("k,kij->ij", share, covariances[group]) + (share * spread.mT) @ spread
        factors.append(torch.linalg.cholesky(covariance - (1 - 1e-6) * mixture.floor**2 * eye))
        weights.append(mixture.weights[group].sum())
        means.append(mean)
    return GaussianMixture(torch.stack(weights), torch.stack(means), torch.stack(factors), mixture.floor)
