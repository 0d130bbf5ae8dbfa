"""Scores of paired draws, one observation at a time.

PSNR_i = 10 log10(R^2 / mean_k (draw_ik - truth_ik)^2),   R the range of the data
"""

from __future__ import annotations

__all__ = ["psnr", "ssim"]

import torch
from skimage.metrics import structural_similarity
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


def ssim(x: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Structural similarity of images `(N, C, H, W)`, `(N,)`, mean over channels: 1 for equal images (Wang et al. 2004).

    Gaussian window of 1.5 pixels, as in the original; computed by scikit-image.
    """
    if x.shape != truth.shape or x.ndim != 4 or min(x.shape[-2:]) < 11:
        shapes = f"{tuple(x.shape)} and {tuple(truth.shape)}"
        raise MvssError(f"SSIM needs two batches of images (N, C, H, W) of one shape, at least 11 x 11, got {shapes}.")
    settings = {"data_range": data_range, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(x.double().cpu().numpy(), truth.double().cpu().numpy(), strict=True)
    return torch.tensor([structural_similarity(a, b, channel_axis=0, **settings) for a, b in pairs], dtype=torch.float64)
