"""Files that are either the old one or the new one, never half of one.

    write path.tmp  →  fsync  →  rename path.tmp to path

A kill, a crash or a full disk at any point leaves the last good file where it was.
"""

from __future__ import annotations

__all__ = ["atomic_write_bytes", "atomic_write_text", "load_checkpoint", "save_checkpoint"]

import errno
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from mvss.runtime.errors import MvssError


def atomic_write_bytes(path: Path | str, data: bytes | memoryview) -> None:
    """Replace the file at `path` by `data`, whole or not at all; folders are made.

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    path = Path(path)
    # One fixed name beside the target: the next save overwrites what a kill left, and the rename stays on one disk.
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        size = f"{len(data) / 2**20:.1f} MiB"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MvssError(f"no space left to write {path} ({size}): free some, then run the same command again") from error
        raise MvssError(f"cannot write {path} ({size}): {error.strerror or error}") from error


def atomic_write_text(path: Path | str, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8), whole or not at all; folders are made.

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    atomic_write_bytes(path, text.encode())


def save_checkpoint(path: Path | str, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` by `state`, whole or not at all; folders are made.

    Args:
        path: the file.
        state: tensors, numbers, strings, and dicts, lists and tuples of them (what `weights_only=True` reads back).

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    # Through memory, since torch reports a full disk as an internal error of its own without the cause.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write_bytes(path, buffer.getbuffer())


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint that `save_checkpoint` wrote, with its tensors on `device`.

    Raises:
        MvssError: the file is missing, cannot be read, or is damaged.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() is not None
    except FileNotFoundError:
        raise MvssError(f"there is no checkpoint {path}: start the run again to make it") from None
    except OSError as error:
        raise MvssError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except Exception:  # zipfile raises many kinds on damaged archives; all mean the same here
        damaged = True
    if damaged:
        raise MvssError(f"the checkpoint {path} is damaged (truncated or overwritten): delete it to start again")
    # The check sums hold, so an error from here on (device out of memory, ...) is no reason to delete anything.
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
