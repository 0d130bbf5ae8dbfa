"""A method that learns nothing: it separates by what another job has learned, by another posterior or in other observations."""

from __future__ import annotations

__all__ = ["run_separation"]

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from experiments.core.config import Job
from experiments.core.run import load_model
from experiments.core.scores import Record, Scorer
from experiments.core.task import Adapting, Task
from mvss.runtime.rng import Stream


def run_separation(
    job: Job, task: Task, folder: Path, append: Callable[[Record], None], progress: Callable[[float, str], None], _shared: Path
) -> dict[str, NDArray[Any]]:
    """Arguments and result as of `run.run_job`, but folder: of the job that has fitted. Its priors are scored there."""
    model = load_model(job, folder)
    if isinstance(task, Adapting):
        task, model = task.adapted(model)
    score = Scorer(job, task, task.train.sources, Stream(job.seed, (job.problem,)).child("score"), append)
    progress(0.0, "scores")
    score.final(model, [{} for _ in task.train], priors=False)
    score.saved["observation"] = task.fresh[task.scored_views[0]].y[: job.config.metrics.saved].flatten(1).float().numpy()
    progress(1.0, "scores")
    return score.saved
