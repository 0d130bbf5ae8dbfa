"""What a job's result depends on: when any of it changes, the job is stale.

key = hash(job, its part of the configuration, the sources of the modules that its work imports)
"""

from __future__ import annotations

__all__ = ["code_key", "estimate_key", "settings_key", "sources_of", "work_of"]

import ast
import hashlib
import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from experiments.core.audit import run_audit
from experiments.core.baselines import run_baseline
from experiments.core.config import AuditConfig, Config, Job, Recipe
from experiments.core.experiment import folder_of
from experiments.core.run import run_job
from mvss.estimation.estimate import estimate_sources
from mvss.presets.estimation import AscentConfig
from mvss.presets.settings import EMConfig, Settings
from mvss.presets.training import TrainingConfig
from mvss.runtime import fingerprint
from mvss.runtime.fingerprint import code_of, parsed

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("experiments", "mvss")
SILENT = ("experiments.core.records",)
"""Modules that decide no number."""


def work_of(job: Job) -> Callable[..., dict[str, NDArray[Any]]]:
    """The function that does a job's work; its module and what that imports decide the result."""
    if job.audit:
        return run_audit
    return run_baseline if job.recipe.baseline else run_job


def settings_key(job: Job, data: Path) -> str:
    """Hash of the job, of the modules of its experiment that make its data, and of the settings that its result depends
    on, as far as they differ from their defaults: a setting that is new, at its default, makes no other job of an old
    one, and a default that changes is a change of code."""
    config, recipe = _settings(job)
    content = [job.problem, job.method, job.seed, job.audit, _said(recipe), _said(config), _makers(data)]
    if brought := job.config.brought(job.problem):
        content.append(brought)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _said(value: object) -> object:
    """Plain values of a configuration, without those that are the defaults of their class."""
    if is_dataclass(value):
        said = {}
        for field in fields(value):
            own = getattr(value, field.name)
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if own != default:
                said[field.name] = _said(own)
        return {type(value).__name__: said}
    if isinstance(value, dict):
        return {key: _said(item) for key, item in value.items()}
    return [_said(item) for item in value] if isinstance(value, (list, tuple)) else value


def code_key(job: Job, data: Path) -> str:
    """Hash of the code that its result depends on. data: the experiment's module that makes its tasks."""
    return _code_hash(work_of(job).__module__, data)


def estimate_key(job: Job, data: Path) -> str:
    """The same for the first priors that a job starts from, which jobs share, and their audits."""
    shared = {field.name for field in fields(Config)}
    made = {field.name: getattr(job.config, field.name) for field in fields(job.config) if field.name not in shared}
    content = [_said(job.recipe.settings.estimation), job.config.observations, job.recipe.share, job.recipe.clean]
    content += [_said(made), job.config.brought(job.problem), _code_hash(estimate_sources.__module__, data)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _settings(job: Job) -> tuple[Config, Recipe]:
    """Configuration and recipe with what does not matter to this job at its default."""
    recipe = replace(job.recipe, problems=None)
    config = replace(job.config, settings=Settings(), problems=(), methods={}, compare={}, ablations={}, workers=1)
    if not job.audit:
        config = replace(config, audit=AuditConfig())
    settings = recipe.settings
    if recipe.baseline:
        settings = Settings()
    elif settings.prior.network is None:
        settings = replace(settings, training=TrainingConfig(), em=EMConfig())
    if recipe.truth:
        settings = replace(settings, estimation=AscentConfig())
    return config, replace(recipe, settings=settings)


@cache
def _makers(data: Path) -> str:
    """The code of the experiment that makes its data."""
    return "".join(ast.dump(parsed(path)) for path in sources_of(data) if path.is_relative_to(folder_of(data)))


def _code_hash(module: str, data: Path) -> str:
    return code_of(module, _name(data), packages=PACKAGES, silent=SILENT)


def sources_of(*modules: Path) -> list[Path]:
    """These files of the project and those that they import, at any depth, but for what decides no number."""
    return sorted(fingerprint.sources_of(*map(_name, modules), packages=PACKAGES, silent=SILENT).values())


def _name(module: Path) -> str:
    """Of a file of the project, as a module."""
    return ".".join(module.relative_to(ROOT).with_suffix("").parts)
