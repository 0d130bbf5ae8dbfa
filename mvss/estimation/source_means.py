"""The means of all sources together, by least squares: what an offset of the observations says of each."""

from __future__ import annotations

__all__ = ["image_of", "source_means"]

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from mvss.problem.shared_view import measured_numbers
from mvss.problem.views import Draws, View, Views

ITERATIONS = 200
"""Of conjugate gradients, which begin at zero, and leave there what no view shows."""


def source_means(views: Views) -> tuple[Draws, float]:
    """m of each source, `(*shape)`, in the units of the views, which minimise Σ |y − Σ A m|² over all that was measured; and
    the share of Σ |y|² that they explain."""
    shapes = views.shapes
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]

    def named(flat: NDArray[np.float64]) -> Draws:
        pieces = torch.from_numpy(np.array(flat)).split(sizes)
        return {source: piece.reshape(shapes[source]) for source, piece in zip(shapes, pieces, strict=True)}

    def back(seen: list[Tensor]) -> NDArray[np.float64]:
        """Σ Aᵀ y of all sources, for y of every view."""
        sums = {source: torch.zeros(shape, dtype=torch.float64) for source, shape in shapes.items()}
        for view, y in zip(views, seen, strict=True):
            for source, operator in view.operators.items():
                sums[source] += operator.adjoint(y).sum(0)
        return torch.cat([each.flatten() for each in sums.values()]).numpy()

    seen = [measured_numbers(view)[0] for view in views]
    right = back(seen)
    product = LinearOperator(
        (len(right), len(right)), lambda flat: back([image_of(view, named(flat)) for view in views]), dtype=np.float64
    )
    means = named(cg(product, right, rtol=1e-6, maxiter=ITERATIONS)[0])
    power = sum(float(y.square().sum()) for y in seen)
    left = sum(float((y - image_of(view, means)).square().sum()) for view, y in zip(views, seen, strict=True))
    return means, 1 - left / power if power > 0 else 0.0


def image_of(view: View, means: Draws) -> Tensor:
    """Σ A m, of every observation, `(N, *observation_shape)`."""
    return view.predicted({source: means[source].expand(len(view), *means[source].shape) for source in view.sources})
