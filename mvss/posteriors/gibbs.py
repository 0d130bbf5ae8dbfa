"""Gibbs baseline: one source at a time, given the current draws of the others.

    x^β ← draw from p(x^β | y − Σ_{γ≠β} A^γ x^γ)        for β = 1 … S, repeated
(Heurtel-Depeiges et al. 2024, arXiv 2402.19455; here for several sources under linear mixing, paper, appendix B.)

Each conditional draw is a cold reverse-time run on a view that holds one source. Rows that wander off are neither reset nor
dropped: they are the baseline's own result.
"""

from __future__ import annotations

__all__ = ["GibbsPosterior"]

from mvss.posteriors.exact import ExactPosterior, ExactStart
from mvss.posteriors.moment_matching import Moments, joined, moments_of
from mvss.posteriors.posterior import Posterior, Priors, Separation, started
from mvss.posteriors.shared_gaussians import Factors
from mvss.presets.posterior import GibbsConfig, SamplerConfig
from mvss.priors.samplers import noised, sample
from mvss.problem.views import Draws, View
from mvss.runtime.memory import in_chunks, rows_within
from mvss.runtime.rng import Stream


class GibbsPosterior(Posterior):
    """Sweeps from given draws, or from exact ones under the closed-form priors. σ_start of the sampler should be well above
    the spread of every source."""

    def __init__(self, config: GibbsConfig | None = None) -> None:
        self.config, self.factors = config or GibbsConfig(), Factors()
        self.exact = ExactPosterior(self.config.beam, self.factors)

    def prepared(self, view: View, priors: Priors) -> _Sweeps:
        """See `Posterior`."""
        return _Sweeps(self, view, priors)


class _Sweeps:
    def __init__(self, posterior: GibbsPosterior, view: View, priors: Priors) -> None:
        self.posterior, self.view, self.priors = posterior, view, priors
        self.exact = ExactStart(posterior.exact, view, priors)

    def draw(self, stream: Stream, start: Draws | None = None) -> Separation:
        """See `Posterior.draw`."""
        view = self.view
        if start is None:
            start = self.exact.draw(stream)
        begin = started(view, start)

        def work(rows: slice) -> Separation:
            return self._run(view.select(rows), {s: x[rows] for s, x in begin.items()}, stream)

        return joined(in_chunks(work, len(view), self.posterior.config.chunk))

    def _run(self, view: View, x: Draws, stream: Stream) -> Separation:
        config, evaluations, residual = self.posterior.config, 0, 0.0
        for sweep in range(config.rounds):
            for beta, source in enumerate(view.sources):
                alone = view
                for other in view.sources:
                    alone = alone if other == source else alone.without(other, x[other])
                factors, keyed = self.posterior.factors, stream.child("gibbs", sweep, beta)
                moments = moments_of(alone, [self.priors[source]], config.components, factors, config.sampler)
                found = _conditional(alone, source, moments, config.sampler, keyed)
                x[source], evaluations = found.draws[source], evaluations + found.evaluations
                residual = max(residual, found.residual)
        return Separation(x, evaluations, residual=residual)


def _conditional(alone: View, source: str, moments: Moments, sampler: SamplerConfig, stream: Stream) -> Separation:
    """A cold run of the one source that a view shows."""
    like = alone.y.new_zeros(len(alone), *alone.shapes[source])
    (noise,) = noised([like], sampler.sigma_start, stream, alone.numbers)

    def work(rows: slice) -> Separation:
        part = moments.select(rows)
        (x,) = sample(part, [noise[rows]], sampler, stream, alone.numbers[rows])
        return Separation({source: x}, part.evaluations, residual=part.residual)

    return joined(in_chunks(work, len(alone), rows_within(moments.row_bytes)))
