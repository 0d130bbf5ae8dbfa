"""Numbers of any real kind are kept in float64, wherever they come in; all else is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import mvss
from mvss.metrics.calibration import informed_references, rank_statistics, tarp_coverage
from mvss.metrics.images import frechet, psnr, ssim
from mvss.metrics.pqmass import pqmass
from mvss.metrics.transport import sinkhorn_divergence
from mvss.problem.noise import Diagonal, Isotropic, Noise, Stationary
from mvss.problem.operators import Dense, Identity, LinearOperator, Mask, Scale
from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import real

WHOLE = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
"""Numbers that every type holds exactly."""
KINDS: dict[str, Callable[[Tensor], object]] = {
    "int32": Tensor.int,
    "uint8": lambda x: x.to(torch.uint8),
    "half": Tensor.half,
    "bfloat16": Tensor.bfloat16,
    "float32": Tensor.float,
    "lists": Tensor.tolist,
    "numpy": lambda x: x.numpy().astype(np.uint16),
    "numpy half": lambda x: x.numpy().astype(np.float16),
    "another byte order": lambda x: x.numpy().astype(">f8"),
    "long double": lambda x: x.numpy().astype(np.longdouble),
}
REFUSED = {
    "bool": WHOLE > 3,
    "complex": WHOLE + 1j,
    "numpy bool": (WHOLE > 3).numpy(),
    "numpy complex": WHOLE.numpy() + 1j,
    "objects": WHOLE.numpy().astype(object),
    "text": [["1", "2"], ["3", "4"]],
    "several lengths": [[1.0, 2.0], [3.0]],
    "nothing": None,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_real_numbers_are_kept_in_float64(kind: str) -> None:
    found = real(KINDS[kind](WHOLE), "numbers")  # type: ignore[arg-type]
    assert found.dtype == torch.float64 and torch.equal(found, WHOLE.double())


ENTRIES: dict[str, Callable[[object], object]] = {
    "y": lambda x: mvss.View(x, {"a": Identity((4,))}, 0.1),  # type: ignore[arg-type]
    "the matrix of a": lambda x: mvss.View(torch.ones(3, 2), {"a": x}, 0.1),  # type: ignore[dict-item]
    "the noise": lambda x: mvss.View(torch.ones(2, 4), {"a": Identity((4,))}, x),  # type: ignore[arg-type]
    "Dense operator: the matrix": Dense,  # type: ignore[dict-item]
    "Convolve operator: the kernel": lambda x: mvss.Convolve((1, 8, 8), x, "same"),  # type: ignore[arg-type]
    "noise: standard deviations": Diagonal,  # type: ignore[dict-item]
    "Stationary noise: the covariance": Stationary,  # type: ignore[dict-item]
    "PSNR: draws": lambda x: psnr(x, WHOLE, 1.0),  # type: ignore[arg-type]
    "PSNR: truths": lambda x: psnr(WHOLE, x, 1.0),  # type: ignore[arg-type]
    "SSIM: images": lambda x: ssim(x, WHOLE, 1.0),  # type: ignore[arg-type]
    "Fréchet: features": lambda x: frechet(x, WHOLE),  # type: ignore[arg-type]
    "PQMass: samples": lambda x: pqmass(x, WHOLE),  # type: ignore[arg-type]
    "Sinkhorn divergence: samples": lambda x: sinkhorn_divergence(x, WHOLE),  # type: ignore[arg-type]
    "calibration: draws": lambda x: rank_statistics(x, WHOLE[0]),  # type: ignore[arg-type]
    "TARP: levels": lambda x: tarp_coverage(normal(3, 2), normal(2), normal(2), x),  # type: ignore[arg-type]
    "TARP: estimates": lambda x: informed_references(x, 1.0, torch.Generator()),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_no_real_number_is_refused_by_name(entry: str, kind: str) -> None:
    with pytest.raises(MvssError, match=f"{entry} must be real numbers of one shape, not ") as error:
        ENTRIES[entry](REFUSED[kind])
    assert "\n" not in str(error.value)


def test_a_number_that_is_none_is_refused_by_name() -> None:
    for make in (lambda: Scale(1j, (3,)), lambda: Scale(True, (3,)), lambda: Scale("2", (3,)), lambda: Isotropic(True)):  # type: ignore[arg-type]
        with pytest.raises(MvssError, match="must be real numbers"):
            make()
    with pytest.raises(MvssError, match="one finite number"):
        Scale(torch.ones(2), (3,))  # type: ignore[arg-type]
    for mask in ([[1, 0]], np.ones((1, 3)), torch.ones(1, 3)):
        with pytest.raises(MvssError, match="bool"):
            Mask(mask)  # type: ignore[arg-type]
    assert torch.equal(Mask(np.array([[True, False]])).forward(torch.ones(1, 2)), torch.tensor([[1.0, 0.0]]))


IMAGE = (1, 4, 4)
OPERATORS = {
    "dense": Dense(normal(16, 16)),
    "dense each": Dense(normal(2, 16, 16)),
    "scale": Scale(0.3, IMAGE),
    "convolve": mvss.Convolve(IMAGE, normal(3, 3), "same"),
    "average": mvss.BlockAverage(IMAGE, 2),
    "masked": Mask(torch.arange(16).reshape(1, *IMAGE) > 3) @ Scale(0.3, IMAGE),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float16])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_integers_and_half_precision_round_nothing(name: str, dtype: torch.dtype) -> None:
    operator: LinearOperator = OPERATORS[name]
    x = torch.arange(32).reshape(2, *operator.source_shape)
    y = torch.arange(2 * int(torch.Size(operator.observation_shape).numel())).reshape(2, *operator.observation_shape)
    for found, expected in (
        (operator.forward(x.to(dtype)), operator.forward(x.double())),
        (operator.adjoint(y.to(dtype)), operator.adjoint(y.double())),
        (operator.power(x.to(dtype)), operator.power(x.double())),
        (operator.pseudo_inverse(y.to(dtype)), operator.pseudo_inverse(y.double())),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


LAGS = torch.tensor([[0.0, 0.1, 0.0], [0.1, 1.0, 0.1], [0.0, 0.1, 0.0]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float16])
@pytest.mark.parametrize(
    "noise", [Isotropic(0.3), Isotropic([0.1, 0.2]), Diagonal(0.3 * torch.ones(1, *IMAGE)), Stationary(LAGS)]
)
def test_the_variance_beside_integers_and_half_precision_is_that_beside_float64(noise: Noise, dtype: torch.dtype) -> None:
    like = torch.ones(2, *IMAGE)
    for work in (noise.variance, noise.apply, noise.color):
        torch.testing.assert_close(work(like.to(dtype)), work(like.double()), rtol=0, atol=0)


def test_a_map_of_whole_numbers_scales_as_the_same_of_float64() -> None:
    whole = torch.tensor([[1, 2], [3, 4]])
    like = torch.zeros(2, 2, dtype=torch.float64)
    for dtype in (torch.int64, torch.uint8, torch.float16):
        found = Diagonal(whole.to(dtype)).scaled(1 / 3).variance(like)
        torch.testing.assert_close(found, (whole.double() / 3).square())


def test_scores_of_images_of_bytes_do_not_wrap_around() -> None:
    draw, truth = torch.tensor([[1, 200]], dtype=torch.uint8), torch.tensor([[2, 100]], dtype=torch.uint8)
    torch.testing.assert_close(psnr(draw, truth, 255.0), psnr(draw.double(), truth.double(), 255.0))
    draws = torch.stack([draw, truth])
    levels, references = torch.tensor([0.5]), torch.tensor([[255, 0]], dtype=torch.uint8)
    found = tarp_coverage(draws, truth, references, levels)
    torch.testing.assert_close(found, tarp_coverage(draws.double(), truth.double(), references.double(), levels.double()))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([0.5, 1.0], "whole numbers"),
        ([0], "2 whole"),
        ([-1, 0], "at least 0"),
        (np.full(2, 2**64 - 1, np.uint64), "at least 0"),
        ([True, False], "whole numbers"),
    ],
)
def test_numbers_of_observations_are_whole(numbers: list[float], words: str) -> None:
    with pytest.raises(MvssError, match=words):
        mvss.View(torch.ones(2, 3), {"a": Identity((3,))}, 0.1, numbers=numbers)
    good = mvss.View(torch.ones(2, 3), {"a": Identity((3,))}, 0.1, numbers=[7, 3])
    assert good.numbers.tolist() == [7, 3]
