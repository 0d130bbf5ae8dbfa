"""The paper's numbers, which are data: paper.yaml, whose head says what is what."""

from __future__ import annotations

__all__ = ["of_the_fit", "paper_sizes", "paper_value"]

from functools import cache
from pathlib import Path
from typing import Any

import yaml

PAPER = Path(__file__).with_name("paper.yaml")


def paper_value(experiment: str, problem: str, method: str, source: str, metric: str) -> float | None:
    """Return the paper's number for a cell, or None.

    Scores go with the newest source; times, which the paper gives per experiment, with "mean" in its own problems.
    """
    paper = read_paper()
    problems = paper["tables"].get(experiment, {})
    if problem not in problems:
        return None
    if source == "mean":
        value = paper["costs"].get(experiment, {}).get(method, {}).get(metric)
    else:
        value = problems[problem].get(source, {}).get(method, {}).get(metric)
    return None if value is None else float(value)


def of_the_fit(metric: str) -> bool:
    """Whether a number is of what was learned, and of no way to separate by it."""
    return metric.startswith("prior_") or metric == "wall_seconds"


def paper_sizes(experiment: str, problem: str) -> dict[str, int]:
    """By method, how many observations the paper's numbers of a problem are of, where it tells."""
    sizes: dict[str, int] = read_paper()["sizes"].get(experiment, {}).get(problem, {})
    return sizes


@cache
def read_paper() -> dict[str, Any]:
    """The content of paper.yaml."""
    content: dict[str, Any] = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    return content
