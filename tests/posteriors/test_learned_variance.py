"""Variances that networks learn, and the joint posterior with them, beside closed forms."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from closed_forms import random_prior
from torch import Tensor

from mvss.posteriors.learned_variance import LearnedPosterior
from mvss.posteriors.samplers import SamplerConfig, sample
from mvss.priors.diffusion import Denoiser, karras_base
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import TimeMLP
from mvss.priors.training import TrainingConfig, fit_denoiser
from mvss.problem.convolution import Convolve
from mvss.problem.noise import Diagonal, Isotropic, Noise, Stationary
from mvss.problem.operators import BlockAverage, Identity, LinearOperator, Mask, Scale
from mvss.problem.views import View
from mvss.runtime.rng import Stream

SHAPE, N = (1, 4, 4), 6
RNG = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


class Knows(torch.nn.Module):
    """What a trained network would say of independent Gaussian numbers N(mean, spread²) beside Karras' base with s = 1."""

    config = SimpleNamespace(outputs=2)

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.mean, self.spread = torch.nn.Parameter(mean), torch.nn.Parameter(spread)

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        sigma = log_sigma.exp().reshape(-1, *[1] * (inputs.ndim - 2))
        total = (sigma**2 + 1).sqrt()
        x_t, v = inputs[:, 0] * total, self.spread**2
        estimate = self.mean + v / (v + sigma**2) * (x_t - self.mean)
        variance = v * sigma**2 / (v + sigma**2)
        scale = sigma / total
        return torch.stack([(estimate - x_t / total**2) / scale, (variance / scale**2).log()], dim=1)


def known(seed: int) -> tuple[Denoiser, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mean = torch.randn(SHAPE, generator=rng, dtype=torch.float64)
    spread = 0.3 + torch.rand(SHAPE, generator=rng, dtype=torch.float64)
    return Denoiser(karras_base(16, 1.0), Knows(mean, spread), SHAPE, 1.0), mean.flatten(), spread.flatten() ** 2


MASK = Mask(torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(3)) > 0.2)
KERNEL = torch.tensor([[0.1, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.0]], dtype=torch.float64)
LAGS = torch.tensor([[0.0, 0.2, 0.1], [0.2, 1.0, 0.2], [0.1, 0.2, 0.0]], dtype=torch.float64)
CASES: dict[str, tuple[LinearOperator, LinearOperator, Noise]] = {
    "pixels": (Identity(SHAPE), Scale(0.5, SHAPE), Isotropic(0.2)),
    "masked pixels, a noise each": (MASK, MASK, Diagonal(0.1 + torch.rand(N, *SHAPE, generator=RNG, dtype=torch.float64))),
    "coarser pixels": (BlockAverage(SHAPE, 2), Scale(0.5, (1, 2, 2)) @ BlockAverage(SHAPE, 2), Isotropic(0.2)),
    "seeing, correlated noise": (Convolve(SHAPE, KERNEL, "same"), Identity(SHAPE), Stationary(0.1 * LAGS)),
}


def gaussian_posterior(view: View, means: list[Tensor], covariances: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Of all sources, one after another, by dense algebra: means `(N, 32)` and covariances `(N, 32, 32)`."""
    mean, prior = torch.cat(means), torch.block_diag(*covariances)
    matrix = torch.cat([o.dense().expand(N, -1, -1) for o in view.operators], dim=2)
    eye = torch.eye(matrix.shape[1], dtype=torch.float64)
    noise = torch.stack([view.noise.apply(e.reshape(1, *view.y.shape[1:]).expand_as(view.y)).flatten(1) for e in eye], dim=2)
    seen = (matrix.abs().sum(2) > 0).double()
    noise = seen[:, :, None] * noise * seen[:, None, :] + torch.diag_embed(1e12 * (1 - seen))
    gain = prior @ matrix.mT @ torch.linalg.inv(matrix @ prior @ matrix.mT + noise)
    left = (view.y.flatten(1) - matrix @ mean).unsqueeze(2)
    return mean + (gain @ left).squeeze(2), prior - gain @ matrix @ prior


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("second", ["network", "mixture"])
def test_the_ancestral_sampler_gives_the_exact_posterior(case: str, second: str) -> None:
    """Of independent Gaussian numbers, or beside a Gaussian with a full covariance, the Gaussians are exact at any level."""
    *operators, noise = CASES[case]
    first, mean, variance = known(1)
    if second == "network":
        other, mean_2, spread = known(2)
        covariance = torch.diag(spread)
    else:
        prior = random_prior(1, 16, 4)
        other, mean_2, covariance = Denoiser(prior, None, SHAPE, 1.0), prior.means[0], prior.covariances[0]
    y = operators[0].forward(normal(N, *SHAPE))
    view = View(y, tuple(operators), noise)
    expected, spread = gaussian_posterior(view, [mean, mean_2], [torch.diag(variance), covariance])
    draws, config = 1500, SamplerConfig("ancestral", steps=3, sigma_start=50.0, sigma_min=0.05)
    index = torch.arange(N).repeat(draws)
    posterior = LearnedPosterior([first, other], view.select(index))
    start = [50.0 * normal(N * draws, *SHAPE) for _ in range(2)]
    found = torch.cat([x.flatten(1) for x in sample(posterior, start, config, Stream(0), torch.arange(len(index)))], dim=1)
    found = found.reshape(draws, N, -1)
    scale = spread.diagonal(dim1=1, dim2=2).sqrt()
    assert float(((found.mean(0) - expected) / scale).abs().max()) < 5 / draws**0.5
    centred = (found - expected) / scale
    got = torch.einsum("dni,dnj->nij", centred, centred) / draws
    wanted = spread / scale.unsqueeze(1) / scale.unsqueeze(2)
    assert float((got - wanted).abs().max()) < 7 / draws**0.5
    assert posterior.residual < 1e-5
    assert posterior.evaluations == 3 * (2 if second == "network" else 1)


def test_the_mean_is_that_of_the_draws() -> None:
    *operators, noise = CASES["pixels"]
    (first, _, _), (second, _, _) = known(1), known(2)
    x_t, n = [normal(1, *SHAPE).expand(4000, *SHAPE) for _ in range(2)], 4000
    posterior = LearnedPosterior([first, second], View(normal(1, *SHAPE).expand(n, *SHAPE), tuple(operators), noise))
    level = torch.full((n,), 0.5, dtype=torch.float64)
    for mean, draws in zip(posterior(x_t, level), posterior.draw(x_t, level, Stream(1), torch.arange(n)), strict=True):
        torch.testing.assert_close(draws.mean(0), mean[0], atol=0.03, rtol=0)


def test_without_a_view_it_is_the_prior() -> None:
    denoiser, mean, variance = known(1)
    config, n = SamplerConfig("ancestral", steps=4, sigma_start=30.0, sigma_min=0.02), 4000
    (x,) = sample(LearnedPosterior([denoiser]), [30.0 * normal(n, *SHAPE)], config, Stream(2), torch.arange(n))
    torch.testing.assert_close(x.flatten(1).mean(0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(x.flatten(1).var(0), variance, atol=0.15, rtol=0.1)


def test_a_trained_network_knows_its_error() -> None:
    """Numbers of two widths: Var[x | x_t] of each is σ² v/(σ² + v), which one scale for all cannot say."""
    spread = torch.tensor([0.1, 1.0])
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(5)) * spread
    torch.manual_seed(0)
    network = TimeMLP(2, (64, 64), 16, "film", 4, 2)
    denoiser = Denoiser(karras_base(2, 0.7), network, (2,), 0.7)
    assert denoiser.learns_variance
    training = TrainingConfig(steps=600, batch=256, learning_rate=3e-3, sigma_min=0.1, sigma_max=1.0, beta=(1.0, 1.0))
    fit_denoiser(denoiser, x, training, Stream(3), Accelerator(cpu=True))
    for sigma in (0.15, 0.6):
        level = torch.full((4000,), sigma)
        _, variance = denoiser.estimate(x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(6)), level)
        exact = sigma**2 * spread**2 / (sigma**2 + spread**2)
        torch.testing.assert_close(variance.mean(0).detach() / exact, torch.ones(2), atol=0.12, rtol=0)


def test_the_variance_leaves_the_estimate_alone() -> None:
    """The gradient of the loss by F is that of the error."""
    torch.manual_seed(0)
    denoiser = Denoiser(karras_base(2, 0.7), TimeMLP(2, (8,), 4, "film", 4, 2), (2,), 0.7)
    x, sigma, z = torch.randn(9, 2), torch.full((9,), 0.3), torch.randn(9, 2)
    last = denoiser.network.output
    denoiser.loss(x, sigma, z).backward()
    found, last.weight.grad = last.weight.grad.clone(), None
    denoiser.error(x, sigma, z).backward()
    torch.testing.assert_close(found[:2], last.weight.grad[:2])
    assert bool((last.weight.grad[2:] == 0).all())


def test_of_several_components_draws_take_one_each() -> None:
    """p(x | x_t) of a mixture, without an observation: as the mixture's own."""
    mixture = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [2.0]]), torch.full((2, 1, 1), 0.1), 0.1)
    n = 4000
    (x,) = LearnedPosterior([Denoiser(mixture, None, (1,), 1.0)]).draw(
        [torch.zeros(n, 1, dtype=torch.float64)], torch.full((n,), 50.0, dtype=torch.float64), Stream(4), torch.arange(n)
    )
    assert abs(float((x > 0).double().mean()) - 0.7) < 0.03
    assert abs(float(x[x > 0].mean()) - 2.0) < 0.03
