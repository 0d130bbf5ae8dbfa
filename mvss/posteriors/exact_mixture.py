"""Exact posterior of all sources under mixture-of-Gaussians priors and linear mixing.

For a combination k = (k_1 … k_S) of one component per source, with M observed numbers,
    p(y, k) = Π_β π_{k_β} · N(y; Σ_β A^β m_{k_β}, S_k),   S_k = Σ_i + Σ_β A^β C_{k_β} A^βᵀ
    E[x^β | y, k] = m_{k_β} + C_{k_β} A^βᵀ v,   v = S_k⁻¹ (y − Σ_β A^β m_{k_β})
    ∂ log p(y)/∂m_c = Σ_k r_k [k_β = c] A^βᵀ v,   ∂ log p(y)/∂C_c = ½ Σ_k r_k [k_β = c] A^βᵀ (v vᵀ − S_k⁻¹) A^β
with r_k = p(k | y) (Fisher's identity: no automatic differentiation; only combinations that carry responsibility cost).
Extreme deconvolution (Bovy, Hogg & Roweis 2011, arXiv 0905.2979) is the case of one source.

All Π_β K_β combinations are screened in float32 where they are few; where they are many, a beam descends the priors'
hierarchies, so that the cost grows as log K. Those that stay are computed in float64. Observations that float32 cannot tell
of are screened in float64, and so are all where more than a few numbers are observed, by LAPACK (`DenseView.is_small`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mvss.posteriors.dense import DenseView, assemble, images, log_normal, project
from mvss.posteriors.matheron import matheron
from mvss.posteriors.solvers import LDL, Cholesky, factorise
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.hierarchy import Hierarchy
from mvss.runtime.memory import rows_within
from mvss.runtime.rng import Stream

__all__ = ["Combinations", "MixturePosterior"]

COARSE = 1000
"""A beam starts from at most about this many combinations of merged components."""
MANY, FEW, BLOCK = 6000, 600, 2**21
"""Combinations up to which all are screened, and up to which they are by LAPACK; and bytes of those at a time, which stay in
the cache."""
THIN, OFFSET = 2e-7, 2e-13
"""Float32 rounds away what matters where the noise's variance is less than these shares of that of the sources, and of the
square of their means."""


@dataclass
class Combinations:
    """The combinations that carry responsibility, n in all, sorted by observation.

    row: `(n,)` observation. component: `(n, S)` one per source. log_joint: `(n,)` log p(y, k).
    evidence: `(N,)` log p(y). system: the factorised S_k, None where it was let go of. v: S_k⁻¹ (y − mean), `(n, M)`.
    discarded: `(N,)` share of responsibility that was not kept, as the screening estimates it.
    """

    row: Tensor
    component: Tensor
    log_joint: Tensor
    evidence: Tensor
    system: LDL | Cholesky | None
    v: Tensor
    discarded: Tensor

    @property
    def responsibility(self) -> Tensor:
        """p(k | y), `(n,)`."""
        return (self.log_joint - self.evidence[self.row]).exp()

    def thin(self) -> Combinations:
        """The same without what takes M² numbers of each, and can be made again."""
        return replace(self, system=None, v=self.v[:0]) if isinstance(self.system, Cholesky) else self

    def choose(self, uniform: Tensor) -> Tensor:
        """One combination per observation, by inverting the cumulative responsibilities at `uniform` `(N,)`."""
        cumulative = self.responsibility.cumsum(0)
        last = torch.searchsorted(self.row, torch.arange(len(self.evidence), device=self.row.device), right=True) - 1
        start = torch.cat([cumulative.new_zeros(1), cumulative[last[:-1]]])
        return torch.minimum(torch.searchsorted(cumulative, start + uniform * (cumulative[last] - start)), last)


class MixturePosterior:
    """Everything exact about one view: evidence, gradients of it, and draws.

    priors: of the sources that the view shows, in their order.
    retain: a combination stays if its log joint is within this many nats of the best one's.
    beam: combinations kept per observation and level, where they are too many to screen them all.
    """

    def __init__(self, priors: Sequence[GaussianMixture], retain: float = 9.0, beam: int = 64) -> None:
        self.priors = tuple(priors)
        self.retain, self.beam = retain, beam
        self.count = math.prod(len(p) for p in self.priors)
        self._kept: dict[int, tuple[Hierarchy, ...]] = {}

    def hierarchies(self, data: DenseView) -> tuple[Hierarchy, ...] | None:
        """What a beam descends; None where all combinations are screened."""
        most = MANY if data.is_small else min(MANY, FEW)
        if self.count <= most:
            return None
        if most not in self._kept:
            coarsest = max(2, int(min(most, COARSE) ** (1 / len(self.priors)) / 2))
            self._kept[most] = tuple(Hierarchy.of(p, coarsest) for p in self.priors)
        return self._kept[most]

    def chunk(self, data: DenseView) -> int:
        """Observations at a time: arrays of about 64k numbers stay in the cache, and all fit into `memory.AT_ONCE`."""
        hierarchies, observed = self.hierarchies(data), data.y.shape[1]
        width = largest = self.count
        if hierarchies is not None:
            width = self.beam * 2 ** len(self.priors)
            largest = max(width, math.prod(len(h.levels[0]) for h in hierarchies))
        if data.is_small:
            entry = 12 if bool(self._is_thin(data).any()) else 6
            each = data.pairs * len(self.priors) + entry * observed * (observed + 1) * largest
        else:
            within = sum(len(p) * observed * (observed + p.dimension) for p in self.priors)
            each = 24 * observed**2 * largest + 16 * within
        return max(1, min(65536 // width, rows_within(each)))

    def chunks(self, data: DenseView) -> Iterator[tuple[slice, DenseView, Combinations]]:
        """Combinations of consecutive pieces of the data."""
        size = self.chunk(data)
        for start in range(0, len(data), size):
            piece = slice(start, min(start + size, len(data)))
            part = data.select(piece)
            yield piece, part, self.combinations(part)

    def combinations(self, data: DenseView) -> Combinations:
        """The combinations of a (small) set of observations that carry responsibility."""
        row, component, discarded = self._screen(data, torch.float32)
        if data.is_small and len(again := self._is_thin(data).nonzero().squeeze(1)):
            finer, picked, discarded[again] = self._screen(data.select(again), torch.float64)
            stays = ~torch.isin(row, again)
            row, order = torch.cat([row[stays], again[finer]]).sort(stable=True)
            component = torch.cat([component[stays], picked])[order]
        system, log_joint, v = self._system(data, row, component)
        for prior, k in zip(self.priors, component.T, strict=True):
            log_joint = log_joint + prior.weights.log()[k]
        best = log_joint.new_full((len(data),), -torch.inf).scatter_reduce(0, row, log_joint, "amax")
        total = log_joint.new_zeros(len(data)).index_add(0, row, (log_joint - best[row]).exp())
        return Combinations(row, component, log_joint, best + total.log(), system, v, discarded)

    def _system(self, data: DenseView, row: Tensor, component: Tensor) -> tuple[LDL | Cholesky, Tensor, Tensor]:
        """S_k, log N(r; 0, S_k) and S_k⁻¹ r, r = y − Σ A m_k, of combinations `(n, S)` of the observations in `row` `(n,)`."""
        if not data.is_small:
            made = [images(p, a) for p, a in zip(self.priors, data.matrices, strict=True)]
            total, rest = _matrices(data, made, row, component)
            matrices = Cholesky.of(total)
            return matrices, log_normal(matrices, rest), matrices.solve_rows(rest)
        projected = [project(p, a) for p, a in zip(self.priors, data.matrices, strict=True)]
        picked = [(mean[row, k], packed[row, k]) for (mean, packed), k in zip(projected, component.T, strict=True)]
        residual, entries = assemble(data.y[row], data.noise[row], picked)
        system = factorise(entries)
        return system, log_normal(system, residual), torch.stack(system.solve(residual), dim=-1)

    def _is_thin(self, data: DenseView) -> Tensor:
        """Whether noise is too little beside what the sources add for float32, `(N,)`."""
        hierarchies, size = self.hierarchies(data), torch.zeros_like(data.noise[:, 0])
        coarse = self.priors if hierarchies is None else [h.levels[0] for h in hierarchies]
        for prior, matrix in zip(coarse, data.matrices, strict=True):
            gain = torch.linalg.vector_norm(matrix, dim=2).amax(1).square()
            size = size + gain * (THIN * prior.largest_variance + OFFSET * prior.means.square().sum(1).max())
        return data.noise.amin(1) < size

    def _screen(self, data: DenseView, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """`row`, `component` and `discarded` of `Combinations`. dtype: where the observed numbers are few."""
        if (hierarchies := self.hierarchies(data)) is not None:
            component, log_joint, dropped = self._descend(data, hierarchies, dtype)
        else:
            component, dropped = _grid(self.priors, data), data.y.new_zeros(len(data))
            score = self._log_all if data.is_small else partial(self._log_joint, levels=self.priors, component=component)
            log_joint = score(data, dtype=dtype)
        best = log_joint.amax(1, keepdim=True)
        keep, mass = log_joint >= best - self.retain, (log_joint - best).exp()
        row, column = keep.nonzero(as_tuple=True)
        discarded = (mass * ~keep).sum(1).double() / mass.sum(1).double()
        return row, component[row, column], torch.maximum(discarded, dropped)

    def _log_all(self, data: DenseView, dtype: torch.dtype) -> Tensor:
        """log p(y, k) of all combinations, of few numbers, `(N, C)`."""
        count, sources = len(data), len(self.priors)
        picked, log_weight = [], data.y.new_zeros((), dtype=dtype)
        for beta, (prior, matrix) in enumerate(zip(self.priors, data.matrices, strict=True)):
            shape = [1] * sources
            shape[beta] = len(prior)
            mean, packed = (t.to(dtype).reshape(count, *shape, -1) for t in project(prior, matrix))
            picked.append((mean, packed))
            log_weight = log_weight + prior.weights.log().to(dtype).reshape(shape)
        lead = (count, *[1] * sources, -1)
        residual, entries = assemble(data.y.to(dtype).reshape(lead), data.noise.to(dtype).reshape(lead), picked)
        least = [n.to(dtype).reshape(lead)[..., 0] for n in data.noise.unsqueeze(-1).unbind(1)]
        return (log_normal(factorise(entries, least), residual) + log_weight).flatten(1)

    def _descend(
        self, data: DenseView, hierarchies: tuple[Hierarchy, ...], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The combinations that a beam ends at `(N, C, S)`, their log p(y, k), and the share dropped on the way `(N,)`."""
        depth = max(len(h.levels) for h in hierarchies)
        component, dropped = _grid([h.levels[0] for h in hierarchies], data), data.y.new_zeros(len(data))
        valid = torch.ones(component.shape[:2], dtype=torch.bool, device=data.y.device)
        for step in range(depth):
            levels = [h.levels[min(step, len(h.levels) - 1)] for h in hierarchies]
            log_joint = self._log_joint(data, levels, component, dtype).masked_fill(~valid, -torch.inf)
            if step == depth - 1:
                break
            kept = min(self.beam, log_joint.shape[1])
            value, index = log_joint.topk(kept, dim=1)
            dropped = torch.maximum(dropped, 1 - (value.logsumexp(1) - log_joint.logsumexp(1)).exp().double())
            valid = value > -torch.inf
            component = component.gather(1, index.unsqueeze(-1).expand(-1, -1, len(levels)))
            for beta, hierarchy in enumerate(hierarchies):
                if step < len(hierarchy.children):
                    component, valid = _divide(component, valid, beta, hierarchy.children[step])
        leaves = [h.order[k] for h, k in zip(hierarchies, component.unbind(-1), strict=True)]
        return torch.stack(leaves, dim=-1), log_joint, dropped.clamp_min(0)

    def _log_joint(self, data: DenseView, levels: Sequence[GaussianMixture], component: Tensor, dtype: torch.dtype) -> Tensor:
        """log p(y, k) for combinations `(N, C, S)` of the components of `levels`. dtype: where they are of few numbers."""
        rows = torch.arange(len(data), device=data.y.device).unsqueeze(1)
        if not data.is_small:
            made = [images(p, a) for p, a in zip(levels, data.matrices, strict=True)]
            logs = []
            for block in component.split(max(1, BLOCK // (8 * len(data) * data.y.shape[1] ** 2)), dim=1):
                total, rest = _matrices(data, made, rows, block)
                weights = [p.weights.log()[k] for p, k in zip(levels, block.unbind(-1), strict=True)]
                logs.append(log_normal(Cholesky.of(total), rest) + torch.stack(weights).sum(0))
            return torch.cat(logs, dim=1)
        picked, log_weight = [], data.y.new_zeros((), dtype=dtype)
        for prior, matrix, k in zip(levels, data.matrices, component.unbind(-1), strict=True):
            mean, packed = (t.to(dtype) for t in project(prior, matrix))
            picked.append((mean[rows, k], packed[rows, k]))
            log_weight = log_weight + prior.weights.log().to(dtype)[k]
        noise = data.noise.to(dtype).unsqueeze(1)
        residual, entries = assemble(data.y.to(dtype).unsqueeze(1), noise, picked)
        return log_normal(factorise(entries, list(noise.unbind(-1))), residual) + log_weight

    def log_evidence(self, data: DenseView) -> tuple[Tensor, Tensor]:
        """log p(y | A) and the discarded share of responsibility, both `(N,)`."""
        parts = [(c.evidence, c.discarded) for _, _, c in self.chunks(data)]
        return torch.cat([e for e, _ in parts]), torch.cat([d for _, d in parts])

    def draw(
        self, data: DenseView, stream: Stream, index: Tensor, search: Iterable[tuple[slice, DenseView, Combinations]]
    ) -> tuple[Tensor, ...]:
        """One exact joint posterior draw per observation: `(N, D_β)` per source.

        index: the observations' numbers `(N,)` (randomness is keyed by them). search: what `chunks` gives for the data.
        """
        device = data.y.device
        uniform = stream.uniform(index, (), "combination", device=device)
        noise = data.draw_noise(stream, index)
        normal = [
            stream.normal(index, (p.factors.shape[2] + p.dimension,), "source", beta, device=device)
            for beta, p in enumerate(self.priors)
        ]
        pieces = []
        for piece, part, kept in search:
            chosen, drawn = kept.choose(uniform[piece]), []
            components = kept.component[chosen].T
            for prior, z, k in zip(self.priors, normal, components, strict=True):
                rank = prior.factors.shape[2]
                shift = (prior.factors[k] @ z[piece][:, :rank, None]).squeeze(-1) + prior.floor * z[piece][:, rank:]
                drawn.append(prior.means[k] + shift)
            pull = partial(self._pull, part, components)
            rows = torch.arange(len(part), device=device)
            system = self._system(part, rows, components.T)[0] if kept.system is None else kept.system.at(chosen)
            pieces.append(matheron(drawn, part.y - noise[piece], part.image, system.solve_rows, pull))
        return tuple(torch.cat(d) for d in zip(*pieces, strict=True))

    def _pull(self, part: DenseView, components: Tensor, v: Tensor) -> list[Tensor]:
        """C_k Aᵀ v of every source, `(N, D)`, for components `(S, N)`."""
        return [_pull(p, a, k, v) for p, a, k in zip(self.priors, part.matrices, components, strict=True)]


def _matrices(data: DenseView, made: Sequence[tuple[Tensor, Tensor]], rows: Tensor, component: Tensor) -> tuple[Tensor, Tensor]:
    """S_k `(…, M, M)` and y − Σ A m_k `(…, M)` of combinations `(…, S)` of the observations in `rows`, which broadcasts. made:
    `images` of each source."""
    total, residual = torch.diag_embed(data.noise)[rows], data.y[rows]
    for (mean, across), k in zip(made, component.unbind(-1), strict=True):
        total, residual = total + across[rows, k], residual - mean[rows, k]
    return total, residual


def _pull(prior: GaussianMixture, matrix: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """C_k Aᵀ v, `(N, D)`."""
    pulled = torch.einsum("nmd,nm->nd", matrix, v)
    return (prior.covariances[k] @ pulled.unsqueeze(-1)).squeeze(-1)


def _grid(priors: Sequence[GaussianMixture], data: DenseView) -> Tensor:
    """All combinations of their components, for each observation, `(N, C, S)`."""
    grids = [torch.arange(len(p), device=data.y.device) for p in priors]
    return torch.cartesian_prod(*grids).reshape(-1, len(grids)).expand(len(data), -1, -1)


def _divide(component: Tensor, valid: Tensor, beta: int, children: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the group of source β by its children: `(N, C, S)` to `(N, 2C, S)`."""
    pair = children[component[..., beta].clamp_min(0)]
    grown = component.unsqueeze(2).repeat(1, 1, 2, 1)
    grown[..., beta] = pair
    valid = (valid.unsqueeze(2) & (pair >= 0)).flatten(1)
    return grown.clamp_min(0).flatten(1, 2), valid
