"""Large sources: exact where the denoiser is a mixture, whatever the number of steps; networks move the means."""

from __future__ import annotations

import pytest
import torch
from closed_forms import random_prior
from torch import Tensor

from mvss.posteriors.exact_mixture import DenseView
from mvss.posteriors.moment_matching import JointPosterior
from mvss.posteriors.samplers import SamplerConfig, sample
from mvss.posteriors.shared_gaussians import SharedView
from mvss.posteriors.shared_moments import SharedPosterior
from mvss.priors.diffusion import Denoiser
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Dense
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

RNG = torch.Generator().manual_seed(0)
SIZES = (4, 3)
PRIORS = (random_prior(3, 4, 2), random_prior(2, 3, 1))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


VIEW = View(normal(7, 3), (Dense(normal(3, 4)), Dense(normal(3, 3))), Isotropic(0.3))


class Tilt(torch.nn.Module):
    """A network that says something smooth."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        return self.scale * torch.sin(inputs[:, 0])


def denoisers(network: bool) -> list[Denoiser]:
    return [Denoiser(p, Tilt() if network else None, (d,), 1.0) for p, d in zip(PRIORS, SIZES, strict=True)]


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_without_networks_it_is_the_posterior_of_small_sources(sigma: float) -> None:
    x_t, level = [normal(7, d) for d in SIZES], torch.full((7,), sigma, dtype=torch.float64)
    found = SharedPosterior(denoisers(False), SharedView.of(VIEW))(x_t, level)
    expected = JointPosterior(denoisers(False), DenseView.of(VIEW), components=8)(x_t, level)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_network_moves_the_means_by_its_correction() -> None:
    """With one observation number of huge noise the posterior is the denoiser itself."""
    x_t, level = [normal(7, d) for d in SIZES], torch.full((7,), 0.5, dtype=torch.float64)
    blind = View(VIEW.y, VIEW.operators, Isotropic(1e6))
    posterior = SharedPosterior(denoisers(True), SharedView.of(blind))
    for found, denoiser, x in zip(posterior(x_t, level), denoisers(True), x_t, strict=True):
        torch.testing.assert_close(found, denoiser(x, level), atol=1e-6, rtol=1e-6)
    assert posterior.evaluations == 2
    for found, denoiser, x in zip(SharedPosterior(denoisers(True))(x_t, level), denoisers(True), x_t, strict=True):
        torch.testing.assert_close(found, denoiser(x, level))


def test_few_steps_give_exact_posterior_draws() -> None:
    """One Gaussian per source: mean and covariance of draws by four ancestral steps from far above."""
    priors = [GaussianMixture(torch.ones(1), normal(1, d), normal(1, d, d), 0.1) for d in SIZES]
    sources = [Denoiser(p, None, (d,), 1.0) for p, d in zip(priors, SIZES, strict=True)]
    n, shared = 20000, SharedView.of(VIEW)
    posterior = SharedPosterior(sources, SharedView(shared.y[:1].expand(n, -1), shared.operators, shared.noise))
    stream, index = Stream(0, ("few",)), torch.arange(n)
    start = [50.0 * stream.normal(index, (d,), "top", d) for d in SIZES]
    config = SamplerConfig("ancestral", 4, sigma_start=50.0, sigma_min=0.01)
    draws = torch.cat(sample(posterior, start, config, stream, index), dim=1)
    a = torch.cat([o.dense()[0] for o in shared.operators], dim=1)
    prior = torch.block_diag(*(p.covariances[0] for p in priors))
    gain = prior @ a.mT @ torch.linalg.inv(a @ prior @ a.mT + torch.diag(shared.noise))
    centre = torch.cat([p.means[0] for p in priors])
    mean, covariance = centre + gain @ (shared.y[0] - a @ centre), prior - gain @ a @ prior
    error = (covariance.diagonal() / n).sqrt()
    assert bool(((draws.mean(0) - mean).abs() < 5 * error + 0.02).all())
    torch.testing.assert_close(draws.T.cov(), covariance, rtol=0.1, atol=0.05)


def test_prior_draws_are_those_of_the_mixture() -> None:
    posterior, n = SharedPosterior(denoisers(False)[:1]), 20000
    stream, index = Stream(0, ("prior",)), torch.arange(n)
    config = SamplerConfig("ancestral", 3, sigma_start=30.0, sigma_min=0.01)
    (draws,) = sample(posterior, [30.0 * stream.normal(index, (4,), "top")], config, stream, index)
    mixture = PRIORS[0]
    exact = mixture.weights @ mixture.means
    assert bool(((draws.mean(0) - exact).abs() < 0.1).all())


def test_levels_that_differ_are_refused() -> None:
    with pytest.raises(MvssError, match="one noise level"):
        SharedPosterior(denoisers(False))([normal(7, d) for d in SIZES], torch.linspace(1, 2, 7))
