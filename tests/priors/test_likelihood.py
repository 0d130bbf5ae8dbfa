"""log p(x) by the probability-flow ODE against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import ball
from torch import Tensor

from mvss.priors.diffusion import PROBES, DiffusionPrior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.likelihood import _Flow, flow_log_prob
from mvss.priors.prior import column
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

D = 4


def mixture(components: int = 5) -> GaussianMixture:
    rng = torch.Generator().manual_seed(1)
    means = 1.5 * torch.randn(components, D, generator=rng, dtype=torch.float64)
    factors = 0.3 * torch.randn(components, D, 2, generator=rng, dtype=torch.float64)
    return GaussianMixture(torch.rand(components, generator=rng) + 0.2, means, factors, 0.02)


class Exact(torch.nn.Module):
    """A network that corrects a base to the denoiser of another mixture."""

    def __init__(self, target: GaussianMixture, base: GaussianMixture, sigma_data: float) -> None:
        super().__init__()
        self.target, self.base, self.sigma_data = target, base, sigma_data
        self.unused = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        sigma = log_sigma.exp()
        total = (sigma**2 + self.sigma_data**2).sqrt()
        x = inputs[:, 0] * total[:, None]
        wanted = self.target.denoise(x, sigma) - self.base.denoise(x, sigma)
        return wanted / (sigma * self.sigma_data / total)[:, None]


def candidates(prior: GaussianMixture, count: int = 12) -> Tensor:
    """On the source and off it."""
    rng = torch.Generator().manual_seed(2)
    near = prior.sample(count // 2, Stream(2, ("near",))) + 0.05 * torch.randn(
        count // 2, D, generator=rng, dtype=torch.float64
    )
    return torch.cat([near, near + 0.5 * torch.randn(count // 2, D, generator=rng, dtype=torch.float64)])


@pytest.mark.parametrize("components", [1, 5])
def test_the_density_of_a_mixture_is_its_closed_form(components: int) -> None:
    prior = mixture(components)
    x = candidates(prior)
    found = flow_log_prob(prior, x, 0.05, 2.0, tolerance=1e-5)
    assert float((found - prior.log_prob(x, 0.05)).abs().max()) < 0.01 * D


def test_the_density_of_a_gaussian_is_its_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    x = candidates(mixture())
    whole = flow_log_prob(ball((D,), 0.7), x, 0.05, 2.0)
    monkeypatch.setattr("mvss.priors.likelihood.CHUNK", 7)
    found = flow_log_prob(ball((D,), 0.7), x, 0.05, 2.0)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)
    exact = torch.distributions.Normal(0.0, math.hypot(0.7, 0.05)).log_prob(x).sum(1)
    assert float((found - exact).abs().max()) < 0.01 * D


def test_what_a_network_adds_is_in_the_density() -> None:
    """A network on one Gaussian that makes it the denoiser of a mixture of the same moments; σ_max where both are alike."""
    prior = mixture()
    mean = prior.weights @ prior.means
    spread = prior.means - mean
    total = torch.einsum("k,kij->ij", prior.weights, prior.covariances) + (prior.weights * spread.mT) @ spread
    base = GaussianMixture(torch.ones(1), mean[None], torch.linalg.cholesky(total)[None], 1e-3)
    x = candidates(prior, 4)
    found = flow_log_prob(
        DiffusionPrior(base, Exact(prior, base, 1.6), 1.6, levels=(0.05, 50.0)), x, 0.05, 50.0, tolerance=1e-5
    )
    assert float((found - prior.log_prob(x, 0.05)).abs().max()) < 0.01 * D
    alone = flow_log_prob(base, x, 0.05, 50.0, tolerance=1e-5)
    assert float((alone - found).abs().mean()) > 1


def test_hutchinsons_estimate_is_as_good_as_its_scatter_says() -> None:
    """Of what a network adds to one Gaussian of the same size in all directions, asked four times."""
    prior, base = mixture(), ball((D,), 1.0)
    x = candidates(prior, 32)
    network = DiffusionPrior(base, Exact(prior, base, 1.0), 1.0, levels=(0.05, 50.0))
    found = flow_log_prob(network, x.repeat(4, 1), 0.05, 50.0, 2, Stream(0, ("probes",)), 1e-5).reshape(4, -1)
    error = found.std(0) / 2
    z = ((found.mean(0) - prior.log_prob(x, 0.05)) / error).abs()
    # quantiles, since four of them that agree by chance say too little of their error
    assert 0.45 < float(z.median()) < 1.2 and float(z.quantile(0.9)) < 4
    assert float(error.mean()) > 0.01


SHAPE, LOW, HIGH = (1, 28, 28), 0.05, 50.0
LAW = 8.0
"""Twice the square of the length over which numbers of the images vary together."""


def lines(law: float) -> Tensor:
    """Covariance `(28, 28)` of a line, and of a column."""
    place = torch.arange(28.0, dtype=torch.float64)
    return torch.exp(-(place[:, None] - place).square() / law) + 1e-3 * torch.eye(28)


def images(law: float) -> GaussianMixture:
    """One Gaussian of 784 numbers that vary together along lines and columns."""
    factors = torch.linalg.cholesky(torch.kron(lines(law), lines(law)))
    return GaussianMixture(torch.ones(1), torch.zeros(1, 784, dtype=torch.float64), factors[None], 1e-3, SHAPE)


def some_images(law: float, count: int) -> Tensor:
    noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return images(law).sample(count, Stream(3)) + LOW * noise


class Lines(torch.nn.Module):
    """A network that corrects the Gaussian of `base` lines, `(28, 28)`, to that of `target` ones; σ_data = 1."""

    def __init__(self, target: Tensor, base: Tensor) -> None:
        super().__init__()
        self.laws = [(along[:, None] * along + 1e-6, axes) for along, axes in map(torch.linalg.eigh, (target, base))]
        self.unused = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        sigma = column(log_sigma.exp(), inputs[:, 0])
        total = (1 + sigma.square()).sqrt()
        turned = [axes.mT @ (inputs[:, 0] * total) @ axes for _, axes in self.laws]
        shrunk = [x * variance / (variance + sigma.square()) for x, (variance, _) in zip(turned, self.laws, strict=True)]
        target, base = (axes @ x @ axes.mT for x, (_, axes) in zip(shrunk, self.laws, strict=True))
        return (target - base) * total / sigma

    def added(self) -> tuple[float, float]:
        """∫ of the added trace over log σ, nats, and the standard deviation of its estimate by one Rademacher vector."""
        parts = []
        for variance, axes in self.laws:
            gained = math.log(HIGH / LOW) - 0.5 * ((variance + HIGH**2) / (variance + LOW**2)).log().flatten()
            both = torch.kron(axes, axes)
            parts.append((both * gained) @ both.mT)
        matrix = parts[0] - parts[1]
        off = matrix - matrix.diag().diag()
        return float(matrix.trace()), math.sqrt(2 * float(off.square().sum()))


NEAR = 0.99 * LAW
"""Of a mixture that lacks little."""


def correlated() -> tuple[DiffusionPrior, Lines]:
    """On a base that knows no correlation: the network adds them all."""
    base, network = ball(SHAPE, math.hypot(1, 1e-3)), Lines(lines(LAW), torch.eye(28).double())
    return DiffusionPrior(base, network, 1.0, None, (LOW, HIGH)), network


def test_the_density_of_images_that_are_the_mixture_is_its_closed_form() -> None:
    """The trace is known there, and probes are multiplied by zero: this is of the integration alone."""
    prior, x = images(LAW), some_images(LAW, 4)
    found = flow_log_prob(prior, x, LOW, 20.0, probes=PROBES, stream=Stream(0, ("probes",)), tolerance=3e-4)
    exact = prior.log_prob(x, LOW)
    assert float(((found - exact) / exact).abs().max()) < 1e-3


def test_four_probes_leave_a_thousandth_where_the_network_adds_a_hundredth() -> None:
    """As log_prob asks: PROBES of them, on a mixture of nearly the same law."""
    network = Lines(lines(LAW), lines(NEAR))
    prior, x = DiffusionPrior(images(NEAR), network, 1.0, None, (LOW, HIGH)), some_images(LAW, 8)
    found, exact = prior.log_prob(x), images(LAW).log_prob(x, LOW)
    assert PROBES == 4 and float(((found - exact) / exact).abs().max()) < 1e-3
    assert abs(network.added()[0]) > 1e-2 * float(exact.abs().mean())
    other = flow_log_prob(prior, x[:2], LOW, HIGH, PROBES, Stream(1), 3e-4)
    assert float((other - found[:2]).abs().min()) > 0.01


def test_four_probes_leave_hundredths_where_the_network_adds_all_correlations() -> None:
    """About 6 % of |log p|, which is what Hutchinson's variance says; it falls as 1/√probes, so that a thousandth would take
    more of them than the exact trace has products."""
    prior, network, x = *correlated(), some_images(LAW, 16)
    exact = images(LAW).log_prob(x, LOW)
    size, scatter = float(exact.abs().mean()), network.added()[1]
    error = float((prior.log_prob(x) - exact).square().mean().sqrt())
    assert 0.6 < error / (scatter / math.sqrt(PROBES)) < 1.5
    assert 0.04 * size < error < 0.08 * size
    assert (scatter / (1e-3 * size)) ** 2 > 784


def test_the_exact_trace_leaves_a_thousandth_whatever_the_network_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """784 products an evaluation give it. At a tolerance of 1e-4, in some 80 evaluations, the integral of it is good to that;
    the products are made once here, and then its closed form stands for them."""
    (prior, network), x, variance = correlated(), some_images(LAW, 16), Lines(lines(LAW), lines(LAW)).laws[0][0]

    def trace(_: object, x: Tensor, estimate: Tensor, sigma: Tensor) -> Tensor:
        return (variance / (variance + sigma.reshape(-1, 1, 1).square())).sum((1, 2)).unsqueeze(1)

    one, sigma = x[:1].flatten(1).requires_grad_(), torch.full((1,), 0.3, dtype=torch.float64)
    estimate = prior.denoise(one.reshape(1, *SHAPE), sigma).flatten(1)
    found = _Flow(prior, one.detach(), None)._trace(one, estimate, sigma)
    torch.testing.assert_close(found, trace(None, one, estimate, sigma))

    evaluations = list[object]()
    network.register_forward_hook(lambda *_: evaluations.append(0))
    monkeypatch.setattr(_Flow, "_trace", trace)
    exact, found = images(LAW).log_prob(x, LOW), flow_log_prob(prior, x, LOW, HIGH, tolerance=1e-4)
    assert float(((found - exact) / exact).abs().max()) < 1e-3
    assert 70 < len(evaluations) < 90


@pytest.mark.parametrize(
    "change, match",
    [
        ({"x": torch.zeros(3, D + 1)}, "they must be"),
        ({"x": torch.full((3, D), math.nan)}, "NaN"),
        ({"sigma_min": 0.0}, "0 < sigma_min"),
        ({"sigma_min": 3.0}, "0 < sigma_min"),
        ({"probes": 4}, "stream"),
    ],
)
def test_wrong_input_is_refused(change: dict[str, object], match: str) -> None:
    arguments = {"x": torch.zeros(3, D), "sigma_min": 0.1, "sigma_max": 2.0, **change}
    with pytest.raises(MvssError, match=match):
        flow_log_prob(mixture(), **arguments)  # type: ignore[arg-type]
