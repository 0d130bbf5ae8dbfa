"""Units in which every source and every view have a size between one and two, so that settings mean the same everywhere.

    x = c_β x',    y = s y',    A' = A c_β / s,    η' = η / s

c_β and s are powers of two: nothing is rounded, on the way in or out. The c_β solve, with c² ≥ 0, what the power of the
observations says,

    mean y² − σ² = Σ_β g_β c_β²,     g: mean square of what A makes of numbers of size one

and s is what they let expect of a view, so that views with the same operators have the same s.
"""

from __future__ import annotations

__all__ = ["Units"]

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from mvss.problem.operators import LinearOperator
from mvss.problem.shared_view import unmasked
from mvss.problem.views import Draws, View, Views

LEAST = 2.0**-12
"""Least power of a source, as a share of what it would have if it explained a view alone."""


@dataclass(frozen=True)
class Units:
    """c_β of each source, by name."""

    scales: Mapping[str, float]

    @staticmethod
    def of(views: Views) -> Units:
        """Those of the sources behind some observations."""
        rows, powers, most = [], [], dict.fromkeys(views.sources, math.inf)
        for view in views:
            power, gains = _power(view), _gains(view)
            if not power > 0:
                continue
            rows.append([gains.get(source, 0.0) / power for source in views.sources])
            powers.append(power)
            for source, gain in gains.items():
                most[source] = min(most[source], power / gain)
        if not rows:
            return Units(dict.fromkeys(views.sources, 1.0))
        usual = _power_of_two(max(powers))  # what the solver takes for small must not depend on the units
        squares, _ = nnls(np.array(rows) * usual, np.ones(len(rows)))
        found = {}
        for source, square in zip(views.sources, squares.tolist(), strict=True):
            bound = most[source] if math.isfinite(most[source]) else 1.0
            found[source] = _power_of_two(math.sqrt(min(bound, max(square * usual, LEAST * bound))))
        return Units(found)

    def inward(self, view: View) -> View:
        """The view in these units."""
        s = _power_of_two(math.sqrt(sum(g * self.scales[b] ** 2 for b, g in _gains(view).items())))
        operators = {b: operator.scaled(self.scales[b] / s) for b, operator in view.operators.items()}
        return View(view.y / s, operators, view.noise.scaled(1 / s), view.name, view.numbers)

    def outward(self, draws: Mapping[str, Tensor]) -> Draws:
        """Draws of sources in the units of the user."""
        return {source: self.scales[source] * x for source, x in draws.items()}

    def inward_draws(self, draws: Mapping[str, Tensor]) -> Draws:
        """Draws of sources in these units."""
        return {source: x / self.scales[source] for source, x in draws.items()}


def _power(view: View) -> float:
    """Mean square of what was measured, less that of its noise."""
    mask, _ = unmasked(view)
    excess = view.y.square() - view.noise.variance(view.y)
    return float(excess.mean() if mask is None else excess[mask.expand_as(excess)].mean())


def _gains(view: View) -> dict[str, float]:
    """g of each source, by its operator without a mask: for numbers that vary by themselves, or all together."""
    return {source: _gain(operator) for source, operator in zip(view.sources, unmasked(view)[1], strict=True)}


def _gain(operator: LinearOperator) -> float:
    ones = torch.ones(operator.count or 1, *operator.source_shape, dtype=torch.float64)
    each, together = operator.power(ones).mean(), operator.forward(ones).square().mean()
    return float(torch.maximum(each, together).clamp_min(torch.finfo(torch.float64).tiny))


def _power_of_two(value: float) -> float:
    """The largest that is not above a value."""
    return 2.0 ** math.floor(math.log2(value)) if value > 0 else 1.0
