"""Gaussian sources under one operator for a whole view, against the dense posterior and against moments of draws."""

from __future__ import annotations

import pytest
import torch
from closed_forms import exact, random_prior, shaped
from torch import Tensor

from mvss.posteriors import posterior_of
from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact_mixture import MixturePosterior
from mvss.posteriors.shared_gaussians import SharedGaussians
from mvss.presets.posterior import ExactConfig, GibbsConfig, MomentMatchingConfig, PosteriorConfig
from mvss.priors.local_law import Components
from mvss.problem.noise import Diagonal, Isotropic, Stationary
from mvss.problem.operators import Dense, Identity, Scale
from mvss.problem.shared_view import SharedView, is_shared
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

RNG = torch.Generator().manual_seed(0)
PRIORS = (random_prior(3, 4, 2), random_prior(2, 3, 3))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


VIEW = View(normal(9, 3), {"a": Dense(normal(3, 4)), "b": Dense(normal(3, 3))}, Diagonal(0.3 + normal(1, 3).abs()))


def test_it_agrees_with_the_dense_posterior() -> None:
    view, sources = SharedView.of(VIEW), [Components.of(p) for p in PRIORS]
    given = SharedGaussians(view, sources).given(view.y, sources)
    dense, data = MixturePosterior(PRIORS, retain=200.0), DenseView.of(VIEW)
    torch.testing.assert_close(given.log_evidence(), dense.log_evidence(data)[0])
    means = torch.stack([exact(PRIORS, data, row).mean for row in range(len(data))])
    torch.testing.assert_close(torch.cat(given.mean(), dim=1), means)


def test_draws_have_the_moments_of_the_posterior() -> None:
    view = SharedView.of(VIEW)
    one = SharedView(view.y[:1].expand(20000, -1), view.operators, view.noise)
    sources = [Components.of(p) for p in PRIORS]
    gaussians = SharedGaussians(one, sources)
    given = gaussians.given(one.y, sources)
    draws = torch.cat(given.draw(Stream(0, ("draws",)), torch.arange(20000)), dim=1)
    weight = given.responsibility()[0]
    means = torch.stack([torch.cat(given.component_mean(c), dim=1)[0] for c in range(len(weight))])
    mean = weight @ means
    a = torch.cat([o.dense()[0] for o in view.operators], dim=1)
    second = torch.zeros(7, 7, dtype=torch.float64)
    for w, m, combination in zip(weight, means, gaussians.combinations, strict=True):
        v = torch.block_diag(*(s.covariance(k) for s, k in zip(sources, combination.numbers, strict=True)))
        s = torch.diag(view.noise) + a @ v @ a.mT
        second += w * (v - v @ a.mT @ torch.linalg.solve(s, a @ v) + torch.outer(m - mean, m - mean))
    error = second.diagonal().sqrt() / 20000**0.5
    assert bool(((draws.mean(0) - mean).abs() < 5 * error).all())
    torch.testing.assert_close(draws.T.cov(), second, rtol=0.1, atol=0.03)


def test_means_of_each_observation() -> None:
    """Means and weights that differ between observations: each row as if it were alone."""
    view = SharedView.of(VIEW)
    own = [
        Components(normal(9, len(p)).log_softmax(1), p.means + normal(9, 1, 1), p.factors, Components.of(p).floor)
        for p in PRIORS
    ]
    gaussians = SharedGaussians(view, own)
    all_at_once = gaussians.given(view.y, own)
    for i in (0, 5):
        alone = [Components(s.log_weight[i : i + 1], s.mean[i : i + 1], s.spread, s.floor) for s in own]
        single = gaussians.given(view.y[i : i + 1], alone)
        torch.testing.assert_close(single.log_evidence()[0], all_at_once.log_evidence()[i])
        for x, whole in zip(single.mean(), all_at_once.mean(), strict=True):
            torch.testing.assert_close(x[0], whole[i])
        drawn = single.draw(Stream(0, ("one",)), torch.tensor([i]))
        for x, whole in zip(drawn, all_at_once.draw(Stream(0, ("one",)), torch.arange(9)), strict=True):
            torch.testing.assert_close(x[0], whole[i])


@pytest.mark.parametrize(
    "view",
    [
        View(normal(2, 3), {"a": Dense(normal(2, 3, 4))}, Isotropic(0.1)),
        View(normal(2, 3), {"a": Dense(normal(3, 4))}, Isotropic(torch.tensor([0.1, 0.2]))),
        View(normal(5, 3), {"a": Dense(normal(3, 4))}, Isotropic(torch.linspace(0.1, 0.5, 5))),
        View(normal(5, 3), {"a": Dense(normal(3, 4))}, Diagonal(0.1 + normal(5, 3).abs())),
    ],
)
def test_views_that_share_nothing_are_told(view: View) -> None:
    assert is_shared(VIEW) and not is_shared(view)
    with pytest.raises(MvssError, match="of their own"):
        SharedView.of(view)


@pytest.mark.parametrize("configured", [ExactConfig(), MomentMatchingConfig(), GibbsConfig()])
def test_small_observations_under_correlated_noise_are_drawn_exactly(configured: PosteriorConfig) -> None:
    """Of one operator for all; they were refused, since small ones went to a search that knows white noise alone."""
    lags = torch.tensor([[0.0, 0.2, 0.0], [0.3, 1.0, 0.3], [0.0, 0.2, 0.0]], dtype=torch.float64)
    shape, noise, count = (1, 3, 3), Stationary(0.25 * lags), 4000
    y = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(1, *shape).expand(count, *shape)
    view = View(y, {"a": Identity(shape), "b": Scale(0.5, shape)}, noise)
    priors = {s: shaped(random_prior(1, 9, n), shape) for n, s in enumerate("ab")}
    draws = posterior_of(configured, {}).draw(view, priors, Stream(0)).draws
    covariance = {s: p.covariances[0] for s, p in priors.items()}
    total = covariance["a"] + 0.25 * covariance["b"] + noise.matrix(y)
    gain = torch.linalg.solve(total, covariance["a"]).mT
    mean = priors["a"].means[0] + gain @ (y[0].flatten() - priors["a"].means[0] - 0.5 * priors["b"].means[0])
    spread = covariance["a"] - gain @ covariance["a"]
    z = (draws["a"].flatten(1).mean(0) - mean) / (spread.diagonal() / count).sqrt()
    assert float(z.abs().max()) < 4
    torch.testing.assert_close(torch.cov(draws["a"].flatten(1).mT), spread, rtol=0.1, atol=0.05 * float(spread.abs().max()))
