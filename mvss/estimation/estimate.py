"""First priors of all sources, from the observations alone, and what else is learned on the way.

ascent    the exact likelihood of small sources, climbed              (`by_ascent`)
em        expectation–maximisation for large ones                     (`by_em`)

Settings say which (`implementation`), and only that one is imported.
"""

from __future__ import annotations

__all__ = ["Estimate", "estimate_sources"]

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import Tensor

from mvss.presets.estimation import AscentConfig, MixtureEMConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import load_weights, network_named
from mvss.priors.regression import Guess
from mvss.problem.units import Units
from mvss.problem.views import OPERATORS, Views
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.fingerprint import Fingerprint, fingerprint_of
from mvss.runtime.locks import locked
from mvss.runtime.rng import Stream


@dataclass(frozen=True)
class Estimate:
    """First priors, in the units of the user.

    priors: by source. draws: estimates `(N, *shape)` of sources that pairs of views told, by source and number of the view.
    guesses: networks that made those, by source. evidence: mean log p(y) of an observation in nats, in units of size one:
    "held_out", "train"; the share of probability that a search "discarded"; how far starts of nearly the same evidence are
    apart, "rivalry", nats; laps of EM that lowered it, "fell", and stages that ended early, since what came next was
    singular, "stopped", where there were any. seconds: what it took.
    """

    priors: Mapping[str, GaussianMixture]
    draws: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    guesses: Mapping[str, Guess] = field(default_factory=dict)
    evidence: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def scaled(self, factors: Mapping[str, float]) -> Estimate:
        """The same of x times a factor of each source. Guesses know no units."""
        priors = {source: prior.scaled(factors[source]) for source, prior in self.priors.items()}
        # in one layout, as they are read back: last bits of products depend on it
        draws = {s: {a: (factors[s] * x).contiguous() for a, x in by_view.items()} for s, by_view in self.draws.items()}
        return replace(self, priors=priors, draws=draws)

    def save(self, path: Path, fingerprint: Fingerprint) -> None:
        """To a file. fingerprint: of the run that made it."""
        networks = {source: _network_state(guess.network) for source, guess in self.guesses.items()}
        state = {"draws": self.draws, "evidence": self.evidence, "seconds": self.seconds, "guesses": networks}
        state["priors"] = {source: prior.state() for source, prior in self.priors.items()}
        save_checkpoint(path, state, fingerprint)

    @staticmethod
    def load(path: Path, fingerprint: Fingerprint) -> Estimate:
        """What `save` wrote. Raises MvssError where that was of a run of another fingerprint."""
        state = load_checkpoint(path, fingerprint=fingerprint)
        guesses = {source: _read_guess(*kept) for source, kept in state.pop("guesses").items()}
        priors = {source: GaussianMixture(**kept) for source, kept in state.pop("priors").items()}
        return Estimate(priors, guesses=guesses, **state)


def estimate_sources(
    views: Views,
    config: AscentConfig | MixtureEMConfig,
    stream: Stream,
    progress: Callable[[float], None] = lambda _: None,
    checkpoint: Path | None = None,
    held_out: float = 0.0,
) -> Estimate:
    """First priors. progress: takes the fraction done. checkpoint: a file to keep the result in, and to go on from; of
    processes that ask for the same one makes it, and the others wait for it. held_out: share of the observations of each view
    that no network learns from (`EMConfig.held_out`).

    Raises MvssError where the checkpoint is damaged, or of a run with other data, settings, stream or code.
    """
    if checkpoint is None:
        return _estimated(views, config, stream, progress, None, held_out)
    modules = [__name__, config.implementation.partition(":")[0], *OPERATORS]
    made = fingerprint_of(modules, {"data": views, "settings": (config, held_out), "stream": stream})
    if not checkpoint.exists():
        with locked(checkpoint.with_suffix(".lock"), wait=True):
            if not checkpoint.exists():
                part = checkpoint.with_suffix(f".part{checkpoint.suffix}")
                estimate = _estimated(views, config, stream, progress, part, held_out)
                estimate.save(checkpoint, made)
                part.unlink(missing_ok=True)
                return estimate
    return Estimate.load(checkpoint, made)


def _estimated(
    views: Views,
    config: AscentConfig | MixtureEMConfig,
    stream: Stream,
    progress: Callable[[float], None],
    part: Path | None,
    held_out: float,
) -> Estimate:
    """part: file to keep what has been done so far."""
    began, units = time.monotonic(), Units.of(views)
    inner = Views(map(units.inward, views))
    estimate: Estimate = resolve_name(config.implementation)(inner, config, units, stream, progress, part, held_out)
    return replace(estimate.scaled(units.scales), seconds=time.monotonic() - began)


def _network_state(network: Any) -> tuple[str, dict[str, Any], dict[str, Tensor]]:  # noqa: ANN401 - one of diffusers'
    """Its kind, what it was made with, and its weights. Arguments by place are noted as defaults, and would be left out."""
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    return type(network).__name__, config, network.state_dict()


def _read_guess(kind: str, config: dict[str, Any], weights: dict[str, Tensor]) -> Guess:
    network = network_named(kind, config)
    load_weights(network, weights, "a kept guess")
    return Guess(network)
