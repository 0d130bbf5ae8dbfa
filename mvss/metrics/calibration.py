"""Is the width of posterior draws right? Expected coverage (TARP, Lemos et al. 2023), ranks (Talts et al. 2018).

For observation i with truth x_i, L draws x_il and a reference point r_i that depends on x_i through y_i at most,

    k_i = #{l : |x_il - r_i| < |x_i - r_i|}   is uniform on 0..L where the draws follow the posterior, so that
    coverage(q) = mean_i P((k_i + U) / (L + 1) <= q) = mean_i clip((L + 1) q - k_i, 0, 1) = q,   U uniform on [0, 1],

with the average over U taken in closed form: a finite L then brings no bias. References that ignore y_i cannot see
draws that ignore it too, such as draws from the prior; those of `informed_references` can.
"""

from __future__ import annotations

__all__ = ["coverage_error", "informed_references", "rank_error", "rank_statistics", "tarp_coverage"]

import torch
from torch import Tensor

from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import real


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
    draws, truth = _check(draws, truth)
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


def rank_statistics(draws: Tensor, truth: Tensor) -> Tensor:
    """Rank of the truth among its draws in every coordinate: uniform on 0..L where the draws follow the posterior.

    Arguments:
        draws: Posterior draws, (L, N, *shape).
        truth: Truths, (N, *shape).

    Returns:
        Integers in 0..L, (N, *shape).
    """
    draws, truth = _check(draws, truth)
    return (draws < truth).sum(0)


def rank_error(ranks: Tensor, draws: int) -> float:
    """max over coordinates and levels of |share of ranks <= k - (k + 1) / (L + 1)|, of `rank_statistics`, (N, *shape).

    For calibrated draws about 0.87 / sqrt(N) in one coordinate, half as much again for the worst of ten. draws: L.
    """
    sorted_ranks = ranks.flatten(1).T.contiguous().sort(dim=1).values
    steps = torch.arange(draws, device=ranks.device).expand(len(sorted_ranks), -1).contiguous()
    below = torch.searchsorted(sorted_ranks, steps.to(sorted_ranks.dtype), right=True).double() / ranks.shape[0]
    return float((below - (steps.double() + 1) / (draws + 1)).abs().max())


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


def _check(draws: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64."""
    draws, truth = real(draws, "calibration: draws"), real(truth, "calibration: truths")
    if draws.ndim < 2 or draws.shape[1:] != truth.shape:
        shapes = f"{tuple(draws.shape)} and {tuple(truth.shape)}"
        raise MvssError(f"Calibration needs draws (L, N, ...) of truths (N, ...), got {shapes}: stack L draws per truth.")
    return draws, truth
