"""Observations that no network learns from."""

from __future__ import annotations

import pytest
import torch

from mvss.problem.held_out import held_out, learned_from
from mvss.problem.operators import Identity
from mvss.problem.views import View, Views

CPU = torch.device("cpu")


def numbered(n: int) -> Views:
    return Views([View(torch.arange(float(n)).unsqueeze(1), {"a": Identity((1,))}, 0.1)])


@pytest.mark.parametrize(("n", "most", "held"), [(100, None, 10), (100, 20, 10), (100, 4, 4), (5, None, 1), (5, 4, 1)])
def test_the_first_ones_are_held_out_and_no_more_than_are_asked_for(n: int, most: int | None, held: int) -> None:
    (view,) = held_out(numbered(n), 0.1, CPU, most)
    assert view.y[:, 0].tolist() == list(range(held))


def test_networks_learn_from_all_others() -> None:
    assert learned_from(numbered(100), 0.1)[0].y[:, 0].tolist() == list(range(10, 100))
