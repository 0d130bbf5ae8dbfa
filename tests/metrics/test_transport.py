"""Sinkhorn divergence: closed forms, POT, exact transport, and the cases that a bad method yields."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from torch import Tensor

from mvss.metrics.transport import entropic_transport, sinkhorn_divergence, sinkhorn_divergence_paper
from mvss.runtime.errors import MvssError


def cloud(n: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_identical_samples_are_at_distance_zero() -> None:
    x = cloud(200, 0)
    result = sinkhorn_divergence(x, x[torch.randperm(200, generator=torch.Generator().manual_seed(1))])
    assert result.converged
    assert abs(float(result)) < 1e-6


def test_translation_costs_its_squared_length() -> None:
    x, shift = cloud(300, 0), torch.tensor([0.3, -1.0, 2.0, 0.0, 5.0], dtype=torch.float64)
    result = sinkhorn_divergence(x, x + shift)
    assert result.converged
    assert float(result) == pytest.approx(float(shift.square().sum()), abs=1e-4)


def test_point_masses() -> None:
    x, y = torch.zeros(50, 5), torch.full((50, 5), 2.0)
    assert float(sinkhorn_divergence(x, y)) == pytest.approx(20.0, abs=1e-6)
    assert float(sinkhorn_divergence(x, x)) == pytest.approx(0.0, abs=1e-6)


def test_a_point_against_a_cloud_has_a_closed_form_cross_term() -> None:
    x = cloud(100, 0)
    cross = entropic_transport(x, torch.zeros_like(x), 1e-3, 1e-6, 10_000)
    assert cross.value == pytest.approx(float(x.square().sum(1).mean()), abs=1e-6)


def test_gaussians_at_large_regularisation_follow_the_closed_form() -> None:
    """Janati et al. 2020, in one dimension: squared distance of the means plus a term of the widths."""
    q = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    z = math.sqrt(2) * torch.erfinv(2 * q - 1)
    a, b, regularisation = 1.0, 0.5, 0.5

    def bures(u: float, v: float) -> float:
        d = math.sqrt(4 * u**2 * v**2 + (regularisation / 2) ** 2)
        t = regularisation / 2
        return u**2 + v**2 - d + t * (1 - math.log(2 * t)) + t * math.log(d + t)

    expected = 0.3**2 + bures(a, b) - bures(a, a) / 2 - bures(b, b) / 2
    result = sinkhorn_divergence(a * z[:, None], 0.3 + b * z[:, None], regularisation=regularisation, threshold=1e-6)
    assert float(result) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("distance", [0.0, 3.0])
def test_agrees_with_pot(distance: float) -> None:
    """By the dual, whose error is of second order; POT's scalings hold the weights 1 / n, our potentials do not."""
    x, y, regularisation = cloud(50, 0), cloud(50, 1) + distance, 0.2
    options = {"method": "sinkhorn_log", "numItermax": 5000, "stopThr": 1e-6, "log": True, "warn": False}
    _, log = ot.sinkhorn([], [], ot.dist(x, y), regularisation, **options)
    expected = regularisation * (log["log_u"].mean() + log["log_v"].mean() + 2 * math.log(50))
    result = entropic_transport(x, y, regularisation, 1e-5, 20_000)
    assert result.converged
    assert result.value == pytest.approx(float(expected), abs=1e-5)


def test_symmetric_steps_agree_with_alternating_ones() -> None:
    x = cloud(200, 0)
    own, cross = (entropic_transport(x, other, 0.1, 1e-7, 20_000) for other in (None, x))
    assert own.value == pytest.approx(cross.value, abs=1e-7)


def test_small_regularisation_is_near_exact_transport() -> None:
    x, y = cloud(256, 0), cloud(256, 1)
    exact = float(ot.emd2([], [], ot.dist(x, y)))
    assert float(sinkhorn_divergence(x, y)) == pytest.approx(exact, abs=1e-2)


def test_order_and_roles_do_not_matter() -> None:
    x, y = cloud(150, 0), cloud(150, 1, 0.5)
    value = float(sinkhorn_divergence(x, y))
    assert float(sinkhorn_divergence(x.flip(0), y)) == pytest.approx(value, abs=1e-5)
    assert float(sinkhorn_divergence(y, x)) == pytest.approx(value, abs=1e-5)


def test_far_outliers_and_unequal_clusters_converge() -> None:
    x = cloud(400, 0)
    for y in (100 * cloud(400, 1), torch.where(torch.arange(400)[:, None] < 10, 1e3 * cloud(400, 2), cloud(400, 3))):
        result = sinkhorn_divergence(x, y)
        assert result.converged
        assert float(result) == pytest.approx(float(ot.emd2([], [], ot.dist(x, y))), rel=1e-3)
    near, far = cloud(400, 4, 0.01), cloud(400, 5, 0.01)
    near[:210] += 4
    far[:190] += 4
    result = sinkhorn_divergence(near, far)
    assert result.converged
    assert float(result) == pytest.approx(float(ot.emd2([], [], ot.dist(near, far))), rel=1e-3)


def test_a_cap_that_is_reached_is_reported() -> None:
    result = sinkhorn_divergence(cloud(200, 0), cloud(200, 1), cap=3)
    assert not result.converged
    assert result.residual > 1e-3


@pytest.mark.slow
def test_the_papers_form_is_noisy_about_zero_and_sees_a_shift() -> None:
    x, y = cloud(256, 0, 0.3), cloud(256, 1, 0.3)
    assert abs(sinkhorn_divergence_paper(x, y)) < 0.1
    assert sinkhorn_divergence_paper(x, y + 1) == pytest.approx(5.0, rel=0.2)
    assert sinkhorn_divergence_paper(x, y, samples=64) == sinkhorn_divergence_paper(x[:64], y[:64])


def test_bad_input_is_refused() -> None:
    with pytest.raises(MvssError, match="one shape"):
        sinkhorn_divergence(cloud(5, 0), cloud(6, 0))
    with pytest.raises(MvssError, match="non-finite"):
        sinkhorn_divergence(cloud(5, 0), cloud(5, 0) / 0)
