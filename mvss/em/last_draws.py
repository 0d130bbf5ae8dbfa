"""Where EM ends: draws of the observations as new ones are separated."""

from __future__ import annotations

__all__ = ["held_out", "last_draws", "learned_from"]

from collections.abc import Callable, Sequence

import torch

from mvss.em.steps import held_out_count
from mvss.posteriors.guard import guarded
from mvss.posteriors.posterior import Posterior, Priors
from mvss.problem.views import Draws, View, Views
from mvss.runtime.rng import Stream


def held_out(views: Views, share: float, device: torch.device) -> list[View]:
    """The observations of each view that no network learns from; of a view where that is none, its first one all the same."""
    return [view.select(torch.arange(max(1, held_out_count(len(view), share)))).to(device) for view in views]


def learned_from(views: Views, share: float) -> Views:
    """The other observations of each view."""
    return Views([view.select(torch.arange(held_out_count(len(view), share), len(view))) for view in views])


def last_draws(
    views: Views,
    draws: Sequence[Draws],
    posterior: Posterior,
    priors: Priors,
    stream: Stream,
    device: torch.device,
    progress: Callable[[float], None],
) -> tuple[list[Draws], list[str]]:
    """One joint draw of each observation of each view, which may begin at the last ones of EM, `draws`; a line where those are
    kept. device: where the draws are made."""
    last, lines = [], []
    for alpha, (view, start) in enumerate(zip(views, draws, strict=True)):
        inner = view.to(device)
        found = posterior.draw(inner, priors, stream.child(alpha), start)
        kept, line = guarded(inner, found.draws, found.start, found.narrow)
        last.append({source: x.to(view.y.device) for source, x in kept.items()})
        lines += [line] if line else []
        progress((alpha + 1) / len(views))
    return last, lines
