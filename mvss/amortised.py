"""The posterior of a source that hides in what another view shows alone, learned from made mixtures: no moment is matched.

    y = A x + n,    n': an observation of a view that shows all of n and nothing else (`mvss.noisier2noise`)
    x ~ draws of the last E-step,  n' ~ those observations:    (x, A x + n') has the law of (x, y) under a prior of such draws
    d(x_t, σ, y) ≈ E[x | x_t, y],    by denoising score matching on such pairs

An E-step that reverses time with d draws from p(x | y) itself, from pure noise: neither the law of n nor a Jacobian is needed,
and no start. EM is as before: new draws, new pairs. (Simulation-based inference by conditional diffusion, as Sharrock et al.
2024, arXiv 2210.04872, with a simulator that is made of observations.)

y says how large x can be at each pixel (`mvss.dynamic`). With s that scale, d is Karras et al.'s (2022) with s in place of one
σ_data:    d = c_skip x_t + c_out F,    c_skip = s²/(σ² + s²),    c_out = σ s/√(σ² + s²).
"""

from __future__ import annotations

__all__ = ["BATCH", "Amortised", "level_of", "seen", "tight_factor"]

from collections.abc import Sequence

import torch
from torch import Tensor

from mvss.data import View
from mvss.denoisers import gaussian_loss, variance_of
from mvss.dynamic import local_scale, usual_size
from mvss.memory import in_chunks
from mvss.rng import Stream
from mvss.samplers import SamplerConfig, sample
from mvss.shared_view import unmasked

BATCH = 256
"""Images that go through the network at a time when nothing is learned."""


class Amortised(torch.nn.Module):
    """d(x_t, σ, y) of one source, where A = a I but for masks.

    network: F of four inputs and two outputs. backgrounds: n' less `level`, and where they were measured, `(K, 2, *shape)`.
    level: usual light of the background at each pixel, `(*shape)`. factor: a.
    """

    backgrounds: Tensor
    level: Tensor

    def __init__(self, network: torch.nn.Module, backgrounds: Tensor, level: Tensor, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor
        self.register_buffer("backgrounds", backgrounds)
        self.register_buffer("level", level)
        self.usual = usual_size(*backgrounds.unbind(1))

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None) -> Tensor:
        """As of a denoiser, of draws x `(N, *shape)`. Backgrounds are chosen by the global generator, which `fit_denoiser`
        seeds."""
        chosen = torch.randint(len(self.backgrounds), (len(x),)).to(x.device)
        n, measured = self.backgrounds[chosen].unbind(1)
        y = measured * (self.factor * x + n)
        found, base, scale = self._outputs(x + _column(sigma) * noise, sigma, y, measured)
        return gaussian_loss(found, (x - base) / scale, weights)

    def estimate(self, x_t: Tensor, sigma: Tensor, y: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """E and Var of each number of x given x_t and y less its level, `(N, *shape)` each."""
        found, base, scale = self._outputs(x_t, sigma, y, measured)
        return base + scale * found[:, 0], scale.square() * variance_of(found[:, 1])

    @staticmethod
    def of(network: torch.nn.Module, mixed: View, background: View, beta: int) -> Amortised:
        """For source `beta` of a view, untrained."""
        factor = tight_factor(mixed, beta)
        assert factor is not None
        level, measured = level_of(background), seen(background)
        return Amortised(
            network, torch.stack([(background.y - level) * measured, measured], dim=1).float(), level.float(), factor
        )

    def draw(self, view: View, beta: int, sampler: SamplerConfig, stream: Stream, index: Tensor) -> tuple[Tensor, int]:
        """One draw of the source given y, `(N, *shape)`, from pure noise; and evaluations per observation."""
        measured = seen(view)
        y = measured * (view.y - self.level.to(view.y))

        def work(rows: slice) -> Tensor:
            given = _Given(self, y[rows].float(), measured[rows].float())
            start = stream.normal(index[rows], tuple(y.shape[1:]), "start", dtype=torch.float64, device=y.device)
            return sample(given, [sampler.sigma_start * start], sampler, stream, index[rows])[0]

        return torch.cat(list(in_chunks(work, len(y), BATCH))), sampler.steps

    def state(self) -> dict[str, Tensor | float]:
        """What the constructor takes beside the network."""
        return {"backgrounds": self.backgrounds, "level": self.level, "factor": self.factor}

    def applies(self, view: View, beta: int) -> bool:
        """Whether a view shows source `beta` as this was trained for, with other sources."""
        factor = tight_factor(view, beta) if beta in view.shown and len(view.shown) > 1 else None
        return factor is not None and abs(factor - self.factor) < 1e-12 and view.observation_shape == tuple(self.level.shape)

    def _outputs(self, x_t: Tensor, sigma: Tensor, y: Tensor, measured: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F and h, `(N, 2, *shape)`; c_skip x_t and c_out."""
        s, level = local_scale(y, measured, self.usual) / self.factor, _column(sigma)
        total = (s.square() + level.square()).sqrt()
        inputs = [x_t / total, torch.asinh(y / self.usual) / 3, torch.asinh(y / (10 * self.usual)) / 2, measured]
        dtype = next(self.network.parameters()).dtype
        out = self.network(torch.stack(inputs, dim=1).to(dtype), sigma.log().to(dtype))
        return out.reshape(len(x_t), 2, *x_t.shape[1:]).to(x_t.dtype), (s / total).square() * x_t, level * s / total


class _Given:
    """For `mvss.samplers.sample`."""

    def __init__(self, model: Amortised, y: Tensor, measured: Tensor) -> None:
        self.model, self.y, self.measured = model, y, measured

    @torch.no_grad()
    def _estimate(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self.model.estimate(x_t.float(), sigma.float(), self.y, self.measured)
        return mean.double(), variance.double()

    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        return (self._estimate(x_t[0], sigma)[0],)

    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One draw of x given x_t and y."""
        mean, variance = self._estimate(x_t[0], sigma)
        z = stream.normal(index, tuple(mean.shape[1:]), "source", dtype=mean.dtype, device=mean.device)
        return (mean + variance.sqrt() * z,)


def level_of(background: View) -> Tensor:
    """The usual light at each pixel of a view, `(*shape)`."""
    measured = seen(background)
    return (background.y * measured).sum(0) / measured.sum(0).clamp_min(1.0)


def tight_factor(view: View, beta: int) -> float | None:
    """a where A = a I behind its mask."""
    operator, bare = view.operators[beta], unmasked(view)[1][view.shown.index(beta)]
    if operator.source_shape != operator.observation_shape or not bare.is_tight:
        return None
    probe = torch.ones(1, *bare.source_shape, dtype=torch.float64)
    image = bare.forward(probe)
    return float(image.flatten()[0]) if torch.allclose(image, image.flatten()[0] * probe) else None


def seen(view: View) -> Tensor:
    """1 where a pixel was measured, `(N, *shape)`."""
    mask, _ = unmasked(view)
    return torch.ones_like(view.y) if mask is None else mask.expand_as(view.y).to(view.y)


def _column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)
