"""Files that are either the old one or the new one, never half of one.

    write path.HOST.PROCESS.RANDOM.tmp  →  fsync  →  rename it to path  →  fsync of the folder

A kill, a crash or a full disk at any point leaves the last good file where it was. Writers of one file have names of
their own for what is unfinished; what a killed one left goes with the next write.
"""

from __future__ import annotations

__all__ = ["atomic_write_bytes", "atomic_write_text", "replacing"]

import contextlib
import errno
import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from glob import escape
from pathlib import Path

from mvss.runtime.errors import MvssError
from mvss.runtime.locks import alive


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A name to write a file under, which takes the place of the one at `path` when the block has ended without an error;
    folders are made.

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    path = Path(path)
    here = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    temporary = path.with_name(f"{path.name}.{here}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{escape(path.name)}.{here}.*.*.tmp"):
            process = left.name.split(".")[-3]
            if process.isdigit() and not alive(int(process)):
                left.unlink(missing_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MvssError(f"no space left to write {path}: free some, then run the same command again") from error
        raise MvssError(f"cannot write {path}: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    """A name is on the disk once its folder is."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def atomic_write_bytes(path: Path | str, data: bytes | memoryview) -> None:
    """Replace the file at `path` by `data`, whole or not at all; folders are made.

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path | str, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8), whole or not at all; folders are made.

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    atomic_write_bytes(path, text.encode())
