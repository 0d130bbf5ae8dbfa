"""Bins of galaxies by magnitude (flux, where there is none) and by the share of their neighbours in the light.

    mag<21.5,blend>0.3      brighter than 21.5, and 30 % or more of the light is their neighbours'

A bin of fewer than LEAST galaxies is joined with the next, the last with that before; its name has the range that this makes.
Each galaxy is in one bin; fewer than LEAST in all have none.
"""

from __future__ import annotations

__all__ = ["BLENDING", "LEAST", "MAGNITUDES", "brightness", "cells"]

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.galaxies.data.stamps import Stamps

LEAST = 50
MAGNITUDES = (21.5, 22.0, 22.5, 23.0, 23.5)
BLENDING = (0.1, 0.3)
QUANTILES = (0.2, 0.4, 0.6, 0.8)
"""Of fluxes, where galaxies have no magnitudes."""


def brightness(stamps: Stamps) -> tuple[str, tuple[float, ...]]:
    """The column of the catalogue that says how bright galaxies are, "magnitude" or "flux", and the edges of its bins; none
    where there is none."""
    known = stamps.catalogue
    if "magnitude" in known:
        return "magnitude", MAGNITUDES
    if "flux" in known:
        return "flux", tuple(known["flux"].quantile(known["flux"].new_tensor(QUANTILES)).tolist())
    return "", ()


def cells(stamps: Stamps) -> dict[str, Tensor]:
    """Numbers of the galaxies in each bin, `(k,)` of LEAST or more, by its name; those of less blending first."""
    column, edges = brightness(stamps)
    if not column or len(stamps) < LEAST:
        return {}
    bright, blending = stamps.catalogue[column], stamps.catalogue["blending"]
    found = {}
    for span, rows in _joined(bright, edges, "mag" if column == "magnitude" else column).items():
        for part, chosen in _joined(blending[rows], BLENDING, "blend").items():
            found[",".join(name for name in (span, part) if name)] = rows[chosen]
    return {name: rows for name, rows in found.items() if name}


def _joined(values: Tensor, edges: Sequence[float], name: str) -> dict[str, Tensor]:
    """Numbers of the values in each bin, by its name."""
    counts = torch.bucketize(values, torch.tensor(edges, dtype=values.dtype), right=True).bincount(minlength=len(edges) + 1)
    kept, inside = list[float](), 0
    for count, edge in zip(counts.tolist(), edges, strict=False):
        inside += count
        if inside >= LEAST:
            kept.append(edge)
            inside = 0
    if kept and inside + int(counts[-1]) < LEAST:
        kept.pop()
    place = torch.bucketize(values, torch.tensor(kept, dtype=values.dtype), right=True)
    ends = itertools.pairwise([None, *kept, None])
    return {_range(name, low, high): torch.nonzero(place == i).squeeze(1) for i, (low, high) in enumerate(ends)}


def _range(name: str, low: float | None, high: float | None) -> str:
    """low ≤ value < high; nothing where it has no ends."""
    if low is None:
        return "" if high is None else f"{name}<{high:.3g}"
    return f"{name}>{low:.3g}" if high is None else f"{name}{low:.3g}-{high:.3g}"
