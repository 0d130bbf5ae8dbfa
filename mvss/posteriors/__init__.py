"""What an observation says of its sources: exact, by moment matching, by Gibbs sweeps, by amortised networks."""

from __future__ import annotations

from collections.abc import Mapping

from mvss.posteriors.amortised import Amortised, AmortisedPosterior
from mvss.posteriors.exact import ExactPosterior
from mvss.posteriors.gibbs import GibbsPosterior
from mvss.posteriors.moment_matching import MomentMatching
from mvss.posteriors.posterior import Posterior
from mvss.presets.posterior import AmortisedConfig, ExactConfig, GibbsConfig, PosteriorConfig

__all__ = ["posterior_of"]


def posterior_of(config: PosteriorConfig, models: Mapping[str, Amortised] | None = None) -> Posterior:
    """The posterior that settings name. models: networks that have learned posteriors, by source, for "amortised"."""
    if isinstance(config, ExactConfig):
        return ExactPosterior(config.beam)
    if isinstance(config, GibbsConfig):
        return GibbsPosterior(config)
    if isinstance(config, AmortisedConfig):
        return AmortisedPosterior(config, models or {})
    return MomentMatching(config)
