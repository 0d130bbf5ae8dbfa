"""Operators on numbers of any kind: a matrix, a mask, and those of `linear_operator`."""

from __future__ import annotations

__all__ = ["Composition", "Dense", "Identity", "LinearOperator", "Mask", "Scale", "Shape", "fitting", "floating"]

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mvss.problem.linear_operator import Composition, Identity, LinearOperator, Scale, Shape, fitting, floating
from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import first_place, flags, real


class Dense(LinearOperator):
    """An explicit matrix: `(N, M, D)` for one per observation, `(M, D)` for a whole view."""

    def __init__(self, matrix: Tensor | ArrayLike) -> None:
        matrix = real(matrix, "Dense operator: the matrix")
        if matrix.ndim not in (2, 3):
            raise MvssError(f"Dense operator: matrix must be (M, D) or (N, M, D), got shape {tuple(matrix.shape)}")
        if not bool(torch.isfinite(matrix).all()):
            raise MvssError("Dense operator: the matrix holds NaN or infinite values; clean it before building views")
        self.matrix = matrix
        self.count = matrix.shape[0] if matrix.ndim == 3 else None
        self.observation_shape, self.source_shape = (matrix.shape[-2],), (matrix.shape[-1],)

    def forward(self, x: Tensor) -> Tensor:
        x = floating(x)
        matrix = self.matrix.to(x.dtype)
        return x @ matrix.mT if self.count is None else (matrix @ x.unsqueeze(-1)).squeeze(-1)

    def adjoint(self, y: Tensor) -> Tensor:
        y = floating(y)
        matrix = self.matrix.to(y.dtype)
        return y @ matrix if self.count is None else (matrix.mT @ y.unsqueeze(-1)).squeeze(-1)

    def power(self, variance: Tensor) -> Tensor:
        variance = floating(variance)
        return (self.matrix.to(variance.dtype).square() @ variance.unsqueeze(-1)).squeeze(-1)

    def select(self, index: Tensor) -> Dense:
        return self if self.count is None else Dense(self.matrix[index])

    def to(self, device: torch.device | str) -> Dense:
        return Dense(self.matrix.to(device))

    @property
    def is_zero(self) -> bool:
        return self.count is None and not bool(self.matrix.any())  # a few of many may be

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.matrix.to(dtype).reshape(-1, self.observation_shape[0], self.source_shape[0])


class Mask(LinearOperator):
    """A = diag(mask): the pixels that were not measured are zero. `Mask(mask) @ B` masks any operator B.

    mask: True where measured, `(N, *shape)`, one per observation, or `(1, *shape)` for all.
    """

    is_diagonal = True

    def __init__(self, mask: Tensor | ArrayLike) -> None:
        mask = flags(mask, "Mask operator: mask")
        if mask.ndim < 2:
            raise MvssError(f"Mask operator: mask must be (N or 1, *shape), got {tuple(mask.shape)}")
        if bool((never := ~mask.flatten(1).any(1)).any()):
            which = f"observation {first_place(never)[0]}, counted from 0, has no measured pixel"
            raise MvssError(f"Mask operator: {'nothing is measured' if len(mask) == 1 else which}; leave it out")
        self.mask = mask
        self.count = None if len(mask) == 1 else len(mask)
        self.source_shape = self.observation_shape = tuple(mask.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        return fitting(x, self.source_shape) * self.mask.to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        return fitting(y, self.observation_shape) * self.mask.to(y.dtype)

    def power(self, variance: Tensor) -> Tensor:
        return self.forward(variance)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def select(self, index: Tensor) -> Mask:
        return self if self.count is None else Mask(self.mask[index])

    def to(self, device: torch.device | str) -> Mask:
        return Mask(self.mask.to(device))

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.diag_embed(self.mask.flatten(1).to(dtype))

    def times(self, matrix: Tensor) -> Tensor:
        return self.mask.flatten(1).to(matrix).unsqueeze(-1) * matrix
