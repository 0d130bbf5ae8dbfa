"""Rows that are published already, and stay beside those of a new run: what a preset still asks for as it did then."""

from __future__ import annotations

__all__ = ["Kind", "asks_the_same", "kept_rows", "kind_of"]

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.core.cache import settings_key
from experiments.core.config import Config
from experiments.core.places import Experiment
from experiments.report.metrics import read_metrics
from experiments.report.tables import is_audit
from mvss.presets.reader import build_config
from mvss.runtime.errors import MvssError

Kind = tuple[int, str, str, bool]
"""Seed, problem, method, whether of an audit."""


def kept_rows(experiment: Experiment, config: Config, target: Path, done: Collection[Kind]) -> dict[int, list[dict[str, Any]]]:
    """Published records of jobs that a run has not done, and that are asked for as they were then, by seed.

    config: what is asked for now. target: what is published. done: what the run has done.
    """
    kept: dict[int, list[dict[str, Any]]] = {}
    for home in sorted(target.glob("seed-*")):
        if not all((home / name).exists() for name in ("metrics.jsonl", "config.yaml")):
            continue
        before = _published(experiment, home / "config.yaml")
        if before is None:
            continue
        seed = int(home.name.removeprefix("seed-"))
        records = [record for record in read_metrics(home / "metrics.jsonl", seed) if kind_of(record) not in done]
        same = {kind for kind in map(kind_of, records) if asks_the_same(experiment, before, config, kind)}
        if records := [record for record in records if kind_of(record) in same]:
            kept[seed] = records
    return kept


def _published(experiment: Experiment, path: Path) -> Config | None:
    """A configuration without the methods that have settings which there are no more; None where more is wrong."""
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        return None
    if not isinstance(values, dict):
        return None
    groups = {group: values.get(group) or {} for group in ("methods", "ablations")}
    alone = {name: {**values, "methods": {name: own[name]}, "ablations": {}} for own in groups.values() for name in own}
    known = {name for name, one in alone.items() if _read(experiment, one, path)}
    for group, own in groups.items():
        values[group] = {n: recipe for n, recipe in own.items() if n in known and (recipe.get("fit") or n) in known}
    return _read(experiment, values, path)


def _read(experiment: Experiment, values: dict[str, Any], path: Path) -> Config | None:
    try:
        return build_config(experiment.schema, values, str(path))
    except MvssError:
        return None


def kind_of(record: Mapping[str, Any]) -> Kind:
    """Of what job a record is."""
    return record["seed"], record["problem"], record["method"], is_audit(record["metric"])


def asks_the_same(experiment: Experiment, before: Config, now: Config, kind: Kind) -> bool:
    """Whether two configurations say the same of a job."""
    seed, problem, method, audit = kind
    if not all(method in config.recipes() for config in (before, now)):
        return False
    jobs = [config.job(problem, method, seed, audit) for config in (before, now)]
    return len({settings_key(job, experiment.data) for job in jobs}) == 1
