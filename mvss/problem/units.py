"""Units in which every source and every view have a size of about one, so that settings mean the same everywhere.

    x = c_β x',    y = s y',    A' = A c_β / s,    η' = η / s

c_β and s are powers of two: nothing is rounded, on the way in or out. The c_β solve, with c² ≥ 0, what the spread of the
observations says,

    Var y − σ² = Σ_β g_β c_β²,     g: mean square of what A makes of numbers of size one

by least squares; where views do not tell sources apart, those share it evenly. s is what the c_β let expect of a view, so
that views with the same operators have the same s.
"""

from __future__ import annotations

__all__ = ["LEAST", "Units", "gains", "gains_of_each"]

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from mvss.problem.shared_view import measured_numbers, unmasked
from mvss.problem.views import Draws, View, Views

LEAST = 2.0**-12
"""Least power of a source, as a share of what it would have if it explained a view alone; and of a view, of its noise's."""
LOW = 0.85
"""Least size in these units."""
EVEN = 0.05
"""Weight of an even share, beside that of a view."""
TINY = torch.finfo(torch.float64).tiny
"""Least gain, where an operator is zero."""


@dataclass(frozen=True)
class Units:
    """c_β of each source, by name."""

    scales: Mapping[str, float]

    @staticmethod
    def of(views: Views) -> Units:
        """Those of the sources behind some observations."""
        told = [(_power(view), gains(view)) for view in _finest(views)]
        # what a source would have if it explained alone the view that leaves it least
        most = {s: min((p / g[s] for p, g in told if s in g), default=1.0) for s in views.sources}
        rows = [[gains.get(source, 0.0) * most[source] / power for source in views.sources] for power, gains in told]
        even = EVEN * np.eye(len(most))
        shares, _ = nnls(np.vstack([*rows, even]), np.append(np.ones(len(rows)), even.sum(0) / len(most)))
        sizes = zip(views.sources, shares.tolist(), strict=True)
        return Units({s: _power_of_two(math.sqrt(most[s] * min(1.0, max(LEAST, share)))) for s, share in sizes})

    def inward(self, view: View) -> View:
        """The view in these units, or in its own where it shows nothing of any source."""
        found = gains(view)
        shown = any(gain > TINY for gain in found.values())
        s = _power_of_two(math.sqrt(sum(g * self.scales[b] ** 2 for b, g in found.items()))) if shown else 1.0
        operators = {b: operator.scaled(self.scales[b] / s) for b, operator in view.operators.items()}
        return View(view.y / s, operators, view.noise.scaled(1 / s), view.name, view.numbers)

    def outward(self, draws: Mapping[str, Tensor]) -> Draws:
        """Draws of sources in the units of the user."""
        return {source: self.scales[source] * x for source, x in draws.items()}


def _finest(views: Views) -> list[View]:
    """Those that show some source in as many numbers as any view does: averages spread less."""
    sizes = [view.y[0].numel() for view in views]
    most = {source: max(sizes[a] for a in views.showing([source])) for source in views.sources}
    return [view for view, size in zip(views, sizes, strict=True) if any(size == most[s] for s in view.sources)]


def _power(view: View) -> float:
    """Variance of what was measured, about its mean over observations, less that of the noise."""
    y, here = measured_numbers(view)
    seen, noise = here.to(y), view.noise.variance(y).where(here, 0.0)
    mean = y.sum(0) / seen.sum(0).clamp_min(1.0) if len(view) > 1 else torch.zeros_like(y[0])
    excess = (y - mean).square() - noise
    return max(float((seen * excess).sum() / seen.sum()), LEAST * float(noise.sum() / seen.sum()))


def gains(view: View) -> dict[str, float]:
    """g of each source, by its operator without a mask: for numbers that vary by themselves, or all together."""
    return {source: float(found) for source, found in _gains(view, (0, 1)).items()}


def gains_of_each(view: View) -> dict[str, Tensor]:
    """The same of the operator of each observation, `(N,)`."""
    return {source: found.expand(len(view)) for source, found in _gains(view, (1,)).items()}


def _gains(view: View, over: tuple[int, ...]) -> dict[str, Tensor]:
    """Means over the observations (0) and the numbers of each (1)."""
    found = {}
    for source, operator in zip(view.sources, unmasked(view)[1], strict=True):
        ones = view.y.new_ones(operator.count or 1, *operator.source_shape, dtype=torch.float64)
        each, together = operator.power(ones), operator.forward(ones).square()
        found[source] = torch.maximum(*(x.flatten(1).mean(over) for x in (each, together)))
    return {source: gain.clamp_min(TINY) for source, gain in found.items()}


def _power_of_two(value: float) -> float:
    """The one of which a value is LOW to 2 LOW times as much."""
    return 2.0 ** math.floor(math.log2(value / LOW)) if value > 0 else 1.0
