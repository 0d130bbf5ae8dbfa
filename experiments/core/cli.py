"""The command line of all experiments. What is wrong in it is told before anything that takes seconds is imported."""

from __future__ import annotations

__all__ = ["Command", "main", "read_command"]

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import NoReturn

from experiments.core.config import Config, check_config
from experiments.core.experiment import Experiment, Named
from experiments.core.pools import check_seeds
from experiments.report.commands import command_text
from mvss.presets.reader import available_presets, config_hash, load_config, suggest
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors

ROOT = Path(__file__).resolve().parents[2]
run = Named("experiments.core.loop:run")


@dataclass(frozen=True)
class Command:
    """What a command line asks for. methods, problems: to which it is narrowed; none for all. folder: where its results go,
    results/runs/<experiment>/<preset>."""

    preset: str
    seeds: tuple[int, ...]
    ablations: bool
    audit: bool
    dry_run: bool
    report: bool
    methods: tuple[str, ...]
    problems: tuple[str, ...]
    overrides: tuple[str, ...]
    config: Config
    folder: Path

    def text(self, target: str) -> str:
        """The command as it is typed."""
        return command_text(target, self.preset, self.seeds, self.overrides)


def main(experiment: Experiment, arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Command line of an experiment; returns the exit status. root: the folder that holds results/."""
    return report_errors(experiment.target, lambda: run(experiment, read_command(experiment, arguments, root)))


class _Parser(argparse.ArgumentParser):
    """Its errors are those of everything else."""

    def error(self, message: str) -> NoReturn:
        raise MvssError(message)


def read_command(experiment: Experiment, arguments: Sequence[str] | None, root: Path, idle: Sequence[str] = ()) -> Command:
    """Parse a command line and check all of it: nothing is written and no time spent on one that must fail. idle: options that
    this command does nothing with."""
    arguments, overrides = list(sys.argv[1:] if arguments is None else arguments), []
    if "--" in arguments:
        position = arguments.index("--")
        arguments, overrides = arguments[:position], arguments[position + 1 :]
    parser = _Parser(prog=experiment.target)
    parser.add_argument("--preset", default="cpu", help="cpu, whose results are published, by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ablations", action="store_true", help="also the ablations")
    parser.add_argument("--audit", action="store_true", help="also calibration and candidates, see experiments/core/audit.py")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs that would run, and their time; run nothing")
    parser.add_argument("--report", action="store_true", help="table and figures of what is done, run nothing")
    parser.add_argument("--out", metavar="FOLDER", help="where results go, as <experiment>/<preset>; results/runs by default")
    parser.add_argument("--methods", nargs="+", default=[], help="of all methods none but these")
    parser.add_argument("--problem", nargs="+", default=[], help="of all problems none but these")
    options = parser.parse_args(arguments)
    preset, config = options.preset, _config(experiment, options.preset, options, overrides)
    if said := [name for name in idle if getattr(options, name) != parser.get_default(name)]:
        raise MvssError(f"--{said[0].replace('_', '-')} says nothing to this command: leave it out")
    folder = _home(options.out, root) / experiment.name.replace("-", "_") / preset
    if overrides:  # what a user brought is as good as a setting: another survey's results are beside, not in place of these
        brought = [config.brought(problem) for problem in config.problems]
        folder = folder / f"overrides-{config_hash({'config': config, 'brought': brought} if any(brought) else config)[:8]}"
    seeds = tuple(dict.fromkeys(options.seeds))
    check_seeds(seeds)
    kinds = (options.ablations, options.audit, options.dry_run, options.report)
    return Command(preset, seeds, *kinds, tuple(options.methods), tuple(options.problem), tuple(overrides), config, folder)


def _config(experiment: Experiment, preset: str, options: argparse.Namespace, overrides: Sequence[str]) -> Config:
    """What a preset and overrides say. Raises MvssError where that or the options do not fit."""
    presets = experiment.folder / "presets"
    if preset not in available_presets(presets):
        raise MvssError(f"unknown preset {preset!r}; choose one of {', '.join(available_presets(presets))}")
    config = load_config(experiment.schema, presets / f"{preset}.yaml", overrides)
    recipes = config.recipes().values()
    named = (name for recipe in recipes for name in (*(recipe.problems or ()), *recipe.by_problem))
    for problem in (*config.problems, *named):
        experiment.check(problem)
    check_config(config)
    if options.ablations and not config.ablations:
        raise MvssError(f"the preset {preset} has nothing under ablations: take another one, such as PRESET=cpu")
    for method in options.methods:
        if method not in config.recipes():
            raise MvssError(f"unknown method {method!r}{suggest(method, config.recipes())}")
    for problem in options.problem:
        experiment.check(problem)
    return config


def _home(out: str | None, root: Path) -> Path:
    """Where the results of all experiments go."""
    home = Path(expanduser(out)) if out else root / "results" / "runs"
    if home.resolve() == (root / "results").resolve():
        raise MvssError(f"--out {out}: there is what is published, see make publish; name another folder")
    return home
