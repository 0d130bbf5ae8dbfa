"""metrics.jsonl: all records of one seed, a line each, from which its part of the table is made.

    {"seed": 0, "problem": "mixed-0.1", "method": "joint", "source": "1", "metric": "posterior_psnr", "split": "fresh",
     "lap": null, "value": 40.2, "samples": 2048, "commit": "ac466815d62c"}

lap: null for a final number. value: null or NaN where a run diverged. commit: of the code that made the number.
The file is written whole or not at all: one that ends within a line has been cut since, and what is missing is unknown.
"""

from __future__ import annotations

__all__ = ["Records", "read_metrics", "read_seeds", "remedy", "write_metrics"]

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text

Records = list[dict[str, Any]]
FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("problem", "method", "source", "metric", "split", "commit"), (str,)),
    "seed": (int,),
    "lap": (int, type(None)),
    "value": (int, float, type(None)),
    "samples": (int, type(None)),
}


def write_metrics(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the records of a seed, whole or not at all."""
    atomic_write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def read_metrics(path: Path, seed: int) -> Records:
    """Return the records of a seed.

    Raises:
        MvssError: the file is missing, empty or cut, or a line is no record of this seed.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise MvssError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise MvssError(f"{path} is not text: {remedy(path)}") from error
    if lines.pop():  # what follows the last newline
        raise MvssError(f"{path} ends within line {len(lines) + 1}: {remedy(path)}")
    if not lines:
        raise MvssError(f"{path} is empty: {remedy(path)}")
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None or record["seed"] != seed:
            raise MvssError(f"{path}, line {number}, is no record of seed {seed}: {remedy(path)}")
        records.append(record)
    return records


def read_seeds(folder: Path, seeds: Iterable[int] | None = None) -> dict[int, Records]:
    """Return the records of some seeds of a folder of results, or of all that it has, by seed.

    Raises:
        MvssError: see `read_metrics`; or there is no seed.
    """
    if seeds is None:
        names = (path.parent.name.removeprefix("seed-") for path in folder.glob("seed-*/metrics.jsonl"))
        seeds = [int(name) for name in names if name.isdecimal()]
    records = {seed: read_metrics(folder / f"seed-{seed}" / "metrics.jsonl", seed) for seed in sorted(seeds)}
    if not records:
        what = "name a folder results/<experiment>/<preset> of a finished run"
        raise MvssError(f"{folder} has no seed-*/metrics.jsonl: {what}")
    return records


def _parse(line: str) -> dict[str, Any] | None:
    """The record of a line, if it is one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and all(isinstance(record.get(name, ...), types) for name, types in FIELDS.items())
    return record if whole else None


def remedy(path: Path) -> str:
    """What to do about a damaged file of results."""
    return f"bring it back (git checkout {path}), or make the results again"
