"""Several looks at one source.

A x = (A_1 x, A_2 x, …), one below the other along the first axis of an observation
"""

from __future__ import annotations

__all__ = ["Stack"]

from collections.abc import Sequence

import torch
from torch import Tensor

from mvss.problem.operators import LinearOperator
from mvss.runtime.errors import MvssError


class Stack(LinearOperator):
    """Operators of one source, whose observations are joined along their first axis: `(M_1 + M_2 + …, …)`.

    A source that one look does not show has `Scale(0, shape)` there. Raises MvssError where their shapes or counts differ.

    >>> import torch
    >>> from mvss import Scale
    >>> twice = Stack([Scale(0.5, (1, 8, 8)), Scale(0.3, (1, 8, 8))])
    >>> twice.forward(torch.ones(10, 1, 8, 8)).shape
    torch.Size([10, 2, 8, 8])
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        self.operators = tuple(operators)
        if not self.operators or not all(isinstance(operator, LinearOperator) for operator in self.operators):
            raise MvssError("Stack operator: give a list of one or more operators")
        self.source_shape = self.operators[0].source_shape
        if any(operator.source_shape != self.source_shape for operator in self.operators):
            shapes = ", ".join(str(operator.source_shape) for operator in self.operators)
            raise MvssError(f"Stack operator: all operators must take sources of one shape, not {shapes}")
        shapes_seen = {operator.observation_shape[1:] for operator in self.operators}
        if len(shapes_seen) > 1:
            shapes = ", ".join(str(operator.observation_shape) for operator in self.operators)
            raise MvssError(f"Stack operator: observations must agree but for their first axis, and have shapes {shapes}")
        counts = {operator.count for operator in self.operators if operator.count is not None}
        if len(counts) > 1:
            raise MvssError(f"Stack operator: cannot stack operators of {' and '.join(map(str, sorted(counts)))} observations")
        self.sizes = [operator.observation_shape[0] for operator in self.operators]
        self.observation_shape = (sum(self.sizes), *shapes_seen.pop())
        self.count = counts.pop() if counts else None

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([operator.forward(x) for operator in self.operators], dim=1)

    def adjoint(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, y.split(self.sizes, dim=1), strict=True)
        return torch.stack([operator.adjoint(part) for operator, part in parts]).sum(0)

    def power(self, variance: Tensor) -> Tensor:
        return torch.cat([operator.power(variance) for operator in self.operators], dim=1)

    def select(self, index: Tensor) -> Stack:
        return self if self.count is None else Stack([operator.select(index) for operator in self.operators])

    def to(self, device: torch.device | str) -> Stack:
        return Stack([operator.to(device) for operator in self.operators])

    def scaled(self, factor: float) -> Stack:
        return Stack([operator.scaled(factor) for operator in self.operators])

    @property
    def is_zero(self) -> bool:
        return all(operator.is_zero for operator in self.operators)

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        parts = [operator.dense(dtype) for operator in self.operators]
        return torch.cat([part.expand(self.count or 1, -1, -1) for part in parts], dim=1)
