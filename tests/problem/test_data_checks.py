"""What is said of observations that are in an order, or far from zero."""

from __future__ import annotations

__all__: list[str] = []

import pytest
import torch
from torch import Tensor

from mvss.problem.data_checks import FAR, data_warnings
from mvss.problem.operators import Identity, Mask
from mvss.problem.views import View, Views

N = 400


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(y: Tensor, mask: Tensor | None = None) -> list[str]:
    here = Identity(tuple(y.shape[1:]))
    return data_warnings(Views([View(y, {"a": here if mask is None else Mask(mask) @ here}, 0.1, "night")]))


LINE = "night: its first observations, by which a fit is judged, differ from the others in {}: shuffle them"


@pytest.mark.parametrize("descending", [True, False])
def test_sorted_observations_are_told(descending: bool) -> None:
    y = normal(N, 5)
    assert of(y[y.mean(1).argsort(descending=descending)]) == [LINE.format("brightness")]
    assert of(y[y.var(1).argsort(descending=descending)]) == [LINE.format("contrast")]


def test_a_drift_is_told_and_a_wild_number_is_not() -> None:
    assert of(normal(N, 5) + torch.linspace(0, 2, N)[:, None]) == [LINE.format("brightness")]
    y = normal(N, 5)
    y[3, 2] = 1e6
    assert of(y) == []


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_observations_are_not(seed: int) -> None:
    assert of(normal(N, 5, seed=seed).exp()) == []


def test_few_observations_are_not_judged() -> None:
    assert of(normal(90, 5).sort(0).values) == []


def test_an_offset_is_told_however_large_the_numbers_that_were_not_measured() -> None:
    y, mask = normal(N, 5), torch.ones(N, 5, dtype=torch.bool)
    mask[:, 1:] = torch.rand(N, 4, generator=torch.Generator().manual_seed(1)) > 0.2
    assert of((y + 1000.0).where(mask, 1e200), mask)[0].startswith("night: its numbers lie 10")
    assert of((y + 0.5 * FAR).where(mask, 1e200), mask) == []
