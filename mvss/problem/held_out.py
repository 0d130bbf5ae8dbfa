"""Observations that no network learns from, the first ones of each view: by them it is judged what networks have learned."""

from __future__ import annotations

__all__ = ["ENOUGH", "held_out", "held_out_count", "learned_from"]

import torch

from mvss.problem.views import View, Views

ENOUGH = 128
"""Observations of a view that decide between posteriors, each of which separates many made of each: more take hours where
there are ten thousand, and change no decision that is clear."""


def held_out_count(observations: int, share: float) -> int:
    """How many of a view those are."""
    return int(observations * share)


def held_out(views: Views, share: float, device: torch.device, most: int | None = None) -> list[View]:
    """Those of each view, the first `most` of them; of a view where that is none, its first one all the same."""
    counts = [max(1, held_out_count(len(view), share)) for view in views]
    return [view.select(torch.arange(min(n, most or n))).to(device) for view, n in zip(views, counts, strict=True)]


def learned_from(views: Views, share: float) -> Views:
    """The other observations of each view."""
    return Views([view.select(torch.arange(held_out_count(len(view), share), len(view))) for view in views])
