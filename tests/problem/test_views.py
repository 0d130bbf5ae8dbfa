"""Views and their validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mvss.problem.image_operators import Convolve
from mvss.problem.noise import Diagonal, Isotropic, Noise, Stationary
from mvss.problem.operators import Dense, Identity, LinearOperator, Scale
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError

Y, NOISE = torch.ones(5, 3), Isotropic(0.1)
SMALL = Dense(torch.ones(5, 3, 2))  # of a source of two numbers
FIRST = View(Y, {"a": Identity((3,))}, NOISE)
SECOND = View(Y, {"b": SMALL}, NOISE)
BOTH = View(torch.ones(7, 4), {"a": Dense(torch.ones(4, 3)), "b": Dense(torch.ones(7, 4, 2))}, torch.ones(7))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def view(y: object = Y, noise: object = NOISE, **operators: object) -> View:
    return View(y, operators, noise, "the view")  # type: ignore[arg-type]


def spoiled(value: float) -> Tensor:
    y = Y.clone()
    y[2, 1] = value
    return y


def test_three_views_of_two_sources() -> None:
    data = Views([FIRST, SECOND, BOTH])
    assert [v.sources for v in data] == [("a",), ("b",), ("a", "b")]
    assert data.showing(["a"]) == (0, 2) and data.showing(["b"]) == (1, 2) and data.showing(["a", "b"]) == (0, 1, 2)
    assert data.showing([]) == () and data.sources == ("a", "b") and data.shapes == {"a": (3,), "b": (2,)}
    assert len(BOTH) == 7 and BOTH.observation_shape == (4,) and BOTH.shapes == data.shapes
    assert len(data) == 3 and data[1] is SECOND and data[-1] is BOTH and list(data[:2]) == [FIRST, SECOND]


def test_selection_keeps_operators_noise_and_numbers_with_their_observations() -> None:
    sigma = torch.arange(1.0, 6.0)
    matrices = torch.arange(1.0, 6.0).reshape(5, 1, 1) * torch.ones(5, 3, 2)
    whole = View(torch.arange(15.0).reshape(5, 3), {"a": Identity((3,)), "b": Dense(matrices)}, Isotropic(sigma), "name")
    assert torch.equal(whole.numbers, torch.arange(5))
    rows = torch.tensor([4, 0])
    part = whole.select(rows).to("cpu")
    assert part.name == "name" and part.sources == ("a", "b")
    assert torch.equal(part.y, whole.y[rows]) and torch.equal(part.numbers, rows)
    assert torch.equal(part.operators["b"].dense(), matrices[rows].double())
    assert torch.equal(part.noise.variance(part.y)[:, 0], sigma.double()[rows] ** 2)
    again = whole.select(slice(1, None)).select(torch.tensor([3, 0]))
    assert torch.equal(again.numbers, torch.tensor([4, 1])) and torch.equal(again.y, whole.y[[4, 1]])
    assert torch.equal(whole.select(torch.tensor([False, True, False, False, True])).numbers, torch.tensor([1, 4]))
    numbered = View(Y, {"a": Identity((3,))}, 0.1, numbers=torch.tensor([9, 8, 7, 6, 5]))
    assert torch.equal(numbered.select(rows).numbers, torch.tensor([5, 9]))
    parts = Views([whole, whole]).select([slice(0, 2), rows])
    assert [v.numbers.tolist() for v in parts] == [[0, 1], [4, 0]]


@pytest.mark.parametrize("kind", ["lists", "array", "integers", "single"])
def test_observations_matrices_and_noise_are_whatever_holds_numbers(kind: str) -> None:
    make: Callable[[Tensor], object] = {
        "lists": Tensor.tolist,
        "array": Tensor.numpy,
        "integers": lambda x: x.numpy().astype(np.int32),
        "single": Tensor.float,
    }[kind]
    y, a, b = (torch.round(3 * normal(*s, seed=n)) for n, s in enumerate([(4, 3), (3, 2), (4, 3, 2)]))
    found = View(make(y), {"a": make(a), "b": make(b)}, 2)  # type: ignore[dict-item]
    assert found.y.dtype == torch.float64 and torch.equal(found.y, y)
    assert found.operators["a"].count is None and found.operators["b"].count == 4
    assert torch.equal(found.operators["a"].dense()[0], a) and torch.equal(found.operators["b"].dense(), b)
    assert bool((found.noise.variance(found.y) == 4.0).all())


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (0.5, torch.full((2, 1, 3), 0.5)),
        (np.float64(0.5), torch.full((2, 1, 3), 0.5)),
        ([0.1, 0.2], torch.tensor([0.1, 0.2])[:, None, None].expand(2, 1, 3)),
        (np.array([[[0.1, 0.2, 0.3]]]), torch.tensor([[[0.1, 0.2, 0.3]]]).expand(2, 1, 3)),
        (torch.arange(1.0, 7.0).reshape(2, 1, 3), torch.arange(1.0, 7.0).reshape(2, 1, 3)),
        (Diagonal(torch.full((1, 1, 3), 0.2)), torch.full((2, 1, 3), 0.2)),
    ],
)
def test_noise_is_a_number_one_each_or_a_map(noise: Noise | float, expected: Tensor) -> None:
    found = View(torch.zeros(2, 1, 3), {"a": Identity((1, 3))}, noise)
    torch.testing.assert_close(found.noise.variance(found.y), expected.double().square(), rtol=1e-6, atol=0)
    assert found.noise.variance(found.y).shape == (2, 1, 3)


def test_what_is_left_of_a_view_and_what_is_predicted() -> None:
    a, b = Dense(normal(3, 2, seed=0)), Dense(normal(4, 3, 5, seed=1))
    x = {"a": normal(4, 2, seed=2), "b": normal(4, 5, seed=3), "other": normal(4, 9, seed=4)}
    numbers = torch.tensor([3, 1, 4, 5])
    whole = View(normal(4, 3, seed=5), {"a": a, "b": b}, [0.1, 0.2, 0.3, 0.4], "v", numbers)
    torch.testing.assert_close(whole.predicted(x), a.forward(x["a"]) + b.forward(x["b"]))
    left = whole.without("a", x["a"].float())
    assert left.sources == ("b",) and left.name == "v" and torch.equal(left.numbers, numbers) and left.noise is whole.noise
    torch.testing.assert_close(left.y, whole.y - a.forward(x["a"].float().double()))
    torch.testing.assert_close(left.select(slice(1, 3)).predicted({"b": x["b"][1:3]}), b.forward(x["b"])[1:3])
    nothing = left.without("b", x["b"])
    torch.testing.assert_close(nothing.y, whole.y - whole.predicted(x), rtol=1e-5, atol=1e-6)
    assert nothing.sources == () and whole.sources == ("a", "b")


def staged(*shown: str) -> tuple[tuple[str, ...], ...]:
    """Stages of views that show sources of one letter each."""
    return Views(View(Y, dict.fromkeys(letters, Identity((3,))), 0.1) for letters in shown).stages()


def test_stages_are_what_views_allow() -> None:
    assert staged("b", "bt") == (("b",), ("t",))  # contrastive
    assert staged("bt", "b") == (("b",), ("t",))  # in whatever order
    assert staged("a", "ab", "abc") == (("a",), ("b",), ("c",))
    assert staged("ab", "ab") == (("a", "b"),)  # mixed: nothing is ever alone
    assert staged("a", "b", "ab") == (("a", "b"),)
    assert staged("a", "abc") == (("a",), ("b", "c"))
    assert staged("ab", "abc") == (("a", "b"), ("c",))
    assert staged("a") == (("a",),)


def bad_operator() -> LinearOperator:
    return Scale(0.5, (3,)) @ Dense(torch.ones(6, 3, 2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: view(spoiled(float("nan")), a=Identity((3,))), r"y is nan at \(2, 1\): put any number there and a Mask into "),
        (lambda: view(spoiled(float("inf")), a=Identity((3,))), r"y is inf at \(2, 1\): .* missing: nan\), or leave the obs"),
        (lambda: view(Y[:0], a=Identity((3,))), r"none of them 0, got \(0, 3\)"),
        (lambda: view(Y[:, :0], a=Identity((0,))), r"none of them 0, got \(5, 0\)"),
        (lambda: view(Y[0], a=Identity((3,))), r"must be \(N, \*observation_shape\)"),
        (lambda: view(a=Identity((4,))), r"the operator of a gives \(4,\)"),
        (lambda: view(a=Identity((3,)), b=Dense(torch.ones(6, 3, 2))), "b has 6 operators for 5"),
        (lambda: view(a=bad_operator()), "a has 6 operators for 5"),
        (lambda: view(a=Identity((3,)), b=Scale(0.0, (3,))), "the operator of b is zero"),
        (lambda: view(a=Identity((3,)), b=torch.zeros(3, 2)), "the operator of b is zero"),
        (lambda: View(torch.zeros(5, 1, 3), {"a": Convolve((1, 3), [0, 0, 0], "same")}, 0.1), "the operator of a is zero"),
        (lambda: view(), "no operator reaches"),
        (lambda: view(a=torch.ones(3)), r"\(M, D\) or \(N, M, D\)"),
        (lambda: view(a=[[1.0, float("nan")]] * 3), "NaN"),
        (lambda: view(a=[[1.0, 2.0], [1.0]]), "the view: the matrix of a must be real numbers of one shape"),
        (lambda: view([[1.0, 2.0], [1.0]], a=Identity((3,))), "the view: y must be real numbers of one shape"),
        (lambda: view(torch.ones(5, 3, dtype=torch.complex64), a=Identity((3,))), "y must be real numbers"),
        (lambda: view("many", a=Identity((3,))), "y must be real numbers"),
        (lambda: view(noise="little", a=Identity((3,))), "the noise must be real numbers"),
        (lambda: view(noise=None, a=Identity((3,))), "the noise must be .*, not None: give a standard"),
        (lambda: view(noise=0.0, a=Identity((3,))), "positive and finite"),
        (lambda: view(noise=Isotropic(torch.ones(4)), a=Identity((3,))), "noise does not fit"),
        (lambda: view(noise=torch.ones(4), a=Identity((3,))), "noise does not fit"),
        (lambda: view(noise=Diagonal(torch.ones(5, 2)), a=Identity((3,))), "noise does not fit"),
        (lambda: view(noise=torch.ones(4, 3), a=Identity((3,))), "noise does not fit"),
        (lambda: view(noise=Diagonal(torch.ones(3)), a=Identity((3,))), "Diagonal noise"),
        (lambda: Views([]), "there is no view"),
        (lambda: Views(FIRST), "a list of mvss.View"),  # type: ignore[arg-type]
        (lambda: Views([Y]), "a list of mvss.View"),  # type: ignore[list-item]
        (lambda: View(Y, [Identity((3,))], 0.1), "a dictionary, by the name"),  # type: ignore[arg-type]
        (lambda: View(Y, {1: Identity((3,))}, 0.1), "a dictionary, by the name"),  # type: ignore[dict-item]
        (
            lambda: Views([FIRST, View(Y, {"a": Dense(torch.ones(3, 2))}, NOISE, "the view")]),
            r"the view: a has shape \(2,\) here",
        ),
    ],
)
def test_bad_data_are_refused_in_one_line(make: Callable[[], object], words: str) -> None:
    with pytest.raises(MvssError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


ODD = [
    *(
        None,
        True,
        math.inf,
        1j,
        "text",
        b"x",
        Path("x"),
        {},
        {"a": 1},
        set(),
        object(),
        len,
        Isotropic,
        range(4),
        iter([1, 2, 3]),
    ),
    *([], [1, [2, 3]], ["a"], [None] * 5, [True] * 5, [2**70] * 5, [[0]] * 5, [torch.eye(2)], torch.device("cpu")),
    *(np.array(["x"] * 5), np.array([None] * 5), np.zeros(5, "datetime64[s]"), np.zeros(5, [("a", "f4")]), np.zeros((0, 3))),
    *(np.ma.masked_array(np.ones((5, 3)), np.eye(5, 3)), Stationary(torch.ones(1, 1))),
    *(torch.ones(5).to_sparse(), torch.ones(3, 3).to_sparse(), torch.ones(5, device="meta"), torch.zeros(5, dtype=torch.bool)),
]
"""No argument of a view means any of these, but for a few of one."""


@pytest.mark.parametrize("argument", ["y", "operators", "operator", "noise", "numbers", "name"])
def test_odd_kinds_are_refused_by_the_name_of_the_argument(argument: str) -> None:
    good = {"y": Y, "operators": {"a": Identity((3,))}, "noise": 0.1}
    for odd in ODD:
        if (argument, odd is None, isinstance(odd, str)) in {("numbers", True, False), ("name", False, True)}:
            continue
        given = {"operators": {"a": odd}} if argument == "operator" else {argument: odd}
        with pytest.raises(MvssError) as error:
            View(**{"name": "the view", **good, **given})
        assert "\n" not in str(error.value)
        said = {
            "y": ("y", "observations"),
            "operator": ("the matrix of a", "the operator of a", "Dense operator"),
            "operators": ("operator",),
            "name": ("its name must be text",),
        }
        assert any(word in str(error.value) for word in said.get(argument, (argument,)))


def test_observations_that_require_gradients_are_plain_numbers() -> None:
    y = torch.ones(3, 2, requires_grad=True)
    view = View(y, {"a": torch.eye(2)}, 0.1)
    assert not view.y.requires_grad and y.requires_grad
