"""Joint posterior of all sources given an observation, at noise level σ.

Moment matching (MMPS; Rozet et al. 2024, arXiv 2405.13712; paper, section 4): with x̂^β = d_β(x_t^β, σ) and
V^β = σ² ∂d_β/∂x_t (Tweedie),
    (Σ_i + Σ_β A^β V^β A^βᵀ) v = y − Σ_β A^β x̂^β,     E[x^β | x_t, y] ≈ x̂^β + V^β A^βᵀ v.

With several modes one Gaussian per source is poor. The mixture part of a denoiser has p(x^β | x_t^β) = Σ_k w_k N(μ_k, V_k) in
closed form, so that one moment match per combination of components is exact for it:
    E[x^β | x_t, y] = Σ_k r_k (μ_{k_β} + V_{k_β} A^βᵀ v_k),   r_k ∝ Π_β w_{k_β} · N(y; Σ_β A^β μ_{k_β}, S_k).
A network's correction δ = d − d_mixture moves all μ_k by δ and adds σ² ∂δ/∂x_t (symmetrised) to all V_k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.posteriors.exact_mixture import DenseView, assemble, log_normal
from mvss.posteriors.solvers import LDL, factorise
from mvss.priors.diffusion import Denoiser
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.runtime.rng import Stream, choose

__all__ = ["JointPosterior", "Prior", "jacobian"]


def jacobian(function: Callable[..., Tensor], arguments: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Value `(N, D)` and Jacobians `(N, D, D_a)` of a row-wise function, by D vector–Jacobian products.

    arguments: tensors `(N, D_a)`.
    """
    with torch.enable_grad():
        leaves = [a.detach().requires_grad_(True) for a in arguments]
        value = function(*leaves)
        size = value.shape[1]
        rows = [torch.autograd.grad(value[:, i].sum(), leaves, retain_graph=i + 1 < size) for i in range(size)]
    return value.detach(), tuple(torch.stack(r, dim=1) for r in zip(*rows, strict=True))


@dataclass
class _Local:
    """p(x | x_t) of one source as Gaussians: log weights `(N, T)`, means `(N, T, D)`, covariances `(N, T, D, D)`."""

    log_weight: Tensor
    mean: Tensor
    covariance: Tensor

    def pick(self, values: Tensor, chosen: Tensor) -> Tensor:
        """Of `(N, T, …)` the entries of one Gaussian per row."""
        return values[torch.arange(len(chosen), device=chosen.device), chosen]

    def shift(self, chosen: Tensor, stream: Stream, index: Tensor, beta: int) -> Tensor:
        """V^½ z of one Gaussian per row, `(N, D)`."""
        values, vectors = torch.linalg.eigh(self.pick(self.covariance, chosen))
        z = stream.normal(index, (values.shape[1],), "shift", beta, dtype=values.dtype, device=values.device)
        return (vectors @ (values.clamp_min(0.0).sqrt() * z).unsqueeze(-1)).squeeze(-1)


class Prior:
    """E[x^β | x_t] and draws of p(x^β | x_t) for several sources, without an observation: explicit Jacobians.

    denoisers: of the sources. components: Gaussians kept per source, the likeliest given x_t; 1 keeps one in all, with the
    mixture's mean and covariance.

    After use, `evaluations` counts denoiser evaluations and vector–Jacobian products per observation, and `clamped` is the
    largest share, over the calls, of covariance eigenvalues that a network's Jacobian had made negative.
    """

    def __init__(self, denoisers: Sequence[Denoiser], components: int = 1) -> None:
        self.denoisers, self.components = tuple(denoisers), components
        self.evaluations = 0
        self.clamped = 0.0

    @torch.no_grad()
    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Means `(N, *shape_β)` for x_t of the same shapes and σ `(N,)`."""
        self.evaluations += len(self.denoisers)
        return tuple(d(x, sigma) for d, x in zip(self.denoisers, x_t, strict=True))

    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One draw of x^β given x_t, `(N, *shape_β)`, from the Gaussians that `__call__` takes the mean of.

        index: numbers of the observations `(N,)`, which randomness is keyed by.
        """
        out = []
        for beta, (part, x) in enumerate(zip(self._locals(x_t, sigma), x_t, strict=True)):
            uniform = stream.uniform(index, (), "component", beta, device=x.device)
            k = choose(part.log_weight, uniform)
            out.append((part.pick(part.mean, k) + part.shift(k, stream, index, beta)).reshape(x.shape))
        return tuple(out)

    def _locals(self, x_t: Sequence[Tensor], sigma: Tensor) -> list[_Local]:
        return [self._local(d, x.flatten(1), sigma) for d, x in zip(self.denoisers, x_t, strict=True)]

    def _local(self, denoiser: Denoiser, x_t: Tensor, sigma: Tensor) -> _Local:
        dimension = x_t.shape[1]
        networked = denoiser.network is not None
        self.evaluations += 1 + (dimension if networked else 0)
        mixture = denoiser.mixture
        with torch.no_grad():
            log_weight, mean, covariance, base = self._components(mixture, x_t, sigma)
            if not networked and self.components > 1:
                return _Local(log_weight, mean, covariance)
            _, centre, total = _moments(log_weight, mean, covariance)
            if self.components == 1:
                log_weight, mean, covariance = torch.zeros_like(log_weight[:, :1]), centre, total
        if networked:
            level = sigma[:, None, None]
            value, (by_x, by_base) = jacobian(
                lambda x, d: denoiser.correction(_shaped(x, denoiser), _shaped(d, denoiser), sigma).flatten(1),
                (x_t, base),
            )
            gradient = by_x + by_base @ (total.squeeze(1) / level**2)  # ∂d_mixture/∂x_t = V/σ²
            extra = 0.5 * level**2 * (gradient + gradient.mT)
            mean = mean + value.unsqueeze(1)
            covariance, share = _positive(covariance + extra.unsqueeze(1))
            self.clamped = max(self.clamped, share)
        return _Local(log_weight, mean, covariance)

    def _components(self, mixture: GaussianMixture, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The likeliest components given x_t: log weights `(N, T)`, means `(N, T, D)`, covariances `(N, T, D, D)`; and
        the mean over all components `(N, D)`, which a network was trained on."""
        log_weight, mean, shrink = mixture.component_posteriors(x_t, sigma)
        base = torch.einsum("nk,nkd->nd", log_weight.exp(), mean)
        kept = len(mixture) if self.components == 1 else min(self.components, len(mixture))
        log_weight, index = log_weight.topk(kept, dim=1)
        log_weight = torch.log_softmax(log_weight, dim=1)
        mean = mean.gather(1, index.unsqueeze(-1).expand(-1, -1, mean.shape[2]))
        u = mixture.eigenvectors[index]
        outside = (mixture.floor**2 / (mixture.floor**2 + sigma**2))[:, None, None]
        scale = shrink.gather(1, index.unsqueeze(-1).expand(-1, -1, shrink.shape[2])) - outside
        covariance = (u * scale.unsqueeze(-2)) @ u.mT
        covariance.diagonal(dim1=-2, dim2=-1).add_(outside)
        return log_weight, mean, covariance * sigma[:, None, None, None] ** 2, base


class JointPosterior(Prior):
    """E[x^β | x_t, y] and draws of p({x^β} | x_t, y) for all sources that a view shows: for small sources.

    denoisers: of the shown sources, in their order. data: the view as matrices. components: see `Prior`; 1 gives plain
    moment matching.
    """

    def __init__(self, denoisers: Sequence[Denoiser], data: DenseView, components: int = 1) -> None:
        super().__init__(denoisers, components)
        self.data = data

    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Posterior means, `(N, *shape_β)` each, for x_t of the same shapes and σ `(N,)`."""
        means = self._combine(self._locals(x_t, sigma))
        return tuple(m.reshape(x.shape) for m, x in zip(means, x_t, strict=True))

    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One joint draw given x_t and y: a combination of Gaussians, then Matheron's rule within it."""
        local = self._locals(x_t, sigma)
        residual, system, log_weight, pulled = self._match(local)
        log_joint = (log_normal(system, residual) + log_weight).flatten(1)
        device = self.data.y.device
        chosen = choose(log_joint, stream.uniform(index, (), "combination", device=device))
        sizes = tuple(part.mean.shape[1] for part in local)
        noise = stream.normal(index, (self.data.y.shape[1],), "noise", device=device)
        simulated = self.data.noise.sqrt() * noise
        shifts = []
        for beta, (part, k) in enumerate(zip(local, torch.unravel_index(chosen, sizes), strict=True)):
            shift = part.shift(k, stream, index, beta)
            simulated = simulated + torch.einsum("nmd,nd->nm", self.data.matrices[beta], shift)
            shifts.append((k, shift))
        wanted = [r.flatten(1).gather(1, chosen[:, None]).squeeze(1) for r in residual]
        left = [r - s for r, s in zip(wanted, simulated.unbind(1), strict=True)]
        v = torch.stack(system.pick(chosen).solve(left), dim=-1)
        out = []
        for part, across, (k, shift), x in zip(local, pulled, shifts, x_t, strict=True):
            moved = torch.einsum("ndm,nm->nd", part.pick(across, k), v)
            out.append((part.pick(part.mean, k) + shift + moved).reshape(x.shape))
        return tuple(out)

    def misfit(self, x_t: Sequence[Tensor], sigma: Tensor) -> Tensor:
        """rᵀ S⁻¹ r of the single-Gaussian match, r = y − Σ A x̂: for a draw of the posterior, noised a little, about χ²_M."""
        single = JointPosterior(self.denoisers, self.data)
        residual, system, _, _ = single._match(single._locals(x_t, sigma))
        self.evaluations += single.evaluations
        return system.quadratic(residual).flatten()

    def _match(self, local: list[_Local]) -> tuple[list[Tensor], LDL, Tensor, list[Tensor]]:
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

    def _combine(self, local: list[_Local]) -> list[Tensor]:
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


def _shaped(x: Tensor, denoiser: Denoiser) -> Tensor:
    return x.reshape(-1, *denoiser.shape)


def _positive(covariance: Tensor) -> tuple[Tensor, float]:
    """The nearest positive semi-definite matrices, and the share of eigenvalues that were negative."""
    values, vectors = torch.linalg.eigh(covariance)
    share = float((values < 0).double().mean())
    return (vectors * values.clamp_min(0.0).unsqueeze(-2)) @ vectors.mT, share


def _moments(log_weight: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The one Gaussian with the moments of a mixture."""
    weight = log_weight.exp()
    centre = (weight.unsqueeze(-1) * mean).sum(1, keepdim=True)
    spread = mean - centre
    within = (weight[..., None, None] * covariance).sum(1, keepdim=True)
    between = ((weight.unsqueeze(-1) * spread).mT @ spread).unsqueeze(1)
    return torch.zeros_like(log_weight[:, :1]), centre, within + between
