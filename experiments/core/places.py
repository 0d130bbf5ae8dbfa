"""Where each job of an experiment keeps its files.

seed-N/model/<problem>/<method>/          checkpoints, records, `key` (begun with), `done` (`finished`)
seed-N/model/<problem>/<method>-audit/    the same of its audit
seed-N/model/<problem>/estimate-<key>.safetensors  first priors that jobs share
seed-N/samples/<problem>/<method>.npz     what the figures show
"""

from __future__ import annotations

__all__ = [
    "Experiment",
    "estimate_path",
    "jobs_of",
    "key_of",
    "kind_of",
    "name_of",
    "place_of",
    "samples_of",
]

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.core.cache import code_key, estimate_key, settings_key
from experiments.core.config import Config, Job
from experiments.core.experiment import Experiment
from experiments.report.samples import samples_path


def jobs_of(config: Config, seeds: Sequence[int], ablations: bool = False, audit: bool = False) -> list[Job]:
    """All jobs of a command, those that others wait for first."""
    jobs = []
    for seed in seeds:
        for problem in config.problems:
            recipes = config.methods | (config.ablations if ablations else {})
            here = [name for name, r in recipes.items() if r.problems is None or problem in r.problems]
            jobs += [config.job(problem, name, seed) for name in here]
    audited = [job for job in jobs if job.method in config.audit.methods] if audit else []
    return jobs + [replace(job, audit=True) for job in audited]


def place_of(job: Job, folder: Path) -> Path:
    """The folder of a job's state. folder: of the run, results/runs/<experiment>/<preset>, here and below."""
    return folder / f"seed-{job.seed}" / "model" / job.problem / method_of(job)


def method_of(job: Job) -> str:
    """What a job's files are named after."""
    return f"{job.method}-audit" if job.audit else job.method


def key_of(experiment: Experiment, job: Job) -> str:
    """Settings and code, see `cache`."""
    return f"{settings_key(job, experiment.data)}-{code_key(job, experiment.data)}"


def name_of(job: Job) -> str:
    """A job in words."""
    return f"{job.problem} {job.method} seed {job.seed}{' audit' if job.audit else ''}"


def kind_of(job: Job) -> str:
    """A job in words, whatever its seed."""
    return f"{job.problem} {method_of(job)}"


def estimate_path(experiment: Experiment, job: Job, folder: Path) -> Path:
    """Where the first priors that a job starts from are kept."""
    key = estimate_key(job, experiment.data)
    return folder / f"seed-{job.seed}" / "model" / job.problem / f"estimate-{key}.safetensors"


def samples_of(job: Job, folder: Path) -> Path:
    """What the figures show of a job."""
    return samples_path(folder, job.seed, job.problem, method_of(job))
