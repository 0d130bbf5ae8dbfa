"""Denoisers: the mixture's part, the network's part and the loss."""

from __future__ import annotations

import pytest
import torch
from closed_forms import Linear, ball, random_prior
from torch import Tensor

from mvss.presets.posterior import SamplerConfig
from mvss.priors.diffusion import DiffusionPrior, Drawing
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import TimeMLP
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SIGMA = torch.tensor([0.01, 0.3, 1.0, 40.0], dtype=torch.float64)
LEVELS = (0.01, 40.0)


def test_one_gaussian_with_karras_scales_is_karras_denoiser() -> None:
    """D = c_skip x + c_out F(c_in x, log σ): equation 7 of Karras et al. 2022."""
    s, x, network = 0.7, draw(4, 3), Linear(3, 0.3)
    total = (SIGMA**2 + s**2).sqrt()[:, None]
    c_skip, c_in, c_out = s**2 / total**2, 1 / total, SIGMA[:, None] * s / total
    inputs = torch.stack([c_in * x, (x - c_skip * x) / SIGMA[:, None]], dim=1)
    expected = c_skip * x + c_out * network(inputs, SIGMA.log())
    for mixture, base in ((ball((3,), s), "mixture"), (random_prior(4, 3, 0), "karras")):
        prior = DiffusionPrior(mixture, network, s, levels=LEVELS, base=base)
        torch.testing.assert_close(prior.denoise(x, SIGMA), expected)
        alone = mixture.denoise(x, SIGMA)
        torch.testing.assert_close(prior.correction(x, alone, SIGMA), expected - alone)


def test_under_karras_base_draws_start_from_the_fitted_mixture() -> None:
    """Its skip term is no law of the source: with σ_max no larger than the spread, draws began around zero, and log p had its
    last term from there."""
    s, mean, (low, high) = 0.5, torch.tensor([3.0, -1.0], dtype=torch.float64), (0.01, 1.0)
    mixture = GaussianMixture(torch.ones(1), mean[None], mean.new_zeros(1, 2, 0), s, (2,))
    run = SamplerConfig("heun", 60, high, low)
    prior = DiffusionPrior(mixture, Exact(mixture, s), s, Drawing(run), (low, high), base="karras")
    law = DiffusionPrior(mixture, Says(), s).mixture
    draws = prior.sample(2000, Stream(0))
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.06)
    torch.testing.assert_close(draws.std(0), mean.new_tensor([s, s]), rtol=0.06, atol=0)
    torch.testing.assert_close(prior.log_prob(draws[:20]), law.log_prob(draws[:20], low), rtol=0, atol=0.02)


class Exact(torch.nn.Module):
    """F with which Karras' denoiser is that of a mixture."""

    def __init__(self, mixture: GaussianMixture, s: float) -> None:
        super().__init__()
        self.mixture, self.s, self.zero = mixture, s, torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        sigma = log_sigma.exp()
        total = (sigma.square() + self.s**2).sqrt()[:, None]
        x_t = inputs[:, 0] * total
        return (self.mixture.denoise(x_t, sigma) - self.s**2 / total**2 * x_t) * total / (sigma[:, None] * self.s)


def test_a_new_network_leaves_the_mixture_as_it_is() -> None:
    mixture, x = random_prior(4, 6, 0, rank=2), draw(4, 2, 3)
    mixture.shape = (2, 3)
    prior = DiffusionPrior(mixture, TimeMLP(6, hidden=(8,), embedding=4, inputs=12).double(), 0.5)
    torch.testing.assert_close(prior.denoise(x, SIGMA), mixture.denoise(x.flatten(1), SIGMA).reshape(x.shape))
    assert prior.shape == (2, 3) and prior.mixture is mixture and not prior.learns_variance


def test_loss_is_the_weighted_error_of_the_denoiser() -> None:
    prior, s, x, z = random_prior(3, 2, 1), 0.7, draw(4, 2), draw(4, 2, seed=1)
    denoiser = DiffusionPrior(prior, Linear(2, 0.3), s, levels=LEVELS)
    c_out = (SIGMA * s / (SIGMA**2 + s**2).sqrt())[:, None]
    each = ((denoiser.denoise(x + SIGMA[:, None] * z, SIGMA) - x) / c_out).square().mean(1)
    torch.testing.assert_close(denoiser.loss(x, SIGMA, z), each.mean())
    weights = torch.tensor([0.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(denoiser.loss(x, SIGMA, z, weights), each[1:3].mean())


class Says(torch.nn.Module):
    """One, for the F and the h that are asked for; it notes the noise levels."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.one, self.outputs, self.asked = torch.nn.Parameter(torch.ones(1, dtype=torch.float64)), outputs, list[Tensor]()

    @property
    def config(self) -> Says:
        return self

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        self.asked.append(log_sigma.exp())
        return self.one.expand(len(inputs), self.outputs, *inputs.shape[2:])


@pytest.mark.parametrize("outputs", [1, 2])
def test_above_its_levels_the_mixture_serves_alone(outputs: int) -> None:
    mixture, x, known = random_prior(3, 2, 1), draw(4, 2), SIGMA <= 1
    prior, wider = (DiffusionPrior(mixture, Says(outputs), 0.7, levels=(0.01, high)) for high in (1.0, 40.0))
    torch.testing.assert_close(prior.denoise(x, SIGMA)[known], wider.denoise(x, SIGMA)[known], rtol=0, atol=0)
    torch.testing.assert_close(prior.denoise(x, SIGMA)[~known], mixture.denoise(x, SIGMA)[~known])
    assert not torch.allclose(wider.denoise(x, SIGMA), mixture.denoise(x, SIGMA))
    if outputs == 2:
        for found, inside, alone in zip(
            prior.estimate(x, SIGMA), wider.estimate(x, SIGMA), mixture.estimate(x, SIGMA), strict=True
        ):
            torch.testing.assert_close(found, torch.where(known[:, None], inside, alone))


@pytest.mark.parametrize("kind", [(False, "karras"), (True, "mixture")])
def test_above_its_levels_a_network_with_no_mixture_goes_on_with_a_warning(kind: tuple[bool, str]) -> None:
    mixture, x = ball((1, 3), 0.7), draw(4, 1, 3)
    prior, wider = (DiffusionPrior(mixture, Says(), 0.7, None, (0.01, high), *kind) for high in (1.0, 40.0))
    with pytest.warns(UserWarning, match="above 1, the largest that it was trained at: raise training.sigma_max"):
        torch.testing.assert_close(prior.denoise(x, SIGMA), wider.denoise(x, SIGMA))


def test_below_its_levels_a_network_answers_as_at_the_least() -> None:
    prior, network = random_prior(3, 2, 1), Says()
    denoiser = DiffusionPrior(prior, network, 0.7, levels=(0.3, 40.0))
    denoiser.denoise(draw(4, 2), SIGMA)
    torch.testing.assert_close(network.asked[-1], SIGMA.clamp_min(0.3), rtol=1e-5, atol=0)
    with pytest.raises(MvssError, match="sigma is below the least noise level that the prior was trained at"):
        denoiser.log_prob(draw(4, 2), 0.2)


@pytest.mark.parametrize("factor", [1.0, 1.7])
def test_relaxation_moves_the_optimum_beyond_the_regression(factor: float) -> None:
    """For F linear in its parameters both regressions are least squares: θ* = ω θ_new − (ω − 1) θ_old."""
    prior, x, z = random_prior(2, 2, 1), draw(400, 2), draw(400, 2, seed=1)
    sigma = 0.1 + torch.rand(400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    denoiser = DiffusionPrior(prior, Linear(2, 0.3), 0.7)
    parameters = list(denoiser.network.parameters())

    def optimum() -> Tensor:
        """One Newton step from anywhere, since the loss is quadratic."""
        flat = torch.nn.utils.parameters_to_vector(parameters)

        def loss(theta: Tensor) -> Tensor:
            named = {"network.weight": theta[:8].reshape(2, 4), "network.bias": theta[8:]}
            return torch.func.functional_call(_Loss(denoiser), {f"denoiser.{k}": v for k, v in named.items()}, (x, sigma, z))

        theta = flat.detach()
        return theta - torch.linalg.solve(torch.func.hessian(loss)(theta), torch.func.grad(loss)(theta))

    old = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
    new = optimum()
    with denoiser.relaxed(factor):
        torch.testing.assert_close(optimum(), factor * new - (factor - 1) * old)
        assert (denoiser.previous is None) == (factor == 1.0)
    torch.testing.assert_close(optimum(), new)


def test_relaxation_does_not_move_what_is_measured() -> None:
    """Held-out losses of a lap are those of its network, however far beyond the regression that is trained."""
    denoiser, x, z = DiffusionPrior(random_prior(3, 2, 1), Linear(2, 0.3), 0.7), draw(4, 2), draw(4, 2, seed=1)
    before = denoiser.error(x, SIGMA, z)
    with denoiser.relaxed(1.5):
        torch.testing.assert_close(denoiser.error(x, SIGMA, z), before)
        torch.testing.assert_close(denoiser.loss(x, SIGMA, z), 1.5**2 * before)


class _Loss(torch.nn.Module):
    def __init__(self, denoiser: DiffusionPrior) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        return self.denoiser.loss(x, sigma, noise)


def test_relaxation_remembers_the_network_without_training_it() -> None:
    denoiser = DiffusionPrior(random_prior(2, 2, 1), Linear(2, 0.3), 0.7)
    trainable = [p for p in denoiser.parameters() if p.requires_grad]
    with denoiser.relaxed(1.5):
        assert [p for p in denoiser.parameters() if p.requires_grad] == trainable
        before = denoiser.previous.weight.clone()
        with torch.no_grad():
            denoiser.network.weight.add_(1.0)
        assert torch.equal(denoiser.previous.weight, before)
    with pytest.raises(KeyboardInterrupt), denoiser.relaxed(1.5):
        raise KeyboardInterrupt
    assert denoiser.previous is None and denoiser.relaxation == 1.0


def test_beyond_its_levels_the_density_is_that_of_the_mixture() -> None:
    """A level that is too high was refused by numbers that nobody had given."""
    mixture, x = random_prior(3, 2, 1), draw(4, 2)
    prior = DiffusionPrior(mixture, Says(), 0.7, levels=(0.01, 1.0))
    for sigma in (1.0, 30.0):
        torch.testing.assert_close(prior.log_prob(x, sigma), mixture.log_prob(x, sigma))
