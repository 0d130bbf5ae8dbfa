"""Observations that no network learns from, the first ones of each view: by them it is judged what networks have learned."""

from __future__ import annotations

__all__ = ["held_out", "held_out_count", "learned_from"]

import torch

from mvss.problem.views import View, Views


def held_out_count(observations: int, share: float) -> int:
    """How many of a view those are."""
    return int(observations * share)


def held_out(views: Views, share: float, device: torch.device) -> list[View]:
    """Those of each view; of a view where that is none, its first one all the same."""
    return [view.select(torch.arange(max(1, held_out_count(len(view), share)))).to(device) for view in views]


def learned_from(views: Views, share: float) -> Views:
    """The other observations of each view."""
    return Views([view.select(torch.arange(held_out_count(len(view), share), len(view))) for view in views])
