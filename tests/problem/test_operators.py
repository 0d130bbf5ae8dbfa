"""Linear operators: adjoints, matrices, rows, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import toeplitz
from scipy.signal import convolve, convolve2d
from torch import Tensor

from mvss.problem.image_operators import BlockAverage, Convolve
from mvss.problem.operators import Composition, Dense, Identity, LinearOperator, Mask, Scale
from mvss.problem.stack import Stack, Sum
from mvss.runtime.errors import MvssError

COUNT = 4
EACH = torch.randn(COUNT, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ALL = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
KERNEL = torch.randn(3, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
HALO = Convolve((1, 2048, 2048), KERNEL, "same")
MASKS = torch.rand(COUNT, 1, 4, 6, generator=torch.Generator().manual_seed(6)) > 0.3
OPERATORS: dict[str, LinearOperator] = {
    "one matrix": Dense(ALL),
    "a matrix each": Dense(EACH),
    "identity": Identity((2, 3)),
    "coarser pixels": BlockAverage((2, 4, 6), 2),
    "zero": Scale(0.0, (3,)),
    "scale": Scale(-0.3, (2, 3)),
    "weighted": Scale(0.4, (2,)) @ Dense(EACH),
    "product": Dense(EACH) @ Dense(torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)),
    "product with one each inside": Dense(ALL.mT) @ Dense(EACH),
    "three": Scale(2.0, (2,)) @ (Dense(EACH) @ Identity((3,))),
    "weighted image": Scale(2.0, (2, 3)) @ Identity((2, 3)),
    "through zero": Dense(EACH) @ Scale(0.0, (3,)),
    "a mask each": Mask(MASKS),
    "a mask for all": Mask(MASKS[:1]),
    "masked blocks": Mask(MASKS) @ (Scale(2.0, (1, 4, 6)) @ BlockAverage((1, 8, 12), 2)),
    "seeing": Convolve((2, 5, 6), KERNEL, "valid"),
    "seeing, dark outside": Convolve((2, 4, 6), KERNEL, "same"),
    "two looks": Stack([Scale(0.5, (2, 3)), Scale(-0.2, (2, 3))]),
    "two looks, one blind": Stack([Dense(EACH), Scale(0.0, (2,)) @ Dense(ALL), Dense(ALL)]),
    "two looks behind masks": Stack([Mask(MASKS), Scale(0.3, (1, 4, 6))]),
    "response": Convolve((2, 9), KERNEL[0], "valid"),
    "response, nothing outside": Convolve((2, 6), KERNEL[0], "same"),
    "coarser samples": BlockAverage((2, 6), 3),
    "masked response": Mask(MASKS[:, 0]) @ Convolve((4, 10), KERNEL[0], "valid"),
    "a sum": Sum([Scale(0.5, (2, 3)), Scale(-0.2, (2, 3)), Identity((2, 3))]),
    "a sum with one each": Sum([Dense(EACH), Dense(ALL), Scale(0.3, (2,)) @ Dense(ALL)]),
    "a sum behind masks": Mask(MASKS) @ Sum([Identity((1, 4, 6)), Convolve((1, 4, 6), KERNEL, "same")]),
    "masks in a row": (Scale(2.0, (1, 4, 6)) @ Mask(MASKS)) @ Mask(MASKS[:1]),
    "masks in a row before blocks": (Scale(2.0, (1, 4, 6)) @ Mask(MASKS)) @ BlockAverage((1, 8, 12), 2),
    "a sum of weights": Scale(0.5, (1, 4, 6)) @ Sum([Identity((1, 4, 6)), Mask(MASKS)]),
    "masked seeing": Mask(MASKS) @ Convolve((1, 6, 10), KERNEL, "valid"),
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


def test_seeing_is_the_convolution_of_scipy() -> None:
    x, kernel = random((2, 6, 7), 7), KERNEL
    for mode in ("valid", "same"):
        expected = [[convolve2d(c, kernel, mode) for c in image] for image in x.numpy()]
        found = Convolve((2, 6, 7), kernel, mode).forward(x)
        torch.testing.assert_close(found, torch.tensor(np.array(expected)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["valid", "same"])
def test_a_response_is_the_convolution_of_scipy_and_its_toeplitz_matrix(mode: str) -> None:
    x, kernel = random((2, 8), 7), KERNEL[0]
    operator = Convolve((2, 8), kernel, mode)
    expected = np.array([[convolve(c, kernel.numpy(), mode, "direct") for c in signals] for signals in x.numpy()])
    torch.testing.assert_close(operator.forward(x), torch.tensor(expected), rtol=1e-12, atol=1e-12)
    full = toeplitz(np.r_[kernel.numpy(), np.zeros(7)], np.r_[float(kernel[0]), np.zeros(7)])  # 12 × 8
    one = full[4:-4] if mode == "valid" else full[2:-2]
    torch.testing.assert_close(operator.dense()[0], torch.tensor(np.kron(np.eye(2), one)), rtol=1e-12, atol=1e-12)
    y = random(operator.observation_shape, 9)
    torch.testing.assert_close(operator.adjoint(y), torch.tensor(y.numpy() @ one), rtol=1e-12, atol=1e-12)


def test_single_precision_stays_single() -> None:
    assert Dense(EACH).forward(random((3,), 0).float()).dtype == torch.float32
    assert Mask(MASKS).forward(random((1, 4, 6), 0).float()).dtype == torch.float32
    assert Convolve((1, 4, 6), KERNEL, "same").forward(random((1, 4, 6), 0).float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Dense(torch.ones(3)), "matrix must be"),
        (lambda: Dense(torch.tensor([[1.0, float("nan")]])), "NaN"),
        (lambda: Scale(float("inf"), (2,)), "finite"),
        (lambda: Dense(EACH) @ Dense(EACH), "cannot compose"),
        (lambda: Mask(torch.ones(2, 3)), "must be bool"),
        (lambda: Mask(torch.tensor([[True, False], [False, False]])), "observation 1, counted from 0, has no measured"),
        (lambda: Mask(torch.zeros(1, 2, dtype=torch.bool)), "nothing is measured"),
        (lambda: Convolve((1, 8, 8), torch.ones(2, 3), "same"), "odd"),
        (lambda: Convolve((1, 8, 8), torch.tensor([[float("nan")]]), "same"), "NaN"),
        (lambda: Convolve((1, 8, 4), torch.ones(3, 5), "valid"), "larger than"),
        (lambda: Convolve((8,), torch.ones(3), "valid"), r"\(C, H, W\) and signals \(C, L\)"),
        (lambda: Convolve((8, 8), torch.ones(3, 3), "valid"), r"kernel must be \(l,\) with odd l"),
        (lambda: Convolve((1, 8), torch.ones(4), "same"), "odd l"),
        (lambda: Convolve((1, 4), torch.ones(5), "same"), "larger than"),
        (lambda: BlockAverage((8,), 2), "signals"),
        (lambda: BlockAverage((2, 7), 2), "factor 2 must divide"),
        (lambda: Convolve((1, 8, 8), torch.ones(3, 3), "full"), "valid or same"),
        (lambda: BlockAverage((1, 4, 6), 4), "factor 4 must divide"),
        (lambda: Composition(Dense(EACH), Dense(torch.ones(3, 3, 5))), "4 observations with those of 3"),
    ],
)
def test_bad_operators_are_refused_in_one_line(make, words: str) -> None:  # noqa: ANN001
    with pytest.raises(MvssError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_scaled_operator_and_a_product_are_those_of_its_matrix(name: str) -> None:
    operator = OPERATORS[name]
    torch.testing.assert_close(operator.scaled(-0.5).dense(), -0.5 * operator.dense())
    assert operator.scaled(1.0).count == operator.scaled(2.0).count == operator.count
    assert operator.scaled(2.0).is_diagonal == operator.is_diagonal
    columns = torch.randn(1, operator.dense().shape[2], 3, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    torch.testing.assert_close(operator.times(columns), operator.dense() @ columns)


def test_products_of_tight_operators_are_tight_in_whatever_order_they_were_made() -> None:
    identity, coarse = Identity((1, 4, 6)), BlockAverage((1, 4, 6), 2)
    inner = Scale(0.5, (1, 4, 6)) @ identity
    for product in (inner @ identity, coarse @ inner, (Scale(2.0, (1, 2, 3)) @ coarse) @ inner):
        assert product.is_tight
        y = random(product.observation_shape, 12)
        exact = y.flatten(1) @ torch.linalg.pinv(product.dense()[0]).mT
        torch.testing.assert_close(product.pseudo_inverse(y).flatten(1), exact)


@pytest.mark.parametrize("name", OPERATORS)
def test_tight_and_diagonal_operators_are_what_they_say(name: str) -> None:
    operator = OPERATORS[name]
    matrix = operator.dense()
    if operator.is_tight:
        gram = matrix @ matrix.mT
        torch.testing.assert_close(gram, gram[:, :1, :1] * torch.eye(gram.shape[1], dtype=torch.float64))
    if operator.is_diagonal:
        torch.testing.assert_close(matrix, torch.diag_embed(matrix.diagonal(dim1=1, dim2=2)))
    assert operator.is_tight or name not in ("identity", "coarser pixels", "scale", "weighted image")
    diagonal = ("identity", "scale", "a mask each", "a mask for all", "masks in a row", "a sum of weights")
    assert operator.is_diagonal or name not in diagonal


@pytest.mark.parametrize("name", OPERATORS)
def test_power_is_the_diagonal_of_the_image_of_variances(name: str) -> None:
    operator = OPERATORS[name]
    variance = torch.rand(COUNT, *operator.source_shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    matrix = operator.dense()
    expected = torch.einsum("nmd,nd->nm", matrix.square().expand(COUNT, -1, -1), variance.flatten(1))
    torch.testing.assert_close(operator.power(variance).flatten(1), expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_power_by_few_rows_at_a_time_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the matrix would not fit into memory, it is never made."""
    operator = OPERATORS[name]
    variance = torch.rand(COUNT, *operator.source_shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    expected = LinearOperator.power(operator, variance)
    monkeypatch.setattr("mvss.problem.linear_operator.PIECE", 1)
    for kind in (Composition, Sum):
        monkeypatch.setattr(kind, "dense", None)
    torch.testing.assert_close(LinearOperator.power(operator, variance), expected)


@pytest.mark.parametrize(
    "operator", [HALO, Mask(torch.ones(1, 1, 2048, 2048, dtype=torch.bool)) @ HALO], ids=["bare", "masked"]
)
def test_power_of_large_images_needs_no_matrix(operator: LinearOperator) -> None:
    """Which would take 128 TiB here."""
    found = operator.scaled(0.5).power(torch.ones(1, 1, 2048, 2048))
    torch.testing.assert_close(float(found[0, 0, 9, 9]), 0.25 * float(KERNEL.square().sum()), rtol=1e-5, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_that_was_moved_is_the_same(name: str) -> None:
    here, there = OPERATORS[name], OPERATORS[name].to("cuda")
    x, y = random(here.source_shape, 9), random(here.observation_shape, 10)
    for work, v in (("forward", x), ("adjoint", y), ("power", x.square()), ("pseudo_inverse", y)):
        torch.testing.assert_close(getattr(there, work)(v.to("cuda")).cpu(), getattr(here, work)(v))


REFUSED_STACKS: dict[str, tuple[str, list[object]]] = {
    "nothing": ("a list of one or more operators", []),
    "a matrix": ("a list of one or more operators", [ALL]),
    "other sources": ("sources of one shape", [Dense(ALL), Identity((2,))]),
    "other observations": ("agree but for their first axis", [Identity((1, 4, 6)), BlockAverage((1, 4, 6), 2)]),
    "other counts": ("of 3 and 4 observations", [Dense(EACH), Dense(EACH[:3])]),
}


@pytest.mark.parametrize("case", REFUSED_STACKS)
def test_looks_that_do_not_fit_are_refused_by_name(case: str) -> None:
    words, operators = REFUSED_STACKS[case]
    with pytest.raises(MvssError, match=words):
        Stack(operators)  # type: ignore[arg-type]
    with pytest.raises(MvssError, match=words.replace("agree but for their first axis", "of one shape")):
        Sum(operators)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "operator",
    [
        Identity((1, 6, 4)),
        Scale(2.0, (1, 6, 4)),
        Mask(torch.ones(1, 1, 6, 4, dtype=torch.bool)),
        Convolve((1, 6, 4), torch.ones(3, 3), "same"),
        BlockAverage((1, 6, 4), 2),
    ],
    ids=lambda o: type(o).__name__,
)
@pytest.mark.parametrize("shape", [(5, 1, 4, 6), (5, 3, 6, 4), (5, 24), (1, 6, 4)])
def test_sources_of_another_shape_are_refused_not_cut_anew(operator: LinearOperator, shape: tuple[int, ...]) -> None:
    for apply in (operator.forward, operator.adjoint):
        with pytest.raises(MvssError, match=r"an operator takes \(N, 1, .* here, not \("):
            apply(torch.zeros(shape))
