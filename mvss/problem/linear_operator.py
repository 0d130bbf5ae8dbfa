"""Linear operators A^β from a source x^β to its share of an observation, y = Σ_β A^β x^β + η  (paper, equation 1); the
identity, multiples and products.

An operator is either the same for a whole view (`count` is None) or holds one matrix per observation (`count` is N).
"""

from __future__ import annotations

__all__ = ["Composition", "Identity", "LinearOperator", "Scale", "Shape", "fitting", "floating"]

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mvss.runtime.errors import MvssError
from mvss.runtime.memory import rows_within
from mvss.runtime.numbers import finite

Shape = tuple[int, ...]
PIECE = 2**23
"""Bytes of a matrix that is made at once, where no matrix is asked for: convolutions take many times as many to make it."""


def floating(x: Tensor) -> Tensor:
    """Integers, bool and half precision as float64; float32 and float64 as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.double()


def fitting(values: Tensor, shape: Shape) -> Tensor:
    """The same, if they are `(N, *shape)`. Raises MvssError where not: torch would broadcast, or cut them anew."""
    if tuple(values.shape[1:]) != shape:
        raise MvssError(f"an operator takes (N, {', '.join(map(str, shape))}) here, not {tuple(values.shape)}")
    return values


class LinearOperator(ABC):
    """A linear map, for N observations at once, from `(N, *source_shape)` to `(N, *observation_shape)`.

    A checkpoint knows one of yours by code and attributes; what it keeps to save time goes into those with an underscore."""

    source_shape: Shape
    observation_shape: Shape
    count: int | None = None
    """Number of observations that have an operator each; None where one operator serves them all."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x: `(N, *source_shape)` to `(N, *observation_shape)`."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y: `(N, *observation_shape)` to `(N, *source_shape)`."""

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y: `(N, *observation_shape)` to `(N, *source_shape)`; by the matrix, where no operator knows better."""
        y = floating(y)
        x = torch.linalg.pinv(self.dense(y.dtype)).to(y.device) @ y.flatten(1).unsqueeze(-1)
        return x.reshape(len(y), *self.source_shape)

    def power(self, variance: Tensor) -> Tensor:
        """The diagonal of A diag(variance) Aᵀ: `(N, *source_shape)` to `(N, *observation_shape)`; by the matrix, where no
        operator knows better, or by some of its rows at a time."""
        variance = floating(variance)
        if self.is_diagonal:
            return self.forward(self.forward(variance))
        flat, size = variance.flatten(1).unsqueeze(-1), math.prod(self.observation_shape)
        most = rows_within(8 * flat.shape[1] * (self.count or 1), PIECE)
        if size <= most:
            y = self.dense(variance.dtype).square().to(variance.device) @ flat
        else:
            y = torch.cat([self._rows(numbers, variance).square() @ flat for numbers in torch.arange(size).split(most)], dim=1)
        return y.reshape(len(variance), *self.observation_shape)

    def select(self, index: Tensor) -> LinearOperator:  # noqa: ARG002 - one for all
        """The operators of the observations in `index` `(n,)`."""
        return self

    def to(self, device: torch.device | str) -> LinearOperator:  # noqa: ARG002 - nothing to move
        """The same operator with its tensors on `device`."""
        return self

    @property
    def is_diagonal(self) -> bool:
        """True where A only weighs numbers one by one."""
        return False

    @property
    def is_zero(self) -> bool:
        """True where nothing of the source is known to pass: of products, where a factor is zero."""
        return False

    @property
    def is_tight(self) -> bool:
        """True where A Aᵀ is known to be a multiple of the identity."""
        return False

    def times(self, matrix: Tensor) -> Tensor:
        """A B for matrices B `(n, M, D)`, n = 1 for one that serves all."""
        outer = self.dense(matrix.dtype)
        # operators without tensors are nowhere
        where = matrix.device if outer.device.type == "cpu" else outer.device
        return outer.to(where) @ matrix.to(where)

    def scaled(self, factor: float) -> LinearOperator:
        """factor · A."""
        return self if factor == 1 else Scale(factor, self.observation_shape) @ self

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The matrix, `(N, M, D)` or `(1, M, D)`, made by applying A to unit vectors; for small sources only."""
        size = int(torch.Size(self.source_shape).numel())
        rows = self.count or 1
        eye = torch.eye(size, dtype=dtype)
        if self.count is None:
            return self.forward(eye.reshape(size, *self.source_shape)).flatten(1).mT[None]
        columns = [self.forward(e.reshape(1, *self.source_shape).expand(rows, *self.source_shape)) for e in eye]
        return torch.stack([c.reshape(rows, -1) for c in columns], dim=-1)

    def _rows(self, numbers: Tensor, like: Tensor) -> Tensor:
        """Some rows of the matrix, `(N, m, D)` or `(1, m, D)`, made by applying Aᵀ to unit vectors."""
        units = one_hot(numbers, math.prod(self.observation_shape)).to(like).reshape(-1, *self.observation_shape)
        if self.count is None:
            return self.adjoint(units).flatten(1)[None]
        rows = [self.adjoint(unit.expand(self.count, *self.observation_shape)).flatten(1) for unit in units]
        return torch.stack(rows, dim=1)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        return Composition(self, other)


class Identity(LinearOperator):
    """A = I."""

    is_diagonal = True

    def __init__(self, shape: Shape) -> None:
        self.source_shape = self.observation_shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return fitting(x, self.source_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return fitting(y, self.observation_shape)

    def power(self, variance: Tensor) -> Tensor:
        return variance

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return y

    def times(self, matrix: Tensor) -> Tensor:
        return matrix

    @property
    def is_tight(self) -> bool:
        return True


class Scale(LinearOperator):
    """A = c·I, c a number: a mixing weight. `Scale(c, shape) @ B` weighs any operator B."""

    is_diagonal = True

    def __init__(self, factor: float, shape: Shape) -> None:
        self.factor = finite(factor, "Scale operator: the factor")
        self.source_shape = self.observation_shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * floating(fitting(x, self.source_shape))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.factor * floating(fitting(y, self.observation_shape))

    def power(self, variance: Tensor) -> Tensor:
        return self.factor**2 * floating(variance)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return 0 * floating(y) if self.is_zero else floating(y) / self.factor

    def times(self, matrix: Tensor) -> Tensor:
        return self.factor * matrix

    def scaled(self, factor: float) -> Scale:
        return Scale(factor * self.factor, self.source_shape)

    @property
    def is_zero(self) -> bool:
        return self.factor == 0.0

    @property
    def is_tight(self) -> bool:
        return True


class Composition(LinearOperator):
    """A = outer · inner."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if outer.source_shape != inner.observation_shape:
            raise MvssError(
                f"cannot compose operators: the inner one gives {inner.observation_shape}, "
                f"the outer one takes {outer.source_shape}"
            )
        if None not in (outer.count, inner.count) and outer.count != inner.count:
            raise MvssError(
                f"cannot compose operators of {outer.count} observations with those of {inner.count}: "
                "both need one per observation, or one for all"
            )
        self.outer, self.inner = outer, inner
        self.source_shape = inner.source_shape
        self.observation_shape = outer.observation_shape
        self.count = outer.count or inner.count

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    def power(self, variance: Tensor) -> Tensor:
        if self.outer.is_diagonal:  # no number of y depends on two of the inner operator's
            return self.outer.power(self.inner.power(variance))
        return super().power(variance)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        outer, inner = self.outer, self.inner
        if isinstance(outer, Scale) or self.is_diagonal or ((outer.is_diagonal or outer.is_tight) and inner.is_tight):
            return inner.pseudo_inverse(outer.pseudo_inverse(y))
        return super().pseudo_inverse(y)

    def select(self, index: Tensor) -> Composition:
        return Composition(self.outer.select(index), self.inner.select(index))

    def to(self, device: torch.device | str) -> Composition:
        return Composition(self.outer.to(device), self.inner.to(device))

    @property
    def is_diagonal(self) -> bool:
        return self.outer.is_diagonal and self.inner.is_diagonal

    @property
    def is_zero(self) -> bool:
        return self.outer.is_zero or self.inner.is_zero

    @property
    def is_tight(self) -> bool:
        return self.outer.is_tight and self.inner.is_tight

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.outer.times(self.inner.dense(dtype))

    def scaled(self, factor: float) -> LinearOperator:
        return self.outer.scaled(factor) @ self.inner
