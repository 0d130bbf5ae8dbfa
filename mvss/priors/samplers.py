"""Reverse-time samplers over a tuple of sources, for prior and posterior alike (variance exploding).

With E = E[x | x_t (, y)], the score of p(x_t | y) is (E − x_t)/σ², and along the probability flow dx/dσ = (x − E)/σ:
    DDIM   x_s = E + (σ_s/σ_t)(x_t − E)
    Heun   the same with the slope averaged over both ends; its second stage is taken at σ_s
    ancestral   x_0 ~ p(x | x_t (, y)), then x_s ~ p(x_s | x_t, x_0) = N(x_0 + (σ_s²/σ_t²)(x_t − x_0), σ_s²(1 − σ_s²/σ_t²) I)
    PC     a DDIM step, then Langevin corrections at σ_s:  x ← x + τ(E − x) + σ_s √(2τ) z      (paper, algorithm 1)
DDIM and PC contract: with few steps they leave a part of the variance. The ancestral step is exact, at any number of steps,
as far as the Gaussians are that x_0 is drawn from. Noise levels are geometric from σ_start to σ_min; at σ_min the ancestral
sampler returns x_0, the others E.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mvss.presets.posterior import SamplerConfig
from mvss.priors.prior import column
from mvss.runtime.rng import Stream

__all__ = ["Expectation", "ancestral", "noise_levels", "noised", "sample"]

Expectation = Callable[[Sequence[Tensor], Tensor], tuple[Tensor, ...]]
"""(x_t of every source, σ `(N,)`) ↦ posterior or prior mean of every source; for "ancestral" also with a
method `draw`, which gives one draw in place of the mean."""


def noise_levels(config: SamplerConfig) -> Tensor:
    """σ_start … σ_min, `(steps,)`, geometric."""
    ratio = config.sigma_min / config.sigma_start
    return config.sigma_start * torch.logspace(0, 1, config.steps, base=ratio, dtype=torch.float64)


def noised(x: Sequence[Tensor], sigma: float, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
    """x + σ z: the start of a warm run, from draws x `(N, *shape)` of the observations `index` `(N,)`."""
    return tuple(
        v + sigma * stream.normal(index, tuple(v.shape[1:]), "start", b, dtype=v.dtype, device=v.device)
        for b, v in enumerate(x)
    )


def sample(
    expectation: Expectation, start: Sequence[Tensor], config: SamplerConfig, stream: Stream, index: Tensor
) -> tuple[Tensor, ...]:
    """Run from `start`, samples at σ_start, `(N, *shape)` per source, down to σ_min.

    index: observation numbers `(N,)`, which the noise is keyed by.
    """
    x = tuple(start)
    levels = noise_levels(config)
    if config.method == "ancestral":
        return ancestral(expectation, x, levels.tolist(), stream, index)
    count, like = x[0].shape[0], x[0]

    def at(level: float) -> Tensor:
        return like.new_full((count,), level)

    for step in range(config.steps):
        now = float(levels[step])
        if config.method == "pc":
            for repeat in range(config.corrections):
                x = _correct(expectation, x, at(now), config.tau, stream.child(step, repeat), index)
        mean = expectation(x, at(now))
        if step + 1 == config.steps:
            return mean
        then = float(levels[step + 1])
        ratio = then / now
        predicted = tuple(m + ratio * (v - m) for m, v in zip(mean, x, strict=True))
        if config.method == "heun":
            second = expectation(predicted, at(then))
            x = tuple(
                v + 0.5 * (ratio - 1) * ((v - m) + (p - m2) / ratio)
                for v, m, p, m2 in zip(x, mean, predicted, second, strict=True)
            )
        else:
            x = predicted
    return x


def ancestral(
    law: Expectation, x_t: tuple[Tensor, ...], levels: Sequence[float | Tensor], stream: Stream, index: Tensor
) -> tuple[Tensor, ...]:
    """Ancestral steps from x_t, `(N, *shape)` per source, at the first of the levels, each one for all rows or `(N,)`."""
    like = x_t[0]
    for step, now in enumerate(levels):
        keyed = stream.child(step)
        sigma = now if isinstance(now, Tensor) else like.new_full((len(like),), now)
        clean: tuple[Tensor, ...] = law.draw(x_t, sigma, keyed, index)  # type: ignore[attr-defined]
        if step + 1 < len(levels):
            now, then = (column(v, like) if isinstance(v, Tensor) else v for v in (now, levels[step + 1]))
            x_t = _bridge(x_t, clean, now, then, keyed, index)
    return clean


def _bridge(
    x_t: tuple[Tensor, ...], clean: Sequence[Tensor], now: float | Tensor, then: float | Tensor, stream: Stream, index: Tensor
) -> tuple[Tensor, ...]:
    """A draw of x_s given x_t and x_0."""
    ratio = (then / now) ** 2
    width = then * (1 - ratio) ** 0.5
    return tuple(
        c + ratio * (v - c) + width * stream.normal(index, tuple(v.shape[1:]), "bridge", b, dtype=v.dtype, device=v.device)
        for b, (v, c) in enumerate(zip(x_t, clean, strict=True))
    )


def _correct(
    expectation: Expectation, x: tuple[Tensor, ...], sigma: Tensor, tau: float, stream: Stream, index: Tensor
) -> tuple[Tensor, ...]:
    """One Langevin step of size δ = τ σ² towards p(x_t | y)."""
    mean = expectation(x, sigma)
    width = float(sigma[0]) * (2 * tau) ** 0.5
    return tuple(
        v + tau * (m - v) + width * stream.normal(index, tuple(v.shape[1:]), "langevin", b, dtype=v.dtype, device=v.device)
        for b, (v, m) in enumerate(zip(x, mean, strict=True))
    )
