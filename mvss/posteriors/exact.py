"""Exact joint draws under the closed-form priors, whatever else is known of them.

Small sources, under any operators, by a search of all combinations of components (`exact_mixture`); large ones, under
operators and noise that a view shares, by one factorisation for each (`shared_gaussians`), and where those would take more
memory, or nothing is shared, by a search, too.
"""

from __future__ import annotations

__all__ = ["ExactPosterior", "ExactStart", "is_small"]

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact_mixture import Combinations, MixturePosterior
from mvss.posteriors.posterior import Given, Posterior, Priors, Separation, shown, unflatten
from mvss.posteriors.shared_gaussians import Factors, SharedExact, factor_bytes
from mvss.priors.local_law import is_dense
from mvss.priors.prior import Prior
from mvss.problem.shared_view import is_shared
from mvss.problem.views import Draws, View
from mvss.runtime.rng import Stream

NOMINAL = 1024
"""Observations of a view, for choices that must be the same however many there are."""


def is_small(view: View, priors: Sequence[Prior]) -> bool:
    """Whether covariances of each observation and source are affordable."""
    observed = view.y[0].numel()
    return all(is_dense(prior.mixture.dimension, observed) for prior in priors)


def _shares(view: View, priors: Sequence[Prior]) -> bool:
    """Whether the factors of a view that is shared take less than the matrices of a search. This is as if there were
    NOMINAL observations: draws must not depend on how many there are."""
    if not is_shared(view):
        return False
    observed, mixtures = view.y[0].numel(), [prior.mixture for prior in priors]
    searched = 8 * NOMINAL * observed * sum(mixture.dimension for mixture in mixtures)
    return not view.noise.is_white or factor_bytes(observed, mixtures) <= searched


class ExactPosterior(Posterior):
    """See the module. beam: width of the search for small sources."""

    def __init__(self, beam: int = 64, factors: Factors | None = None) -> None:
        self.beam, self.factors = beam, factors or Factors()

    def given(self, view: View, priors: Priors) -> Given:
        """See `Posterior`. Raises MvssError where memory does not suffice."""
        sources = shown(view, priors)
        if is_small(view, sources) or not _shares(view, sources):
            return _Searched(view, MixturePosterior([p.mixture for p in sources], beam=self.beam))
        return SharedExact(view, sources, self.factors)


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
        self._given = self._given or self.exact.given(self.view, self.priors)
        return self._given.draw(stream).draws
