"""A tiny problem for the EM loop: two sources, of which the first view shows one and the second view both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from closed_forms import random_prior

from mvss.em import FirstDraws, Lap, Model, run_em
from mvss.posteriors import posterior_of
from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact_mixture import MixturePosterior
from mvss.posteriors.posterior import unflatten
from mvss.presets.posterior import MomentMatchingConfig, PosteriorConfig, SamplerConfig
from mvss.presets.settings import EMConfig, Settings
from mvss.presets.training import TrainingConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.networks import TimeMLP
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Dense
from mvss.problem.views import Draws, View, Views
from mvss.runtime.rng import Stream

SIZES = {"one": 3, "two": 2}
STREAM = Stream(0, ("em",))
TRAINING = TrainingConfig(steps=4, batch=15, learning_rate=1e-2, sigma_min=0.05, sigma_max=1.0)
POSTERIOR = MomentMatchingConfig(SamplerConfig("pc", 3, sigma_start=0.5, sigma_min=0.05), components=2, chunk=16)
EM = EMConfig(laps=(1, 2), stages="sequential", relaxation=1.3, held_out=0.0)


def problem(second_scale: float = 1.0) -> Views:
    """Odd numbers of observations, which do not split evenly; `second_scale` multiplies the second view's y."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    first = View(normal(21, 2), {"one": Dense(normal(21, 2, 3))}, Isotropic(0.2), "first")
    both = {"one": Dense(normal(2, 3)), "two": Dense(normal(17, 2, 2))}
    return Views([first, View(second_scale * normal(17, 2), both, Isotropic(0.3), "both")])


def priors() -> dict[str, DiffusionPrior]:
    """Networks in float64, where rounding cannot hide a wrong share of a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = [TimeMLP(d, hidden=(8,), embedding=4, inputs=2 * d).double() for d in SIZES.values()]
    parts = zip(SIZES.items(), networks, strict=True)
    return {source: DiffusionPrior(random_prior(3, d, d), network, 1.0) for (source, d), network in parts}


def first_draws(views: Sequence[View]) -> list[Draws]:
    """Exact ones under the mixtures, also where sources are said to be large."""
    sources, draws = priors(), []
    for alpha, view in enumerate(views):
        mixtures, data = MixturePosterior([sources[s].mixture for s in view.sources]), DenseView.of(view)
        draws.append(unflatten(view, mixtures.draw(data, STREAM.child("first", alpha), view.numbers, mixtures.chunks(data))))
    return draws


def run(
    views: Views | None = None,
    em: EMConfig = EM,
    posterior: PosteriorConfig = POSTERIOR,
    checkpoint: Path | None = None,
    callback: Callable[[Lap], None] = lambda _: None,
) -> tuple[list[Draws], dict[str, DiffusionPrior]]:
    """All laps."""
    views, sources = views or problem(), priors()
    settings = Settings(training=TRAINING, em=em, posterior=posterior)
    first = FirstDraws(first_draws(views))
    draws = run_em(views, Model(sources, posterior_of(posterior)), first, settings, STREAM, checkpoint, callback).draws
    return draws, sources


def weights(sources: dict[str, DiffusionPrior]) -> dict[str, dict[str, torch.Tensor]]:
    """Of all networks, as they are now."""
    return {source: {k: v.clone() for k, v in p.network.state_dict().items()} for source, p in sources.items()}
