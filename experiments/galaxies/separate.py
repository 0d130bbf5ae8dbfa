"""`make galaxies-separate`: the galaxies of a data set without their neighbours, by the model that `make galaxies` has
learned.

Writes separated.h5 (`product`) beside the results: of the deep field its test galaxies, of the simulation its fresh
ones, of an archive all.
"""

from __future__ import annotations

__all__ = ["main"]

import sys

from experiments.core.cli import ROOT, Command, read_command
from experiments.core.config import Config
from experiments.core.finished import made_at
from experiments.core.places import name_of, place_of
from experiments.core.run import load_model
from experiments.core.scheduler import code_label
from experiments.galaxies.__main__ import EXPERIMENT
from experiments.galaxies.archive.shards import read_attributes
from experiments.galaxies.config import GalaxiesConfig
from experiments.galaxies.data.stamps import NOISE
from experiments.galaxies.data.task import make_task
from experiments.galaxies.product import joined, make_product, write_product
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.locks import locked
from mvss.runtime.rng import Stream

KEPT = 6
"""Draws of each galaxy in the file."""


def main(argv: list[str] | None = None) -> int:
    """The command: options and overrides as of `make galaxies`."""
    return report_errors("galaxies-separate", lambda: _separate(argv))


def _separate(argv: list[str] | None) -> int:
    command = read_command(EXPERIMENT, argv, ROOT, idle=("ablations", "audit", "dry_run", "report", "methods"))
    if len(command.problems) > 1:
        raise MvssError("one file is made at a time: name one problem")
    alone = command.config.problems if len(command.config.problems) == 1 else ("real",)
    (problem,) = command.problems or alone
    if problem not in command.config.problems:
        known = ", ".join(command.config.problems)
        raise MvssError(f"{problem} is not among the problems {known}: give FOLDER=, PIXELS= and ARGS= as to make galaxies")
    recipe = command.config.recipes()["joint"]
    if recipe.problems and problem not in recipe.problems:
        raise MvssError(f"no file is made of {problem}: joint, which makes them, is for {', '.join(recipe.problems)}")
    with locked(command.folder / "lock"):
        return _write(problem, command)


def _write(problem: str, command: Command) -> int:
    """The file of each seed."""
    for seed in command.seeds:
        job = command.config.job(problem, "joint", seed)
        if not made_at(EXPERIMENT, job, command.folder):
            raise MvssError(f"{name_of(job)} is not learned yet: run {command.text('galaxies')} first")
        task = make_task(problem, seed, command.config)
        model = load_model(job, place_of(job.fitted, command.folder))
        path = command.folder / f"seed-{seed}" / f"separated-{problem}.h5"
        text = f"{command.text('galaxies-separate')} PROBLEM={problem}"
        label, unit = code_label(), _unit(problem, command.config)
        products = []
        for sky, galaxy, stamps in task.separate(model, Stream(seed, (problem, "separate"))):
            products.append(make_product(sky, galaxy, stamps, KEPT, unit, text, label))
            print(f"{sum(len(product.mean) for product in products)} galaxies separated", file=sys.stderr, flush=True)
        product = joined(products)
        write_product(path, product)
        print(f"{len(product.mean)} galaxies: {path}")
    return 0


def _unit(problem: str, config: Config) -> str:
    """Of the fluxes."""
    if problem == "real":
        return "display levels"
    if problem != "archive":
        return f"flux of a pixel, where the usual noise is {NOISE:g}"
    assert isinstance(config, GalaxiesConfig)
    found = read_attributes(config.archive)
    return f"{found['unit']}; factor = {float(found['factor']):.8g}"


if __name__ == "__main__":
    sys.exit(main())
