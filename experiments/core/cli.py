"""The one loop of all experiments: what is stale is run, a few jobs at a time, and the table and figures are made anew.

    results/runs/<experiment>/<preset>/                 table.json, table.md, figures/
        seed-N/  config.yaml, environment.json, metrics.jsonl, samples/<problem>/<method>.npz       (records)
        seed-N/model/                                   see `places`

A job is one method on one problem with one seed, or the audit of one. Its key hashes the configuration that it depends
on and the code; a job with another key starts from nothing, one that was interrupted goes on from its last lap.
Overrides get a folder of their own. One process at a time works in a folder; `publish` makes committed results of it.
"""

from __future__ import annotations

__all__ = ["Command", "main", "read_command", "report_errors"]

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.core.config import Config, check_config
from experiments.core.finished import is_done
from experiments.core.places import Experiment, jobs_of, name_of
from experiments.core.records import environment
from experiments.core.reporting import made_jobs, report
from experiments.core.scheduler import run_all
from experiments.report.commands import command_text
from mvss.presets.reader import available_presets, config_hash, load_config, suggest
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text
from mvss.runtime.locks import locked

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Command:
    """What a command line asks for. folder: where its results go, results/runs/<experiment>/<preset>."""

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
    """The exit status of `work`. Bad input is one line on stderr and status 2; so are Ctrl-C and SIGTERM, with their own."""
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    before |= {signal.SIGTERM: signal.signal(signal.SIGTERM, _terminated)}
    try:
        return work()
    except MvssError as error:
        print(f"{target}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        ended = isinstance(stop, _Terminated)
        word, status = ("ended by SIGTERM", 143) if ended else ("interrupted", 130)
        print(f"\n{target}: {word}; the same command goes on where it stopped", file=sys.stderr)
        return status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends as Ctrl-C does: what was begun is taken down in order."""


def _terminated(*_: object) -> None:
    raise _Terminated


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
    parser.add_argument("--out", metavar="FOLDER", help="where results go, as <experiment>/<preset>; results/runs by default")
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
    folder = _home(options.out, root) / experiment.name.replace("-", "_") / options.preset
    if overrides:  # what a user brought is as good as a setting: another survey's results are beside, not in place of these
        brought = [config.brought(problem) for problem in config.problems]
        folder = folder / f"overrides-{config_hash({'config': config, 'brought': brought} if any(brought) else config)[:8]}"
    seeds = tuple(dict.fromkeys(options.seeds))
    kinds = (options.compare, options.ablations, options.audit, options.dry_run, options.report)
    return Command(options.preset, seeds, *kinds, tuple(options.only), tuple(overrides), config, folder)


def _home(out: str | None, root: Path) -> Path:
    """Where the results of all experiments go."""
    home = Path(out).expanduser() if out else root / "results" / "runs"
    if home.resolve() == (root / "results").resolve():
        raise MvssError(f"--out {out}: there is what is published, see make publish; name another folder")
    return home


def _main(experiment: Experiment, command: Command) -> int:
    config, folder, seeds = command.config, command.folder, command.seeds
    jobs = jobs_of(config, seeds, command.compare, command.ablations, command.audit)
    if command.only:
        jobs = [job for job in jobs if {job.method, f"{job.problem}/{job.method}"} & set(command.only)]
    stale = [job for job in jobs if not is_done(experiment, job, folder)]
    said = f"{experiment.name}, preset {command.preset}, seeds {' '.join(map(str, seeds))}"
    print(f"{said}: {len(stale)} of {len(jobs)} jobs to run")
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
            for seed in seeds:
                atomic_write_text(folder / f"seed-{seed}" / "environment.json", json.dumps(environment(), indent=1) + "\n")
            run_all(experiment, stale, folder, config.workers)
        report(experiment, config, seeds, folder, command.overrides)
    return 0
