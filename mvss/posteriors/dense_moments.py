"""Moments of x given x_t and y for small sources: explicit covariances, one match per combination of components.

With x̂^β = d_β(x_t^β, σ) and V^β = σ² ∂d_β/∂x_t (Tweedie; MMPS, Rozet et al. 2024, arXiv 2405.13712; paper, section 4),
    (Σ_i + Σ_β A^β V^β A^βᵀ) v = y − Σ_β A^β x̂^β,     E[x^β | x_t, y] ≈ x̂^β + V^β A^βᵀ v.

With several modes one Gaussian per source is poor. The mixture part of a prior has p(x^β | x_t^β) = Σ_k w_k N(μ_k, V_k) in
closed form, so that one moment match per combination of components is exact for it:
    E[x^β | x_t, y] = Σ_k r_k (μ_{k_β} + V_{k_β} A^βᵀ v_k),   r_k ∝ Π_β w_{k_β} · N(y; Σ_β A^β μ_{k_β}, S_k).
"""

from __future__ import annotations

__all__ = ["DenseMoments"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mvss.posteriors.dense import DenseView, assemble, log_normal
from mvss.posteriors.matheron import matheron
from mvss.posteriors.solvers import LDL, factorise
from mvss.priors.local_law import DenseGaussians, dense_local
from mvss.priors.prior import Prior
from mvss.runtime.rng import Stream, choose


class DenseMoments:
    """E[x^β | x_t, y] and draws of p({x^β} | x_t, y), for `samplers.sample`.

    priors: of the sources that the view shows, in its order. data: the view as matrices. components: see `dense_local`; 1
    gives plain moment matching. After use, `evaluations` counts denoiser evaluations and vector–Jacobian products per
    observation, and `clamped` is the largest share, over the calls, of eigenvalues that networks had made negative.
    """

    residual = 0.0

    def __init__(self, priors: Sequence[Prior], data: DenseView, components: int = 1) -> None:
        self.priors, self.data, self.components = tuple(priors), data, components
        self.evaluations, self.clamped = 0, 0.0

    @property
    def row_bytes(self) -> int:
        """See `Moments`: of the systems of all combinations, and of the covariances that they are made of."""
        observed, counts = self.data.y.shape[1], [min(self.components, len(p.mixture)) for p in self.priors]
        kept = counts if self.components > 1 else [len(p.mixture) for p in self.priors]  # one Gaussian has the moments of all
        parts = zip(kept, self.data.matrices, strict=True)
        covariances = sum(k * (observed + a.shape[2]) ** 2 for k, a in parts)
        return 16 * observed * (observed + 1) * math.prod(counts) + 32 * covariances

    def select(self, rows: slice) -> DenseMoments:
        """Those of some of the observations."""
        return DenseMoments(self.priors, self.data.select(rows), self.components)

    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Posterior means, `(N, *shape_β)` each, for x_t of the same shapes and σ `(N,)`."""
        means = self._combine(self._locals(x_t, sigma))
        return tuple(m.reshape(x.shape) for m, x in zip(means, x_t, strict=True))

    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One joint draw given x_t and y: a combination of Gaussians, then Matheron's rule within it."""
        local, device = self._locals(x_t, sigma), self.data.y.device
        residual, system, log_weight, pulled = self._match(local)
        log_joint = (log_normal(system, residual) + log_weight).flatten(1)
        chosen = choose(log_joint, stream.uniform(index, (), "combination", device=device))
        sizes = tuple(part.mean.shape[1] for part in local)
        noise = self.data.draw_noise(stream, index)
        picked = torch.unravel_index(chosen, sizes)
        x = [
            part.pick(part.mean, k) + part.shift(k, stream, index, beta)
            for beta, (part, k) in enumerate(zip(local, picked, strict=True))
        ]
        across = [part.pick(v, k) for part, v, k in zip(local, pulled, picked, strict=True)]

        def pull(v: Tensor) -> list[Tensor]:
            return [torch.einsum("ndm,nm->nd", a, v) for a in across]

        drawn = matheron(x, self.data.y - noise, self.data.image, system.pick(chosen).solve_rows, pull)
        return tuple(d.reshape(x.shape) for d, x in zip(drawn, x_t, strict=True))

    def _locals(self, x_t: Sequence[Tensor], sigma: Tensor) -> list[DenseGaussians]:
        local = [dense_local(p, x, sigma, self.components) for p, x in zip(self.priors, x_t, strict=True)]
        self.evaluations += sum(part.evaluations for part in local)
        self.clamped = max([self.clamped, *(part.clamped for part in local)])
        return local

    def _match(self, local: list[DenseGaussians]) -> tuple[list[Tensor], LDL, Tensor, list[Tensor]]:
        """Residuals and S of every combination of Gaussians `(N, T_1, …, T_S)`, their log weights, and V Aᵀ per source."""
        data, sources, count = self.data, len(local), len(self.data)
        rows, columns = torch.tril_indices(data.y.shape[1], data.y.shape[1], device=data.y.device)
        picked, pulled, log_weight = [], [], data.y.new_zeros(())
        for beta, (matrix, part) in enumerate(zip(data.matrices, local, strict=True)):
            shape = [1] * sources
            shape[beta] = part.mean.shape[1]
            across = torch.einsum("ntde,nme->ntdm", part.covariance, matrix)
            projected = torch.einsum("nmd,ntdk->ntmk", matrix, across)
            mean = torch.einsum("nmd,ntd->ntm", matrix, part.mean).reshape(count, *shape, -1)
            picked.append((mean, projected[..., rows, columns].reshape(count, *shape, -1)))
            pulled.append(across)
            log_weight = log_weight + part.log_weight.reshape(count, *shape)
        lead = (count, *[1] * sources, -1)
        noise = data.noise.reshape(lead)
        residual, entries = assemble(data.y.reshape(lead), noise, picked)
        return residual, factorise(entries, list(noise.unbind(-1))), log_weight, pulled

    def _combine(self, local: list[DenseGaussians]) -> list[Tensor]:
        residual, system, log_weight, pulled = self._match(local)
        log_joint = log_normal(system, residual) + log_weight
        weight = torch.softmax(log_joint.flatten(1), dim=1).reshape(log_joint.shape).unsqueeze(-1)
        weighted = weight * torch.stack(system.solve(residual), dim=-1)
        out = []
        for beta, part in enumerate(local):
            others = [1 + b for b in range(len(local)) if b != beta]
            share = weight.sum(others) if others else weight
            force = weighted.sum(others) if others else weighted
            out.append((share * part.mean).sum(1) + torch.einsum("ntdm,ntm->nd", pulled[beta], force))
        return out
