"""The figures of published results, drawn again from what is committed with them: draws that were kept, and metrics.jsonl.

python -m experiments.report.redraw        (make figures)
"""

from __future__ import annotations

__all__ = ["main", "redraw"]

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.report.metrics import read_seeds
from experiments.report.readme import ROOT, published
from experiments.report.rebuild import experiment_of
from experiments.report.samples import Results
from mvss.presets.reader import load_config
from mvss.runtime.errors import MvssError


def main(root: Path = ROOT) -> int:
    """Draw those of all published results; the exit status. root: the folder that holds results/."""
    try:
        for name, table in published(root).items():
            folder = root / "results" / name / "cpu"
            if any(folder.glob("seed-*/samples")):
                print(f"figures: {folder / 'figures'} ({len(redraw(folder, table))} files)", flush=True)
            else:
                print(f"figures: {folder / 'figures'} stay as they are: the draws that they show are not there", flush=True)
    except MvssError as error:
        print(f"figures: {error}", file=sys.stderr)
        return 2
    return 0


def redraw(folder: Path, table: Mapping[str, Any]) -> list[Path]:
    """Those of results/<experiment>/<preset>, by its table; what that does not hold goes. Raises MvssError where a file cannot
    be read or written."""
    experiment, records = experiment_of(folder), read_seeds(folder)
    seed = min(records)
    config = load_config(experiment.schema, folder / f"seed-{seed}" / "config.yaml")
    drawn: list[Path] = experiment.figures(Results(folder, table, records, config.problems, seed))
    for path in set((folder / "figures").glob("*")) - set(drawn):
        path.unlink()
    return drawn


if __name__ == "__main__":
    sys.exit(main())
