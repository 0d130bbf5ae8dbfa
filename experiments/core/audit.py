"""The two promises, looked at on a finished method: its posteriors' width, and its probability of a candidate source.

calibration   coverage and ranks of many draws for many fresh observations
candidates    log p_σ of blurred truth, x + σ z, and of points off it, x + d u + σ z with |u| = 1
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import mannwhitneyu, spearmanr
from torch import Tensor

from experiments.core.calibration import LEVELS, Calibration, calibrate, known_truth
from experiments.core.config import Job
from experiments.core.run import load_model
from experiments.core.task import Task
from mvss.metrics.calibration import coverage_error, rank_errors
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream
from mvss.separator import SourceSeparator

__all__ = ["run_audit"]


def run_audit(
    job: Job,
    task: Task,
    folder: Path,
    append: Callable[[dict[str, object]], None],
    progress: Callable[[float, str], None],
    _shared: Path,
) -> dict[str, np.ndarray]:
    """Arguments and result as of `run.run_job`, but folder: of the job that has fitted the method."""
    truths = task.exact_priors()  # first: where they are not known there is nothing to audit
    model = load_model(job, folder)
    settings, stream = job.config.audit, Stream(job.seed, (job.problem, job.method, "audit"))

    def add(source: str, metric: str, value: float, samples: int) -> None:
        append({"source": source, "metric": metric, "split": "fresh", "lap": None, "value": value, "samples": samples})

    arrays: dict[str, np.ndarray] = {}
    share = 0.9 if settings.candidates else 1.0
    alpha, rng = task.scored_views[-1], Stream(job.seed, (job.problem, "references")).generator()
    view = task.fresh[alpha].select(torch.arange(min(settings.observations, len(task.fresh[alpha]))))
    if (truth := known_truth(task, alpha, model.sources, len(view))) is None:
        raise MvssError(f"calibration needs the truth of all sources of {job.problem}, and nobody knows it: leave it out")
    draws = model.separate(
        view, settings.draws, stream.child("calibration"), lambda done: progress(share * done, "calibration")
    )
    _calibration(calibrate(view, draws, truth, rng), settings.draws, add, arrays)
    if settings.candidates:
        for source in range(len(model.sources)):
            _candidates(job, task, model, source, truths[source], add, arrays)
            progress(share + (1 - share) * (source + 1) / len(model.sources), "candidates")
    return arrays


def _calibration(
    found: Calibration, draws: int, add: Callable[[str, str, float, int], None], arrays: dict[str, np.ndarray]
) -> None:
    n = len(found.ranks)
    add("mean", "audit_coverage_error", coverage_error(found.coverage, LEVELS), n)
    add("mean", "audit_rank_error", float(rank_errors(found.ranks, draws).max()), n)
    add("mean", "audit_misfit_error", float(rank_errors(found.misfit_ranks.unsqueeze(1), draws)), n)

    def counts(ranks: Tensor) -> np.ndarray:
        return np.bincount(ranks.numpy(), minlength=draws + 1)

    arrays |= {"levels": LEVELS.numpy(), "coverage": found.coverage.numpy()}
    arrays["ranks"] = np.stack([counts(column) for column in found.ranks.T])
    arrays["misfit_ranks"] = counts(found.misfit_ranks)


def _candidates(
    job: Job,
    task: Task,
    model: SourceSeparator,
    source: int,
    law: GaussianMixture,
    add: Callable[[str, str, float, int], None],
    arrays: dict[str, np.ndarray],
) -> None:
    """Candidates are the same for every method of a problem and seed. law: the source's true one."""
    settings, rng = job.config.audit, Stream(job.seed, (job.problem, "candidates")).generator(source)
    n, size = settings.candidates, len(settings.distances)
    truth = task.sample_truth(source, n * size, rng)
    flat = truth.flatten(1)
    way, noise = (torch.randn(flat.shape, generator=rng, dtype=torch.float64) for _ in range(2))
    distance = torch.tensor(settings.distances, dtype=torch.float64).repeat_interleave(n).unsqueeze(1)
    blurred = flat + distance * way / way.norm(dim=1, keepdim=True) + settings.sigma * noise
    value = model.log_prob(model.sources[source], blurred.reshape(truth.shape), settings.sigma)
    true = law.log_prob(blurred, settings.sigma)
    name = str(source + 1)
    arrays[f"log_prob_{name}"], arrays[f"log_prob_true_{name}"] = (v.reshape(size, n).numpy() for v in (value, true))
    on = value[:n]
    add(name, "candidate_kl_nats", float((true[:n] - on).mean()), n)
    add(name, "candidate_rank_correlation", float(spearmanr(value, true).statistic), len(value))
    for k, far in enumerate(settings.distances):
        if far > 0:
            beaten = mannwhitneyu(on.numpy(), value[k * n : (k + 1) * n].numpy()).statistic / n**2
            add(name, f"candidate_auc_{far:g}", float(beaten), n)
