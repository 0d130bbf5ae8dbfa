"""Denoisers d(x_t, σ) ≈ E[x | x_t] of one source: a closed-form mixture, corrected by a network.

    d(x, σ) = d_mixture(x, σ) + c_out(σ) F(c_in(σ) x, (x − d_mixture(x, σ))/σ, log σ),
    c_in = 1/√(σ² + s²),   c_out = σ s/√(σ² + s²)

Karras et al. 2022 (arXiv 2206.00364, table 1) have c_skip x = s²/(σ² + s²) x in the first place: that is the denoiser of one
Gaussian N(0, s² I), a mixture with K = 1. Any fitted mixture serves as well; F is zero at the start, so that the
diffusion prior starts where the mixture ended. A smooth network cannot resolve a manifold a hundred times thinner than
it is long; the mixture's residual, which has unit size at every σ, gives it that scale as an input.

Loss: mean of ‖(x − d)/c_out‖², which is ‖F − target‖² (their λ(σ)).

A network with two outputs, F and h, says how sure it is, too: Var[x | x_t] of each number by itself is c_out² exp(h), and

    loss ← loss + w (h + (F − target)² exp(−h)),    F held fixed in the second term

has its least at the mean square error (Nix & Weigend 1994; held fixed as by Seitzer et al. 2022). The exact covariance is
σ² ∂d/∂x_t, which costs a vector–Jacobian product a time and which a trained network's Jacobian only resembles.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mvss.priors.dynamic_range import local_scale
from mvss.priors.gaussian_mixture import GaussianMixture

__all__ = ["Denoiser", "gaussian_loss", "karras_base", "variance_of"]

SURENESS = 0.1
"""w: small, for the estimate comes first."""
LEAST, MOST = -12.0, 3.0
"""h is kept within these: variances are c_out² times 6e-6 to 20."""


def karras_base(dimension: int, sigma_data: float) -> GaussianMixture:
    """The mixture whose denoiser is the skip term of Karras et al.: one Gaussian N(0, s² I)."""
    zero = torch.zeros(1, dimension, dtype=torch.float64)
    return GaussianMixture(torch.ones(1), zero, zero.unsqueeze(-1)[..., :0].expand(1, dimension, 0), sigma_data)


class Denoiser(torch.nn.Module):
    """d(x_t, σ) of a source of shape `shape`.

    mixture: the closed-form part. network: F(x, log σ), or F and h where its `outputs` are two; None for the mixture alone.
    sigma_data: s, the standard deviation of the source's numbers. dynamic: of images of a large dynamic range: s is taken of
    each pixel of x_t instead (`dynamic_range`, N = σ), and Karras' skip term in place of the mixture, which then only starts.
    """

    def __init__(
        self,
        mixture: GaussianMixture,
        network: torch.nn.Module | None,
        shape: tuple[int, ...],
        sigma_data: float,
        dynamic: bool = False,
    ) -> None:
        super().__init__()
        self.dynamic = dynamic
        self.mixture, self.network, self.shape, self.sigma_data = mixture, network, tuple(shape), float(sigma_data)
        self.previous: torch.nn.Module | None = None
        self.relaxation = 1.0

    def relax(self, factor: float) -> None:
        """From now on, train towards d + ω (d_new − d), with d the denoiser as it is now and ω = `factor`; 1 is plain."""
        self.relaxation = factor
        self.previous = None if factor == 1.0 or self.network is None else copy.deepcopy(self.network).requires_grad_(False)

    def forward(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """E[x | x_t], `(N, *shape)`, for x_t `(N, *shape)` and σ `(N,)`."""
        base = self._base(x_t, sigma)
        return base if self.network is None else base + self.correction(x_t, base, sigma)

    @property
    def learns_variance(self) -> bool:
        """Whether the network says Var[x | x_t], too."""
        return getattr(getattr(self.network, "config", None), "outputs", 1) == 2

    def correction(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        """c_out(σ) F: what the network adds to `base`, the mixture's estimate; in the dtype of x_t, F runs in its own."""
        return self._scales(x_t, sigma)[1] * self._outputs(x_t, base, sigma)[:, 0]

    def estimate(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | x_t] and Var[x | x_t] of each number, `(N, *shape)` each, of a network that `learns_variance`."""
        base = self._base(x_t, sigma)
        out, scale = self._outputs(x_t, base, sigma), self._scales(x_t, sigma)[1]
        return base + scale * out[:, 0], scale.square() * variance_of(out[:, 1])

    def error(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss without what the variance adds to it: what is comparable between networks."""
        found, _, wanted = self._targets(x, sigma, noise)
        return _mean((found[:, 0] - wanted).square(), weights)

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
        """Denoising score matching loss of clean x `(N, *shape)`, σ `(N,)`, standard-normal noise `(N, *shape)`."""
        found, target, wanted = self._targets(x, sigma, noise)
        return gaussian_loss(found, target, weights, wanted)

    def _targets(self, x: Tensor, sigma: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The network's outputs `(N, outputs, *shape)` for x noised, what F should be, and that over-relaxed, `(N, *shape)`."""
        assert self.network is not None
        x_t = x + _column(sigma, x) * noise
        with torch.no_grad():
            base = self._base(x_t, sigma)
            inputs = self._inputs(x_t, base, sigma)
            target = wanted = (x - base) / self._scales(x_t, sigma)[1]
            if self.previous is not None:
                old = self.previous(inputs, sigma.log()).reshape(len(x), -1, *x.shape[1:])[:, 0]
                wanted = self.relaxation * target - (self.relaxation - 1) * old
        return self.network(inputs, sigma.log()).reshape(len(x), -1, *x.shape[1:]), target, wanted

    def _outputs(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        """F, and h where there is one, `(N, outputs, *shape)`."""
        assert self.network is not None
        dtype = next(self.network.parameters()).dtype
        out: Tensor = self.network(self._inputs(x_t, base, sigma).to(dtype), sigma.log().to(dtype))
        return out.reshape(len(x_t), -1, *x_t.shape[1:]).to(x_t.dtype)

    def _base(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """What the network corrects."""
        if self.dynamic:
            return (self._sizes(x_t, sigma) * self._scales(x_t, sigma)[0]).square() * x_t
        return self.mixture.denoise(x_t.flatten(1), sigma).reshape(x_t.shape)

    def _sizes(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """s, one for each observation or pixel."""
        if self.dynamic:
            return local_scale(x_t, torch.ones_like(x_t), _column(sigma, x_t))
        return _column(sigma.new_full((len(sigma),), self.sigma_data), x_t)

    def _scales(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_in and c_out."""
        s, level = self._sizes(x_t, sigma), _column(sigma, x_t)
        total = (level.square() + s.square()).sqrt()
        return 1 / total, level * s / total

    def _inputs(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        level = _column(sigma, x_t)
        second = torch.asinh(x_t / level) / 3 if self.dynamic else (x_t - base) / level
        return torch.stack([self._scales(x_t, sigma)[0] * x_t, second], dim=1)


def variance_of(h: Tensor) -> Tensor:
    """exp(h), in units of c_out²."""
    return h.clamp(LEAST, MOST).exp()


def gaussian_loss(
    found: Tensor, target: Tensor, weights: Tensor | None, wanted: Tensor | None = None, beside: Tensor | float = 1.0
) -> Tensor:
    """The loss of F, and of h where there is one, `(N, 1 or 2, *shape)`. target: of F, `(N, *shape)`; wanted: what F is
    trained towards, if not that. weights: of rows, `(N,)`."""
    loss = _mean((beside * (found[:, 0] - (target if wanted is None else wanted))).square(), weights)
    if found.shape[1] == 2:
        h, square = found[:, 1].clamp(LEAST, MOST), (found[:, 0].detach() - target).square()
        loss = loss + SURENESS * _mean(h + square * (-h).exp(), weights)
    return loss


def _column(values: Tensor, like: Tensor) -> Tensor:
    """`(N,)` to the number of dimensions of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Of `(N, *shape)`, of rows with weights `(N,)`."""
    each = values.flatten(1).mean(1)
    return each.mean() if weights is None else (weights * each).mean()
