"""Joint draws by reversing time with the posterior's moments at every noise level: the paper's method.

    x_t → E[x | x_t, y] or x_0 ~ p(x | x_t, y) → x_s …                        (`samplers`)

    local law p(x | x_t)                    solver of S = Σ + Σ A V Aᵀ
    components of the mixtures, or          by hand, for each observation            small sources
    one Gaussian, by explicit Jacobians
    learned variances                       conjugate gradients                      any operators
    covariances of the mixtures             one Cholesky factor for a view           operators that a view shares
    Jacobians, by products                  conjugate gradients, asked for           any operators; means only

A warm run starts from earlier draws, or exact ones under the closed-form priors, noised to σ_start: those choose the modes,
which moment matching at high noise gets wrong, and the run refines within them. Where its draws do not explain y, those
that it started from are kept (`guard`). A cold one starts from noise, as in the paper, and is kept whatever it gives.
"""

from __future__ import annotations

__all__ = ["MomentMatching", "Moments", "joined", "moments_of"]

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from mvss.posteriors.dense import DenseView
from mvss.posteriors.dense_moments import DenseMoments
from mvss.posteriors.exact import ExactPosterior, ExactStart, is_small
from mvss.posteriors.iterative_moments import JacobianMoments, LearnedMoments
from mvss.posteriors.posterior import Given, Posterior, Priors, Separation, started
from mvss.posteriors.shared_gaussians import Factors
from mvss.posteriors.shared_moments import SharedMoments
from mvss.presets.posterior import CGConfig, MomentMatchingConfig, SamplerConfig
from mvss.priors.prior import Prior
from mvss.priors.samplers import noise_levels, noised, sample
from mvss.problem.shared_view import shared_rows
from mvss.problem.views import Draws, View
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import in_chunks, rows_within
from mvss.runtime.rng import Stream


class Moments(Protocol):
    """Moments of x given x_t and y, for `samplers.sample`."""

    evaluations: int
    clamped: float
    residual: float

    @property
    def row_bytes(self) -> int:
        """Of one observation, in the products of a step."""
        ...

    def select(self, rows: slice) -> Moments:
        """Those of some of the observations."""
        ...

    def __call__(self, x_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        """Means `(N, *shape)` of each source for x_t of the same shapes and σ `(N,)`."""
        ...

    def draw(self, x_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One draw of each source."""
        ...


def moments_of(
    view: View,
    priors: Sequence[Prior],
    components: int,
    factors: Factors,
    sampler: SamplerConfig,
    solver: CGConfig | None = None,
) -> Moments:
    """Those that the sources of a view can have. priors: in the view's order. components: see `dense_local`. sampler: the run
    that they are for, at whose noise levels factorisations are kept. solver: asks for the networks' Jacobians, by products.

    Raises MvssError for large sources without learned variances, under operators or noise of each observation, and where memory
    does not suffice.
    """
    if solver is not None:
        if is_small(view, priors):
            raise MvssError("posterior.solver is for large sources, and explicit Jacobians serve these: leave it out")
        return JacobianMoments(priors, view, solver, sampler.steps)
    if any(prior.learns_variance for prior in priors):
        return LearnedMoments(priors, view)
    if is_small(view, priors):
        return DenseMoments(priors, DenseView.of(view), components)
    rows = shared_rows(view)
    if rows is None:
        size = max(prior.mixture.dimension for prior in priors)
        raise MvssError(
            f"{view.name}: sources of {size} numbers need one operator and one noise for a whole view, masks aside, "
            "networks that learn their variance, or posterior.solver"
        )
    wanted = noise_levels(sampler).to(view.y).tolist()  # as they are asked for
    return SharedMoments(priors, rows, factors.levels(view, rows, [prior.mixture for prior in priors], wanted))


class MomentMatching(Posterior):
    """See the module. Where no source has a network, draws are the exact ones."""

    def __init__(self, config: MomentMatchingConfig | None = None) -> None:
        self.config, self.factors = config or MomentMatchingConfig(), Factors()
        self.exact = ExactPosterior(self.config.beam, self.factors)

    def prepared(self, view: View, priors: Priors) -> Given:
        """See `Posterior`."""
        sources, config = [priors[source] for source in view.operators], self.config
        if config.start == "warm" and all(prior.network is None for prior in sources):
            return self.exact.prepared(view, priors)
        moments = moments_of(view, sources, config.components, self.factors, config.sampler, config.solver)
        return _Matched(view, moments, config, None if config.start == "cold" else ExactStart(self.exact, view, priors))


class _Matched:
    def __init__(self, view: View, moments: Moments, config: MomentMatchingConfig, exact: ExactStart | None) -> None:
        self.view, self.moments, self.config, self.exact = view, moments, config, exact

    def draw(self, stream: Stream, start: Draws | None = None) -> Separation:
        """See `Posterior.draw`."""
        view = self.view
        if self.exact is None:
            start = {s: view.y.new_zeros(len(view), *shape) for s, shape in view.shapes.items()}
        elif start is None:
            start = self.exact.draw(stream)
        begin = list(started(view, start).values())

        def work(rows: slice) -> Separation:
            return self._run(self.moments.select(rows), [x[rows] for x in begin], stream, view.numbers[rows])

        size = min(self.config.chunk, rows_within(self.moments.row_bytes))
        found = replace(joined(in_chunks(work, len(view), size)), few=self.config.solver is not None)
        if self.exact is None:
            return found
        narrow = self.config.sampler.method != "ancestral"
        return replace(found, start=dict(zip(view.sources, begin, strict=True)), narrow=narrow)

    def _run(self, moments: Moments, x: Sequence[Tensor], stream: Stream, index: Tensor) -> Separation:
        sampler = self.config.sampler
        for number in range(self.config.passes):
            keyed = stream.child("pass", number) if number else stream
            x = sample(moments, noised(x, sampler.sigma_start, keyed, index), sampler, keyed, index)
        draws = dict(zip(self.view.sources, x, strict=True))
        return Separation(draws, moments.evaluations, moments.clamped, moments.residual)


def joined(parts: Sequence[Separation]) -> Separation:
    """Separations of consecutive observations as one."""
    sizes = [len(next(iter(part.draws.values()))) for part in parts]
    return Separation(
        {source: torch.cat([part.draws[source] for part in parts]) for source in parts[0].draws},
        max(part.evaluations for part in parts),
        sum(part.clamped * size for part, size in zip(parts, sizes, strict=True)) / sum(sizes),
        max(part.residual for part in parts),
    )
