"""How far a long task is, by named phases: a bar in a terminal, a line a phase in a log."""

from __future__ import annotations

__all__ = ["Phases"]

import sys
import time

from tqdm import tqdm

LAYOUT = "{desc:>12} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"


class Phases:
    """verbose: whether anything is printed, on stderr."""

    def __init__(self, verbose: bool) -> None:
        self.verbose, self.name, self.bar = verbose, "", None
        self.began = self.since = time.monotonic()
        self.spent: dict[str, float] = {}

    def tell(self, name: str, done: float) -> None:
        """The fraction of a phase that is done; phases follow each other."""
        if name != self.name:
            self.close()
            self.name, self.since = name, time.monotonic()
            if self.verbose and sys.stderr.isatty():
                self.bar = tqdm(total=1.0, desc=name, bar_format=LAYOUT)
        if self.bar is not None:
            self.bar.n = min(done, 1.0)
            self.bar.refresh()

    def close(self) -> None:
        """End the phase that is on."""
        if self.name:
            self.spent[self.name] = self.spent.get(self.name, 0.0) + time.monotonic() - self.since
            if self.bar is not None:
                self.bar.close()
                self.bar = None
            elif self.verbose:
                print(f"{self.name}: {self.spent[self.name]:.0f} s", file=sys.stderr, flush=True)
        self.name = ""

    def seconds(self) -> dict[str, float]:
        """What each phase has taken."""
        self.close()
        return dict(self.spent)
