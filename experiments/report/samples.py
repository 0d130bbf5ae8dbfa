"""What the figures of an experiment show of its methods."""

from __future__ import annotations

__all__ = ["Arrays", "Results", "kept_samples", "laps_of", "read_samples", "samples_path"]

import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.report.methods import method_named, method_order
from experiments.report.tables import is_audit

Arrays = dict[str, NDArray[Any]]
AUDIT = "-audit"


@dataclass(frozen=True)
class Results:
    """What figures are made from. folder: of a run. table: as of `tables.build_table`.
    records_by_seed: the records of each seed. problems: in the order of the panels. seed: whose draws are shown; curves
    and bars are over all seeds."""

    folder: Path
    table: Mapping[str, Any]
    records_by_seed: Mapping[int, Sequence[Mapping[str, Any]]]
    problems: tuple[str, ...]
    seed: int


def kept_samples(folder: Path, table: Mapping[str, Any], seed: int, problem: str) -> dict[str, Arrays]:
    """Return the arrays of each method of a table, in their order; ablations, and who has kept none, are left out."""
    methods = [m for m in method_order(row["method"] for row in table["rows"]) if not method_named(m).ablation]
    samples = {m: read_samples(folder, table, seed, problem, m) for m in methods}
    return {m: arrays for m, arrays in samples.items() if arrays}


def laps_of(arrays: Mapping[str, Any], source: int | None = None) -> list[int]:
    """The laps whose draws were kept, of a source by number, or of any."""
    found = (re.fullmatch(r"lap(\d+)_(\d+)", name) for name in arrays)
    return sorted({int(lap[1]) for lap in found if lap and source in (None, int(lap[2]))})


def read_samples(folder: Path, table: Mapping[str, Any], seed: int, problem: str, name: str) -> Arrays:
    """The arrays that a job has kept for the figures; none where they are missing, unreadable, or not of the table.

    name: of a method, or of its audit, <method>-audit."""
    method, audit = name.removesuffix(AUDIT), name.endswith(AUDIT)
    rows = (row for row in table["rows"] if (row["problem"], row["method"]) == (problem, method) and seed in row["seeds"])
    if not any(is_audit(row["metric"]) == audit for row in rows):
        return {}
    path = samples_path(folder, seed, problem, name)
    try:
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        print(f"figures: {path} cannot be read ({error}) and is left out", file=sys.stderr)
        return {}


def samples_path(folder: Path, seed: int, problem: str, name: str) -> Path:
    """Where the arrays of a method or of its audit are kept."""
    return folder / f"seed-{seed}" / "samples" / problem / f"{name}.npz"
