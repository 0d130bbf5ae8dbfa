"""Scores of galaxies on Gaussians and synthetic draws whose scores are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from blobs import MIDDLE, N, blob, stamps_of
from torch import Tensor

from experiments.galaxies.data.stamps import NOISE, Stamps
from experiments.galaxies.scores.measures import (
    by_bin,
    correlations,
    coverage_scores,
    flux_scores,
    held_out_scores,
    hold_out,
    image_scores,
    interval,
    leftover_scores,
    residual_scores,
    shape_scores,
    within,
)
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import generator

RNG = generator(0, "measures")


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=RNG, dtype=torch.float64)


@pytest.fixture(scope="module")
def stamps() -> Stamps:
    fluxes = torch.linspace(1.0, 20.0, 200, dtype=torch.float64)
    blending = torch.tensor([0.0, 0.1, 0.2, 0.5], dtype=torch.float64).repeat(50)
    return stamps_of(torch.stack([blob(float(f)) for f in fluxes]), blending=blending, magnitude=-2.5 * fluxes.log10())


def test_perfect_estimates_have_perfect_scores(stamps: Stamps) -> None:
    truth = stamps.galaxy
    assert flux_scores(truth, stamps) == {"flux_bias": 0.0, "flux_scatter": 0.0}
    assert shape_scores(truth, stamps) == {"centroid_error": 0.0, "ellipticity_error": 0.0, "shape_failures": 0.0}
    assert leftover_scores(truth, stamps) == {"leftover_light": 0.0, "leftover_sigma": 0.0}
    assert image_scores(truth, stamps)["ssim_peak"] == pytest.approx(1.0)


def test_an_aperture_that_fills_its_stamp_says_nothing_of_what_is_beyond_it(stamps: Stamps) -> None:
    radius = torch.where(torch.arange(200) < 3, 100.0, stamps.catalogue["half_light_radius"])
    wide = replace(stamps, catalogue={**stamps.catalogue, "half_light_radius": radius})
    assert leftover_scores(stamps.galaxy, wide) == {"leftover_light": 0.0, "leftover_sigma": 0.0}
    assert all(math.isnan(score) for score in leftover_scores(stamps.galaxy[:3], wide.select(slice(3))).values())


def test_flux_is_that_of_the_aperture(stamps: Stamps) -> None:
    """A Gaussian has 1 − 2^(−k²) of its light within k half-light radii, 511/512 for 3."""
    inside = (stamps.galaxy * within(stamps)).sum((1, 2, 3)) / stamps.galaxy.sum((1, 2, 3))
    assert inside.tolist() == pytest.approx([511 / 512] * len(stamps), abs=1e-3)
    known = flux_scores(stamps.galaxy * torch.tensor([0.8, 1.0, 1.1, 1.2]).repeat(50).reshape(-1, 1, 1, 1), stamps)
    assert known == pytest.approx({"flux_bias": 0.05, "flux_scatter": 1.4826 * 0.1})


def test_apertures_follow_the_galaxy(stamps: Stamps) -> None:
    shifted = replace(stamps, catalogue={**stamps.catalogue, "x": torch.full((200,), 20.0), "y": torch.full((200,), 9.0)})
    row, column = torch.nonzero(within(shifted)[0, 0], as_tuple=True)
    assert (float(row.double().mean()), float(column.double().mean())) == (9.0, 20.0)


@pytest.mark.parametrize("draws", [6, 9, 50])
def test_intervals_cover_68_percent_however_few_draws(draws: int) -> None:
    """Independent draws of one law: the mean over it of the coverage of [x_(a), x_(b)] is (b − a) / (D + 1)."""
    low, high = interval(torch.rand(draws, 40_000, generator=RNG, dtype=torch.float64))
    assert float((high - low).mean()) == pytest.approx(0.6827, abs=0.004)
    with pytest.raises(MvssError, match="6 draws"):
        interval(torch.zeros(5, 3))


def test_calibrated_draws_cover_68_percent(stamps: Stamps) -> None:
    centre = stamps.galaxy + NOISE * normal(*stamps.galaxy.shape)
    draws = centre + NOISE * normal(30, *stamps.galaxy.shape)
    calibrated = coverage_scores(draws, stamps)
    assert calibrated["pixel_coverage"] == pytest.approx(0.6827, abs=0.01)
    assert calibrated["flux_coverage"] == pytest.approx(0.6827, abs=3 * math.sqrt(0.68 * 0.32 / 200))
    narrow = coverage_scores(centre + 0.2 * (draws - centre), stamps)
    assert narrow["pixel_coverage"] < 0.3 and narrow["flux_coverage"] < 0.3
    same = (stamps.galaxy + 1e-3).expand(10, *stamps.galaxy.shape)
    assert set(coverage_scores(same, stamps).values()) == {0.0}
    tied = coverage_scores(stamps.galaxy.expand(10, *stamps.galaxy.shape), stamps)  # a tie is as good a rank as any
    assert tied["pixel_coverage"] == pytest.approx(0.6827, abs=0.02)
    assert math.isnan(coverage_scores(torch.full_like(draws, math.nan), stamps)["flux_coverage"])


def test_moments_of_a_shifted_ellipse() -> None:
    """e1 = (a² − b²) / (a² + b²) along the axes, and the centre where it was put."""
    truth = stamps_of(torch.stack([blob(5.0)] * 4))
    ellipse = torch.stack([blob(5.0, (3.0, 2.0), MIDDLE + 0.3, MIDDLE - 0.4)] * 4)
    scores = shape_scores(ellipse, truth)
    assert scores["centroid_error"] == pytest.approx(0.5, abs=1e-3)
    assert scores["ellipticity_error"] == pytest.approx(5 / 13, abs=1e-3)
    ellipse[0], ellipse[1] = 0.0, torch.nan
    assert shape_scores(ellipse, truth)["shape_failures"] == 0.5


def test_psnr_takes_each_galaxy_by_its_own_peak(stamps: Stamps) -> None:
    peak = stamps.galaxy.amax((1, 2, 3), keepdim=True)
    blended = (stamps.catalogue["blending"] >= 0.1).reshape(-1, 1, 1, 1)
    scores = image_scores(stamps.galaxy + torch.where(blended, 0.1, 0.01) * peak, stamps)
    assert scores["psnr_peak_blended"] == pytest.approx(20.0)
    assert scores["psnr_peak"] == pytest.approx(0.75 * 20 + 0.25 * 40)
    assert scores["ssim_peak_blended"] < scores["ssim_peak"] < 1


def test_light_left_far_out(stamps: Stamps) -> None:
    outside = ~within(stamps)
    area = outside.sum((1, 2, 3), keepdim=True)
    left = stamps.galaxy + outside * NOISE / area.sqrt() * 5
    assert leftover_scores(left, stamps)["leftover_sigma"] == pytest.approx(5.0)
    halo = stamps.galaxy + outside * 0.02 * (stamps.galaxy * ~outside).sum((1, 2, 3), keepdim=True) / area
    assert leftover_scores(halo, stamps)["leftover_light"] == pytest.approx(0.02)
    unknown = replace(stamps, galaxy=None, sky=None)
    assert leftover_scores(halo, unknown)["leftover_light"] == pytest.approx(0.02 + 1 / 511, abs=1e-3)


def test_residuals_of_the_truth_are_the_noise(stamps: Stamps) -> None:
    sky, galaxy = stamps.sky.unsqueeze(0), stamps.galaxy.unsqueeze(0)
    scores = residual_scores(sky, galaxy, stamps)
    assert scores["residual_chi2"] == pytest.approx(1.0, abs=0.01)
    assert abs(scores["residual_correlation"]) < 0.01 and abs(scores["residual_correlation_2"]) < 0.01
    assert scores["noise_correlation"] == scores["residual_correlation"]
    gaps = replace(stamps, y=stamps.y.where(stamps.galaxy < 0.3, 9.0), good=stamps.galaxy < 0.3)
    assert residual_scores(sky, galaxy, gaps)["residual_chi2"] == pytest.approx(1.0, abs=0.01)


def test_correlation_of_smoothed_noise() -> None:
    """Means of 2 × 2 neighbours share half of their numbers one pixel apart, none two apart."""
    z = normal(40, 1, N + 1, N + 1)
    smooth = z[..., 1:, 1:] + z[..., :-1, 1:] + z[..., 1:, :-1] + z[..., :-1, :-1]
    good = torch.rand(smooth.shape, generator=RNG) < 0.8
    found = correlations(smooth.where(good, 50.0), good)
    assert found == {1: pytest.approx(0.5, abs=0.02), 2: pytest.approx(0.0, abs=0.02)}


def test_held_out_pixels(stamps: Stamps) -> None:
    good = stamps.galaxy < 0.5
    fit, held = hold_out(good, 0.2, seed=3)
    assert bool(((fit ^ held) == good).all()) and not bool((fit & held).any())
    assert float(held.sum() / good.sum()) == pytest.approx(0.2, abs=0.01)
    assert bool((hold_out(good[:7], 0.2, seed=3)[1] == held[:7]).all())
    # a posterior that is as wide as it is wrong, and one that claims to know
    draws = stamps.galaxy + 0.5 * NOISE * (normal(1, *good.shape) + normal(12, *good.shape))
    unsure = held_out_scores(stamps.y, good, stamps.sigma, draws, held)
    assert unsure["held_out_chi2"] == pytest.approx(1.0, abs=0.03)
    exact = stamps.galaxy.expand(12, *good.shape)
    sure = held_out_scores(stamps.y, good, stamps.sigma, exact, held)
    assert sure["held_out_chi2"] == pytest.approx(1.0, abs=0.02)
    wrong = held_out_scores(stamps.y, good, stamps.sigma, exact + NOISE, held)
    assert wrong["held_out_chi2"] == pytest.approx(2.0, abs=0.04)
    # white noise has log densities of -(1 + log 2π) / 2 in units of its own; χ² that is larger by 1 takes half a nat
    assert sure["held_out_log_likelihood"] == pytest.approx(-(1 + math.log(2 * math.pi)) / 2, abs=0.01)
    assert wrong["held_out_log_likelihood"] == pytest.approx(sure["held_out_log_likelihood"] - 0.5, abs=0.02)
    assert wrong["held_out_log_likelihood"] < unsure["held_out_log_likelihood"] < sure["held_out_log_likelihood"]
    brighter = replace(stamps, y=7 * stamps.y, sigma=7 * stamps.sigma)
    assert held_out_scores(brighter.y, good, brighter.sigma, 7 * draws, held) == pytest.approx(unsure)


def test_bins(stamps: Stamps) -> None:
    rows = by_bin(flux_scores, stamps.galaxy * 1.1, stamps, "blending", (0.1, 0.3))
    assert [row["count"] for row in rows] == [50, 100, 50]
    assert [row["flux_bias"] for row in rows] == pytest.approx([0.1] * 3)
    draws = stamps.galaxy + NOISE * normal(8, *stamps.galaxy.shape)
    bright = by_bin(coverage_scores, draws, stamps, "magnitude", (-9.0, -2.0))
    assert [row["low"] for row in bright] == [-9.0, -2.0]  # the first bin is empty


def test_without_a_truth_or_a_radius() -> None:
    unknown = replace(stamps_of(blob(1.0).unsqueeze(0)), galaxy=None)
    with pytest.raises(MvssError, match="nobody knows"):
        flux_scores(unknown.y, unknown)
    with pytest.raises(MvssError, match="half_light_radius"):
        within(replace(unknown, catalogue={}))
