"""Runs that are killed at random moments and go on must end in the tables of runs that were not.

    python tests/kills.py [--kills 60] [--seed 0] [--experiments manifolds mnist_grass galaxies] [--methods joint ...]
                          [-- ARGS of the runs]

Each time a smoke run is begun in a new folder, killed, begun again and left to finish. What is killed is the command or
one of its workers, by SIGKILL, SIGTERM or Ctrl-C, at a random time, or between a write and its rename after one. Said of
each: whether it ended as it should, without a traceback or an orphan; whether the second run left a lock or an unfinished
file; and which rows of the table differ, times and memory aside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ("manifolds", "mnist_grass", "galaxies")
MACHINE = ("seconds", "memory")
"""In the names of metrics that differ between two runs."""
SLOW = 3600.0
"""Seconds that no run takes."""
Row = tuple[str, ...]


class Kill(NamedTuple):
    """worker: one of them, not the command. moment: seconds from the start. writing: at the first write from then on."""

    number: signal.Signals
    worker: bool
    moment: float
    writing: bool

    @property
    def statuses(self) -> tuple[int, ...]:
        """How the command may end. SIGTERM may come before it is listened to."""
        if self.worker:
            return (2, 0)  # one that is idle is not missed
        return {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGINT: (130,)}[self.number]


def main(arguments: Sequence[str] | None = None) -> int:
    """How many of the kills went wrong."""
    parser = argparse.ArgumentParser(description="kill smoke runs at random")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--methods", nargs="+", default=[], help="of the runs; all of them by default")
    parser.add_argument("overrides", nargs="*", help="after --: settings of the runs")
    options = parser.parse_args(arguments)
    rng, wrong = random.Random(options.seed), 0
    narrowed = ["--methods", *options.methods] if options.methods else []
    words = [*narrowed, "--", *options.overrides]
    with tempfile.TemporaryDirectory() as folder:
        whole = {name: _whole(name, Path(folder) / "whole", words) for name in options.experiments}
        for number in range(options.kills):
            name = options.experiments[number % len(options.experiments)]
            seconds, table = whole[name]
            kill, home = drawn(rng, seconds), Path(folder) / str(number)
            faults = _once(name, home, words, kill, table)
            print(f"{number + 1}/{options.kills} {name} {kill}: {'; '.join(faults) or 'well'}", flush=True)
            wrong += bool(faults)
            shutil.rmtree(home)
    return wrong


def drawn(rng: random.Random, seconds: float) -> Kill:
    """A kill within the time that a run takes."""
    number, worker = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)), rng.random() < 0.3
    number = signal.SIGKILL if worker and number == signal.SIGINT else number  # which workers do not hear
    return Kill(number, worker, rng.uniform(0, seconds), rng.random() < 0.5)


def _whole(name: str, home: Path, words: Sequence[str]) -> tuple[float, dict[Row, Any]]:
    """Seconds and table of a run that nobody kills."""
    began = time.monotonic()
    run = _start(name, home, words)
    _, error = run.communicate(timeout=SLOW)
    if run.returncode != 0:
        raise SystemExit(f"{name} does not run at all: {error}")
    return time.monotonic() - began, _table(home, name)


def _once(name: str, home: Path, words: Sequence[str], kill: Kill, table: dict[Row, Any]) -> list[str]:
    """One kill; what went wrong."""
    run, workers = _start(name, home, words), set[int]()
    try:
        hit = _killed(run, home, kill, workers)
        _, error = run.communicate(timeout=60)
    finally:
        run.kill()
    faults = ["an orphan"] if not _until(lambda: not any(map(_alive, workers)), 3) else []
    if hit and (run.returncode not in kill.statuses or "Traceback" in error):
        faults.append(f"ended with {run.returncode}: {error.strip()}")
    again = _start(name, home, words)
    _, error = again.communicate(timeout=SLOW)
    if again.returncode != 0:
        return [*faults, f"does not go on: {error.strip()}"]
    faults += [f"left {path.name}" for path in home.rglob("*") if path.name == "lock" or path.suffix == ".tmp"]
    found = _table(home, name)
    differing = sorted(row for row in table.keys() | found.keys() if table.get(row) != found.get(row))
    return faults + ([f"{len(differing)} rows differ, such as {differing[0]}"] if differing else [])


def _start(name: str, home: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"experiments.{name}", "--preset", "smoke", "--out", str(home), *words]
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams)


def _killed(run: subprocess.Popen[str], home: Path, kill: Kill, workers: set[int]) -> bool:
    """Wait for the moment and kill; False where the run has ended before. workers: takes all that were seen."""
    end = time.monotonic() + kill.moment
    while run.poll() is None:
        workers |= (current := _workers(run.pid))
        due = time.monotonic() >= end and (not kill.writing or next(home.rglob("*.tmp"), None))
        if due and (current or not kill.worker):
            if kill.number == signal.SIGINT:
                os.killpg(run.pid, signal.SIGINT)  # as a terminal does
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(max(current) if kill.worker else run.pid, kill.number)
            return True
        time.sleep(0.001)
    return False


def _workers(process: int) -> set[int]:
    """The workers of a command, as Linux knows them."""
    found = set()
    for child in _read(f"/proc/{process}/task/{process}/children").split():
        if "experiments.core.workers" in _read(f"/proc/{child}/cmdline"):
            found.add(int(child))
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:  # it has ended
        return ""


def _alive(process: int) -> bool:
    """Whether it runs, and is not only waited for."""
    return _read(f"/proc/{process}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"])


def _until(what: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


def _table(home: Path, name: str) -> dict[Row, Any]:
    """Rows of a run's table, but for times and memory."""
    (path,) = (home / name / "smoke").rglob("table.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    kept = (row for row in rows if not any(word in row["metric"] for word in MACHINE))
    return {tuple(row[key] for key in ("problem", "method", "source", "metric")): row for row in kept}


if __name__ == "__main__":
    raise SystemExit(main() > 0)
