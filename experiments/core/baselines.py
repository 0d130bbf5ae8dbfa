"""How a baseline of `mvss.baselines` is fitted to a problem and scored: fit → separate → the scores of all methods."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import numpy as np

from experiments.core.config import Job, Recipe
from experiments.core.scores import Record, Scorer
from experiments.core.task import Model, Rivals, Task
from mvss.baselines.contrast import Method
from mvss.problem.views import Draws
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import PeakMemory
from mvss.runtime.rng import Stream

__all__ = ["make_baseline", "run_baseline"]


def run_baseline(
    job: Job, task: Task, folder: Path, append: Callable[[Record], None], progress: Callable[[float, str], None], _shared: Path
) -> dict[str, np.ndarray]:
    """Fit and score, and keep the model in `folder`. Arguments and result as of `run.run_job`."""
    stream, memory = Stream(job.seed, (job.problem, job.method)), PeakMemory()
    began = time.monotonic()
    if job.recipe.model:
        if not isinstance(task, Rivals):
            raise MvssError(f"{job.problem} has no such method: model={job.recipe.model} is for another experiment")
        model: Model = task.rival(job.recipe.model)
    else:
        model = learned = make_baseline(job.recipe)
        learned.fit(task.train, stream.child("fit"), lambda done: progress(0.8 * done, "fit"))
        learned.save(folder / "model.safetensors")
    seconds = time.monotonic() - began
    score = Scorer(job, task, model.sources, stream.child("score"), append)
    draws: list[Draws] = [{} for _ in task.train]
    for alpha in task.scored_views:
        separated = model.separate(task.train[alpha], 1, stream.child("last", alpha))
        draws[alpha] = {source: x[0] for source, x in separated.items()}
    progress(0.8, "scores")
    score.final(model, draws)
    score.add("mean", "wall_seconds", seconds, 1)
    score.add("mean", "peak_memory_gib", memory.gib(), 1)
    progress(1.0, "scores")
    return score.saved


def make_baseline(recipe: Recipe) -> Method:
    """The baseline that a recipe names, not fitted yet."""
    if (settings := recipe.pcpca or recipe.clvm) is None:
        raise MvssError("the recipe names no baseline: set pcpca or clvm")
    baseline: Method = resolve_name(settings.implementation)(settings)
    return baseline
