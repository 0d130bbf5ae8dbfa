"""Exact posterior of all sources under mixture-of-Gaussians priors and linear mixing.

For a combination k = (k_1 … k_S) of one component per source, with M observed numbers,
    p(y, k) = Π_β π_{k_β} · N(y; Σ_β A^β m_{k_β}, S_k),   S_k = Σ_i + Σ_β A^β C_{k_β} A^βᵀ
    E[x^β | y, k] = m_{k_β} + C_{k_β} A^βᵀ v,   v = S_k⁻¹ (y − Σ_β A^β m_{k_β})
    ∂ log p(y)/∂m_c = Σ_k r_k [k_β = c] A^βᵀ v,   ∂ log p(y)/∂C_c = ½ Σ_k r_k [k_β = c] A^βᵀ (v vᵀ − S_k⁻¹) A^β
with r_k = p(k | y) (Fisher's identity: no automatic differentiation; only combinations that carry responsibility cost).
Extreme deconvolution (Bovy, Hogg & Roweis 2011, arXiv 0905.2979) is the case of one source.

All Π_β K_β combinations are screened in float32 where they are few; where they are many, a beam descends the priors'
hierarchies, so that the cost grows as log K. Those that stay are computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.posteriors.solvers import LDL, Symmetric, factorise
from mvss.priors.gaussian_mixture import GaussianMixture, Hierarchy
from mvss.problem.views import View
from mvss.runtime.rng import Stream

__all__ = ["Combinations", "DenseView", "MixturePosterior", "assemble", "log_normal"]

COARSE = 1000
"""A beam starts from at most about this many combinations of merged components."""


@dataclass(frozen=True)
class DenseView:
    """A view as matrices: y `(N, M)`, one matrix `(N, M, D_β)` per shown source, noise variances `(N, M)`."""

    y: Tensor
    matrices: tuple[Tensor, ...]
    noise: Tensor

    @staticmethod
    def of(view: View) -> DenseView:
        """Materialise the operators of the sources that the view shows, in float64."""
        count = len(view)
        y = view.y.double()
        matrices = tuple(view.operators[beta].dense().expand(count, -1, -1) for beta in view.shown)
        return DenseView(y.flatten(1), matrices, view.noise.white_variance(y).flatten(1))

    def select(self, index: Tensor | slice) -> DenseView:
        """The observations in `index`."""
        return DenseView(self.y[index], tuple(a[index] for a in self.matrices), self.noise[index])

    def __len__(self) -> int:
        return self.y.shape[0]


@dataclass
class Combinations:
    """The combinations that carry responsibility, n in all, sorted by observation.

    row: `(n,)` observation. component: `(n, S)` one per shown source. log_joint: `(n,)` log p(y, k).
    evidence: `(N,)` log p(y). system: the factorised S_k. v: S_k⁻¹ (y − mean). residual: y − mean, M arrays `(n,)`.
    discarded: `(N,)` share of responsibility that was not kept, as the screening estimates it.
    """

    row: Tensor
    component: Tensor
    log_joint: Tensor
    evidence: Tensor
    system: LDL
    v: Tensor
    residual: list[Tensor]
    discarded: Tensor

    @property
    def responsibility(self) -> Tensor:
        """p(k | y), `(n,)`."""
        return (self.log_joint - self.evidence[self.row]).exp()

    def choose(self, uniform: Tensor) -> Tensor:
        """One combination per observation, by inverting the cumulative responsibilities at `uniform` `(N,)`."""
        cumulative = self.responsibility.cumsum(0)
        last = torch.searchsorted(self.row, torch.arange(len(self.evidence), device=self.row.device), right=True) - 1
        start = torch.cat([cumulative.new_zeros(1), cumulative[last[:-1]]])
        return torch.minimum(torch.searchsorted(cumulative, start + uniform * (cumulative[last] - start)), last)


class MixturePosterior:
    """Everything exact about one view: evidence, gradients of it, posterior means and draws.

    priors: of the sources that the view shows, in their order.
    retain: a combination stays if its log joint is within this many nats of the best one's.
    exhaustive: screen all combinations up to this number; above it, descend with a beam.
    beam: combinations kept per observation and level.
    """

    def __init__(self, priors: Sequence[GaussianMixture], retain: float = 9.0, exhaustive: int = 6000, beam: int = 64) -> None:
        self.priors = tuple(priors)
        self.retain, self.beam = retain, beam
        count = math.prod(len(p) for p in self.priors)
        self.hierarchies: tuple[Hierarchy, ...] | None = None
        width = count
        if count > exhaustive:
            coarsest = max(2, int(min(exhaustive, COARSE) ** (1 / len(self.priors)) / 2))
            self.hierarchies = tuple(Hierarchy.of(p, coarsest) for p in self.priors)
            width = beam * 2 ** len(self.priors)
        self.chunk = max(1, 65536 // width)  # arrays of about 64k numbers stay in the cache

    def chunks(self, data: DenseView) -> Iterator[tuple[slice, DenseView, Combinations]]:
        """Combinations of consecutive pieces of the data."""
        for start in range(0, len(data), self.chunk):
            piece = slice(start, min(start + self.chunk, len(data)))
            part = data.select(piece)
            yield piece, part, self.combinations(part)

    def combinations(self, data: DenseView) -> Combinations:
        """The combinations of a (small) set of observations that carry responsibility."""
        if self.hierarchies is None:
            row, component, discarded = self._screen_all(data)
        else:
            row, component, discarded = self._screen_beam(data)
        projected = [_project(p, a) for p, a in zip(self.priors, data.matrices, strict=True)]
        picked = [(mean[row, k], packed[row, k]) for (mean, packed), k in zip(projected, component.T, strict=True)]
        residual, entries = assemble(data.y[row], data.noise[row], picked)
        system = factorise(entries)
        log_joint = log_normal(system, residual)
        for prior, k in zip(self.priors, component.T, strict=True):
            log_joint = log_joint + prior.weights.log()[k]
        best = log_joint.new_full((len(data),), -torch.inf).scatter_reduce(0, row, log_joint, "amax")
        total = log_joint.new_zeros(len(data)).index_add(0, row, (log_joint - best[row]).exp())
        v = torch.stack(system.solve(residual), dim=-1)
        return Combinations(row, component, log_joint, best + total.log(), system, v, residual, discarded)

    def _screen_all(self, data: DenseView) -> tuple[Tensor, Tensor, Tensor]:
        count, sources = len(data), len(self.priors)
        picked, log_weight = [], data.y.new_zeros((), dtype=torch.float32)
        for beta, (prior, matrix) in enumerate(zip(self.priors, data.matrices, strict=True)):
            shape = [1] * sources
            shape[beta] = len(prior)
            mean, packed = (t.float().reshape(count, *shape, -1) for t in _project(prior, matrix))
            picked.append((mean, packed))
            log_weight = log_weight + prior.weights.log().float().reshape(shape)
        lead = (count, *[1] * sources, -1)
        residual, entries = assemble(data.y.float().reshape(lead), data.noise.float().reshape(lead), picked)
        least = [n.float().reshape(lead)[..., 0] for n in data.noise.unsqueeze(-1).unbind(1)]
        log_joint = (log_normal(factorise(entries, least), residual) + log_weight).flatten(1)
        keep, discarded = _keep(log_joint, self.retain)
        row, flat = keep.nonzero(as_tuple=True)
        component = torch.stack(torch.unravel_index(flat, tuple(len(p) for p in self.priors)), dim=1)
        return row, component, discarded

    def _screen_beam(self, data: DenseView) -> tuple[Tensor, Tensor, Tensor]:
        assert self.hierarchies is not None
        depth = max(len(h.levels) for h in self.hierarchies)
        device = data.y.device
        grids = [torch.arange(len(h.levels[0]), device=device) for h in self.hierarchies]
        component = torch.cartesian_prod(*grids).reshape(-1, len(grids)).expand(len(data), -1, -1)
        dropped = data.y.new_zeros(len(data))
        valid = torch.ones(component.shape[:2], dtype=torch.bool, device=device)
        for step in range(depth):
            levels = [h.levels[min(step, len(h.levels) - 1)] for h in self.hierarchies]
            log_joint = self._log_joint(data, levels, component).masked_fill(~valid, -torch.inf)
            if step == depth - 1:
                break
            kept = min(self.beam, log_joint.shape[1])
            value, index = log_joint.topk(kept, dim=1)
            dropped = torch.maximum(dropped, 1 - (value.logsumexp(1) - log_joint.logsumexp(1)).exp().double())
            valid = value > -torch.inf
            component = component.gather(1, index.unsqueeze(-1).expand(-1, -1, len(levels)))
            for beta, hierarchy in enumerate(self.hierarchies):
                if step < len(hierarchy.children):
                    component, valid = _descend(component, valid, beta, hierarchy.children[step])
        keep, discarded = _keep(log_joint, self.retain)
        row, column = keep.nonzero(as_tuple=True)
        leaves = component[row, column].unbind(1)
        component = torch.stack([h.order[k] for h, k in zip(self.hierarchies, leaves, strict=True)], dim=1)
        return row, component, torch.maximum(discarded, dropped.clamp_min(0))

    def _log_joint(self, data: DenseView, levels: Sequence[GaussianMixture], component: Tensor) -> Tensor:
        """log p(y, k) in float32 for combinations `(N, C, S)` of the components of `levels`."""
        rows = torch.arange(len(data), device=data.y.device).unsqueeze(1)
        picked, log_weight = [], data.y.new_zeros((), dtype=torch.float32)
        for prior, matrix, k in zip(levels, data.matrices, component.unbind(-1), strict=True):
            mean, packed = (t.float() for t in _project(prior, matrix))
            picked.append((mean[rows, k], packed[rows, k]))
            log_weight = log_weight + prior.weights.log().float()[k]
        noise = data.noise.float().unsqueeze(1)
        residual, entries = assemble(data.y.float().unsqueeze(1), noise, picked)
        return log_normal(factorise(entries, list(noise.unbind(-1))), residual) + log_weight

    def log_evidence(self, data: DenseView) -> tuple[Tensor, Tensor]:
        """log p(y | A) and the discarded share of responsibility, both `(N,)`."""
        found = [(c.evidence, c.discarded) for _, _, c in self.chunks(data)]
        return torch.cat([e for e, _ in found]), torch.cat([d for _, d in found])

    def mean(self, data: DenseView) -> tuple[Tensor, ...]:
        """E[x^β | y], `(N, D_β)` per shown source."""
        pieces = []
        for _, part, found in self.chunks(data):
            means = []
            for prior, matrix, k in zip(self.priors, part.matrices, found.component.T, strict=True):
                pulled = torch.einsum("nmd,nm->nd", matrix[found.row], found.v)
                x = prior.means[k] + (prior.covariances[k] @ pulled.unsqueeze(-1)).squeeze(-1)
                weighted = found.responsibility.unsqueeze(-1) * x
                means.append(x.new_zeros(len(part), x.shape[1]).index_add(0, found.row, weighted))
            pieces.append(means)
        return tuple(torch.cat(m) for m in zip(*pieces, strict=True))

    def draw(
        self,
        data: DenseView,
        stream: Stream,
        index: Tensor | None = None,
        found: Iterable[tuple[slice, DenseView, Combinations]] | None = None,
    ) -> tuple[Tensor, ...]:
        """One exact joint posterior draw per observation: `(N, D_β)` per shown source.

        index: the observations' numbers `(N,)` (randomness is keyed by them); 0 … N−1 if not given.
        found: what `chunks` gave for the same data: many draws then need one search.

        Given the combination, a prior draw (x̃, ỹ) is moved by C Aᵀ S⁻¹ (y − ỹ) (Matheron's rule).
        """
        if index is None:
            index = torch.arange(len(data))
        device = data.y.device
        uniform = stream.uniform(index, (), "combination", device=device)
        noise = stream.normal(index, (data.y.shape[1],), "noise", device=device) * data.noise.sqrt()
        normal = [
            stream.normal(index, (p.factors.shape[2] + p.dimension,), "source", beta, device=device)
            for beta, p in enumerate(self.priors)
        ]
        pieces = []
        for piece, part, kept in self.chunks(data) if found is None else found:
            chosen = kept.choose(uniform[piece])
            drawn, simulated = [], noise[piece]
            for prior, matrix, z, k in zip(self.priors, part.matrices, normal, kept.component[chosen].T, strict=True):
                rank = prior.factors.shape[2]
                shift = (prior.factors[k] @ z[piece][:, :rank, None]).squeeze(-1) + prior.floor * z[piece][:, rank:]
                drawn.append(prior.means[k] + shift)
                simulated = simulated + torch.einsum("nmd,nd->nm", matrix, shift)
            residual = [r[chosen] - s for r, s in zip(kept.residual, simulated.unbind(-1), strict=True)]
            v = torch.stack(kept.system.at(chosen).solve(residual), dim=-1)
            for beta, (prior, matrix) in enumerate(zip(self.priors, part.matrices, strict=True)):
                pulled = torch.einsum("nmd,nm->nd", matrix, v)
                k = kept.component[chosen, beta]
                drawn[beta] = drawn[beta] + (prior.covariances[k] @ pulled.unsqueeze(-1)).squeeze(-1)
            pieces.append(drawn)
        return tuple(torch.cat(d) for d in zip(*pieces, strict=True))


def _project(prior: GaussianMixture, matrix: Tensor) -> tuple[Tensor, Tensor]:
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
    constant = len(residual) * math.log(2 * math.pi)
    return -0.5 * (system.quadratic(residual) + system.log_determinant() + constant)


def _keep(log_joint: Tensor, retain: float) -> tuple[Tensor, Tensor]:
    best = log_joint.amax(1, keepdim=True)
    keep = log_joint >= best - retain
    mass = (log_joint - best).exp()
    return keep, (mass * ~keep).sum(1).double() / mass.sum(1).double()


def _descend(component: Tensor, valid: Tensor, beta: int, children: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the group of source β by its children: `(N, C, S)` to `(N, 2C, S)`."""
    pair = children[component[..., beta].clamp_min(0)]
    grown = component.unsqueeze(2).repeat(1, 1, 2, 1)
    grown[..., beta] = pair
    valid = (valid.unsqueeze(2) & (pair >= 0)).flatten(1)
    return grown.clamp_min(0).flatten(1, 2), valid
