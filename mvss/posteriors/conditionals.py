"""What the pipeline knows of one view: exact draws under the mixtures, and the joint posterior at any noise level.

Small sources have any operators and explicit Jacobians. Large ones, such as images, have the variances that their networks have
learned, or the covariances of their mixtures, where a whole view shares operators and noise, or, by conjugate gradients, the
Jacobians of whole denoisers.
"""

from __future__ import annotations

__all__ = ["Large", "Small"]

from collections.abc import Callable, Sequence

from torch import Tensor

from mvss.posteriors.exact_mixture import Combinations, DenseView, MixturePosterior
from mvss.posteriors.gibbs import DenseConditionals, LearnedConditionals, SharedConditionals
from mvss.posteriors.jacobian_products import MatrixFreePosterior
from mvss.posteriors.learned_variance import LearnedPosterior
from mvss.posteriors.moment_matching import JointPosterior
from mvss.posteriors.shared_gaussians import SharedView
from mvss.posteriors.shared_moments import Levels, SharedPosterior
from mvss.posteriors.solvers import CGConfig
from mvss.priors.diffusion import Denoiser
from mvss.problem.shared_view import shared_rows
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream


class Small:
    """A view of small sources. components: see `JointPosterior`. beam: width of the search of the mixtures. keep: that
    search, for many draws."""

    def __init__(self, shown: Sequence[Denoiser], view: View, components: int, beam: int, keep: bool) -> None:
        self.shown, self.view, self.components = shown, DenseView.of(view), components
        self.mixtures = MixturePosterior([d.mixture for d in shown], beam=beam)
        self.keep = keep
        self.found: list[tuple[slice, DenseView, Combinations]] | None = None

    def exact(self, stream: Stream, index: Tensor) -> Sequence[Tensor]:
        """A joint draw under the mixtures alone."""
        if self.keep and self.found is None:
            self.found = list(self.mixtures.chunks(self.view))
        return self.mixtures.draw(self.view, stream, index, self.found)

    def posterior(self, rows: slice) -> JointPosterior:
        """The posterior of some of the observations."""
        return JointPosterior(self.shown, self.view.select(rows), self.components)

    def one_by_one(self, rows: slice) -> DenseConditionals:
        """The posterior of each source given the others, for some of the observations."""
        return DenseConditionals(self.shown, self.view.select(rows), self.components)


class Large:
    """A view of large sources. solver: of conjugate gradients with Jacobians; None for learned variances, or the mixtures'
    covariances where no network has learned any. levels: where the factorisations of `SharedPosterior` for a view are kept.

    Raises MvssError where observations have operators or noise of their own, and all there is are mixtures.
    """

    def __init__(
        self, shown: Sequence[Denoiser], view: View, solver: CGConfig | None, levels: Callable[[SharedView], Levels]
    ) -> None:
        self.shown, self.name = shown, view.name
        rows, learned = shared_rows(view), any(d.learns_variance for d in shown)
        if rows is None and solver is None and not learned:
            size = max(d.mixture.dimension for d in shown)
            raise MvssError(
                f"{view.name}: sources of {size} numbers need one operator and one noise for a whole view, but for "
                "a quarter of the pixels, networks that learn their variance, or posterior.solver"
            )
        self.shared = SharedPosterior(shown, rows, levels(rows)) if rows else None
        self.own: LearnedPosterior | MatrixFreePosterior | None = None
        self.conditionals: LearnedConditionals | SharedConditionals | None = None
        if solver is not None:
            self.own = MatrixFreePosterior(shown, view, solver)
        elif learned:
            self.own, self.conditionals = LearnedPosterior(shown, view), LearnedConditionals(shown, view)
        elif rows:
            self.conditionals = SharedConditionals(shown, rows)

    def exact(self, stream: Stream, index: Tensor) -> Sequence[Tensor]:
        """A joint draw under the mixtures alone."""
        if self.shared is None:
            raise MvssError(
                f"{self.name}: under operators or noise of each observation large sources have no exact first draws: "
                "give a start, or set posterior.start to cold"
            )
        return self.shared.exact().draw(stream, index)

    def posterior(self, rows: slice) -> SharedPosterior | LearnedPosterior | MatrixFreePosterior:
        """The posterior of some of the observations."""
        if self.own is not None:
            return self.own.select(rows)
        assert self.shared is not None
        return self.shared.select(rows)

    def one_by_one(self, rows: slice) -> LearnedConditionals | SharedConditionals:
        """The posterior of each source given the others, for some of the observations."""
        if self.conditionals is None:
            raise MvssError(f"{self.name}: Gibbs draws of large sources need one operator and one noise for a whole view")
        return self.conditionals.select(rows)
