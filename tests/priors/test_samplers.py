"""Reverse-time samplers against the exact law of Gaussian and mixture posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from closed_forms import Gaussians, exact, random_prior, random_view
from torch import Tensor

from mvss.posteriors.dense import DenseView
from mvss.posteriors.dense_moments import DenseMoments
from mvss.posteriors.exact_mixture import MixturePosterior
from mvss.presets.posterior import SamplerConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.local_law import LocalLaw
from mvss.priors.samplers import noise_levels, noised, sample
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

SIZES = (3, 2)
PRIORS = [random_prior(1, d, i, rank=2) for i, d in enumerate(SIZES)]
ONE = random_view(1, 2, SIZES)
STREAM = Stream(0, ("samplers",))


def repeated(view: DenseView, count: int) -> DenseView:
    return view.select(torch.zeros(count, dtype=torch.long))


def run(config: SamplerConfig, start: Tensor) -> Tensor:
    """Samples of the one observation from stacked `start` `(N, 5)`."""
    count = len(start)
    posterior = DenseMoments(PRIORS, repeated(ONE, count))
    return torch.cat(sample(posterior, start.split(SIZES, dim=1), config, STREAM, torch.arange(count)), dim=1)


def flow(config: SamplerConfig) -> tuple[Tensor, Tensor]:
    """A deterministic sampler of a Gaussian is an affine map x ↦ F x + b: F and b."""
    basis = torch.cat([torch.zeros(1, 5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)])
    ends = run(config, basis)
    return (ends[1:] - ends[0]).mT, ends[0]


@pytest.mark.parametrize(("method", "steps", "tolerance"), [("heun", 200, 2e-3), ("ddim", 500, 0.025)])
def test_deterministic_samplers_give_the_exact_posterior(method: str, steps: int, tolerance: float) -> None:
    law = exact(PRIORS, ONE)
    config = SamplerConfig(method, steps, sigma_start=1000.0, sigma_min=1e-3)
    matrix, offset = flow(config)
    scale = float(law.covariance.diagonal().max())
    torch.testing.assert_close(offset, law.mean, atol=0.005, rtol=0)
    spread = config.sigma_start**2 * matrix @ matrix.mT
    torch.testing.assert_close(spread, law.covariance, atol=tolerance * scale, rtol=0)


@pytest.mark.slow
def test_predictor_corrector_gives_the_exact_posterior() -> None:
    law, count = exact(PRIORS, ONE), 8000
    config = SamplerConfig("pc", 160, sigma_start=100.0, sigma_min=2e-3, tau=0.05)
    start = torch.cat(noised([torch.zeros(count, d).double() for d in SIZES], 100.0, STREAM, torch.arange(count)), 1)
    x = run(config, start)
    scale = law.covariance.diagonal().sqrt()
    assert ((x.mean(0) - law.mean).abs() < 0.05 * scale).all()
    assert ((torch.cov(x.mT) - law.covariance).abs() < 0.06 * torch.outer(scale, scale)).all()


def exact_flow(law: Gaussians, config: SamplerConfig) -> Tensor:
    """F of the probability flow of N(m, P + σ² I), and of the last step to E[x | x_t]."""
    values, vectors = torch.linalg.eigh(law.covariance)
    along = ((values + config.sigma_min**2) / (values + config.sigma_start**2)).sqrt()
    return vectors @ torch.diag(along * values / (values + config.sigma_min**2)) @ vectors.mT


@pytest.mark.parametrize(("method", "low", "high"), [("ddim", 1.8, 2.2), ("heun", 3.6, 4.6)])
def test_order_of_convergence(method: str, low: float, high: float) -> None:
    law = exact(PRIORS, ONE)
    errors = []
    for intervals in (40, 80):
        config = SamplerConfig(method, intervals + 1, sigma_start=10.0, sigma_min=0.05)
        errors.append(float((flow(config)[0] - exact_flow(law, config)).norm()))
    assert low < errors[0] / errors[1] < high


def clusters(centres: list[list[float]], weights: list[float], width: float) -> GaussianMixture:
    means = torch.tensor(centres, dtype=torch.float64)
    factors = width * torch.eye(means.shape[1], dtype=torch.float64).expand(len(means), -1, -1)
    return GaussianMixture(torch.tensor(weights, dtype=torch.float64), means, factors, 0.05)


@pytest.mark.parametrize("method", ["heun", "pc"])
def test_warm_start_leaves_the_law_of_exact_draws_as_it_is(method: str) -> None:
    """Several modes that the observation cannot tell apart: mean, covariance and mode weights stay."""
    count = 8000
    priors = [
        clusters([[0.0, 0.0], [2.0, -1.0], [-1.0, 2.0]], [0.5, 0.3, 0.2], 0.2),
        clusters([[0.0], [1.5]], [0.6, 0.4], 0.3),
    ]
    view = DenseView(
        torch.tensor([[0.6]], dtype=torch.float64),
        (torch.tensor([[[1.0, 1.0]]], dtype=torch.float64), torch.tensor([[[0.7]]], dtype=torch.float64)),
        torch.tensor([[0.1]], dtype=torch.float64),
    )
    law, many, index = exact(priors, view), repeated(view, count), torch.arange(count)
    assert (law.weights > 0.05).sum() >= 3
    mixtures = MixturePosterior(priors, retain=30.0)
    start = mixtures.draw(many, STREAM.child("exact"), index, mixtures.chunks(many))
    config = SamplerConfig(method, 40 if method == "heun" else 100, sigma_start=1.0, sigma_min=0.005, tau=0.05)
    posterior = DenseMoments(priors, many, components=3)
    x = torch.cat(sample(posterior, noised(start, 1.0, STREAM, index), config, STREAM, index), dim=1)
    scale = law.covariance.diagonal().sqrt()
    torch.testing.assert_close(law.assign(x), law.weights, atol=0.02, rtol=0)
    assert ((x.mean(0) - law.mean).abs() < 0.05 * scale).all()
    assert ((torch.cov(x.mT) - law.covariance).abs() < 0.06 * torch.outer(scale, scale)).all()


def test_prior_draws_follow_the_prior() -> None:
    prior, count = random_prior(3, 2, 5), 6000
    index = torch.arange(count)
    start = noised([torch.zeros(count, 2, dtype=torch.float64)], 50.0, STREAM, index)
    x = sample(LocalLaw([prior]), start, SamplerConfig("heun", 60, 50.0, 0.01), STREAM, index)[0]
    law = Gaussians(prior.weights, prior.means, prior.covariances)
    torch.testing.assert_close(x.mean(0), law.mean, atol=0.06, rtol=0)
    torch.testing.assert_close(torch.cov(x.mT), law.covariance, atol=0.08, rtol=0)
    torch.testing.assert_close(law.assign(x), law.weights, atol=0.03, rtol=0)


@pytest.mark.parametrize("method", ["pc", "ddim", "heun"])
def test_draws_are_keyed_by_observation_not_by_batch(method: str) -> None:
    count, config = 300, SamplerConfig(method, 4, 1.0, 0.1)
    view, priors = random_view(count, 2, SIZES), [random_prior(3, d, i) for i, d in enumerate(SIZES)]

    def draws(index: Tensor) -> Tensor:
        start = noised([torch.zeros(len(index), d, dtype=torch.float64) for d in SIZES], 1.0, STREAM, index)
        posterior = DenseMoments(priors, view.select(index), 2)
        return torch.cat(sample(posterior, start, config, STREAM, index), dim=1)

    some = torch.tensor([299, 3, 257, 0])
    torch.testing.assert_close(draws(some), draws(torch.arange(count))[some])


def test_levels_are_geometric() -> None:
    levels = noise_levels(SamplerConfig(steps=5, sigma_start=0.8, sigma_min=0.05))
    expected = torch.tensor([0.8, 0.4, 0.2, 0.1, 0.05], dtype=torch.float64)
    torch.testing.assert_close(levels, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "euler"}, "pc, ddim or heun"),
        ({"steps": 0}, "steps"),
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"sigma_min": 1.0, "sigma_start": 0.5}, "sigma_min"),
        ({"tau": 1.0}, "tau"),
        ({"corrections": -1}, "corrections"),
        ({"sigma_start": math.inf}, "finite"),
    ],
)
def test_bad_settings_are_refused_in_one_line(options: dict, words: str) -> None:
    with pytest.raises(MvssError, match=words) as error:
        SamplerConfig(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["ancestral", "pc", "ddim", "heun"])
def test_a_run_costs_what_its_settings_say(method: str) -> None:
    config, calls = SamplerConfig(method, steps=5, corrections=2), []

    class Counted:
        def __call__(self, x: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
            calls.append(sigma)
            return tuple(0.5 * v for v in x)

        def draw(self, x: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
            return self(x, sigma)

    sample(Counted(), [torch.ones(3, 2, dtype=torch.float64)], config, Stream(0), torch.arange(3))
    assert len(calls) == config.evaluations
