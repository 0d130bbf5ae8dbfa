"""Mixture priors against torch.distributions, automatic differentiation and moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvss.priors.gaussian_mixture import GaussianMixture, Hierarchy
from mvss.runtime.errors import MvssError


def _mixture(components: int = 4, dimension: int = 3, rank: int = 3, seed: int = 0) -> GaussianMixture:
    rng = torch.Generator().manual_seed(seed)
    return GaussianMixture(
        0.2 + torch.rand(components, generator=rng, dtype=torch.float64),
        torch.randn(components, dimension, generator=rng, dtype=torch.float64),
        0.4 * torch.randn(components, dimension, rank, generator=rng, dtype=torch.float64),
        floor=0.05,
    )


def _moments(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    mean = mixture.weights @ mixture.means
    spread = mixture.means - mean
    covariance = torch.einsum("k,kij->ij", mixture.weights, mixture.covariances)
    return mean, covariance + (mixture.weights * spread.mT) @ spread


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_log_prob_agrees_with_torch(rank: int) -> None:
    mixture = _mixture(rank=rank)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    components = torch.distributions.MultivariateNormal(mixture.means, mixture.covariances + 0.09 * eye)
    expected = torch.logsumexp(mixture.weights.log() + components.log_prob(x[:, None]), 1)
    torch.testing.assert_close(mixture.log_prob(x, 0.3), expected)


@pytest.mark.parametrize("rank", [1, 3])
def test_denoiser_obeys_tweedie(rank: int) -> None:
    """E[x | x_t] = x_t + σ² ∇ log p(x_t)."""
    mixture = _mixture(rank=rank)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    sigma = torch.linspace(0.05, 2.0, 6, dtype=torch.float64)
    (score,) = torch.autograd.grad(mixture.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(mixture.denoise(x.detach(), sigma), x.detach() + sigma[:, None] ** 2 * score)


def test_draws_have_the_mixtures_moments() -> None:
    mixture = _mixture(rank=2)
    x = mixture.sample(40_000, torch.Generator().manual_seed(2))
    mean, covariance = _moments(mixture)
    torch.testing.assert_close(x.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(x.mT), covariance, atol=0.05, rtol=0)


def test_cutting_keeps_mass_mean_and_covariance() -> None:
    mixture = _mixture()
    cut = mixture.resize(11, dead=0.0)
    assert len(cut) == 11
    for before, after in zip(_moments(mixture), _moments(cut), strict=True):
        torch.testing.assert_close(after, before)


def test_resizing_drops_the_dead_and_cuts_the_heaviest() -> None:
    eye = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0], [50.0, 0.0]], dtype=torch.float64)
    resized = GaussianMixture(torch.tensor([0.7, 0.299, 0.001]), means, eye, 0.1).resize(3)
    assert float(resized.means.max()) < 20  # the third is gone
    assert int((resized.means[:, 0] < 5).sum()) == 2  # the first is cut


def test_hierarchy_levels_keep_the_moments_and_end_at_the_mixture() -> None:
    mixture = _mixture(components=7)
    hierarchy = Hierarchy.of(mixture, coarsest=2)
    for level in hierarchy.levels:
        for mine, whole in zip(_moments(level), _moments(mixture), strict=True):
            torch.testing.assert_close(mine, whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(hierarchy.levels[-1].means, mixture.means[hierarchy.order])


def test_errors_are_one_line() -> None:
    mixture = _mixture()
    with pytest.raises(MvssError, match="floor"):
        GaussianMixture(mixture.weights, mixture.means, mixture.factors, 0.0)
    with pytest.raises(MvssError, match="NaN"):
        GaussianMixture(mixture.weights, mixture.means * torch.nan, mixture.factors, 0.1)
    with pytest.raises(MvssError, match="do not fit"):
        GaussianMixture(mixture.weights[:2], mixture.means, mixture.factors, 0.1)


def test_a_stratified_sample_gives_every_component_its_share() -> None:
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    means = 10.0 * torch.arange(4, dtype=torch.float64)[:, None]
    mixture = GaussianMixture(weights, means, torch.full((4, 1, 1), 0.1, dtype=torch.float64), 0.1)
    x = mixture.sample(1001, torch.Generator().manual_seed(0), stratified=True)
    counts = torch.bincount((x[:, 0] / 10).round().long(), minlength=4)
    assert bool(((counts - 1001 * weights).abs() <= 1).all())
    # in random order: a part of the draws is a sample of its own
    assert 0.2 < float((x[:500, 0] > 5).double().mean()) < 0.8


def test_a_mixture_read_back_is_the_same_to_the_bit() -> None:
    rng = torch.Generator().manual_seed(0)
    mixture = GaussianMixture(torch.rand(48, generator=rng), torch.randn(48, 5), torch.randn(48, 5, 5), 0.01)
    again = GaussianMixture(**GaussianMixture(**mixture.state()).state())
    assert all(torch.equal(a, b) for a, b in zip(mixture.buffers(), again.buffers(), strict=True))
