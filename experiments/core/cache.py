"""What a job's result depends on: when any of it changes, the job is stale.

key = hash(job, its part of the configuration, the sources of the modules that its work imports)
"""

from __future__ import annotations

__all__ = ["code_key", "estimate_key", "folder_of", "settings_key", "sources_of", "work_of"]

import ast
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from experiments.core.audit import run_audit
from experiments.core.baselines import run_baseline
from experiments.core.config import AuditConfig, Config, Job, Recipe
from experiments.core.run import run_job
from mvss.estimation.estimate import estimate_sources
from mvss.presets.estimation import AscentConfig
from mvss.presets.settings import EMConfig, Settings
from mvss.presets.training import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
SILENT = ("experiments/core/records.py",)
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


def folder_of(data: Path) -> Path:
    """The folder of the experiment whose tasks are made in the file `data`."""
    return next(folder for folder in data.parents if folder.parent.name == "experiments")


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
    return _code_hash(work_of(job).__module__, data)[:32]


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
    return "".join(ast.dump(_parsed(path)) for path in sources_of(data) if path.is_relative_to(folder_of(data)))


@cache  # once, on the way in: an edit during a run must not pass for the code that ran
def _code_hash(module: str, data: Path) -> str:
    digest = hashlib.sha256()
    for path in sources_of(ROOT / f"{module.replace('.', '/')}.py", data):
        digest.update(ast.dump(_parsed(path)).encode())  # comments and layout decide nothing
    return digest.hexdigest()


def _parsed(path: Path) -> ast.Module:
    """The code of a file without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return tree


def sources_of(*modules: Path) -> list[Path]:
    """These files of the project and those that they import, at any depth, but for what decides no number."""
    found, waiting = set(), list(modules)
    while waiting:
        path = waiting.pop()
        if path not in found and path.relative_to(ROOT).as_posix() not in SILENT:
            found.add(path)
            waiting += _imports(path)
    return sorted(found)


def _imports(path: Path) -> Iterator[Path]:
    """The project's files that a file imports, wherever in it."""
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            place = ROOT / name.replace(".", "/")
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if file.is_file():
                    yield file
