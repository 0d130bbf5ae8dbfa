"""What an observation says of its sources: exact, by moment matching, by Gibbs sweeps, split Gibbs, or amortised networks."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from mvss.posteriors.posterior import Posterior
from mvss.presets.posterior import SeparationConfig

if TYPE_CHECKING:
    from mvss.posteriors.amortised import Amortised

__all__ = ["posterior_of"]


def posterior_of(config: SeparationConfig, models: Mapping[str, Amortised] | None = None) -> Posterior:
    """The posterior that settings name, of which no other is imported. models: networks that have learned posteriors, by
    source, for "amortised" and "auto"."""
    posterior: Posterior = resolve_name(config.implementation)(*config.arguments(models or {}))
    return posterior
