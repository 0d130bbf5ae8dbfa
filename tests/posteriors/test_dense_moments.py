"""Moments of small sources against exact conditionals, automatic differentiation and the azula library."""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Sequence

import pytest
import torch
from closed_forms import Linear, exact, random_prior, random_view, shaped
from torch import Tensor

from mvss.posteriors.dense import DenseView
from mvss.posteriors.dense_moments import DenseMoments
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.local_law import LocalLaw, dense_local
from mvss.priors.networks import TimeMLP
from mvss.priors.prior import Prior
from mvss.runtime.rng import Stream

COUNT = 5
SIGMA = torch.tensor([0.02, 0.3, 1.0, 5.0, 0.5], dtype=torch.float64)


def noisy(sizes: tuple[int, ...]) -> list[Tensor]:
    rng = torch.Generator().manual_seed(4)
    return [2 * torch.randn(COUNT, d, generator=rng, dtype=torch.float64) for d in sizes]


def brute_force(priors: list[GaussianMixture], view: DenseView, x_t: list[Tensor]) -> tuple[Tensor, ...]:
    stacked = torch.cat(x_t, dim=1)
    means = [exact(priors, view, i, stacked[i], float(SIGMA[i])).mean for i in range(COUNT)]
    return torch.stack(means).split([p.dimension for p in priors], dim=1)


@pytest.mark.parametrize("components", [1, 4])
@pytest.mark.parametrize("sizes", [(3,), (3, 2), (2, 4, 1)])
def test_gaussian_sources_give_the_exact_mean(sizes: tuple[int, ...], components: int) -> None:
    priors = [random_prior(1, d, i, rank=min(d, 2)) for i, d in enumerate(sizes)]
    view, x_t = random_view(COUNT, 2, sizes), noisy(sizes)
    found = DenseMoments(priors, view, components)(x_t, SIGMA)
    torch.testing.assert_close(found, brute_force(priors, view, x_t))


@pytest.mark.parametrize("observed", [1, 3])
@pytest.mark.parametrize(("sizes", "counts"), [((3,), (4,)), ((3, 2), (3, 4)), ((2, 4, 1), (2, 3, 2))])
def test_all_components_give_the_exact_mean(sizes: tuple[int, ...], counts: tuple[int, ...], observed: int) -> None:
    priors = [random_prior(k, d, i, rank=min(d, 2)) for i, (k, d) in enumerate(zip(counts, sizes, strict=True))]
    view, x_t = random_view(COUNT, observed, sizes), noisy(sizes)
    found = DenseMoments(priors, view, max(counts))(x_t, SIGMA)
    torch.testing.assert_close(found, brute_force(priors, view, x_t))


def test_fewer_components_are_the_likeliest_ones() -> None:
    """With two of three components kept, the answer is that of a mixture without the one unlikeliest given x_t."""
    full, view, x_t = random_prior(3, 2, 0), random_view(COUNT, 1, (2,)), noisy((2,))
    found = DenseMoments([full], view, 2)(x_t, SIGMA)[0]
    log_weight = full.component_posteriors(x_t[0], SIGMA)[0]
    kept_weight = dense_local(full, x_t[0], SIGMA, 2).log_weight
    torch.testing.assert_close(kept_weight.exp().sum(1), torch.ones_like(SIGMA))
    for i in range(COUNT):
        kept = log_weight[i].argsort(descending=True)[:2]
        part = GaussianMixture(full.weights[kept], full.means[kept], full.factors[kept], full.floor)
        torch.testing.assert_close(found[i], exact([part], view, i, x_t[0][i], float(SIGMA[i])).mean)


def test_one_component_is_moment_matching() -> None:
    """E = x̂ + V Aᵀ (Σ + Σ A V Aᵀ)⁻¹ (y − Σ A x̂) with V = σ² ∂d/∂x_t from automatic differentiation."""
    sizes = (3, 2)
    sources = [random_prior(4, d, i) for i, d in enumerate(sizes)]
    view, x_t = random_view(COUNT, 2, sizes), noisy(sizes)
    found = DenseMoments(sources, view, 1)(x_t, SIGMA)
    for beta, expected in enumerate(moment_match(sources, view, x_t)):
        torch.testing.assert_close(found[beta], expected)


def moment_match(sources: Sequence[Prior], view: DenseView, x_t: list[Tensor]) -> list[Tensor]:
    estimates = [p.denoise(x, SIGMA) for p, x in zip(sources, x_t, strict=True)]
    spreads = [SIGMA[:, None, None] ** 2 * full_jacobian(p, x) for p, x in zip(sources, x_t, strict=True)]
    system, residual = torch.diag_embed(view.noise), view.y
    for a, x, v in zip(view.matrices, estimates, spreads, strict=True):
        system = system + a @ (v + v.mT) @ a.mT / 2
        residual = residual - (a @ x.unsqueeze(-1)).squeeze(-1)
    force = torch.linalg.solve(system, residual).unsqueeze(-1)
    return [
        (x + ((v + v.mT) / 2 @ a.mT @ force).squeeze(-1)).detach()
        for a, x, v in zip(view.matrices, estimates, spreads, strict=True)
    ]


def full_jacobian(prior: Prior, x_t: Tensor) -> Tensor:
    def one(x: Tensor, sigma: Tensor) -> Tensor:
        return prior.denoise(x.unsqueeze(0), sigma.unsqueeze(0)).squeeze(0)

    return torch.func.vmap(torch.func.jacrev(one))(x_t, SIGMA).detach()


def test_single_source_agrees_with_azula() -> None:
    denoise = pytest.importorskip("azula.denoise")
    mmps = pytest.importorskip("azula.guidance.mmps")
    covariance = pytest.importorskip("azula.linalg.covariance")
    noise = pytest.importorskip("azula.noise")
    level, ours, size, (x_t,) = 0.4, random_prior(3, 4, 0), 2, noisy((4,))

    class Theirs(denoise.Denoiser):
        schedule = noise.VESchedule(level, level)

        def forward(self, x: Tensor, t: Tensor) -> object:
            return denoise.DiracPosterior(ours.denoise(x, self.schedule(t)[1].expand(len(x))))

    view = random_view(1, size, (4,)).select(torch.zeros(COUNT, dtype=torch.long))
    matrix, spread = view.matrices[0][0], covariance.DiagonalCovariance(view.noise[0])
    theirs = mmps.MMPSDenoiser(Theirs(), view.y, lambda x: x @ matrix.mT, spread, "gmres", size)
    found = DenseMoments([ours], view, 1)([x_t], torch.full((COUNT,), level, dtype=torch.float64))[0]
    torch.testing.assert_close(found, theirs(x_t, torch.tensor(0.5, dtype=torch.float64)).mean)


NETWORKS = {"linear": lambda d: Linear(d, SMALL), "perceptron": lambda d: perceptron(d)}
SMALL = 0.001  # so that no component's covariance becomes indefinite


def perceptron(dimension: int) -> TimeMLP:
    torch.manual_seed(0)
    network = TimeMLP(dimension, hidden=(8, 8), embedding=4, inputs=2 * dimension).double()
    torch.nn.init.normal_(network.output.weight, std=SMALL)
    return network


@pytest.mark.parametrize("kind", NETWORKS)
def test_network_jacobian_is_that_of_the_whole_denoiser(kind: str) -> None:
    """Mean and covariance of what stands for p(x | x_t), from one pass, against Tweedie's formula by jacrev."""
    prior, (x_t,) = DiffusionPrior(random_prior(3, 3, 0), NETWORKS[kind](3), 0.8), noisy((3,))
    local = dense_local(prior, x_t, SIGMA, 1)
    assert local.clamped == 0 and local.evaluations == 1 + 3
    torch.testing.assert_close(local.mean[:, 0], prior.denoise(x_t, SIGMA).detach())
    expected = SIGMA[:, None, None] ** 2 * full_jacobian(prior, x_t)
    torch.testing.assert_close(local.covariance[:, 0], (expected + expected.mT) / 2)


@pytest.mark.parametrize("kept", [2, 3])
def test_of_several_gaussians_no_network_makes_a_covariance_negative(kept: int) -> None:
    """A network whose own Jacobian is far from a covariance moves the means; covariances are those of the mixture."""
    mixture, (x_t,) = random_prior(3, 3, 0), noisy((3,))
    prior = DiffusionPrior(mixture, Linear(3, 3.0), 0.8)
    assert dense_local(prior, x_t, SIGMA, 1).clamped > 0.1
    local, alone = dense_local(prior, x_t, SIGMA, kept), dense_local(mixture, x_t, SIGMA, kept)
    assert (torch.linalg.eigvalsh(local.covariance) > 0).all() and local.clamped == 0 and local.evaluations == 1
    torch.testing.assert_close(local.covariance, alone.covariance, rtol=0, atol=0)
    torch.testing.assert_close(local.log_weight, alone.log_weight, rtol=0, atol=0)
    shift = (prior.denoise(x_t, SIGMA) - mixture.denoise(x_t, SIGMA)).detach()
    torch.testing.assert_close(local.mean, alone.mean + shift.unsqueeze(1))
    assert float(shift.abs().max()) > 0.1


def test_one_gaussian_has_the_networks_covariance_however_many_are_asked_for() -> None:
    """A mixture of one says nothing of the form of a source."""
    prior, (x_t,) = DiffusionPrior(random_prior(1, 3, 0), Linear(3, 0.05), 0.8), noisy((3,))
    one, many = dense_local(prior, x_t, SIGMA, 1), dense_local(prior, x_t, SIGMA, 4)
    torch.testing.assert_close(many.covariance, one.covariance)
    assert many.evaluations == one.evaluations == 1 + 3


def test_corrected_sources_are_moment_matched() -> None:
    sizes = (3, 2)
    sources = [DiffusionPrior(random_prior(3, d, i), Linear(d, 0.05, i), 0.8) for i, d in enumerate(sizes)]
    view, x_t = random_view(COUNT, 2, sizes), noisy(sizes)
    moments = DenseMoments(sources, view, 1)
    torch.testing.assert_close(list(moments(x_t, SIGMA)), moment_match(sources, view, x_t))
    assert moments.clamped == 0


def test_negative_eigenvalues_are_clamped_and_counted() -> None:
    prior, (x_t,) = DiffusionPrior(random_prior(2, 3, 0), Linear(3, 3.0), 0.8), noisy((3,))
    moments = DenseMoments([prior], random_view(COUNT, 2, (3,)), 1)
    raw = SIGMA[:, None, None] ** 2 * full_jacobian(prior, x_t)
    values, vectors = torch.linalg.eigh((raw + raw.mT) / 2)
    expected = vectors @ torch.diag_embed(values.clamp_min(0)) @ vectors.mT
    torch.testing.assert_close(dense_local(prior, x_t, SIGMA, 1).covariance[:, 0], expected)
    assert torch.isfinite(moments([x_t], SIGMA)[0]).all()
    assert moments.clamped == pytest.approx(float((values < 0).double().mean())) and moments.clamped > 0


def test_images_keep_their_shape_and_evaluations_are_counted() -> None:
    flat, view = random_prior(2, 4, 0), random_view(COUNT, 2, (4,))
    image = shaped(flat, (2, 2))
    x_t = noisy((4,))[0].reshape(COUNT, 2, 2)
    moments, same = (DenseMoments([DiffusionPrior(p, Linear(4, 0.05), 1.0)], view, 2) for p in (image, flat))
    found, expected = moments([x_t], SIGMA)[0], same([x_t.flatten(1)], SIGMA)[0]
    assert found.shape == x_t.shape
    torch.testing.assert_close(found.flatten(1), expected)
    moments([x_t], SIGMA)
    assert moments.evaluations == 2


def test_without_an_observation_it_is_the_local_law() -> None:
    """Of mixtures the exact mean, which costs no network; of networks what they say."""
    prior, (x_t,) = random_prior(2, 4, 0), noisy((4,))
    network = DiffusionPrior(prior, Linear(4, 0.05), 1.0)
    free = LocalLaw([prior, network])
    found = free([x_t, x_t], SIGMA)
    torch.testing.assert_close(found[0], prior.denoise(x_t, SIGMA))
    torch.testing.assert_close(found[1], network.denoise(x_t, SIGMA))
    assert free.evaluations == 1


def test_draws_have_the_moments_of_the_conditional() -> None:
    """Of two sources under one observation, given x_t, with several components each: mean, covariance and weights."""
    count, sizes, sigma = 20_000, (2, 1), 0.6
    priors = [random_prior(3, d, i) for i, d in enumerate(sizes)]
    one, x_t = random_view(1, 1, sizes), [x[:1] for x in noisy(sizes)]
    law = exact(priors, one, 0, torch.cat(x_t, dim=1)[0], sigma)
    many = one.select(torch.zeros(count, dtype=torch.long))
    level = torch.full((count,), sigma, dtype=torch.float64)
    drawn = DenseMoments(priors, many, 3).draw([x.expand(count, -1) for x in x_t], level, Stream(0), torch.arange(count))
    x, scale = torch.cat(drawn, dim=1), law.covariance.diagonal().sqrt()
    assert ((x.mean(0) - law.mean).abs() < 0.04 * scale).all()
    assert ((torch.cov(x.mT) - law.covariance).abs() < 0.05 * torch.outer(scale, scale)).all()
    torch.testing.assert_close(law.assign(x), law.weights, atol=0.02, rtol=0)
