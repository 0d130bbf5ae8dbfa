"""Jobs in worker processes, a few at a time, with one progress bar: what is killed goes on where it was."""

from __future__ import annotations

__all__ = ["code_label", "run_all"]

import io
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.core.cache import received, work_of
from experiments.core.config import Job
from experiments.core.finished import begin, finish, goes_on
from experiments.core.places import Experiment, estimate_path, jobs_of, key_of, name_of, place_of, samples_of
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


def run_all(experiment: Experiment, jobs: list[Job], folder: Path, workers: int) -> None:
    """Run the jobs in worker processes, with one progress bar. Jobs that share first priors wait for the first of them."""
    if not jobs:
        return
    learning = [job for job in jobs if job.fitted is job and not job.recipe.baseline]
    estimates = {name_of(job): estimate_path(experiment, job, folder) for job in learning}
    # One thread a job: on arrays this small, threads that share a core with another job wait more than they work.
    workers = workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    waiting, commit = list(jobs), code_label()
    running: dict[str, Job] = {}
    with _Progress(len(jobs)) as progress, killed_is_told(), Workers() as pool:
        while waiting or running:
            while len(running) < workers and (job := _next(waiting, list(running.values()), estimates)):
                waiting.remove(job)
                running[name_of(job)] = job
                pool.start(name_of(job), _work, experiment, job, folder, key_of(experiment, job), commit)
            for name, event in pool.events(1.0):
                if isinstance(event, Ended):
                    del running[name]
                    if event.error is not None:
                        raise event.error
                progress.note(name, event, running)
            progress.show()


class _Progress:
    """One bar over all jobs; in a log a line per finished job, which says more there."""

    def __init__(self, jobs: int) -> None:
        self.jobs, self.began, self.shares = jobs, time.monotonic(), dict[str, float]()
        self.terminal = sys.stderr.isatty()
        layout = "{percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}"
        self.bar = tqdm(total=jobs, bar_format=layout, disable=not self.terminal)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def note(self, name: str, event: float | Ended, running: Iterable[str]) -> None:
        """A job has come so far, or has ended."""
        self.shares[name] = 1.0 if isinstance(event, Ended) else min(event, 0.99)
        if isinstance(event, Ended) and not self.terminal:
            # No guess of what is left: a baseline of seconds says nothing of a network's fit.
            done, minutes = sum(share == 1.0 for share in self.shares.values()), (time.monotonic() - self.began) / 60
            rest = f"; running: {', '.join(running)}" if running else ""
            print(f"{done}/{self.jobs} {name}: done after {minutes:.0f} min{rest}", file=sys.stderr, flush=True)

    def show(self) -> None:
        """The bar as it is now."""
        self.bar.set_postfix_str("; ".join(k for k, v in self.shares.items() if v < 1.0), refresh=False)
        self.bar.n = sum(self.shares.values())
        self.bar.refresh()


def _next(waiting: Sequence[Job], running: Sequence[Job], estimates: Mapping[str, Path]) -> Job | None:
    """The first job that has not to wait: for first priors that are being made, or for the fit that they look at."""
    busy = {path for job in running if (path := estimates.get(name_of(job))) and not path.exists()}
    unfinished = {name_of(job) for job in [*waiting, *running]}
    for job in waiting:
        free = estimates.get(name_of(job)) not in busy
        if free and (job.fitted is job or name_of(job.fitted) not in unfinished):
            return job
    return None


def _work(experiment: Experiment, job: Job, folder: Path, key: str, commit: str, report: Report) -> None:
    """One job in a worker process."""
    torch.set_num_threads(1)
    if key != key_of(experiment, job):  # a worker that starts late reads the files as they are then
        raise MvssError("the code was changed during the run: start it again")
    place = place_of(job, folder)
    _forget_if_stale(job, folder, key)
    report(0.0)
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
    saved = work_of(job)(own, task, looked_at, append, report, estimate_path(experiment, job.fitted, folder))
    _save_arrays(samples_of(job, folder), saved)
    finish(job, folder, count, key, commit)


def _forget_if_stale(job: Job, folder: Path, key: str) -> None:
    """Remove what was made with another key, or what has lost records, and note this one."""
    place = place_of(job, folder)
    if goes_on(job, folder, key):
        (place / "done").unlink(missing_ok=True)
        return
    # what looks at a method that is fitted anew is stale
    others = (each for each in jobs_of(job.config, [job.seed], ablations=True, audit=True) if each.fitted is not each)
    for path in [place, *(place_of(each, folder) for each in others if name_of(each.fitted) == name_of(job))]:
        (path / "key").unlink(missing_ok=True)  # first: what a kill leaves here is not taken for whole
        if path.exists():
            shutil.rmtree(path)
    begin(job, folder, key)


def _save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    atomic_write_bytes(path, buffer.getbuffer())
