"""What a run shows of itself: a bar in a terminal; in a log a line for each finished job, and one where nothing has ended
for long. Both say what runs, in which phase, how much time has gone by and about how much is left."""

from __future__ import annotations

__all__ = ["Progress"]

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from experiments.core.durations import words
from experiments.core.forecast import Forecast
from experiments.core.workers import Ended, Told

SILENT = 600.0
"""Seconds after which a log has a line though no job has ended."""


class Progress:
    """forecast: of all jobs, which is kept up here. now: a clock, in seconds."""

    def __init__(self, forecast: Forecast, now: Callable[[], float] = time.monotonic) -> None:
        self.forecast, self.now = forecast, now
        self.began = self.said = now()
        self.jobs, self.phases = len(forecast.plans), dict[str, str]()
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(total=1.0, bar_format="{percentage:3.0f}% |{bar:20}| {desc}", disable=not self.terminal)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def start(self, name: str, anew: bool) -> None:
        """A job begins; anew: not where it was interrupted."""
        self.forecast.start(name, self.now(), anew)
        self.phases[name] = "start"

    def note(self, name: str, event: Told | Ended) -> None:
        """A job has come so far, or has ended."""
        if isinstance(event, Told):
            self.forecast.tell(name, event.done, self.now())
            self.phases[name] = event.phase
            return
        self.forecast.end(name, self.now())
        del self.phases[name]
        if event.error is not None:
            self.bar.write(f"{name} failed: {event.error}", file=sys.stderr)
        elif not self.terminal:
            self._say(f"{name}: done")

    def show(self) -> None:
        """As it is now."""
        if self.terminal:
            gone, left = self.now() - self.began, self.forecast.left(self.now())
            share = self._done() / self.jobs if left is None else gone / max(gone + left, 1e-9)
            self.bar.set_description_str(f"{self._times()}; {self._running()}", refresh=False)
            self.bar.n = share
            self.bar.refresh()
        elif self.now() - self.said > SILENT:
            self._say("nothing has ended")

    def _say(self, what: str) -> None:
        self.said = self.now()
        rest = f"; running: {self._running()}" if self.phases else ""
        print(f"{self._done()}/{self.jobs} {what}; {self._times()}{rest}", file=sys.stderr, flush=True)

    def _times(self) -> str:
        left = self.forecast.left(self.now())
        rest = "how much is left nobody has measured" if left is None else f"about {words(left)} left"
        return f"{words(self.now() - self.began)} gone, {rest}"

    def _running(self) -> str:
        return ", ".join(f"{name} ({phase})" for name, phase in self.phases.items())

    def _done(self) -> int:
        return self.jobs - len(self.forecast.waiting) - len(self.forecast.running)
