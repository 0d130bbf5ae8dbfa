"""How long jobs take: what each has noted of itself, and what was published with the results of a preset.

    course = [[share done, seconds so far], ..., [1.0, seconds in all]]

Seconds are those of the job's process: on an idle machine the time that goes by, on a busy one what it would have been.

results/<experiment>/<preset>/times.json    {"<problem> <method>": course, ...}, a job a line, by `make publish`
"""

from __future__ import annotations

__all__ = [
    "Course",
    "Timer",
    "expected_times",
    "middle",
    "own_times",
    "priors_of",
    "read_times",
    "times_of",
    "times_text",
    "words",
]

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from experiments.core.cache import ROOT
from experiments.core.config import Job
from experiments.core.places import Experiment, estimate_path, kind_of
from experiments.core.run import PARTS
from mvss.runtime.errors import MvssError

STEP = 0.05
"""Shares that differ by less are one point of a course, unless a phase begins."""
PRIORS = PARTS["first draws"][0]
"""The share at which first priors are there."""


@dataclass(frozen=True)
class Course:
    """points: shares of a job, rising to 1, and the seconds until each."""

    points: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """In all."""
        return self.points[-1][1]

    def at(self, share: float) -> float:
        """Seconds until a share."""
        before = (0.0, 0.0)
        for point in self.points:
            if share <= point[0]:
                part = (share - before[0]) / (point[0] - before[0]) if point[0] > before[0] else 1.0
                return before[1] + part * (point[1] - before[1])
            before = point
        return self.seconds

    def times(self, factor: float) -> Course:
        """Of a machine that takes so many times as long."""
        return Course(tuple((share, factor * seconds) for share, seconds in self.points))

    def after_priors(self) -> Course:
        """Of a job that finds its first priors made."""
        gone = self.at(PRIORS)
        return Course(tuple((share, max(0.0, seconds - gone)) for share, seconds in self.points))


class Timer:
    """Passes on what a job says of itself, and notes its course."""

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self.report, self.began, self.phase = report, time.process_time(), ""
        self.points: list[tuple[float, float]] = []

    def __call__(self, done: float, phase: str) -> None:
        """Takes the share that is done, and the phase that is on."""
        last = self.points[-1][0] if self.points else 0.0
        if last < done < 1 and (done >= last + STEP or phase != self.phase):
            self.points.append((round(done, 3), self._seconds()))
        self.phase = phase
        self.report(done, phase)

    def course(self) -> Course:
        """As it has been, of a job that is done now."""
        return Course((*self.points, (1.0, self._seconds())))

    def _seconds(self) -> float:
        return round(time.process_time() - self.began, 1)


def expected_times(experiment: Experiment, preset: str, folder: Path) -> dict[str, Course]:
    """By kind of job: of those that are finished in the folder of a run, else of the published results of the preset, as
    much slower or faster as the former were.

    Raises MvssError where the published ones cannot be read.
    """
    shipped = read_times(ROOT / "results" / experiment.name.replace("-", "_") / preset / "times.json")
    own = own_times(folder)
    both = [kind for kind in own if kind in shipped]
    ours, theirs = (sum(known[kind].seconds for kind in both) for known in (own, shipped))
    factor = ours / theirs if ours and theirs else 1.0
    return {kind: course.times(factor) for kind, course in shipped.items()} | own


def own_times(folder: Path) -> dict[str, Course]:
    """By kind: of the jobs that are finished in the folder of a run; of several seeds the one in the middle."""
    found: dict[str, list[Course]] = {}
    for path in sorted(folder.glob("seed-*/model/*/*/done")):
        try:
            course = _course(json.loads(path.read_text(encoding="utf-8"))["course"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of one that was interrupted nobody knows
        found.setdefault(f"{path.parents[1].name} {path.parent.name}", []).append(course)
    return {kind: middle(courses) for kind, courses in found.items()}


def middle(courses: Iterable[Course]) -> Course:
    """The one whose seconds are in the middle."""
    of = {course.seconds: course for course in courses}
    return of[median_low(of)]


def read_times(path: Path) -> dict[str, Course]:
    """Of a times.json; none where there is none. Raises MvssError where it is broken."""
    try:
        return {kind: _course(points) for kind, points in json.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise MvssError(f"{path} is broken: delete it, or take it from git again") from error


def times_of(jobs: Iterable[Job], times: Mapping[str, Course]) -> dict[str, Course]:
    """Those of some jobs alone."""
    kinds = {kind_of(job) for job in jobs}
    return {kind: course for kind, course in times.items() if kind in kinds}


def times_text(times: Mapping[str, Course]) -> str:
    """The content of times.json."""
    lines = (f"{json.dumps(kind)}: {json.dumps(course.points)}" for kind, course in sorted(times.items()))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def priors_of(experiment: Experiment, jobs: Iterable[Job], times: Mapping[str, Course], folder: Path) -> dict[Path, float]:
    """Seconds that first priors take which jobs share, by their file: as long as whoever has made them took. jobs: all that may
    have made them."""
    found: dict[Path, float] = {}
    for job in jobs:
        if (course := times.get(kind_of(job))) and job.fitted is job and not job.recipe.baseline:
            path = estimate_path(experiment, job, folder)
            found[path] = max(found.get(path, 0.0), course.at(PRIORS))
    return found


def words(seconds: float) -> str:
    """As one says it: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _course(points: Any) -> Course:  # noqa: ANN401 - what a file holds
    """Raises ValueError or TypeError for what is none."""
    found = tuple((float(share), float(seconds)) for share, seconds in points)
    if not found or found[-1][0] != 1 or sorted(found) != list(found):
        raise ValueError(f"{points} is no course")
    return Course(found)
