"""Draws that do not explain the observations are not kept: those that their run began from are, where they do better.

    χ² per number = rᵀ Σ⁻¹ r / n,    r = y − Σ A x of the n numbers that were measured,    1 for x ~ p({x} | y, A)

Of a view it scatters by √(2/n), whatever the correlations of the noise, which is allowed for. An observation that by itself
lies where one in a million would (Wilson & Hilferty 1931: χ²/n ≈ (1 − 2/9n ± 4.75 √(2/9n))³) is judged by itself, and says
nothing of the others: one wild row must not have the draws of its view thrown away. A run that ends in means, at noise level
σ_min, draws too narrowly: of noise ν it leaves as little as χ² = 1/(1 + σ_min²/ν²)², so that only too large a χ² speaks
against its draws.
"""

from __future__ import annotations

__all__ = ["chi2", "guarded", "unexplained"]

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mvss.metrics.fit_report import EXPLAINED
from mvss.priors.prior import column
from mvss.problem.shared_view import measured
from mvss.problem.views import Draws, View

SCATTER = 3.0
"""Standard deviations of χ² by which that of a view may leave the range, for that few numbers were measured."""
WILD = 4.75
"""The same for that of one observation: of a normal law, one in a million lies as far."""
FEW = 0.1
"""Share of a view's observations up to which wild ones are judged by themselves: where there are more, the view is."""


def chi2(view: View, draws: Mapping[str, Tensor]) -> float:
    """Of each number that was measured, on average."""
    misfit, numbers = _misfits(view, draws)
    return float(misfit.sum() / numbers.sum())


def guarded(view: View, draws: Draws, start: Draws | None, narrow: bool = False) -> tuple[Draws, str | None]:
    """The draws, or those that their run began from, `start`, if it was a warm one; and a line where these are kept, of single
    observations or of all others. narrow: whether the run ended in means."""
    if start is None:
        return draws, None
    new = _misfits(view, draws)
    wild = _wild(*new, narrow)
    if (off := _off(*new, ~wild, narrow)) is None and not bool(wild.any()):
        return draws, None
    before = _misfits(view, start)
    kept = wild & (_distance(before[0] / before[1]) + math.log(2) < _distance(new[0] / new[1]))
    line = f"{view.name}: new draws do not explain {int(kept.sum())} of {len(view)} observations, which keep those before them"
    if off is not None and _distance(was := _mean(*before, ~wild)) < _distance(off):
        kept |= ~wild
        line = f"{view.name}: chi2 per number of new draws is {off:.3g}, so those before them are kept, of {was:.3g}"
    if not bool(kept.any()):
        return draws, None
    return {source: torch.where(column(kept, x), start[source].to(x), x) for source, x in draws.items()}, line


def unexplained(view: View, draws: Mapping[str, Tensor], narrow: bool = False) -> str | None:
    """A line of draws that do not explain y, as a whole or of single observations. narrow: see `guarded`."""
    misfit, numbers = _misfits(view, draws)
    wild = _wild(misfit, numbers, narrow)
    if (off := _off(misfit, numbers, ~wild, narrow)) is not None:
        return f"{view.name}: chi2 per number of draws is {off:.3g}, where draws that explain y have 1"
    if bool(wild.any()):
        worst = float((misfit / numbers)[wild].max())
        left = f"{view.name}: draws do not explain {int(wild.sum())} of {len(view)} observations"
        return f"{left} (chi2 per number up to {worst:.3g})"
    return None


def _misfits(view: View, draws: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """rᵀ Σ⁻¹ r and n of each observation, `(N,)` each."""
    seen = measured(view)
    misfit = view.noise.misfit(view.y - view.predicted(draws), seen)
    return misfit, seen.expand_as(view.y).flatten(1).sum(1)


def _range(narrow: bool) -> tuple[float, float]:
    return (0.0 if narrow else EXPLAINED[0]), EXPLAINED[1]


def _wild(misfit: Tensor, numbers: Tensor, narrow: bool) -> Tensor:
    """The few observations whose χ² leaves the range by itself, or is no number, `(N,)`."""
    (low, high), share = _range(narrow), 2 / (9 * numbers.clamp_min(1))
    least, most = ((1 - share + sign * WILD * share.sqrt()).clamp_min(0.0) ** 3 for sign in (-1, 1))
    inside = (misfit >= low * least * numbers) & (misfit <= high * most * numbers)
    wild = ~inside & (numbers > 0)
    return wild & (wild.double().mean() <= FEW)


def _off(misfit: Tensor, numbers: Tensor, among: Tensor, narrow: bool) -> Tensor | None:
    """χ² per number of some of the observations, if it leaves the range."""
    (low, high), value = _range(narrow), _mean(misfit, numbers, among)
    slack = SCATTER * math.sqrt(2 / max(1, int(numbers[among].sum())))
    return None if bool((value >= low - slack) & (value <= high + slack)) else value


def _mean(misfit: Tensor, numbers: Tensor, among: Tensor) -> Tensor:
    return misfit[among].sum() / numbers[among].sum()


def _distance(value: Tensor) -> Tensor:
    """From 1, of factors; that of 0 and of what is no number is infinite."""
    return value.log().abs().nan_to_num(math.inf, math.inf)
