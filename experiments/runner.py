"""The one loop of all experiments: what is stale is run, a few jobs at a time, and the table and figures are made anew.

    results/<experiment>/<preset>/                      table.json, table.md, figures/
        seed-N/  config.yaml, environment.json, metrics.jsonl, samples/<problem>/<method>.npz       (records)
        seed-N/model/<problem>/<method>/                checkpoints, records of one job, its key when done     (not committed)

A job is one method on one problem with one seed. Its key hashes the configuration that it depends on and the code; a job with
another key starts from nothing, one that was interrupted goes on from its last lap. Overrides get a folder of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import queue
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.recipes import Config, Job, Task, run_job
from mvss.checkpoints import atomic_write_text
from mvss.config import available_presets, config_hash, load_config, save_config
from mvss.errors import MvssError
from mvss.records import Records, environment, read_records
from mvss.report import build_table, write_table

__all__ = ["Experiment", "main"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Experiment:
    """name: of the results folder. target: of make. task: (problem, seed, config) to a task; it is called in worker
    processes, so that it must be importable. figures: (folder, table, records by seed, problems, seed) to paths. caption:
    how the table was scored."""

    name: str
    target: str
    task: Callable[[str, int, Config], Task]
    figures: Callable[[Path, dict[str, Any], dict[int, list[dict[str, Any]]], Sequence[str], int], list[Path]]
    caption: str


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> int:
    """Command line of an experiment; returns the exit status. Bad input is one line on stderr and status 2."""
    try:
        return _main(experiment, list(sys.argv[1:] if arguments is None else arguments))
    except MvssError as error:
        print(f"{experiment.target}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _main(experiment: Experiment, arguments: list[str]) -> int:
    overrides: list[str] = []
    if "--" in arguments:
        position = arguments.index("--")
        arguments, overrides = arguments[:position], arguments[position + 1 :]
    parser = argparse.ArgumentParser(prog=experiment.target)
    parser.add_argument("--preset", default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--compare", action="store_true", help="also the other baselines and the ablations")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs and what is stale, run nothing")
    options = parser.parse_args(arguments)
    presets = Path(sys.modules[experiment.task.__module__].__file__ or "").parent / "presets"
    if options.preset not in available_presets(presets):
        raise MvssError(f"unknown preset {options.preset!r}; choose one of {', '.join(available_presets(presets))}")
    config = load_config(Config, presets / f"{options.preset}.yaml", overrides)
    folder = ROOT / "results" / experiment.name.replace("-", "_") / options.preset
    if overrides:
        folder = folder / f"overrides-{config_hash(config)[:8]}"
    jobs = _jobs(config, options.seeds, options.compare)
    stale = [job for job in jobs if not _is_done(experiment, job, folder)]
    print(f"{experiment.name}, preset {options.preset}, seeds {options.seeds}: {len(stale)} of {len(jobs)} jobs to run")
    if options.dry_run:
        for job in stale:
            print(f"  {job.problem} {job.method} seed {job.seed}")
        return 0
    for seed in options.seeds:
        save_config(config, folder / f"seed-{seed}" / "config.yaml")
        atomic_write_text(folder / f"seed-{seed}" / "environment.json", json.dumps(environment(), indent=1) + "\n")
    _run_all(experiment, stale, folder, config.workers)
    command = f"make {experiment.target}{'-compare' if options.compare else ''} PRESET={options.preset}"
    command += f' SEEDS="{" ".join(map(str, options.seeds))}"' + (f' ARGS="{" ".join(overrides)}"' if overrides else "")
    return _report(experiment, config, folder, options, command)


def _jobs(config: Config, seeds: Sequence[int], compare: bool) -> list[Job]:
    """All jobs, those that others wait for first."""
    jobs = []
    for seed in seeds:
        for problem in config.problems:
            jobs += [Job(problem, name, seed, recipe, config) for name, recipe in config.methods.items()]
            if compare and problem in (config.compare_problems or config.problems):
                jobs += [Job(problem, name, seed, recipe, config) for name, recipe in config.compare.items()]
    return jobs


def _key(experiment: Experiment, job: Job) -> str:
    """Hash of all that a job's result depends on."""
    settings = replace(job.config, problems=(), methods={}, compare={}, compare_problems=(), workers=1)
    fits = {job.recipe.fit: settings.fits[job.recipe.fit]} if job.recipe.fit in settings.fits else {}
    identity = json.dumps([job.problem, job.method, job.seed, asdict(job.recipe)], sort_keys=True)
    return hashlib.sha256(
        f"{identity}{config_hash(replace(settings, fits=fits))}{_code_hash(experiment)}".encode()
    ).hexdigest()


def _fit_key(experiment: Experiment, job: Job) -> str:
    fit = job.config.fits.get(job.recipe.fit)
    content = config_hash(fit) if fit else ""
    return hashlib.sha256(f"{content}{job.config.observations}{_code_hash(experiment)}".encode()).hexdigest()


def _code_hash(experiment: Experiment) -> str:
    """Hash of the sources that decide numbers: all of mvss but the pages it prints, the recipes, and the experiment's data."""
    data = sys.modules[experiment.task.__module__].__file__
    files = [
        p for p in sorted((ROOT / "mvss").rglob("*.py")) if p.name not in ("report.py", "plotting.py", "records.py")
    ]
    digest = hashlib.sha256()
    for path in [*files, ROOT / "experiments" / "recipes.py", Path(data or "")]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _place(job: Job, folder: Path) -> Path:
    return folder / f"seed-{job.seed}" / "model" / job.problem / job.method


def _is_done(experiment: Experiment, job: Job, folder: Path) -> bool:
    done = _place(job, folder) / "done"
    return done.exists() and done.read_text() == _key(experiment, job)


def _run_all(experiment: Experiment, jobs: list[Job], folder: Path, workers: int) -> None:
    """Run the jobs in worker processes, with one progress bar. Jobs that share a fit wait for the first of them."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    terminal = sys.stderr.isatty()  # in a log a line per finished job says more than a bar
    layout = "{percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}"
    with context.Manager() as manager, tqdm(total=len(jobs), bar_format=layout, disable=not terminal) as bar:
        reports, began = manager.Queue(), time.monotonic()
        threads = max(1, torch.get_num_threads() // workers)
        waiting = list(jobs)
        running: dict[Future[None], tuple[Job, str]] = {}
        progress: dict[str, float] = {}
        pool = ProcessPoolExecutor(workers, mp_context=context)
        try:
            while waiting or running:
                busy = {fit for _, fit in running.values() if not (folder / fit).exists()}
                ready = [job for job in waiting if _fit_path(job) not in busy]
                while ready and len(running) < workers:
                    job = ready[0]
                    waiting.remove(job)
                    future = pool.submit(_work, experiment, job, folder, threads, reports)
                    running[future] = (job, _fit_path(job))
                    if not (folder / _fit_path(job)).exists():
                        busy.add(_fit_path(job))
                    ready = [j for j in waiting if _fit_path(j) not in busy]
                time.sleep(0.5)
                _drain(reports, progress)
                for future in [f for f in running if f.done()]:
                    job, _ = running.pop(future)
                    future.result()
                    progress[_name(job)] = 1.0
                    if not terminal:
                        _log(job, len(jobs) - len(waiting) - len(running), len(jobs), time.monotonic() - began)
                bar.set_postfix_str("; ".join(k for k, v in progress.items() if v < 1.0), refresh=False)
                bar.n = sum(progress.values())
                bar.refresh()
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _name(job: Job) -> str:
    return f"{job.problem} {job.method} seed {job.seed}"


def _log(job: Job, done: int, total: int, spent: float) -> None:
    left = spent / done * (total - done) / 60
    print(f"{done}/{total} {_name(job)}: done; about {left:.0f} min left", file=sys.stderr, flush=True)


def _fit_path(job: Job) -> str:
    return f"seed-{job.seed}/model/{job.problem}/fit-{job.recipe.fit}.pt"


def _drain(reports: Any, progress: dict[str, float]) -> None:  # noqa: ANN401 - a manager's proxy has no public type
    while True:
        try:
            name, value = reports.get_nowait()
        except queue.Empty:
            return
        progress[name] = min(value, 0.99)


def _work(experiment: Experiment, job: Job, folder: Path, threads: int, reports: Any) -> None:  # noqa: ANN401
    """One job in a worker process."""
    torch.set_num_threads(threads)
    place, key = _place(job, folder), _key(experiment, job)
    _forget_if_stale(
        place.parent / f"fit-{job.recipe.fit}.key",
        _fit_key(experiment, job),
        [place.parent / f"fit-{job.recipe.fit}.pt"],
    )
    _forget_if_stale(place / "key", key, [place])
    name = _name(job)
    reports.put((name, 0.0))
    records = Records(place / "records.jsonl")
    identity = {"seed": job.seed, "problem": job.problem, "method": job.method}
    task = experiment.task(job.problem, job.seed, job.config)
    saved = run_job(job, task, place, lambda r: records.append({**identity, **r}), lambda v: reports.put((name, v)))
    _save_arrays(folder / f"seed-{job.seed}" / "samples" / job.problem / f"{job.method}.npz", saved)
    atomic_write_text(place / "done", key)


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


def _report(experiment: Experiment, config: Config, folder: Path, options: argparse.Namespace, command: str) -> int:
    """Merge the jobs' records, write the table and the figures, say where they are."""
    by_seed = {}
    for seed in options.seeds:
        home = folder / f"seed-{seed}"
        # `compare` rows of an earlier command stay in the table as long as they are up to date
        known = [job for job in _jobs(config, [seed], True) if _is_done(experiment, job, folder)]
        latest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for job in known:
            for record in read_records(_place(job, folder) / "records.jsonl"):
                latest[tuple(record[k] for k in ("problem", "method", "source", "metric", "split", "lap"))] = record
        by_seed[seed] = list(latest.values())
        atomic_write_text(home / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in by_seed[seed]))
    commit = environment()["commit"]
    dirty = environment()["dirty"]
    label = f"{commit}{'-dirty' if dirty else ''}" if commit else "unknown"
    table = build_table(experiment.name.replace("-", "_"), options.preset, by_seed, command, label)
    write_table(folder, table, experiment.caption)
    figures = experiment.figures(folder, table, by_seed, config.problems, options.seeds[0])
    print(f"table:   {folder / 'table.md'}")
    print(f"figures: {folder / 'figures'} ({len(figures)} files)")
    return 0
