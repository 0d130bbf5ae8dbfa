"""What the figures of an experiment show of its methods."""

from __future__ import annotations

__all__ = ["kept_samples"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from experiments.core.places import read_samples
from experiments.report.methods import method_named, method_order

Arrays = dict[str, NDArray[Any]]


def kept_samples(folder: Path, table: Mapping[str, Any], seed: int, problem: str) -> dict[str, Arrays]:
    """Return the arrays of each method of a table, in their order; ablations, and who has kept none, are left out."""
    methods = [m for m in method_order(row["method"] for row in table["rows"]) if not method_named(m).ablation]
    samples = {m: read_samples(folder, seed, problem, m) for m in methods}
    return {m: arrays for m, arrays in samples.items() if arrays}
