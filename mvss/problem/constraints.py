"""What views cannot tell: directions of a source that no view shows, and sources that none tells apart.

A^β x = 0 for every observation               the prior of β alone says what x is there
A^β = ± r A^γ in every view                   only ± r x^β + x^γ is ever seen
Σ_β A^β C^β A^βᵀ = 0 for every observation    so much of its covariance any of these sources may have
"""

from __future__ import annotations

__all__ = ["unconstrained", "unseen"]

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mvss.problem.operators import LinearOperator, Shape
from mvss.problem.views import View, Views

LARGEST, FEW = 256, 64
"""Numbers of a source up to which its directions are counted, not only its pixels; and observations that are looked at
together."""
PRODUCTS = 300
"""Numbers of the covariances of all sources up to which those are counted that no view tells."""
RELATIVE, SAME = 1e-9, 1e-5
"""Light, beside the most, and distance, beside the size, below which there is none."""


def unconstrained(views: Views) -> list[str]:
    """A line for each such thing."""
    lines = []
    for source in views.sources:
        hidden, kind = unseen(views, source)
        if hidden:
            lines.append(f"{hidden} {kind} of {source} are seen by no view: there its prior is what it was to begin with")
    pairs = {(a, b): how for a, b in itertools.combinations(views.sources, 2) if (how := _confounded(views, a, b))}
    lines += [f"{a} and {b} are mixed in the same proportion in every view{how}" for (a, b), how in pairs.items()]
    count, several = _shared(views)
    if count and not set(several) <= set(itertools.chain(*pairs)):
        names = f"{', '.join(several[:-1])} and {several[-1]}"
        lines.append(f"{names} share {count} numbers of their covariances: no view tells how much of these is whose")
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


def _confounded(views: Views, a: str, b: str) -> str | None:
    """What cannot be told, if wherever one of two sources is seen it is a number times the other."""
    if views.shapes[a] != views.shapes[b]:
        return None
    ratios = []
    for view in views:
        if (a in view.sources) != (b in view.sources):
            return None
        for pair in _some(view, a, b) if a in view.sources else ():
            x = _certain(max(operator.count or 1 for operator in pair), views.shapes[a])
            one, other = (operator.forward(x) for operator in pair)
            ratio = float((one * other).sum() / other.square().sum())
            if not float((one - ratio * other).norm()) <= SAME * float(one.norm()):
                return None
            ratios.append(ratio)
    most, least = max(map(abs, ratios)), min(map(abs, ratios))
    if most - least > 1e-6 * most:
        return None
    return (
        ": they cannot be told apart"
        if max(ratios) - min(ratios) < most
        else " but for its sign: their spreads cannot be told apart"
    )


def _shared(views: Views) -> tuple[int, tuple[str, ...]]:
    """How many numbers of the covariances could be told if each source were alone, but are not, and of which sources; of
    small sources."""
    sizes = [torch.Size(shape).numel() for shape in views.shapes.values()]
    products = [size * (size + 1) // 2 for size in sizes]
    if len(sizes) == 1 or sum(products) > PRODUCTS:
        return 0, ()
    gram, hidden = torch.zeros(sum(products), sum(products), dtype=torch.float64), torch.zeros(0)
    for seen in itertools.chain(*(_squares(view, views.shapes) for view in views)):
        gram += seen
        if not (hidden := _null(gram)).numel():
            return 0, ()
    count, several = hidden.shape[1], []
    places = torch.arange(len(gram)).split(products)
    for source, own in zip(views.sources, places, strict=True):
        alone = _null(gram[own][:, own])
        part = hidden[own] - alone @ (alone.mT @ hidden[own])
        count -= alone.shape[1]
        several += [source] if float(part.norm()) > SAME else []
    return count, tuple(several)


def _squares(view: View, shapes: Mapping[str, Shape]) -> Iterator[Tensor]:
    """G of few observations at a time: cᵀ G c is the sum of squares of the numbers of Σ A C Aᵀ, with c the numbers of the
    symmetric matrices C of all sources, tr C² = cᵀ c.

    With K = FᵀF of F = [A^1 … A^S] that of the products ij and kl is K_ik K_jl + K_il K_jk, but for a weight.
    """
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    starts = itertools.accumulate(sizes, initial=0)
    i, j = torch.cat([torch.tril_indices(n, n) + start for n, start in zip(sizes, starts, strict=False)], dim=1)
    weight = torch.where(i == j, 0.5, 0.5**0.5).double()
    for operators in _some(view, *view.sources):
        found = {source: operator.dense() for source, operator in zip(view.sources, operators, strict=True)}
        rows, observed = max(map(len, found.values())), view.y[0].numel()
        absent = (torch.zeros(1, observed, size, dtype=torch.float64) for size in sizes)
        parts = [found.get(source, none) for source, none in zip(shapes, absent, strict=True)]
        k = torch.cat([part.expand(rows, -1, -1) for part in parts], dim=2)
        k = k.mT @ k
        squares = (k[:, i[:, None], i] * k[:, j[:, None], j] + k[:, i[:, None], j] * k[:, j[:, None], i]).sum(0)
        yield 2 * weight[:, None] * (squares / squares.abs().max()) * weight


def _null(gram: Tensor) -> Tensor:
    """Directions of which nothing is seen, `(P, k)`, once all numbers that are seen are seen alike."""
    size = gram.diagonal().sqrt()
    size = size.where(size > 0, 1.0)
    values, vectors = torch.linalg.eigh(gram / size[:, None] / size)
    return vectors[:, values <= RELATIVE * values[-1]]


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
