"""What is left of a run: its jobs in their order, each as long as it is known to take on a machine as fast as this one.

    pace = (T + Σ seconds that jobs have taken) / (T + Σ seconds that they were expected to take so far)

over those that have ended and those that run, T seconds being expected to go well. left: until the last of the remaining
jobs ends, if each takes pace × what is expected.
"""

from __future__ import annotations

__all__ = ["Forecast", "Planned", "next_of"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.core.durations import PRIORS, Course, middle

T = 20.0
OVERDUE = 0.05
"""Of what a job has taken, that it will take at least."""


@dataclass(frozen=True)
class Planned:
    """name, kind: of a job. fit: name of the job that learns what it looks at; its own where it learns. priors: file of its
    first priors, which others may share."""

    name: str
    kind: str
    fit: str
    priors: Path | None


def next_of(waiting: Sequence[Planned], running: Sequence[Planned], made: Callable[[Path], bool]) -> Planned | None:
    """The first that has not to wait: for first priors that are being made, or for the fit that it looks at."""
    busy = {each.priors for each in running if each.priors and not made(each.priors)}
    unfinished = {each.name for each in (*waiting, *running)}
    for each in waiting:
        if each.priors not in busy and (each.fit == each.name or each.fit not in unfinished):
            return each
    return None


@dataclass
class _Run:
    """A job that runs. priors: seconds that its own first priors take. anew: from its beginning. share: as last told, when."""

    began: float
    priors: float
    anew: bool
    share: float
    told: float


class Forecast:
    """plans: all jobs, in their order. times: by kind of job. priors: seconds of first priors, by file. made: whether a file
    of them is there. Moments are of any clock, in seconds."""

    def __init__(
        self,
        plans: Sequence[Planned],
        times: Mapping[str, Course],
        priors: Mapping[Path, float],
        made: Callable[[Path], bool],
        workers: int,
    ) -> None:
        self.plans = {each.name: each for each in plans}
        self.times, self.priors, self.made, self.workers = dict(times), priors, made, workers
        self.waiting, self.running = list(self.plans), dict[str, _Run]()
        self.taken, self.expected = 0.0, 0.0

    def start(self, name: str, now: float, anew: bool = True) -> None:
        """A job begins; anew: not where it was interrupted."""
        self.waiting.remove(name)
        path = self.plans[name].priors
        own = self.priors.get(path, 0.0) if path and not self.made(path) else 0.0
        self.running[name] = _Run(now, own, anew, 0.0, now)

    def tell(self, name: str, share: float, now: float) -> None:
        """A job has come so far."""
        self.running[name].share, self.running[name].told = share, now

    def end(self, name: str, now: float) -> None:
        """A job is done."""
        run, kind = self.running.pop(name), self.plans[name].kind
        if kind not in self.times:
            self.times[kind] = Course(((1.0, (now - run.began) / self._pace()),))
        elif run.anew:
            self.taken += now - run.began
            self.expected += self._whole(name, run.priors)

    def left(self, now: float) -> float | None:
        """Seconds until all is done; None while there is no telling how long a job takes."""
        if any(self._course(name) is None for name in (*self.waiting, *self.running)):
            return None
        pace = self._pace()
        running, ready = dict[str, float](), dict[str, float]()
        for name, run in self.running.items():
            rest, since = self._whole(name, run.priors) - self._so_far(name), now - run.told
            running[name] = max(pace * rest - since, OVERDUE * (now - run.began))
            ready[name] = max(pace * (run.priors - self._so_far(name)) - since, 0.0)
        return self._until_the_last(running, ready, pace)

    def _until_the_last(self, running: dict[str, float], ready: dict[str, float], pace: float) -> float:
        """The moment at which all is done, from now. running: when each ends. ready: when its first priors are there."""
        clock, waiting = 0.0, [self.plans[name] for name in self.waiting]
        busy, made = {name: self.plans[name] for name in running}, set[Path]()

        def there(path: Path) -> bool:
            return path in made or self.made(path)

        while waiting or busy:
            made |= {path for name, plan in busy.items() if (path := plan.priors) and ready[name] <= clock}
            while len(busy) < self.workers and (plan := next_of(waiting, list(busy.values()), there)):
                waiting.remove(plan)
                own = 0.0 if plan.priors is None or there(plan.priors) else self.priors.get(plan.priors, 0.0)
                busy[plan.name], ready[plan.name] = plan, clock + pace * own
                running[plan.name] = clock + pace * self._whole(plan.name, own)
            moments = [*(running[name] for name in busy), *(ready[name] for name in busy if ready[name] > clock)]
            clock = max(clock, min(moments))
            for name in [name for name in busy if running[name] <= clock]:
                made |= {path for path in [busy.pop(name).priors] if path}
        return clock

    def _pace(self) -> float:
        """See the module."""
        runs = {name: run for name, run in self.running.items() if run.anew and self.plans[name].kind in self.times}
        taken = self.taken + sum(run.told - run.began for run in runs.values())
        return (T + taken) / (T + self.expected + sum(map(self._so_far, runs)))

    def _course(self, name: str) -> Course | None:
        """Of a job that finds its first priors made; that of the same method on other problems where it has none of its own."""
        plan = self.plans[name]
        course = self.times.get(plan.kind)
        if course is None:
            method = plan.kind.partition(" ")[2]
            others = [each for kind, each in self.times.items() if kind.partition(" ")[2] == method]
            course = middle(others) if others else None
        return course.after_priors() if course and plan.priors in self.priors else course

    def _whole(self, name: str, priors: float) -> float:
        """Seconds of a job that makes first priors, or of one that makes none, 0."""
        course = self._course(name)
        assert course is not None  # as `left` has seen
        return priors + course.seconds

    def _so_far(self, name: str) -> float:
        """Seconds that a job that runs was expected to take so far."""
        run, course = self.running[name], self._course(name)
        assert course is not None  # as above
        return run.priors * min(1.0, run.share / PRIORS) + course.at(run.share)
