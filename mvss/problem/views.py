"""Views of a mixture, y_i = Σ_β A_i^β x_i^β + η_i  (paper, equation 1), checked once on the way in.

A view names the sources that it shows. Observations keep their numbers when some of them are selected: randomness is
keyed by those, so that a draw depends neither on the batch that an observation is in nor on the number of processes.
"""

from __future__ import annotations

__all__ = ["OPERATORS", "Draws", "View", "Views"]

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mvss.problem.noise import Diagonal, Isotropic, Noise
from mvss.problem.operators import Dense, LinearOperator, Shape
from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import first_place, real, whole

Draws = dict[str, Tensor]
"""One draw `(N, *shape)` of each source that a view shows, by name."""
OPERATORS = ("mvss.problem.image_operators", "mvss.problem.noise", "mvss.problem.operators", "mvss.problem.stack")
"""Modules whose code views bring, though what takes views may import none of them."""


@dataclass(frozen=True, eq=False)
class View:
    """Observations that share the kind of their operators.

    Arguments:
        y: observations `(N, *observation_shape)`: tensor, array or lists; kept in float64. A tensor that is float64 already
            is not copied, as is no operator: leave it as it is while the view is in use.
        operators: by the name of each source that the view shows, an operator or a matrix, `(M, D)` for all
            observations or `(N, M, D)`. It takes a source `(N, *source_shape)` to its share of y, `(N, *observation_shape)`;
            sources have the units in which y = Σ A x + η holds. A source that is not shown is left out.
        noise: of the observations, in the units of y: a standard deviation, `(N,)` of them, a map of them
            `(N or 1, *observation_shape)`, or a `Noise`.
        name: for messages and the report of a fit.
        numbers: of the observations, `(N,)`, which randomness is keyed by; 0 … N − 1 if not given.

    Raises MvssError where shapes do not fit, y holds NaN, an operator says that it is zero (`LinearOperator.is_zero`), or no
    source is shown. Pixels that were not
    measured are masked by the operators of all sources (`Mask`), which may mask more; y is then any finite number there.

    >>> import torch
    >>> view = View(torch.zeros(10, 3), {"background": torch.ones(3, 4)}, noise=0.1)
    >>> len(view), view.sources, view.shapes
    (10, ('background',), {'background': (4,)})
    >>> from mvss import BlockAverage, Identity, Mask
    >>> seen = Mask(torch.rand(10, 1, 8, 8) > 0.1)  # images, with missing pixels of each, one source at half the resolution
    >>> operators = {"sky": seen @ Identity((1, 8, 8)), "galaxy": seen @ BlockAverage((1, 16, 16), 2)}
    >>> View(torch.zeros(10, 1, 8, 8), operators, noise=0.1, name="deep").shapes
    {'sky': (1, 8, 8), 'galaxy': (1, 16, 16)}
    """

    y: Tensor
    operators: Mapping[str, LinearOperator]
    noise: Noise
    name: str = "view"
    numbers: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __init__(
        self,
        y: Tensor | ArrayLike,
        operators: Mapping[str, LinearOperator | Tensor | ArrayLike],
        noise: float | Tensor | ArrayLike | Noise,
        name: str = "view",
        numbers: Tensor | ArrayLike | None = None,
    ) -> None:
        set_field = lambda field, value: object.__setattr__(self, field, value)  # noqa: E731 - the class is frozen
        if not isinstance(name, str):
            raise MvssError(f"view: its name must be text, not {type(name).__name__}")
        set_field("name", name)
        set_field("y", real(y, f"{name}: y"))
        self._check_y()
        if not isinstance(operators, Mapping) or not all(isinstance(source, str) for source in operators):
            raise MvssError(f"{name}: operators must be a dictionary, by the name of each source that the view shows")
        set_field("operators", {key: self._operator(key, value) for key, value in operators.items()})
        self._check_operators()
        set_field("noise", self._noise(noise))
        set_field("numbers", torch.arange(len(self)) if numbers is None else self._numbered(numbers))

    def _check_y(self) -> None:
        if self.y.ndim < 2 or self.y.numel() == 0:
            raise MvssError(f"{self.name}: y must be (N, *observation_shape), none of them 0, got {tuple(self.y.shape)}")
        if bool((odd := ~torch.isfinite(self.y)).any()):
            where = first_place(odd)
            raise MvssError(
                f"{self.name}: y is {float(self.y[where])} at {where}: put any number there and a Mask into the operators of "
                "all sources (YAML: mask, or missing: nan), or leave the observation out"
            )

    def _operator(self, source: str, operator: LinearOperator | Tensor | ArrayLike) -> LinearOperator:
        if isinstance(operator, LinearOperator):
            return operator
        return Dense(real(operator, f"{self.name}: the matrix of {source}").to(self.y.device))

    def _check_operators(self) -> None:
        for source, operator in self.operators.items():
            if operator.observation_shape != self.observation_shape:
                raise MvssError(
                    f"{self.name}: the operator of {source} gives {operator.observation_shape}, "
                    f"but the observations have shape {self.observation_shape}"
                )
            if operator.count not in (None, len(self)):
                raise MvssError(f"{self.name}: {source} has {operator.count} operators for {len(self)} observations")
            if operator.is_zero:
                raise MvssError(f"{self.name}: the operator of {source} is zero; leave a source that is not shown out")
        if not self.operators:
            raise MvssError(f"{self.name}: no operator reaches this view; give it a source or leave it out")

    def _noise(self, noise: float | Tensor | ArrayLike | Noise) -> Noise:
        if noise is None:
            needs = "a standard deviation in the units of y, one of each observation, or a map"
            raise MvssError(f"{self.name}: the noise must be real numbers of one shape, not None: give {needs}")
        if not isinstance(noise, Noise):
            sigma = real(noise, f"{self.name}: the noise").to(self.y.device)
            noise = Isotropic(sigma) if sigma.ndim < 2 else Diagonal(sigma)
        try:
            noise.variance(self.y)
        except RuntimeError as error:
            raise MvssError(f"{self.name}: the noise does not fit y of shape {tuple(self.y.shape)}") from error
        return noise

    def _numbered(self, numbers: Tensor | ArrayLike) -> Tensor:
        found = whole(numbers, f"{self.name}: numbers")
        if found.shape != (len(self),) or bool((found < 0).any()):
            raise MvssError(f"{self.name}: numbers must be {len(self)} whole numbers of at least 0, one of each observation")
        return found

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def observation_shape(self) -> Shape:
        """Of one observation."""
        return tuple(self.y.shape[1:])

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that this view shows."""
        return tuple(self.operators)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of each source."""
        return {source: operator.source_shape for source, operator in self.operators.items()}

    def select(self, rows: Tensor | slice) -> View:
        """Some of the observations, with their operators, noise and numbers."""
        rows = torch.arange(len(self))[rows]
        operators = {source: operator.select(rows) for source, operator in self.operators.items()}
        return View(self.y[rows], operators, self.noise.select(rows), self.name, self.numbers[rows])

    def to(self, device: torch.device | str) -> View:
        """The same view on `device`."""
        if self.y.device == torch.device(device):
            return self
        operators = {source: operator.to(device) for source, operator in self.operators.items()}
        return View(self.y.to(device), operators, self.noise.to(device), self.name, self.numbers)

    def without(self, source: str, x: Tensor) -> View:
        """What is left of the observations once x `(N, *shape)` of a source is known: y − A x, which shows the others. It may
        show none."""
        others = {name: operator for name, operator in self.operators.items() if name != source}
        left = object.__new__(View)
        fields = {**vars(self), "operators": others, "y": self.y - self.operators[source].forward(x.to(self.y))}
        for name, value in fields.items():
            object.__setattr__(left, name, value)
        return left

    def predicted(self, draws: Mapping[str, Tensor]) -> Tensor:
        """Σ A x, `(N, *observation_shape)`, for x `(N, *shape)` of every source that is shown."""
        terms = [operator.forward(draws[source].to(self.y)) for source, operator in self.operators.items()]
        return torch.stack(terms).sum(0)


@dataclass(frozen=True)
class Views(Sequence[View]):
    """All views of one problem, as a sequence. Raises MvssError where two views disagree on the shape of a source."""

    views: tuple[View, ...]

    def __init__(self, views: Iterable[View]) -> None:
        several = () if isinstance(views, View) else tuple(views)
        if isinstance(views, View) or not all(isinstance(view, View) for view in several):
            raise MvssError("views must be a list of mvss.View, also where there is only one")
        object.__setattr__(self, "views", several)
        if not self.views:
            raise MvssError("there is no view: give at least one")
        shapes: dict[str, Shape] = {}
        for view in self.views:
            for source, shape in view.shapes.items():
                if shapes.setdefault(source, shape) != shape:
                    raise MvssError(f"{view.name}: {source} has shape {shape} here, and {shapes[source]} in another view")

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[View]:
        return iter(self.views)

    def __getitem__(self, number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - of one view, or a slice
        return self.views[number]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Of every source, by name, in the order in which views show them."""
        return {source: shape for view in self.views for source, shape in view.shapes.items()}

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all sources."""
        return tuple(self.shapes)

    def showing(self, sources: Iterable[str]) -> tuple[int, ...]:
        """Numbers of the views that show any of `sources`."""
        wanted = set(sources)
        return tuple(number for number, view in enumerate(self.views) if set(view.sources) & wanted)

    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Sources in the order in which they can be learned: those first that a view shows alone, then those that one
        shows with earlier ones alone. What no view tells apart is one stage."""
        known: list[str] = []
        stages = []
        while len(known) < len(self.sources):
            left = [set(view.sources) - set(known) for view in self.views]
            least = min(len(sources) for sources in left if sources)
            stage = tuple(s for s in self.sources if any(s in sources and len(sources) == least for sources in left))
            stages.append(stage)
            known += stage
        return tuple(stages)

    def select(self, rows: Sequence[Tensor | slice]) -> Views:
        """Some of the observations of each view."""
        return Views(view.select(part) for view, part in zip(self.views, rows, strict=True))
