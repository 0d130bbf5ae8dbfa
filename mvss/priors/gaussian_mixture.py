"""Mixture-of-Gaussians prior of one source, in closed form.

    p(x) = Σ_k π_k N(x; m_k, C_k),   C_k = B_k B_kᵀ + f² I
    p(x_t) = Σ_k π_k N(x_t; m_k, C_k + σ² I)          (variance exploding)
    E[x | x_t, k] = m_k + C_k (C_k + σ² I)⁻¹ (x_t − m_k),   Cov[x | x_t, k] = σ² C_k (C_k + σ² I)⁻¹

The floor f keeps every component from collapsing: the maximum-likelihood solution of a deconvolution is discrete.
Factors B_k may have fewer columns than the source has numbers (mixture of factor analysers).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.linalg import svd
from torch import Tensor

from mvss.priors.principal_factors import factors_of, principal_factors
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import in_chunks, rows_within
from mvss.runtime.rng import Stream, choose

__all__ = ["GaussianMixture"]

NEGLIGIBLE = 1e-6
"""Share of the variance of the floor."""


class GaussianMixture(torch.nn.Module):
    """A mixture of K Gaussians over a source of D numbers: a `Prior`.

    weights: `(K,)`, none negative, made to sum to one.
    means: `(K, D)`.
    factors: `(K, D, R)`, the B_k.
    floor: f, in the units of the source.
    shape: of the source, of D numbers; (D,) if not given.

    Raises MvssError where these do not fit, are not finite, or a weight or the floor is out of range.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    floor: float
    dimension: int
    network = None
    learns_variance = False

    def __init__(
        self, weights: Tensor, means: Tensor, factors: Tensor, floor: float, shape: tuple[int, ...] | None = None
    ) -> None:
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
        if bool((weights < 0).any()) or not float(weights.sum()) > 0:
            raise MvssError("mixture: no weight may be negative, and not all of them 0")
        self.dimension, self.floor, self.shape = d, float(floor), (d,) if shape is None else tuple(shape)
        # in one layout: last bits of products depend on it, and a mixture read back must give the same
        weights, means, factors = (t.double().contiguous() for t in (weights, means, factors))
        left, singular = _left(factors)
        total = weights.sum()
        if abs(float(total) - 1) > 1e-12:  # not again where it was done: a mixture read back must be the same to the bit
            weights = weights / total
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("factors", factors)
        # C_k = U (λ) Uᵀ + f² (I − U Uᵀ), with U the left singular vectors of B_k
        self.register_buffer("eigenvectors", left)
        self.register_buffer("eigenvalues", singular**2 + self.floor**2)

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def mixture(self) -> GaussianMixture:
        """See `Prior`."""
        return self

    @property
    def mean(self) -> Tensor:
        """Of all components together, `shape`."""
        return (self.weights @ self.means).reshape(self.shape)

    @property
    def covariances(self) -> Tensor:
        """C_k, `(K, D, D)`."""
        eye = torch.eye(self.dimension, dtype=self.means.dtype, device=self.means.device)
        return self.factors @ self.factors.mT + self.floor**2 * eye

    def sample(self, count: int, stream: Stream, stratified: bool = False) -> Tensor:
        """`(count, *shape)` draws.

        stratified: every component gets its share of the draws to within one (systematic sampling). Each draw keeps the
        mixture's law, but they are not independent: for measuring the law itself, without the sampling noise.
        """
        weights, rng = self.weights.cpu(), stream.generator("mixture")
        if not count:
            return self.means.new_empty(0, *self.shape)
        if stratified:
            levels = (torch.arange(count) + torch.rand(1, generator=rng, dtype=torch.float64)) / count
            component = torch.searchsorted(weights.cumsum(0), levels).clamp_max(len(self) - 1)
            component = component[torch.randperm(count, generator=rng)]
        else:
            component = torch.multinomial(weights, count, replacement=True, generator=rng)
        rank = self.factors.shape[2]
        normal = torch.randn(count, rank + self.dimension, generator=rng, dtype=torch.float64)
        component, normal = component.to(self.means.device), normal.to(self.means.device)
        low_rank = _of_each(self.factors, component, normal[:, :rank])
        return (self.means[component] + low_rank + self.floor * normal[:, rank:]).reshape(count, *self.shape)

    def draw_given(self, z: Tensor, rho: Tensor, stream: Stream, index: Tensor, steps: int) -> Tensor:  # noqa: ARG002
        """x ~ p(x | x + ρ ε = z), `(N, *shape)`, exactly: a component, then its Gaussian."""
        flat, device = z.flatten(1), z.device
        log_weight, mean, shrink = self.component_posteriors(flat, rho)
        k = choose(log_weight, stream.uniform(index, (), "component", device=device))
        rows = torch.arange(len(flat), device=device)
        normal = stream.normal(index, (self.dimension,), "source", dtype=flat.dtype, device=device)
        along = _of_each(self.eigenvectors.mT, k, normal)
        level = rho.unsqueeze(1)
        outside = self.floor / (self.floor**2 + level**2) ** 0.5
        spread = _of_each(self.eigenvectors, k, (shrink[rows, k].sqrt() - outside) * along)
        return (mean[rows, k] + level * (spread + outside * normal)).reshape(z.shape)

    def state(self) -> dict[str, Any]:
        """What the constructor takes, for checkpoints: `GaussianMixture(**state)` is the mixture again."""
        tensors = {"weights": self.weights, "means": self.means, "factors": self.factors}
        return {**tensors, "floor": self.floor, "shape": self.shape}

    def scaled(self, factor: float) -> GaussianMixture:
        """The law of factor · x."""
        size = abs(factor)
        return GaussianMixture(self.weights, factor * self.means, factor * self.factors, size * self.floor, self.shape)

    def shifted(self, offset: Tensor) -> GaussianMixture:
        """The law of x + offset, `(*shape)`."""
        means = self.means + offset.flatten().to(self.means)
        return GaussianMixture(self.weights, means, self.factors, self.floor, self.shape)

    def packed(self) -> dict[str, Any]:
        """The same law in few bytes, to be kept: `GaussianMixture.unpacked`. Few columns and a variance of each number, where
        these are the covariance; else its factors, triangular, without directions and numbers whose variance is less than a
        millionth of the floor's, which are left to the floor. All in half precision."""
        kept = {"weights": self.weights, "means": self.means.float(), "floor": self.floor, "shape": self.shape}
        if (found := principal_factors(self.covariances)) is not None:
            return {**kept, "columns": found[0].half(), "own": found[1].float()}
        along, least = self.eigenvalues - self.floor**2, NEGLIGIBLE * self.floor**2
        rank = max(1, int((along.amax(0) > least).sum()))
        factors = (self.eigenvectors * along.clamp_min(0.0).sqrt().unsqueeze(1))[:, :, :rank]
        varying = factors.square().sum(2).amax(0) > least
        lower = torch.linalg.qr(factors[:, varying].mT, mode="r")[1].mT
        rows, columns = torch.tril_indices(*lower.shape[1:])
        return {**kept, "entries": lower[:, rows, columns].half(), "varying": varying, "rank": lower.shape[2]}

    @staticmethod
    def unpacked(state: dict[str, Any]) -> GaussianMixture:
        """What `packed` gave, or `state`."""
        if "factors" in state:
            return GaussianMixture(**state)
        weights, means, floor, shape = state["weights"], state["means"].double(), state["floor"], state["shape"]
        if "columns" in state:
            return GaussianMixture(
                weights, means, factors_of(state["columns"].double(), state["own"].double(), floor), floor, shape
            )
        varying, entries = state["varying"], state["entries"].double()
        lower = entries.new_zeros(len(means), int(varying.sum()), state["rank"])
        rows, columns = torch.tril_indices(*lower.shape[1:])
        lower[:, rows, columns] = entries
        factors = entries.new_zeros(*means.shape, state["rank"])
        factors[:, varying] = lower
        return GaussianMixture(weights, means, factors, floor, shape)

    @property
    def largest_variance(self) -> float:
        """Of a component, along any direction."""
        return max(self.floor**2, float(self.eigenvalues.max()) if self.eigenvalues.numel() else 0.0)

    @property
    def spread(self) -> float:
        """Standard deviation of a number of the source, the root mean square over its numbers."""
        within = self.covariances.diagonal(dim1=1, dim2=2).mean(1) @ self.weights
        return float(within + self.weights @ (self.means - self.mean.flatten()).square().mean(1)) ** 0.5

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

    def log_prob(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """log density `(N,)`, nats, of x `(N, *shape)` under the mixture convolved with noise of level σ, a number or
        `(N,)`."""
        x = x.flatten(1)
        sigma = torch.as_tensor(0.0 if sigma is None else sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
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
        """E[x | x_t] for x_t `(N, *shape)` and σ `(N,)`."""
        log_weight, mean, _ = self.component_posteriors(x_t.flatten(1), sigma)
        return (log_weight.exp().unsqueeze(-1) * mean).sum(1).reshape(x_t.shape)

    def correction(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002 - of every prior
        """See `Prior`: nothing is added to a mixture."""
        return torch.zeros_like(base)

    def estimate(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """See `Prior`."""
        log_weight, mean, shrink = self.component_posteriors(x_t.flatten(1), sigma)
        outside = (self.floor**2 / (self.floor**2 + sigma**2))[:, None, None]
        within = torch.einsum("nkr,kdr->nkd", shrink - outside, self.eigenvectors.to(x_t.dtype).square()) + outside
        weight = log_weight.exp().unsqueeze(-1)
        centre = (weight * mean).sum(1)
        spread = (weight * (within * sigma[:, None, None] ** 2 + mean.square())).sum(1) - centre.square()
        return centre.reshape(x_t.shape), spread.clamp_min(0.0).reshape(x_t.shape)

    def resize(self, count: int, dead: float = 0.1) -> GaussianMixture:
        """`count` components, or more where more are alive: those lighter than `dead`/K go, the heaviest are cut into pieces
        along their main axis.

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
        return GaussianMixture(
            self.weights[parent] / size, means, (u[parent] * s.unsqueeze(1)) @ v[parent], self.floor, self.shape
        )


def _of_each(matrices: Tensor, k: Tensor, x: Tensor) -> Tensor:
    """M_k x of x `(N, R)`, each by its matrix of `(K, D, R)`, of which few are held at a time: `(N, D)`."""

    def work(rows: slice) -> Tensor:
        return (matrices[k[rows]].to(x.dtype) @ x[rows].unsqueeze(-1)).squeeze(-1)

    return torch.cat([x.new_empty(0, matrices.shape[1]), *in_chunks(work, len(x), rows_within(8 * matrices[0].numel()))])


def _left(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors and singular values of `(K, D, R)`. LAPACK's quick algorithm may fail where many are the same, as
    those of digits whose border is dark; its slower one does not."""
    try:
        return torch.linalg.svd(factors, full_matrices=False)[:2]
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        parts = [svd(b.numpy(force=True), full_matrices=False, lapack_driver="gesvd")[:2] for b in factors]
        left, singular = (torch.stack([torch.from_numpy(part[n]) for part in parts]) for n in range(2))
        return left.to(factors), singular.to(factors)
