"""What every posterior can do: joint draws of all sources that a view shows, given the observations.

{x^β} ~ p({x^β} | y, A),    p(y | {x^β}) = N(y; Σ_β A^β x^β, Σ),   x^β ~ prior β
"""

from __future__ import annotations

__all__ = ["Given", "Posterior", "Priors", "Separation", "shown", "started", "unflatten"]

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mvss.metrics.fit_report import DISCARDED, UNSOLVED
from mvss.posteriors.guard import guarded, unexplained
from mvss.priors.prior import Prior
from mvss.problem.views import Draws, View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

Priors = Mapping[str, Prior]
"""By source; those that a view does not show are not looked at."""


@dataclass(frozen=True)
class Separation:
    """One joint draw of each observation, and what it took.

    draws: `(N, *shape)` of each source that the view shows. evaluations: of networks, per observation (of the chunk with
    the most). clamped: share of covariance eigenvalues that networks had made negative, the mean over chunks of the
    largest of a run. residual: the largest relative residual of an iterative solve. discarded: share of probability
    that a search of the mixtures left out. start: joint draws that a warm run began from, which are kept where its own do
    not explain y (`guard`); None where there were none. narrow: whether the run ended in means. few: whether the solver was
    to make few iterations, whatever they leave. advice: what to do where draws do not explain y.
    """

    draws: Draws
    evaluations: int = 0
    clamped: float = 0.0
    residual: float = 0.0
    discarded: float = 0.0
    start: Draws | None = None
    narrow: bool = False
    few: bool = False
    advice: str = ""

    def unsolved(self, view: View) -> str | None:
        """A line where the solver has left too much of what it was to solve."""
        if self.few or self.residual <= UNSOLVED:
            return None
        left = f"{view.name}: a solver left {self.residual:.2g} of what it was given"
        return f"{left}: raise solver.iterations, or take another posterior"

    def unsearched(self, view: View) -> str | None:
        """A line where a search of the mixtures has left out too much."""
        if self.discarded <= DISCARDED:
            return None
        left = f"{view.name}: the search of the mixtures left out {self.discarded:.0%} of probability"
        return f"{left}, so that draws may be too narrow: raise posterior.beam"


class Given(Protocol):
    """Observations, with all that does not depend on the draw: searches, factorisations, guesses."""

    def draw(self, stream: Stream, start: Draws | None = None) -> Separation:
        """See `Posterior.draw`."""
        ...


class Posterior(ABC):
    """Joint posterior of the sources of a view under given priors."""

    def given(self, view: View, priors: Priors) -> Given:
        """The posterior of these observations, for one or many draws. Raises MvssError for a view that the priors do not fit
        (`shown`)."""
        shown(view, priors)
        return self.prepared(view, priors)

    @abstractmethod
    def prepared(self, view: View, priors: Priors) -> Given:
        """The same of a view that fits, such as part of one that was looked at."""

    def draw(self, view: View, priors: Priors, stream: Stream, start: Draws | None = None) -> Separation:
        """One joint draw of each observation. Randomness is keyed by the observations' numbers.

        start: earlier draws, for those that go on from them.
        """
        return self.given(view, priors).draw(stream, start)

    def many(
        self, view: View, priors: Priors, stream: Stream, count: int, progress: Callable[[float], None] = lambda _: None
    ) -> Draws:
        """`(count, N, *shape)` of each source: independent draws, `guarded`; a warning where those of the start are kept, draws
        do not explain y, were not solved for, or come of a search that left out too much. progress: takes the fraction done."""
        given, pieces = self.given(view, priors), []
        kept, unsolved, unsearched = list[str](), list[str](), list[str]()
        for number in range(count):
            found = given.draw(stream.child(number))
            draws, line = guarded(view, found.draws, found.start, found.narrow)
            off = None if line else unexplained(view, draws, found.narrow)
            kept += filter(None, (line, off and off + found.advice))
            unsolved += filter(None, (found.unsolved(view),))
            unsearched += filter(None, (found.unsearched(view),))
            pieces.append(draws)
            progress((number + 1) / count)
        for told in (kept, unsolved, unsearched):
            if told:
                warnings.warn(f"{told[0]} (in {len(told)} of {count} draws)", stacklevel=3)
        return {source: torch.stack([piece[source] for piece in pieces]) for source in view.sources}


def shown(view: View, priors: Priors) -> None:
    """The one place where a view is compared with what was learned.

    Raises MvssError for what is no view, for sources that have no prior, or another shape than theirs.
    """
    if not isinstance(view, View):
        raise MvssError(f"what is separated must be one mvss.View, not {type(view).__name__}")
    for source, operator in view.operators.items():
        if source not in priors:
            raise MvssError(f"{view.name} shows {source}, which was not learned: known are {', '.join(priors)}")
        if operator.source_shape != priors[source].shape:
            raise MvssError(f"{view.name}: {source} has shape {operator.source_shape}, and {priors[source].shape} in the fit")


def started(view: View, start: Draws) -> Draws:
    """Earlier draws of the sources of a view. Raises MvssError where they are not of its sources and observations."""
    for source, shape in view.shapes.items():
        if source not in start or start[source].shape != (len(view), *shape):
            found = f"of shape {tuple(start[source].shape)}" if source in start else "missing"
            raise MvssError(f"{view.name}: draws of {source} to start from are {found}, not {(len(view), *shape)}")
    return {source: start[source].to(view.y) for source in view.sources}


def unflatten(view: View, flat: list[Tensor] | tuple[Tensor, ...]) -> Draws:
    """Rows of numbers, in the order of the view's sources, as draws by name."""
    parts = zip(view.operators.items(), flat, strict=True)
    return {source: x.reshape(-1, *operator.source_shape) for (source, operator), x in parts}
