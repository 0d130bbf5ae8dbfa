"""Operators on images: point-spread functions and coarser pixels.

A x = k ∗ x, the convolution with a kernel, and its exact adjoint, a correlation
A x = the mean of each block of pixels
"""

from __future__ import annotations

__all__ = ["BlockAverage", "Convolve"]

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from mvss.problem.operators import LinearOperator, Shape, floating
from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import real


class Convolve(LinearOperator):
    """A x = k ∗ x in every channel of images of shape `(C, H, W)`.

    kernel: `(h, w)`, odd-sized, its centre at no shift. mode: "valid", where the observation is smaller by kernel − 1 and
    nothing is assumed about what lies outside the source, or "same", where it is as large and the outside is dark.
    """

    def __init__(self, shape: Shape, kernel: Tensor | ArrayLike, mode: str) -> None:
        kernel = real(kernel, "Convolve operator: the kernel")
        if len(shape) != 3:
            raise MvssError(f"Convolve operator: images must have shape (C, H, W), got {tuple(shape)}")
        if kernel.ndim != 2 or not all(size % 2 for size in kernel.shape):
            raise MvssError(f"Convolve operator: the kernel must be (h, w) with odd h and w, got {tuple(kernel.shape)}")
        if not bool(torch.isfinite(kernel).all()):
            raise MvssError("Convolve operator: the kernel holds NaN or infinite values; clean it before building views")
        if kernel.shape[0] > shape[1] or kernel.shape[1] > shape[2]:
            raise MvssError(f"Convolve operator: the kernel {tuple(kernel.shape)} is larger than {tuple(shape)}; crop it")
        if mode not in ("valid", "same"):
            raise MvssError(f"Convolve operator: mode must be valid or same, got {mode!r}")
        self.kernel, self.mode = kernel, mode
        half = [size // 2 for size in kernel.shape]
        self.padding = half if mode == "same" else [0, 0]
        lost = [2 * (h - p) for h, p in zip(half, self.padding, strict=True)]
        self.source_shape = tuple(shape)
        self.observation_shape = (shape[0], shape[1] - lost[0], shape[2] - lost[1])

    def _weight(self, like: Tensor) -> Tensor:
        return self.kernel.flip(0, 1).to(like)[None, None]  # torch's convolutions are correlations

    def forward(self, x: Tensor) -> Tensor:
        planes = floating(x).reshape(-1, 1, *self.source_shape[1:])
        return conv2d(planes, self._weight(planes), padding=self.padding).reshape(-1, *self.observation_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        planes = floating(y).reshape(-1, 1, *self.observation_shape[1:])
        return conv_transpose2d(planes, self._weight(planes), padding=self.padding).reshape(-1, *self.source_shape)

    def to(self, device: torch.device | str) -> Convolve:
        return Convolve(self.source_shape, self.kernel.to(device), self.mode)


class BlockAverage(LinearOperator):
    """Coarser pixels: the mean of every `factor` × `factor` block of images `(N, *, H, W)`; factor divides H and W."""

    def __init__(self, shape: Shape, factor: int) -> None:
        if len(shape) < 2 or factor < 1 or shape[-1] % factor or shape[-2] % factor:
            raise MvssError(f"BlockAverage operator: factor {factor} must divide height and width of images {tuple(shape)}")
        self.factor, self.source_shape = factor, tuple(shape)
        self.observation_shape = (*shape[:-2], shape[-2] // factor, shape[-1] // factor)

    def forward(self, x: Tensor) -> Tensor:
        f = self.factor
        return floating(x).unflatten(-1, (-1, f)).unflatten(-3, (-1, f)).mean((-3, -1))

    def adjoint(self, y: Tensor) -> Tensor:
        f = self.factor
        return floating(y).repeat_interleave(f, -1).repeat_interleave(f, -2) / f**2

    def power(self, variance: Tensor) -> Tensor:
        return self.forward(variance) / self.factor**2

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self.factor**2 * self.adjoint(y)  # A Aᵀ = I / factor²

    @property
    def is_tight(self) -> bool:
        return True
