"""What views cannot tell, said in words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvss.problem.constraints import unconstrained
from mvss.problem.image_operators import Convolve
from mvss.problem.operators import Identity, LinearOperator, Mask, Scale
from mvss.problem.views import View, Views

N = 6


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(*shown: dict[str, LinearOperator | Tensor], count: int = N) -> list[str]:
    """What is said of views of so many observations with such operators."""
    views = []
    for operators in shown:
        operator = next(iter(operators.values()))
        size = operator.observation_shape if isinstance(operator, LinearOperator) else operator.shape[-2:-1]
        views.append(View(torch.zeros(count, *size), operators, 0.1))
    return unconstrained(Views(views))


def test_directions_that_no_view_shows_are_counted() -> None:
    rows = torch.eye(5, dtype=torch.float64)
    turned = torch.linalg.qr(normal(5, 5, seed=0)).Q
    assert of({"a": rows[:3]}) == ["2 directions of a are seen by no view: there its prior is what it was to begin with"]
    assert of({"a": rows[:3] @ turned})[0].startswith("2 directions of a ")  # of no one number, as well
    assert of({"a": rows[:3]}, {"a": rows[2:4]})[0].startswith("1 directions of a ")
    assert of({"a": rows[:3]}, {"a": rows[2:]}) == []  # each view by itself shows less than all
    assert of({"a": rows[:1]}, {"a": rows[1:2], "b": rows[1:2]})[0].startswith("3 directions of a ")
    assert of({"a": 1e4 * rows[:3]}, {"a": rows[2:]}) == []  # faint is not unseen
    assert of({"a": normal(N, 1, 5, seed=1)}) == []  # a row each: together they show all
    assert of({"a": normal(1, 1, 5, seed=1).expand(N, -1, -1).clone()})[0].startswith("4 directions of a ")


def test_pixels_of_large_sources_are_counted() -> None:
    shape, mask = (1, 20, 20), torch.ones(1, 1, 20, 20, dtype=torch.bool)
    mask[..., :2, :] = False
    assert of({"a": Mask(mask)}) == ["40 numbers of a are seen by no view: there its prior is what it was to begin with"]
    assert of({"a": Mask(mask)}, {"a": Identity(shape)}) == []
    assert of({"a": Scale(1e-3, shape) @ Mask(mask)})[0].startswith("40 numbers of a ")
    kernel = torch.zeros(3, 3, dtype=torch.float64)
    kernel[1, 1] = 1.0  # the border is never looked at
    assert of({"a": Convolve(shape, kernel, "valid")})[0].startswith(f"{400 - 18**2} numbers of a ")


def test_masks_of_observations_together_show_all() -> None:
    masks = torch.ones(N, 1, 20, 20, dtype=torch.bool)
    masks[0, ..., :2, :] = False
    assert of({"a": Mask(masks)}) == []


MANY = 300


@pytest.mark.parametrize("side", [8, 20])
def test_what_few_observations_show_is_not_unseen(side: int) -> None:
    """Of masks that leave little of each, however large the source."""
    masks = torch.rand(MANY, 1, side, side, generator=torch.Generator().manual_seed(0)) > 0.95
    masks[:, :, 1, 1], masks[:, :, 0] = True, False  # no observation is empty
    masks[0, :, 0, 0] = masks[-1, :, 0, 1:3] = True
    hidden = of({"a": Mask(masks), "b": Mask(masks) @ Scale(0.5, (1, side, side))}, count=MANY)
    kind = "directions" if side == 8 else "numbers"
    assert [line.split(" are ")[0] for line in hidden[:2]] == [f"{side - 3} {kind} of {source}" for source in "ab"]


def test_rows_of_all_observations_show_what_those_of_the_first_do_not() -> None:
    rows = normal(MANY, 1, 100, seed=8)
    assert of({"a": rows}, count=MANY) == []
    assert of({"a": rows @ torch.diag(torch.arange(100.0).double())}, count=MANY)[0].startswith("1 directions of a ")


def test_a_kernel_that_leaves_nothing_of_even_light_is_not_blind() -> None:
    kernel = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert of({"a": Convolve((1, 20, 20), kernel, "same")}) == []


SAME = "a and b are mixed in the same proportion in every view: they cannot be told apart"
A = normal(3, 2, seed=2)
EACH = normal(N, 3, 2, seed=3)


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([{"a": A, "b": A}], True),
        ([{"a": A, "b": 0.5 * A}], True),
        ([{"a": A, "b": -0.5 * A}, {"a": 2 * A, "b": -A}], True),
        ([{"a": EACH, "b": 0.3 * EACH}], True),
        ([{"a": A, "b": A}, {"a": 3 * EACH, "b": 3 * EACH}], True),  # other operators, the same proportion
        ([{"a": A, "b": A}, {"c": normal(3, 2, seed=4)}], True),
        ([{"a": A, "b": 0.5 * A}, {"a": A, "b": 0.4 * A}], False),  # mixed, as in the paper
        ([{"a": A, "b": A}, {"a": A}], False),  # contrastive
        ([{"a": A}, {"b": A}], False),
        ([{"a": A, "b": normal(3, 2, seed=5)}], False),
        ([{"a": EACH, "b": normal(N, 3, 2, seed=6)}], False),
        ([{"a": A, "b": normal(3, 4, seed=7)}], False),  # of other sizes
        ([{"a": A, "b": A}, {"a": A, "b": -A}], False),
    ],
)
def test_sources_in_the_same_proportion_everywhere_are_named(shown: list[dict[str, Tensor]], said: bool) -> None:
    lines = [line for line in of(*shown) if "directions" not in line]
    assert lines == ([SAME] if said else [])


def test_proportions_of_all_observations_count_and_faint_ones_as_bright_ones() -> None:
    weights = torch.ones(MANY, 1, 1, dtype=torch.float64)
    weights[200:] = 0.5
    each = normal(MANY, 3, 2, seed=9)
    assert of({"a": each, "b": weights * each}, count=MANY) == []
    assert of({"a": 1e-9 * A, "b": 1e-9 * normal(3, 2, seed=5)}) == []
    assert of({"a": 1e-9 * A, "b": 2e-9 * A}) == [SAME]


def test_every_pair_is_named_and_lines_are_single() -> None:
    found = of({"a": A, "b": A, "c": 2 * A})
    assert [line.split(" are ")[0] for line in found] == ["a and b", "a and c", "b and c"]
    assert not any("\n" in line for line in found)
