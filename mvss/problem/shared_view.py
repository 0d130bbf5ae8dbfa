"""A view whose observations share operators and noise, but for some pixels of each: as rows of numbers.

An observation may have a mask of its own before the operators, and variances of its own at some pixels (`woodbury`).
The noise of the view is the usual one of each pixel, the median over the observations that measured it.
"""

from __future__ import annotations

__all__ = ["SharedView", "is_shared", "measured", "measured_numbers", "measured_variance", "shared_rows", "unmasked"]

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from mvss.problem.noise import Diagonal, Stationary
from mvss.problem.operators import Composition, Identity, LinearOperator, Mask
from mvss.problem.stack import Stack, Sum
from mvss.problem.views import View
from mvss.problem.woodbury import Woodbury
from mvss.runtime.errors import MvssError
from mvss.runtime.fingerprint import digest

MOST = 0.25
"""Share of measured pixels that may have a noise of their own; masked ones may be any."""


def is_shared(view: View) -> bool:
    """Whether one operator per source, and one noise, serve all observations of a view, but for single pixels."""
    return shared_rows(view) is not None


def shared_rows(view: View) -> SharedView | None:
    """The view as rows, if it is shared."""
    try:
        return SharedView.of(view)
    except MvssError:
        return None


@dataclass(frozen=True)
class SharedView:
    """A view as rows of numbers. y: `(N, M)`, 0 where masked. operators: of each source, unmasked. noise: variances
    `(M,)`, or `(M, M)` where it is correlated. woodbury: pixels that are masked or have a variance of their own in some."""

    y: Tensor
    operators: tuple[LinearOperator, ...]
    noise: Tensor
    woodbury: Woodbury | None = None

    @staticmethod
    def of(view: View) -> SharedView:
        """Raises MvssError where the observations have operators of their own, but for one mask before all of them, or where
        more than a quarter of the pixels has a variance of its own."""
        mask, operators = unmasked(view)
        if mask is None or any(o.count is not None for o in operators):
            raise MvssError(f"{view.name}: observations have operators of their own, where one is needed for all")
        y = view.y.double()
        measured = mask.expand_as(y)
        # A pixel that no observation measures: A and y are 0, and log N(0; 0, 1/2π) = 0 leaves no trace in the evidence.
        never = ~measured.any(0, keepdim=True)
        noise, extra = _common_noise(view, measured.flatten(1), never.flatten())
        if bool(never.any()):
            operators = tuple(Mask(~never) @ operator for operator in operators)
        y, measured = (y * measured).flatten(1), (measured | never).flatten(1)
        share = float((extra != 0).double().mean())
        if share > MOST:
            raise MvssError(f"{view.name}: {share:.0%} of the pixels have a noise of their own, where up to {MOST:.0%} may")
        woodbury = Woodbury.of(measured, extra) if share or not bool(measured.all()) else None
        return SharedView(y, operators, noise, woodbury)

    def select(self, rows: Tensor | slice) -> SharedView:
        """Some of the observations."""
        return replace(self, y=self.y[rows], woodbury=self.woodbury and self.woodbury.select(rows))

    def same_factors(self, other: SharedView) -> bool:
        """Whether the factorisations of one view are those of the other."""
        pairs = zip(self.operators, other.operators, strict=False)
        counts = len(self.operators) == len(other.operators)
        return counts and torch.equal(self.noise, other.noise) and all(_same(a, b) for a, b in pairs)

    @property
    def covariance(self) -> Tensor:
        """Σ, `(M, M)`."""
        return self.noise if self.noise.ndim == 2 else torch.diag(self.noise)

    @property
    def variance(self) -> Tensor:
        """The diagonal of Σ, `(M,)`."""
        return self.noise.diagonal() if self.noise.ndim == 2 else self.noise

    def variances(self) -> Tensor:
        """The variance of each number's noise, `(N, M)`; infinite where it was not measured."""
        out = self.variance.expand_as(self.y)
        if self.woodbury is None:
            return out
        extra = self.woodbury.inverse.reciprocal().where(self.woodbury.here, 0.0)
        return out.scatter_add(1, self.woodbury.pixel, extra)

    def draw_noise(self, z: Tensor, woodbury: Woodbury | None) -> Tensor:
        """Noise of observations with odd pixels `woodbury`, for standard-normal z, `(N, M)`."""
        if self.noise.ndim == 2:
            return z @ self._root.mT
        noise = z * self.noise.sqrt()
        return noise if woodbury is None else noise * woodbury.scale(self.noise)

    def image(self, place: int, rows: Tensor) -> Tensor:
        """A x of the source number `place`, `(n, M)` for x `(n, D)`; no matrix is made of A."""
        operator = self.operators[place]
        return operator.forward(rows.reshape(-1, *operator.source_shape)).flatten(1)

    def images(self, sources: Sequence[Tensor]) -> Tensor:
        """Σ A x, `(n, M)`, for x `(n, D_β)` of every source."""
        return torch.stack([self.image(place, x) for place, x in enumerate(sources)]).sum(0)

    def pull(self, place: int, rows: Tensor) -> Tensor:
        """Aᵀ y, `(n, D)` for y `(n, M)`."""
        operator = self.operators[place]
        return operator.adjoint(rows.reshape(-1, *operator.observation_shape)).flatten(1)

    def regularised(self, variance: float) -> SharedView:
        """The same with more variance in every pixel."""
        more = self.noise.new_full(self.noise.shape[:1], variance)
        return replace(self, noise=self.noise + (more if self.noise.ndim == 1 else torch.diag(more)))

    @cached_property
    def _root(self) -> Tensor:
        return torch.linalg.cholesky(self.covariance)


def unmasked(view: View) -> tuple[Tensor | None, tuple[LinearOperator, ...]]:
    """What was measured, `(N or 1, *shape)`, and the operators of the sources without it. None where their masks differ."""
    masks, operators = _unmask_sources(view)
    return masks[0] if all(torch.equal(mask, masks[0]) for mask in masks) else None, operators


def measured(view: View) -> Tensor:
    """Which numbers of y were, bool `(N or 1, *shape)`: those that not every source has masked."""
    return reduce(torch.logical_or, _unmask_sources(view)[0])


def measured_numbers(view: View) -> tuple[Tensor, Tensor]:
    """y with 0 in place of what was not measured, which may be any number, and which was, bool; both `(N, *shape)`."""
    seen = measured(view).expand_as(view.y)
    return view.y.where(seen, 0.0), seen


def measured_variance(view: View) -> Tensor:
    """Of the noise of all numbers that were measured, `(n,)`: what stands beside the others says nothing."""
    return view.noise.variance(view.y)[measured(view).expand_as(view.y)]


def _unmask_sources(view: View) -> tuple[list[Tensor], tuple[LinearOperator, ...]]:
    """The mask of each source, and what it is applied to. Where a source is not shown at all, as in one look of a `Stack`, its
    mask is that of the others, who know what was measured there."""
    found, operators = zip(*map(_unmask, view.operators.values()), strict=True)
    all_seen = torch.ones_like(view.y[:1], dtype=torch.bool)
    masks = [all_seen if mask is None else mask for mask in found]
    shows = [_shows(operator, all_seen) for operator in view.operators.values()]
    if all(bool(shown.all()) for shown in shows):
        return masks, operators
    told = reduce(torch.logical_or, (mask & shown for mask, shown in zip(masks, shows, strict=True)))
    silent = ~reduce(torch.logical_or, shows)
    told = torch.where(silent, reduce(torch.logical_or, masks), told)
    return [torch.where(shown, mask, told) for mask, shown in zip(masks, shows, strict=True)], operators


def _shows(operator: LinearOperator, like: Tensor) -> Tensor:
    """Where an operator lets something of its source through, `(1, *shape)`, masks aside."""
    if isinstance(operator, Stack) and not operator.is_zero:
        parts = zip(operator.operators, like.split(operator.sizes, dim=1), strict=True)
        return torch.cat([_shows(look, part) for look, part in parts], dim=1)
    return like & (not operator.is_zero)


def _unmask(operator: LinearOperator) -> tuple[Tensor | None, LinearOperator]:
    """The mask that is applied last, `(N or 1, *shape)`, and what it is applied to."""
    if isinstance(operator, Mask):
        return operator.mask, Identity(operator.source_shape)
    if isinstance(operator, Stack):
        return _unmask_each(operator)
    if isinstance(operator, Sum):
        return _unmask_all(operator)
    if not isinstance(operator, Composition):
        return None, operator
    mask, outer = _unmask(operator.outer)
    if not outer.is_diagonal:  # else it commutes with masks
        return (None, operator) if mask is None else (mask, outer @ operator.inner)
    other, inner = _unmask(operator.inner)
    mask = other if mask is None else mask if other is None else mask & other
    return mask, inner if isinstance(outer, Identity) else outer if isinstance(inner, Identity) else outer @ inner


def _unmask_each(stack: Stack) -> tuple[Tensor | None, LinearOperator]:
    """The same of several looks at a source."""
    masks, operators = zip(*map(_unmask, stack.operators), strict=True)
    if not (some := [mask for mask in masks if mask is not None]):
        return None, stack
    count = max(map(len, some))
    each = [
        some[0].new_ones(1, *operator.observation_shape) if mask is None else mask
        for mask, operator in zip(masks, stack.operators, strict=True)
    ]
    return torch.cat([mask.expand(count, *mask.shape[1:]) for mask in each], dim=1), Stack(operators)


def _unmask_all(total: Sum) -> tuple[Tensor | None, LinearOperator]:
    """The same of operators that add up: what all of their masks hide."""
    masks, operators = zip(*map(_unmask, total.operators), strict=True)
    if any(mask is None for mask in masks):
        return None, total
    same = all(torch.equal(mask, masks[0]) for mask in masks)
    return reduce(torch.logical_or, masks), Sum(operators) if same else total


def _same(a: object, b: object) -> bool:
    """Whether two operators are the same object, or made of the same numbers."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.device == b.device and torch.equal(a, b))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, LinearOperator) and type(a) is type(b):
        return a is b or all(_same(value, vars(b).get(name)) for name, value in vars(a).items())
    try:
        return a is b or digest(a) == digest(b)
    except MvssError:  # it has no content that could be read
        return False


def _common_noise(view: View, measured: Tensor, never: Tensor) -> tuple[Tensor, Tensor]:
    """Variances of most observations `(M,)`, or Σ `(M, M)`, and what those of each have beyond them `(N, M)`.

    measured: `(N, M)`. never: pixels that no observation measures, `(M,)`.
    """
    y = view.y.double()
    if isinstance(view.noise, Stationary):
        noise = view.noise.matrix(y).masked_fill(never | never[:, None], 0.0)
        noise.diagonal().masked_fill_(never, 0.5 / math.pi)
        return noise, torch.zeros_like(measured, dtype=y.dtype)
    if view.noise.is_shared:
        base = view.noise.variance(y[:1]).flatten()
        return base.masked_fill(never, 0.5 / math.pi), torch.zeros_like(measured, dtype=y.dtype)
    if not isinstance(view.noise, Diagonal):
        raise MvssError(f"{view.name}: observations have a noise of their own, where one for all is needed")
    variance = view.noise.variance(y).flatten(1)
    base = variance.masked_fill(~measured, math.nan).nanmedian(0).values.where(~never, 0.5 / math.pi)
    usual = torch.isclose(variance, base, rtol=1e-9, atol=0.0) | ~measured
    return base, (variance - base).masked_fill(usual, 0.0)
