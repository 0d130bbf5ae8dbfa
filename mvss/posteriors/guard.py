"""Draws that do not explain the observations are not kept: those that their run began from are, where they do better.

    χ² per number = rᵀ Σ⁻¹ r / n,    r = y − Σ A x of the n numbers that were measured,    1 for x ~ p({x} | y, A)

It scatters by √(2/n), whatever the correlations of the noise, which is allowed for. A run that ends in means, at noise level
σ_min, draws too narrowly: of noise ν it leaves as little as χ² = 1/(1 + σ_min²/ν²)², so that only too large a χ² speaks
against its draws.
"""

from __future__ import annotations

__all__ = ["chi2", "guarded", "unexplained"]

import math
from collections.abc import Mapping

from torch import Tensor

from mvss.metrics.fit_report import EXPLAINED
from mvss.problem.shared_view import measured
from mvss.problem.views import Draws, View

SCATTER = 3.0
"""Standard deviations of χ² by which it may leave the range, for that few numbers were measured."""


def chi2(view: View, draws: Mapping[str, Tensor]) -> float:
    """Of each number that was measured, on average."""
    seen = measured(view)
    misfit = view.noise.misfit(view.y - view.predicted(draws), seen)
    return float(misfit.sum() / seen.expand_as(view.y).sum())


def guarded(view: View, draws: Draws, start: Draws | None, narrow: bool = False) -> tuple[Draws, str | None]:
    """The draws, or those that their run began from, `start`, if it was a warm one; and a line where these are kept. narrow:
    whether the run ended in means."""
    if start is None or (new := unexplained(view, draws, narrow)) is None:
        return draws, None
    if _distance(before := chi2(view, start)) >= _distance(new):
        return draws, None
    line = f"{view.name}: chi2 per number of new draws is {new:.3g}, so those before them are kept, of {before:.3g}"
    return {source: x.to(draws[source]) for source, x in start.items()}, line


def unexplained(view: View, draws: Mapping[str, Tensor], narrow: bool = False) -> float | None:
    """χ² per number of draws that do not explain y; None of those that do. narrow: see `guarded`."""
    low, high = (-math.inf if narrow else EXPLAINED[0]), EXPLAINED[1]
    numbers = int(measured(view).expand_as(view.y).sum())
    new, slack = chi2(view, draws), SCATTER * math.sqrt(2 / max(1, numbers))
    return None if low - slack <= new <= high + slack else new


def _distance(value: float) -> float:
    """From 1, of factors; that of 0 and of what is no number is infinite."""
    return abs(math.log(value)) if 0 < value < math.inf else math.inf
