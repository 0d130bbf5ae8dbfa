"""Brute-force oracles that several tests share: mixtures under linear mixing, one observation at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvss.posteriors.dense import DenseView
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.noise import Diagonal
from mvss.problem.views import View


class Gaussians(NamedTuple):
    """A mixture over all sources, stacked: weights `(C,)`, means `(C, D)`, covariances `(C, D, D)`."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        spread = self.means - self.mean
        return torch.einsum("c,cij->ij", self.weights, self.covariances) + (self.weights * spread.mT) @ spread

    def assign(self, x: Tensor) -> Tensor:
        """Mean probability of every component over points x `(N, D)`, `(C,)`: the weights, if x is drawn from this."""
        law = torch.distributions.MultivariateNormal(self.means, self.covariances)
        return torch.softmax(law.log_prob(x.unsqueeze(1)) + self.weights.log(), dim=1).mean(0)


def random_prior(
    components: int, dimension: int, seed: int, rank: int | None = None, size: float = 0.6, floor: float = 0.1
) -> GaussianMixture:
    """Components with random factors of the given size around standard-normal means."""
    rng = torch.Generator().manual_seed(seed)
    return GaussianMixture(
        0.3 + torch.rand(components, generator=rng, dtype=torch.float64),
        torch.randn(components, dimension, generator=rng, dtype=torch.float64),
        size * torch.randn(components, dimension, rank or dimension, generator=rng, dtype=torch.float64),
        floor=floor,
    )


def ball(shape: tuple[int, ...], spread: float) -> GaussianMixture:
    """One Gaussian N(0, spread² I)."""
    zero = torch.zeros(1, math.prod(shape), dtype=torch.float64)
    return GaussianMixture(torch.ones(1), zero, zero.unsqueeze(-1)[..., :0], spread, shape)


def random_view(count: int, observed: int, sizes: Sequence[int], seed: int = 9) -> DenseView:
    """An operator, a noise level and numbers of its own for every observation."""
    rng = torch.Generator().manual_seed(seed)
    matrices = tuple(torch.randn(count, observed, d, generator=rng, dtype=torch.float64) for d in sizes)
    y = torch.randn(count, observed, generator=rng, dtype=torch.float64)
    return DenseView(y, matrices, 0.05 + 0.1 * torch.rand(count, observed, generator=rng, dtype=torch.float64))


def named(data: DenseView) -> View:
    """The same with sources a, b, ..., and an operator and a noise for each observation."""
    return View(data.y, dict(zip("abcdefgh", data.matrices, strict=False)), Diagonal(data.noise.sqrt()))


def shaped(prior: GaussianMixture, shape: tuple[int, ...]) -> GaussianMixture:
    """The same mixture of a source of this shape."""
    return GaussianMixture(prior.weights, prior.means, prior.factors, prior.floor, shape)


def exact(
    priors: Sequence[GaussianMixture], view: DenseView, row: int = 0, x_t: Tensor | None = None, sigma: float = 1.0
) -> Gaussians:
    """p({x} | y) of one observation, or p({x} | x_t, y): x_t `(D,)` observes all numbers once more, with noise σ."""
    a, y, noise = torch.cat([m[row] for m in view.matrices], dim=1), view.y[row], view.noise[row]
    if x_t is not None:
        a = torch.cat([a, torch.eye(a.shape[1], dtype=a.dtype)])
        y, noise = torch.cat([y, x_t]), torch.cat([noise, torch.full_like(x_t, sigma**2)])
    logs, means, covariances = [], [], []
    for combination in itertools.product(*(range(len(p)) for p in priors)):
        chosen = list(zip(priors, combination, strict=True))
        mean = torch.cat([p.means[k] for p, k in chosen])
        covariance = torch.block_diag(*[p.covariances[k] for p, k in chosen])
        s = a @ covariance @ a.mT + torch.diag(noise)
        gain = covariance @ a.mT @ torch.linalg.inv(s)
        weight = sum(p.weights[k].log() for p, k in chosen)
        logs.append(weight + torch.distributions.MultivariateNormal(a @ mean, s).log_prob(y))
        means.append(mean + gain @ (y - a @ mean))
        posterior = covariance - gain @ a @ covariance
        covariances.append((posterior + posterior.mT) / 2)
    return Gaussians(torch.softmax(torch.stack(logs), 0), torch.stack(means), torch.stack(covariances))


class Linear(nn.Module):
    """F(x, log σ) = W x + b on both inputs of a denoiser's network, times a function of σ."""

    def __init__(self, dimension: int, scale: float, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(scale * torch.randn(dimension, 2 * dimension, generator=rng, dtype=torch.float64))
        self.bias = nn.Parameter(scale * torch.randn(dimension, generator=rng, dtype=torch.float64))

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight.mT + self.bias) * (1 + 0.1 * log_sigma.unsqueeze(1))


def plain(prior: GaussianMixture) -> GaussianMixture:
    """A prior without a network: the mixture itself."""
    return prior
