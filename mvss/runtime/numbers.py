"""Numbers as they come in: any real ones of one shape are kept in float64, all else is refused by name.

Integers and half precision do arithmetic of their own: differences of uint8 wrap around, and a variance of float16 is off
by a thousandth.
"""

from __future__ import annotations

__all__ = ["finite", "first_place", "flags", "integer", "real", "whole"]

import math
import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mvss.runtime.errors import MvssError

WRONG = {"b": "bool", "c": "complex", "O": "mixed objects", "U": "text", "S": "text", "M": "dates", "m": "times"}
"""Kinds of numpy's types that are no real numbers."""


def real(values: Tensor | ArrayLike, what: str) -> Tensor:
    """A tensor, array, number or nested list, in float64: a copy, but for a tensor that is float64 already. what: their name in
    a message.

    Raises MvssError where they are not real numbers of one shape: complex, bool, text, objects, lists of several lengths;
    and for what is sparse, masked, or nowhere.
    """
    if isinstance(values, Tensor):
        _require_dense(values, what)
        if values.is_complex() or values.dtype == torch.bool:
            raise _refusal(what, str(values.dtype).removeprefix("torch."))
        return values.detach().double()
    return torch.from_numpy(_array(values, what, "iuf").astype(np.float64, order="C", copy=True))


def whole(values: Tensor | ArrayLike, what: str) -> Tensor:
    """A tensor, array, number or nested list of integers, in int64, where those beyond it are negative. Raises MvssError for
    anything else."""
    if isinstance(values, Tensor):
        _require_dense(values, what)
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise _refusal(what, str(values.dtype).removeprefix("torch."), "whole numbers", "int64")
        return values.long()
    return torch.from_numpy(_array(values, what, "iu", "whole numbers", "int64").astype(np.int64, order="C", copy=True))


def _require_dense(values: Tensor, what: str) -> None:
    if values.layout != torch.strided or values.is_meta:
        raise MvssError(f"{what} must be dense, with numbers: make a tensor of another kind so by to_dense()")


def _array(values: ArrayLike, what: str, kinds: str, wanted: str = "real numbers", dtype: str = "float64") -> NDArray[Any]:
    """The same as an array, if it is of one of the kinds of numpy's types."""
    if values is None:
        raise MvssError(f"{what} must be {wanted} of one shape, not None: give them")
    if np.ma.is_masked(values):
        raise MvssError(f"{what} must hold no masked numbers: fill them in, and say by a Mask which were not measured")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        found = "lists of several lengths" if "inhomogeneous" in str(error) else type(values).__name__
        raise _refusal(what, found, wanted, dtype) from error
    if array.dtype.kind not in kinds:
        raise _refusal(what, WRONG.get(array.dtype.kind, str(array.dtype)), wanted, dtype)
    return array


def finite(value: float | Tensor | ArrayLike, what: str) -> float:
    """One finite number. Raises MvssError for anything else."""
    number = real(value, what)
    if number.numel() != 1 or not math.isfinite(float(number)):
        raise MvssError(f"{what} must be one finite number, not {value!r}")
    return float(number)


def first_place(where: Tensor) -> tuple[int, ...]:
    """Indices of the first true number, from 0."""
    return tuple(where.nonzero()[0].tolist())


def integer(value: object, what: str, least: int | None = None) -> int:
    """A whole number, Python's, numpy's or torch's. Raises MvssError for anything else, also bool, and below `least`."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        shown = value if value is None or isinstance(value, bool | int | float) else type(value).__name__
        raise MvssError(f"{what}={shown} must be a whole number{'' if least is None else f' of at least {least}'}")
    return number


def flags(values: Tensor | ArrayLike, what: str) -> Tensor:
    """A bool tensor of a tensor or array of bool. Raises MvssError for anything else: 1 and 0 may mean either."""
    found = values.dtype if isinstance(values, Tensor) else np.asarray(values).dtype
    if found not in (torch.bool, np.dtype(bool)):
        raise MvssError(f"{what} must be bool, not {found}: compare it with what it means, as in mask > 0")
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _refusal(what: str, found: str, wanted: str = "real numbers", dtype: str = "float64") -> MvssError:
    return MvssError(f"{what} must be {wanted} of one shape, not {found}: convert them to {dtype} first")
