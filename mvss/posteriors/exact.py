"""Exact joint draws under the closed-form priors, whatever else is known of them.

Small sources, under any operators, by a search of all combinations of components (`exact_mixture`); large ones, under
operators and noise that a view shares, by one factorisation for each (`shared_gaussians`), and where those would take more
memory, or nothing is shared, by a search, too.
"""

from __future__ import annotations

__all__ = ["ExactPosterior", "ExactStart", "is_small"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact_mixture import Combinations, MixturePosterior
from mvss.posteriors.posterior import Given, Posterior, Priors, Separation, unflatten
from mvss.posteriors.shared_gaussians import Factors, SharedExact
from mvss.priors.local_law import is_dense
from mvss.priors.prior import Prior
from mvss.problem.views import Draws, View
from mvss.runtime.rng import Stream


def is_small(view: View, priors: Sequence[Prior]) -> bool:
    """Whether covariances of each observation and source are affordable; under correlated noise they are of a whole view."""
    observed = view.y[0].numel()
    return view.noise.is_white and all(is_dense(math.prod(prior.shape), observed) for prior in priors)


class ExactPosterior(Posterior):
    """See the module. beam: width of the search for small sources."""

    def __init__(self, beam: int = 64, factors: Factors | None = None) -> None:
        self.beam, self.factors = beam, factors or Factors()

    def prepared(self, view: View, priors: Priors) -> Given:
        """See `Posterior`. Raises MvssError where memory does not suffice."""
        mixtures = [priors[source].mixture for source in view.operators]
        shared = None if is_small(view, mixtures) else SharedExact.of(view, mixtures, self.factors)
        return shared or _Searched(view, MixturePosterior(mixtures, beam=self.beam))


class _Searched(Given):
    """The combinations of components that matter, kept from draw to draw."""

    def __init__(self, view: View, mixtures: MixturePosterior) -> None:
        self.view, self.mixtures, self.data = view, mixtures, DenseView.of(view)
        self.search: list[tuple[slice, DenseView, Combinations]] | None = None

    @override
    def draw(self, stream: Stream, start: Draws | None = None) -> Separation:
        """See `Posterior.draw`."""
        if self.search is None:
            self.search = [(piece, part, kept.thin()) for piece, part, kept in self.mixtures.chunks(self.data)]
        flat = self.mixtures.draw(self.data, stream.child("exact"), self.view.numbers, self.search)
        discarded = max(float(part.discarded.mean()) for _, _, part in self.search)
        return Separation(unflatten(self.view, flat), discarded=discarded)


@dataclass
class ExactStart:
    """Exact draws to start from, prepared when they are first asked for: many runs are given their start."""

    exact: ExactPosterior
    view: View
    priors: Priors
    _given: Given | None = None

    def draw(self, stream: Stream) -> Draws:
        """One of each observation."""
        self._given = self._given or self.exact.prepared(self.view, self.priors)
        return self._given.draw(stream).draws
