"""Images turned by quarters and mirrored: what has no upper side looks the same, and a network sees eight times as many."""

from __future__ import annotations

__all__ = ["TURNS", "turned", "turned_each"]

import torch
from torch import Tensor

TURNS = 8
"""By quarters, mirrored or not."""


def turned(x: Tensor, number: int, back: bool = False) -> Tensor:
    """Images `(…, H, W)` by one of the eight turns and mirrors, 0 to 7; or back again."""
    if back:
        return (x.flip(-1) if number >= 4 else x).rot90(-(number % 4), (-2, -1))
    x = x.rot90(number % 4, (-2, -1))
    return x.flip(-1) if number >= 4 else x


def turned_each(x: Tensor, which: Tensor) -> Tensor:
    """Images `(N, …, H, W)`, each by its own number, `(N,)`."""
    out = torch.empty_like(x)
    for number in which.unique().tolist():
        rows = (which == number).nonzero().squeeze(1).to(x.device)
        out[rows] = turned(x[rows], number)
    return out
