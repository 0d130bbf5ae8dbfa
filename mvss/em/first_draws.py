"""Where EM begins: exact joint draws under mixtures, and estimates of sources where pairs of views told them."""

from __future__ import annotations

__all__ = ["FirstDraws", "first_draws"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvss.posteriors.exact import ExactPosterior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.views import Draws, Views
from mvss.runtime.rng import Stream


@dataclass(frozen=True)
class FirstDraws:
    """draws: of each view. better: of sources whose first draws are better in some views, those views, by number: their first
    M-step is on these alone. discarded: share of probability that the search of the mixtures left out, of the worst view."""

    draws: list[Draws]
    better: Mapping[str, Sequence[int]] = field(default_factory=dict)
    discarded: float = 0.0


def first_draws(
    views: Views,
    mixtures: Mapping[str, GaussianMixture],
    told: Mapping[str, Mapping[int, Tensor]],
    posterior: ExactPosterior,
    stream: Stream,
    device: torch.device,
    progress: Callable[[float], None],
) -> FirstDraws:
    """One exact posterior draw under the mixtures for every observation; estimates of sources in their place, and what they
    leave of y as the draw of the other source, where there is one.

    told: estimates `(N, *shape)`, by source and number of the view. posterior: how the draws are made, on `device`.
    """
    first, discarded = list[Draws](), 0.0
    for alpha, view in enumerate(views):
        found = posterior.draw(view.to(device), mixtures, stream.child(alpha))
        first.append({source: x.to(view.y.device) for source, x in found.draws.items()})
        discarded = max(discarded, found.discarded)
        progress((alpha + 1) / len(views))
    for source, by_view in told.items():
        for alpha, x in by_view.items():
            view = views[alpha]
            first[alpha][source] = x
            others = [other for other in view.sources if other != source]
            if len(others) == 1:
                left = view.without(source, x)
                first[alpha][others[0]] = left.operators[others[0]].pseudo_inverse(left.y)
    return FirstDraws(first, {source: list(by_view) for source, by_view in told.items()}, discarded)
