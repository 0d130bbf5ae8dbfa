"""The one loop of all experiments: what is stale is run, a few jobs at a time, and the table and figures are made anew.

    results/<experiment>/<preset>/                      table.json, table.md, figures/
        seed-N/  config.yaml, environment.json, metrics.jsonl, samples/<problem>/<method>.npz       (records)
        seed-N/model/                                   see `places`                (not committed)

A job is one method on one problem with one seed, or the audit of one. Its key hashes the configuration that it depends
on and the code; a job with another key starts from nothing, one that was interrupted goes on from its last lap.
Overrides get a folder of their own.
"""

from __future__ import annotations

__all__ = ["Command", "main", "read_command", "report_errors"]

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from experiments.core.config import Config, Job, check_config
from experiments.core.places import Experiment, is_done, made_at, name_of, place_of, samples_of
from experiments.core.records import environment, read_records
from experiments.core.scheduler import run_all
from experiments.report.commands import command_text
from experiments.report.metrics import read_seeds, write_metrics
from experiments.report.rebuild import rebuild
from experiments.report.samples import Results
from mvss.presets.reader import available_presets, config_hash, load_config, save_config, suggest
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Command:
    """What a command line asks for. folder: where its results go, `root`/results/<experiment>/<preset>."""

    preset: str
    seeds: tuple[int, ...]
    compare: bool
    ablations: bool
    audit: bool
    dry_run: bool
    report: bool
    only: tuple[str, ...]
    overrides: tuple[str, ...]
    config: Config
    folder: Path

    def text(self, target: str) -> str:
        """The command as it is typed."""
        return command_text(target, self.preset, self.seeds, self.overrides)


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
    presets = experiment.folder / "presets"
    usual = "gpu" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(prog=experiment.target)
    parser.add_argument("--preset", default=usual)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--compare", action="store_true", help="also the other baselines and the ablations")
    parser.add_argument("--ablations", action="store_true", help="also the ablations that have a command of their own")
    parser.add_argument("--audit", action="store_true", help="also calibration and candidates, see experiments/core/audit.py")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs and what is stale, run nothing")
    parser.add_argument("--report", action="store_true", help="table and figures of what is done, run nothing")
    parser.add_argument("--only", nargs="+", default=[], metavar="[PROBLEM/]METHOD", help="of all methods none but these")
    options = parser.parse_args(arguments)
    if options.preset not in available_presets(presets):
        raise MvssError(f"unknown preset {options.preset!r}; choose one of {', '.join(available_presets(presets))}")
    config = load_config(experiment.schema, presets / f"{options.preset}.yaml", overrides)
    recipes = config.recipes().values()
    for problem in (*config.problems, *(name for recipe in recipes for name in recipe.problems or ())):
        experiment.check(problem)
    check_config(config)
    for asked, there in (("compare", config.compare), ("ablations", config.ablations)):
        if getattr(options, asked) and not there:
            raise MvssError(f"the preset {options.preset} has nothing under {asked}: take another one, such as PRESET=cpu")
    for problem, method in (name.rpartition("/")[::2] for name in options.only):
        if method not in config.recipes():
            raise MvssError(f"unknown method {method!r}{suggest(method, config.recipes())}")
        if problem:
            experiment.check(problem)
    folder = root / "results" / experiment.name.replace("-", "_") / options.preset
    if overrides:  # what a user brought is as good as a setting: another survey's results are beside, not in place of these
        brought = [config.brought(problem) for problem in config.problems]
        folder = folder / f"overrides-{config_hash({'config': config, 'brought': brought} if any(brought) else config)[:8]}"
    seeds = tuple(dict.fromkeys(options.seeds))
    kinds = (options.compare, options.ablations, options.audit, options.dry_run, options.report)
    return Command(options.preset, seeds, *kinds, tuple(options.only), tuple(overrides), config, folder)


def _main(experiment: Experiment, command: Command) -> int:
    config, folder = command.config, command.folder
    jobs = _jobs(config, command.seeds, command.compare, command.audit, command.ablations)
    if command.only:
        jobs = [job for job in jobs if {job.method, f"{job.problem}/{job.method}"} & set(command.only)]
    stale = [job for job in jobs if not is_done(experiment, job, folder)]
    seeds = " ".join(map(str, command.seeds))
    print(f"{experiment.name}, preset {command.preset}, seeds {seeds}: {len(stale)} of {len(jobs)} jobs to run")
    if command.dry_run:
        for job in stale:
            print(f"  {name_of(job)}")
        return 0
    if command.report:
        if not any(made_at(experiment, job, folder) for job in jobs):  # a table of nothing would replace the one that is there
            raise MvssError("no finished job has this configuration: run without --report")
        return _report(experiment, command)
    if stale:  # bad data end the command here, before anything is written; what must be downloaded is, once
        experiment.task(stale[0].problem, stale[0].seed, config)
    for seed in command.seeds:
        atomic_write_text(folder / f"seed-{seed}" / "environment.json", json.dumps(environment(), indent=1) + "\n")
    run_all(experiment, stale, folder, config.workers)
    return _report(experiment, command)


def _jobs(config: Config, seeds: Sequence[int], compare: bool, audit: bool = False, ablations: bool = False) -> list[Job]:
    """All jobs, those that others wait for first."""
    jobs = []
    for seed in seeds:
        for problem in config.problems:
            recipes = config.methods | (config.compare if compare else {}) | (config.ablations if ablations else {})
            here = {name: r for name, r in recipes.items() if r.problems is None or problem in r.problems}
            jobs += [Job(problem, name, seed, recipe, config) for name, recipe in here.items()]
    audited = [job for job in jobs if job.method in config.audit.methods] if audit else []
    return jobs + [replace(job, audit=True) for job in audited]


def _report(experiment: Experiment, command: Command) -> int:
    """Write metrics.jsonl of each seed, from those the table and the figures, and say where they are."""
    folder = command.folder
    seeds = [seed for seed in command.seeds if _merge(experiment, command, seed)]
    if not seeds:  # a table of nothing would replace the one that is there
        raise MvssError("no finished job has this configuration, so that there is nothing to report: see --dry-run")
    records = read_seeds(folder, seeds)
    table = rebuild(experiment, folder, records, command.overrides)
    figures = experiment.figures(Results(folder, table, records, command.config.problems, seeds[0]))
    print(f"table:   {folder / 'table.md'}")
    print(f"figures: {folder / 'figures'} ({len(figures)} files)")
    return 0


def _merge(experiment: Experiment, command: Command, seed: int) -> bool:
    """Write one seed's metrics.jsonl from the records of its jobs; False where none has this configuration."""
    folder, config = command.folder, command.config
    home = folder / f"seed-{seed}"
    # Rows of an earlier command stay in the table as long as they have these settings; their commit is told.
    jobs = _jobs(config, [seed], True, True, True)
    known = [(job, commit) for job in jobs if (commit := made_at(experiment, job, folder))]
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for job, commit in known:
        for record in read_records(place_of(job, folder) / "records.jsonl"):
            identity = tuple(record[k] for k in ("problem", "method", "source", "metric", "split", "lap"))
            latest[identity] = {**record, "commit": commit}
    if not latest:
        return False
    kept = {samples_of(job, folder) for job, _ in known}
    for path in (home / "samples").glob("*/*.npz"):  # those of jobs that are not in the table
        if path not in kept:
            path.unlink()
    save_config(config, home / "config.yaml")  # what the rows of the table have in common, whenever they were made
    write_metrics(home / "metrics.jsonl", latest.values())
    return True
