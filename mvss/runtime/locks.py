"""One process at a time: a lock file that says who holds it.

    flock(file)  →  write host and process into it  →  work  →  remove it

The system gives the lock back when a process ends, however it ends: what a killed one leaves is a file that nobody holds,
and it is taken over. Where a file system shares files among machines but not their locks, the text in the file decides.
"""

from __future__ import annotations

__all__ = ["alive", "locked"]

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mvss.runtime.errors import MvssError


@contextlib.contextmanager
def locked(path: Path | str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file at `path`, whose folder is made, for as long as the block runs.

    wait: whether to wait for a process that holds it, in place of an error.

    Raises MvssError, which names process and host, where another one holds it, or where it cannot be written.
    """
    path, descriptor = Path(path), -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while descriptor < 0:
            descriptor = _take(path, wait)
    except OSError as error:
        raise MvssError(f"cannot write {path}: {error.strerror or error}") from error
    owner = os.getpid()
    try:
        yield
    finally:
        try:
            if os.getpid() == owner:  # not a child that was forked meanwhile
                _remove(path, descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path, descriptor: int) -> None:
    """The lock file, unless it has gone meanwhile, with its folder, and is another's now."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            path.unlink(missing_ok=True)


def _take(path: Path, wait: bool) -> int:
    """The lock file, held, by its descriptor; -1 where its last holder has removed it meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        held = _flock(descriptor, wait)
        host, process = _holder(descriptor)
        if not held:
            raise _refusal(path, host, process)
        if os.fstat(descriptor).st_nlink == 0:
            os.close(descriptor)
            return -1
        if host and host != socket.gethostname():
            raise _refusal(path, host, process)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
        return descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _flock(descriptor: int, wait: bool) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        host, process = _holder(descriptor)  # a file system without locks
        return host != socket.gethostname() or not alive(process)
    return True


def _holder(descriptor: int) -> tuple[str, int]:
    """Host and process that wrote the file last; "" where none did."""
    host, _, process = os.pread(descriptor, 1000, 0).decode(errors="replace").strip().rpartition(" ")
    return (host, int(process)) if process.isdigit() else ("", 0)


def alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _refusal(path: Path, host: str, process: int) -> MvssError:
    who = f"process {process} on {host}" if host else "a process that has just begun"
    hint = "wait for it or end it" if host in ("", socket.gethostname()) else f"if it runs no more, delete {path}"
    return MvssError(f"{path.parent} is in use by {who}: {hint}, or take another folder")
