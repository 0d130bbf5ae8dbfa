"""Scores of paired draws, one observation at a time, and of unpaired ones as a law.

PSNR_i = 10 log10(R^2 / mean_k (draw_ik - truth_ik)^2),   R the range of the data
Fréchet = |m - m'|^2 + tr(C + C' - 2 (C^½ C' C^½)^½)            m, C: moments of features
P(k) = mean |FFT(x - mean x)|^2 over a ring of frequencies; distance: root mean square over rings of 10 log10 P / P'
"""

from __future__ import annotations

__all__ = ["frechet", "psnr", "random_features", "spectrum_distance", "ssim"]

import math

import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import real
from mvss.runtime.rng import generator


def psnr(draw: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio of every observation, (N,) in dB; infinite where a draw equals its truth.

    Arguments:
        draw, truth: Paired sources, (N, *shape) both.
        data_range: R > 0, in the units of the data: 4 for manifolds in [-2, 2].

    Raises:
        MvssError: The shapes differ (broadcasting would score the wrong pairs).
    """
    draw, truth = real(draw, "PSNR: draws"), real(truth, "PSNR: truths")
    if draw.shape != truth.shape:
        shapes = f"{tuple(draw.shape)} and {tuple(truth.shape)}"
        raise MvssError(f"PSNR needs draws paired with truths, got {shapes}: pass equal shapes.")
    error = (draw - truth).square().flatten(1).mean(1)
    return 10 * (data_range**2 / error).log10()


def ssim(x: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Structural similarity of images `(N, C, H, W)`, `(N,)`, mean over channels: 1 for equal images (Wang et al. 2004).

    Gaussian window of 1.5 pixels, as in the original; computed by scikit-image.
    """
    x, truth = real(x, "SSIM: images"), real(truth, "SSIM: truths")
    if x.shape != truth.shape or x.ndim != 4 or min(x.shape[-2:]) < 11:
        shapes = f"{tuple(x.shape)} and {tuple(truth.shape)}"
        raise MvssError(f"SSIM needs two batches of images (N, C, H, W) of one shape, at least 11 x 11, got {shapes}.")
    settings = {"data_range": data_range, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(x.cpu().numpy(), truth.cpu().numpy(), strict=True)
    return torch.tensor([structural_similarity(a, b, channel_axis=0, **settings) for a, b in pairs], dtype=torch.float64)


def frechet(features: Tensor, reference: Tensor) -> tuple[float, float]:
    """Squared Fréchet distance of two sets of features (N, F) and (M, F) as Gaussians, and its part from the means alone.

    The paper's released code uses one covariance twice, which leaves the part of the means: that is what to compare with its
    column. Both depend on the features, and are biased upwards for few samples: compare at equal N only.
    """
    x, y = real(features, "Fréchet: features"), real(reference, "Fréchet: the reference")
    if x.ndim != 2 or x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise MvssError(f"Fréchet needs two sets of at least two features of one size, got {shapes}.")
    means = float((x.mean(0) - y.mean(0)).square().sum())
    c, d = x.T.cov(), y.T.cov()
    values, vectors = torch.linalg.eigh(c)
    root = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ d @ root).clamp_min(0.0).sqrt().sum()
    return means + max(0.0, float(c.trace() + d.trace() - 2 * cross)), means


def random_features(images: Tensor) -> Tensor:
    """Features of grey images `(N, 1, H, W)` in [0, 1], at least 8 x 8, `(N, 64)`: for textures, whose law no classifier knows.

    Two layers of fixed random convolutions (5 x 5 and 3 x 3, rectified, the mean of 2 x 2 between), then the mean over pixels.
    The same everywhere: they learn nothing, and see brightness, contrast and shapes of a few pixels.
    """
    x = real(images, "features: images")
    if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[-2:]) < 8:
        raise MvssError(f"features are of grey images (N, 1, H, W), at least 8 x 8, got {tuple(x.shape)}.")
    rng = generator(0, "random features")
    sizes = ((32, 1, 5, 5), (32,), (64, 32, 3, 3))
    first, shift, second = (torch.randn(size, generator=rng, dtype=torch.float64) for size in sizes)
    inner = avg_pool2d(conv2d(4 * (x.double() - 0.5), first / 5, shift).relu(), 2)
    return 8 * conv2d(inner, second / math.sqrt(288)).relu().mean((2, 3))  # in numbers of about one


def spectrum_distance(x: Tensor, reference: Tensor) -> float:
    """Distance of the power spectra of square images `(N, 1, n, n)` and `(M, 1, n, n)`, dB; 0 for equal ones.

    Means over images and over rings of one frequency from 1 to n / 2; the mean of each image is left out.
    """
    first, second = (real(images, f"power spectrum: {name}") for images, name in ((x, "images"), (reference, "the reference")))
    if first.ndim != 4 or first.shape[1:] != second.shape[1:] or first.shape[1] != 1 or first.shape[2] != first.shape[3]:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise MvssError(f"power spectra are compared of square images (N, 1, n, n) of one size, got {shapes}.")
    ratio = _spectrum(first) / _spectrum(second)
    return float((10 * ratio.log10()).square().mean().sqrt())


def _spectrum(images: Tensor) -> Tensor:
    """Mean power `(n // 2,)` of the rings of whole frequencies from 1."""
    x = images.squeeze(1).double()
    power = torch.fft.fft2(x - x.mean((1, 2), keepdim=True)).abs().square().mean(0)
    size = len(power)
    k = torch.fft.fftfreq(size, dtype=torch.float64) * size
    ring = torch.hypot(k[:, None], k).round().long()
    return torch.stack([power[ring == r].mean() for r in range(1, size // 2 + 1)])
