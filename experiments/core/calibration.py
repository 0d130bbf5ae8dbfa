"""Is the width of posterior draws right? Coverage and ranks of joint draws, beside the truth that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.core.task import Task
from mvss.metrics.calibration import informed_references, rank_statistics, tarp_coverage
from mvss.posteriors.dense import DenseView
from mvss.problem.views import Draws, View

__all__ = ["LEVELS", "Calibration", "calibrate", "known_truth"]

LEVELS = torch.linspace(0, 1, 51, dtype=torch.float64)
"""Nominal coverage."""


@dataclass(frozen=True)
class Calibration:
    """What joint posterior draws of fresh observations say of their own width.

    coverage: TARP's expected coverage at `LEVELS`. ranks: of the truth among the draws, for each coordinate of each source,
    `(observations, D)`, uniform on 0 … draws where the draws follow the posterior. misfit_ranks: the same of ‖y − Σ A x‖²,
    `(observations,)`; empty where the method lacks a source.
    """

    coverage: Tensor
    ranks: Tensor
    misfit_ranks: Tensor


def known_truth(task: Task, alpha: int, sources: Sequence[str], count: int) -> Draws | None:
    """Truth behind the first fresh observations of a view, of those sources that it shows; None where nobody knows one."""
    known = dict(zip(task.train.sources, task.fresh_truth[alpha], strict=True))
    truth = {source: known[source] for source in task.fresh[alpha].sources if source in sources}
    return {s: x[:count] for s, x in truth.items() if x is not None} if all(x is not None for x in truth.values()) else None


def calibrate(view: View, draws: Draws, truth: Draws, rng: torch.Generator) -> Calibration:
    """Draws `(K, N, *shape)` of small sources beside their truth `(N, *shape)`. TARP's references depend on y (A⁺ y plus
    noise, by `rng`): others pass draws that ignore y."""
    among = list(truth)
    references = informed_references(_estimate(view, among), 0.5, rng)
    stacked = torch.cat([draws[source].flatten(2) for source in among], dim=2)
    true = torch.cat([truth[source].flatten(1) for source in among], dim=1)
    coverage = tarp_coverage(stacked, true, references, LEVELS)
    misfit_ranks = torch.empty(0)
    if len(among) == len(view.sources):
        each = [{source: draws[source][number] for source in among} for number in range(len(stacked))]
        misfits = torch.stack([_misfit(view, parts) for parts in each])
        misfit_ranks = rank_statistics(misfits, _misfit(view, truth))
    return Calibration(coverage, rank_statistics(stacked, true), misfit_ranks)


def _estimate(view: View, among: Sequence[str]) -> Tensor:
    """A⁺ y of these sources, side by side, `(N, D)`."""
    dense = DenseView.of(view)
    inverse = torch.linalg.pinv(torch.cat(dense.matrices, dim=-1))
    parts = torch.einsum("ndm,nm->nd", inverse, dense.y).split([a.shape[-1] for a in dense.matrices], dim=1)
    return torch.cat([part for source, part in zip(view.sources, parts, strict=True) if source in among], dim=1)


def _misfit(view: View, draws: Draws) -> Tensor:
    """‖y − Σ A x‖² of each observation, `(N,)`."""
    return (view.y - view.predicted(draws)).square().flatten(1).sum(1)
