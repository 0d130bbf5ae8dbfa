"""Is the width of posterior draws right? Expected coverage (TARP, Lemos et al. 2023), ranks (Talts et al. 2018).

For observation i with truth x_i, L draws x_il and a reference point r_i that depends on x_i through y_i at most,

    k_i = #{l : |x_il - r_i| < |x_i - r_i|}   is uniform on 0..L where the draws follow the posterior, so that
    coverage(q) = mean_i P((k_i + U) / (L + 1) <= q) = mean_i clip((L + 1) q - k_i, 0, 1) = q,   U uniform on [0, 1],

with the average over U taken in closed form: a finite L then brings no bias. References that ignore y_i cannot see
draws that ignore it too, such as draws from the prior; those of `informed_references` can.

In a single coordinate the rank k of the truth among its draws is uniform in the same way, and ends of intervals lie between
ranks: 68 % of (k + U) / (L + 1) are in the middle 68 % of [0, 1], however few draws there are.
"""

from __future__ import annotations

__all__ = [
    "ONE_SIGMA",
    "coverage_error",
    "informed_references",
    "interval_coverage",
    "paired",
    "rank_errors",
    "rank_statistics",
    "tarp_coverage",
]

import math

import torch
from torch import Tensor

from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import real

ONE_SIGMA = math.erf(1 / math.sqrt(2))
"""The probability of ± 1 standard deviation, 68 %."""


def tarp_coverage(draws: Tensor, truth: Tensor, references: Tensor, levels: Tensor) -> Tensor:
    """Expected coverage at each credibility level, (M,): calibrated draws give the levels back.

    The standard error is at most 0.5 / sqrt(N), in the middle. Draws that are too narrow put k at the ends, and the
    curve crosses the diagonal from above to below; too wide, the reverse; biased, it stays on one side.

    Arguments:
        draws: Posterior draws, (L, N, *shape).
        truth: Truths, (N, *shape).
        references: One point per observation, (N, *shape).
        levels: Nominal levels in [0, 1], (M,).

    Raises:
        MvssError: The shapes do not match.
    """
    draws, truth = paired(draws, truth)
    references, levels = real(references, "TARP: references"), real(levels, "TARP: levels")
    if references.shape != truth.shape:
        shapes = f"{tuple(references.shape)} for {tuple(truth.shape)}"
        raise MvssError(f"TARP needs a reference per truth, got {shapes}: pass equal shapes.")
    radius = (truth - references).flatten(1).norm(dim=1)
    # Draw by draw: all the differences at once would double the memory that the draws take.
    closer = sum((draw - references).flatten(1).norm(dim=1) < radius for draw in draws)
    inside = (len(draws) + 1) * levels[:, None] - torch.as_tensor(closer).double()
    return inside.clamp(0, 1).mean(1)


def coverage_error(expected: Tensor, levels: Tensor) -> float:
    """max over levels of |expected - nominal|, both (M,). For calibrated draws about 0.87 / sqrt(N) (Kolmogorov)."""
    return float((expected - levels.to(expected)).abs().max())


def rank_statistics(draws: Tensor, truth: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Rank of the truth among its draws in every coordinate: uniform on 0..L where the draws follow the posterior.

    Arguments:
        draws: Posterior draws, (L, N, *shape).
        truth: Truths, (N, *shape).
        generator: CPU generator that splits ties at random, as of pixels that are black in the truth and in draws: a
            truth that equals m draws is put before, between or behind them with equal probability. None: before them.

    Returns:
        Integers in 0..L, (N, *shape).
    """
    draws, truth = paired(draws, truth)
    below = (draws < truth).sum(0)
    if generator is None:
        return below
    ties = (draws == truth).sum(0)
    uniform = torch.rand(truth.shape, generator=generator, dtype=torch.float64).to(truth.device)
    return below + (uniform * (ties + 1)).floor().long()


def rank_errors(ranks: Tensor, draws: int) -> Tensor:
    """Of each coordinate, (D,): max over levels of |share of ranks <= k - (k + 1) / (L + 1)|.

    For calibrated draws about 0.87 / sqrt(N) on average, half as much again for the worst of ten coordinates. ranks: of
    `rank_statistics`, (N, *shape). draws: L.
    """
    sorted_ranks = ranks.flatten(1).T.contiguous().sort(dim=1).values
    steps = torch.arange(draws, device=ranks.device).expand(len(sorted_ranks), -1).contiguous()
    below = torch.searchsorted(sorted_ranks, steps.to(sorted_ranks.dtype), right=True).double() / ranks.shape[0]
    return (below - (steps.double() + 1) / (draws + 1)).abs().amax(1)


def interval_coverage(ranks: Tensor, draws: int) -> float:
    """Share of truths in the central intervals of their draws, all coordinates together: ONE_SIGMA where they are calibrated.

    The ends of the intervals lie between draws, at (1 ± ONE_SIGMA) / 2 of the way through the ranks, and a truth beside an end
    counts by the part of its rank that is inside. ranks: of `rank_statistics`, (N, *shape). draws: L.
    """
    low, high = ((1 + sign * ONE_SIGMA) / 2 * (draws + 1) for sign in (-1, 1))
    inside = (ranks + 1).double().clamp_max(high) - ranks.double().clamp_min(low)
    return float(inside.clamp_min(0).mean())


def informed_references(estimate: Tensor, spread: float | Tensor, generator: torch.Generator) -> Tensor:
    """Reference points that depend on the observation: estimate + spread z.

    Arguments:
        estimate: A function of the observation alone, (N, *shape), such as A^+ y.
        spread: Standard deviation of the noise, of the order of the estimate's own error. A number, or a tensor that
            broadcasts against the estimate.
        generator: CPU generator for z.
    """
    estimate = real(estimate, "TARP: estimates")
    noise = torch.randn(estimate.shape, generator=generator, dtype=torch.float64)
    return estimate + spread * noise.to(estimate)


def paired(draws: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64. Raises MvssError where they are not draws (L, N, *shape) of truths (N, *shape)."""
    draws, truth = real(draws, "calibration: draws"), real(truth, "calibration: truths")
    if draws.ndim < 2 or draws.shape[1:] != truth.shape:
        shapes = f"{tuple(draws.shape)} and {tuple(truth.shape)}"
        raise MvssError(f"Calibration needs draws (L, N, ...) of truths (N, ...), got {shapes}: stack L draws per truth.")
    return draws, truth
