"""Split Gibbs: sources that explain y, and sources that their priors like, brought together.

    z ~ p(z | x, y) ∝ N(y; Σ_β A^β z^β, Σ) Π_β N(z^β; x^β, ρ_β² I)     all sources at once (`likelihood_step`)
    x^β ~ p(x | x + ρ_β ε = z^β)                                       the prior's own reverse diffusion from σ = ρ_β

in turn, at levels of ρ that fall. At one level x has in the end the posterior under noise Σ + Σ_β ρ_β² A^β A^βᵀ, which is
the true one as ρ → 0 (Vono et al. 2019; with diffusion priors Bouman & Buzzard 2023, Wu et al. 2024, arXiv 2405.18782, Xu & Chi
2024). No Jacobian and no covariance of a network is asked for; any linear operators, noise and number of sources will do.

ρ_β is in proportion to 1 / gain of A^β, so that all sources add equal noise to y. A source whose prior is one Gaussian is not
split: it is drawn with the others' z, and after the last level once more given their x.
"""

from __future__ import annotations

__all__ = ["SplitGibbs", "levels_of", "split_of"]

import math
from dataclasses import replace

import torch
from torch import Tensor

from mvss.posteriors.likelihood_step import LikelihoodStep
from mvss.posteriors.moment_matching import joined
from mvss.posteriors.posterior import Posterior, Priors, Separation
from mvss.presets.posterior import SplitGibbsConfig
from mvss.problem.units import gains_of_each
from mvss.problem.views import Draws, View
from mvss.runtime.memory import in_chunks
from mvss.runtime.rng import Stream

FREE = 1e9
"""Spreads of a source at which ρ leaves it to its prior: more would overflow."""
LOWER = ": chains end with draws from the priors at ρ far above the noise: lower posterior.last, with more posterior.rounds"
"""Advice where all sources are split. Where one is a Gaussian, that takes up what ρ leaves."""


class SplitGibbs(Posterior):
    """See the module. Chains begin from no draw: what is given as a start is not looked at."""

    def __init__(self, config: SplitGibbsConfig | None = None) -> None:
        self.config = config or SplitGibbsConfig()

    def prepared(self, view: View, priors: Priors) -> _Chains:
        """See `Posterior`."""
        return _Chains(self.config, view, priors)


class _Chains:
    def __init__(self, config: SplitGibbsConfig, view: View, priors: Priors) -> None:
        self.config, self.view, self.priors = config, view, priors
        self.split = split_of(view, priors)
        self.gaussians = {source: priors[source].mixture for source in view.sources if source not in self.split}
        self.levels, self.step = levels_of(config, view, priors), LikelihoodStep(view, self.gaussians, config.solver)

    def draw(self, stream: Stream, start: Draws | None = None) -> Separation:  # noqa: ARG002 - see SplitGibbs
        """See `Posterior.draw`."""
        size = min(self.config.chunk, self.step.chunk)
        found = joined(in_chunks(lambda rows: self._run(rows, stream), len(self.view), size))
        return replace(found, advice="" if self.gaussians else LOWER)

    def _run(self, rows: slice, stream: Stream) -> Separation:
        config, step, evaluations = self.config, self.step.select(rows), 0
        view = step.view
        x = {source: self._mean(view, source) for source in self.split}
        for number, level in enumerate(self.levels):
            rho = {source: of_each[rows] for source, of_each in level.items()}
            for again in range(config.rounds):
                keyed = stream.child("split", number, again)
                z = step.draw(x, rho, keyed)
                for place, source in enumerate(self.split):
                    prior, by_source = self.priors[source], keyed.child(place)
                    x[source] = prior.draw_given(z[source], rho[source], by_source, view.numbers, config.steps)
                    evaluations += config.steps if prior.network is not None else 0
        left = view
        for source in self.split:
            left = left.without(source, x[source])
        if left.operators:
            last = LikelihoodStep(left, self.gaussians, config.solver)
            x |= last.draw({}, {}, stream.child("split", "last"))
            step.residual = max(step.residual, last.residual)
        return Separation({source: x[source] for source in view.sources}, evaluations, residual=step.residual)

    def _mean(self, view: View, source: str) -> Tensor:
        """Of the prior, for each observation."""
        mean = self.priors[source].mixture.mean.to(view.y)
        return mean.expand(len(view), *mean.shape)


def levels_of(config: SplitGibbsConfig, view: View, priors: Priors) -> list[dict[str, Tensor]]:
    """ρ `(N,)` of each source that is split, in its units, at each level: what they add to y falls from `first` to `last` times
    what the prior of some source does. One that an observation does not show is as good as free there."""
    split = split_of(view, priors)
    if not split:
        return []
    gain = {source: g.sqrt() for source, g in gains_of_each(view).items()}
    most = torch.stack([gain[source] * priors[source].mixture.spread for source in split]).amax(0)
    shares = torch.logspace(math.log10(config.first), math.log10(config.last), config.levels, dtype=most.dtype)
    widest = {source: FREE * priors[source].mixture.spread for source in split}
    return [{s: (float(share) * most / gain[s]).clamp_max(widest[s]) for s in split} for share in shares]


def split_of(view: View, priors: Priors) -> list[str]:
    """The sources whose prior is more than one Gaussian."""
    return [source for source in view.sources if priors[source].network is not None or len(priors[source].mixture) > 1]
