"""Jobs in worker processes, a few at a time, with one progress bar: what is killed goes on where it was."""

from __future__ import annotations

__all__ = ["code_label", "run_all"]

import multiprocessing
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.core.cache import work_of
from experiments.core.config import Job
from experiments.core.places import Experiment, estimate_path, key_of, name_of, place_of, samples_of
from experiments.core.records import Records, environment
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text

Reports: TypeAlias = "Queue[tuple[str, float]]"
"""Names of jobs, and the share of each that is done."""


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
    estimates = {name_of(job): estimate_path(experiment, job, folder) for job in jobs if not job.recipe.baseline}
    context = multiprocessing.get_context("spawn")
    terminal = sys.stderr.isatty()  # in a log a line per finished job says more than a bar
    layout = "{percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}"
    reports: Reports = context.Queue()
    began, commit = time.monotonic(), code_label()
    # One thread a job: on arrays this small, threads that share a core with another job wait more than they work.
    workers = workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    waiting = list(jobs)
    running: dict[Future[None], Job] = {}
    progress: dict[str, float] = {}
    pool = ProcessPoolExecutor(workers, context, _start_worker, (reports,))
    with tqdm(total=len(jobs), bar_format=layout, disable=not terminal) as bar:
        try:
            while waiting or running:
                while len(running) < workers and (job := _next(waiting, list(running.values()), estimates)):
                    waiting.remove(job)
                    running[pool.submit(_work, experiment, job, folder, key_of(experiment, job), commit)] = job
                time.sleep(0.2)
                _drain(reports, progress)
                for future in [f for f in running if f.done()]:
                    job = running.pop(future)
                    future.result()
                    progress[name_of(job)] = 1.0
                    if not terminal:
                        share = f"{len(jobs) - len(waiting) - len(running)}/{len(jobs)}"
                        _log(share, job, time.monotonic() - began, list(running.values()))
                bar.set_postfix_str("; ".join(k for k, v in progress.items() if v < 1.0), refresh=False)
                bar.n = sum(progress.values())
                bar.refresh()
        except BaseException as error:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                hint = "often for lack of memory: lower workers or settings.posterior.chunk; the same command goes on"
                raise MvssError(f"a worker process was killed, {hint}") from error
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _next(waiting: Sequence[Job], running: Sequence[Job], estimates: Mapping[str, Path]) -> Job | None:
    """The first job that has not to wait: for first priors that are being made, or, an audit, for what it looks at."""
    busy = {path for job in running if (path := estimates.get(name_of(job))) and not path.exists()}
    unfinished = [*waiting, *running]
    for job in waiting:
        free = estimates.get(name_of(job)) not in busy
        if free and not (job.audit and replace(job, audit=False) in unfinished):
            return job
    return None


_reports: Reports
"""A worker's end of the queue to its parent; only workers have one."""


def _start_worker(reports: Reports) -> None:
    """Ctrl-C is for the parent to handle, and no worker outlives a parent that was killed: two would write one file."""
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _log(share: str, job: Job, spent: float, running: Sequence[Job]) -> None:
    """No guess of what is left: a baseline of seconds says nothing of a network's fit."""
    rest = f"; running: {', '.join(map(name_of, running))}" if running else ""
    print(f"{share} {name_of(job)}: done after {spent / 60:.0f} min{rest}", file=sys.stderr, flush=True)


def _drain(reports: Reports, progress: dict[str, float]) -> None:
    while True:
        try:
            name, value = reports.get_nowait()
        except queue.Empty:
            return
        progress[name] = min(value, 0.99)


def _work(experiment: Experiment, job: Job, folder: Path, key: str, commit: str) -> None:
    """One job in a worker process."""
    place, name = place_of(job, folder), name_of(job)
    if key != key_of(experiment, job):  # a worker that starts late reads the files as they are then
        raise MvssError("the code was changed during the run: start it again")
    # the audit of a method that is fitted anew is stale
    _forget_if_stale(place / "key", key, [place] if job.audit else [place, place_of(replace(job, audit=True), folder)])
    _reports.put((name, 0.0))
    records = Records(place / "records.jsonl")
    identity = {"seed": job.seed, "problem": job.problem, "method": job.method}
    config = replace(job.config, fresh=max(job.config.fresh, job.config.audit.observations)) if job.audit else job.config
    task = experiment.task(job.problem, job.seed, config)
    append, progress = (lambda r: records.append({**identity, **r})), (lambda v: _reports.put((name, v)))
    saved = work_of(job)(job, task, place, append, progress, estimate_path(experiment, job, folder))
    _save_arrays(samples_of(job, folder), saved)
    atomic_write_text(place / "done", f"{key} {commit}")


def _forget_if_stale(marker: Path, key: str, paths: Sequence[Path]) -> None:
    """Remove what was made with another key, and note this one."""
    if not marker.exists() or marker.read_text() != key:
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        marker.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(marker, key)


def _save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".tmp")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    part.replace(path)
