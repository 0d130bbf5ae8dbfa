"""Do posterior draws say how far off they are? Two scores of K draws x_1 … x_K beside the truth x*.

    spread ratio = V / B,    V = mean of var_k x_k (unbiased),    B = mean of (x̄ − x*)² − V / K, the error of E[x | y]
    energy score = mean_k |x_k − x*| − ½ mean_{j≠k} |x_j − x_k|             (Gneiting & Raftery 2007, unbiased)

The ratio is 1 where draws follow the posterior, and below 1 where they are too narrow, however good their mean is. The
energy score is proper: on average nothing has a lower one than draws of the posterior, whatever is wrong with the others.
"""

from __future__ import annotations

__all__ = ["energy_score", "expectation_error", "spread_influences", "spread_ratio"]

import math

import torch
from torch import Tensor

from mvss.metrics.calibration import paired
from mvss.runtime.errors import MvssError


def spread_ratio(draws: Tensor, truth: Tensor) -> tuple[float, float]:
    """V / B of all numbers and observations, and its standard error.

    The variance of draws beside the squared error of the mean of very many. A few observations with several answers decide both
    where the others are sharp: the error tells. Infinite where B is not above 0: draws so wide that the error of their mean
    drowns in its own noise.

    Arguments:
        draws: Posterior draws, (K, N, *shape), K of 2 or more.
        truth: Truths, (N, *shape).

    Raises:
        MvssError: The shapes do not match, or there is a single draw.
    """
    ratio, influences = _linearised(draws, truth)
    return ratio, float(influences.square().mean().sqrt()) / math.sqrt(len(truth))


def spread_influences(draws: Tensor, truth: Tensor) -> Tensor:
    """(v_i − ratio b_i) / B of each observation, (N,): the error of the ratio is their mean, to first order.

    The standard error of `spread_ratio` is ‖influences‖ / N. That of a mean of ratios whose observations are the same is of the
    mean of their influences: sources of one sum err together. Infinite, or NaN, where the ratio is.

    Arguments and errors as of `spread_ratio`.
    """
    return _linearised(draws, truth)[1]


def expectation_error(draws: Tensor, truth: Tensor) -> Tensor:
    """Squared error of the mean of very many draws, told without bias, a mean over numbers: of each observation, (N,).

    Where draws follow the posterior it is a (K + 1)th part below that of the mean of K. Of few numbers it may be below zero.

    Arguments and errors as of `spread_ratio`.
    """
    draws, truth = _several(draws, truth)
    return (draws.mean(0) - truth).square().flatten(1).mean(1) - draws.var(0).flatten(1).mean(1) / len(draws)


def _linearised(draws: Tensor, truth: Tensor) -> tuple[float, Tensor]:
    """The spread ratio, and its influences."""
    draws, truth = _several(draws, truth)
    each_v, each_b = draws.var(0).flatten(1).mean(1), expectation_error(draws, truth)
    b = float(each_b.mean())
    if not b > 0:
        ratio = math.nan if math.isnan(b) else math.inf
        return ratio, torch.full_like(each_b, ratio)
    ratio = float(each_v.mean()) / b
    return ratio, (each_v - ratio * each_b) / b


def energy_score(draws: Tensor, truth: Tensor) -> Tensor:
    """Of each observation, (N,), in the units of the source, whose numbers are taken together: lower is better.

    Arguments and errors as of `spread_ratio`. Exact draws of an isotropic Gaussian posterior of standard deviation s in D
    dimensions have s Γ((D + 1) / 2) / Γ(D / 2) on average.
    """
    draws, truth = _several(draws, truth)
    flat, count = draws.flatten(2), len(draws)
    far = torch.stack([(x - truth.flatten(1)).norm(dim=1) for x in flat]).mean(0)
    apart = torch.stack([(flat[k + 1 :] - flat[k]).norm(dim=2).sum(0) for k in range(count - 1)]).sum(0)
    return far - apart / (count * (count - 1))


def _several(draws: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    draws, truth = paired(draws, truth)
    if len(draws) < 2:
        raise MvssError("the spread of draws needs 2 of each truth at least, got 1: draw more")
    return draws, truth
