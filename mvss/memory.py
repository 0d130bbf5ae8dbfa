"""Work in chunks of rows that fit into memory."""

from __future__ import annotations

__all__ = ["in_chunks"]

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from mvss.errors import MvssError

T = TypeVar("T")
SAYS = ("out of memory", "can't allocate memory")
"""What the messages of torch's allocators hold, on accelerators and on the CPU; all of them raise RuntimeErrors."""


def in_chunks(work: Callable[[slice], T], count: int, size: int) -> Iterator[T]:
    """What `work` returns for rows 0 … count − 1, `size` at a time; where memory runs out, half as many from there on.

    Raises MvssError where it does not suffice for a single row.
    """
    first = 0
    while first < count:
        size = min(size, count - first)
        try:
            done = [work(slice(first, first + size))]
        except RuntimeError as error:
            if not any(words in str(error) for words in SAYS):
                raise
            if size == 1:
                raise MvssError("memory does not suffice for one observation at a time: use smaller networks") from error
            done = []
        if done:  # a second try outside of the handler: the error holds on to the tensors of the first
            yield done[0]
            first += size
        else:
            torch.cuda.empty_cache()
            size //= 2
