"""A mixture seen coarse to fine, for a search that descends: components are merged into groups of groups.

group g:  π_g = Σ π_k,   m_g, C_g: mean and covariance of its components together
"""

from __future__ import annotations

__all__ = ["Hierarchy"]

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.principal_factors import eigh


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
    return GaussianMixture(mixture.weights[order], mixture.means[order], mixture.factors[order], mixture.floor, mixture.shape)


def _merge(mixture: GaussianMixture, groups: list[Tensor]) -> GaussianMixture:
    weights, means, factors = [], [], []
    covariances = mixture.covariances
    eye = torch.eye(mixture.dimension, dtype=mixture.means.dtype, device=mixture.means.device)
    for group in groups:
        share = mixture.weights[group] / mixture.weights[group].sum()
        mean = share @ mixture.means[group]
        spread = mixture.means[group] - mean
        covariance = torch.einsum("k,kij->ij", share, covariances[group]) + (share * spread.mT) @ spread
        factors.append(_factor(covariance - (1 - 1e-6) * mixture.floor**2 * eye))
        weights.append(mixture.weights[group].sum())
        means.append(mean)
    return GaussianMixture(torch.stack(weights), torch.stack(means), torch.stack(factors), mixture.floor, mixture.shape)


def _factor(covariance: Tensor) -> Tensor:
    """B of B Bᵀ `(D, D)`, also where rounding has left it indefinite: components may be thin in all but some directions."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not bool(failed):
        return lower
    values, vectors = eigh(covariance[None])
    return (vectors * values.clamp_min(0.0).sqrt().unsqueeze(1))[0]
