"""Several operators of one source, of which each observation shows the sum, or all.

A x = (A_1 x, A_2 x, …), one below the other along the first axis of an observation
A x = A_1 x + A_2 x + …
"""

from __future__ import annotations

__all__ = ["Stack", "Sum"]

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from mvss.problem.operators import LinearOperator
from mvss.runtime.errors import MvssError


class _Several(LinearOperator):
    """operators: of one source. Raises MvssError where there are none, or their sources or numbers of observations differ."""

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        name, self.operators = type(self).__name__, tuple(operators)
        if not self.operators or not all(isinstance(operator, LinearOperator) for operator in self.operators):
            raise MvssError(f"{name} operator: give a list of one or more operators")
        shapes = [operator.source_shape for operator in self.operators]
        if len(set(shapes)) > 1:
            raise MvssError(f"{name} operator: all operators must take sources of one shape, not {', '.join(map(str, shapes))}")
        counts = {operator.count for operator in self.operators if operator.count is not None}
        if len(counts) > 1:
            raise MvssError(f"{name} operator: cannot join operators of {' and '.join(map(str, sorted(counts)))} observations")
        self.source_shape, self.count = shapes[0], counts.pop() if counts else None

    def select(self, index: Tensor) -> Self:
        return self if self.count is None else type(self)([operator.select(index) for operator in self.operators])

    def to(self, device: torch.device | str) -> Self:
        return type(self)([operator.to(device) for operator in self.operators])

    def scaled(self, factor: float) -> Self:
        return type(self)([operator.scaled(factor) for operator in self.operators])

    @property
    def is_zero(self) -> bool:
        return all(operator.is_zero for operator in self.operators)


class Stack(_Several):
    """Operators of one source, whose observations are joined along their first axis: `(M_1 + M_2 + …, …)`.

    A source that one look does not show has `Scale(0, shape)` there. Raises MvssError where their shapes or counts differ.

    >>> import torch
    >>> from mvss import Scale
    >>> twice = Stack([Scale(0.5, (1, 8, 8)), Scale(0.3, (1, 8, 8))])
    >>> twice.forward(torch.ones(10, 1, 8, 8)).shape
    torch.Size([10, 2, 8, 8])
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__(operators)
        shapes_seen = {operator.observation_shape[1:] for operator in self.operators}
        if len(shapes_seen) > 1:
            shapes = ", ".join(str(operator.observation_shape) for operator in self.operators)
            raise MvssError(f"Stack operator: observations must agree but for their first axis, and have shapes {shapes}")
        self.sizes = [operator.observation_shape[0] for operator in self.operators]
        self.observation_shape = (sum(self.sizes), *shapes_seen.pop())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([operator.forward(x) for operator in self.operators], dim=1)

    def adjoint(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, y.split(self.sizes, dim=1), strict=True)
        return torch.stack([operator.adjoint(part) for operator, part in parts]).sum(0)

    def power(self, variance: Tensor) -> Tensor:
        return torch.cat([operator.power(variance) for operator in self.operators], dim=1)

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        parts = [operator.dense(dtype) for operator in self.operators]
        return torch.cat([part.expand(self.count or 1, -1, -1) for part in parts], dim=1)


class Sum(_Several):
    """Operators of one source that add up, such as a signal and its echo. Raises MvssError where their shapes or counts differ.

    >>> import torch
    >>> from mvss import Identity, Scale
    >>> Sum([Identity((2,)), Scale(0.5, (2,))]).forward(torch.ones(1, 2))
    tensor([[1.5000, 1.5000]])
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__(operators)
        self.observation_shape = self.operators[0].observation_shape
        if any(operator.observation_shape != self.observation_shape for operator in self.operators):
            shapes = ", ".join(str(operator.observation_shape) for operator in self.operators)
            raise MvssError(f"Sum operator: all operators must give observations of one shape, not {shapes}")

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([operator.forward(x) for operator in self.operators]).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.stack([operator.adjoint(y) for operator in self.operators]).sum(0)

    @property
    def is_diagonal(self) -> bool:
        return all(operator.is_diagonal for operator in self.operators)

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        total = self.operators[0].dense(dtype)
        for operator in self.operators[1:]:
            total = total + operator.dense(dtype)
        return total
