"""The spread of draws on a linear Gaussian model whose posterior is known: x ~ N(0, I) in R^5, y = x + 0.5 z."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvss.metrics.calibration import (
    ONE_SIGMA,
    coverage_error,
    informed_references,
    interval_coverage,
    rank_statistics,
    tarp_coverage,
)
from mvss.metrics.spread import energy_score, expectation_error, spread_influences, spread_ratio
from mvss.runtime.errors import MvssError

D, N, K = 5, 4000, 16
NOISE = 0.5
SPREAD = (1 / (1 + 1 / NOISE**2)) ** 0.5
"""Of the posterior, in every direction."""
CLOSED = SPREAD * math.gamma((D + 1) / 2) / math.gamma(D / 2)
"""Energy score of exact draws."""
RNG = torch.Generator().manual_seed(0)
TRUTH, Y_NOISE, Z, PRIOR = (
    torch.randn(*shape, generator=RNG, dtype=torch.float64) for shape in ((N, D), (N, D), (K, N, D), (K, N, D))
)
Y = TRUTH + NOISE * Y_NOISE
MEAN = Y / (1 + NOISE**2)
EXACT = MEAN + SPREAD * Z
LEVELS = torch.linspace(0, 1, 21, dtype=torch.float64)


def score(draws: Tensor) -> float:
    return float(energy_score(draws, TRUTH).mean())


def coverage(draws: Tensor) -> float:
    return interval_coverage(rank_statistics(draws, TRUTH), len(draws))


def error(draws: Tensor) -> float:
    points = informed_references(Y, NOISE, torch.Generator().manual_seed(1))
    return coverage_error(tarp_coverage(draws, TRUTH, points, LEVELS), LEVELS)


def test_exact_draws_have_the_scores_of_theory() -> None:
    assert spread_ratio(EXACT, TRUTH)[0] == pytest.approx(1, abs=0.03)
    assert coverage(EXACT) == pytest.approx(ONE_SIGMA, abs=0.01)
    assert score(EXACT) == pytest.approx(CLOSED, abs=4 * float(energy_score(EXACT, TRUTH).std()) / N**0.5)
    assert score(EXACT) == pytest.approx(CLOSED, rel=0.01)
    assert error(EXACT) < 1.63 / N**0.5


@pytest.mark.parametrize("count", [2, 4, 16])
def test_the_number_of_draws_brings_no_bias(count: int) -> None:
    assert spread_ratio(EXACT[:count], TRUTH)[0] == pytest.approx(1, abs=0.05)
    assert score(EXACT[:count]) == pytest.approx(CLOSED, rel=0.02)
    found, own = float(expectation_error(EXACT[:count], TRUTH).mean()), float((MEAN - TRUTH).square().mean())
    assert found == pytest.approx(own, rel=0.02) and own == pytest.approx(SPREAD**2, rel=0.05)
    assert float((EXACT[:count].mean(0) - TRUTH).square().mean()) == pytest.approx((1 + 1 / count) * own, rel=0.02)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_draws_of_another_width_have_its_square_as_ratio_and_a_worse_score(width: float) -> None:
    draws = MEAN + width * SPREAD * Z
    assert spread_ratio(draws, TRUTH)[0] == pytest.approx(width**2, rel=0.05)
    assert score(draws) > 1.05 * CLOSED
    assert abs(coverage(draws) - ONE_SIGMA) > 0.2


def test_draws_of_the_prior_are_flagged_by_energy_score_and_coverage_and_by_no_spread() -> None:
    """They are calibrated, in every coordinate: only what knows y can tell."""
    assert spread_ratio(PRIOR, TRUTH)[0] == pytest.approx(1, abs=0.05)
    assert coverage(PRIOR) == pytest.approx(ONE_SIGMA, abs=0.01)
    assert score(PRIOR) > 1.5 * CLOSED and error(PRIOR) > 0.1


def test_the_same_draw_again_and_again_has_no_spread_and_draws_too_wide_an_infinite_one() -> None:
    assert spread_ratio(MEAN.expand(K, N, D), TRUTH)[0] == 0
    opposite = torch.tensor([[[1.0]], [[-1.0]]])
    assert spread_ratio(opposite, torch.zeros(1, 1)) == (math.inf, math.inf)
    assert spread_influences(opposite, torch.zeros(1, 1)).tolist() == [math.inf]
    assert all(map(math.isnan, spread_ratio(opposite * math.nan, torch.zeros(1, 1))))


def test_the_standard_error_is_the_scatter_between_independent_observations() -> None:
    parts = [spread_ratio(x, t) for x, t in zip(EXACT.split(100, dim=1), TRUTH.split(100), strict=True)]
    ratios, errors = torch.tensor(parts, dtype=torch.float64).T
    assert float(ratios.std()) == pytest.approx(float(errors.mean()), rel=0.35)
    assert spread_ratio(EXACT, TRUTH)[1] == pytest.approx(float(errors.mean()) * (100 / N) ** 0.5, rel=0.1)


def test_the_influence_of_an_observation_is_what_the_ratio_loses_without_it() -> None:
    draws, truth = EXACT[:, :200], TRUTH[:200]
    (ratio, error), influences = spread_ratio(draws, truth), spread_influences(draws, truth)
    rest = [torch.arange(200) != row for row in range(200)]
    lost = torch.tensor([ratio - spread_ratio(draws[:, rows], truth[rows])[0] for rows in rest])
    assert float((199 * lost - influences).abs().max()) < 0.05 * float(influences.abs().max())
    assert float(influences.mean()) == pytest.approx(0, abs=1e-12)
    assert float(influences.norm()) / 200 == pytest.approx(error)


def test_the_energy_score_by_hand() -> None:
    """Distances 1, 1, 5 to the truth, and 2, 6, 4 between the draws; the numbers of an image are taken together."""
    draws = torch.tensor([1.0, -1.0, -5.0]).reshape(3, 1, 1)
    assert energy_score(draws, torch.zeros(1, 1)).tolist() == pytest.approx([7 / 3 - 12 / 6])
    square = torch.tensor([[[[[3.0, 4.0]]]], [[[[3.0, 4.0]]]]])
    assert energy_score(square, torch.zeros(1, 1, 1, 2)).tolist() == pytest.approx([5.0])


@pytest.mark.parametrize("score_of", [spread_ratio, energy_score])
def test_a_single_draw_has_no_spread(score_of: object) -> None:
    with pytest.raises(MvssError, match="2 of each truth"):
        score_of(torch.zeros(1, 3, 2), torch.zeros(3, 2))  # type: ignore[operator]
    with pytest.raises(MvssError, match="draws"):
        score_of(torch.zeros(4, 3, 2), torch.zeros(5, 2))  # type: ignore[operator]
