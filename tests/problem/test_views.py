"""Views and their validation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mvss.problem.noise import Diagonal, Isotropic
from mvss.problem.operators import Dense, Identity, LinearOperator, Scale, Zero
from mvss.problem.views import MultiViewData, View
from mvss.runtime.errors import MvssError

Y, NOISE = torch.ones(5, 3), Isotropic(0.1)
SMALL = Dense(torch.ones(5, 3, 2))  # of a source of two numbers
FIRST = View(Y, (Identity((3,)), Zero((2,), (3,))), NOISE)
SECOND = View(Y, (Zero((3,), (3,)), SMALL), NOISE)
BOTH = View(torch.ones(7, 4), (Dense(torch.ones(4, 3)), Dense(torch.ones(7, 4, 2))), Isotropic(torch.ones(7)))
SHAPES = ((3,), (2,))


def view(*operators: LinearOperator, y: torch.Tensor = Y, noise: Isotropic | Diagonal = NOISE) -> View:
    return View(y, operators, noise, "the view")


def spoiled(value: float) -> torch.Tensor:
    y = Y.clone()
    y[2, 1] = value
    return y


def test_three_views_of_two_sources() -> None:
    data = MultiViewData((FIRST, SECOND, BOTH), SHAPES)
    assert [v.shown for v in data.views] == [(0,), (1,), (0, 1)]
    assert data.showing([0]) == (0, 2) and data.showing([1]) == (1, 2) and data.showing([0, 1]) == (0, 1, 2)
    assert len(BOTH) == 7 and BOTH.observation_shape == (4,)


def test_selection_keeps_operators_and_noise_with_their_observations() -> None:
    sigma = torch.arange(1.0, 6.0)
    matrices = torch.arange(5.0).reshape(5, 1, 1) * torch.ones(5, 3, 2)
    whole = View(torch.arange(15.0).reshape(5, 3), (Identity((3,)), Dense(matrices)), Isotropic(sigma), "name")
    rows = torch.tensor([4, 0])
    part = whole.select(rows).to("cpu")
    assert part.name == "name" and part.shown == (0, 1)
    assert torch.equal(part.y, whole.y[rows])
    assert torch.equal(part.operators[1].dense(), matrices[rows].double())
    assert torch.equal(part.noise.variance(part.y)[:, 0], sigma[rows] ** 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: view(Identity((3,)), y=spoiled(float("nan"))), "NaN"),
        (lambda: view(Identity((3,)), y=spoiled(float("inf"))), "NaN"),
        (lambda: view(Identity((3,)), y=Y[:0]), "N > 0"),
        (lambda: view(Identity((3,)), y=Y[0]), "N > 0"),
        (lambda: view(Identity((4,))), r"source 1 gives \(4,\)"),
        (lambda: view(Identity((3,)), Dense(torch.ones(6, 3, 2))), "source 2 has 6 operators for 5"),
        (lambda: view(Scale(0.5, (3,)) @ Dense(torch.ones(6, 3, 2))), "source 1 has 6 operators for 5"),
        (lambda: view(Zero((3,), (3,)), Scale(0.0, (3,))), "no operator reaches"),
        (lambda: view(), "no operator reaches"),
        (lambda: view(Identity((3,)), noise=Isotropic(torch.ones(4))), "noise does not fit"),
        (lambda: view(Identity((3,)), noise=Diagonal(torch.ones(5, 2))), "noise does not fit"),
        (lambda: view(Identity((3,)), noise=Diagonal(torch.ones(3))), "Diagonal noise"),
        (lambda: MultiViewData((FIRST,), SHAPES), "source 2 is shown by no view"),
        (lambda: MultiViewData((SECOND,), SHAPES), "source 1 is shown by no view"),
        (lambda: MultiViewData((), SHAPES), "source 1 is shown by no view"),
        (lambda: MultiViewData((FIRST, BOTH), ((3,), (3,))), "the sources have shapes"),
        (lambda: MultiViewData((view(Identity((3,))),), SHAPES), "the sources have shapes"),
    ],
)
def test_bad_data_are_refused_in_one_line(make: Callable[[], object], words: str) -> None:
    with pytest.raises(MvssError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
