"""The floor of a task's distances between laws, as a method of its own: `floor: {model: floor}` in a preset.

    mean over SPLITS of distance(clean, clean'), as many of each as there are draws and references

What exact draws have on average: a distance below it is luck, or draws that know what they are compared with.
"""

from __future__ import annotations

__all__ = ["FLOOR", "run_floor"]

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from numpy.typing import NDArray

from experiments.core.config import Job
from experiments.core.laws import law_distances
from experiments.core.task import Laws, Task
from mvss.runtime.errors import MvssError

FLOOR = "floor"
SPLITS = 20


def run_floor(
    job: Job,
    task: Task,
    _folder: Path,
    append: Callable[[dict[str, Any]], None],
    progress: Callable[[float, str], None],
    _shared: Path,
) -> dict[str, NDArray[Any]]:
    """Arguments and result as of `run.run_job`; nothing is learned, and there is nothing for the figures."""
    if not isinstance(task, Laws):
        raise MvssError(f"{job.problem}: nothing is compared with few clean sources here, and model={FLOOR} has nothing to say")
    for b in range(len(task.train.sources)):
        found: dict[str, list[float]] = {}
        for number in range(SPLITS):
            first, second = task.clean_split(b, number)
            for metric, value in law_distances(task, job, b, first, second, SPLITS).items():
                found.setdefault(metric, []).append(value)
            progress((b + (number + 1) / SPLITS) / len(task.train.sources), "splits")
        record = {"source": str(b + 1), "split": "fresh", "lap": None}
        for metric, values in found.items():
            for kind in ("posterior", "prior"):  # which side is drawn makes no difference
                append({**record, "metric": f"{kind}_{metric}", "value": fmean(values), "samples": len(first)})
    return {}
