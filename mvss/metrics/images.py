"""Scores of paired draws, one observation at a time.

PSNR_i = 10 log10(R^2 / mean_k (draw_ik - truth_ik)^2),   R the range of the data
"""

from __future__ import annotations

__all__ = ["psnr"]

from torch import Tensor

from mvss.errors import MvssError


def psnr(draw: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio of every observation, (N,) in dB; infinite where a draw equals its truth.

    Arguments:
        draw, truth: Paired sources, (N, *shape) both.
        data_range: R > 0, in the units of the data: 4 for manifolds in [-2, 2].

    Raises:
        MvssError: The shapes differ (broadcasting would score the wrong pairs).
    """
    if draw.shape != truth.shape:
        shapes = f"{tuple(draw.shape)} and {tuple(truth.shape)}"
        raise MvssError(f"PSNR needs draws paired with truths, got {shapes}: pass equal shapes.")
    error = (draw - truth).double().square().flatten(1).mean(1)
    return 10 * (data_range**2 / error).log10()
