"""Mixture priors against torch.distributions, automatic differentiation and moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.hierarchy import Hierarchy
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import PeakMemory
from mvss.runtime.rng import Stream


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
    x = mixture.sample(40_000, Stream(2))
    mean, covariance = _moments(mixture)
    torch.testing.assert_close(x.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(x.mT), covariance, atol=0.05, rtol=0)


@pytest.mark.parametrize(("components", "rank"), [(1, 3), (3, 3), (3, 1), (1, 1)])
def test_draws_given_a_noised_source_have_the_moments_of_its_posterior(components: int, rank: int) -> None:
    """One z many times over: x | z is again a mixture, by Gaussian conditioning one component at a time."""
    mixture, count = _mixture(components, rank=rank), 40_000
    z, rho = torch.tensor([0.4, -0.3, 0.2], dtype=torch.float64), 0.35
    level = torch.tensor([rho], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    logs, means, covariances = [], [], []
    for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        total = covariance + rho**2 * eye
        logs.append(weight.log() + torch.distributions.MultivariateNormal(mean, total).log_prob(z))
        gain = torch.linalg.solve(total, covariance).mT
        means.append(mean + gain @ (z - mean))
        covariances.append(covariance - gain @ covariance)
    share, centres, within = torch.stack(logs).softmax(0), torch.stack(means), torch.stack(covariances)
    mean = share @ centres
    spread = centres - mean
    expected = torch.einsum("k,kij->ij", share, within) + (share * spread.mT) @ spread
    x = mixture.draw_given(z.expand(count, 3), level.expand(count), Stream(3), torch.arange(count), 1)
    offset = x - mean
    assert bool((offset.mean(0).abs() < 5 * (expected.diagonal() / count).sqrt()).all())
    found = offset.mT @ offset / count
    error = ((offset.square().mT @ offset.square() / count - found.square()) / count).sqrt()
    assert float(((found - expected).abs() / error).max()) < 5
    law = torch.distributions.MultivariateNormal(centres, 0.5 * (within + within.mT))
    assigned = torch.softmax(law.log_prob(x[:, None]) + share.log(), 1).mean(0)
    torch.testing.assert_close(assigned, share, atol=0.015, rtol=0)
    some = torch.tensor([301, 7, 0])  # keyed by their numbers
    torch.testing.assert_close(mixture.draw_given(z.expand(3, 3), level.expand(3), Stream(3), some, 1), x[some])
    estimate, variance = mixture.estimate(z[None], level)
    torch.testing.assert_close(estimate[0], mean)
    torch.testing.assert_close(variance[0], expected.diagonal())


@pytest.mark.parametrize("rank", [1, 3])
def test_the_estimate_is_the_denoiser_and_its_slope(rank: int) -> None:
    """Var[x | x_t] = σ² ∂d/∂x_t (Tweedie), at levels of their own, in the shape of the source."""
    mixture = _mixture(rank=rank)
    mixture.shape = (1, 3)
    x = torch.randn(6, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma = torch.linspace(0.05, 2.0, 6, dtype=torch.float64)
    mean, variance = mixture.estimate(x, sigma)
    torch.testing.assert_close(mean, mixture.denoise(x, sigma))
    leaf = x.clone().requires_grad_()
    value = mixture.denoise(leaf, sigma).flatten(1)
    slopes = [torch.autograd.grad(value[:, i].sum(), leaf, retain_graph=True)[0].flatten(1)[:, i] for i in range(3)]
    torch.testing.assert_close(variance.reshape(6, 3), sigma[:, None] ** 2 * torch.stack(slopes, dim=1))
    assert mean.shape == variance.shape == x.shape
    assert not bool(mixture.correction(x, mean, sigma).any()) and mixture.mixture is mixture
    assert mixture.network is None and not mixture.learns_variance


@pytest.mark.parametrize("factor", [-3.0, 0.25])
def test_a_scaled_mixture_is_the_law_of_the_scaled_source(factor: float) -> None:
    mixture = _mixture(rank=2)
    mixture.shape = (3, 1)
    scaled = mixture.scaled(factor)
    x = torch.randn(5, 3, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(scaled.log_prob(factor * x) + 3 * torch.tensor(abs(factor)).log(), mixture.log_prob(x))
    assert scaled.shape == (3, 1) and scaled.floor == abs(factor) * mixture.floor
    assert scaled.spread == pytest.approx(abs(factor) * mixture.spread)
    _, covariance = _moments(mixture)
    assert mixture.spread == pytest.approx(float(covariance.diagonal().mean().sqrt()))
    assert mixture.sample(4, Stream(0)).shape == (4, 3, 1)


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
    assert len(resized.resize(2)) == 3  # what is alive stays


def test_hierarchy_levels_keep_the_moments_and_end_at_the_mixture() -> None:
    mixture = _mixture(components=7)
    hierarchy = Hierarchy.of(mixture, coarsest=2)
    for level in hierarchy.levels:
        for mine, whole in zip(_moments(level), _moments(mixture), strict=True):
            torch.testing.assert_close(mine, whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(hierarchy.levels[-1].means, mixture.means[hierarchy.order])


@pytest.mark.parametrize("floor", [1e-2, 1e-5, 1e-7])
def test_hierarchy_of_thin_components_keeps_the_moments(floor: float) -> None:
    """On lines whose groups are in planes: what is left of a covariance without the floor has rounding below zero."""
    mixture = _mixture(components=60, dimension=5, rank=1)
    mixture = GaussianMixture(mixture.weights, mixture.means, mixture.factors, floor)
    hierarchy = Hierarchy.of(mixture, coarsest=4)
    for level in hierarchy.levels:
        for mine, whole in zip(_moments(level), _moments(mixture), strict=True):
            torch.testing.assert_close(mine, whole, atol=1e-9, rtol=1e-6)


def test_errors_are_one_line() -> None:
    mixture = _mixture()
    with pytest.raises(MvssError, match="floor"):
        GaussianMixture(mixture.weights, mixture.means, mixture.factors, 0.0)
    with pytest.raises(MvssError, match="NaN"):
        GaussianMixture(mixture.weights, mixture.means * torch.nan, mixture.factors, 0.1)
    with pytest.raises(MvssError, match="do not fit"):
        GaussianMixture(mixture.weights[:2], mixture.means, mixture.factors, 0.1)
    for weights in ([-1.0, 2.0, 1.0, 1.0], [0.0] * 4):
        with pytest.raises(MvssError, match="no weight may be negative"):
            GaussianMixture(torch.tensor(weights), mixture.means, mixture.factors, 0.1)


def test_a_stratified_sample_gives_every_component_its_share() -> None:
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    means = 10.0 * torch.arange(4, dtype=torch.float64)[:, None]
    mixture = GaussianMixture(weights, means, torch.full((4, 1, 1), 0.1, dtype=torch.float64), 0.1)
    x = mixture.sample(1001, Stream(0), stratified=True)
    counts = torch.bincount((x[:, 0] / 10).round().long(), minlength=4)
    assert bool(((counts - 1001 * weights).abs() <= 1).all())
    # in random order: a part of the draws is a sample of its own
    assert 0.2 < float((x[:500, 0] > 5).double().mean()) < 0.8


def test_a_mixture_read_back_is_the_same_to_the_bit() -> None:
    rng = torch.Generator().manual_seed(0)
    mixture = GaussianMixture(torch.rand(48, generator=rng), torch.randn(48, 5), torch.randn(48, 5, 5), 0.01)
    again = GaussianMixture(**GaussianMixture(**mixture.state()).state())
    assert all(torch.equal(a, b) for a, b in zip(mixture.buffers(), again.buffers(), strict=True))


def test_many_equal_singular_values_are_decomposed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _mixture(3, 5, 2)

    def fails(*_: object, **__: object) -> None:
        raise torch.linalg.LinAlgError("too many repeated singular values")

    monkeypatch.setattr(torch.linalg, "svd", fails)
    found = _mixture(3, 5, 2)
    torch.testing.assert_close(found.eigenvalues, expected.eigenvalues)
    spans = [p.eigenvectors @ p.eigenvectors.mT for p in (found, expected)]
    torch.testing.assert_close(*spans)


def test_a_mixture_keeps_its_numbers_in_the_layout_of_files() -> None:
    """Decompositions give transposed views, whose products differ in last bits where sources are large: a mixture that is read
    back must give the same."""
    rng = torch.Generator().manual_seed(0)
    weights, means = torch.ones(2) / 2, torch.randn(3, 2, generator=rng).mT
    mixture = GaussianMixture(weights, means, torch.randn(2, 2, 3, generator=rng).mT, 0.1)
    assert all(kept.is_contiguous() for kept in (mixture.weights, mixture.means, mixture.factors))
    again = GaussianMixture(**mixture.state())
    for name, kept in mixture.named_buffers():
        assert torch.equal(kept, again.get_buffer(name)) and kept.stride() == again.get_buffer(name).stride()


@pytest.mark.parametrize("stratified", [False, True])
def test_of_no_draws_there_are_none(stratified: bool) -> None:
    assert _mixture().sample(0, Stream(0), stratified).shape == (0, 3)


def test_many_draws_of_a_full_covariance_take_no_matrix_each() -> None:
    mixture, peak = _mixture(1, 200, 200), PeakMemory()
    before = peak.gib()
    assert mixture.sample(6000, Stream(0)).shape == (6000, 200)
    assert peak.gib() - before < 0.6  # a matrix each would be 1.8 GiB


def test_draws_given_noised_sources_take_no_matrix_each() -> None:
    mixture, peak, count = _mixture(1, 200, 200), PeakMemory(), 6000
    z, rho, index = (
        torch.zeros(count, 200, dtype=torch.float64),
        torch.full((count,), 0.3, dtype=torch.float64),
        torch.arange(count),
    )
    before = peak.gib()
    assert mixture.draw_given(z, rho, Stream(0), index, 1).shape == z.shape
    assert peak.gib() - before < 0.6
