"""Jobs in worker processes, a few at a time: what is killed goes on where it was."""

from __future__ import annotations

__all__ = ["code_label", "forecast", "run_all", "workers_of"]

import io
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.core.cache import received, work_of
from experiments.core.config import Config, Job
from experiments.core.durations import Timer, expected_times, priors_of
from experiments.core.finished import begin, begun_with, finish, goes_on
from experiments.core.forecast import Forecast, Planned, next_of
from experiments.core.places import Experiment, estimate_path, jobs_of, key_of, kind_of, name_of, place_of, samples_of
from experiments.core.progress import Progress
from experiments.core.records import Records, environment, read_records
from experiments.core.scores import Record
from experiments.core.workers import Ended, Report, Workers, killed_is_told
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_bytes


def code_label() -> str:
    """The commit of the code, marked where the checkout differs from it, and the GPU that runs it, if one does: seconds
    on one say nothing beside seconds on a CPU."""
    found = environment()
    commit = f"{found['commit'][:12]}{'-dirty' if found['dirty'] else ''}" if found["commit"] else "unknown"
    return f"{commit} on {found['cuda_device']}" if found["cuda_device"] else commit


def run_all(experiment: Experiment, jobs: list[Job], folder: Path, expected: Forecast) -> None:
    """Run the jobs in worker processes, and show how far they are. Jobs that share first priors wait for the first of them.

    Raises the error of a job that has failed, when all others have ended but those that look at its fit.
    """
    if not jobs:
        return
    known, commit = {name_of(job): job for job in jobs}, code_label()
    waiting, running, failed = list(expected.plans.values()), dict[str, Planned](), dict[str, BaseException]()
    with Progress(expected) as progress, killed_is_told(), Workers() as pool:
        while waiting or running:
            while len(running) < expected.workers and (one := next_of(waiting, list(running.values()), Path.exists)):
                waiting.remove(one)
                running[one.name], job = one, known[one.name]
                key = key_of(experiment, job)
                progress.start(one.name, anew=begun_with(job, folder) != key)
                pool.start(one.name, _work, experiment, job, folder, key, commit)
            for name, event in pool.events(1.0):
                if isinstance(event, Ended):
                    del running[name]
                    if event.error is not None:
                        failed[name] = event.error
                        waiting = [each for each in waiting if each.fit != name]
                progress.note(name, event)
            progress.show()
    if failed:
        raise _failure(failed, len(jobs))


def _failure(failed: Mapping[str, BaseException], jobs: int) -> BaseException:
    """The first error; where there are more, or other jobs have gone on, how many and of which job."""
    name, first = next(iter(failed.items()))
    if jobs == 1 or not isinstance(first, MvssError):
        return first
    return MvssError(f"{len(failed)} of {jobs} jobs failed, first {name}: {first}")


def planned(experiment: Experiment, jobs: Iterable[Job], folder: Path) -> list[Planned]:
    """What of jobs decides on their order."""
    found = []
    for job in jobs:
        learns = job.fitted is job and not job.recipe.baseline
        priors = estimate_path(experiment, job, folder) if learns and not job.recipe.truth else None
        found.append(Planned(name_of(job), kind_of(job), name_of(job.fitted), priors))
    return found


def forecast(experiment: Experiment, preset: str, jobs: Sequence[Job], folder: Path, workers: int) -> Forecast:
    """What is known of the time that jobs will take, so many at a time."""
    times, learning = expected_times(experiment, preset, folder), list[Job]()
    for config, seed in {(id(job.config), job.seed): (job.config, job.seed) for job in jobs}.values():
        learning += jobs_of(config, [seed], ablations=True)
    priors = priors_of(experiment, learning, times, folder)
    return Forecast(planned(experiment, jobs, folder), times, priors, Path.exists, workers)


def workers_of(config: Config) -> int:
    """How many jobs run at a time."""
    # One thread a job: on arrays this small, threads that share a core with another job wait more than they work.
    return config.workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)


def _work(experiment: Experiment, job: Job, folder: Path, key: str, commit: str, report: Report) -> None:
    """One job in a worker process."""
    torch.set_num_threads(1)
    if key != key_of(experiment, job):  # a worker that starts late reads the files as they are then
        raise MvssError("the code was changed during the run: start it again")
    place = place_of(job, folder)
    timer, anew = Timer(report), not _forget_if_stale(job, folder, key)
    timer(0.0, "data")
    records = Records(place / "records.jsonl")
    count = len(read_records(records.path))
    identity = {"seed": job.seed, "problem": job.problem, "method": job.method}

    def append(record: Record) -> None:
        nonlocal count
        records.append({**identity, **record})
        begin(job, folder, key)
        count += 1

    own = received(job)  # what its key is of, and no more
    config = replace(own.config, fresh=max(own.config.fresh, own.config.audit.observations)) if own.audit else own.config
    task = experiment.task(job.problem, job.seed, config)
    looked_at = place_of(job.fitted, folder)
    saved = work_of(job)(own, task, looked_at, append, timer, estimate_path(experiment, job.fitted, folder))
    _save_arrays(samples_of(job, folder), saved)
    finish(job, folder, count, key, commit, timer.course().points if anew else ())


def _forget_if_stale(job: Job, folder: Path, key: str) -> bool:
    """Remove what was made with another key, or what has lost records, and note this one; whether anything is left to go on
    from."""
    place = place_of(job, folder)
    if goes_on(job, folder, key):
        (place / "done").unlink(missing_ok=True)
        return True
    # what looks at a method that is fitted anew is stale
    others = (each for each in jobs_of(job.config, [job.seed], ablations=True, audit=True) if each.fitted is not each)
    for path in [place, *(place_of(each, folder) for each in others if name_of(each.fitted) == name_of(job))]:
        (path / "key").unlink(missing_ok=True)  # first: what a kill leaves here is not taken for whole
        if path.exists():
            shutil.rmtree(path)
    begin(job, folder, key)
    return False


def _save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    atomic_write_bytes(path, buffer.getbuffer())
