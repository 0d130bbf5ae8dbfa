"""Where EM ends: draws of the observations as new ones are separated."""

from __future__ import annotations

__all__ = ["last_draws"]

from collections.abc import Callable, Sequence

import torch

from mvss.posteriors.guard import guarded
from mvss.posteriors.posterior import Posterior, Priors
from mvss.problem.views import Draws, Views
from mvss.runtime.rng import Stream


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
    kept, or draws were not solved for. device: where the draws are made."""
    last, lines = [], list[str]()
    for alpha, (view, start) in enumerate(zip(views, draws, strict=True)):
        inner = view.to(device)
        found = posterior.draw(inner, priors, stream.child(alpha), start)
        kept, line = guarded(inner, found.draws, found.start, found.narrow)
        last.append({source: x.to(view.y.device) for source, x in kept.items()})
        lines += filter(None, (line, found.unsolved(view)))
        progress((alpha + 1) / len(views))
    return last, lines
