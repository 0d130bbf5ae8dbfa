"""One way to run and score a recipe on a problem (those of the baselines: `experiments.core.baselines`).

first priors (shared by the methods that ask for the same) → `SourceSeparator.fit` → separate fresh observations → scores
"""

from __future__ import annotations

__all__ = ["estimate_of", "load_model", "run_job"]

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from experiments.core.config import Job
from experiments.core.scores import Record, Scorer
from experiments.core.task import Task
from mvss.em import Lap
from mvss.estimation import Estimate, estimate_sources
from mvss.priors.training import default_accelerator
from mvss.problem.operators import Identity
from mvss.problem.views import Draws, View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text
from mvss.runtime.memory import PeakMemory
from mvss.runtime.rng import Stream
from mvss.separator import FitEvent, SourceSeparator

PARTS = {"first draws": (0.4, 0.4), "laps": (0.4, 0.75), "choice": (0.75, 0.8), "last draws": (0.8, 0.85)}
"""Where phases of the fit lie in the whole of a job."""


def run_job(
    job: Job,
    task: Task,
    folder: Path,
    append: Callable[[Record], None],
    progress: Callable[[float, str], None],
    shared: Path,
) -> dict[str, NDArray[Any]]:
    """Fit, run and score; everything that a resumed run needs is kept in `folder`. Returns arrays for the figures.

    append: takes every record. progress: takes the fraction done, and the phase that is on. shared: file of first priors,
    which jobs share.
    """
    recipe, memory = job.recipe, PeakMemory()
    task = fewer(task, recipe.share)
    views = clean_views(task) if recipe.clean else task.train
    estimate = estimate_of(job, task, views, shared, lambda done: progress(0.4 * done, "first priors"))
    for key, value in estimate.evidence.items():
        append({"source": "mean", "metric": f"fit_{key}", "split": "train", "lap": None, "value": value, "samples": 1})
    stream = Stream(job.seed, (job.problem,))
    score = Scorer(job, task, task.train.sources, stream.child("score"), append)
    kept = _Kept(score)

    def on_event(event: FitEvent) -> None:
        if event.lap is not None:
            kept.lap(event.lap, scored=not recipe.clean)
        low, high = PARTS[event.phase]
        progress(low + (high - low) * event.done, event.phase)

    model = SourceSeparator(recipe.settings)
    model.fit(views, stream, folder, on_event, estimate, verbose=False)
    kept.end(model.kept)
    networked = recipe.settings.prior.network is not None
    draws: list[Draws] = model.draws
    if recipe.clean:
        draws = [single(model, view, stream.child("mixtures", alpha)) for alpha, view in enumerate(task.train)]
    progress(PARTS["last draws"][1], "scores")
    fresh = score.final(model, draws)
    if networked:
        score.memory(model, draws, fresh)
    _left_out(score, model)
    _costs(score, task, estimate, kept, memory.gib())
    model.save_pretrained(folder / "separator")
    atomic_write_text(folder / "report.txt", f"{model.report}\n")
    progress(1.0, "scores")
    return score.saved


class _Kept:
    """What the laps so far have left, in the separator's own checkpoint: a resumed run must report the same."""

    def __init__(self, score: Scorer) -> None:
        self.score, self.clock = score, Clock()
        self.laps, self.evaluations, self.seconds = 0, 0, 0.0

    def lap(self, lap: Lap, scored: bool) -> None:
        """Score a lap, the clock standing still, and keep what there is."""
        self._read(lap.kept)
        if scored:
            self.score.lap(lap)
        arrays = {name: torch.from_numpy(array) for name, array in self.score.saved.items()}
        about = {"laps": lap.number, "evaluations": lap.record["network_evaluations"], "seconds": self.seconds}
        lap.kept.update(arrays=arrays, **about)
        self.clock.restart()

    def end(self, kept: Mapping[str, Any]) -> None:
        """After the last lap."""
        self._read(kept)

    def _read(self, kept: Mapping[str, Any]) -> None:
        """What was kept before, also by another process; and what has been spent since."""
        self.laps, self.evaluations = kept.get("laps", 0), kept.get("evaluations", 0)
        self.seconds = kept.get("seconds", 0.0) + self.clock.restart()
        self.score.saved = {name: array.numpy() for name, array in kept.get("arrays", {}).items()} | self.score.saved


class Clock:
    """Seconds since it was last started."""

    def __init__(self) -> None:
        self.since = time.monotonic()

    def restart(self) -> float:
        """From zero again; what it has shown."""
        spent = time.monotonic() - self.since
        self.since += spent
        return spent


def single(model: SourceSeparator, view: View, stream: Stream) -> Draws:
    """One draw of each observation."""
    return {source: x[0] for source, x in model.separate(view, 1, stream).items()}


def _left_out(score: Scorer, model: SourceSeparator) -> None:
    """What the posterior could not keep: covariances that networks made negative, in the last lap, and combinations."""
    assert model.report is not None
    if model.report.laps:
        score.add("mean", "clamped_share", model.report.laps[-1].clamped, 1)
    score.add("mean", "discarded_share", model.report.discarded, 1)


def _costs(score: Scorer, task: Task, estimate: Estimate, kept: _Kept, gib: float) -> None:
    observations = sum(len(view) for view in task.train)
    score.add("mean", "network_evaluations", kept.evaluations / observations, observations)
    score.add("mean", "laps", kept.laps, 1)
    score.add("mean", "wall_seconds", estimate.seconds + kept.seconds, 1)
    score.add("mean", "peak_memory_gib", gib, 1)


def estimate_of(job: Job, task: Task, views: Views, path: Path, progress: Callable[[float], None] = lambda _: None) -> Estimate:
    """First priors of a job, made once for all that ask for the same."""
    if job.recipe.truth:
        return Estimate(dict(zip(task.train.sources, task.exact_priors(), strict=True)))
    how, stream = job.recipe.settings, Stream(job.seed, (job.problem, "fit"))
    return estimate_sources(views, how.estimation, stream, progress, path, how.em.held_out)


def load_model(job: Job, folder: Path) -> SourceSeparator:
    """A fitted method, as it separates new observations. folder: of the finished job that has fitted it (`Job.fitted`)."""
    model = SourceSeparator.from_pretrained(folder / "separator").to(default_accelerator().device)
    other = job.recipe.settings.separation if job.recipe.fit else None
    return model if other is None else model.separating_by(other)


def fewer(task: Task, share: float) -> Task:
    """The task with the first observations of each view, a share of all."""
    if share == 1:
        return task
    part, rows = copy.copy(task), [slice(math.ceil(share * len(view))) for view in task.train]
    part.train = task.train.select(rows)
    known = zip(task.train_truth, rows, strict=True)
    part.train_truth = [[None if x is None else x[r] for x in truth] for truth, r in known]
    return part


def clean_views(task: Task) -> Views:
    """One view of each source alone, as the training observations hold it, under the least noise of theirs."""
    least = min(float(view.noise.variance(view.y).min()) for view in task.train) ** 0.5
    views = []
    for beta, (source, shape) in enumerate(task.train.shapes.items()):
        showing: Sequence[int] = task.train.showing([source])
        known = [truth for a in showing if (truth := task.train_truth[a][beta]) is not None]
        if len(known) < len(showing):
            raise MvssError(f"clean: nobody knows {source} of these observations; leave it out")
        views.append(View(torch.cat(known), {source: Identity(shape)}, least, f"{source} alone"))
    return Views(views)
