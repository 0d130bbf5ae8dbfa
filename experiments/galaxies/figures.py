"""Figures of galaxies, from the kept samples alone: what is missing leaves its figure out and never fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["make_figures"]


def make_figures(
    folder: Path,
    table: Mapping[str, Any],
    records_by_seed: Mapping[int, Sequence[Mapping[str, Any]]],
    problems: Sequence[str],
    seed: int,
) -> list[Path]:
    """Arguments and result as of `experiments.manifolds.figures.make_figures`."""
    return []
