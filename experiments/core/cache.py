"""What a job's result depends on: when any of it changes, the job is stale.

    settings = hash(what the job receives, the modules that make its data)
    code     = hash(the module of its work, those that its settings name, and all that these import)

A job receives its configuration without what is for others, and every value that it receives is in the hash, defaults
too. Settings say which module implements them (`implementation`), and only that one is imported: a change of CLVM is
none for Gibbs.
"""

from __future__ import annotations

__all__ = ["code_key", "estimate_key", "received", "settings_key", "work_of"]

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from numpy.typing import NDArray

from experiments.core.audit import run_audit
from experiments.core.baselines import run_baseline
from experiments.core.config import AuditConfig, Config, Job, Recipe
from experiments.core.experiment import folder_of
from experiments.core.floor import FLOOR, run_floor
from experiments.core.run import run_job
from experiments.core.separation import run_separation
from mvss.estimation.estimate import estimate_sources
from mvss.presets.estimation import AscentConfig
from mvss.presets.settings import EMConfig, Settings
from mvss.presets.training import TrainingConfig
from mvss.runtime.fingerprint import code_of, digest, sources_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("experiments", "mvss")
SILENT = ("experiments.core.records",)
"""Modules that decide no number."""


def work_of(job: Job) -> Callable[..., dict[str, NDArray[Any]]]:
    """The function that does a job's work; its module and what that imports decide the result."""
    if job.audit:
        return run_audit
    if job.fitted is not job:
        return run_separation
    if job.recipe.model == FLOOR:
        return run_floor
    return run_baseline if job.recipe.baseline else run_job


def received(job: Job) -> Job:
    """The job as it is run: with everything that is for other jobs at its default, so that it cannot matter."""
    config = replace(job.config.of_a_job(job.problem), settings=Settings(), problems=(), methods={}, ablations={}, workers=1)
    if not job.audit:
        config = replace(config, audit=AuditConfig())
    settings = job.recipe.settings
    if job.recipe.baseline:
        settings = Settings()
    elif job.fitted is not job and not job.audit:
        settings = Settings(separation=settings.separation if job.recipe.fit else None)
    elif settings.prior.network is None:
        # what is held out is held out from the first priors, which are shared
        settings = replace(settings, training=TrainingConfig(), em=EMConfig(held_out=settings.em.held_out))
    if job.recipe.truth:
        settings = replace(settings, estimation=AscentConfig(), em=EMConfig())
    return replace(job, config=config, recipe=replace(job.recipe, problems=None, settings=settings))


def settings_key(job: Job, data: Path) -> str:
    """Hash of what the job receives, of what a user brought for it, and of the code of its experiment that makes its data,
    in the module `data`; and the same of the job that has learned what it looks at."""
    own = digest(received(job), job.config.brought(job.problem), _makers(data))
    return own if job.fitted is job else digest(own, settings_key(job.fitted, data))


def code_key(job: Job, data: Path) -> str:
    """Hash of the code that the job can run, and of that which has learned what it looks at."""
    own = received(job)
    settings = own.recipe.settings
    learned = (settings.prior, settings.posterior, settings.separation, None if own.recipe.truth else settings.estimation)
    used = (own.recipe.pcpca, own.recipe.clvm) if own.recipe.baseline else learned
    code = _code(work_of(job).__module__, data, own, used)
    return code if job.fitted is job else digest(code, code_key(job.fitted, data))


def estimate_key(job: Job, data: Path) -> str:
    """Hash of settings and code of the first priors that a job starts from, which jobs share, and their audits."""
    shared = {field.name for field in fields(Config)}
    made = {field.name: getattr(job.config, field.name) for field in fields(job.config) if field.name not in shared}
    own = received(job)
    settings = own.recipe.settings.estimation
    seen = (own.config.observations, own.recipe.share, own.recipe.clean, own.recipe.settings.em.held_out)
    content = (settings, *seen, made, own.config.brought(job.problem))
    return digest(content, _code(estimate_sources.__module__, data, (settings, own.config), settings))[:16]


def _code(work: str, data: Path, settings: object, used: object) -> str:
    """Of a module, of that which makes the data, and of those that settings name which it runs by, `used`. A module of settings
    counts where there is a value of its classes: their checks and properties may decide something then."""
    parts = list(_parts(settings))
    named = {part.implementation.partition(":")[0] for part in _parts(used) if hasattr(type(part), "implementation")}
    schemas = {schema for part in parts if isinstance(part, Config) for schema in _schemas(type(part))}
    silent = schemas - {type(part).__module__ for part in parts}
    return code_of(work, _name(data), *sorted(named), packages=PACKAGES, silent=(*SILENT, *sorted(silent)))


def _parts(value: Any) -> Iterator[Any]:  # noqa: ANN401 - settings, and what holds them
    """All dataclasses that a value is made of."""
    if is_dataclass(value):
        yield value
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)


def _schemas(schema: type) -> frozenset[str]:
    """The modules of all classes that a configuration may hold."""
    found, waiting = set[type](), [schema, Recipe]
    while waiting:
        hint = waiting.pop()
        if isinstance(hint, type) and is_dataclass(hint) and hint not in found:
            found.add(hint)
            waiting += get_type_hints(hint).values()
        else:
            waiting += get_args(hint)
    return frozenset(each.__module__ for each in found)


def _makers(data: Path) -> str:
    """The code of the experiment that makes its data, without what that imports of others."""
    own = sources_of(_name(data), packages=PACKAGES, silent=SILENT)
    inside = _name(folder_of(data))
    others = tuple(name for name in own if not name.startswith(f"{inside}."))
    return code_of(_name(data), packages=PACKAGES, silent=others)


def _name(module: Path) -> str:
    """Of a file or folder of the project, as a module."""
    return ".".join(module.relative_to(ROOT).with_suffix("").parts)
