"""All networks of a fit: built from settings and first priors."""

from __future__ import annotations

__all__ = ["build_amortised", "build_priors", "require_networks"]

import copy
import math
from collections.abc import Mapping

import torch

from mvss.posteriors.amortised import OUTPUTS, Amortised, inputs_of
from mvss.posteriors.view_pairs import pairs_of
from mvss.presets.posterior import SamplerConfig
from mvss.presets.settings import Settings
from mvss.priors.diffusion import DiffusionPrior, Drawing
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.local_law import is_dense
from mvss.priors.networks import build_network
from mvss.priors.prior import Prior
from mvss.priors.regression import Guess
from mvss.problem.views import Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream


def build_priors(settings: Settings, views: Views, mixtures: Mapping[str, GaussianMixture], seed: int) -> dict[str, Prior]:
    """Priors with networks that add nothing before they are trained; the mixture itself where there is none."""
    config, priors = settings.prior, dict[str, Prior]()
    if unknown := set(config.closed) - set(views.sources):
        raise MvssError(f"prior.closed names {', '.join(sorted(unknown))}: the sources are {', '.join(views.sources)}")
    for place, source in enumerate(views.sources):
        mixture = mixtures[source]
        if config.network is None or source in config.closed:
            priors[source] = mixture
            continue
        keyed = Stream(seed, ("network", place))
        outputs = 2 if _learns_variance(settings, views, source) else 1
        network = build_network(config.network, mixture.shape, 2, outputs, keyed)
        levels = (settings.training.sigma_min, settings.training.sigma_max)
        kind = (config.network.dynamic, config.base)
        priors[source] = DiffusionPrior(mixture, network, mixture.spread, _drawing(settings), levels, *kind)
    return priors


def require_networks(settings: Settings, views: Views) -> None:
    """Raises MvssError for a source whose shape its network cannot take: before anything takes time."""
    networks = [config for config in (settings.prior.network, settings.em.network) if config is not None]
    for source, shape in views.shapes.items():
        try:
            for config in [] if source in settings.prior.closed else networks:
                with torch.device("meta"):  # no memory, no weights
                    build_network(config, shape, 1, 1, Stream(0))
        except MvssError as error:
            where = ", ".join(views[a].name for a in views.showing([source]))
            raise MvssError(f"{source} (in {where}) has shape {shape}: {error}") from error


def _learns_variance(settings: Settings, views: Views, source: str) -> bool:
    """Where explicit Jacobians cost too much, and nothing else takes their place."""
    network = settings.prior.network
    if network is None or not network.variance or settings.posterior.jacobians:
        return False
    size = math.prod(views.shapes[source])
    return any(not is_dense(size, math.prod(views[a].observation_shape)) for a in views.showing([source]))


def _drawing(settings: Settings) -> Drawing:
    """As new observations are separated, unless the settings say otherwise."""
    sampler, cold, components = settings.separating.of_priors
    if settings.prior.sampler is not None:
        return Drawing(settings.prior.sampler, True, components)
    least, usual = settings.training.sigma_min, SamplerConfig()
    usual = SamplerConfig(sigma_start=max(usual.sigma_start, least), sigma_min=least)
    return Drawing(sampler or usual, cold, components)


def build_amortised(settings: Settings, views: Views, guesses: Mapping[str, Guess], seed: int) -> dict[str, Amortised]:
    """Networks that will learn posteriors, of sources that pairs of views show. guesses: of the estimation, by source."""
    models: dict[str, Amortised] = {}
    em, prior = settings.em, settings.prior
    if not settings.posterior.learned or prior.network is None:
        return models
    config, training = em.network or prior.network, em.amortised or settings.training
    for place, (source, shape) in enumerate(views.shapes.items()):
        pairs = [] if source in prior.closed else pairs_of(views, source)
        if not pairs:
            continue
        network = build_network(config, shape, inputs_of(shape), OUTPUTS, Stream(seed, ("amortised", place)))
        guess = copy.deepcopy(guesses[source]) if source in guesses else None
        if guess is None and em.guess is not None:
            keyed = Stream(seed, ("guess", place))
            guess = Guess(build_network(config, shape, Guess.inputs_of(shape), Guess.OUTPUTS, keyed))
        models[source] = Amortised(network, pairs, guess, training.turns, training.holes, em.guess is not None)
    return models
