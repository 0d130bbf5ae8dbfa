"""What looks odd about observations before anything is learned from them: one number alone, an order, and an offset."""

from __future__ import annotations

__all__ = ["data_warnings", "require_varied"]

from scipy.stats import mannwhitneyu

from mvss.problem.shared_view import measured_numbers
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError

FIRST, FEWEST, CHANCE = 0.1, 10, 1e-6
"""Share of a view that is compared with the rest, how many of it there must be, and the probability of less by chance."""
FAR = 30.0
"""Offset, over the spread about it, that networks are not made for, and single precision less and less."""


def data_warnings(views: Views) -> list[str]:
    """A line for each view whose first observations, which are held out of a fit, are unlike the others (Mann and Whitney's
    test of what each measures on average), and for each whose numbers lie far from zero."""
    return [line for view in views for line in (_ordered(view), _far(view)) if line is not None]


def require_varied(view: View) -> None:
    """Raises MvssError where nothing can be learned from a view, since every measured number of it is the same."""
    y, seen = measured_numbers(view)
    numbers = y[seen]
    if not len(numbers):
        raise MvssError(f"{view.name}: no number of it is measured: look at its masks")
    if bool((numbers == numbers[0]).all()):
        value = f"every measured number is {float(numbers[0]):g}"
        raise MvssError(f"{view.name}: {value}, where noise alone would make them differ: look at its data and masks")


def _ordered(view: View) -> str | None:
    first = int(FIRST * len(view))
    if first < FEWEST:
        return None
    y, seen = measured_numbers(view)
    count = seen.flatten(1).sum(1)
    mean = y.flatten(1).sum(1) / count
    power = y.flatten(1).square().sum(1) / count - mean.square()
    for values, what in ((mean, "brightness"), (power, "contrast")):
        if mannwhitneyu(values[:first].cpu().numpy(), values[first:].cpu().numpy()).pvalue < CHANCE:
            return (
                f"{view.name}: its first observations, by which a fit is judged, differ from the others in {what}: shuffle them"
            )
    return None


def _far(view: View) -> str | None:
    y, seen = measured_numbers(view)
    mean = y.sum(0) / seen.sum(0).clamp_min(1)
    spread = float((y - mean).where(seen, 0.0).square().sum() / seen.sum()) ** 0.5
    offset = float(mean.square().mean()) ** 0.5
    if len(view) < FEWEST or not offset > FAR * spread:
        return None
    return f"{view.name}: its numbers lie {offset / spread:.0f} times their spread from zero: take the offset off first"
