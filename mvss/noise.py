"""Noise models η_i ~ N(0, Σ_i)  (paper, equation 1): apply Σ, solve with Σ, draw, log-determinant.

Standard deviations are in the units of the observation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mvss.errors import MvssError

__all__ = ["Diagonal", "Isotropic", "Noise"]


class Noise(ABC):
    """Gaussian noise of N observations, one covariance each or one for all."""

    @abstractmethod
    def variance(self, like: Tensor) -> Tensor:
        """The diagonal of Σ, in the shape and dtype of the observations `like` `(N, *shape)`."""

    def apply(self, v: Tensor) -> Tensor:
        """Σ v."""
        return self.variance(v) * v

    def solve(self, v: Tensor) -> Tensor:
        """Σ⁻¹ v."""
        return v / self.variance(v)

    def color(self, z: Tensor) -> Tensor:
        """Σ^½ z: standard-normal numbers `(N, *shape)` to a draw of the noise."""
        return self.variance(z).sqrt() * z

    def log_determinant(self, like: Tensor) -> Tensor:
        """log |Σ|, `(N,)`."""
        return self.variance(like).log().flatten(1).sum(1)

    def select(self, index: Tensor) -> Noise:
        """The noise of the observations in `index`."""
        return self

    def to(self, device: torch.device | str) -> Noise:
        """The same noise with its tensors on `device`."""
        return self


def _check(sigma: Tensor) -> Tensor:
    if not bool(torch.isfinite(sigma).all()) or bool((sigma <= 0).any()):
        raise MvssError(
            "noise: every standard deviation must be positive and finite; "
            "a noise of zero makes the posterior singular, use a small value such as 1e-3"
        )
    return sigma


class Isotropic(Noise):
    """Σ_i = σ_i² I, with one standard deviation for all, or one per observation `(N,)`."""

    def __init__(self, sigma: float | Tensor) -> None:
        self.sigma = _check(torch.as_tensor(sigma, dtype=torch.float64))
        if self.sigma.ndim > 1:
            raise MvssError(f"Isotropic noise: sigma must be a number or (N,), got {tuple(self.sigma.shape)}")

    def variance(self, like: Tensor) -> Tensor:
        sigma = self.sigma.to(like)
        return (sigma**2).reshape(-1, *[1] * (like.ndim - 1)).expand_as(like)

    def select(self, index: Tensor) -> Isotropic:
        return self if self.sigma.numel() == 1 else Isotropic(self.sigma[index])


class Diagonal(Noise):
    """Σ_i = diag(σ_i²), with standard deviations `(N, *shape)`, one map per observation, or `(1, *shape)` for all."""

    def __init__(self, sigma: Tensor) -> None:
        self.sigma = _check(sigma)

    def variance(self, like: Tensor) -> Tensor:
        if self.sigma.ndim != like.ndim:  # a map without the axis of observations would fit, and be selected wrongly
            raise MvssError(
                f"Diagonal noise: sigma has shape {tuple(self.sigma.shape)} for observations {tuple(like.shape)}; "
                "give (N, *shape), or (1, *shape) for all"
            )
        return (self.sigma.to(like) ** 2).expand_as(like)

    def select(self, index: Tensor) -> Diagonal:
        return self if self.sigma.shape[0] == 1 else Diagonal(self.sigma[index])

    def to(self, device: torch.device | str) -> Diagonal:
        return Diagonal(self.sigma.to(device))
