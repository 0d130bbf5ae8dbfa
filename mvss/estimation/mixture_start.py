"""Where the ascent of the likelihood begins: components scattered about zero, as wide as the observations suggest."""

from __future__ import annotations

__all__ = ["initial_mixture"]

import math

import torch

from mvss.posteriors.dense import DenseView
from mvss.presets.estimation import AscentConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.shared_view import measured_variance
from mvss.problem.units import LEAST
from mvss.problem.views import Views
from mvss.runtime.rng import Stream


def initial_mixture(views: Views, config: AscentConfig, beta: int, stream: Stream) -> GaussianMixture:
    """Random means, of the power that the observations suggest if the sources share it. beta: place of the source."""
    power, gain, faint, source = 0.0, 0.0, 0.0, views.sources[beta]
    for alpha in views.showing([source]):
        view = DenseView.of(views[alpha])
        seen = torch.stack([a.abs().sum(2) > 0 for a in view.matrices]).any(0)  # not what a mask hides
        power += float(((view.y.square() - view.noise) * seen).sum(1).mean())
        faint += LEAST * float((view.noise * seen).sum(1).mean())
        gain += float(sum((a.square().sum((1, 2)).mean() for a in view.matrices), torch.zeros(())))
    scale = math.sqrt(max(power, faint) / gain)
    shape = views.shapes[source]
    least = min(float(measured_variance(view).min()) for view in views) ** 0.5
    rng = stream.generator("initial", beta)
    k, size = config.components[0], math.prod(shape)
    means = scale * torch.randn(k, size, generator=rng, dtype=torch.float64) * (0.0 if k == 1 else 1.0)
    factors = scale * (1.0 if k == 1 else 0.5) * torch.eye(size, dtype=torch.float64).expand(k, -1, -1)
    return GaussianMixture(torch.ones(k), means, factors.clone(), config.floor * least, shape)
