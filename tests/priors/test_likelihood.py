"""log p(x) by the probability-flow ODE against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvss.priors.diffusion import PROBES, DiffusionPrior, karras_base
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.likelihood import flow_log_prob
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

D = 4


def mixture(components: int = 5) -> GaussianMixture:
    rng = torch.Generator().manual_seed(1)
    means = 1.5 * torch.randn(components, D, generator=rng, dtype=torch.float64)
    factors = 0.3 * torch.randn(components, D, 2, generator=rng, dtype=torch.float64)
    return GaussianMixture(torch.rand(components, generator=rng) + 0.2, means, factors, 0.02)


class Exact(torch.nn.Module):
    """A network that corrects a base to the denoiser of another mixture."""

    def __init__(self, target: GaussianMixture, base: GaussianMixture, sigma_data: float) -> None:
        super().__init__()
        self.target, self.base, self.sigma_data = target, base, sigma_data
        self.unused = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        sigma = log_sigma.exp()
        total = (sigma**2 + self.sigma_data**2).sqrt()
        x = inputs[:, 0] * total[:, None]
        wanted = self.target.denoise(x, sigma) - self.base.denoise(x, sigma)
        return wanted / (sigma * self.sigma_data / total)[:, None]


def candidates(prior: GaussianMixture, count: int = 12) -> Tensor:
    """On the source and off it."""
    rng = torch.Generator().manual_seed(2)
    near = prior.sample(count // 2, Stream(2, ("near",))) + 0.05 * torch.randn(
        count // 2, D, generator=rng, dtype=torch.float64
    )
    return torch.cat([near, near + 0.5 * torch.randn(count // 2, D, generator=rng, dtype=torch.float64)])


@pytest.mark.parametrize("components", [1, 5])
def test_the_density_of_a_mixture_is_its_closed_form(components: int) -> None:
    prior = mixture(components)
    x = candidates(prior)
    found = flow_log_prob(prior, x, 0.05, 2.0, tolerance=1e-5)
    assert float((found - prior.log_prob(x, 0.05)).abs().max()) < 0.01 * D


def test_the_density_of_a_gaussian_is_its_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    x = candidates(mixture())
    whole = flow_log_prob(karras_base((D,), 0.7), x, 0.05, 2.0)
    monkeypatch.setattr("mvss.priors.likelihood.CHUNK", 7)
    found = flow_log_prob(karras_base((D,), 0.7), x, 0.05, 2.0)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)
    exact = torch.distributions.Normal(0.0, math.hypot(0.7, 0.05)).log_prob(x).sum(1)
    assert float((found - exact).abs().max()) < 0.01 * D


def test_what_a_network_adds_is_in_the_density() -> None:
    """A network on one Gaussian that makes it the denoiser of a mixture of the same moments; σ_max where both are alike."""
    prior = mixture()
    mean = prior.weights @ prior.means
    spread = prior.means - mean
    total = torch.einsum("k,kij->ij", prior.weights, prior.covariances) + (prior.weights * spread.mT) @ spread
    base = GaussianMixture(torch.ones(1), mean[None], torch.linalg.cholesky(total)[None], 1e-3)
    x = candidates(prior, 4)
    found = flow_log_prob(
        DiffusionPrior(base, Exact(prior, base, 1.6), 1.6, levels=(0.05, 50.0)), x, 0.05, 50.0, tolerance=1e-5
    )
    assert float((found - prior.log_prob(x, 0.05)).abs().max()) < 0.01 * D
    alone = flow_log_prob(base, x, 0.05, 50.0, tolerance=1e-5)
    assert float((alone - found).abs().mean()) > 1


def test_hutchinsons_estimate_is_as_good_as_its_scatter_says() -> None:
    """Of what a network adds to one Gaussian of the same size in all directions, asked four times."""
    prior, base = mixture(), karras_base((D,), 1.0)
    x = candidates(prior, 32)
    network = DiffusionPrior(base, Exact(prior, base, 1.0), 1.0, levels=(0.05, 50.0))
    found = flow_log_prob(network, x.repeat(4, 1), 0.05, 50.0, 2, Stream(0, ("probes",)), 1e-5).reshape(4, -1)
    error = found.std(0) / 2
    z = ((found.mean(0) - prior.log_prob(x, 0.05)) / error).abs()
    # quantiles, since four of them that agree by chance say too little of their error
    assert 0.45 < float(z.median()) < 1.2 and float(z.quantile(0.9)) < 4
    assert float(error.mean()) > 0.01


def test_the_density_of_images_under_a_gaussian_is_its_closed_form() -> None:
    """28 × 28 numbers that vary together: the probes that images are asked with leave less than a thousandth."""
    place = torch.arange(28.0, dtype=torch.float64)
    along = torch.exp(-(place[:, None] - place).square() / 8) + 1e-3 * torch.eye(28)
    factors = torch.linalg.cholesky(torch.kron(along, along))
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 784, dtype=torch.float64), factors[None], 1e-3, (1, 28, 28))
    x = prior.sample(4, Stream(3)) + 0.05 * torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    found = flow_log_prob(prior, x, 0.05, 20.0, probes=PROBES, stream=Stream(0, ("probes",)), tolerance=3e-4)
    exact = prior.log_prob(x, 0.05)
    assert float(((found - exact) / exact).abs().max()) < 1e-3


@pytest.mark.parametrize(
    "change, match",
    [
        ({"x": torch.zeros(3, D + 1)}, "they must be"),
        ({"x": torch.full((3, D), math.nan)}, "NaN"),
        ({"sigma_min": 0.0}, "0 < sigma_min"),
        ({"sigma_min": 3.0}, "0 < sigma_min"),
        ({"probes": 4}, "stream"),
    ],
)
def test_wrong_input_is_refused(change: dict[str, object], match: str) -> None:
    arguments = {"x": torch.zeros(3, D), "sigma_min": 0.1, "sigma_max": 2.0, **change}
    with pytest.raises(MvssError, match=match):
        flow_log_prob(mixture(), **arguments)  # type: ignore[arg-type]
