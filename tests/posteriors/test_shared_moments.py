"""Large sources: exact where the denoiser is a mixture, whatever the number of steps; networks move the means."""

from __future__ import annotations

import pytest
import torch
from closed_forms import random_prior
from torch import Tensor

from mvss.posteriors.dense import DenseView
from mvss.posteriors.dense_moments import DenseMoments
from mvss.posteriors.shared_moments import SharedMoments
from mvss.presets.posterior import SamplerConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.local_law import LocalLaw, shared_local
from mvss.priors.prior import Prior
from mvss.priors.samplers import sample
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Dense
from mvss.problem.shared_view import SharedView
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

RNG = torch.Generator().manual_seed(0)
SIZES = (4, 3)
PRIORS = (random_prior(3, 4, 2), random_prior(2, 3, 1))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


VIEW = View(normal(7, 3), {"a": Dense(normal(3, 4)), "b": Dense(normal(3, 3))}, Isotropic(0.3))


class Tilt(torch.nn.Module):
    """A network that says something smooth."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        return self.scale * torch.sin(inputs[:, 0])


def sources(network: bool) -> list[Prior]:
    return [DiffusionPrior(p, Tilt(), 1.0) if network else p for p in PRIORS]


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_without_networks_it_is_the_posterior_of_small_sources(sigma: float) -> None:
    x_t, level = [normal(7, d) for d in SIZES], torch.full((7,), sigma, dtype=torch.float64)
    found = SharedMoments(sources(False), SharedView.of(VIEW), {})(x_t, level)
    expected = DenseMoments(sources(False), DenseView.of(VIEW), components=8)(x_t, level)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_network_moves_the_means_by_its_correction() -> None:
    """With one observation number of huge noise the posterior is the denoiser itself."""
    x_t, level = [normal(7, d) for d in SIZES], torch.full((7,), 0.5, dtype=torch.float64)
    blind = View(VIEW.y, VIEW.operators, Isotropic(1e6))
    moments = SharedMoments(sources(True), SharedView.of(blind), {})
    for found, prior, x in zip(moments(x_t, level), sources(True), x_t, strict=True):
        torch.testing.assert_close(found, prior.denoise(x, level), atol=1e-6, rtol=1e-6)
    assert moments.evaluations == 2
    for prior, x in zip(sources(True), x_t, strict=True):
        local = shared_local(prior, x, level)
        torch.testing.assert_close((local.log_weight.exp().unsqueeze(2) * local.mean).sum(1), prior.denoise(x, level))


def test_few_steps_give_exact_posterior_draws() -> None:
    """One Gaussian per source: mean and covariance of draws by four ancestral steps from far above."""
    priors = [GaussianMixture(torch.ones(1), normal(1, d), normal(1, d, d), 0.1) for d in SIZES]
    n, shared = 20000, SharedView.of(VIEW)
    moments = SharedMoments(priors, SharedView(shared.y[:1].expand(n, -1), shared.operators, shared.noise), {})
    stream, index = Stream(0, ("few",)), torch.arange(n)
    start = [50.0 * stream.normal(index, (d,), "top", d) for d in SIZES]
    config = SamplerConfig("ancestral", 4, sigma_start=50.0, sigma_min=0.01)
    draws = torch.cat(sample(moments, start, config, stream, index), dim=1)
    a = torch.cat([o.dense()[0] for o in shared.operators], dim=1)
    prior = torch.block_diag(*(p.covariances[0] for p in priors))
    gain = prior @ a.mT @ torch.linalg.inv(a @ prior @ a.mT + torch.diag(shared.noise))
    centre = torch.cat([p.means[0] for p in priors])
    mean, covariance = centre + gain @ (shared.y[0] - a @ centre), prior - gain @ a @ prior
    error = (covariance.diagonal() / n).sqrt()
    assert bool(((draws.mean(0) - mean).abs() < 5 * error + 0.02).all())
    torch.testing.assert_close(draws.T.cov(), covariance, rtol=0.1, atol=0.05)


def test_factorisations_serve_other_observations() -> None:
    """Each row as if it were alone, whichever observations the factorisations were made with."""
    config, levels = SamplerConfig("ancestral", 3, sigma_start=2.0, sigma_min=0.1), {}
    start, index = [normal(7, d) for d in SIZES], torch.arange(7)
    whole = sample(SharedMoments(sources(True), SharedView.of(VIEW), levels), start, config, Stream(0), index)
    made = set(levels)
    for rows in (slice(5, 7), slice(0, 3)):
        part = SharedMoments(sources(True), SharedView.of(VIEW), levels).select(rows)
        found = sample(part, [x[rows] for x in start], config, Stream(0), index[rows])
        torch.testing.assert_close(found, tuple(x[rows] for x in whole))
    assert set(levels) == made and len(made) == 3


def test_prior_draws_are_those_of_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvss.priors.local_law.DENSE", 0)  # as of a large source
    law, n = LocalLaw(PRIORS[:1]), 20000
    stream, index = Stream(0, ("prior",)), torch.arange(n)
    config = SamplerConfig("ancestral", 3, sigma_start=30.0, sigma_min=0.01)
    (draws,) = sample(law, [30.0 * stream.normal(index, (4,), "top")], config, stream, index)
    mixture = PRIORS[0]
    exact = mixture.weights @ mixture.means
    assert bool(((draws.mean(0) - exact).abs() < 0.1).all())


def test_levels_that_differ_are_refused() -> None:
    with pytest.raises(MvssError, match="one noise level"):
        SharedMoments(PRIORS, SharedView.of(VIEW), {})([normal(7, d) for d in SIZES], torch.linspace(1, 2, 7))
