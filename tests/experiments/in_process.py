"""Jobs of an experiment one after the other in this process: no worker has to import everything, or learn its classifier."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.core import scheduler
from experiments.core.config import Job
from experiments.core.places import Experiment, key_of


def run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of worker processes."""

    def run_all(experiment: Experiment, jobs: list[Job], folder: Path, _: object) -> None:
        for job in jobs:
            scheduler._work(experiment, job, folder, key_of(experiment, job), "unknown", lambda *_: None)

    monkeypatch.setattr("experiments.core.loop.run_all", run_all)
