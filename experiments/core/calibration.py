"""Is the width of a method's posterior draws right? Coverage and ranks on fresh observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.core.config import Job
from experiments.core.task import Model, Task
from mvss.metrics.calibration import informed_references, rank_statistics, tarp_coverage
from mvss.posteriors.dense import DenseView
from mvss.problem.views import Draws, View
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
    shown = [task.train.sources.index(source) for source in task.fresh[alpha].sources]
    return [b + 1 for b in shown if task.fresh_truth[alpha][b] is None]


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
    whole = task.fresh[alpha]
    view = whole.select(torch.arange(min(observations, len(whole))))
    among = [source for source in view.sources if source in model.sources]
    if unknown := unknown_sources(task):
        raise MvssError(f"calibration needs the truth of sources {unknown} of {job.problem}, which nobody knows: leave it out")
    known = dict(zip(task.train.sources, task.fresh_truth[alpha], strict=True))
    true = {source: x[: len(view)] for source in among if (x := known[source]) is not None}
    truth = torch.cat([x.flatten(1) for x in true.values()], dim=1)
    found = model.separate(view, draws, stream, progress)
    references = informed_references(_estimate(view, among), 0.5, Stream(job.seed, (job.problem, "references")).generator())
    levels, stacked = (
        torch.linspace(0, 1, 51, dtype=torch.float64),
        torch.cat([found[source].flatten(2) for source in among], dim=2),
    )
    coverage = tarp_coverage(stacked, truth, references, levels)
    misfit_ranks = torch.empty(0)
    if len(among) == len(view.sources):
        each = [{source: x[number] for source, x in found.items()} for number in range(draws)]
        misfits = torch.stack([_misfit(view, parts) for parts in each])
        misfit_ranks = rank_statistics(misfits, _misfit(view, true))
    return Calibration(levels, coverage, rank_statistics(stacked, truth), misfit_ranks, len(view), draws)


def _estimate(view: View, among: Sequence[str]) -> Tensor:
    """A⁺ y of these sources, side by side, `(N, D)`."""
    dense = DenseView.of(view)
    inverse = torch.linalg.pinv(torch.cat(dense.matrices, dim=-1))
    parts = torch.einsum("ndm,nm->nd", inverse, dense.y).split([a.shape[-1] for a in dense.matrices], dim=1)
    return torch.cat([part for source, part in zip(view.sources, parts, strict=True) if source in among], dim=1)


def _misfit(view: View, draws: Draws) -> Tensor:
    """‖y − Σ A x‖² of each observation, `(N,)`."""
    return (view.y - view.predicted(draws)).square().flatten(1).sum(1)
