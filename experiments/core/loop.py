"""The one loop of all experiments: what is stale is run, a few jobs at a time, and the table and figures are made anew.

    results/runs/<experiment>/<preset>/                 table.json, table.md, figures/
        seed-N/  config.yaml, environment.json, metrics.jsonl, samples/<problem>/<method>.npz       (records)
        seed-N/model/                                   see `places`

A job is one method on one problem with one seed, or the audit of one; some separate by what another has learned. Its key
hashes the configuration that it depends on and the code; a job with another key starts from nothing, one that was
interrupted goes on from its last lap.
Overrides get a folder of their own. One process at a time works in a folder; `publish` makes committed results of it.
"""

from __future__ import annotations

__all__ = ["asked", "run"]

import json
from collections.abc import Sequence

from experiments.core.cli import Command
from experiments.core.config import Job
from experiments.core.durations import words
from experiments.core.experiment import Experiment
from experiments.core.finished import is_done
from experiments.core.forecast import Forecast
from experiments.core.places import jobs_of, name_of
from experiments.core.records import environment
from experiments.core.reporting import made_jobs, report
from experiments.core.scheduler import forecast, run_all, workers_of
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text
from mvss.runtime.locks import locked


def run(experiment: Experiment, command: Command) -> int:
    """Do what a command asks for; the exit status."""
    config, folder, seeds = command.config, command.folder, command.seeds
    jobs = asked(command)
    undone = {name_of(job) for job in jobs if not is_done(experiment, job, folder)}
    # what looks at a fit goes with it
    stale = [job for job in jobs if undone & {name_of(job), name_of(job.fitted)}]
    said = f"{experiment.name}, preset {command.preset}, seeds {' '.join(map(str, seeds))}"
    expected = forecast(experiment, command.preset, stale, folder, workers_of(config))
    print(f"results: {folder}")
    print(f"{said}: {len(stale)} of {len(jobs)} jobs to run{_in_words(expected) if stale else ''}", flush=True)
    if command.dry_run:
        for job in stale:
            print(f"  {name_of(job)}")
        return 0
    if command.report and not made_jobs(experiment, config, seeds, folder):  # nothing is written then
        raise MvssError("no finished job has this configuration: run without --report")
    if stale and not command.report:  # bad data end the command here; what must be downloaded is, once
        experiment.task(stale[0].problem, stale[0].seed, config)
    with locked(folder / "lock"):
        if not command.report:
            for seed in sorted({job.seed for job in stale}):
                atomic_write_text(folder / f"seed-{seed}" / "environment.json", json.dumps(environment(), indent=1) + "\n")
            run_all(experiment, stale, folder, expected)
        report(experiment, config, seeds, folder, command.overrides)
    return 0


def asked(command: Command) -> list[Job]:
    """The jobs that a command asks for, those that others wait for first. Raises MvssError for a name that none of them has."""
    return _with_fits(_narrowed(jobs_of(command.config, command.seeds, command.ablations, command.audit), command))


def _in_words(expected: Forecast) -> str:
    left, workers = expected.left(0.0), expected.workers
    at_a_time = f"{workers} at a time" if workers > 1 else "one at a time"
    return f", {at_a_time}, in {'a time that nobody has measured' if left is None else f'about {words(left)}'}"


def _with_fits(jobs: Sequence[Job]) -> list[Job]:
    """Also the jobs that learn what others look at."""
    named = {name_of(job): job for job in jobs}
    return [*{name_of(job.fitted): job.fitted for job in jobs if name_of(job.fitted) not in named}.values(), *jobs]


def _narrowed(jobs: Sequence[Job], command: Command) -> list[Job]:
    """The jobs of the methods and problems that are named; an audit has those of its own methods. Raises MvssError for a name
    that none of them has."""
    methods, problems = set(command.methods), set(command.problems)
    if command.audit:
        jobs = [job for job in jobs if job.method in command.config.audit.methods]
    kept = [j for j in jobs if (not methods or j.method in methods) and (not problems or j.problem in problems)]
    if idle := sorted((methods - {job.method for job in kept}) | (problems - {job.problem for job in kept})):
        there = "see the preset's problems, and make ...-ablations"
        raise MvssError(f"this command runs nothing of {', '.join(idle)} there: {there}")
    return kept
