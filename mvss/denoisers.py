"""Denoisers d(x_t, σ) ≈ E[x | x_t] of one source: a closed-form mixture, corrected by a network.

    d(x, σ) = d_mixture(x, σ) + c_out(σ) F(c_in(σ) x, (x − d_mixture(x, σ))/σ, log σ),
    c_in = 1/√(σ² + s²),   c_out = σ s/√(σ² + s²)

Karras et al. 2022 (arXiv 2206.00364, table 1) have c_skip x = s²/(σ² + s²) x in the first place: that is the denoiser of one
Gaussian N(0, s² I), a mixture with K = 1. Any fitted mixture serves as well; F is zero at the start, so that the
diffusion prior starts where the mixture ended. A smooth network cannot resolve a manifold a hundred times thinner than
it is long; the mixture's residual, which has unit size at every σ, gives it that scale as an input.

Loss: mean of ‖(x − d)/c_out‖², which is ‖F − target‖² (their λ(σ)).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mvss.mixture import GaussianMixture

__all__ = ["Denoiser", "karras_base"]


def karras_base(dimension: int, sigma_data: float) -> GaussianMixture:
    """The mixture whose denoiser is the skip term of Karras et al.: one Gaussian N(0, s² I)."""
    zero = torch.zeros(1, dimension, dtype=torch.float64)
    return GaussianMixture(torch.ones(1), zero, zero.unsqueeze(-1)[..., :0].expand(1, dimension, 0), sigma_data)


class Denoiser(torch.nn.Module):
    """d(x_t, σ) of a source of shape `shape`.

    mixture: the closed-form part. network: F(x, log σ), or None for the mixture alone.
    sigma_data: s, the standard deviation of the source's numbers.
    """

    def __init__(
        self, mixture: GaussianMixture, network: torch.nn.Module | None, shape: tuple[int, ...], sigma_data: float
    ) -> None:
        super().__init__()
        self.mixture, self.network, self.shape, self.sigma_data = mixture, network, tuple(shape), float(sigma_data)
        self.previous: torch.nn.Module | None = None
        self.relaxation = 1.0

    def relax(self, factor: float) -> None:
        """From now on, train towards d + ω (d_new − d), with d the denoiser as it is now and ω = `factor`; 1 is plain."""
        self.relaxation = factor
        self.previous = None if factor == 1.0 or self.network is None else copy.deepcopy(self.network).requires_grad_(False)

    def forward(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """E[x | x_t], `(N, *shape)`, for x_t `(N, *shape)` and σ `(N,)`."""
        base = self.mixture.denoise(x_t.flatten(1), sigma).reshape(x_t.shape)
        return base if self.network is None else base + self.correction(x_t, base, sigma)

    def correction(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        """c_out(σ) F: what the network adds to `base`, the mixture's estimate; in the dtype of x_t, F runs in its own."""
        assert self.network is not None
        dtype = next(self.network.parameters()).dtype
        out = self.network(self._inputs(x_t, base, sigma).to(dtype), sigma.log().to(dtype))
        return self._scales(x_t, sigma)[1] * out.reshape(x_t.shape).to(x_t.dtype)

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
        """Denoising score matching loss of clean x `(N, *shape)`, σ `(N,)`, standard-normal noise `(N, *shape)`."""
        assert self.network is not None
        x_t = x + _column(sigma, x) * noise
        with torch.no_grad():
            base = self.mixture.denoise(x_t.flatten(1), sigma).reshape(x.shape)
            inputs = self._inputs(x_t, base, sigma)
            target = (x - base) / self._scales(x, sigma)[1]
            if self.previous is not None:
                old = self.previous(inputs, sigma.log()).reshape(x.shape)
                target = self.relaxation * target - (self.relaxation - 1) * old
        error = self.network(inputs, sigma.log()).reshape(x.shape) - target
        per_sample = error.square().flatten(1).mean(1)
        return per_sample.mean() if weights is None else (weights * per_sample).mean()

    def _scales(self, like: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_in and c_out."""
        total = (sigma.square() + self.sigma_data**2).sqrt()
        return _column(1 / total, like), _column(sigma * self.sigma_data / total, like)

    def _inputs(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        return torch.stack([self._scales(x_t, sigma)[0] * x_t, (x_t - base) / _column(sigma, x_t)], dim=1)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """`(N,)` to the number of dimensions of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
