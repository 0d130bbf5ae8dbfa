"""All networks of a fit: built from settings and first priors, written to a folder, and read back.

folder/  mixture-N.pt  network-N/  amortised-N.pt  amortised-N/  guess-N/      N: place of the source, from 1
"""

from __future__ import annotations

__all__ = ["build_amortised", "build_priors", "load_models", "save_models"]

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvss.posteriors.amortised import INPUTS, OUTPUTS, Amortised
from mvss.posteriors.view_pairs import pairs_of
from mvss.presets.posterior import AmortisedConfig, ExactConfig, MomentMatchingConfig, PosteriorConfig, SamplerConfig
from mvss.presets.settings import Settings
from mvss.priors.diffusion import DiffusionPrior, Drawing, karras_base
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.local_law import is_dense
from mvss.priors.networks import ImageUNet, TimeMLP, build_network
from mvss.priors.prior import Prior
from mvss.priors.regression import Guess
from mvss.problem.views import Views
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
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
        base = mixture if config.base == "mixture" else karras_base(mixture.shape, mixture.spread)
        levels = (settings.training.sigma_min, settings.training.sigma_max)
        dynamic = config.network.dynamic
        priors[source] = DiffusionPrior(base, network, mixture.spread, _drawing(settings), levels, dynamic)
    return priors


def _learns_variance(settings: Settings, views: Views, source: str) -> bool:
    """Where explicit Jacobians cost too much, and nothing else takes their place."""
    network, posterior = settings.prior.network, settings.posterior
    if network is None or not network.variance or getattr(posterior, "solver", None):
        return False
    size = math.prod(views.shapes[source])
    return any(not is_dense(size, math.prod(views[a].observation_shape)) for a in views.showing([source]))


def _drawing(settings: Settings) -> Drawing:
    """As new observations are separated, unless the settings say otherwise."""
    posterior: PosteriorConfig = settings.separating
    if isinstance(posterior, AmortisedConfig):
        posterior = posterior.others
    if settings.prior.sampler is not None:
        return Drawing(settings.prior.sampler, True, getattr(posterior, "components", 1))
    if isinstance(posterior, ExactConfig):
        return Drawing()
    cold = isinstance(posterior, MomentMatchingConfig) and posterior.start == "cold"
    return Drawing(posterior.sampler, cold, posterior.components)


def build_amortised(settings: Settings, views: Views, guesses: Mapping[str, Guess], seed: int) -> dict[str, Amortised]:
    """Networks that will learn posteriors, of sources that pairs of views show. guesses: of the estimation, by source."""
    models: dict[str, Amortised] = {}
    config, em = settings.prior, settings.em
    if not isinstance(settings.posterior, AmortisedConfig) or config.network is None:
        return models
    training = em.amortised or settings.training
    for place, (source, shape) in enumerate(views.shapes.items()):
        pairs = [] if source in config.closed else pairs_of(views, source)
        if not pairs:
            continue
        network = build_network(config.network, shape, INPUTS, OUTPUTS, Stream(seed, ("amortised", place)))
        guess = copy.deepcopy(guesses[source]) if source in guesses else None
        if guess is None and em.guess is not None:
            keyed = Stream(seed, ("guess", place))
            guess = Guess(build_network(config.network, shape, Guess.INPUTS, Guess.OUTPUTS, keyed))
        models[source] = Amortised(network, pairs, guess, training.turns, training.holes, em.guess is not None)
    return models


def save_models(folder: Path, priors: Mapping[str, Prior], amortised: Mapping[str, Amortised]) -> list[dict[str, Any]]:
    """Write them; a description of each prior, as JSON knows it."""
    described, places = [], {source: number for number, source in enumerate(priors, start=1)}
    for source, prior in priors.items():
        save_checkpoint(folder / f"mixture-{places[source]}.pt", prior.mixture.state())
        about: dict[str, Any] = {"name": source, "shape": list(prior.shape), "network": isinstance(prior, DiffusionPrior)}
        about["amortised"] = source in amortised
        if isinstance(prior, DiffusionPrior):
            prior.network.save_pretrained(folder / f"network-{places[source]}")  # type: ignore[operator]
            about |= {"sigma_data": prior.sigma_data, "drawing": asdict(prior.drawing), "levels": list(prior.levels)}
            about |= {"dynamic": prior.dynamic}
        described.append(about)
    for source, model in amortised.items():
        number = places[source]
        model.network.save_pretrained(folder / f"amortised-{number}")  # type: ignore[operator]
        if model.guess is not None:
            model.guess.network.save_pretrained(folder / f"guess-{number}")  # type: ignore[operator]
        state = {**model.state(), "source": source, "guess": model.guess is not None}
        save_checkpoint(folder / f"amortised-{number}.pt", state)
    return described


def load_models(folder: Path, described: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Prior], dict[str, Amortised]]:
    """What `save_models` wrote."""
    priors: dict[str, Prior] = {}
    amortised: dict[str, Amortised] = {}
    for number, about in enumerate(described, start=1):
        mixture = GaussianMixture(**load_checkpoint(folder / f"mixture-{number}.pt"))
        priors[about["name"]] = mixture
        if about["network"]:
            drawing = dict(about["drawing"])
            drawing["sampler"] = SamplerConfig(**drawing["sampler"])
            network, levels = _read_network(folder / f"network-{number}"), tuple(about["levels"])
            prior = DiffusionPrior(mixture, network, about["sigma_data"], Drawing(**drawing), levels, about["dynamic"])
            priors[about["name"]] = prior
        if about["amortised"]:
            state = load_checkpoint(kept := folder / f"amortised-{number}.pt")
            try:
                source, guess = state.pop("source"), None
                if state.pop("guess"):
                    guess = Guess(_read_network(folder / f"guess-{number}"))
                amortised[source] = Amortised.read(_read_network(folder / f"amortised-{number}"), guess, state)
            except (KeyError, TypeError) as error:
                raise MvssError(f"{kept} is of another version of mvss: learn it again, or use that one") from error
    return priors, amortised


def _read_network(folder: Path) -> TimeMLP | ImageUNet:
    if not folder.is_dir():  # diffusers would take the name for one on its hub
        raise MvssError(f"{folder} is missing: copy the whole folder that save_pretrained wrote")
    try:
        name = json.loads((folder / "config.json").read_text())["_class_name"]
        network: TimeMLP | ImageUNet = {"TimeMLP": TimeMLP, "ImageUNet": ImageUNet}[name].from_pretrained(folder)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.clone()  # the file is mapped to odd addresses, where products round differently
        return network
    except Exception as error:  # diffusers and safetensors raise many kinds on damaged files; all mean the same here
        raise MvssError(f"the network in {folder} is damaged: copy what save_pretrained wrote again") from error
