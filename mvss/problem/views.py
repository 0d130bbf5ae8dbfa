"""Views of a mixture, y_i = Σ_β A_i^β x_i^β + η_i  (paper, equation 1), checked once on the way in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.problem.noise import Noise
from mvss.problem.operators import LinearOperator, Shape
from mvss.runtime.errors import MvssError

__all__ = ["MultiViewData", "View"]


@dataclass(frozen=True)
class View:
    """Observations that share the kind of their operators.

    y: observations `(N, *observation_shape)`.
    operators: one per source; `Zero` where the view does not show the source.
    noise: the noise of the N observations.
    """

    y: Tensor
    operators: tuple[LinearOperator, ...]
    noise: Noise
    name: str = "view"

    def __post_init__(self) -> None:
        if self.y.ndim < 2 or self.y.shape[0] == 0:
            raise MvssError(f"{self.name}: y must be (N, *observation_shape) with N > 0, got {tuple(self.y.shape)}")
        if not bool(torch.isfinite(self.y).all()):
            raise MvssError(f"{self.name}: y holds NaN or infinite values; mask or remove those observations")
        for source, operator in enumerate(self.operators, start=1):
            if operator.observation_shape != self.observation_shape:
                raise MvssError(
                    f"{self.name}: the operator of source {source} gives {operator.observation_shape}, "
                    f"but the observations have shape {self.observation_shape}"
                )
            if operator.count not in (None, len(self)):
                raise MvssError(f"{self.name}: source {source} has {operator.count} operators for {len(self)} observations")
        if all(operator.is_zero for operator in self.operators):
            raise MvssError(f"{self.name}: no operator reaches this view; give it a source or leave it out")
        try:
            self.noise.variance(self.y)
        except RuntimeError as error:
            raise MvssError(f"{self.name}: the noise does not fit y of shape {tuple(self.y.shape)}") from error

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def observation_shape(self) -> Shape:
        return tuple(self.y.shape[1:])

    @property
    def shown(self) -> tuple[int, ...]:
        """Indices of the sources that this view shows."""
        return tuple(beta for beta, operator in enumerate(self.operators) if not operator.is_zero)

    def select(self, index: Tensor) -> View:
        """The observations in `index` `(n,)`, with their operators and noise."""
        operators = tuple(operator.select(index) for operator in self.operators)
        return View(self.y[index], operators, self.noise.select(index), self.name)

    def to(self, device: torch.device | str) -> View:
        """The same view on `device`."""
        operators = tuple(operator.to(device) for operator in self.operators)
        return View(self.y.to(device), operators, self.noise.to(device), self.name)


@dataclass(frozen=True)
class MultiViewData:
    """All views of one problem; every source must be shown by at least one of them."""

    views: tuple[View, ...]
    source_shapes: tuple[Shape, ...]

    def __post_init__(self) -> None:
        for view in self.views:
            shapes = tuple(operator.source_shape for operator in view.operators)
            if shapes != self.source_shapes:
                raise MvssError(f"{view.name}: operators act on {shapes}, the sources have shapes {self.source_shapes}")
        reached = {beta for view in self.views for beta in view.shown}
        for beta in range(len(self.source_shapes)):
            if beta not in reached:
                raise MvssError(f"source {beta + 1} is shown by no view: it cannot be learned; add a view or drop it")

    def showing(self, sources: Sequence[int]) -> tuple[int, ...]:
        """Indices of the views that show any of `sources`."""
        return tuple(i for i, view in enumerate(self.views) if set(view.shown) & set(sources))
