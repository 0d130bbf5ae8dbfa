"""The table of results that are kept, made from each seed's metrics.jsonl and config.yaml alone.

    results/<experiment>/<preset>/seed-*/{metrics.jsonl, config.yaml}  →  table.json, table.md

python -m experiments.report.rebuild [results/<experiment>/<preset> ...]        (make tables)

A run ends with the same step, so that a fresh clone has the table that the run had. Without a folder: of all presets
that are published in results/.
"""

from __future__ import annotations

__all__ = ["OVERRIDES", "experiment_named", "experiment_of", "main", "rebuild"]

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import yaml

from experiments.report.commands import command_text, made_by
from experiments.report.metrics import Records, read_seeds, remedy
from experiments.report.tables import build_table, write_table
from mvss.runtime.errors import MvssError

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = "overrides-"
"""How the folder of a run with overrides begins; it lies in that of the preset."""


class Experiment(Protocol):
    """What a table needs of its experiment. name: of the results folder. target: of make. caption, sought: see
    `tables.write_table`."""

    @property
    def name(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def caption(self) -> str: ...

    @property
    def sought(self) -> str | None: ...


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit status. root: the folder that holds results/."""
    named = [Path(name) for name in (sys.argv[1:] if arguments is None else arguments)]
    folders = named or sorted({path.parents[1] for path in root.glob("results/*/*/seed-*/metrics.jsonl")})
    try:
        for folder in folders:
            rebuild(experiment_of(folder), folder, read_seeds(folder))
            print(f"table:   {folder / 'table.md'}")
    except MvssError as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    if not folders:
        print(f"tables:  {root / 'results'} has none: run an experiment first, such as make manifolds")
    return 0


def rebuild(
    experiment: Experiment, folder: Path, records: Mapping[int, Records], overrides: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write table.json and table.md into a folder of results, and return the table.

    Arguments:
        experiment: that made the results.
        folder: results/<experiment>/<preset>, or overrides-<hash> in it.
        records: of each seed, as `metrics.read_seeds` returns them.
        overrides: the run's; None where they are not known: records do not tell them, the old table's command is kept.

    Raises:
        MvssError: seeds that have other settings have no mean; overrides that nothing tells; a file cannot be written.
    """
    config = _shared_config(folder, list(records))
    overridden = folder.resolve().name.startswith(OVERRIDES)
    preset = (folder.resolve().parent if overridden else folder.resolve()).name
    if overridden and overrides is None:
        command = _command_of(folder / "table.json")
    else:
        targets = made_by(experiment.target, config, chain.from_iterable(records.values()))
        command = " and ".join(command_text(target, preset, records, overrides or ()) for target in targets)
    table = build_table(experiment.name.replace("-", "_"), preset, records, command)
    write_table(folder, table, experiment.caption, experiment.sought)
    return table


def experiment_of(folder: Path) -> Any:  # noqa: ANN401 - as below
    """The experiment whose results a folder holds."""
    path = folder.resolve()
    return experiment_named((path.parent if path.name.startswith(OVERRIDES) else path).parent.name, folder)


def experiment_named(name: str, folder: Path) -> Any:  # noqa: ANN401 - core's Experiment, which is above this room
    """An experiment by the name of its folder. folder: of results, for the error."""
    if not (ROOT / "experiments" / name / "__main__.py").is_file():
        raise MvssError(f"{folder} is of no experiment: name a folder results/<experiment>/<preset>")
    return importlib.import_module(f"experiments.{name}.__main__").EXPERIMENT


def _shared_config(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """The content of config.yaml, which all seeds have in common."""
    paths = [folder / f"seed-{seed}" / "config.yaml" for seed in seeds]
    contents = [_configuration(path) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        if content != contents[0]:
            raise MvssError(f"{path} differs from {paths[0]}, so they have no mean: run both again, or delete one")
    return contents[0]


def _configuration(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MvssError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise MvssError(f"{path} is not valid YAML: {remedy(path)}") from error
    if not isinstance(content, dict):
        raise MvssError(f"{path} is no configuration: {remedy(path)}")
    return content


def _command_of(path: Path) -> str:
    """The command that an old table.json names."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["command"])
    except OSError as error:
        raise MvssError(f"cannot read {path}, which alone knows the ARGS of that run: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MvssError(f"{path} names no command, and alone knows the ARGS of that run: make it again") from error


if __name__ == "__main__":
    sys.exit(main())
