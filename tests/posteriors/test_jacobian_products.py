"""Joint posterior by products alone: against the mixtures' covariances, and against explicit Jacobians and dense solves."""

from __future__ import annotations

import pytest
import torch
from closed_forms import Linear, random_prior
from torch import Tensor, nn

from mvss.posteriors.exact_mixture import DenseView
from mvss.posteriors.jacobian_products import MatrixFreePosterior
from mvss.posteriors.moment_matching import jacobian
from mvss.posteriors.shared_gaussians import SharedView
from mvss.posteriors.shared_moments import SharedPosterior
from mvss.posteriors.solvers import CGConfig
from mvss.priors.diffusion import Denoiser
from mvss.problem.noise import Diagonal, Isotropic
from mvss.problem.operators import BlockAverage, Dense, Scale, Zero
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

RNG = torch.Generator().manual_seed(0)
SHAPE, N = (1, 6, 6), 5
EXACT = CGConfig(200, 1e-13)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


BLOCKS = BlockAverage(SHAPE, 2)
IMAGES = View(normal(N, 1, 3, 3), (BLOCKS, Scale(0.5, (1, 3, 3)) @ BLOCKS), Isotropic(0.1))
OWN = View(normal(N, 4), (Dense(normal(N, 4, 3)), Zero((7,), (4,)), Dense(normal(4, 5))), Diagonal(0.1 + normal(N, 4).abs()))
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


def images(components: int, network: float = 0.0) -> list[Denoiser]:
    priors = [random_prior(components, 36, seed, rank=4) for seed in (1, 2)]
    return [Denoiser(p, Potential(36, network) if network else None, SHAPE, 1.0) for p in priors]


def own(*networks: nn.Module | None) -> list[Denoiser]:
    return [Denoiser(random_prior(3, d, d), n, (d,), 1.0) for d, n in zip((3, 5), networks, strict=True)]


def level(sigma: float) -> Tensor:
    return torch.full((N,), sigma, dtype=torch.float64)


def explicit(denoisers: list[Denoiser], view: View, sigma: float, solve: bool = True) -> list[Tensor]:
    """The same with Jacobians and S as matrices. solve: to the end, or one step of conjugate gradients."""
    data, s = DenseView.of(view), level(sigma)
    parts = [jacobian(lambda x, d=d: d(x, s), (x,)) for d, x in zip(denoisers, X_T, strict=True)]
    pulled = [sigma**2 * j.mT @ a.mT for (_, (j,)), a in zip(parts, data.matrices, strict=True)]
    system = torch.diag_embed(data.noise) + sum(a @ p for a, p in zip(data.matrices, pulled, strict=True))
    r = data.y - sum((a @ d.unsqueeze(-1)).squeeze(-1) for a, (d, _) in zip(data.matrices, parts, strict=True))
    step = r.square().sum(1) / torch.einsum("nm,nmk,nk->n", r, system, r)
    v = torch.linalg.solve(system, r) if solve else step[:, None] * r
    return [d + (p @ v.unsqueeze(-1)).squeeze(-1) for (d, _), p in zip(parts, pulled, strict=True)]


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_for_gaussians_it_is_the_posterior_of_shared_covariances(sigma: float) -> None:
    """Blocks of pixels, in one iteration, since the preconditioner is the inverse; and without it, in many."""
    x_t, posterior = (normal(N, *SHAPE), normal(N, *SHAPE)), MatrixFreePosterior(images(1), IMAGES, CGConfig(1, 1e-9))
    expected = SharedPosterior(images(1), SharedView.of(IMAGES))(x_t, level(sigma))
    torch.testing.assert_close(posterior(x_t, level(sigma)), expected)
    assert posterior.residual < 1e-9 and posterior.breakdowns == 0 and posterior.evaluations == 0
    alike = View(IMAGES.y, IMAGES.operators, Isotropic(torch.full((N,), 0.1)))  # not known to be shared
    slow = MatrixFreePosterior(images(1), alike, EXACT)
    torch.testing.assert_close(slow(x_t, level(sigma)), expected, rtol=1e-5, atol=1e-7)


def test_the_preconditioner_spares_iterations_where_a_network_adds_little() -> None:
    """Whole images, x_t as a sampler meets it, three iterations."""
    operators = BlockAverage(SHAPE, 1), Scale(0.5, SHAPE) @ BlockAverage(SHAPE, 1)
    shared = View(normal(N, *SHAPE), operators, Isotropic(0.1))
    alike = View(shared.y, operators, Isotropic(torch.full((N,), 0.1)))
    denoisers = images(3, 0.003)
    x_t = [d.mixture.sample(N, RNG).reshape(N, *SHAPE) + 0.5 * normal(N, *SHAPE) for d in denoisers]
    quick, slow = (MatrixFreePosterior(denoisers, view, CGConfig(3, 1e-12)) for view in (shared, alike))
    found = quick(x_t, level(0.5))
    slow(x_t, level(0.5))
    assert quick.residual < 1e-4 < 0.1 < slow.residual
    exact = MatrixFreePosterior(denoisers, alike, EXACT)(x_t, level(0.5))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("networks", [False, True])
@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_operators_and_noise_of_each_observation(networks: bool, sigma: float) -> None:
    """Also a mixture's own Jacobian, with what its weights add, and a source that the view hides."""
    denoisers = own(Potential(3, 0.2), Potential(5, 0.2)) if networks else own(None, None)
    posterior = MatrixFreePosterior(denoisers, OWN, EXACT)
    torch.testing.assert_close(list(posterior(X_T, level(sigma))), explicit(denoisers, OWN, sigma), rtol=1e-6, atol=1e-7)


def test_of_a_jacobian_that_is_not_symmetric_it_takes_the_transpose() -> None:
    """In the single product of one iteration, and in the one after it."""
    denoisers, config = own(Linear(3, 0.2), Linear(5, 0.2)), CGConfig(1, 0.0)
    found = MatrixFreePosterior(denoisers, OWN, config)(X_T, level(0.7))
    torch.testing.assert_close(list(found), explicit(denoisers, OWN, 0.7, solve=False))


def test_evaluations_count_products_and_residuals_are_kept() -> None:
    posterior = MatrixFreePosterior(own(Linear(3, 0.1), None), OWN, CGConfig(2, 1e-12))
    posterior(X_T, level(1.0))
    assert posterior.evaluations == 1 + 2 + 1 and 0 < posterior.residual < 10
    first = posterior.residual
    posterior(X_T, level(0.01))  # easier: the largest stays
    assert posterior.residual == first and posterior.evaluations == 8 and posterior.clamped == 0
    part = posterior.select(slice(1, 3))
    assert part.evaluations == 0 and part.residual == 0
    rows = part([x[1:3] for x in X_T], level(1.0)[1:3])
    torch.testing.assert_close(rows, tuple(m[1:3] for m in posterior(X_T, level(1.0))))


def test_a_system_that_is_not_positive_breaks_down_and_is_counted() -> None:
    class Against(nn.Module):
        """Jacobian −30 for the first two observations."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([30.0, 30, 0, 0, 0], dtype=torch.float64))

        def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
            return -self.scale[:, None] * inputs[:, 0]

    posterior = MatrixFreePosterior(own(Against(), None), OWN, EXACT)
    found = posterior(X_T, level(1.0))
    assert posterior.breakdowns == 0.4 and all(bool(torch.isfinite(m).all()) for m in found)
    others = MatrixFreePosterior(own(None, None), OWN, EXACT)(X_T, level(1.0))
    torch.testing.assert_close([m[2:] for m in found], [m[2:] for m in others], rtol=1e-6, atol=1e-8)


def test_regularisation_is_a_variance_of_the_observation() -> None:
    config, x_t = CGConfig(1, 1e-9, regularisation=0.3), (normal(N, *SHAPE), normal(N, *SHAPE))
    found = MatrixFreePosterior(images(1), IMAGES, config)(x_t, level(0.5))
    louder = View(IMAGES.y, IMAGES.operators, Isotropic((0.01 + 0.3) ** 0.5))
    torch.testing.assert_close(found, SharedPosterior(images(1), SharedView.of(louder))(x_t, level(0.5)))


def test_what_it_cannot_do_is_refused_in_one_line() -> None:
    posterior = MatrixFreePosterior(own(None, None), OWN, EXACT)
    with pytest.raises(MvssError, match="pc, ddim or heun"):
        posterior.draw(X_T, level(1.0), Stream(0, ("draw",)), torch.arange(N))
    with pytest.raises(MvssError, match="one noise level"):
        posterior(X_T, torch.linspace(1, 2, N, dtype=torch.float64))
