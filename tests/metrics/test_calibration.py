"""Calibration on a linear Gaussian model whose posterior is known: right draws pass, and two known failures are caught.

x ~ N(0, I) in R^3, y = A x + 0.1 z in R^2 with A of its own for every observation.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mvss.metrics.calibration import (
    ONE_SIGMA,
    coverage_error,
    informed_references,
    interval_coverage,
    rank_errors,
    rank_statistics,
    tarp_coverage,
)
from mvss.runtime.errors import MvssError

LEVELS = torch.linspace(0, 1, 21, dtype=torch.float64)
NOISE, N, L = 0.1, 2000, 50
BOUND = 1.63 / N**0.5  # Kolmogorov's law: calibrated draws exceed it with probability 0.01


@dataclass
class Problem:
    truth: Tensor  # (N, 3)
    pseudo_inverse: Tensor  # A^+ y, (N, 3)
    mean: Tensor  # of the posterior, (N, 3)
    factor: Tensor  # Cholesky factor of its covariance, (N, 3, 3)
    prior: Tensor  # draws that ignore y, (L, N, 3)

    def draws(self, width: float = 1.0) -> Tensor:
        z = torch.randn(L, N, 3, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return self.mean + width * (self.factor @ z).squeeze(-1)


@pytest.fixture(scope="module")
def problem() -> Problem:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    truth, matrix = normal(N, 3), torch.nn.functional.normalize(normal(N, 2, 3), dim=-1)
    y = torch.einsum("nij,nj->ni", matrix, truth) + NOISE * normal(N, 2)
    covariance = torch.linalg.inv(torch.eye(3, dtype=torch.float64) + matrix.mT @ matrix / NOISE**2)
    mean = (covariance @ matrix.mT @ y[..., None]).squeeze(-1) / NOISE**2
    pseudo_inverse = (torch.linalg.pinv(matrix) @ y[..., None]).squeeze(-1)
    return Problem(truth, pseudo_inverse, mean, torch.linalg.cholesky(covariance), normal(L, N, 3))


def references(problem: Problem, informed: bool) -> Tensor:
    estimate = problem.pseudo_inverse if informed else torch.zeros(N, 3, dtype=torch.float64)
    return informed_references(estimate, 0.3 if informed else 1.0, torch.Generator().manual_seed(2))


def error(problem: Problem, draws: Tensor, informed: bool) -> float:
    return coverage_error(tarp_coverage(draws, problem.truth, references(problem, informed), LEVELS), LEVELS)


@pytest.mark.parametrize("informed", [False, True])
def test_exact_draws_are_calibrated(problem: Problem, informed: bool) -> None:
    assert error(problem, problem.draws(), informed) < BOUND


@pytest.mark.parametrize("informed", [False, True])
@pytest.mark.parametrize("width", [0.5, 2.0])
def test_wrong_widths_are_caught(problem: Problem, width: float, informed: bool) -> None:
    assert error(problem, problem.draws(width), informed) > 2 * BOUND


def test_draws_that_ignore_the_observation_are_caught_by_informed_references_only(problem: Problem) -> None:
    """They follow the law of the truth, so that neither coordinate ranks nor uninformed references can tell."""
    assert error(problem, problem.prior, informed=False) < BOUND
    assert error(problem, problem.prior, informed=True) > 0.2
    ranks = rank_statistics(problem.prior, problem.truth).double()
    assert ranks.mean(0).tolist() == pytest.approx([L / 2] * 3, abs=4 * (L / 12**0.5) / N**0.5)


def test_ranks_are_uniform_for_exact_draws_and_extreme_for_narrow_ones(problem: Problem) -> None:
    def ends(draws: Tensor) -> float:
        ranks = rank_statistics(draws, problem.truth)
        assert ranks.shape == (N, 3)
        assert not ranks.is_floating_point()
        assert 0 <= int(ranks.min()) <= int(ranks.max()) <= L
        return float(((ranks < 5) | (ranks > L - 5)).double().mean())

    assert ends(problem.draws()) == pytest.approx(10 / (L + 1), abs=0.02)
    assert ends(problem.draws(0.5)) > 0.4


def test_ranks_by_hand() -> None:
    draws = torch.tensor([[[0.0, 5.0]], [[1.0, 6.0]], [[2.0, 7.0]]])
    assert rank_statistics(draws, torch.tensor([[1.5, 0.0]])).tolist() == [[2, 0]]


def test_coverage_by_hand() -> None:
    """One draw of three is nearer to the reference than the truth: k = 1, spread over (1/4, 2/4) of the levels."""
    draws = torch.tensor([1.0, 3.0, 4.0]).reshape(3, 1, 1)
    levels = torch.tensor([0.0, 0.25, 0.375, 0.5, 1.0])
    coverage = tarp_coverage(draws, torch.full((1, 1), 2.0), torch.zeros(1, 1), levels)
    assert coverage.tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    assert coverage_error(coverage, levels) == pytest.approx(0.5)


def test_agrees_with_the_tarp_package(problem: Problem) -> None:
    """The package bins k / L; at its bin edges the two differ by the treatment of one rank, about 1 / L."""
    tarp = pytest.importorskip("tarp")
    for draws in (problem.draws(), problem.draws(0.5), problem.prior):
        points = references(problem, informed=True)
        expected, levels = tarp.get_tarp_coverage(
            draws.numpy(), problem.truth.numpy(), references=points.numpy(), num_alpha_bins=20
        )
        coverage = tarp_coverage(draws, problem.truth, points, torch.as_tensor(levels))
        inner = slice(1, -1)  # its first and last bin hold the ends k = 0 and k = L whole
        assert (coverage[inner] - torch.as_tensor(expected)[inner]).abs().max() < 2.5 / L


def test_mismatched_shapes_are_refused() -> None:
    with pytest.raises(MvssError, match="draws"):
        rank_statistics(torch.zeros(4, 3, 2), torch.zeros(5, 2))
    with pytest.raises(MvssError, match="reference"):
        tarp_coverage(torch.zeros(4, 3, 2), torch.zeros(3, 2), torch.zeros(1, 2), LEVELS)


def test_the_error_of_ranks_is_the_largest_gap_of_their_distribution() -> None:
    # uniform on 0..4; all at 0: 1 against 1/5
    both = torch.stack([torch.arange(5), torch.zeros(5, dtype=torch.long)], dim=1)
    assert rank_errors(both, 4).tolist() == pytest.approx([0, 0.8])


def test_ranks_of_coordinates_see_the_width_and_ranks_of_the_misfit_see_draws_that_ignore_y(problem: Problem) -> None:
    def ranks(draws: Tensor) -> float:
        return float(rank_errors(rank_statistics(draws, problem.truth), L).max())

    assert ranks(problem.draws()) < 1.2 * BOUND < ranks(problem.draws(0.5))
    assert ranks(problem.prior) < 1.2 * BOUND  # blind to it
    inverse = torch.linalg.inv(problem.factor)  # the misfit here: the distance from the posterior's mean in its own units

    def misfit(x: Tensor) -> Tensor:
        return (inverse @ (x - problem.mean)[..., None]).squeeze(-1).square().sum(-1)

    def misfit_error(draws: Tensor) -> float:
        return float(rank_errors(rank_statistics(misfit(draws), misfit(problem.truth))[:, None], L))

    assert misfit_error(problem.draws()) < BOUND < 0.5 < misfit_error(problem.prior)


@pytest.mark.parametrize("count", [2, 6, 16])
def test_intervals_of_few_exact_draws_cover_what_they_should(problem: Problem, count: int) -> None:
    def coverage(draws: Tensor) -> float:
        return interval_coverage(rank_statistics(draws[:count], problem.truth), count)

    assert coverage(problem.draws()) == pytest.approx(ONE_SIGMA, abs=0.01)
    assert coverage(problem.draws(0.5)) < ONE_SIGMA - 0.05 < ONE_SIGMA + 0.05 < coverage(problem.draws(2.0))


def test_coverage_of_intervals_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four draws the middle half is from 1.25 to 3.75 in units of ranks: all of rank 2, three quarters of 1 and of 3."""
    monkeypatch.setattr("mvss.metrics.calibration.ONE_SIGMA", 0.5)
    shares = [interval_coverage(torch.tensor([rank]), 4) for rank in range(5)]
    assert shares == pytest.approx([0, 0.75, 1, 0.75, 0])


def test_ties_are_split_at_random() -> None:
    """Pixels that are black in truth and in all draws are calibrated."""
    nothing = torch.zeros(16, 5000, 1)
    ranks = rank_statistics(nothing, nothing[0], torch.Generator().manual_seed(0))
    assert float(rank_errors(ranks, 16)) < 1.63 / 5000**0.5
    assert interval_coverage(ranks, 16) == pytest.approx(ONE_SIGMA, abs=0.02)
    assert rank_statistics(nothing, nothing[0]).max() == 0
