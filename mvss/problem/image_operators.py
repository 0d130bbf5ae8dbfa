"""Operators on images and signals: point-spread functions, responses of instruments, coarser sampling.

A x = k ∗ x, the convolution with a kernel, and its exact adjoint, a correlation
A x = the mean of each block of pixels
"""

from __future__ import annotations

__all__ = ["BlockAverage", "Convolve"]

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, conv_transpose1d, conv_transpose2d

from mvss.problem.operators import LinearOperator, Shape, fitting, floating
from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import real


class Convolve(LinearOperator):
    """A x = k ∗ x in every channel of images of shape `(C, H, W)`, or of signals of shape `(C, L)`.

    kernel: `(h, w)`, or `(l,)` of signals, odd-sized, its centre at no shift. mode: "valid", where the observation is smaller
    by kernel − 1 and nothing is assumed about what lies outside the source, or "same", where it is as large and the outside
    is dark.
    """

    def __init__(self, shape: Shape, kernel: Tensor | ArrayLike, mode: str) -> None:
        kernel = real(kernel, "Convolve operator: the kernel")
        if len(shape) not in (2, 3):
            raise MvssError(f"Convolve operator: images have shape (C, H, W) and signals (C, L), got {tuple(shape)}")
        sizes = "(h, w) with odd h and w" if len(shape) == 3 else "(l,) with odd l"
        if kernel.ndim != len(shape) - 1 or not all(size % 2 for size in kernel.shape):
            raise MvssError(f"Convolve operator: the kernel must be {sizes}, got {tuple(kernel.shape)}")
        if not bool(torch.isfinite(kernel).all()):
            raise MvssError("Convolve operator: the kernel holds NaN or infinite values; clean it before building views")
        if any(k > n for k, n in zip(kernel.shape, shape[1:], strict=True)):
            raise MvssError(f"Convolve operator: the kernel {tuple(kernel.shape)} is larger than {tuple(shape)}; crop it")
        if mode not in ("valid", "same"):
            raise MvssError(f"Convolve operator: mode must be valid or same, got {mode!r}")
        self.kernel, self.mode = kernel, mode
        half = [size // 2 for size in kernel.shape]
        self.padding = half if mode == "same" else [0] * len(half)
        self.source_shape = tuple(shape)
        kept = (n - 2 * (h - p) for n, h, p in zip(shape[1:], half, self.padding, strict=True))
        self.observation_shape = (shape[0], *kept)

    def _weight(self, like: Tensor) -> Tensor:
        return self.kernel.flip(tuple(range(self.kernel.ndim))).to(like)[None, None]  # torch's convolutions are correlations

    def forward(self, x: Tensor) -> Tensor:
        planes = floating(fitting(x, self.source_shape)).reshape(-1, 1, *self.source_shape[1:])
        convolve = conv2d if self.kernel.ndim == 2 else conv1d
        return convolve(planes, self._weight(planes), padding=self.padding).reshape(-1, *self.observation_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        planes = floating(fitting(y, self.observation_shape)).reshape(-1, 1, *self.observation_shape[1:])
        back = conv_transpose2d if self.kernel.ndim == 2 else conv_transpose1d
        return back(planes, self._weight(planes), padding=self.padding).reshape(-1, *self.source_shape)

    def power(self, variance: Tensor) -> Tensor:
        return Convolve(self.source_shape, self.kernel.square(), self.mode).forward(variance)

    def to(self, device: torch.device | str) -> Convolve:
        return Convolve(self.source_shape, self.kernel.to(device), self.mode)

    @property
    def is_zero(self) -> bool:
        return not bool(self.kernel.any())


class BlockAverage(LinearOperator):
    """Coarser sampling: the mean of every `factor` × `factor` block of images `(C, H, W)`, or of every `factor` neighbours of
    signals `(C, L)`; factor divides H and W, or L."""

    def __init__(self, shape: Shape, factor: int) -> None:
        if len(shape) not in (2, 3) or factor < 1 or any(size % factor for size in shape[1:]):
            raise MvssError(
                f"BlockAverage operator: factor {factor} must divide height and width of images (C, H, W), or the length of "
                f"signals (C, L), not of shape {tuple(shape)}"
            )
        self.factor, self.source_shape = factor, tuple(shape)
        self.observation_shape = (shape[0], *(size // factor for size in shape[1:]))

    @property
    def _block(self) -> int:
        """Numbers in a block."""
        return int(self.factor ** (len(self.source_shape) - 1))

    def forward(self, x: Tensor) -> Tensor:
        x, within = floating(fitting(x, self.source_shape)), range(-1, -2 * len(self.source_shape) + 1, -2)
        for axis in within:
            x = x.unflatten(axis, (-1, self.factor))
        return x.mean(tuple(within))

    def adjoint(self, y: Tensor) -> Tensor:
        y = floating(fitting(y, self.observation_shape))
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, axis)
        return y / self._block

    def power(self, variance: Tensor) -> Tensor:
        return self.forward(variance) / self._block

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self._block * self.adjoint(y)  # A Aᵀ = I / block

    @property
    def is_tight(self) -> bool:
        return True
