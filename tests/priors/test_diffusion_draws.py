"""Draws and densities of diffusion priors whose network adds nothing yet: those of their mixture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from closed_forms import Linear, ball, random_prior
from torch import Tensor

from mvss.presets.posterior import SamplerConfig
from mvss.presets.training import NetworkConfig
from mvss.priors.diffusion import DiffusionPrior, Drawing
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import build_network
from mvss.runtime.rng import Stream

if TYPE_CHECKING:
    from mvss.priors.prior import Prior

STREAM, COUNT = Stream(0, ("draws",)), 6000
SAMPLER = SamplerConfig("ancestral", 12, sigma_start=2.0, sigma_min=0.02)


def untrained(mixture: GaussianMixture, drawing: Drawing | None = None, outputs: int = 1) -> DiffusionPrior:
    network = build_network(NetworkConfig(hidden=(8,), embedding=4), mixture.shape, 2, outputs, STREAM)
    return DiffusionPrior(mixture, network.double(), mixture.spread, drawing, (0.05, 4.0))


def two_modes(components: int = 3) -> GaussianMixture:
    mixture = random_prior(components, 2, 5, size=0.3, floor=0.05)
    mixture.shape = (1, 2)
    return mixture


def moments(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    mean = mixture.weights @ mixture.means
    spread = mixture.means - mean
    return mean, torch.einsum("k,kij->ij", mixture.weights, mixture.covariances) + (mixture.weights * spread.mT) @ spread


def share(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Mean probability of each component over draws: the weights, if they are of the mixture."""
    return mixture.component_posteriors(x.flatten(1), x.new_zeros(len(x)))[0].exp().mean(0)


def same_law(x: Tensor, mixture: GaussianMixture) -> None:
    mean, covariance = moments(mixture)
    width = covariance.diagonal().sqrt()
    assert x.shape == (COUNT, *mixture.shape)
    assert bool(((x.flatten(1).mean(0) - mean).abs() < 5 * width / math.sqrt(COUNT)).all())
    assert bool(((torch.cov(x.flatten(1).mT) - covariance).abs() < 0.07 * torch.outer(width, width)).all())
    torch.testing.assert_close(share(mixture, x), mixture.weights, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    "drawing",
    [
        Drawing(SAMPLER, components=3),
        Drawing(SamplerConfig("ancestral", 60, sigma_start=20.0, sigma_min=0.01), from_noise=True, components=3),
        Drawing(SamplerConfig("ancestral", 60, sigma_start=20.0, sigma_min=0.01), from_noise=True),
        Drawing(SamplerConfig("heun", 40, sigma_start=20.0, sigma_min=0.01), from_noise=True),
    ],
)
def test_draws_of_an_untrained_prior_are_those_of_its_mixture(drawing: Drawing) -> None:
    mixture = two_modes()
    same_law(untrained(mixture, drawing).sample(COUNT, STREAM), mixture)


def test_draws_from_noise_forget_where_they_began() -> None:
    """Modes far from zero, which σ_start drowns no better than it does the source: draws begin at its mean."""
    mixture = two_modes()
    mixture = GaussianMixture(mixture.weights, mixture.means + 12.0, mixture.factors, mixture.floor, mixture.shape)
    drawing = Drawing(SamplerConfig("ancestral", 40, sigma_start=6.0, sigma_min=0.01), from_noise=True, components=3)
    same_law(untrained(mixture, drawing).sample(COUNT, STREAM), mixture)


def test_stratified_draws_give_every_component_its_share() -> None:
    mixture = two_modes()
    prior = untrained(mixture, Drawing(SAMPLER, components=3))
    start = mixture.sample(COUNT, STREAM, stratified=True)
    x = prior.sample(COUNT, STREAM, stratified=True)
    same_law(x, mixture)
    assert not torch.equal(x, start) and torch.equal(x, prior.sample(COUNT, STREAM, stratified=True))


@pytest.mark.parametrize("rho", [0.02, 0.4, 3.0])
def test_draws_given_a_noised_source_are_those_of_its_mixture(rho: float) -> None:
    """Two samples of the same posterior, the prior's and the exact one of `GaussianMixture`; also below the least level."""
    mixture = two_modes()
    prior = untrained(mixture, Drawing(SAMPLER, components=3))
    z, index = torch.tensor([[[0.3, -0.4]]], dtype=torch.float64).expand(COUNT, 1, 2), torch.arange(COUNT)
    level = z.new_full((COUNT,), rho)
    x, exact = (p.draw_given(z, level, STREAM, index, 24).flatten(1) for p in (prior, mixture))
    width = exact.std(0)
    assert bool(((x.mean(0) - exact.mean(0)).abs() < 5 * width * math.sqrt(2 / COUNT)).all())
    assert bool(((torch.cov(x.mT) - torch.cov(exact.mT)).abs() < 0.1 * torch.outer(width, width)).all())
    torch.testing.assert_close(share(mixture, x), share(mixture, exact), atol=0.03, rtol=0)
    some = torch.tensor([5, 300, 0])
    torch.testing.assert_close(prior.draw_given(z[:3], level[:3], STREAM, some, 24).flatten(1), x[some])


def test_the_density_of_an_untrained_prior_is_that_of_its_mixture() -> None:
    """At the least level of its training, unless another is asked for."""
    mixture = two_modes()
    prior, x = untrained(mixture), mixture.sample(8, STREAM)
    torch.testing.assert_close(prior.log_prob(x), mixture.log_prob(x, 0.05), atol=1e-3, rtol=0)
    torch.testing.assert_close(prior.log_prob(x, 0.3), mixture.log_prob(x, 0.3), atol=1e-3, rtol=0)


def test_the_density_of_a_large_source_is_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = two_modes()
    prior, x = untrained(mixture), mixture.sample(3, STREAM)
    exact = prior.log_prob(x)
    monkeypatch.setattr("mvss.priors.diffusion.EXACT_TRACE", 1)
    estimate = prior.log_prob(x)
    assert 1e-6 < float((estimate - exact).abs().max()) < 2.0
    assert torch.equal(estimate, prior.log_prob(x))  # of the same probes


def test_a_network_of_two_outputs_says_how_sure_it_is() -> None:
    """Untrained: Var = c_out², that of N(0, s²) given x_t; which is exact where the base is that Gaussian."""
    s, sigma = 0.7, torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64)
    prior, x = untrained(ball((4,), s), outputs=2), torch.ones(3, 4, dtype=torch.float64)
    assert prior.learns_variance
    mean, variance = prior.estimate(x, sigma)
    exact = ball((4,), s).estimate(x, sigma)
    torch.testing.assert_close((mean, variance), exact)
    torch.testing.assert_close(prior.denoise(x, sigma), mean)


def test_priors_of_either_kind_do_the_same_things() -> None:
    mixture = random_prior(2, 3, 1)
    priors: list[Prior] = [mixture, DiffusionPrior(mixture, Linear(3, 0.0), 1.0, Drawing(SAMPLER), (0.05, 4.0))]
    x, sigma, index = mixture.sample(5, STREAM), torch.full((5,), 0.3, dtype=torch.float64), torch.arange(5)
    for prior in priors:
        assert prior.shape == (3,) and prior.mixture is mixture and not prior.learns_variance
        assert prior.sample(4, STREAM).shape == (4, 3) and prior.sample(4, STREAM, True).shape == (4, 3)
        assert prior.log_prob(x).shape == prior.log_prob(x, 0.2).shape == (5,)
        assert prior.draw_given(x, x.new_full((len(x),), 0.3), STREAM, index, 4).shape == x.shape
        base = mixture.denoise(x, sigma)
        torch.testing.assert_close(prior.denoise(x, sigma), base + prior.correction(x, base, sigma))
    assert priors[0].network is None and priors[1].network is not None
