"""What views cannot tell: directions of a source that no view shows, and sources that none tells apart.

A^β x = 0 for every observation      the prior of β alone says what x is there
A^β = r A^γ in every view            only r x^β + x^γ is ever seen
"""

from __future__ import annotations

__all__ = ["unconstrained", "unseen"]

import itertools

import torch
from torch import Tensor

from mvss.problem.operators import LinearOperator
from mvss.problem.views import Views

LARGEST, FEW = 256, 64
"""Numbers of a source up to which its directions are counted, not only its pixels; and observations that are looked at."""
RELATIVE = 1e-9


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
    operators = [_few(views[a].operators[source]) for a in views.showing([source])]
    if size <= LARGEST:
        gram = torch.stack([(m.mT @ m).sum(0) for m in (o.dense().cpu() for o in operators)]).sum(0)
        values = torch.linalg.eigvalsh(gram)
        return int((values <= RELATIVE * values[-1]).sum()), "directions"
    light = torch.stack([_light(o) for o in operators]).sum(0)
    return int((light <= RELATIVE * light.max()).sum()), "numbers"


def _light(operator: LinearOperator) -> Tensor:
    """|Aᵀ A 1| of each number, summed over observations."""
    ones = torch.ones(operator.count or 1, *operator.source_shape, dtype=torch.float64)
    return operator.adjoint(operator.forward(ones)).abs().sum(0).cpu()


def _confounded(views: Views, a: str, b: str) -> bool:
    if views.shapes[a] != views.shapes[b]:
        return False
    ratios = []
    for view in views:
        if (a in view.sources) != (b in view.sources):
            return False
        if a in view.sources:
            one, other = (_probed(view.operators[s]) for s in (a, b))
            ratio = float((one * other).sum() / other.square().sum())
            if not torch.allclose(one, ratio * other):
                return False
            ratios.append(ratio)
    return max(ratios) - min(ratios) <= 1e-6 * max(map(abs, ratios))


def _probed(operator: LinearOperator) -> Tensor:
    """What it makes of certain numbers."""
    operator = _few(operator)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(operator.count or 1, *operator.source_shape, generator=rng, dtype=torch.float64)
    return operator.forward(x)


def _few(operator: LinearOperator) -> LinearOperator:
    """That of the first observations."""
    return operator if operator.count is None else operator.select(torch.arange(min(operator.count, FEW)))
