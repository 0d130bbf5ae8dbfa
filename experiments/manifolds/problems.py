"""The problems of manifolds and surfaces: which sources each view shows, and how strongly. No implementation is imported."""

from __future__ import annotations

__all__ = ["PROBLEMS", "Problem", "problem_named"]

import difflib
from dataclasses import dataclass

from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class Problem:
    """How the views mix the sources: `mixing[α][β]` is c^{αβ}; 0 hides source β from view α.

    scored_views: the views on which separations are scored, those that show every source. surfaces: whether its sources are
    those of `surfaces`, and not curves.
    """

    name: str
    mixing: tuple[tuple[float, ...], ...]
    observed: int = 3
    separate_matrices: bool = False
    surfaces: bool = False

    @property
    def sources(self) -> int:
        return len(self.mixing[0])

    @property
    def scored_views(self) -> tuple[int, ...]:
        """The views that show every source."""
        return tuple(a for a, row in enumerate(self.mixing) if all(row))

    @property
    def target(self) -> int:
        """The newest source, with which the paper's number goes."""
        return self.sources - 1


def _contrastive(sources: int) -> Problem:
    mixing = tuple(tuple(1.0 if b <= a else 0.0 for b in range(sources)) for a in range(sources))
    return Problem(f"contrastive-{sources}", mixing)


def _mixed(name: str, fraction: float, observed: int = 3, separate_matrices: bool = False) -> Problem:
    return Problem(name, ((1.0, fraction), (fraction, 1.0)), observed, separate_matrices)


PROBLEMS = {
    problem.name: problem
    for problem in (
        _contrastive(2),
        _contrastive(3),
        _mixed("mixed-0.0", 0.0),
        _mixed("mixed-0.1", 0.1),
        _mixed("mixed-0.5", 0.5),
        _mixed("mixed-0.9", 0.9),
        _mixed("mixed-1.0-separate", 1.0, separate_matrices=True),
        _mixed("mixed-0.1-r2", 0.1, observed=2),
        # Every pair of three sources. No view shows one alone, and yet all are known: the law of y under all matrices gives
        # that of each sum, and log characteristic functions of three sums of two give those of the three.
        Problem("surfaces", ((1.0, 1.0, 0.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0)), observed=5, surfaces=True),
    )
}


def problem_named(name: str) -> Problem:
    """The problem of that name."""
    if name not in PROBLEMS:
        close = difflib.get_close_matches(name, PROBLEMS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise MvssError(f"unknown problem {name!r}; {hint}known: {', '.join(PROBLEMS)}")
    return PROBLEMS[name]
