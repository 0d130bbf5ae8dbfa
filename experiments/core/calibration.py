"""Is the width of a method's posterior draws right? Coverage and ranks on fresh observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.core.config import Job, Model, Task
from mvss.metrics.calibration import informed_references, rank_statistics, tarp_coverage
from mvss.posteriors.exact_mixture import DenseView
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

__all__ = ["Calibration", "calibrate", "unknown_sources"]


@dataclass(frozen=True)
class Calibration:
    """What joint posterior draws of fresh observations say of their own width.

    levels: nominal, `(M,)`. coverage: TARP's expected coverage at those, `(M,)`. ranks: of the truth among the draws, for each
    coordinate of each source, `(observations, D)`, uniform on 0 … draws where the draws follow the posterior. misfit_ranks:
    the same of ‖y − Σ A x‖², `(observations,)`; empty where the method lacks a source. observations, draws: their numbers.
    """

    levels: Tensor
    coverage: Tensor
    ranks: Tensor
    misfit_ranks: Tensor
    observations: int
    draws: int


def unknown_sources(task: Task) -> list[int]:
    """Of the newest scored view, those (from 1) whose truth nobody knows."""
    alpha = task.scored_views[-1]
    return [b + 1 for b in task.fresh.views[alpha].shown if task.fresh_truth[alpha][b] is None]


def calibrate(
    model: Model,
    task: Task,
    observations: int,
    draws: int,
    stream: Stream,
    job: Job,
    progress: Callable[[float], None] = lambda _: None,
) -> Calibration:
    """`draws` posterior draws of the first fresh `observations` of the newest scored view, against their truth. TARP's
    references depend on y (A⁺ y plus noise): others pass draws that ignore y."""
    alpha = task.scored_views[-1]
    whole = task.fresh.views[alpha]
    view = whole.select(torch.arange(min(observations, len(whole))))
    among = [b for b in view.shown if b in model.sources]
    if unknown := unknown_sources(task):
        raise MvssError(f"calibration needs the truth of sources {unknown} of {job.problem}, which nobody knows: leave it out")
    truth = torch.cat([task.fresh_truth[alpha][b][: len(view)].flatten(1) for b in among], dim=1)
    found = model.posterior_samples(view, stream, draws, progress)
    references = informed_references(_estimate(view, among), 0.5, Stream(job.seed, (job.problem, "references")).generator())
    levels, stacked = torch.linspace(0, 1, 51, dtype=torch.float64), torch.cat([x.flatten(2) for x in found], dim=2)
    coverage = tarp_coverage(stacked, truth, references, levels)
    misfit_ranks = torch.empty(0)
    if len(among) == len(view.shown):
        misfits = torch.stack([_misfit(view, parts) for parts in zip(*found, strict=True)])
        misfit_ranks = rank_statistics(misfits, _misfit(view, [task.fresh_truth[alpha][b][: len(view)] for b in among]))
    return Calibration(levels, coverage, rank_statistics(stacked, truth), misfit_ranks, len(view), draws)


def _estimate(view: View, among: Sequence[int]) -> Tensor:
    """A⁺ y of these sources, side by side, `(N, D)`."""
    dense = DenseView.of(view)
    inverse = torch.linalg.pinv(torch.cat(dense.matrices, dim=-1))
    parts = torch.einsum("ndm,nm->nd", inverse, dense.y).split([a.shape[-1] for a in dense.matrices], dim=1)
    return torch.cat([part for b, part in zip(view.shown, parts, strict=True) if b in among], dim=1)


def _misfit(view: View, sources: Sequence[Tensor]) -> Tensor:
    """‖y − Σ A x‖² of each observation, `(N,)`."""
    predicted = sum(view.operators[b].forward(x) for b, x in zip(view.shown, sources, strict=True))
    return (view.y - predicted).square().flatten(1).sum(1)
