"""Whether the noise of one view is about that of another: what networks have learned from, or may learn from together.

    v_low, v_high     quantiles of the variance of each number, over the observations that measured it
    Σ z / diag Σ      of the first observation, for certain z: z itself where noise is white

Numbers that few observations measured worse than others are not looked at, as in `shared_view`.
"""

from __future__ import annotations

__all__ = ["noise_alike", "noise_of", "white_noise"]

import math

import torch
from torch import Tensor

from mvss.problem.operators import Shape
from mvss.problem.shared_view import MOST, measured
from mvss.problem.views import View

NOISIER = 1.5
"""Factor between variances up to which they are alike."""
CORRELATED = 0.2
"""Share of Σ z / diag Σ that may differ: numbers that go with four neighbours by a tenth each differ so much from white noise,
whose variances on scales large and small differ by up to about NOISIER then."""
QUANTILES = (MOST, 1 - MOST)


def noise_of(view: View, factor: float = 1.0) -> Tensor:
    """v_low, v_high and Σ z / diag Σ, `(3, *shape)`, of the noise of factor · y; v is infinite where nothing was measured."""
    noise, y, seen = view.noise.scaled(factor), view.y, measured(view).expand_as(view.y)
    if noise.is_shared:
        y, seen = y[:1], seen.any(0, keepdim=True)
    variance = noise.variance(y).masked_fill(~seen, math.inf).sort(0).values
    last = (seen.sum(0, keepdim=True) - 1).clamp_min(0)
    low, high = (variance.gather(0, (share * last).round().long()) for share in QUANTILES)
    first, z = noise.select(torch.tensor([0])), _certain(view.observation_shape).to(y)
    return torch.cat([low, high, first.apply(z) / first.variance(z)]).cpu()


def white_noise(variance: float, shape: Shape) -> Tensor:
    """The same of white noise, of observations of such a shape."""
    return torch.cat([torch.full((2, *shape), variance, dtype=torch.float64), _certain(shape)])


def noise_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two noises, of `noise_of`, are about the same, but for a few numbers."""
    known = (a[:2] < math.inf) & (b[:2] < math.inf)
    off = (a[:2] / b[:2]).log().abs() >= math.log(NOISIER)
    if int((off & known).sum()) > MOST * int(known.sum()):
        return False
    return float((a[2] - b[2]).norm()) <= CORRELATED * min(float(a[2].norm()), float(b[2].norm()))


def _certain(shape: Shape) -> Tensor:
    """The same numbers at every time, `(1, *shape)`."""
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
