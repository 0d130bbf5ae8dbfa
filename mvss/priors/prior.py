"""What every prior of a source can do, whatever it is made of."""

from __future__ import annotations

__all__ = ["Prior", "column"]

from typing import Protocol

import torch
from torch import Tensor

from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.runtime.rng import Stream


class Prior(Protocol):
    """p(x) of one source, x of shape `shape`, seen through noise: x_t = x + σ z.

    mixture: the closed-form part, which gives exact first draws; of a mixture, itself. network: what corrects it, if
    anything does. learns_variance: whether that says Var[x | x_t], too.
    """

    shape: tuple[int, ...]

    @property
    def mixture(self) -> GaussianMixture: ...

    @property
    def network(self) -> torch.nn.Module | None: ...

    @property
    def learns_variance(self) -> bool: ...

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """E[x | x_t], `(N, *shape)`, for x_t of the same shape and σ `(N,)`."""
        ...

    def correction(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        """What is added to `base`, the mixture's E[x | x_t]."""
        ...

    def estimate(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | x_t] and Var[x | x_t] of each number, `(N, *shape)` each."""
        ...

    def draw_given(self, z: Tensor, rho: Tensor, stream: Stream, index: Tensor, steps: int) -> Tensor:
        """x ~ p(x | x + ρ ε = z), `(N, *shape)`, for ρ `(N,)`. index: numbers of the rows `(N,)`, which randomness is keyed by.
        steps: of reverse time, where a network takes them."""
        ...

    def sample(self, count: int, stream: Stream, stratified: bool = False) -> Tensor:
        """`(count, *shape)` draws of p(x). stratified: as evenly spread as they can be, not independent."""
        ...

    def log_prob(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """log density `(N,)` of x `(N, *shape)` under the law of x + σ z, in nats; None: of the least σ that it knows."""
        ...


def column(values: Tensor, like: Tensor) -> Tensor:
    """`(N,)` to the number of dimensions of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
