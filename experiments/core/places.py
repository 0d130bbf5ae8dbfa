"""Where each job of an experiment keeps its files, and whether it is done.

seed-N/model/<problem>/<method>/          checkpoints, records, `key` (begun with), `done` (finished with, and the commit)
seed-N/model/<problem>/<method>-audit/    the same of its audit
seed-N/model/<problem>/estimate-<key>.pt  first priors that jobs share
seed-N/samples/<problem>/<method>.npz     what the figures show
"""

from __future__ import annotations

__all__ = [
    "Experiment",
    "estimate_path",
    "is_done",
    "key_of",
    "made_at",
    "name_of",
    "place_of",
    "samples_of",
]

from pathlib import Path

from experiments.core.cache import code_key, estimate_key, settings_key
from experiments.core.config import Job
from experiments.core.experiment import Experiment
from experiments.report.samples import samples_path


def place_of(job: Job, folder: Path) -> Path:
    """The folder of a job's state. folder: results/<experiment>/<preset>, here and below."""
    return folder / f"seed-{job.seed}" / "model" / job.problem / method_of(job)


def method_of(job: Job) -> str:
    """What a job's files are named after."""
    return f"{job.method}-audit" if job.audit else job.method


def key_of(experiment: Experiment, job: Job) -> str:
    """Settings and code, see `cache`."""
    return f"{settings_key(job, experiment.data)}-{code_key(job, experiment.data)}"


def done_of(job: Job, folder: Path) -> tuple[str, str]:
    """The key that a job was finished with, and the commit of the code that did it; empty where it is not."""
    path = place_of(job, folder) / "done"
    key, _, commit = path.read_text().partition(" ") if path.exists() else ("", "", "")
    return key, commit


def is_done(experiment: Experiment, job: Job, folder: Path) -> bool:
    """Whether a job was finished with these settings by this code."""
    return done_of(job, folder)[0] == key_of(experiment, job)


def made_at(experiment: Experiment, job: Job, folder: Path) -> str:
    """The commit whose code has finished this job with these settings, if any has."""
    key, commit = done_of(job, folder)
    return commit if key.partition("-")[0] == settings_key(job, experiment.data) else ""


def name_of(job: Job) -> str:
    """A job in words."""
    return f"{job.problem} {job.method} seed {job.seed}{' audit' if job.audit else ''}"


def estimate_path(experiment: Experiment, job: Job, folder: Path) -> Path:
    """Where the first priors that a job starts from are kept."""
    key = estimate_key(job, experiment.data)
    return folder / f"seed-{job.seed}" / "model" / job.problem / f"estimate-{key}.pt"


def samples_of(job: Job, folder: Path) -> Path:
    """What the figures show of a job."""
    return samples_path(folder, job.seed, job.problem, method_of(job))
