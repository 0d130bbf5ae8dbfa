"""Networks of a fit, built from settings, and what a folder gives back of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_forms import random_prior, shaped
from tiny_em import STREAM, priors, problem
from tiny_separators import IMAGES, VECTORS, images

from mvss.posteriors.models import build_amortised, build_priors, require_networks
from mvss.posteriors.saved import load_models, save_models
from mvss.presets import load_settings
from mvss.presets.posterior import SamplerConfig, SplitGibbsConfig
from mvss.presets.settings import PriorConfig, Settings
from mvss.presets.training import NetworkConfig
from mvss.priors.diffusion import DiffusionPrior, Drawing
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import TimeMLP
from mvss.problem.views import Views
from mvss.runtime.errors import MvssError

MIXTURES = {source: prior.mixture for source, prior in priors().items()}


def test_prior_draws_of_a_new_network_follow_the_mixture() -> None:
    prior = shaped(random_prior(3, 2, 5), (2, 1))
    network = TimeMLP(2, hidden=(4,), embedding=4, inputs=4)
    drawing = Drawing(SamplerConfig("heun", 30, sigma_start=1.0, sigma_min=0.01))
    x = DiffusionPrior(prior, network, 1.0, drawing).sample(4000, STREAM)
    assert x.shape == (4000, 2, 1)
    truth = prior.sample(4000, STREAM.child("truth")).flatten(1)
    torch.testing.assert_close(x.flatten(1).mean(0), truth.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(x.flatten(1).mT), torch.cov(truth.mT), atol=0.12, rtol=0)


def test_new_networks_add_nothing_to_the_mixtures() -> None:
    built = build_priors(VECTORS, problem(), MIXTURES, 0)
    for source, prior in built.items():
        x = torch.randn(5, *prior.shape, dtype=torch.float64)
        level = torch.full((5,), 0.5, dtype=torch.float64)
        assert isinstance(prior, DiffusionPrior) and not prior.learns_variance
        torch.testing.assert_close(prior.denoise(x, level), MIXTURES[source].denoise(x, level))
    again = build_priors(VECTORS, problem(), MIXTURES, 0)
    assert all(torch.equal(a, b) for s in built for a, b in zip(built[s].parameters(), again[s].parameters(), strict=True))


def test_sources_without_a_network_are_their_mixtures() -> None:
    closed = replace(VECTORS, prior=replace(VECTORS.prior, closed=("one",)))
    built = build_priors(closed, problem(), MIXTURES, 0)
    assert built["one"] is MIXTURES["one"] and isinstance(built["two"], DiffusionPrior)
    assert build_priors(Settings(prior=PriorConfig(None)), problem(), MIXTURES, 0) == MIXTURES
    with pytest.raises(MvssError, match=r"prior\.closed names three: the sources are one, two") as error:
        build_priors(replace(VECTORS, prior=PriorConfig(closed=("three",))), problem(), MIXTURES, 0)
    assert "\n" not in str(error.value)


def test_posteriors_are_learned_of_sources_that_pairs_of_views_show() -> None:
    views = Views(images().views)
    assert list(build_amortised(IMAGES, views, {}, 0)) == ["target"]
    assert build_amortised(replace(IMAGES, posterior=IMAGES.posterior.others), views, {}, 0) == {}
    closed = replace(IMAGES, prior=replace(IMAGES.prior, closed=("target",)))
    assert build_amortised(closed, views, {}, 0) == {}


def test_posteriors_may_have_another_network_than_priors() -> None:
    views = Views(images().views)
    mixtures = {source: shaped(random_prior(1, shape[1] ** 2, 5), shape) for source, shape in views.shapes.items()}
    wide = replace(IMAGES, em=replace(IMAGES.em, network=NetworkConfig(blocks=(16, 24), layers=2)))
    model, prior = build_amortised(wide, views, {}, 0)["target"], build_priors(wide, views, mixtures, 0)["target"]
    assert IMAGES.prior.network is not None
    blocks = [tuple(of.network.config["blocks"]) for of in (model, prior)]
    assert blocks == [(16, 24), IMAGES.prior.network.blocks]
    require_networks(wide, views)
    deep = replace(IMAGES, em=replace(IMAGES.em, network=NetworkConfig(blocks=(8,) * 6)))
    with pytest.raises(MvssError, match="multiples of 32"):
        require_networks(deep, views)


@pytest.mark.parametrize("settings", ["vectors", "images", "signals"])
@pytest.mark.parametrize("least", [None, 0.5])
def test_draws_of_a_preset_stay_within_the_levels_of_its_networks(settings: str, least: float | None) -> None:
    """Of the priors; also where split Gibbs separates and networks have learned down to large noise alone."""
    preset = load_settings(settings)
    if least is not None:
        training = replace(preset.training, sigma_min=least)
        preset = replace(preset, training=training, separation=SplitGibbsConfig(), prior=PriorConfig())
    for prior in build_priors(preset, problem(), MIXTURES, 0).values():
        assert isinstance(prior, DiffusionPrior)
        run, (low, high) = prior.drawing.sampler, prior.levels
        assert low <= run.sigma_min <= run.sigma_start <= high


@pytest.mark.parametrize("base", ["mixture", "karras"])
def test_priors_that_are_read_back_are_the_same(base: str, tmp_path: Path) -> None:
    config = PriorConfig(NetworkConfig(hidden=(8,), embedding=4), base, sampler=SamplerConfig("heun", 3, 1.0, 0.1))
    built = build_priors(replace(VECTORS, prior=config), problem(), MIXTURES, 0)
    for prior in built.values():
        torch.nn.init.normal_(prior.network.output.weight, std=0.1)
    built["closed"] = GaussianMixture(torch.ones(2), torch.randn(2, 4), torch.randn(2, 4, 1), 0.2, (1, 2, 2))
    save_models(tmp_path, built, {}, {"about": 1})
    again, amortised, about = load_models(tmp_path)
    assert about["about"] == 1
    assert list(again) == list(built) and amortised == {}
    for source, prior in built.items():
        found = again[source]
        assert found.shape == prior.shape
        assert torch.equal(found.sample(5, STREAM), prior.sample(5, STREAM))
        x = torch.randn(3, *prior.shape, dtype=torch.float64)
        assert torch.equal(found.log_prob(x), prior.log_prob(x))
        if isinstance(prior, DiffusionPrior):
            assert (found.drawing, found.levels) == (prior.drawing, prior.levels)
            assert (found.dynamic, found.base) == (prior.dynamic, prior.base) == (False, base)
            assert torch.equal(found.mixture.means, MIXTURES[source].means)
