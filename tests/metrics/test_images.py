"""PSNR by hand, SSIM at its ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from mvss.metrics.images import frechet, psnr, random_features, spectrum_distance, ssim
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


def of_moments(mean: torch.Tensor, covariance: torch.Tensor, count: int = 40) -> torch.Tensor:
    """Points whose sample mean and covariance are these to the last digits."""
    z = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T.cov()), (z - z.mean(0)).T, upper=False)
    return mean + (torch.linalg.cholesky(covariance) @ white).T


def test_frechet_of_full_covariances_that_commute_is_that_along_their_common_axes() -> None:
    rng = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64))[0]
    s, t = torch.tensor([1.0, 2.0, 0.5, 3.0]).double(), torch.tensor([1.5, 0.2, 0.5, 4.0]).double()
    mean = torch.tensor([0.3, -0.2, 0.0, 1.0]).double()
    x, y = (of_moments(m, axes @ (v**2).diag() @ axes.T) for m, v in ((mean, s), (0 * mean, t)))
    means = float(mean.square().sum())
    assert frechet(x, y) == pytest.approx((means + float((s - t).square().sum()), means))


def test_frechet_of_covariances_that_do_not_commute_is_that_of_scipy() -> None:
    """tr (C C')^½, of the root of a matrix that is not symmetric."""
    rng = torch.Generator().manual_seed(0)
    c, d = (0.1 * torch.eye(4).double() + a @ a.T for a in torch.randn(2, 4, 4, generator=rng, dtype=torch.float64))
    assert float((c @ d - d @ c).abs().max()) > 1
    closed = float((c + d).trace()) - 2 * float(np.trace(sqrtm((c @ d).numpy())).real)
    zero = torch.zeros(4, dtype=torch.float64)
    assert frechet(of_moments(zero, c), of_moments(zero, d)) == pytest.approx((closed, 0.0), abs=1e-9)


def texture(count: int, seed: int, size: int = 28) -> torch.Tensor:
    """White noise, a little smoothed, around one half."""
    x = torch.randn(count, 1, size + 2, size + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.5 + 0.3 * torch.nn.functional.avg_pool2d(x, 3, 1)


def test_random_features_are_fixed_and_tell_textures_apart() -> None:
    """Blurred, of another contrast or brightness: each is far beyond what two samples of one texture differ by."""
    x, y = texture(100, 0), texture(300, 1)
    features = random_features(x)
    assert (
        features.shape == (100, 64)
        and torch.equal(features, random_features(x))
        and torch.equal(features[:3], random_features(x[:3]))
    )
    assert float(features.sum()) == pytest.approx(18631.3348, rel=1e-6)
    floor = frechet(features, random_features(y))[0]
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    for other in (blurred, 0.5 + 0.8 * (x - 0.5), x + 0.05):
        assert frechet(random_features(other), random_features(y))[0] > 3 * floor
    with pytest.raises(MvssError, match="at least 8 x 8"):
        random_features(x[..., :7])


def test_distance_of_spectra_is_that_of_powers_in_decibels() -> None:
    x, y = texture(300, 0), texture(300, 1)
    assert spectrum_distance(x, x + 0.3) == pytest.approx(0.0, abs=1e-6)
    assert spectrum_distance(0.5 * x, x) == pytest.approx(20 * math.log10(2))
    assert spectrum_distance(x, y) < 0.5 < 2 < spectrum_distance(x + 0.2 * torch.randn_like(x), y)
    with pytest.raises(MvssError, match="of one size"):
        spectrum_distance(x, y[..., :20, :20])
