"""Denoisers d(x_t, σ) ≈ E[x | x_t] of one source: a closed-form mixture, corrected by a network.

    d(x, σ) = d_mixture(x, σ) + c_out(σ) F(c_in(σ) x, (x − d_mixture(x, σ))/σ, log σ),
    c_in = 1/√(σ² + s²),   c_out = σ s/√(σ² + s²)

Karras et al. 2022 (arXiv 2206.00364, table 1) have c_skip x = s²/(σ² + s²) x in the first place, the denoiser of one Gaussian
N(0, s² I): base "karras". Any fitted mixture serves as well; F is zero at the start, so that the diffusion prior starts where
the mixture ended. A smooth network cannot resolve a manifold a hundred times thinner than
it is long; the mixture's residual, which has unit size at every σ, gives it that scale as an input.

Loss: mean of ‖(x − d)/c_out‖², which is ‖F − target‖² (their λ(σ)).

A network with two outputs, F and h, says how sure it is, too: Var[x | x_t] of each number by itself is c_out² exp(h), and

    loss ← loss + w (h + (F − target)² exp(−h)),    F held fixed in the second term

has its least at the mean square error (Nix & Weigend 1994; held fixed as by Seitzer et al. 2022). The exact covariance is
σ² ∂d/∂x_t, which costs a vector–Jacobian product a time and which a trained network's Jacobian only resembles.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from mvss.presets.posterior import SamplerConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.likelihood import flow_log_prob
from mvss.priors.local_law import LocalLaw
from mvss.priors.networks import LEAST, MOST, network_named, variance_of
from mvss.priors.prior import column
from mvss.priors.regression import local_scale
from mvss.priors.samplers import ancestral, noised, sample
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

__all__ = ["DiffusionPrior", "Drawing", "MixtureAlone", "gaussian_loss", "untrained"]

SURENESS = 0.1
"""w: small, for the estimate comes first."""
EXACT_TRACE, PROBES = 256, 4
"""Numbers of a source up to which log_prob takes the exact trace, and probes of its estimate for more."""
ROUNDING = 1e-6
"""Of noise levels, what is no difference."""


@dataclass(frozen=True)
class Drawing:
    """How draws of a diffusion prior are made: the run, from draws of the mixture, noised, or, from_noise, from its mean
    alone: x ~ N(mean, σ_start² I). components: Gaussians that p(x | x_t) of a small source is drawn from."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    from_noise: bool = False
    components: int = 1


class DiffusionPrior(torch.nn.Module):
    """d(x_t, σ) of a source: a `Prior` whose draws come by reversing time.

    mixture: the closed-form part, which also gives the source's shape. base: what the network corrects, it or Karras' skip
    term; the mixture then only starts runs, and is what the source follows at the largest noise levels. network: F(x, log σ),
    or F and h where its `outputs` are two. drawing: how its draws are made. levels: least and largest noise level that it is
    trained at, in units of the source; below them it answers as at the least, above them the mixture serves alone. dynamic:
    of images of a large dynamic range: s is taken of each pixel of x_t instead (`regression.local_scale`, N = σ), and Karras'
    skip term is the base. A network beside Karras' term goes on above its levels, with a warning.
    """

    def __init__(
        self,
        mixture: GaussianMixture,
        network: torch.nn.Module,
        sigma_data: float,
        drawing: Drawing | None = None,
        levels: tuple[float, float] = (1e-3, 10.0),
        dynamic: bool = False,
        base: Literal["mixture", "karras"] = "mixture",
    ) -> None:
        super().__init__()
        self.mixture, self.network, self.shape, self.sigma_data = mixture, network, mixture.shape, float(sigma_data)
        self.drawing, self.levels, self.dynamic, self.base = drawing or Drawing(), levels, dynamic, base
        self.skips = dynamic or base == "karras"
        self.previous: torch.nn.Module | None = None
        self.relaxation = 1.0

    @contextmanager
    def relaxed(self, factor: float) -> Iterator[None]:
        """For as long as the block runs, train towards d + ω (d_new − d), with d the denoiser as it is now and ω = `factor`; 1
        is plain."""
        before = self.relaxation, self.previous
        try:
            self.relaxation = factor
            self.previous = None if factor == 1.0 else copy.deepcopy(self.network).requires_grad_(False)
            yield
        finally:
            self.relaxation, self.previous = before

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """See `Prior`."""
        base = self._base(x_t, sigma)
        return base + self._added(x_t, base, sigma)

    def draw_given(self, z: Tensor, rho: Tensor, stream: Stream, index: Tensor, steps: int) -> Tensor:
        """See `Prior`: by ancestral steps down to the least level that draws of the prior go to."""
        fall = torch.linspace(0, 1, steps, dtype=rho.dtype, device=rho.device).unsqueeze(1)
        levels = rho * (rho.clamp_max(self.drawing.sampler.sigma_min) / rho) ** fall
        return ancestral(LocalLaw([self], self.drawing.components), (z,), list(levels), stream, index)[0]

    def sample(self, count: int, stream: Stream, stratified: bool = False) -> Tensor:
        """See `Prior`, on the CPU; stratified: the mixture's draws are."""
        index, run = torch.arange(count), self.drawing.sampler
        start = self.mixture.sample(count, stream, stratified)
        if self.drawing.from_noise:
            start = self.mixture.mean.expand_as(start)  # of which σ_start need not be so large that it drowns
        begin = noised([start], run.sigma_start, stream, index)
        return sample(LocalLaw([self], self.drawing.components), begin, run, stream, index)[0].cpu()

    def log_prob(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """See `Prior`, by the probability flow (`likelihood`) from the least level that it is trained at, unless sigma is
        given; from the largest one on, by the mixture. Of large sources the trace is an estimate, whose errors `flow_log_prob`
        tells. Raises MvssError for a sigma below the least level."""
        low, high = self.levels
        if sigma is not None and sigma >= high:
            return self.mixture.log_prob(x, sigma)
        if sigma is not None and sigma < low * (1 - ROUNDING):
            raise MvssError("log_prob: sigma is below the least noise level that the prior was trained at: leave it out")
        probes, tolerance = (0, 1e-7) if self.mixture.dimension <= EXACT_TRACE else (PROBES, 3e-4)
        stream, sigma = Stream(0, ("log_prob",)), low if sigma is None else sigma
        return flow_log_prob(self, x, sigma, high, probes, stream, tolerance)

    @property
    def learns_variance(self) -> bool:
        """Whether the network says Var[x | x_t], too."""
        return getattr(getattr(self.network, "config", None), "outputs", 1) == 2

    def correction(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        """d less `base`, the mixture's estimate: what the network adds, but where it is Karras' skip term that it adds to."""
        if not self.skips:
            return self._added(x_t, base, sigma)
        return self.denoise(x_t, sigma) - base

    def estimate(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | x_t] and Var[x | x_t] of each number, `(N, *shape)` each, of a network that `learns_variance`."""
        base, asked = self._base(x_t, sigma), column(self._asked(sigma), x_t)
        out, scale = self._outputs(x_t, base, sigma), self._scales(x_t, sigma)[1]
        mean, variance = base + scale * out[:, 0], scale.square() * variance_of(out[:, 1])
        if bool(asked.all()):
            return mean, variance
        alone, spread = self.mixture.estimate(x_t, sigma)
        return torch.where(asked, mean, alone), torch.where(asked, variance, spread)

    def error(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss without what the variance and the relaxation do to it: what is comparable between networks."""
        outputs, target, _ = self._targets(x, sigma, noise)
        return _mean((outputs[:, 0] - target).square(), weights)

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
        """Denoising score matching loss of clean x `(N, *shape)`, σ `(N,)`, standard-normal noise `(N, *shape)`."""
        outputs, target, wanted = self._targets(x, sigma, noise)
        return gaussian_loss(outputs, target, weights, wanted)

    def _targets(self, x: Tensor, sigma: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The network's outputs `(N, outputs, *shape)` for x noised, what F should be, and that over-relaxed, `(N, *shape)`."""
        x_t = x + column(sigma, x) * noise
        with torch.no_grad():
            base = self._base(x_t, sigma)
            inputs = self._inputs(x_t, base, sigma)
            target = wanted = (x - base) / self._scales(x_t, sigma)[1]
            if self.previous is not None:
                old = self.previous(inputs, sigma.log()).reshape(len(x), -1, *x.shape[1:])[:, 0]
                wanted = self.relaxation * target - (self.relaxation - 1) * old
        return self.network(inputs, sigma.log()).reshape(len(x), -1, *x.shape[1:]), target, wanted

    def _added(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        """c_out(σ) F where the network is asked, in the dtype of x_t; F runs in its own."""
        added = self._scales(x_t, sigma)[1] * self._outputs(x_t, base, sigma)[:, 0]
        return torch.where(column(self._asked(sigma), added), added, 0.0)

    def _asked(self, sigma: Tensor) -> Tensor:
        """Whether the network is, `(N,)`: see the class."""
        known = sigma <= self.levels[1] * (1 + ROUNDING)
        if self.skips and not bool(known.all()):
            warnings.warn(
                f"a network is asked for noise levels above {self.levels[1]:g}, the largest that it was trained at: raise "
                "training.sigma_max, or start lower",
                stacklevel=2,
            )
            return torch.ones_like(known)
        return known

    def _outputs(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        """F, and h where there is one, `(N, outputs, *shape)`."""
        dtype = next(self.network.parameters()).dtype
        level = sigma.clamp_min(self.levels[0] * (1 - ROUNDING))
        out: Tensor = self.network(self._inputs(x_t, base, sigma).to(dtype), level.log().to(dtype))
        return out.reshape(len(x_t), -1, *x_t.shape[1:]).to(x_t.dtype)

    def _base(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """What the network corrects."""
        if self.skips:
            return (self._sizes(x_t, sigma) * self._scales(x_t, sigma)[0]).square() * x_t
        return self.mixture.denoise(x_t, sigma)

    def _sizes(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """s, one for each observation or pixel."""
        if self.dynamic:
            return local_scale(x_t, torch.ones_like(x_t), column(sigma, x_t))
        return column(sigma.new_full((len(sigma),), self.sigma_data), x_t)

    def _scales(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_in and c_out."""
        s, level = self._sizes(x_t, sigma), column(sigma, x_t)
        total = (level.square() + s.square()).sqrt()
        return 1 / total, level * s / total

    def _inputs(self, x_t: Tensor, base: Tensor, sigma: Tensor) -> Tensor:
        level = column(sigma, x_t)
        second = torch.asinh(x_t / level) / 3 if self.dynamic else (x_t - base) / level
        return torch.stack([self._scales(x_t, sigma)[0] * x_t, second], dim=1)


class MixtureAlone(torch.nn.Module):
    """The mixture of a prior without the network, by the prior's own measure: what is left where the network is not kept."""

    def __init__(self, prior: DiffusionPrior) -> None:
        super().__init__()
        self.prior = prior

    def error(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `DiffusionPrior.error`."""
        x_t = x + column(sigma, x) * noise
        missed = x - self.prior.mixture.denoise(x_t, sigma)
        return _mean((missed / self.prior._scales(x_t, sigma)[1]).square(), weights)


def untrained(prior: DiffusionPrior) -> DiffusionPrior:
    """The same with a network that adds nothing, as before its training."""
    network: Any = prior.network
    fresh = network_named(type(network).__name__, network.config)
    copied = DiffusionPrior(prior.mixture, fresh, prior.sigma_data, prior.drawing, prior.levels, prior.dynamic, prior.base)
    return copied.to(prior.mixture.means.device)


def gaussian_loss(
    outputs: Tensor, target: Tensor, weights: Tensor | None, wanted: Tensor | None = None, scale: Tensor | float = 1.0
) -> Tensor:
    """The loss of F, and of h where there is one, `(N, 1 or 2, *shape)`. target: of F, `(N, *shape)`; wanted: what F is
    trained towards, if not that. weights: of rows, `(N,)`."""
    loss = _mean((scale * (outputs[:, 0] - (target if wanted is None else wanted))).square(), weights)
    if outputs.shape[1] == 2:
        h, square = outputs[:, 1].clamp(LEAST, MOST), (outputs[:, 0].detach() - target).square()
        loss = loss + SURENESS * _mean(h + square * (-h).exp(), weights)
    return loss


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Of `(N, *shape)`, of rows with weights `(N,)`."""
    each = values.flatten(1).mean(1)
    return each.mean() if weights is None else (weights * each).mean()
