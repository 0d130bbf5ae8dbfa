"""Work in chunks of rows that fit into memory, and how much of it was used."""

from __future__ import annotations

__all__ = ["PeakMemory", "in_chunks"]

import contextlib
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from mvss.runtime.errors import MvssError

T = TypeVar("T")
SAYS = ("out of memory", "can't allocate memory")
"""What the messages of torch's allocators hold, on accelerators and on the CPU; all of them raise RuntimeErrors."""


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
