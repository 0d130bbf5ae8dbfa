"""Linear operators: adjoints, matrices, rows, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvss.errors import MvssError
from mvss.operators import BlockAverage, Composition, Dense, Identity, LinearOperator, Scale, Zero

COUNT = 4
EACH = torch.randn(COUNT, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ALL = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OPERATORS: dict[str, LinearOperator] = {
    "one matrix": Dense(ALL),
    "a matrix each": Dense(EACH),
    "identity": Identity((2, 3)),
    "coarser pixels": BlockAverage((2, 4, 6), 2),
    "zero": Zero((2, 2), (3,)),
    "scale": Scale(-0.3, (2, 3)),
    "weighted": Scale(0.4, (2,)) @ Dense(EACH),
    "product": Dense(EACH) @ Dense(torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)),
    "product with one each inside": Dense(ALL.mT) @ Dense(EACH),
    "three": Scale(2.0, (2,)) @ (Dense(EACH) @ Identity((3,))),
    "weighted image": Scale(2.0, (2, 3)) @ Identity((2, 3)),
    "through zero": Dense(EACH) @ Zero((4, 1), (3,)),
}


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_matrix_and_rows_agree_with_forward(name: str) -> None:
    operator = OPERATORS[name]
    x, y = random(operator.source_shape, 3), random(operator.observation_shape, 4)
    image, back = operator.forward(x), operator.adjoint(y)
    assert image.shape == y.shape and back.shape == x.shape
    torch.testing.assert_close((image * y).flatten(1).sum(1), (x * back).flatten(1).sum(1))

    matrix = operator.dense()
    assert matrix.shape == (operator.count or 1, y[0].numel(), x[0].numel())
    torch.testing.assert_close((matrix @ x.flatten(1).unsqueeze(-1)).squeeze(-1), image.flatten(1))
    torch.testing.assert_close(LinearOperator.dense(operator), matrix)

    inverse = (torch.linalg.pinv(matrix) @ y.flatten(1).unsqueeze(-1)).reshape(x.shape)
    torch.testing.assert_close(operator.pseudo_inverse(y), inverse)

    rows = torch.tensor([3, 1, 1])
    part = operator.select(rows)
    assert part.count in (None, 3) and (part.count is None) == (operator.count is None)
    torch.testing.assert_close(part.forward(x[rows]), image[rows])
    torch.testing.assert_close(operator.to("cpu").adjoint(y), back)
    assert operator.is_zero == (name in ("zero", "through zero"))


def test_a_weight_of_zero_hides_the_source() -> None:
    assert Scale(0.0, (3,)).is_zero and (Scale(0.0, (2,)) @ Dense(EACH)).is_zero
    assert not Dense(EACH).is_zero


def test_single_precision_stays_single() -> None:
    assert Dense(EACH).forward(random((3,), 0).float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Dense(torch.ones(3)), "matrix must be"),
        (lambda: Dense(torch.tensor([[1.0, float("nan")]])), "NaN"),
        (lambda: Scale(float("inf"), (2,)), "finite"),
        (lambda: Dense(EACH) @ Dense(EACH), "cannot compose"),
        (lambda: Composition(Dense(EACH), Dense(torch.ones(3, 3, 5))), "4 observations with those of 3"),
    ],
)
def test_bad_operators_are_refused_in_one_line(make, words: str) -> None:  # noqa: ANN001
    with pytest.raises(MvssError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
