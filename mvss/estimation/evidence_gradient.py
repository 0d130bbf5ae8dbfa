"""Gradient of the log evidence of linear mixtures with respect to mixture-of-Gaussians priors, in closed form.

    ∂ log p(y)/∂m_c = Σ_k r_k [k_β = c] A^βᵀ v,   ∂ log p(y)/∂C_c = ½ Σ_k r_k [k_β = c] A^βᵀ (v vᵀ − S_k⁻¹) A^β
    ∂ log p(y)/∂(shift of all m^β) = Σ_k r_k A^βᵀ v

with the letters of `exact_mixture` (Fisher's identity: no automatic differentiation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact_mixture import Combinations, MixturePosterior
from mvss.posteriors.solvers import Cholesky
from mvss.priors.gaussian_mixture import GaussianMixture

__all__ = ["Batch", "EvidenceGradient", "ShiftDescent", "evidence_gradient"]

BEAM = 32
"""Combinations per observation that a gradient follows where there are too many to screen them all."""
Batch = Sequence[tuple[tuple[int, ...], DenseView]]
"""Views with the places of the sources that they show."""


@dataclass(frozen=True)
class EvidenceGradient:
    """Means over N observations, and the gradient of one mean log evidence.

    evidence: mean log p(y | A).
    sums: of each source, means of Σ r `(K,)`, Σ r Aᵀ v `(K, D)` and Σ r Aᵀ (v vᵀ − S⁻¹) A `(K, D, D)`.
    scores: `(N, Σ D_β)` gradient of each observation's log evidence in shifts of the sources.
    """

    evidence: float
    sums: list[list[Tensor]]
    scores: Tensor


def evidence_gradient(batch: Batch, priors: Sequence[GaussianMixture], retain: float) -> EvidenceGradient:
    """Gradient of the mean log evidence of `batch` in the priors of all sources.

    retain: combinations further than this many nats below an observation's best one do not count.
    """
    sums = [[torch.zeros_like(t) for t in (p.weights, p.means, p.covariances)] for p in priors]
    value, total, scores = 0.0, sum(len(view) for _, view in batch), []
    for shown, view in batch:
        posterior = MixturePosterior([priors[b] for b in shown], retain=retain, beam=BEAM)
        for _, part, combinations in posterior.chunks(view):
            value += float(combinations.evidence.sum())
            score = [part.y.new_zeros(len(part), p.dimension) for p in priors]
            for position, beta in enumerate(shown):
                score[beta] = _pull(part.matrices[position], combinations, position, sums[beta])
            scores.append(torch.cat(score, dim=1))
    means = [[t / total for t in tensors] for tensors in sums]
    return EvidenceGradient(value / total, means, torch.cat(scores))


def _pull(matrix: Tensor, combinations: Combinations, position: int, sums: Sequence[Tensor]) -> Tensor:
    """Add Σ r, Σ r Aᵀ v and Σ r Aᵀ (v vᵀ − S⁻¹) A over the combinations to `sums`, per component of one source.

    Returns Σ_k r Aᵀ v per observation, `(N, D)`: the score of a shift of the whole prior.
    The M-sized factors are summed per observation and component first, so that A enters once per observation.
    """
    count, (size, dimension) = len(matrix), matrix.shape[1:]
    components = len(sums[0])
    if isinstance(combinations.system, Cholesky):
        return _pull_matrices(matrix, combinations, position, sums)
    assert combinations.system is not None
    rows, columns = torch.tril_indices(size, size, device=matrix.device)
    slot = combinations.row * components + combinations.component[:, position]
    v, weight = combinations.v.unbind(-1), combinations.responsibility
    inverse = combinations.system.inverse()
    values = [weight, *(weight * e for e in v)]
    values += [weight * (v[i] * v[j] - inverse[i][j]) for i, j in zip(rows.tolist(), columns.tolist(), strict=True)]
    gathered = torch.stack([torch.bincount(slot, x, count * components).to(x.dtype) for x in values], dim=-1)
    gathered = gathered.reshape(count, components, -1)
    outer = (matrix[:, rows, :, None] * matrix[:, columns, None, :]).flatten(2)
    symmetric = torch.where(rows == columns, 0.5, 1.0)  # an entry below the diagonal stands for two
    curved = torch.einsum("nkp,npq->kq", gathered[..., 1 + size :] * symmetric, outer)
    curved = curved.reshape(components, dimension, dimension)
    sums[0] += gathered[..., 0].sum(0)
    pulled = gathered[..., 1 : 1 + size]
    sums[1] += torch.einsum("nkm,nmd->kd", pulled, matrix)
    sums[2] += curved + curved.mT
    return torch.einsum("nm,nmd->nd", pulled.sum(1), matrix)


def _pull_matrices(matrix: Tensor, combinations: Combinations, position: int, sums: Sequence[Tensor]) -> Tensor:
    """As `_pull`, where S⁻¹ are matrices."""
    count = len(matrix)
    assert isinstance(combinations.system, Cholesky)
    slot = combinations.row * len(sums[0]) + combinations.component[:, position]
    v, weight = combinations.v, combinations.responsibility

    def gathered(values: Tensor) -> Tensor:
        return values.new_zeros(count * len(sums[0]), *values.shape[1:]).index_add(0, slot, values).unflatten(0, (count, -1))

    curved = v.unsqueeze(2) * v.unsqueeze(1) - combinations.system.matrix()
    sums[0] += gathered(weight).sum(0)
    pulled = gathered(weight.unsqueeze(1) * v)
    sums[1] += torch.einsum("nkm,nmd->kd", pulled, matrix)
    sums[2] += torch.einsum("nmc,nkmd->kcd", matrix, gathered(weight[:, None, None] * curved) @ matrix.unsqueeze(1))
    return torch.einsum("nm,nmd->nd", pulled.sum(1), matrix)


class ShiftDescent:
    """Natural-gradient moves of whole priors: δ = ρ F⁻¹ ḡ over the means of all sources together.

    Where views mix in nearly the same proportions, moving one source one way and another the other way hardly changes
    y: a direction that Adam, which scales parameters one by one, follows far too slowly. F is the empirical Fisher
    matrix of the shifts, averaged over steps.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.fisher: Tensor | None = None

    def step(self, scores: Tensor) -> Tensor:
        """δ for the scores ∂ log p(y_i)/∂(shift) `(N, Σ D)` of a minibatch."""
        fisher = scores.mT @ scores / len(scores)
        self.fisher = fisher if self.fisher is None else torch.lerp(self.fisher, fisher, 0.1)
        damping = 1e-5 * self.fisher.diagonal().mean()
        eye = torch.eye(len(fisher), dtype=fisher.dtype, device=fisher.device)
        return self.rate * torch.linalg.solve(self.fisher + damping * eye, scores.mean(0))
