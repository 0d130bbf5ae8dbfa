"""From the records of the jobs that are done to metrics.jsonl of each seed, from those to the table and the figures."""

from __future__ import annotations

__all__ = ["made_jobs", "report"]

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.core.config import Config, Job
from experiments.core.finished import damage, made_at
from experiments.core.places import Experiment, jobs_of, name_of, place_of
from experiments.core.records import read_records
from experiments.report.metrics import read_seeds, write_metrics
from experiments.report.rebuild import rebuild
from experiments.report.samples import Results
from mvss.presets.reader import save_config
from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class Report:
    """seeds: those that anything is done of. jobs: whose rows the table has. figures: their files."""

    table: dict[str, Any]
    seeds: list[int]
    jobs: list[Job]
    figures: list[Path]


def report(experiment: Experiment, config: Config, seeds: Sequence[int], folder: Path, overrides: Sequence[str] = ()) -> Report:
    """Write metrics.jsonl of each seed, table and figures into the folder of a run, and say where they are.

    Raises MvssError: nothing is done; a file cannot be written.
    """
    made = made_jobs(experiment, config, seeds, folder)
    seeds = [seed for seed in seeds if any(job.seed == seed for job in made)]
    if not seeds:  # a table of nothing would replace the one that is there
        raise MvssError("no finished job has this configuration, so that there is nothing to report: see --dry-run")
    for seed in seeds:
        _merge(experiment, config, [job for job in made if job.seed == seed], folder)
    records = read_seeds(folder, seeds)
    table = rebuild(experiment, folder, records, overrides)
    figures = experiment.figures(Results(folder, table, records, config.problems, seeds[0]))
    print(f"table:   {folder / 'table.md'}")
    print(f"figures: {folder / 'figures'} ({len(figures)} files)")
    if older := sorted({path.name for path in (folder / "figures").glob("*")} - {path.name for path in figures}):
        print(f"         {', '.join(older)} there: older than this table, which has nothing to show in them")
    return Report(table, seeds, made, figures)


def made_jobs(experiment: Experiment, config: Config, seeds: Sequence[int], folder: Path) -> list[Job]:
    """The jobs of any command that are done with these settings, maybe by other code. What is damaged is named."""
    jobs = jobs_of(config, seeds, ablations=True, audit=True)
    for job in jobs:
        if lost := damage(job, folder):
            print(f"{name_of(job)} is not done: its {lost}", file=sys.stderr)
    return [job for job in jobs if made_at(experiment, job, folder)]


def _merge(experiment: Experiment, config: Config, jobs: Sequence[Job], folder: Path) -> None:
    """Write one seed's metrics.jsonl from the records of its jobs."""
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for job in jobs:
        commit = made_at(experiment, job, folder)
        for record in read_records(place_of(job, folder) / "records.jsonl"):
            identity = tuple(record[k] for k in ("problem", "method", "source", "metric", "split", "lap"))
            latest[identity] = {**record, "commit": commit}
    home = folder / f"seed-{jobs[0].seed}"
    save_config(config, home / "config.yaml")  # what the rows of the table have in common, whenever they were made
    write_metrics(home / "metrics.jsonl", latest.values())
