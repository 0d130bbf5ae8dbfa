"""Noise models against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch

from mvss.errors import MvssError
from mvss.noise import Diagonal, Isotropic, Noise

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
    torch.testing.assert_close(noise.solve(V).flatten(1), (law.precision_matrix @ flat).squeeze(-1))
    torch.testing.assert_close(noise.color(V).flatten(1), (law.scale_tril @ flat).squeeze(-1))
    torch.testing.assert_close(noise.log_determinant(V), torch.logdet(law.covariance_matrix))
    quadratic = (V * noise.solve(V)).flatten(1).sum(1)
    log_prob = -0.5 * (quadratic + noise.log_determinant(V) + 6 * math.log(2 * math.pi))
    torch.testing.assert_close(log_prob, law.log_prob(V.flatten(1)))


@pytest.mark.parametrize("name", MODELS)
def test_selection_takes_the_noise_of_the_rows(name: str) -> None:
    noise, rows = MODELS[name].to("cpu"), torch.tensor([3, 1, 1])
    torch.testing.assert_close(noise.select(rows).variance(V[rows]), noise.variance(V)[rows])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_noise_that_is_not_positive_and_finite_is_refused(bad: float) -> None:
    for make in (lambda: Isotropic(bad), lambda: Isotropic(torch.tensor([0.1, bad]))):
        with pytest.raises(MvssError, match="positive and finite") as error:
            make()
        assert "\n" not in str(error.value)
    with pytest.raises(MvssError, match="positive and finite"):
        Diagonal(torch.tensor([[0.1, bad]]))


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(MvssError, match="number or"):
        Isotropic(torch.ones(3, 2))
    square = torch.randn(3, 3)
    with pytest.raises(MvssError, match=r"\(N, \*shape\)"):  # it would broadcast, and select() would take the wrong axis
        Diagonal(torch.ones(3)).variance(square)
