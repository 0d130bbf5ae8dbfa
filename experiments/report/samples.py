"""What the figures of an experiment show of its methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.core.places import read_samples
from experiments.report.style import STYLES
from experiments.report.tables import method_order

__all__ = ["kept_samples"]


def kept_samples(folder: Path, table: Mapping[str, Any], seed: int, problem: str) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each method of a table, in their order; those that have kept none, and ablations, are left out."""
    methods = [m for m in method_order(row["method"] for row in table["rows"]) if m in STYLES]
    found = {m: read_samples(folder, seed, problem, m) for m in methods}
    return {m: samples for m, samples in found.items() if samples}
