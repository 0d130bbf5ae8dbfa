"""Moments by products alone, of learned variances and of Jacobians: against closed forms, explicit Jacobians, dense solves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from closed_forms import Linear, ball, random_prior, shaped
from torch import Tensor, nn

from mvss.posteriors.dense import DenseView
from mvss.posteriors.iterative_moments import JacobianMoments, LearnedMoments
from mvss.posteriors.shared_moments import SharedMoments
from mvss.presets.posterior import CGConfig, SamplerConfig
from mvss.presets.training import TrainingConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.local_law import LocalLaw, _jacobian
from mvss.priors.networks import TimeMLP
from mvss.priors.prior import Prior
from mvss.priors.samplers import sample
from mvss.priors.training import fit_denoiser
from mvss.problem.image_operators import BlockAverage, Convolve
from mvss.problem.noise import Diagonal, Isotropic, Noise, Stationary
from mvss.problem.operators import Dense, Identity, LinearOperator, Mask, Scale
from mvss.problem.shared_view import SharedView
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

RNG = torch.Generator().manual_seed(0)
SHAPE, N = (1, 6, 6), 5
EXACT = CGConfig(200, 1e-13)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


BLOCKS = BlockAverage(SHAPE, 2)
IMAGES = View(normal(N, 1, 3, 3), {"a": BLOCKS, "b": Scale(0.5, (1, 3, 3)) @ BLOCKS}, Isotropic(0.1))
OWN = View(normal(N, 4), {"a": Dense(normal(N, 4, 3)), "b": Dense(normal(4, 5))}, Diagonal(0.1 + normal(N, 4).abs()))
X_T = normal(N, 3), normal(N, 5)


class Potential(nn.Module):
    """F = c Wᵀ tanh(W u) of the scaled x_t: its Jacobian is symmetric, as an exact denoiser's is."""

    def __init__(self, dimension: int, scale: float) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(dimension)
        weight = torch.randn(2 * dimension, dimension, generator=rng, dtype=torch.float64)
        self.weight, self.scale = nn.Parameter(weight / dimension**0.5), scale

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        u = inputs[:, 0].flatten(1)
        return self.scale * (u @ self.weight.mT).tanh() @ self.weight


def images(components: int, network: float = 0.0) -> list[Prior]:
    priors = [shaped(random_prior(components, 36, seed, rank=4), SHAPE) for seed in (1, 2)]
    return [DiffusionPrior(p, Potential(36, network), 1.0) if network else p for p in priors]


def own(*networks: nn.Module | None) -> list[Prior]:
    priors = [random_prior(3, d, d) for d in (3, 5)]
    return [p if n is None else DiffusionPrior(p, n, 1.0) for p, n in zip(priors, networks, strict=True)]


def level(sigma: float) -> Tensor:
    return torch.full((N,), sigma, dtype=torch.float64)


def explicit(priors: list[Prior], view: View, sigma: float, solve: bool = True) -> list[Tensor]:
    """The same with Jacobians and S as matrices. solve: to the end, or one step of conjugate gradients."""
    data, s = DenseView.of(view), level(sigma)
    parts = [_jacobian(lambda x, p=p: p.denoise(x, s), (x,)) for p, x in zip(priors, X_T, strict=True)]
    pulled = [sigma**2 * j.mT @ a.mT for (_, (j,)), a in zip(parts, data.matrices, strict=True)]
    system = torch.diag_embed(data.noise) + sum(a @ p for a, p in zip(data.matrices, pulled, strict=True))
    r = data.y - sum((a @ d.unsqueeze(-1)).squeeze(-1) for a, (d, _) in zip(data.matrices, parts, strict=True))
    step = r.square().sum(1) / torch.einsum("nm,nmk,nk->n", r, system, r)
    v = torch.linalg.solve(system, r) if solve else step[:, None] * r
    return [d + (p @ v.unsqueeze(-1)).squeeze(-1) for (d, _), p in zip(parts, pulled, strict=True)]


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_for_gaussians_it_is_the_moments_of_shared_covariances(sigma: float) -> None:
    """Blocks of pixels, in one iteration, since the preconditioner is the inverse; and without it, in many."""
    x_t, moments = (normal(N, *SHAPE), normal(N, *SHAPE)), JacobianMoments(images(1), IMAGES, CGConfig(1, 1e-9))
    expected = SharedMoments(images(1), SharedView.of(IMAGES), {})(x_t, level(sigma))
    torch.testing.assert_close(moments(x_t, level(sigma)), expected)
    assert moments.residual < 1e-9 and moments.evaluations == 0
    alike = View(IMAGES.y, IMAGES.operators, Isotropic(torch.full((N,), 0.1)))  # not known to be shared
    slow = JacobianMoments(images(1), alike, EXACT)
    torch.testing.assert_close(slow(x_t, level(sigma)), expected, rtol=1e-5, atol=1e-7)


def test_the_preconditioner_spares_iterations_where_a_network_adds_little() -> None:
    """Whole images, x_t as a sampler meets it, three iterations."""
    operators = {"a": BlockAverage(SHAPE, 1), "b": Scale(0.5, SHAPE) @ BlockAverage(SHAPE, 1)}
    shared = View(normal(N, *SHAPE), operators, Isotropic(0.1))
    alike = View(shared.y, operators, Isotropic(torch.full((N,), 0.1)))
    priors = images(3, 0.003)
    x_t = [p.mixture.sample(N, Stream(0, (place,))) + 0.5 * normal(N, *SHAPE) for place, p in enumerate(priors)]
    quick, slow = (JacobianMoments(priors, view, CGConfig(3, 1e-12)) for view in (shared, alike))
    found = quick(x_t, level(0.5))
    slow(x_t, level(0.5))
    assert quick.residual < 1e-4 < 0.1 < slow.residual
    exact = JacobianMoments(priors, alike, EXACT)(x_t, level(0.5))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("networks", [False, True])
@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_operators_and_noise_of_each_observation(networks: bool, sigma: float) -> None:
    """Also a mixture's own Jacobian, with what its weights add."""
    priors = own(Potential(3, 0.2), Potential(5, 0.2)) if networks else own(None, None)
    moments = JacobianMoments(priors, OWN, EXACT)
    torch.testing.assert_close(list(moments(X_T, level(sigma))), explicit(priors, OWN, sigma), rtol=1e-6, atol=1e-7)


def test_of_a_jacobian_that_is_not_symmetric_it_takes_the_transpose() -> None:
    """In the single product of one iteration, and in the one after it."""
    priors, config = own(Linear(3, 0.2), Linear(5, 0.2)), CGConfig(1, 0.0)
    found = JacobianMoments(priors, OWN, config)(X_T, level(0.7))
    torch.testing.assert_close(list(found), explicit(priors, OWN, 0.7, solve=False))


def test_evaluations_count_products_and_residuals_are_kept() -> None:
    moments = JacobianMoments(own(Linear(3, 0.1), None), OWN, CGConfig(2, 1e-12))
    moments(X_T, level(1.0))
    assert moments.evaluations == 1 + 2 + 1 and 0 < moments.residual < 10
    first = moments.residual
    moments(X_T, level(0.01))  # easier: the largest stays
    assert moments.residual == first and moments.evaluations == 8 and moments.clamped == 0
    part = moments.select(slice(1, 3))
    assert part.evaluations == 0 and part.residual == 0
    rows = part([x[1:3] for x in X_T], level(1.0)[1:3])
    torch.testing.assert_close(rows, tuple(m[1:3] for m in moments(X_T, level(1.0))))


def test_a_system_that_is_not_positive_breaks_down_and_says_so() -> None:
    class Against(nn.Module):
        """Jacobian −30 for the first two observations."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([30.0, 30, 0, 0, 0], dtype=torch.float64))

        def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
            return -self.scale[:, None] * inputs[:, 0]

    moments = JacobianMoments(own(Against(), None), OWN, EXACT)
    found = moments(X_T, level(1.0))
    assert moments.residual > 0.1 and all(bool(torch.isfinite(m).all()) for m in found)
    others = JacobianMoments(own(None, None), OWN, EXACT)(X_T, level(1.0))
    torch.testing.assert_close([m[2:] for m in found], [m[2:] for m in others], rtol=1e-6, atol=1e-8)


def test_regularisation_is_a_variance_of_the_observation() -> None:
    config, x_t = CGConfig(1, 1e-9, regularisation=0.3), (normal(N, *SHAPE), normal(N, *SHAPE))
    found = JacobianMoments(images(1), IMAGES, config)(x_t, level(0.5))
    louder = View(IMAGES.y, IMAGES.operators, Isotropic((0.01 + 0.3) ** 0.5))
    torch.testing.assert_close(found, SharedMoments(images(1), SharedView.of(louder), {})(x_t, level(0.5)))


def test_what_it_cannot_do_is_refused_in_one_line() -> None:
    moments = JacobianMoments(own(None, None), OWN, EXACT)
    with pytest.raises(MvssError, match="pc, ddim or heun"):
        moments.draw(X_T, level(1.0), Stream(0, ("draw",)), torch.arange(N))
    with pytest.raises(MvssError, match="one noise level"):
        moments(X_T, torch.linspace(1, 2, N, dtype=torch.float64))


SMALL, FEW = (1, 4, 4), 6


class Knows(nn.Module):
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


def known(seed: int) -> tuple[DiffusionPrior, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mean = torch.randn(SMALL, generator=rng, dtype=torch.float64)
    spread = 0.3 + torch.rand(SMALL, generator=rng, dtype=torch.float64)
    prior = DiffusionPrior(ball(SMALL, 1.0), Knows(mean, spread), 1.0, levels=(0.01, 50.0))
    return prior, mean.flatten(), spread.flatten() ** 2


MASK = Mask(torch.rand(FEW, 1, 4, 4, generator=torch.Generator().manual_seed(3)) > 0.2)
KERNEL = torch.tensor([[0.1, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.0]], dtype=torch.float64)
LAGS = torch.tensor([[0.0, 0.2, 0.1], [0.2, 1.0, 0.2], [0.1, 0.2, 0.0]], dtype=torch.float64)
CASES: dict[str, tuple[LinearOperator, LinearOperator, Noise]] = {
    "pixels": (Identity(SMALL), Scale(0.5, SMALL), Isotropic(0.2)),
    "masked pixels, a noise each": (MASK, MASK, Diagonal(0.1 + torch.rand(FEW, *SMALL, generator=RNG, dtype=torch.float64))),
    "coarser pixels": (BlockAverage(SMALL, 2), Scale(0.5, (1, 2, 2)) @ BlockAverage(SMALL, 2), Isotropic(0.2)),
    "seeing, correlated noise": (Convolve(SMALL, KERNEL, "same"), Identity(SMALL), Stationary(0.1 * LAGS)),
}


def gaussian_posterior(view: View, means: list[Tensor], covariances: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Of all sources, one after another, by dense algebra: means `(FEW, 32)` and covariances `(FEW, 32, 32)`."""
    mean, prior = torch.cat(means), torch.block_diag(*covariances)
    matrix = torch.cat([o.dense().expand(FEW, -1, -1) for o in view.operators.values()], dim=2)
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
        other = shaped(random_prior(1, 16, 4), SMALL)
        mean_2, covariance = other.means[0], other.covariances[0]
    y = operators[0].forward(normal(FEW, *SMALL))
    view = View(y, dict(zip("ab", operators, strict=True)), noise)
    expected, spread = gaussian_posterior(view, [mean, mean_2], [torch.diag(variance), covariance])
    draws, config = 1500, SamplerConfig("ancestral", steps=3, sigma_start=50.0, sigma_min=0.05)
    index = torch.arange(FEW).repeat(draws)
    moments = LearnedMoments([first, other], view.select(index))
    start = [50.0 * normal(FEW * draws, *SMALL) for _ in range(2)]
    found = torch.cat([x.flatten(1) for x in sample(moments, start, config, Stream(0), torch.arange(len(index)))], dim=1)
    found = found.reshape(draws, FEW, -1)
    scale = spread.diagonal(dim1=1, dim2=2).sqrt()
    assert float(((found.mean(0) - expected) / scale).abs().max()) < 5 / draws**0.5
    centred = (found - expected) / scale
    got = torch.einsum("dni,dnj->nij", centred, centred) / draws
    wanted = spread / scale.unsqueeze(1) / scale.unsqueeze(2)
    assert float((got - wanted).abs().max()) < 7 / draws**0.5
    assert moments.residual < 1e-5
    assert moments.evaluations == 3 * (2 if second == "network" else 1)


def test_the_mean_is_that_of_the_draws() -> None:
    *operators, noise = CASES["pixels"]
    (first, _, _), (second, _, _) = known(1), known(2)
    x_t, n = [normal(1, *SMALL).expand(4000, *SMALL) for _ in range(2)], 4000
    view = View(normal(1, *SMALL).expand(n, *SMALL), dict(zip("ab", operators, strict=True)), noise)
    moments = LearnedMoments([first, second], view)
    level = torch.full((n,), 0.5, dtype=torch.float64)
    for mean, draws in zip(moments(x_t, level), moments.draw(x_t, level, Stream(1), torch.arange(n)), strict=True):
        torch.testing.assert_close(draws.mean(0), mean[0], atol=0.03, rtol=0)


def test_without_a_view_it_is_the_prior() -> None:
    prior, mean, variance = known(1)
    config, n = SamplerConfig("ancestral", steps=4, sigma_start=30.0, sigma_min=0.02), 4000
    (x,) = sample(LocalLaw([prior]), [30.0 * normal(n, *SMALL)], config, Stream(2), torch.arange(n))
    torch.testing.assert_close(x.flatten(1).mean(0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(x.flatten(1).var(0), variance, atol=0.15, rtol=0.1)


def test_a_trained_network_knows_its_error() -> None:
    """Numbers of two widths: Var[x | x_t] of each is σ² v/(σ² + v), which one scale for all cannot say."""
    spread = torch.tensor([0.1, 1.0])
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(5)) * spread
    torch.manual_seed(0)
    network = TimeMLP(2, (64, 64), 16, "film", 4, 2)
    denoiser = DiffusionPrior(ball((2,), 0.7), network, 0.7)
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
    denoiser = DiffusionPrior(ball((2,), 0.7), TimeMLP(2, (8,), 4, "film", 4, 2), 0.7)
    x, sigma, z = torch.randn(9, 2), torch.full((9,), 0.3), torch.randn(9, 2)
    last = denoiser.network.output
    denoiser.loss(x, sigma, z).backward()
    found, last.weight.grad = last.weight.grad.clone(), None
    denoiser.error(x, sigma, z).backward()
    torch.testing.assert_close(found[:2], last.weight.grad[:2])
    assert bool((last.weight.grad[2:] == 0).all())


def test_of_several_components_draws_take_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """p(x | x_t) of a mixture, large or small, without an observation: as the mixture's own."""
    mixture = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [2.0]]), torch.full((2, 1, 1), 0.1), 0.1)
    n = 4000
    x_t, level = [torch.zeros(n, 1, dtype=torch.float64)], torch.full((n,), 50.0, dtype=torch.float64)
    for dense in (0, 2**24):
        monkeypatch.setattr("mvss.priors.local_law.DENSE", dense)
        (x,) = LocalLaw([mixture], components=2).draw(x_t, level, Stream(4), torch.arange(n))
        assert abs(float((x > 0).double().mean()) - 0.7) < 0.03
        assert abs(float(x[x > 0].mean()) - 2.0) < 0.03
