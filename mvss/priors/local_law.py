"""p(x | x_t) of sources, as Gaussians: what moment matching starts from, and what ancestral steps draw from.

    mixture                    Σ_k w_k N(μ_k, V_k),    V_k = σ² C_k (C_k + σ² I)⁻¹      exact
    and a network              Σ_k w_k N(μ_k + δ, V_k),    δ = d − d_mixture
      one Gaussian             N(d, σ² ∂d/∂x_t), symmetrised                             small sources
      learned variances        N(d, diag Var[x | x_t])                                   large ones

Several Gaussians have the covariances of the mixture, which are positive definite: a network moves their means alone. One
Gaussian says nothing of a source's form, and has the covariance of the whole denoiser (Tweedie), by one vector–Jacobian
product a number. The exact one is symmetric and positive, a network's is not: negative eigenvalues are clamped, and counted.
Covariances of a mixture do not depend on x_t, so that observations at one noise level share them.
"""

from __future__ import annotations

__all__ = ["Components", "DenseGaussians", "LocalLaw", "Moved", "Pixels", "dense_local", "is_dense", "shared_local"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.prior import Prior
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import in_chunks, rows_within
from mvss.runtime.rng import Stream, choose

DENSE = 2**24
"""Bytes of one observation's covariances, all pairs of pairs of numbers, up to which they are made explicitly."""


def is_dense(dimension: int, observed: int | None = None) -> bool:
    """Whether explicit covariances of a source of D numbers, seen in M, are affordable: M (M + 1)/2 × D² numbers."""
    size = dimension if observed is None else observed
    return 4 * size * (size + 1) * dimension**2 <= DENSE


@dataclass
class DenseGaussians:
    """Of each observation T Gaussians: log weights `(N, T)`, means `(N, T, D)`, covariances `(N, T, D, D)`. evaluations: of the
    network, a vector–Jacobian product counted as one. clamped: share of eigenvalues that its Jacobian had made negative."""

    log_weight: Tensor
    mean: Tensor
    covariance: Tensor
    evaluations: int = 1
    clamped: float = 0.0

    def pick(self, values: Tensor, chosen: Tensor) -> Tensor:
        """Of `(N, T, …)` the entries of one Gaussian per row."""
        return values[torch.arange(len(chosen), device=chosen.device), chosen]

    def shift(self, chosen: Tensor, stream: Stream, index: Tensor, place: int) -> Tensor:
        """V^½ z of one Gaussian per row, `(N, D)`."""
        values, vectors = torch.linalg.eigh(self.pick(self.covariance, chosen))
        z = stream.normal(index, (values.shape[1],), "shift", place, dtype=values.dtype, device=values.device)
        return (vectors @ (values.clamp_min(0.0).sqrt() * z).unsqueeze(-1)).squeeze(-1)

    def draw(self, stream: Stream, index: Tensor, place: int) -> Tensor:
        """One draw `(N, D)`."""
        k = choose(self.log_weight, stream.uniform(index, (), "component", place, device=self.mean.device))
        return self.pick(self.mean, k) + self.shift(k, stream, index, place)


@dataclass(frozen=True)
class Components:
    """K Gaussians with covariances V_k = B_k B_kᵀ + floor_k I that all observations share.

    log_weight: `(N, K)`, mean: `(N, K, D)`; both may have N = 1 for all. spread: the B_k, `(K, D, R)`. floor: `(K,)`.
    """

    log_weight: Tensor
    mean: Tensor
    spread: Tensor
    floor: Tensor

    @staticmethod
    def of(prior: GaussianMixture) -> Components:
        """A mixture prior."""
        floor = prior.weights.new_full((len(prior),), prior.floor**2)
        return Components(prior.weights.log()[None], prior.means[None], prior.factors, floor)

    def covariance(self, k: int) -> Tensor:
        """V_k, `(D, D)`."""
        eye = torch.eye(self.spread.shape[1], dtype=self.spread.dtype, device=self.spread.device)
        return self.spread[k] @ self.spread[k].mT + self.floor[k] * eye

    def shift(self, k: int, z: Tensor) -> Tensor:
        """V_k^½ z `(n, D)` for standard-normal z `(n, R + D)`."""
        rank = self.spread.shape[2]
        return z[:, :rank] @ self.spread[k].mT + self.floor[k].sqrt() * z[:, rank:]


@dataclass(frozen=True)
class Pixels:
    """N(mean, diag spread), `(N, *shape)` each."""

    mean: Tensor
    spread: Tensor

    @property
    def numbers(self) -> int:
        """Standard-normal numbers that a draw needs."""
        return self.mean[0].numel()

    def variance(self) -> Tensor:
        """The diagonal of V."""
        return self.spread

    def apply(self, x: Tensor) -> Tensor:
        """V x."""
        return self.spread * x

    def root(self, z: Tensor) -> Tensor:
        """V^½ z for z `(N, numbers)`."""
        return self.spread.sqrt() * z.reshape(self.mean.shape)

    def draw(self, stream: Stream, index: Tensor, place: int) -> Tensor:
        """One draw `(N, *shape)`."""
        return self.mean + self.root(stream.normal(index, (self.numbers,), "source", place, device=self.mean.device))


@dataclass(frozen=True)
class Moved:
    """What `shared_local` gives, for observations that each have a noise level: it can only be drawn from."""

    prior: Prior
    x_t: Tensor
    sigma: Tensor

    def draw(self, stream: Stream, index: Tensor, place: int) -> Tensor:
        """One draw `(N, *shape)`."""
        mixture = self.prior.mixture
        x = mixture.draw_given(self.x_t, self.sigma, stream.child(place), index, 1)
        return x + self.prior.correction(self.x_t, mixture.denoise(self.x_t, self.sigma), self.sigma)


class LocalLaw:
    """E[x | x_t] and draws of p(x | x_t) for several sources, without an observation. components: see `dense_local`.

    After use, `evaluations` counts network evaluations per observation.
    """

    def __init__(self, priors: Sequence[Prior], components: int = 1) -> None:
        self.priors, self.components, self.evaluations = tuple(priors), components, 0

    @torch.no_grad()
    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Means `(N, *shape)` for x_t of the same shapes and σ `(N,)`."""
        self.evaluations += sum(prior.network is not None for prior in self.priors)

        def work(rows: slice) -> list[Tensor]:
            return [prior.denoise(x[rows], sigma[rows]) for prior, x in zip(self.priors, x_t, strict=True)]

        return self._chunked(work, len(sigma))

    @torch.no_grad()
    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One draw of each source given x_t, `(N, *shape)`. index: numbers of the rows, which randomness is keyed by."""
        self.evaluations += sum(prior.network is not None for prior in self.priors)

        def work(rows: slice) -> list[Tensor]:
            parts = [(prior, x[rows]) for prior, x in zip(self.priors, x_t, strict=True)]
            laws = [self._local(prior, x, sigma[rows]) for prior, x in parts]
            return [law.draw(stream, index[rows], b).reshape(parts[b][1].shape) for b, law in enumerate(laws)]

        return self._chunked(work, len(sigma))

    def _chunked(self, work: Callable[[slice], list[Tensor]], count: int) -> tuple[Tensor, ...]:
        """What `work` returns for some rows, for all of them: the largest products of a source fit into `memory.AT_ONCE`."""
        size = min(rows_within(self._row_bytes(prior)) for prior in self.priors)
        parts = in_chunks(work, count, size)
        return tuple(torch.cat(x) for x in zip(*parts, strict=True))

    def _row_bytes(self, prior: Prior) -> int:
        """Of one row: the posteriors of all components, and the covariances of those that are kept."""
        count, size = prior.mixture.means.shape
        kept = count if self.components == 1 else min(self.components, count)
        covariances = kept * size**2 if is_dense(size) and not prior.learns_variance else 0
        return 32 * (count * size + covariances)

    def _local(self, prior: Prior, x_t: Tensor, sigma: Tensor) -> DenseGaussians | Pixels | Moved:
        if prior.learns_variance:
            return Pixels(*prior.estimate(x_t, sigma))
        if is_dense(prior.mixture.dimension):
            return dense_local(prior, x_t, sigma, self.components)
        return Moved(prior, x_t, sigma)


def shared_local(prior: Prior, x_t: Tensor, sigma: Tensor) -> Components:
    """p(x | x_t) with the covariances of the mixture, for x_t `(N, *shape)` and σ `(N,)`, all equal."""
    if not bool((sigma == sigma[0]).all()):
        raise MvssError("large sources are drawn at one noise level at a time")
    mixture, level = prior.mixture, float(sigma[0])
    log_weight, mean, shrink = mixture.component_posteriors(x_t.flatten(1), sigma)
    floor = mixture.floor**2 * level**2 / (mixture.floor**2 + level**2)
    width = (level**2 * shrink[0] - floor).clamp_min(0.0).sqrt()
    spread = mixture.eigenvectors * width.unsqueeze(1)
    local = Components(log_weight, mean, spread, width.new_full((len(mixture),), floor))
    if prior.network is None:
        return local
    base = (log_weight.exp().unsqueeze(-1) * mean).sum(1).reshape(x_t.shape)
    return replace(local, mean=mean + prior.correction(x_t, base, sigma).flatten(1).unsqueeze(1))


def dense_local(prior: Prior, x_t: Tensor, sigma: Tensor, components: int) -> DenseGaussians:
    """p(x | x_t) with explicit covariances. components: Gaussians kept, the likeliest given x_t; 1 keeps one in all, with the
    mean and the covariance of the whole law."""
    flat, shape = x_t.flatten(1), x_t.shape
    with torch.no_grad():
        log_weight, mean, covariance, base = _likeliest(prior.mixture, flat, sigma, components)
        if components == 1:
            mean, covariance = _moments(log_weight, mean, covariance)
            log_weight = torch.zeros_like(log_weight[:, :1])
        if prior.network is None:
            return DenseGaussians(log_weight, mean, covariance)
        if mean.shape[1] > 1:
            shift = prior.correction(x_t, base.reshape(shape), sigma).flatten(1)
            return DenseGaussians(log_weight, mean + shift.unsqueeze(1), covariance, evaluations=1)
    level = sigma[:, None, None]
    value, (by_x, by_base) = _jacobian(
        lambda x, d: prior.correction(x.reshape(shape), d.reshape(shape), sigma).flatten(1), (flat, base)
    )
    gradient = by_x + by_base @ (covariance.squeeze(1) / level**2)  # ∂d_mixture/∂x_t = V/σ²
    extra = 0.5 * level**2 * (gradient + gradient.mT)
    covariance, share = _positive(covariance + extra.unsqueeze(1))
    return DenseGaussians(log_weight, mean + value.unsqueeze(1), covariance, 1 + flat.shape[1], share)


def _likeliest(mixture: GaussianMixture, x_t: Tensor, sigma: Tensor, components: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log weights `(N, T)`, means `(N, T, D)` and covariances `(N, T, D, D)` of the likeliest components given x_t; and the
    mean over all components `(N, D)`, which a network was trained on."""
    log_weight, mean, shrink = mixture.component_posteriors(x_t, sigma)
    base = torch.einsum("nk,nkd->nd", log_weight.exp(), mean)
    kept = len(mixture) if components == 1 else min(components, len(mixture))
    log_weight, index = log_weight.topk(kept, dim=1)
    log_weight = torch.log_softmax(log_weight, dim=1)
    mean = mean.gather(1, index.unsqueeze(-1).expand(-1, -1, mean.shape[2]))
    u = mixture.eigenvectors[index]
    outside = (mixture.floor**2 / (mixture.floor**2 + sigma**2))[:, None, None]
    scale = shrink.gather(1, index.unsqueeze(-1).expand(-1, -1, shrink.shape[2])) - outside
    covariance = (u * scale.unsqueeze(-2)) @ u.mT
    covariance.diagonal(dim1=-2, dim2=-1).add_(outside)
    return log_weight, mean, covariance * sigma[:, None, None, None] ** 2, base


def _jacobian(function: Callable[..., Tensor], arguments: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Value `(N, D)` and Jacobians `(N, D, D_a)` of a row-wise function of tensors `(N, D_a)`, by D vector–Jacobian
    products."""
    with torch.enable_grad():
        leaves = [a.detach().requires_grad_(True) for a in arguments]
        value = function(*leaves)
        size = value.shape[1]
        rows = [torch.autograd.grad(value[:, i].sum(), leaves, retain_graph=i + 1 < size) for i in range(size)]
    return value.detach(), tuple(torch.stack(r, dim=1) for r in zip(*rows, strict=True))


def _positive(covariance: Tensor) -> tuple[Tensor, float]:
    """The nearest positive semi-definite matrices, and the share of eigenvalues that were negative."""
    values, vectors = torch.linalg.eigh(covariance)
    share = float((values < 0).double().mean())
    return (vectors * values.clamp_min(0.0).unsqueeze(-2)) @ vectors.mT, share


def _moments(log_weight: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(N, 1, D)` and covariance `(N, 1, D, D)` of a mixture."""
    weight = log_weight.exp()
    centre = (weight.unsqueeze(-1) * mean).sum(1, keepdim=True)
    spread = mean - centre
    within = (weight[..., None, None] * covariance).sum(1, keepdim=True)
    between = ((weight.unsqueeze(-1) * spread).mT @ spread).unsqueeze(1)
    return centre, within + between
