"""How long targets take, in README.md and docs/experiments.md, from the published times.json between markers, never by hand.

python -m experiments.core.targets        (make readme)
"""

from __future__ import annotations

__all__ = ["FILLED", "TARGETS", "main", "seconds_of", "times"]

import shlex
import sys
from pathlib import Path

from experiments.core.cli import ROOT, read_command
from experiments.core.durations import words
from experiments.core.experiment import Experiment
from experiments.core.loop import asked
from experiments.core.scheduler import forecast
from experiments.report.readme import fill
from experiments.report.rebuild import experiment_named
from mvss.runtime.exits import report_errors
from mvss.runtime.files import atomic_write_text

FILLED = ("README.md", "docs/experiments.md")
TARGETS = (
    ("make manifolds", 'make manifolds METHODS="exact mixture joint" PROBLEM="mixed-0.1 contrastive-2"'),
    ("make mnist-grass", "make mnist-grass METHODS=joint PROBLEM=full"),
    ("make galaxies", 'make galaxies METHODS="joint segmentation" PROBLEM=simulated'),
)
"""The whole, and a quick part of it."""
CORES = 2


def main(root: Path = ROOT) -> int:
    """Write the blocks; the exit status."""
    return report_errors("readme", lambda: _main(root), False)


def _main(root: Path) -> int:
    block = times()
    for name in FILLED:
        path = root / name
        atomic_write_text(path, fill(path.read_text(encoding="utf-8"), "times", block, name))
        print(f"times:   {path}")
    return 0


def times() -> str:
    """The block, Markdown: a line for each experiment, the whole and its quick part."""

    def timed(command: str) -> str:
        return f"`{command}`: {_said(seconds_of(command))}"

    return "\n".join(f"- {timed(whole)}; {timed(part)}" for whole, part in TARGETS)


def seconds_of(command: str) -> float | None:
    """Of a target of make, the preset cpu and one seed, on idle cores; None where a job of it was never timed."""
    _, target, *variables = shlex.split(command)
    experiment: Experiment = experiment_named(target.replace("-", "_"), Path(target))
    named = dict(each.split("=", 1) for each in variables)
    words_of = {"METHODS": "--methods", "PROBLEM": "--problem"}
    arguments = [word for name, value in named.items() for word in (words_of[name], *value.split())]
    asking = read_command(experiment, arguments, ROOT)
    return forecast(experiment, asking.preset, asked(asking), Path("no-run"), CORES).left(0.0)


def _said(seconds: float | None) -> str:
    return "never timed" if seconds is None else words(seconds)


if __name__ == "__main__":
    sys.exit(main())
