"""What views cannot tell, said in words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvss.problem import constraints
from mvss.problem.constraints import unconstrained
from mvss.problem.image_operators import Convolve
from mvss.problem.operators import Dense, Identity, LinearOperator, Mask, Scale
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
    lines = [line for line in of(*shown) if line.startswith("a and b are mixed") and "sign" not in line]
    assert lines == ([SAME] if said else [])


ONE = torch.eye(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("shown", "count", "names"),
    [
        ([{"a": ONE, "b": ONE, "c": ONE}, {"a": ONE, "b": 2 * ONE, "c": 3 * ONE}], 1, "a, b and c"),  # two equations
        ([{"a": ONE, "b": ONE, "c": ONE}, {"a": ONE, "b": 2 * ONE, "c": 3 * ONE}, {"a": ONE}], 0, ""),
        ([{"a": A, "b": normal(3, 2, seed=5)}], 1, "a and b"),  # two planes of three dimensions share a line
        ([{"a": A, "b": normal(3, 2, seed=5)}, {"a": A}], 0, ""),
        ([{"a": A, "b": A, "c": normal(3, 2, seed=5)}, {"c": A}], 3, "a and b"),  # told already, as a pair
        ([{"a": EACH, "b": normal(N, 3, 2, seed=6)}], 0, ""),
        ([{"a": 1e-6 * A, "b": 1e3 * A}, {"a": 1e-6 * A}], 0, ""),  # however faint
        ([{"a": A[:2], "b": A[:2]}, {"a": A[:1]}], 2, "a and b"),  # the rest of a is seen with b alone
        ([{"a": torch.eye(3)[:2], "b": torch.eye(3)[:2]}, {"a": torch.eye(3)[:2]}], 0, ""),  # unseen, but not shared
    ],
)
def test_covariances_that_are_shared_are_counted(shown: list[dict[str, Tensor]], count: int, names: str) -> None:
    views = Views(View(torch.zeros(N, next(iter(each.values())).shape[-2]), each, 0.1) for each in shown)
    assert constraints._shared(views) == (count, tuple(names.replace(" and", ",").split(", ")) if names else ())
    lines = [line for line in unconstrained(views) if "covariances" in line]
    told = f"{names} share {count} numbers of their covariances: no view tells how much of these is whose"
    paired = any("same proportion" in line for line in unconstrained(views))
    assert lines == ([told] if count and not paired else [])


def test_shared_covariances_are_those_that_brute_force_finds() -> None:
    """Null space of all products of rows, for operators of each observation, and masks."""
    rng = torch.Generator().manual_seed(4)
    masks = torch.rand(3, 4, generator=rng) > 0.4
    masks[:, 0] = True
    a, b = normal(4, 3, seed=1), normal(4, 2, seed=2)
    operators: dict[str, LinearOperator] = {"a": Mask(masks) @ Dense(a), "b": Mask(masks) @ Dense(b)}
    views = Views([View(torch.zeros(3, 4), operators, 0.1)])
    rows = []
    for mask in masks:
        f = [(mask[:, None] * m) for m in (a, b)]
        pairs = [(i, j) for i in range(4) for j in range(4)]
        rows += [
            torch.cat(
                [
                    torch.outer(m[i], m[j])[tuple(torch.tril_indices(m.shape[1], m.shape[1]))]
                    + torch.outer(m[j], m[i])[tuple(torch.tril_indices(m.shape[1], m.shape[1]))]
                    for m in f
                ]
            )
            for i, j in pairs
        ]
    equations = torch.stack(rows)
    nulls = [e.shape[1] - int(torch.linalg.matrix_rank(e)) for e in (equations, equations[:, :6], equations[:, 6:])]
    assert nulls[0] - nulls[1] - nulls[2] == constraints._shared(views)[0] > 0


def test_proportions_that_differ_by_sign_tell_odd_moments_alone() -> None:
    assert of({"a": A, "b": A}, {"a": A, "b": -A}) == [
        "a and b are mixed in the same proportion in every view but for its sign: their spreads cannot be told apart"
    ]


def test_proportions_of_all_observations_count_and_faint_ones_as_bright_ones() -> None:
    weights = torch.ones(MANY, 1, 1, dtype=torch.float64)
    weights[200:] = 0.5
    each = normal(MANY, 3, 2, seed=9)
    assert of({"a": each, "b": weights * each}, count=MANY) == []
    assert "proportion" not in "".join(of({"a": 1e-9 * A, "b": 1e-9 * normal(3, 2, seed=5)}))
    assert of({"a": 1e-9 * A, "b": 2e-9 * A}) == [SAME]


def test_every_pair_is_named_and_lines_are_single() -> None:
    found = of({"a": A, "b": A, "c": 2 * A})
    assert [line.split(" are ")[0] for line in found] == ["a and b", "a and c", "b and c"]
    assert not any("\n" in line for line in found)
