"""Contrastive data: views that show a target on a background, and views that show the background alone.

    y_target = A^b b + A^t t + η,    y_background = A^b b + η,    A^b, A^t per observation or for a whole view

The target is the newest source. The background is the sum of all earlier ones, as in the paper; its law is that of the
views that show exactly those. Several views of one kind differ in their operators, as in resolution.
"""

from __future__ import annotations

__all__ = ["Contrast", "Method", "background_of", "check_background", "descend", "minibatch", "without_mask"]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mvss.problem.operators import LinearOperator
from mvss.problem.shared_view import measured, unmasked
from mvss.problem.views import Draws, View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream, stream_of

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Contrast:
    """target: the target's name. on, off: the views with and without it."""

    target: str
    on: tuple[View, ...]
    off: tuple[View, ...]

    @staticmethod
    def of(views: Views) -> Contrast:
        """The two kinds of views of contrastive data; the target is the source that is shown last.

        Raises MvssError where no view shows all sources, or none all but the newest, or the background has no one operator.
        """
        everything, target = set(views.sources), views.sources[-1]
        on = tuple(view for view in views if set(view.sources) == everything)
        off = tuple(view for view in views if set(view.sources) == everything - {target})
        if not on or not off:
            raise MvssError(
                "PCPCA and CLVM need contrastive data: a view of all sources, and one of all but the newest; "
                f"the views show {'; '.join(' and '.join(view.sources) for view in views)}"
            )
        for view in (*on, *off):
            check_background(view, target)
        return Contrast(target, on, off)


def minibatch(views: Sequence[View], size: int, stream: Stream) -> list[tuple[View, float]]:
    """About `size` random observations of views of one kind, in proportion to their numbers; with each view's share of all."""
    total, parts = sum(map(len, views)), []
    for number, view in enumerate(views):
        count = max(1, round(size * len(view) / total))
        rows = torch.randperm(len(view), generator=stream.generator(number))[:count]
        parts.append((view.select(rows), len(view) / total))
    return parts


def background_of(view: View, target: str) -> str:
    """A source of the background, whose operator is that of all, as `check_background` has seen."""
    return next(b for b in view.sources if b != target)


def without_mask(view: View) -> tuple[Tensor, Tensor | None, dict[str, LinearOperator]]:
    """y `(N, *shape)`, 0 where nothing was measured; what was, `(N, M)`, 1 or 0; and the sources' operators without that
    mask, by source: each serves all observations. None, and the operators as they are, where there is no such mask; y is 0
    there, too, where no source was measured."""
    y, seen, (mask, operators) = view.y, measured(view).expand_as(view.y), unmasked(view)
    if bool(seen.all()):
        return y, None, dict(view.operators)
    if mask is None or any(operator.count is not None for operator in operators):
        return seen * y, None, dict(view.operators)
    return seen * y, seen.flatten(1).to(y), dict(zip(view.sources, operators, strict=True))


def check_background(view: View, target: str) -> None:
    """Raise MvssError where the background's sources have different operators: their sum is then no source."""
    first, *others = (operator for b, operator in view.operators.items() if b != target)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(len(view), *first.source_shape, generator=rng, dtype=torch.float64)
    if any(o.source_shape != x.shape[1:] or not torch.allclose(o.forward(x), first.forward(x)) for o in others):
        raise MvssError("PCPCA and CLVM need one operator for all background sources of a view; here they differ")


def descend(
    name: str,
    loss_at: Callable[[int], Tensor],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    steps: int,
    progress: Progress | None,
    clip: float = math.inf,
) -> None:
    """Minimise by gradient steps. loss_at: the loss of a step's minibatch. clip: largest norm of the gradient.

    Raises MvssError, in the name of the method, where the loss stops being finite.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for step in range(steps):
        loss = loss_at(step)
        if not bool(torch.isfinite(loss)):
            raise MvssError(f"{name}: the fit diverged at step {step}; use a smaller learning_rate")
        optimiser.zero_grad()
        loss.backward()
        if clip < math.inf:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimiser.step()
        schedule.step()
        if progress:
            progress((step + 1) / steps)


class Method(ABC):
    """A model of contrastive data, with the face of a `SourceSeparator`.

    sources: names of those that it separates, known after `fit` or `load`.
    """

    sources: tuple[str, ...]

    @abstractmethod
    def fit(self, views: Views, stream: Stream, progress: Progress | None = None) -> None:
        """Learn from contrastive data. progress: takes the fraction done."""

    @abstractmethod
    def _draw(self, view: View, stream: Stream) -> Draws:
        """One draw `(N, *shape)` of each of `sources`, per observation of a view that shows the target."""

    def separate(self, view: View, draws: int = 1, seed: int | Stream = 0, progress: Progress = lambda _: None) -> Draws:
        """`(draws, N, *shape)` of each of `sources`. progress: takes the fraction done."""
        stream, pieces = stream_of(seed), []
        for number in range(draws):
            pieces.append(self._draw(view, stream.child(number)))
            progress((number + 1) / draws)
        return {source: torch.stack([piece[source] for piece in pieces]) for source in self.sources}

    def sample(self, source: str, count: int, seed: int | Stream = 0, stratified: bool = False) -> Tensor:
        """`(count, *shape)` draws of a source, one of `sources`. stratified: its latents are spread evenly over their law."""
        if source not in self.sources:
            raise MvssError(f"this model has {', '.join(self.sources)} only, not {source}")
        latents, stream = self.latents, stream_of(seed)
        if stratified:
            sobol = torch.quasirandom.SobolEngine(latents, scramble=True, seed=stream.generator("sobol").initial_seed() % 2**31)
            uniform = sobol.draw(count, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
            return self._prior(source, torch.special.ndtri(uniform))
        return self._prior(source, stream.normal(torch.arange(count), (latents,), "prior"))

    @property
    @abstractmethod
    def latents(self) -> int:
        """How many standard-normal numbers a prior draw takes."""

    @abstractmethod
    def _prior(self, source: str, z: Tensor) -> Tensor:
        """The draws of a source that the model has, from latents z `(count, latents)`."""

    @abstractmethod
    def save(self, path: Path | str) -> None:
        """Write the fitted model to a file."""

    @abstractmethod
    def load(self, path: Path | str) -> None:
        """Read what `save` wrote into a model of the same configuration."""
