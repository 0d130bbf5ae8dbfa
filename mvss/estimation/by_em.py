"""First priors by expectation–maximisation (`mixture_em`): large sources, under operators that whole views share.

Where asked for, mixtures are fitted to estimates of the sources that pairs of views tell (`noisier2noise`).
"""

from __future__ import annotations

__all__ = ["estimate_by_em"]

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mvss.estimation.estimate import Estimate
from mvss.estimation.mixture_em import estimated, expectation_maximisation
from mvss.estimation.noisier2noise import estimate_source
from mvss.posteriors.view_pairs import pairs_of
from mvss.presets.estimation import MixtureEMConfig, Noisier2NoiseConfig
from mvss.priors.networks import build_network
from mvss.priors.regression import Guess
from mvss.problem.held_out import learned_from
from mvss.problem.units import Units
from mvss.problem.views import Views
from mvss.runtime.rng import Stream


def estimate_by_em(
    views: Views,
    config: MixtureEMConfig,
    units: Units,
    stream: Stream,
    progress: Callable[[float], None],
    _part: Path | None,
    held_out: float,
) -> Estimate:
    """In units of size one. units: those of the views as they were given. held_out: share of the observations of each view that
    no network learns from."""
    draws: dict[str, dict[int, Tensor]] = {}
    guesses: dict[str, Guess] = {}
    if config.noisier2noise:
        draws, guesses = _from_pairs(views, held_out, config.noisier2noise, units, stream.child("noisier2noise"))
    together = {source: torch.cat(list(by_view.values())) for source, by_view in draws.items()}
    data = estimated(views, together, config.floor) if together else views
    fit = expectation_maximisation(data, config, views.stages(), stream, progress)
    priors = {source: fit.priors[source] for source in views.sources}
    evidence = {
        "train": fit.best,
        **({"fell": fit.fell} if fit.fell else {}),
        **({"stopped": fit.stopped} if fit.stopped else {}),
    }
    return Estimate(priors, draws, guesses, evidence)


def _from_pairs(
    views: Views, held_out: float, config: Noisier2NoiseConfig, units: Units, stream: Stream
) -> tuple[dict[str, dict[int, Tensor]], dict[str, Guess]]:
    """Estimates of every source that pairs of views tell, of all observations, by view; and the networks that made them."""
    draws: dict[str, dict[int, Tensor]] = {}
    guesses: dict[str, Guess] = {}
    taught = learned_from(views, held_out)
    for place, (source, shape) in enumerate(views.shapes.items()):
        scale = units.scales[source]
        least, most = (None if value is None else value / scale for value in (config.least, config.most))
        inner = replace(config, least=least, most=most)
        keyed = Stream(stream.seed, ("guess", place))
        guess = Guess(build_network(config.network, shape, Guess.inputs_of(shape), Guess.OUTPUTS, keyed))
        for pair in pairs_of(taught, source, config.alone):
            if pair.sharp:
                a = pair.view
                x = estimate_source(views[a], taught[a], pair, guess, inner, stream.child(place, a))
                draws.setdefault(source, {})[a] = x
                guesses[source] = guess
    return draws, guesses
