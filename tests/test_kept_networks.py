"""Networks that add nothing to a mixture are left out where the settings ask for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mvss import (
    AscentConfig,
    EMConfig,
    Identity,
    MomentMatchingConfig,
    NetworkConfig,
    PriorConfig,
    SamplerConfig,
    Settings,
    SourceSeparator,
    TrainingConfig,
    View,
)
from mvss.em import corrections
from mvss.posteriors.exact import ExactPosterior
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import SignalUNet
from mvss.runtime.rng import Stream

SETTINGS = Settings(
    AscentConfig(components=(1,), steps=60, starts=1),
    PriorConfig(NetworkConfig(hidden=(32, 32), embedding=8), keep="better"),
    TrainingConfig(steps=250, batch=128, learning_rate=5e-3, ema_decay=0.95, sigma_min=0.02, sigma_max=2.0, beta=(1.0, 1.0)),
    EMConfig(laps=1, held_out=0.2),
    MomentMatchingConfig(SamplerConfig("ancestral", 4, 1.0, 0.02), components=1),
)


def view_of(x: torch.Tensor) -> View:
    return View(x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), {"x": torch.eye(2)}, 0.2)


@pytest.mark.parametrize("law", ["two points", "one Gaussian"])
def test_a_network_stays_where_it_denoises_better(law: str) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 2, generator=rng)
    if law == "two points":
        x = x.sign() * torch.tensor([1.0, 0.0]) + 0.05 * x.flip(1)
    training = replace(SETTINGS.training, **({} if law == "two points" else {"steps": 3, "learning_rate": 0.03}))
    model = SourceSeparator(replace(SETTINGS, training=training)).fit([view_of(x)], seed=0, verbose=False)
    (line,) = model.report.chosen
    assert line in str(model.report)
    if law == "two points":  # which one Gaussian cannot hold
        assert line.startswith("prior of x: with its network") and model.priors["x"].network is not None
        return
    assert line.startswith("prior of x: the mixture alone") and isinstance(model.priors["x"], GaussianMixture)
    alone = SourceSeparator(replace(SETTINGS, prior=PriorConfig(network=None))).fit([view_of(x)], seed=0, verbose=False)
    torch.testing.assert_close(model.sample("x", 50), alone.sample("x", 50))
    new = view_of(x[:40])
    torch.testing.assert_close(model.separate(new, 2), alone.separate(new, 2))


def test_all_networks_stay_unless_it_is_asked_for() -> None:
    settings = replace(SETTINGS, prior=replace(SETTINGS.prior, keep="all"), training=replace(SETTINGS.training, steps=2))
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    model = SourceSeparator(settings).fit([view_of(x)], seed=0, verbose=False)
    assert model.report.chosen == [] and model.priors["x"].network is not None


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_network_is_compared_with_what_would_be_kept(dynamic: bool) -> None:
    """One that adds nothing is as good as the mixture, unless it is Karras' skip term that it adds nothing to."""
    factors = torch.randn(1, 8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixture = GaussianMixture(torch.ones(1), torch.ones(1, 8, dtype=torch.float64), factors, 0.1, (1, 8))
    priors = {"x": DiffusionPrior(mixture, SignalUNet(1, 8, blocks=(8,)).eval(), mixture.spread, dynamic=dynamic)}
    y = mixture.sample(40, Stream(1)) + 0.2 * torch.randn(40, 1, 8, generator=torch.Generator().manual_seed(1))
    view = View(y, {"x": Identity((1, 8))}, 0.2)
    (found,) = corrections([view], priors, ExactPosterior(), SETTINGS.training, Stream(2))
    assert found.mixture < 0.7 * found.network if dynamic else found.mixture == pytest.approx(found.network)
