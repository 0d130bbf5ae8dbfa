"""PQMass: one law against itself, a shifted one, and what the wrapper promises about random state and output."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mvss.metrics.pqmass import pqmass
from mvss.runtime.errors import MvssError


def cloud(n: int, seed: int) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def test_one_law_gives_one_per_degree_of_freedom() -> None:
    results = [pqmass(cloud(512, 2 * seed), cloud(512, 2 * seed + 1), references=50, repeats=50) for seed in range(8)]
    assert np.mean([result.chi2_per_dof for result in results]) == pytest.approx(1.0, abs=0.1)
    assert 0.2 < np.mean([result.p_value for result in results]) < 0.8


def test_a_shifted_law_is_caught_and_stays_finite() -> None:
    near, far = (pqmass(cloud(512, 0) + shift, cloud(512, 1), repeats=20) for shift in (0.5, 50.0))
    assert near.chi2_per_dof > 1.5
    assert near.p_value < 0.05
    assert math.isfinite(far.chi2_per_dof)
    assert far.chi2_per_dof > near.chi2_per_dof


def test_collapsed_draws_are_scored() -> None:
    result = pqmass(torch.zeros(512, 5), cloud(512, 1), repeats=5)
    assert result.chi2_per_dof > 2


def test_seeded_and_leaves_global_state_and_output_alone(capfd: pytest.CaptureFixture[str]) -> None:
    x, y = cloud(256, 0), cloud(256, 1)
    np.random.seed(3)
    expected = np.random.uniform()
    np.random.seed(3)
    torch_state = torch.get_rng_state()
    first, second, other = (pqmass(x, y, repeats=5, seed=seed) for seed in (1, 1, 2))
    assert np.random.uniform() == expected
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert first == second != other
    assert capfd.readouterr() == ("", "")


def test_images_are_flattened() -> None:
    x, y = cloud(256, 0)[:, :4], cloud(256, 1)[:, :4]
    assert pqmass(x.reshape(256, 1, 2, 2), y.reshape(256, 1, 2, 2), repeats=3) == pqmass(x, y, repeats=3)


def test_bad_input_is_refused() -> None:
    with pytest.raises(MvssError, match="references"):
        pqmass(cloud(100, 0), cloud(100, 1))
    with pytest.raises(MvssError, match="non-finite"):
        pqmass(cloud(256, 0) / 0, cloud(256, 1))
    with pytest.raises(MvssError, match="sizes"):
        pqmass(cloud(256, 0)[:, :3], cloud(256, 1))


def test_tessellations_that_say_nothing_are_left_out() -> None:
    """One reference in the middle of a shell of points in many dimensions is the nearest to all of them."""
    rng = torch.Generator().manual_seed(0)
    shell = torch.nn.functional.normalize(torch.randn(60, 400, generator=rng, dtype=torch.float64), dim=1)
    middle = torch.zeros(1, 400, dtype=torch.float64)
    found = pqmass(torch.cat([shell[:30], middle]), torch.cat([shell[30:], middle]), references=2, repeats=200)
    assert math.isfinite(found.chi2_per_dof)
    alone = pqmass(torch.zeros(8, 3), torch.zeros(8, 3), references=2, repeats=3)
    assert math.isnan(alone.p_value) and math.isnan(alone.chi2_per_dof)
