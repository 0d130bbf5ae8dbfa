"""Tables of the README and of the pages in Markdown: heads, rows, numbers with their spread."""

from __future__ import annotations

__all__ = ["cell", "head", "line"]

from collections.abc import Mapping, Sequence
from typing import Any


def head(words: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """The head of a table: columns of words, then columns of numbers."""
    return [line(*words, *numbers), "|" + " --- |" * len(words) + " ---: |" * len(numbers)]


def line(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def cell(row: Mapping[str, Any] | None, digits: int, scale: float = 1.0) -> str:
    """A number of table.json with its spread over seeds, where there are several."""
    if row is None or row["mean"] is None:
        return "–"
    spread = "" if row["std"] is None else f" ± {scale * row['std']:.{digits}f}"
    return f"{scale * row['mean']:.{digits}f}{spread}"
