"""Numbers as they come in: any real ones of one shape are kept in float64, all else is refused by name.

Integers and half precision do arithmetic of their own: differences of uint8 wrap around, and a variance of float16 is off
by a thousandth.
"""

from __future__ import annotations

__all__ = ["finite", "flags", "real"]

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mvss.runtime.errors import MvssError

WRONG = {"b": "bool", "c": "complex", "O": "mixed objects", "U": "text", "S": "text", "M": "dates", "m": "times"}
"""Kinds of numpy's types that are no real numbers."""


def real(values: Tensor | ArrayLike, what: str) -> Tensor:
    """A tensor, array, number or nested list, in float64. what: their name in a message.

    Raises MvssError where they are not real numbers of one shape: complex, bool, text, objects, lists of several lengths.
    """
    if isinstance(values, Tensor):
        if values.is_complex() or values.dtype == torch.bool:
            raise _refusal(what, str(values.dtype).removeprefix("torch."))
        return values.double()
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refusal(what, "lists of several lengths" if "inhomogeneous" in str(error) else type(values).__name__) from error
    if array.dtype.kind not in "iuf":
        raise _refusal(what, WRONG.get(array.dtype.kind, str(array.dtype)))
    return torch.from_numpy(array.astype(np.float64, order="C", copy=True))


def finite(value: float | Tensor | ArrayLike, what: str) -> float:
    """One finite number. Raises MvssError for anything else."""
    number = real(value, what)
    if number.numel() != 1 or not math.isfinite(float(number)):
        raise MvssError(f"{what} must be one finite number, not {value!r}")
    return float(number)


def flags(values: Tensor | ArrayLike, what: str) -> Tensor:
    """A bool tensor of a tensor or array of bool. Raises MvssError for anything else: 1 and 0 may mean either."""
    found = values.dtype if isinstance(values, Tensor) else np.asarray(values).dtype
    if found not in (torch.bool, np.dtype(bool)):
        raise MvssError(f"{what} must be bool, not {found}: compare it with what it means, as in mask > 0")
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _refusal(what: str, found: str) -> MvssError:
    return MvssError(f"{what} must be real numbers of one shape, not {found}: convert them to float64 first")
