"""The command that makes results again, told from their configuration and records."""

from __future__ import annotations

__all__ = ["command_text", "made_by"]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.report.tables import is_audit


def command_text(target: str, preset: str, seeds: Iterable[int], overrides: Sequence[str] = ()) -> str:
    """Return a command as it is typed. target: of make."""
    command = f'make {target} PRESET={preset} SEEDS="{" ".join(map(str, seeds))}"'
    return command + (f' ARGS="{" ".join(overrides)}"' if overrides else "")


def made_by(target: str, config: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the targets that make all of these records. target: of the experiment. config: what config.yaml holds."""
    methods, metrics = set(), set()
    for record in records:
        methods.add(record["method"])
        metrics.add(record["metric"])
    kinds = {"ablations": bool(methods & set(config.get("ablations") or ())), "audit": any(map(is_audit, metrics))}
    return [target, *(f"{target}-{kind}" for kind, made in kinds.items() if made)]
