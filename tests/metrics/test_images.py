"""PSNR by hand, SSIM at its ends."""

from __future__ import annotations

import math

import pytest
import torch

from mvss.metrics.images import frechet, psnr, ssim
from mvss.runtime.errors import MvssError


def test_by_hand() -> None:
    truth = torch.zeros(3, 2)
    draw = torch.tensor([[0.4, 0.4], [0.04, 0.0], [0.0, 0.0]])
    expected = [20.0, 10 * math.log10(16 / 0.0008), math.inf]
    assert psnr(draw, truth, 4.0).tolist() == pytest.approx(expected, abs=1e-5)


def test_any_shape_and_only_the_difference_counts() -> None:
    truth = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert psnr(truth + 0.1, truth, 1.0).tolist() == pytest.approx([20.0] * 5)


def test_unpaired_shapes_are_refused() -> None:
    with pytest.raises(MvssError, match="equal shapes"):
        psnr(torch.zeros(3, 2), torch.zeros(1, 2), 4.0)


def test_similarity_is_one_for_equal_images_and_falls_with_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 1, 28, 28, generator=rng, dtype=torch.float64)
    noise = torch.randn(truth.shape, generator=rng, dtype=torch.float64)
    assert ssim(truth, truth, 1.0).tolist() == pytest.approx([1.0] * 3)
    low, high = ssim(truth + 0.3 * noise, truth, 1.0), ssim(truth + 0.05 * noise, truth, 1.0)
    assert bool((low < high).all()) and bool((high < 1).all())
    with pytest.raises(MvssError, match="one shape"):
        ssim(truth, truth[:1], 1.0)


def test_frechet_of_gaussians_is_its_closed_form() -> None:
    """Diagonal covariances: |m - m'|² + Σ (s - s')²."""
    rng = torch.Generator().manual_seed(0)
    s, t = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([1.5, 1.0, 0.5]).double()
    x = s * torch.randn(200_000, 3, generator=rng, dtype=torch.float64)
    y = 0.3 + t * torch.randn(200_000, 3, generator=rng, dtype=torch.float64)
    full, means = frechet(x, y)
    assert means == pytest.approx(0.27, abs=0.02)
    assert full == pytest.approx(0.27 + float((s - t).square().sum()), abs=0.03)
    assert frechet(x, x) == pytest.approx((0.0, 0.0), abs=1e-9)
    with pytest.raises(MvssError, match="one size"):
        frechet(x, y[:, :2])
