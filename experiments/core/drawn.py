"""Scores of many posterior draws of each fresh observation: how near they are, and whether they know it.

What the draws say of themselves is in `mvss.metrics.spread`, `mvss.metrics.calibration`; χ² is of the observations given
what was drawn. Every method that draws goes through here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from experiments.core.calibration import LEVELS, calibrate, known_truth
from experiments.core.config import Job
from experiments.core.task import Model, Task, within_support
from mvss.metrics.calibration import coverage_error, interval_coverage, rank_errors, rank_statistics
from mvss.metrics.images import psnr
from mvss.metrics.spread import energy_score, expectation_error, spread_influences, spread_ratio
from mvss.posteriors.guard import chi2
from mvss.problem.views import Draws, View
from mvss.runtime.rng import Stream

__all__ = ["MEANS", "Drawn"]

MEANS = 8
"""Draws behind a posterior mean."""
Score = tuple[str, str, float, int]
"""Source, from "1", or "mean"; metric; value; number of observations."""


@dataclass(frozen=True)
class Drawn:
    """Draws `(K, N, *shape)` of the first fresh observations of each scored view, as they were returned."""

    job: Job
    task: Task
    views: dict[int, View]
    draws: dict[int, Draws]

    @staticmethod
    def of(model: Model, job: Job, task: Task, stream: Stream) -> Drawn:
        """As many of as many observations as the preset's metrics say."""
        metrics, views, draws = job.config.metrics, dict[int, View](), dict[int, Draws]()
        for alpha in task.scored_views:
            whole = task.fresh[alpha]
            views[alpha] = whole.select(torch.arange(min(metrics.drawn, len(whole))))
            draws[alpha] = model.separate(views[alpha], metrics.draws, stream.child(alpha))
        return Drawn(job, task, views, draws)

    def scores(self) -> Iterator[Score]:
        """Of every source whose truth is known, and of all together."""
        known, errors = 0, {alpha: torch.zeros(len(view), dtype=torch.float64) for alpha, view in self.views.items()}
        for b, name in enumerate(self.task.train.sources):
            if pairs := self.by_view(name):
                draws = torch.cat([x for x, _ in pairs.values()], dim=1)
                truth = torch.cat([x for _, x in pairs.values()])
                for metric, value in self._of_source(b, draws, truth).items():
                    yield str(b + 1), metric, value, len(truth)
                parts = spread_influences(draws, truth).split([len(x) for _, x in pairs.values()])
                for alpha, part in zip(pairs, parts, strict=True):
                    errors[alpha] += part / len(truth)
                known += 1
        if known == len(self.task.train.sources):
            # of the mean over sources, whose errors are of the same observations, and mirror each other in a sum
            error = float(torch.cat(list(errors.values())).norm()) / known
            yield "mean", "spread_ratio_standard_error", error, self._observations
        if all(set(view.sources) <= self.draws[alpha].keys() for alpha, view in self.views.items()):
            found = torch.tensor([_chi2(view, self.draws[alpha]) for alpha, view in self.views.items()])
            yield "mean", "chi2", float(self._mean(found)), self._observations
        if (coverage := self.coverage) is not None:
            # of all sources together, or, for a method that separates one of several, of that one
            every = self.task.train.sources
            drawn = [b for b, name in enumerate(every, start=1) if any(name in draws for draws in self.draws.values())]
            source = "mean" if len(drawn) == len(every) else str(drawn[-1])
            yield source, "coverage_error", coverage_error(coverage, LEVELS), self._observations

    def by_view(self, source: str) -> dict[int, tuple[Tensor, Tensor]]:
        """Draws of a source, cut to what it can be, and its truth, of each view that shows it where the truth is known."""
        pairs = {}
        for alpha, draws in self.draws.items():
            truth = known_truth(self.task, alpha, [source], len(self.views[alpha]))
            if source in draws and truth:
                pairs[alpha] = (within_support(self.task, {source: draws[source]})[source], truth[source])
        return pairs

    def _of_source(self, b: int, draws: Tensor, truth: Tensor) -> dict[str, float]:
        metrics = dict(zip(("spread_ratio", "spread_ratio_standard_error"), spread_ratio(draws, truth), strict=True))
        metrics["energy_score"] = float(energy_score(draws, truth).mean())
        metrics["posterior_mean_psnr"] = float(psnr(draws[:MEANS].mean(0), truth, self.task.data_range).mean())
        if draws.ndim == 5:  # of images: what many numbers tell is not below zero
            decibels = 10 * (self.task.data_range**2 / expectation_error(draws, truth)).log10()
            metrics["posterior_expectation_psnr"] = float(decibels.mean())
        if not bool(draws.isfinite().all()):  # ranks would not show it
            return metrics | {"coverage": math.nan, "rank_error": math.nan}
        rng = Stream(self.job.seed, (self.job.problem, "ties")).generator(b)
        ranks = rank_statistics(draws, truth, rng).flatten(1)[:, _varying(self.task, b)]
        coverage = interval_coverage(ranks, len(draws))
        return metrics | {"coverage": coverage, "rank_error": float(rank_errors(ranks, len(draws)).mean())}

    @cached_property
    def coverage(self) -> Tensor | None:
        """Expected coverage (TARP) of joint draws at `LEVELS`; None for images, whose A⁺ is large, and for unknown truth."""
        found = []
        for alpha, view in self.views.items():
            truth = known_truth(self.task, alpha, tuple(self.draws[alpha]), len(view))
            if not truth or any(len(shape) > 1 for shape in view.shapes.values()):
                return None
            rng = Stream(self.job.seed, (self.job.problem, "references")).generator(alpha)
            found.append(calibrate(view, self.draws[alpha], truth, rng).coverage)
        return self._mean(torch.stack(found))

    def _mean(self, values: Tensor) -> Tensor:
        """Over observations, of values `(views, ...)`."""
        sizes = torch.tensor([len(view) for view in self.views.values()], dtype=torch.float64)
        return torch.tensordot(sizes / sizes.sum(), values.double(), 1)

    @property
    def _observations(self) -> int:
        return sum(map(len, self.views.values()))


def _chi2(view: View, draws: Draws) -> float:
    """Per number of y, mean over draws."""
    count = len(next(iter(draws.values())))
    return sum(chi2(view, {source: x[k] for source, x in draws.items()}) for k in range(count)) / count


def _varying(task: Task, b: int) -> Tensor:
    """The numbers of a source that vary in training observations, `(D,)`: others say nothing of an interval."""
    name = task.train.sources[b]
    known = [x.flatten(1) for a in task.train.showing([name]) if (x := task.train_truth[a][b]) is not None]
    if not known:
        return torch.ones(math.prod(task.train.shapes[name]), dtype=torch.bool)
    return torch.stack([x.amax(0) for x in known]).amax(0) > torch.stack([x.amin(0) for x in known]).amin(0)
