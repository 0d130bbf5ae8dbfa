"""The one loop of all experiments: what is stale is run, a few jobs at a time, and the table and figures are made anew.

    results/<experiment>/<preset>/                      table.json, table.md, figures/
        seed-N/  config.yaml, environment.json, metrics.jsonl, samples/<problem>/<method>.npz       (records)
        seed-N/model/<problem>/<method>/                checkpoints, records and key of a job   (not committed)
    seed-N/model/<problem>/<method>-audit/          the same of its audit

A job is one method on one problem with one seed, or the audit of one. Its key hashes the configuration that it depends on
and the code; a job with another key starts from nothing, one that was interrupted goes on from its last lap. Overrides get
a folder of their own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.keys import code_key, fit_key, settings_key, work_of
from experiments.recipes import Config, Job, Task, check_config
from mvss.checkpoints import atomic_write_text
from mvss.config import available_presets, config_hash, load_config, save_config
from mvss.errors import MvssError
from mvss.records import Records, environment, read_records
from mvss.report import build_table, write_table

__all__ = ["Command", "Experiment", "code_label", "main", "read_command", "report_errors"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Experiment:
    """name: of the results folder. target: of make. check: raises MvssError for a problem that there is not. task:
    (problem, seed, config) to a task, in the experiment's data.py; called in worker processes, so that it must be
    importable. figures: (folder, table, records by seed, problems, seed) to paths. caption: how it was scored. schema: of
    its configuration."""

    name: str
    target: str
    check: Callable[[str], object]
    task: Callable[[str, int, Config], Task]
    figures: Callable[[Path, dict[str, Any], dict[int, list[dict[str, Any]]], Sequence[str], int], list[Path]]
    caption: str
    schema: type[Config] = Config

    @property
    def data(self) -> Path:
        """The file that makes the tasks."""
        return Path(sys.modules[self.task.__module__].__file__ or "").resolve()


@dataclass(frozen=True)
class Command:
    """What a command line asks for. folder: where its results go, `root`/results/<experiment>/<preset>."""

    preset: str
    seeds: tuple[int, ...]
    compare: bool
    audit: bool
    dry_run: bool
    report: bool
    overrides: tuple[str, ...]
    config: Config
    folder: Path

    def text(self, target: str) -> str:
        """The command as it is typed."""
        command = f'make {target} PRESET={self.preset} SEEDS="{" ".join(map(str, self.seeds))}"'
        return command + (f' ARGS="{" ".join(self.overrides)}"' if self.overrides else "")


def main(experiment: Experiment, arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Command line of an experiment; returns the exit status. root: the folder that holds results/."""
    return report_errors(experiment.target, lambda: _main(experiment, read_command(experiment, arguments, root)))


def report_errors(target: str, work: Callable[[], int]) -> int:
    """The exit status of `work`. Bad input is one line on stderr and status 2."""
    try:
        return work()
    except MvssError as error:
        print(f"{target}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def read_command(experiment: Experiment, arguments: Sequence[str] | None, root: Path) -> Command:
    """Parse a command line and check all of it: nothing is written and no time spent on one that must fail."""
    arguments, overrides = list(sys.argv[1:] if arguments is None else arguments), []
    if "--" in arguments:
        position = arguments.index("--")
        arguments, overrides = arguments[:position], arguments[position + 1 :]
    parser = argparse.ArgumentParser(prog=experiment.target)
    parser.add_argument("--preset", default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--compare", action="store_true", help="also the other baselines and the ablations")
    parser.add_argument("--audit", action="store_true", help="also calibration and candidates, see experiments/audit.py")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs and what is stale, run nothing")
    parser.add_argument("--report", action="store_true", help="table and figures of what is done, run nothing")
    options = parser.parse_args(arguments)
    presets = experiment.data.parent / "presets"
    if options.preset not in available_presets(presets):
        raise MvssError(f"unknown preset {options.preset!r}; choose one of {', '.join(available_presets(presets))}")
    config = load_config(experiment.schema, presets / f"{options.preset}.yaml", overrides)
    recipes = (*config.methods.values(), *config.compare.values())
    for problem in (*config.problems, *(name for recipe in recipes for name in recipe.problems or ())):
        experiment.check(problem)
    check_config(config)
    folder = root / "results" / experiment.name.replace("-", "_") / options.preset
    if overrides:
        folder = folder / f"overrides-{config_hash(config)[:8]}"
    seeds = tuple(dict.fromkeys(options.seeds))
    kinds = (options.compare, options.audit, options.dry_run, options.report)
    return Command(options.preset, seeds, *kinds, tuple(overrides), config, folder)


def _main(experiment: Experiment, command: Command) -> int:
    config, folder = command.config, command.folder
    jobs = _jobs(config, command.seeds, command.compare, command.audit)
    stale = [job for job in jobs if not _is_done(experiment, job, folder)]
    seeds = " ".join(map(str, command.seeds))
    print(f"{experiment.name}, preset {command.preset}, seeds {seeds}: {len(stale)} of {len(jobs)} jobs to run")
    if command.dry_run:
        for job in stale:
            print(f"  {_name(job)}")
        return 0
    if command.report:
        if not any(_made_at(experiment, job, folder) for job in jobs):  # a table of nothing would replace the one that is there
            raise MvssError("no finished job has this configuration: run without --report")
        return _report(experiment, command)
    for seed in command.seeds:
        save_config(config, folder / f"seed-{seed}" / "config.yaml")
        atomic_write_text(folder / f"seed-{seed}" / "environment.json", json.dumps(environment(), indent=1) + "\n")
    _run_all(experiment, stale, folder, config.workers)
    return _report(experiment, command)


def _jobs(config: Config, seeds: Sequence[int], compare: bool, audit: bool = False) -> list[Job]:
    """All jobs, those that others wait for first."""
    jobs = []
    for seed in seeds:
        for problem in config.problems:
            recipes = {**config.methods, **config.compare} if compare else config.methods
            here = {name: r for name, r in recipes.items() if r.problems is None or problem in r.problems}
            jobs += [Job(problem, name, seed, recipe, config) for name, recipe in here.items()]
    audited = [job for job in jobs if job.method in config.audit.methods] if audit else []
    return jobs + [replace(job, audit=True) for job in audited]


def _place(job: Job, folder: Path) -> Path:
    return folder / f"seed-{job.seed}" / "model" / job.problem / _method(job)


def _method(job: Job) -> str:
    """What a job's files are named after."""
    return f"{job.method}-audit" if job.audit else job.method


def _key(experiment: Experiment, job: Job) -> str:
    return f"{settings_key(job, experiment.data)}-{code_key(job, experiment.data)}"


def _done(job: Job, folder: Path) -> tuple[str, str]:
    """The key that a job was finished with, and the commit of the code that did it; empty where it is not."""
    path = _place(job, folder) / "done"
    key, _, commit = path.read_text().partition(" ") if path.exists() else ("", "", "")
    return key, commit


def _is_done(experiment: Experiment, job: Job, folder: Path) -> bool:
    return _done(job, folder)[0] == _key(experiment, job)


def _made_at(experiment: Experiment, job: Job, folder: Path) -> str:
    """The commit whose code has finished this job with these settings, if any has."""
    key, commit = _done(job, folder)
    return commit if key.partition("-")[0] == settings_key(job, experiment.data) else ""


def _run_all(experiment: Experiment, jobs: list[Job], folder: Path, workers: int) -> None:
    """Run the jobs in worker processes, with one progress bar. Jobs that share a fit wait for the first of them."""
    if not jobs:
        return
    for job in (job for job in jobs if not job.recipe.baseline):
        # here, before the scheduling: a stale fit must not look like one that is there
        path = folder / _fit_path(job)
        _forget_if_stale(path.with_suffix(".key"), fit_key(job, experiment.data), [path, path.with_suffix(".part")])
    context = multiprocessing.get_context("spawn")
    terminal = sys.stderr.isatty()  # in a log a line per finished job says more than a bar
    layout = "{percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}"
    reports, began, commit = context.Queue(), time.monotonic(), code_label()
    # One thread a job: on arrays this small, threads that share a core with another job wait more than they work.
    workers = workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    waiting = list(jobs)
    running: dict[Future[None], Job] = {}
    progress: dict[str, float] = {}
    pool = ProcessPoolExecutor(workers, context, _start_worker, (reports,))
    with tqdm(total=len(jobs), bar_format=layout, disable=not terminal) as bar:
        try:
            while waiting or running:
                while len(running) < workers and (job := _next(waiting, list(running.values()), folder)):
                    waiting.remove(job)
                    running[pool.submit(_work, experiment, job, folder, _key(experiment, job), commit)] = job
                time.sleep(0.2)
                _drain(reports, progress)
                for future in [f for f in running if f.done()]:
                    job = running.pop(future)
                    future.result()
                    progress[_name(job)] = 1.0
                    if not terminal:
                        _log(job, len(jobs) - len(waiting) - len(running), len(jobs), time.monotonic() - began)
                bar.set_postfix_str("; ".join(k for k, v in progress.items() if v < 1.0), refresh=False)
                bar.n = sum(progress.values())
                bar.refresh()
        except BaseException as error:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                hint = "often for lack of memory: lower workers or posterior.chunk; the same command goes on"
                raise MvssError(f"a worker process was killed, {hint}") from error
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _next(waiting: Sequence[Job], running: Sequence[Job], folder: Path) -> Job | None:
    """The first job that has not to wait: for a fit that is being made, or, an audit, for what it looks at."""
    fitting = [job for job in running if not job.recipe.baseline]
    busy = {_fit_path(job) for job in fitting if not (folder / _fit_path(job)).exists()}
    unfinished = [*waiting, *running]
    for job in waiting:
        free = bool(job.recipe.baseline) or _fit_path(job) not in busy
        if free and not (job.audit and replace(job, audit=False) in unfinished):
            return job
    return None


_reports: Any = None
"""A worker's end of the queue to its parent."""


def _start_worker(reports: Any) -> None:  # noqa: ANN401 - the class of a context's queue is not public
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


def _name(job: Job) -> str:
    return f"{job.problem} {job.method} seed {job.seed}{' audit' if job.audit else ''}"


def _log(job: Job, done: int, total: int, spent: float) -> None:
    left = spent / done * (total - done) / 60
    print(f"{done}/{total} {_name(job)}: done; about {left:.0f} min left", file=sys.stderr, flush=True)


def _fit_path(job: Job) -> str:
    return f"seed-{job.seed}/model/{job.problem}/fit-{job.recipe.fit}.pt"


def _drain(reports: Any, progress: dict[str, float]) -> None:  # noqa: ANN401
    while True:
        try:
            name, value = reports.get_nowait()
        except queue.Empty:
            return
        progress[name] = min(value, 0.99)


def _work(experiment: Experiment, job: Job, folder: Path, key: str, commit: str) -> None:
    """One job in a worker process."""
    place, name = _place(job, folder), _name(job)
    if key != _key(experiment, job):  # a worker that starts late reads the files as they are then
        raise MvssError("the code was changed during the run: start it again")
    # the audit of a method that is fitted anew is stale
    _forget_if_stale(place / "key", key, [place] if job.audit else [place, _place(replace(job, audit=True), folder)])
    _reports.put((name, 0.0))
    records = Records(place / "records.jsonl")
    identity = {"seed": job.seed, "problem": job.problem, "method": job.method}
    config = replace(job.config, fresh=max(job.config.fresh, job.config.audit.observations)) if job.audit else job.config
    task = experiment.task(job.problem, job.seed, config)
    saved = work_of(job)(job, task, place, lambda r: records.append({**identity, **r}), lambda v: _reports.put((name, v)))
    _save_arrays(_samples(job, folder), saved)
    atomic_write_text(place / "done", f"{key} {commit}")


def _samples(job: Job, folder: Path) -> Path:
    """What the figures show of a job."""
    return folder / f"seed-{job.seed}" / "samples" / job.problem / f"{_method(job)}.npz"


def _forget_if_stale(marker: Path, key: str, paths: Sequence[Path]) -> None:
    """Remove what was made with another key, and note this one."""
    if not marker.exists() or marker.read_text() != key:
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        marker.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(marker, key)


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".tmp")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    part.replace(path)


def _report(experiment: Experiment, command: Command) -> int:
    """Merge the jobs' records, write the table and the figures, say where they are."""
    by_seed, folder, config = {}, command.folder, command.config
    for seed in command.seeds:
        home = folder / f"seed-{seed}"
        # Rows of an earlier command stay in the table as long as they have these settings; their commit is told.
        known = [(job, commit) for job in _jobs(config, [seed], True, True) if (commit := _made_at(experiment, job, folder))]
        latest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for job, commit in known:
            for record in read_records(_place(job, folder) / "records.jsonl"):
                identity = tuple(record[k] for k in ("problem", "method", "source", "metric", "split", "lap"))
                latest[identity] = {**record, "commit": commit}
        by_seed[seed] = list(latest.values())
        for path in (home / "samples").glob("*/*.npz"):  # those of jobs that are not in the table
            if path not in {_samples(job, folder) for job, _ in known}:
                path.unlink()
        atomic_write_text(home / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in by_seed[seed]))
    text = command.text(experiment.target + ("-compare" if command.compare else "-audit" if command.audit else ""))
    table = build_table(experiment.name.replace("-", "_"), command.preset, by_seed, text)
    write_table(folder, table, experiment.caption)
    figures = experiment.figures(folder, table, by_seed, config.problems, command.seeds[0])
    print(f"table:   {folder / 'table.md'}")
    print(f"figures: {folder / 'figures'} ({len(figures)} files)")
    return 0


def code_label() -> str:
    """The commit of the code, marked where the checkout differs from it."""
    found = environment()
    return f"{found['commit'][:12]}{'-dirty' if found['dirty'] else ''}" if found["commit"] else "unknown"
