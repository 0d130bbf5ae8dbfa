"""Denoisers d(x_t, σ) ≈ E[x | x_t] of one source: a closed-form mixture, corrected by a network.

    d(x, σ) = d_mixture(x, σ) + c_out(σ) F(c_in(σ) x, log σ),   c_in = 1/√(σ² + s²),   c_out = σ s/√(σ² + s²)

Karras et al. 2022 (arXiv 2206.00364, table 1) have c_skip x = s²/(σ² + s²) x in the first place: that is the denoiser of one
Gaussian N(0, s² I), a mixture with K = 1. Any fitted mixture serves as well; F is zero at the start, so that the
diffusion prior starts where the mixture ended. Loss: mean of ‖(x − d)/c_out‖², which is ‖F − target‖² (their λ(σ)).
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
        self.previous = (
            None if factor == 1.0 or self.network is None else copy.deepcopy(self.network).requires_grad_(False)
        )

    def forward(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """E[x | x_t], `(N, *shape)`, for x_t `(N, *shape)` and σ `(N,)`."""
        base = self.mixture.denoise(x_t.flatten(1), sigma).reshape(x_t.shape)
        return base if self.network is None else base + self.correction(x_t, sigma)

    def _scale(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        total = (sigma.square() + self.sigma_data**2).sqrt()
        return 1 / total, sigma * self.sigma_data / total

    def correction(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """c_out(σ) F(c_in(σ) x, log σ): what the network adds, in the dtype of x_t; F runs in its own."""
        assert self.network is not None
        c_in, c_out = (c.reshape(-1, *[1] * (x_t.ndim - 1)) for c in self._scale(sigma))
        dtype = next(self.network.parameters()).dtype
        return c_out * self.network((c_in * x_t).to(dtype), sigma.log().to(dtype)).to(x_t.dtype)

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
        """Denoising score matching loss of clean x `(N, *shape)`, σ `(N,)`, standard-normal noise `(N, *shape)`."""
        x_t = x + sigma.reshape(-1, *[1] * (x.ndim - 1)) * noise
        with torch.no_grad():
            base = self.mixture.denoise(x_t.flatten(1), sigma).reshape(x.shape)
        c_in, c_out = (c.reshape(-1, *[1] * (x.ndim - 1)) for c in self._scale(sigma))
        assert self.network is not None
        target = (x - base) / c_out
        if self.previous is not None:
            with torch.no_grad():
                target = self.relaxation * target - (self.relaxation - 1) * self.previous(c_in * x_t, sigma.log())
        error = self.network(c_in * x_t, sigma.log()) - target
        per_sample = error.square().flatten(1).mean(1)
        return per_sample.mean() if weights is None else (weights * per_sample).mean()
