"""What a run leaves behind: records as JSON lines, and the machine and code that made them.

    metrics.jsonl:  {"lap": 0, "metric": ..., ...}\\n  {"lap": 1, ...}\\n  ...

One line per record, on the disk before the next is made: a kill or a power cut costs at most the line that was being
written, and what is saved later never knows of records that are not there.
"""

from __future__ import annotations

__all__ = ["Records", "environment", "read_records"]

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mvss.runtime.errors import MvssError

PACKAGES = ("mvss", "torch", "numpy", "scipy", "diffusers", "accelerate", "scikit-learn", "POT", "pqm", "omegaconf")


class Records:
    """An append-only file of records, one JSON object a line.

    Args:
        path: the file; it and its folders are made by the first record.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def append(self, record: dict[str, Any]) -> None:
        """Append one record (JSON values, arrays, tensors), to the disk; a line that a kill cut short is dropped first.

        Raises:
            MvssError: the file cannot be written.
        """
        line = json.dumps(record, default=lambda value: value.tolist()).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                _repair(file)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MvssError(f"cannot append to {self.path}: {error.strerror or error}") from error


def read_records(path: Path | str) -> list[dict[str, Any]]:
    """Return the records of a file, oldest first; none where there is no file. An unfinished last line is left out.

    Raises:
        MvssError: a line other than the last is not a JSON object.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is not None:
            records.append(record)
        elif line and number < len(lines):
            raise MvssError(
                f"{path}, line {number}, is not a JSON object: delete {path.parent}, and the same command makes that job anew"
            )
    return records


def environment() -> dict[str, Any]:
    """Return where and by what a run was made: versions, machine, git commit (None outside a checkout of mvss)."""
    commit, dirty = _git_state()
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": commit,
        "dirty": dirty,
    }


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _repair(file: BinaryIO) -> None:
    """End the file with a newline: finish a last line that is whole, drop one that is not."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    if _parse(content[start:]) is None:
        file.truncate(start)
    else:
        file.write(b"\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state() -> tuple[str | None, bool | None]:
    # An installed copy may lie inside another project's checkout: only a repository that tracks this file is ours.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    # Results and logs are written by the run itself: they say nothing about the code.
    status = _git("status", "--porcelain", "--", ":(top)", ":(top,exclude)results", ":(top,exclude)*.log")
    return _git("rev-parse", "HEAD"), None if status is None else bool(status)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
