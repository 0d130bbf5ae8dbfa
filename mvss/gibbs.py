"""Gibbs baseline: one source at a time, given the current draws of the others.

    x^β ← draw from p(x^β | y − Σ_{γ≠β} A^γ x^γ)        for β = 1 … S, repeated
(Heurtel-Depeiges et al. 2024, arXiv 2402.19455; here for several sources under linear mixing, paper, appendix B.)

Each conditional draw is a cold reverse-time run on a view that holds one source. Rows that wander off are neither reset nor
dropped: they are the baseline's own result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mvss.denoisers import Denoiser
from mvss.mixture_posterior import DenseView
from mvss.posterior import JointPosterior
from mvss.rng import Stream
from mvss.samplers import SamplerConfig, noised, sample

__all__ = ["gibbs_sample"]


def gibbs_sample(
    denoisers: Sequence[Denoiser],
    data: DenseView,
    start: Sequence[Tensor],
    sampler: SamplerConfig,
    rounds: int,
    stream: Stream,
    index: Tensor,
    components: int = 1,
    on_round: Callable[[int, list[Tensor]], None] | None = None,
) -> tuple[tuple[Tensor, ...], int]:
    """Run `rounds` sweeps over the sources; return the last draws `(N, *shape_β)` and evaluations per observation.

    denoisers: of the shown sources. data: the view as matrices. start: draws to begin with, `(N, *shape_β)`.
    sampler: the run of each conditional draw; σ_start should be well above the source's own spread.
    """
    x = [s.clone() for s in start]
    evaluations = 0
    for sweep in range(rounds):
        for beta, denoiser in enumerate(denoisers):
            others = sum(
                torch.einsum("nmd,nd->nm", data.matrices[g], x[g].flatten(1)) for g in range(len(denoisers)) if g != beta
            )
            single = DenseView(data.y - others, (data.matrices[beta],), data.noise)
            posterior = JointPosterior([denoiser], single, components)
            keyed = stream.child("gibbs", sweep, beta)
            noise = noised([torch.zeros_like(x[beta])], sampler.sigma_start, keyed, index)
            x[beta] = sample(posterior, noise, sampler, keyed, index)[0]
            evaluations += posterior.evaluations
        if on_round:
            on_round(sweep + 1, x)
    return tuple(x), evaluations
