"""p(x | x_t) by whatever Gaussians: its mean is what the prior says, whichever estimate the network corrects."""

from __future__ import annotations

import pytest
import torch
from closed_forms import random_prior, shaped
from torch import Tensor, nn

from mvss.posteriors.iterative_moments import JacobianMoments, LearnedMoments
from mvss.presets.posterior import CGConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.local_law import DenseGaussians, LocalLaw, dense_local, is_dense, shared_local
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Scale
from mvss.problem.views import View
from mvss.runtime.rng import Stream

SHAPE, N, SIGMA = (1, 6), 5, 0.4
LEVEL = torch.full((N,), SIGMA, dtype=torch.float64)


class Smooth(nn.Module):
    """F = c sin of the scaled x_t; with `outputs` two, a variance beside it."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.scale, self.outputs = nn.Parameter(torch.tensor(0.3, dtype=torch.float64)), outputs

    @property
    def config(self) -> Smooth:
        return self

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        return torch.stack([self.scale * torch.sin(inputs[:, 0])] * self.outputs, dim=1)


def prior_of(dynamic: bool, outputs: int = 1, components: int = 3) -> DiffusionPrior:
    mixture = shaped(random_prior(components, 6, 0), SHAPE)
    return DiffusionPrior(mixture, Smooth(outputs), 1.0, dynamic=dynamic)


def drawn(seed: int = 1) -> Tensor:
    return torch.randn(N, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_correction_is_what_is_added_to_the_mixture(dynamic: bool) -> None:
    prior, x_t = prior_of(dynamic), drawn()
    base = prior.mixture.denoise(x_t, LEVEL)
    torch.testing.assert_close(base + prior.correction(x_t, base, LEVEL), prior.denoise(x_t, LEVEL))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("components", [1, 3])
def test_gaussians_have_the_mean_of_the_prior(dynamic: bool, components: int) -> None:
    prior, x_t = prior_of(dynamic), drawn()
    expected = prior.denoise(x_t, LEVEL).flatten(1)
    for local in (dense_local(prior, x_t, LEVEL, components), shared_local(prior, x_t, LEVEL)):
        torch.testing.assert_close((local.log_weight.exp().unsqueeze(2) * local.mean).sum(1), expected)
    if components == 1:
        jacobian = torch.func.vmap(torch.func.jacrev(lambda x: prior.denoise(x[None], LEVEL[:1])[0]))(x_t)
        covariance = SIGMA**2 * jacobian.reshape(N, 6, 6)
        local = dense_local(prior, x_t, LEVEL, 1)
        assert isinstance(local, DenseGaussians) and local.clamped == 0
        torch.testing.assert_close(local.covariance[:, 0], (covariance + covariance.mT) / 2)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_network_counts_beside_one_that_knows_its_variance(dynamic: bool) -> None:
    """Under noise that drowns what is seen, the posterior's mean is the prior's: of one Gaussian, whose mean is its own."""
    sources = {"a": prior_of(dynamic, outputs=2), "b": prior_of(dynamic, components=1)}
    view = View(drawn(2), {source: Scale(1.0, SHAPE) for source in sources}, Isotropic(1e6))
    x_t = [drawn(3), drawn(4)]
    for moments in (LearnedMoments(list(sources.values()), view), JacobianMoments(list(sources.values()), view, CGConfig())):
        for found, prior, x in zip(moments(x_t, LEVEL), sources.values(), x_t, strict=True):
            torch.testing.assert_close(found, prior.denoise(x, LEVEL), atol=1e-6, rtol=1e-6)
    learned = LearnedMoments(list(sources.values()), view)
    learned.draw(x_t, LEVEL, Stream(0), torch.arange(N))
    assert learned.evaluations == 2


def test_large_sources_are_drawn_at_a_noise_level_each() -> None:
    """Of so many numbers that covariances of each observation cost too much: as the mixture is, moved by what is added."""
    mixture, n, size = random_prior(2, 48, 0, rank=3, size=0.2), 3000, 48
    prior = DiffusionPrior(mixture, Smooth(), 1.0, levels=(1e-3, 2.0))
    assert not is_dense(size) and is_dense(size, 4)
    x_t = mixture.sample(1, Stream(3)).expand(n, size)
    rho = torch.tensor([0.3, 0.6], dtype=torch.float64).repeat_interleave(n // 2)
    law, index = LocalLaw([prior]), torch.arange(n)
    (x,) = law.draw([x_t], rho, Stream(4), index)
    mean, variance = mixture.estimate(x_t, rho)
    expected = mean + prior.correction(x_t, mean, rho).detach()
    for rows in (slice(0, n // 2), slice(n // 2, n)):
        assert float(((x - expected)[rows].mean(0).abs() / variance[rows][0].sqrt()).max()) < 5 / (n // 2) ** 0.5
        torch.testing.assert_close(x[rows].var(0) / variance[rows][0], torch.ones(size).double(), atol=0.2, rtol=0)
    for row in (2000, 7):  # alone as among others
        one = slice(row, row + 1)
        torch.testing.assert_close(law.draw([x_t[one]], rho[one], Stream(4), index[one])[0], x[one])
