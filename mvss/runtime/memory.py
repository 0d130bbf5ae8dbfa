"""Work in chunks of rows that fit into memory, what is left of it, and how much of it was used.

Sizes of chunks depend on the problem alone, never on what is free: results do not change from machine to machine.
"""

from __future__ import annotations

__all__ = ["OutOfMemory", "AT_ONCE", "PeakMemory", "ensure_memory", "in_chunks", "rows_within"]

import contextlib
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from mvss.runtime.errors import MvssError

T = TypeVar("T")
SAYS = ("out of memory", "can't allocate memory")
"""What the messages of torch's allocators hold, on accelerators and on the CPU; all of them raise RuntimeErrors."""

CPU = torch.device("cpu")
AT_ONCE = 2**28
"""Bytes that the products of one chunk may take."""


class OutOfMemory(MvssError):
    """What was asked for does not fit."""


def rows_within(each: float, most: int = AT_ONCE) -> int:
    """Rows of `each` bytes that fit into `most`, at least one."""
    return max(1, int(most // max(each, 1)))


def ensure_memory(size: float, what: str, instead: str, device: torch.device = CPU, held: float = 0.0) -> None:
    """Before `size` bytes are taken that no chunk makes less of. what: takes them. instead: what a user can do. device: where
    they are taken. held: bytes that the same has taken before.

    Raises MvssError where they are more than are free, and warns where, with those held, they are more than a third of all.
    """
    (free, total), memory = _memory(device), "memory" if device.type == "cpu" else f"memory of {device}"
    if size > free:
        raise OutOfMemory(f"{what} need {_gib(size)}, and {_gib(free)} of {memory} are free: {instead}")
    if size > 0 and size + held > total / 3:
        warnings.warn(f"{what} take {_gib(size + held)} of the {_gib(total)} of {memory}: {instead}", stacklevel=3)


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes that are free and that there are: of a CUDA device, else of the machine or of the container that this process is
    in."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, to be used again
        return free + idle, total
    machine = psutil.virtual_memory()
    free, total = machine.available, machine.total
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        group = Path("/sys/fs/cgroup")
        most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = int((group / "memory.stat").read_text().split("inactive_file ")[1].split()[0])
        free, total = min(free, most - used + cached), min(total, most)
    return free, total


def in_chunks(work: Callable[[slice], T], count: int, size: int) -> list[T]:
    """What `work` returns for rows 0 … count − 1, `size` at a time; where memory runs out, half as many from there on.

    Raises MvssError where it does not suffice for a single row.
    """
    first, parts = 0, list[T]()
    while first < count:
        size = min(size, count - first)
        done = False
        try:
            parts.append(work(slice(first, first + size)))
            done = True
        except RuntimeError as error:
            if not any(words in str(error) for words in SAYS):
                raise
            if size == 1:
                raise MvssError("memory does not suffice for one observation at a time: use smaller networks") from error
        if done:  # a second try outside of the handler: the error holds on to the tensors of the first
            first += size
        else:
            torch.cuda.empty_cache()
            size //= 2
    return parts


class PeakMemory:
    """The largest resident memory of this process since the object was made, where the system can tell (Linux); since
    the process began elsewhere."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is held now

    def gib(self) -> float:
        """The peak in GiB."""
        try:
            status = Path("/proc/self/status").read_text()
            return float(status.split("VmHWM:")[1].split()[0]) / 2**20  # KiB
        except (OSError, IndexError, ValueError):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak / (2**30 if sys.platform == "darwin" else 2**20)  # macOS counts bytes, others KiB
