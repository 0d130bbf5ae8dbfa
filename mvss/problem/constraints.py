"""What views cannot tell: directions of a source that no view shows, and sources that none tells apart.

A^β x = 0 for every observation      the prior of β alone says what x is there
A^β = r A^γ in every view            only r x^β + x^γ is ever seen
"""

from __future__ import annotations

__all__ = ["unconstrained", "unseen"]

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from mvss.problem.operators import LinearOperator, Shape
from mvss.problem.views import View, Views

LARGEST, FEW = 256, 64
"""Numbers of a source up to which its directions are counted, not only its pixels; and observations that are looked at
together."""
RELATIVE, SAME = 1e-9, 1e-5
"""Light, beside the most, and distance, beside the size, below which there is none."""


def unconstrained(views: Views) -> list[str]:
    """A line for each such thing."""
    lines = []
    for source in views.sources:
        hidden, kind = unseen(views, source)
        if hidden:
            lines.append(f"{hidden} {kind} of {source} are seen by no view: there its prior is what it was to begin with")
    for a, b in itertools.combinations(views.sources, 2):
        if _confounded(views, a, b):
            lines.append(f"{a} and {b} are mixed in the same proportion in every view: they cannot be told apart")
    return lines


def unseen(views: Views, source: str) -> tuple[int, str]:
    """How much of a source no view shows, and of what: directions, or numbers where the source is large."""
    shape = views.shapes[source]
    size = int(torch.Size(shape).numel())
    some = (operator for a in views.showing([source]) for (operator,) in _some(views[a], source))
    if size > LARGEST:
        light = sum(map(_light, some), torch.zeros(shape, dtype=torch.float64))
        return int((light <= RELATIVE * light.max()).sum()), "numbers"
    left, most = torch.eye(size, dtype=torch.float64), 0.0
    for operator in some:
        images = torch.stack([_image(operator, x.reshape(shape)).flatten() for x in left])
        values, vectors = torch.linalg.eigh(images @ images.mT)
        most = max(most, float(values[-1]))
        left = vectors[:, values <= RELATIVE * most].mT @ left
        if not len(left):
            break
    return len(left), "directions"


def _light(operator: LinearOperator) -> Tensor:
    """|Aᵀ y| of each number, for certain y, summed over observations."""
    return operator.adjoint(_certain(operator.count or 1, operator.observation_shape)).abs().sum(0)


def _confounded(views: Views, a: str, b: str) -> bool:
    if views.shapes[a] != views.shapes[b]:
        return False
    ratios = []
    for view in views:
        if (a in view.sources) != (b in view.sources):
            return False
        for pair in _some(view, a, b) if a in view.sources else ():
            x = _certain(max(operator.count or 1 for operator in pair), views.shapes[a])
            one, other = (operator.forward(x) for operator in pair)
            ratio = float((one * other).sum() / other.square().sum())
            if not float((one - ratio * other).norm()) <= SAME * float(one.norm()):
                return False
            ratios.append(ratio)
    return max(ratios) - min(ratios) <= 1e-6 * max(map(abs, ratios))


def _some(view: View, *sources: str) -> Iterator[list[LinearOperator]]:
    """The operators of sources of few observations at a time, until all were there; once where these share them."""
    operators = [view.operators[source] for source in sources]
    shared = all(operator.count is None for operator in operators)
    for rows in torch.arange(1 if shared else len(view)).split(FEW):
        yield [operator.select(rows).to("cpu") for operator in operators]


def _image(operator: LinearOperator, x: Tensor) -> Tensor:
    """A x of each observation."""
    return operator.forward(x.expand(operator.count or 1, *operator.source_shape))


def _certain(count: int, shape: Shape) -> Tensor:
    """The same numbers at every time."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
