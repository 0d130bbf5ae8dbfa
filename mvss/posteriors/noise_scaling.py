"""Settings for data whose noise is less than they expect.

A run that ends in means, E[x | x_t, y] at σ_min, leaves of a variance v the share v/(v + σ_min²). Of what y tells best v is ν²,
with ν the noise in units of the source: at σ_min = 3 ν a tenth is left, at a tenth of ν all but a hundredth. Of draws at σ_min,
those of the ancestral sampler, all is left. A σ_min of at most ν stays as it is.
"""

from __future__ import annotations

__all__ = ["least_noise", "lowest", "suited"]

import math
from dataclasses import replace
from functools import partial

from mvss.presets.posterior import SamplerConfig
from mvss.presets.settings import Settings
from mvss.problem.shared_view import measured_variance
from mvss.problem.units import gains
from mvss.problem.views import Views

SHARE, ROUNDING = 0.3, 1e-6
"""σ_min over ν, where it is lowered: less leaves more to each of a few steps, which contract. And what is no difference."""


def least_noise(views: Views) -> float:
    """ν: the least, over views and their sources, of the usual standard deviation of the noise, in units of the source."""
    noise = [(float(measured_variance(view).median().sqrt()), gains(view)) for view in views]
    return min(sigma / math.sqrt(gain) for sigma, by_source in noise for gain in by_source.values())


def lowest(views: Views) -> float:
    """What a σ_min above the noise is lowered to."""
    return SHARE * least_noise(views)


def suited(settings: Settings, views: Views) -> Settings:
    """Settings whose runs that end in means do so at a level that suits the noise, and whose networks learn down to there."""
    lowered = partial(_lowered, noise=least_noise(views))
    posterior = settings.posterior.resampled(lowered)
    separation = settings.separation and settings.separation.resampled(lowered)
    if (posterior, separation) == (settings.posterior, settings.separation):
        return settings
    training = replace(settings.training, sigma_min=min(settings.training.sigma_min, lowest(views)))
    return replace(settings, posterior=posterior, separation=separation, training=training)


def _lowered(sampler: SamplerConfig, noise: float) -> SamplerConfig:
    too_high = sampler.method != "ancestral" and sampler.sigma_min > noise * (1 + ROUNDING)
    return replace(sampler, sigma_min=SHARE * noise) if too_high else sampler
