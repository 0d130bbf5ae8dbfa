"""Views from what `mixture.yaml` says: data, operators by name, noise.

Shapes are known from the observation: an operator is made for what it gives, and tells what it takes.
"""

from __future__ import annotations

__all__ = ["read_views"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch

from mvss.io.arrays import Array, read_array
from mvss.io.located import Located, Path
from mvss.problem.image_operators import BlockAverage, Convolve
from mvss.problem.noise import Diagonal, Isotropic, Noise
from mvss.problem.operators import Dense, Identity, LinearOperator, Mask, Scale, Shape
from mvss.problem.stack import Stack, Sum
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import ensure_memory


def read_views(mixture: Located) -> Views:
    """All views. Raises MvssError, with file, line and key, where files are missing or do not fit."""
    files = _Files(mixture, {})
    views = [_view(files, name) for name in mixture.values["views"]]
    with mixture.at("views"):
        return Views(views)


@dataclass(frozen=True)
class _Files:
    """What a mixture names, each read once."""

    mixture: Located
    read: dict[str, Array]

    def array(self, text: str) -> Array:
        if text not in self.read:
            self.read[text] = read_array(text, self.mixture.file.parent)
        return self.read[text]


def _view(files: _Files, name: str) -> View:
    mixture, said = files.mixture, files.mixture.values["views"][name]
    with mixture.at("views", name, "data"):
        y = _observations(files, said["data"])
        if y.dtype == bool:
            y = y.astype(np.uint8)
        y, seen = _measured(y, "missing" in said)
    making = _Operators(files, tuple(y.shape[1:]), len(y))
    operators = {
        source: making.operator(operator, making.shape, ("views", name, "sources", source))
        for source, operator in said["sources"].items()
    }
    for source, operator in operators.items():
        with mixture.at("views", name, "sources", source):
            size = 8 * len(y) * math.prod(operator.source_shape)
            ensure_memory(
                size, f"draws of a source of shape {operator.source_shape}", "take coarser pixels, or fewer observations"
            )
    with mixture.at("views", name, "noise"):
        noise = _noise(files, said["noise"], making.shape, len(y), seen)
    if seen is not None:
        mask = Mask(seen)
        operators = {s: mask if isinstance(operator, Identity) else mask @ operator for s, operator in operators.items()}
    with mixture.at("views", name):
        return View(y, operators, noise, name)


def _observations(files: _Files, said: str | dict[str, str]) -> Array:
    """Images and signals of one channel have an axis of it."""
    axes: tuple[int, ...]
    if isinstance(said, dict):
        y, axes, shapes = files.array(said["signals"]), (3,), "signals must be (N, length) or (N, channels, length)"
    else:
        y, axes, shapes = files.array(said), (2, 4), "must be (N, numbers), (N, height, width) or (N, channels, height, width)"
    y = y[:, None] if y.ndim == axes[-1] - 1 else y
    if y.ndim not in axes or y.size == 0:
        raise MvssError(f"{shapes}, not {y.shape}")
    return y


def _measured(y: Array, missing: bool) -> tuple[Array, Array | None]:
    """Observations in finite numbers, and which of these were measured, `(N or 1, *shape)`, bool; None where all were. missing:
    whether NaN are those that were not."""
    gone = np.isnan(y) if missing else np.zeros(y.shape, dtype=bool)
    y = np.where(gone, 0, y)
    if not (finite := np.isfinite(y)).all():
        place = tuple(int(each[0]) for each in np.nonzero(~finite))
        what, instead = ("NaN", "write missing: nan in the view, or") if np.isnan(y[place]) else ("an infinite value", "write")
        raise MvssError(f"holds {what} at {place}: {instead} any number there and a mask in every source")
    seen = ~gone if (gone != gone[:1]).any() else ~gone[:1]
    if seen.all():
        return y, None
    Mask(seen)  # raises where nothing of an observation was measured
    return y, seen


def _noise(files: _Files, said: float | dict[str, str], shape: Shape, count: int, seen: Array | None) -> Noise:
    if not isinstance(said, dict):
        return Isotropic(said)
    ((kind, text),) = said.items()
    sigma = files.array(text)
    if kind == "each":
        if sigma.size != count or max(sigma.shape, default=1) != count:
            raise MvssError(f"each: {text} has shape {sigma.shape}, not one number for each of {count} observations")
        return Isotropic(sigma.reshape(count))
    sigma = _of_each(sigma, shape, count, f"map: {text}").astype(np.float64)
    if seen is not None:  # there, a noise decides nothing
        gone = ~seen if len(sigma) > 1 else ~seen.any(0, keepdims=True)
        none = ~(np.isfinite(sigma) & (sigma > 0))
        sigma = np.where(gone & none, np.max(sigma, where=~none, initial=np.finfo(np.float64).tiny), sigma)
    return Diagonal(sigma)


def _of_each(x: Array, shape: Shape, count: int, what: str) -> Array:
    """`(N or 1, *shape)`, from that, from one for all `shape`, or from images or signals without their only channel."""
    plane = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
    for known in (shape, plane):
        if x.shape in (known, (1, *known)):
            return x.reshape(1, *shape)
        if x.shape == (count, *known):
            return x.reshape(count, *shape)
    raise MvssError(f"{what} has shape {x.shape}, not {shape} or {(count, *shape)}")


@dataclass(frozen=True)
class _Operators:
    """Operators of one view by their names. shape: of an observation. count: of observations."""

    files: _Files
    shape: Shape
    count: int

    def operator(self, said: str | dict[str, Any], shape: Shape, path: Path) -> LinearOperator:
        """The one that gives `shape`. Raises MvssError at its key."""
        if isinstance(said, str):
            return Identity(shape)
        name = next(name for name in said if name != "mode")
        value, path = said[name], (*path, name)
        with self.files.mixture.at(*path):
            if name in ("product", "sum", "stack"):
                several = {"product": self._product, "sum": self._sum, "stack": self._stack}
                return several[name](value, shape, path)
            if name in ("psf", "response"):
                return self._kernel(name, value, said.get("mode", "same"), shape)
            one: dict[str, Callable[[Any, Shape], LinearOperator]] = {
                "scale": Scale, "mask": self._mask, "average": self._average, "matrix": self._matrix,
            }  # fmt: skip
            return one[name](value, shape)

    def _product(self, parts: Sequence[Any], shape: Shape, path: Path) -> LinearOperator:
        found = self.operator(parts[0], shape, (*path, 0))
        for place, part in enumerate(parts[1:], start=1):
            inner = self.operator(part, found.source_shape, (*path, place))
            with self.files.mixture.at(*path, place):
                found = found @ inner
        return found

    def _sum(self, parts: Sequence[Any], shape: Shape, path: Path) -> LinearOperator:
        return Sum([self.operator(part, shape, (*path, place)) for place, part in enumerate(parts)])

    def _stack(self, parts: Sequence[Any], shape: Shape, path: Path) -> LinearOperator:
        """What files do not tell of the looks' shares of the first axis they share evenly."""
        known = [self._rows(part) for part in parts]
        left, open_ = shape[0] - sum(filter(None, known)), known.count(None)
        if left < 0 or (left % open_ if open_ else left):
            raise MvssError(
                f"the first axis of an observation has {shape[0]} numbers, which {len(parts)} looks cannot share so"
            )
        rows = [left // open_ if each is None else each for each in known]
        return Stack(
            [self.operator(part, (n, *shape[1:]), (*path, k)) for k, (part, n) in enumerate(zip(parts, rows, strict=True))]
        )

    def _rows(self, said: str | dict[str, Any], taken: int | None = None) -> int | None:
        """Length of the first axis of what it gives, if the files of matrices tell. taken: of what it takes, if known."""
        if isinstance(said, str):
            return taken
        if "matrix" in said:
            matrix = self.files.array(said["matrix"])
            return matrix.shape[-2] if matrix.ndim > 1 else None
        if "product" in said:
            return reduce(lambda rows, part: self._rows(part, rows), reversed(said["product"]), taken)
        if "sum" in said:
            return next((rows for part in said["sum"] if (rows := self._rows(part, taken)) is not None), None)
        if "stack" in said:
            known = [rows for part in said["stack"] if (rows := self._rows(part, taken)) is not None]
            return sum(known) if len(known) == len(said["stack"]) else None
        return taken  # all others give what they take, along this axis

    def _mask(self, text: str, shape: Shape) -> LinearOperator:
        mask = self.files.array(text)
        if not np.isin(mask, (0, 1)).all():
            raise MvssError(f"{text} must hold 1 (measured) and 0 alone")
        return Mask(_of_each(mask == 1, shape, self.count, text))

    def _average(self, factor: int, shape: Shape) -> LinearOperator:
        if len(shape) < 2:
            raise MvssError(f"average is of images and signals, and here are {shape}")
        return BlockAverage((shape[0], *(factor * size for size in shape[1:])), factor)

    def _matrix(self, text: str, shape: Shape) -> LinearOperator:
        matrix = Dense(self.files.array(text))
        if matrix.observation_shape != shape:
            raise MvssError(f"{text} gives {matrix.observation_shape[0]} numbers, where {_shown(shape)} are wanted")
        if matrix.count not in (None, self.count):
            raise MvssError(f"{text} holds {matrix.count} matrices for {self.count} observations")
        return matrix

    def _kernel(self, name: str, text: str, mode: str, shape: Shape) -> LinearOperator:
        kernel = torch.from_numpy(np.asarray(self.files.array(text), dtype=np.float64))
        of, sizes = {"psf": ("images", "(height, width)"), "response": ("signals", "(length,)")}[name]
        if len(shape) != {"psf": 3, "response": 2}[name]:
            raise MvssError(f"{name} is of {of}, and here are {shape}")
        if name == "response" and kernel.ndim == 2 and 1 in kernel.shape:  # one row or column of a CSV
            kernel = kernel.flatten()
        if kernel.ndim != len(shape) - 1:
            raise MvssError(f"{text} must be {sizes}, not {tuple(kernel.shape)}")
        more = [size - 1 if mode == "valid" else 0 for size in kernel.shape]
        return Convolve((shape[0], *(n + m for n, m in zip(shape[1:], more, strict=True))), kernel, mode)


def _shown(shape: Shape) -> str:
    return str(math.prod(shape)) if len(shape) == 1 else str(shape)
