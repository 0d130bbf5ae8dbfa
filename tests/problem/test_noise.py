"""Noise models against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch

from mvss.posteriors.dense import DenseView
from mvss.problem.noise import Diagonal, Isotropic, Noise, Stationary
from mvss.problem.operators import Identity
from mvss.problem.views import View
from mvss.runtime.errors import MvssError

RNG = torch.Generator().manual_seed(0)
V = torch.randn(4, 2, 3, generator=RNG, dtype=torch.float64)
MODELS: dict[str, Noise] = {
    "one number": Isotropic(0.2),
    "one in a tensor": Isotropic(torch.tensor([0.2])),
    "one each": Isotropic(torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "a map each": Diagonal(0.1 + torch.rand(4, 2, 3, generator=RNG, dtype=torch.float64)),
    "a map for all": Diagonal(0.1 + torch.rand(1, 2, 3, generator=RNG, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", MODELS)
def test_against_torch_distributions(name: str) -> None:
    noise = MODELS[name]
    law = torch.distributions.MultivariateNormal(
        torch.zeros(4, 6, dtype=torch.float64), torch.diag_embed(noise.variance(V).flatten(1))
    )
    flat = V.flatten(1).unsqueeze(-1)
    torch.testing.assert_close(noise.apply(V).flatten(1), (law.covariance_matrix @ flat).squeeze(-1))
    torch.testing.assert_close(noise.color(V).flatten(1), (law.scale_tril @ flat).squeeze(-1))
    torch.testing.assert_close(noise.white_variance(V), noise.variance(V))


@pytest.mark.parametrize("name", [*MODELS, "correlated"])
@pytest.mark.parametrize("hidden", [0, 1, 4])
def test_misfit_is_of_the_block_of_what_was_measured(name: str, hidden: int) -> None:
    """Against solves of each observation, some numbers of which are hidden."""
    correlated = Stationary(torch.tensor([[0.1, 0.2, 0.1], [0.4, 1.0, 0.4], [0.1, 0.2, 0.1]], dtype=torch.float64))
    noise, v = (correlated, V.unsqueeze(1).repeat(1, 2, 1, 1)) if name == "correlated" else (MODELS[name], V)
    covariance = (
        correlated.matrix(v).expand(4, -1, -1) if name == "correlated" else torch.diag_embed(noise.variance(v).flatten(1))
    )
    measured = torch.ones_like(v, dtype=torch.bool)
    for row in range(4):
        measured[row].view(-1)[row : row + hidden] = False
    known = measured.flatten(1)
    expected = [r[k] @ torch.linalg.solve(c[k][:, k], r[k]) for r, k, c in zip(v.flatten(1), known, covariance, strict=True)]
    torch.testing.assert_close(noise.misfit(v, measured), torch.stack(expected))


@pytest.mark.parametrize("name", MODELS)
def test_selection_takes_the_noise_of_the_rows(name: str) -> None:
    noise, rows = MODELS[name].to("cpu"), torch.tensor([3, 1, 1])
    torch.testing.assert_close(noise.select(rows).variance(V[rows]), noise.variance(V)[rows])


@pytest.mark.parametrize("factor", [0.25, -3.0])
@pytest.mark.parametrize("name", [*MODELS, "correlated"])
def test_scaled_noise_is_that_of_scaled_observations(name: str, factor: float) -> None:
    correlated = Stationary(torch.tensor([[0.2, 1.0, 0.2]], dtype=torch.float64))
    noise, v = (correlated, V.reshape(4, 1, 2, 3)) if name == "correlated" else (MODELS[name], V)
    torch.testing.assert_close(noise.scaled(factor).apply(v), factor**2 * noise.apply(v))
    torch.testing.assert_close(noise.scaled(factor).color(v), abs(factor) * noise.color(v))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_noise_that_is_not_positive_and_finite_is_refused(bad: float) -> None:
    for make in (lambda: Isotropic(bad), lambda: Isotropic(torch.tensor([0.1, bad]))):
        with pytest.raises(MvssError, match="positive and finite") as error:
            make()
        assert "\n" not in str(error.value)
    with pytest.raises(MvssError, match=rf"\(0, 1\) is {bad:g}, and .* positive and finite: .* masked, any positive"):
        Diagonal(torch.tensor([[0.1, bad]]))


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(MvssError, match="number or"):
        Isotropic(torch.ones(3, 2))
    square = torch.randn(3, 3)
    with pytest.raises(MvssError, match=r"\(N, \*shape\)"):  # it would broadcast, and select() would take the wrong axis
        Diagonal(torch.ones(3)).variance(square)


def blurred(height: int, width: int) -> torch.Tensor:
    """The covariance of white noise after a random kernel: positive definite, and not the same in both directions."""
    kernel = torch.randn(height, width, generator=RNG, dtype=torch.float64)
    lags = torch.zeros(2 * height - 1, 2 * width - 1, dtype=torch.float64)
    for y in range(1 - height, height):
        for x in range(1 - width, width):
            shifted = torch.zeros_like(kernel)
            rows, columns = (slice(max(0, d), n + min(0, d)) for d, n in ((y, height), (x, width)))
            shifted[rows, columns] = kernel[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
            lags[y + height - 1, x + width - 1] = (kernel * shifted).sum()
    return lags


@pytest.mark.parametrize(("height", "width"), [(2, 3), (4, 2), (9, 9)])
def test_stationary_noise_against_its_matrix(height: int, width: int) -> None:
    """Lags shorter and longer than the images."""
    lags = blurred(height, width)
    noise, v = Stationary(lags).to("cpu"), torch.randn(5, 2, 5, 4, generator=RNG, dtype=torch.float64)
    pixels = [(y, x) for y in range(5) for x in range(4)]
    one = torch.zeros(20, 20, dtype=torch.float64)
    for i, (y, x) in enumerate(pixels):
        for j, (z, w) in enumerate(pixels):
            if abs(y - z) < height and abs(x - w) < width:
                one[i, j] = lags[y - z + height - 1, x - w + width - 1]
    matrix, flat = torch.block_diag(one, one), v.flatten(1)
    torch.testing.assert_close(noise.matrix(v), matrix)
    torch.testing.assert_close(noise.variance(v).flatten(1), matrix.diagonal().expand(5, -1))
    torch.testing.assert_close(noise.apply(v).flatten(1), flat @ matrix)
    root = noise.color(torch.eye(40, dtype=torch.float64).reshape(40, 2, 5, 4)).flatten(1)
    torch.testing.assert_close(root.mT @ root, matrix)
    assert noise.select(torch.tensor([1])) is noise and not noise.is_white and Isotropic(1.0).is_white


@pytest.mark.parametrize(
    ("lags", "words"),
    [
        (torch.ones(2, 3), "odd h and w"),
        (torch.tensor([[math.nan]]), "NaN"),
        (torch.tensor([[0.0, 1.0, 0.5]]), "opposite differences"),
        (torch.tensor([[0.6, 1.0, 0.6]]), "not positive definite"),
        (torch.tensor([[-1.0]]), "not positive definite"),
    ],
)
def test_what_is_no_covariance_is_refused(lags: torch.Tensor, words: str) -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    with pytest.raises(MvssError, match=words) as error:
        View(images, {"source": Identity((1, 8, 8))}, Stationary(lags))
    assert "\n" not in str(error.value)


def test_methods_for_white_noise_refuse_correlated_noise() -> None:
    view = View(torch.zeros(2, 1, 4, 4), {"source": Identity((1, 4, 4))}, Stationary(torch.tensor([[0.2, 1.0, 0.2]])))
    with pytest.raises(MvssError, match="independent between pixels"):
        DenseView.of(view)
    with pytest.raises(MvssError, match="images"):
        Stationary(torch.ones(1, 1)).variance(torch.zeros(2, 3))
