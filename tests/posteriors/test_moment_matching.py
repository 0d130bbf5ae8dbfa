"""Moment matching against exact conditionals, automatic differentiation and the azula library."""

from __future__ import annotations

import pytest
import torch
from closed_forms import Linear, exact, plain, random_prior, random_view
from scipy.stats import kstest
from torch import Tensor

from mvss.posteriors.exact_mixture import DenseView
from mvss.posteriors.moment_matching import JointPosterior, Prior
from mvss.priors.diffusion import Denoiser
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import TimeMLP

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
    found = JointPosterior([plain(p) for p in priors], view, components)(x_t, SIGMA)
    torch.testing.assert_close(found, brute_force(priors, view, x_t))


@pytest.mark.parametrize("observed", [1, 3])
@pytest.mark.parametrize(("sizes", "counts"), [((3,), (4,)), ((3, 2), (3, 4)), ((2, 4, 1), (2, 3, 2))])
def test_all_components_give_the_exact_mean(sizes: tuple[int, ...], counts: tuple[int, ...], observed: int) -> None:
    priors = [random_prior(k, d, i, rank=min(d, 2)) for i, (k, d) in enumerate(zip(counts, sizes, strict=True))]
    view, x_t = random_view(COUNT, observed, sizes), noisy(sizes)
    found = JointPosterior([plain(p) for p in priors], view, max(counts))(x_t, SIGMA)
    torch.testing.assert_close(found, brute_force(priors, view, x_t))


def test_fewer_components_are_the_likeliest_ones() -> None:
    """With two of three components kept, the answer is that of a mixture without the one unlikeliest given x_t."""
    full, view, x_t = random_prior(3, 2, 0), random_view(COUNT, 1, (2,)), noisy((2,))
    found = JointPosterior([plain(full)], view, 2)(x_t, SIGMA)[0]
    log_weight = full.component_posteriors(x_t[0], SIGMA)[0]
    kept_weight = JointPosterior([plain(full)], view, 2)._local(plain(full), x_t[0], SIGMA).log_weight
    torch.testing.assert_close(kept_weight.exp().sum(1), torch.ones_like(SIGMA))
    for i in range(COUNT):
        kept = log_weight[i].argsort(descending=True)[:2]
        part = GaussianMixture(full.weights[kept], full.means[kept], full.factors[kept], full.floor)
        torch.testing.assert_close(found[i], exact([part], view, i, x_t[0][i], float(SIGMA[i])).mean)


def test_one_component_is_moment_matching() -> None:
    """E = x̂ + V Aᵀ (Σ + Σ A V Aᵀ)⁻¹ (y − Σ A x̂) with V = σ² ∂d/∂x_t from automatic differentiation."""
    sizes = (3, 2)
    denoisers = [plain(random_prior(4, d, i)) for i, d in enumerate(sizes)]
    view, x_t = random_view(COUNT, 2, sizes), noisy(sizes)
    found = JointPosterior(denoisers, view, 1)(x_t, SIGMA)
    for beta, expected in enumerate(moment_match(denoisers, view, x_t)):
        torch.testing.assert_close(found[beta], expected)


def moment_match(denoisers: list[Denoiser], view: DenseView, x_t: list[Tensor]) -> list[Tensor]:
    estimates = [d(x, SIGMA) for d, x in zip(denoisers, x_t, strict=True)]
    spreads = [SIGMA[:, None, None] ** 2 * full_jacobian(d, x) for d, x in zip(denoisers, x_t, strict=True)]
    system, residual = torch.diag_embed(view.noise), view.y
    for a, x, v in zip(view.matrices, estimates, spreads, strict=True):
        system = system + a @ (v + v.mT) @ a.mT / 2
        residual = residual - (a @ x.unsqueeze(-1)).squeeze(-1)
    force = torch.linalg.solve(system, residual).unsqueeze(-1)
    return [
        (x + ((v + v.mT) / 2 @ a.mT @ force).squeeze(-1)).detach()
        for a, x, v in zip(view.matrices, estimates, spreads, strict=True)
    ]


def full_jacobian(denoiser: Denoiser, x_t: Tensor) -> Tensor:
    def one(x: Tensor, sigma: Tensor) -> Tensor:
        return denoiser(x.unsqueeze(0), sigma.unsqueeze(0)).squeeze(0)

    return torch.func.vmap(torch.func.jacrev(one))(x_t, SIGMA).detach()


def test_single_source_agrees_with_azula() -> None:
    denoise = pytest.importorskip("azula.denoise")
    mmps = pytest.importorskip("azula.guidance.mmps")
    covariance = pytest.importorskip("azula.linalg.covariance")
    noise = pytest.importorskip("azula.noise")
    level, ours, size, (x_t,) = 0.4, plain(random_prior(3, 4, 0)), 2, noisy((4,))

    class Theirs(denoise.Denoiser):
        schedule = noise.VESchedule(level, level)

        def forward(self, x: Tensor, t: Tensor) -> object:
            return denoise.DiracPosterior(ours(x, self.schedule(t)[1].expand(len(x))))

    view = random_view(1, size, (4,)).select(torch.zeros(COUNT, dtype=torch.long))
    matrix, spread = view.matrices[0][0], covariance.DiagonalCovariance(view.noise[0])
    theirs = mmps.MMPSDenoiser(Theirs(), view.y, lambda x: x @ matrix.mT, spread, "gmres", size)
    found = JointPosterior([ours], view, 1)([x_t], torch.full((COUNT,), level, dtype=torch.float64))[0]
    torch.testing.assert_close(found, theirs(x_t, torch.tensor(0.5, dtype=torch.float64)).mean)


NETWORKS = {"linear": lambda d: Linear(d, SMALL), "perceptron": lambda d: perceptron(d)}
SMALL = 0.001  # so that no component's covariance becomes indefinite


def perceptron(dimension: int) -> TimeMLP:
    torch.manual_seed(0)
    network = TimeMLP(dimension, hidden=(8, 8), embedding=4, inputs=2 * dimension).double()
    torch.nn.init.normal_(network.output.weight, std=SMALL)
    return network


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_network_jacobian_is_that_of_the_whole_denoiser(kind: str, components: int) -> None:
    """Mean and covariance of what stands for p(x | x_t), from one pass, against Tweedie's formula by jacrev."""
    denoiser, (x_t,) = Denoiser(random_prior(3, 3, 0), NETWORKS[kind](3), (3,), 0.8), noisy((3,))
    posterior = JointPosterior([denoiser], random_view(COUNT, 2, (3,)), components)
    local = posterior._local(denoiser, x_t, SIGMA)
    weight = local.log_weight.exp().unsqueeze(-1)
    mean = (weight * local.mean).sum(1)
    spread = local.mean - mean.unsqueeze(1)
    covariance = (weight.unsqueeze(-1) * local.covariance).sum(1) + (weight * spread).mT @ spread
    assert posterior.clamped == 0 and posterior.evaluations == 1 + 3
    torch.testing.assert_close(mean, denoiser(x_t, SIGMA).detach())
    expected = SIGMA[:, None, None] ** 2 * full_jacobian(denoiser, x_t)
    torch.testing.assert_close(covariance, (expected + expected.mT) / 2)


def test_corrected_sources_are_moment_matched() -> None:
    sizes = (3, 2)
    denoisers = [Denoiser(random_prior(3, d, i), Linear(d, 0.05, i), (d,), 0.8) for i, d in enumerate(sizes)]
    view, x_t = random_view(COUNT, 2, sizes), noisy(sizes)
    posterior = JointPosterior(denoisers, view, 1)
    torch.testing.assert_close(list(posterior(x_t, SIGMA)), moment_match(denoisers, view, x_t))
    assert posterior.clamped == 0


def test_negative_eigenvalues_are_clamped_and_counted() -> None:
    denoiser, (x_t,) = Denoiser(random_prior(2, 3, 0), Linear(3, 3.0), (3,), 0.8), noisy((3,))
    view = random_view(COUNT, 2, (3,))
    posterior = JointPosterior([denoiser], view, 1)
    raw = SIGMA[:, None, None] ** 2 * full_jacobian(denoiser, x_t)
    values, vectors = torch.linalg.eigh((raw + raw.mT) / 2)
    expected = vectors @ torch.diag_embed(values.clamp_min(0)) @ vectors.mT
    torch.testing.assert_close(posterior._local(denoiser, x_t, SIGMA).covariance[:, 0], expected)
    assert posterior.clamped == pytest.approx(float((values < 0).double().mean())) and posterior.clamped > 0
    assert torch.isfinite(posterior([x_t], SIGMA)[0]).all()


def test_misfit_of_exact_draws_follows_chi_square() -> None:
    """x from the prior, y from x: then x is an exact posterior draw; at any level, for any operators."""
    count, sizes, observed = 4000, (3, 2), 2
    rng = torch.Generator().manual_seed(0)
    priors = [random_prior(1, d, i) for i, d in enumerate(sizes)]
    view = random_view(count, observed, sizes)
    x = [p.sample(count, rng) for p in priors]
    z = torch.randn(count, observed, generator=rng, dtype=torch.float64)
    y = sum((a @ v.unsqueeze(-1)).squeeze(-1) for a, v in zip(view.matrices, x, strict=True)) + view.noise.sqrt() * z
    posterior = JointPosterior([plain(p) for p in priors], DenseView(y, view.matrices, view.noise))
    sigma = 0.05 + torch.rand(count, generator=rng, dtype=torch.float64)
    x_t = [v + sigma[:, None] * torch.randn(v.shape, generator=rng, dtype=torch.float64) for v in x]
    misfit = posterior.misfit(x_t, sigma)
    assert kstest(misfit.numpy(), "chi2", (observed,)).pvalue > 0.01
    shifted = posterior.misfit([v + 1.0 for v in x_t], sigma)
    assert float(shifted.mean()) > 2 * float(misfit.mean())


def test_images_keep_their_shape_and_evaluations_are_counted() -> None:
    prior, sigma = random_prior(2, 4, 0), SIGMA
    x_t = noisy((4,))[0].reshape(COUNT, 2, 2)
    view = random_view(COUNT, 2, (4,))
    posterior = JointPosterior([Denoiser(prior, Linear(4, 0.05), (2, 2), 1.0)], view, 2)
    flat = JointPosterior([Denoiser(prior, Linear(4, 0.05), (4,), 1.0)], view, 2)
    torch.testing.assert_close(posterior([x_t], sigma)[0].flatten(1), flat([x_t.flatten(1)], sigma)[0])
    posterior([x_t], sigma)
    assert posterior.evaluations == 2 * (1 + 4)
    free = Prior([plain(prior), plain(prior)])
    torch.testing.assert_close(free([x_t.flatten(1)] * 2, sigma)[1], prior.denoise(x_t.flatten(1), sigma))
    assert free.evaluations == 2
