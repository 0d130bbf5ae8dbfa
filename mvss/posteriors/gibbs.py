"""Gibbs baseline: one source at a time, given the current draws of the others.

    x^β ← draw from p(x^β | y − Σ_{γ≠β} A^γ x^γ)        for β = 1 … S, repeated
(Heurtel-Depeiges et al. 2024, arXiv 2402.19455; here for several sources under linear mixing, paper, appendix B.)

Each conditional draw is a cold reverse-time run on a view that holds one source. Rows that wander off are neither reset nor
dropped: they are the baseline's own result.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from mvss.posteriors.exact_mixture import DenseView
from mvss.posteriors.learned_variance import LearnedPosterior
from mvss.posteriors.moment_matching import JointPosterior
from mvss.posteriors.samplers import SamplerConfig, noised, sample
from mvss.posteriors.shared_gaussians import SharedView
from mvss.posteriors.shared_moments import SharedPosterior
from mvss.priors.diffusion import Denoiser
from mvss.problem.operators import Zero
from mvss.problem.views import View
from mvss.runtime.rng import Stream

__all__ = ["Conditionals", "DenseConditionals", "LearnedConditionals", "SharedConditionals", "gibbs_sample"]


class Conditionals(Protocol):
    """p(x^β | x_t^β, y, all other sources)."""

    def alone(self, beta: int, x: Sequence[Tensor]) -> JointPosterior | SharedPosterior | LearnedPosterior:
        """The posterior of source β, given draws `(N, *shape_γ)` of all sources; that of β itself is not looked at."""
        ...


class DenseConditionals:
    """Of small sources. denoisers: of those shown. data: the view as matrices. components: see `JointPosterior`."""

    def __init__(self, denoisers: Sequence[Denoiser], data: DenseView, components: int = 1) -> None:
        self.denoisers, self.data, self.components = denoisers, data, components

    def alone(self, beta: int, x: Sequence[Tensor]) -> JointPosterior:
        """See `Conditionals`."""
        data = self.data
        others = sum(torch.einsum("nmd,nd->nm", data.matrices[g], v.flatten(1)) for g, v in enumerate(x) if g != beta)
        single = DenseView(data.y - others, (data.matrices[beta],), data.noise)
        return JointPosterior([self.denoisers[beta]], single, self.components)


class SharedConditionals:
    """Of large sources, under operators and noise that a view shares. Factorisations are kept, over rounds as well.

    denoisers: of the sources shown.
    """

    def __init__(self, denoisers: Sequence[Denoiser], view: SharedView) -> None:
        self.view = view
        pairs = zip(denoisers, view.operators, strict=True)
        self.singles = [SharedPosterior([d], replace(view, operators=(operator,))) for d, operator in pairs]

    def select(self, rows: slice) -> SharedConditionals:
        """Those of some of the observations; factorisations are shared."""
        part = copy.copy(self)
        part.view = self.view.select(rows)
        return part

    def alone(self, beta: int, x: Sequence[Tensor]) -> SharedPosterior:
        """See `Conditionals`."""
        others = sum(self.view.image(g, v.flatten(1)) for g, v in enumerate(x) if g != beta)
        view = replace(self.view, y=self.view.y - others, operators=self.view.operators[beta : beta + 1])
        return self.singles[beta].of(view)


class LearnedConditionals:
    """Of large sources whose networks have learned their variance. denoisers: of the sources that the view shows."""

    def __init__(self, denoisers: Sequence[Denoiser], view: View) -> None:
        self.denoisers, self.view = denoisers, view

    def select(self, rows: slice) -> LearnedConditionals:
        """Those of some of the observations."""
        return LearnedConditionals(self.denoisers, self.view.select(torch.arange(len(self.view))[rows]))

    def alone(self, beta: int, x: Sequence[Tensor]) -> LearnedPosterior:
        """See `Conditionals`."""
        view, place = self.view, self.view.shown[beta]
        others = sum(view.operators[view.shown[g]].forward(v) for g, v in enumerate(x) if g != beta)
        operators = tuple(o if b == place else Zero(o.source_shape, o.observation_shape) for b, o in enumerate(view.operators))
        return LearnedPosterior([self.denoisers[beta]], replace(view, y=view.y - others, operators=operators))


def gibbs_sample(
    conditionals: Conditionals,
    start: Sequence[Tensor],
    sampler: SamplerConfig,
    rounds: int,
    stream: Stream,
    index: Tensor,
) -> tuple[tuple[Tensor, ...], int]:
    """Run `rounds` sweeps over the sources; return the last draws `(N, *shape_β)` and evaluations per observation.

    conditionals: of the shown sources. start: draws to begin with, `(N, *shape_β)`.
    sampler: the run of each conditional draw; σ_start should be well above the source's own spread.
    """
    x = [s.clone() for s in start]
    evaluations = 0
    for sweep in range(rounds):
        for beta in range(len(x)):
            posterior = conditionals.alone(beta, x)
            keyed = stream.child("gibbs", sweep, beta)
            noise = noised([torch.zeros_like(x[beta])], sampler.sigma_start, keyed, index)
            x[beta] = sample(posterior, noise, sampler, keyed, index)[0]
            evaluations += posterior.evaluations
    return tuple(x), evaluations
