"""`make pretrained RUN="results/runs/<experiment>/cpu ..."`: the models to try, of finished runs.

    <run>/seed-0/model/<problem>/joint/separator  →  pretrained/<name>/{separator.json, model-HASH/, README.md}

In half precision, unless that changes the scores of fresh observations. README.md is the model's card (`card`).
"""

from __future__ import annotations

__all__ = ["LARGEST", "build", "main", "size_of"]

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.core.config import Config
from experiments.core.finished import made_at
from experiments.core.places import name_of, place_of
from experiments.core.run import load_model
from experiments.pretrained.card import Precision, card
from experiments.pretrained.models import READY, SEED, Fresh, fresh, model_of
from experiments.report.grids import means_nothing
from mvss.metrics.spread import energy_score
from mvss.presets.reader import load_config
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.files import atomic_write_text
from mvss.separator import SourceSeparator

DRAWS = 16
"""Of each fresh observation by which precisions are compared."""
UNCHANGED = 0.01
"""Share of an energy score by which another precision may change it, beside twice the standard error of the change."""
LARGEST = 12_000_000
"""Bytes of all models to try together."""


def main(arguments: Sequence[str] | None = None, target: Path = READY) -> int:
    """Command line; returns the exit status. target: the folder of all models."""
    parser = argparse.ArgumentParser(prog="pretrained")
    parser.add_argument("runs", nargs="+", help="folders of runs, <experiment>/<preset>")
    options = parser.parse_args(arguments)

    def work() -> int:
        for run in options.runs:
            build(Path(run).expanduser(), target)
        total = size_of(target)
        print(f"all of {target}: {total / 1e6:.1f} of {LARGEST / 1e6:.0f} MB")
        return 0

    return report_errors("pretrained", work, resumes=False)


def build(folder: Path, target: Path) -> Path:
    """The model of a run, in a folder of its name in `target`; returns that folder.

    Raises MvssError where the run is of no experiment, is not finished, or is one whose numbers mean nothing.
    """
    name, preset = ("", "", *folder.resolve().parts)[-2:]
    shown = model_of(name)
    if means_nothing(preset) and target == READY:
        raise MvssError(f"{folder} is of the preset {preset}, which has learned nothing: name a run of the preset cpu")
    experiment = shown.load()
    path = folder / f"seed-{SEED}" / "config.yaml"
    if not path.exists():
        raise MvssError(f"{folder} holds no finished run of seed {SEED}: make {experiment.target} PROBLEM={shown.problem}")
    config: Config = load_config(experiment.schema, path)
    if shown.method not in config.methods:
        raise MvssError(f"{folder} has no method {shown.method}: name a run of the preset cpu")
    job = config.job(shown.problem, shown.method, SEED)
    if not made_at(experiment, job, folder) or not made_at(experiment, job.fitted, folder):
        raise MvssError(f"{folder}: {name_of(job)} is not finished: run it to its end")
    model = load_model(job, place_of(job.fitted, folder)).to("cpu")
    found = precision(model, fresh(shown, shown.compared, path))
    place = target / shown.name
    model.save_pretrained(place, half=found.half)
    atomic_write_text(place / "README.md", card(shown, job, model, folder, found))
    print(f"{shown.name}: {place} ({size_of(place) / 1e6:.1f} MB{', in half precision' if found.half else ''})")
    return place


def precision(model: SourceSeparator, observed: Fresh) -> Precision:
    """Whether half precision leaves the energy scores of fresh observations as they are, and what they are."""
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder, half=True)
        halved = SourceSeparator.from_pretrained(Path(folder))
    half, scores = True, dict[str, tuple[float, float]]()
    draws = [each.separate(observed.view, DRAWS) for each in (model, halved)]
    for source, truth in observed.truth.items():
        whole, other = (energy_score(found[source], truth) for found in draws)
        change = other - whole
        error = float(change.std()) / len(change) ** 0.5
        half = half and abs(float(change.mean())) <= UNCHANGED * float(whole.mean()) + 2 * error
        scores[source] = float(whole.mean()), float(other.mean())
    return Precision(half, len(observed.view), scores)


def size_of(folder: Path) -> int:
    """Of all files in it, bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    raise SystemExit(main())
