"""Images whose brightest pixels are thousands of times as bright as their noise: how large a source may be at each pixel.

    s² = N² + max(|y|, |y smoothed|)²,    N: usual size of what is dark

The networks of such images see y/s and asinh(y/N), and what they give is in units of s: no pixel's error drowns all others.
"""

from __future__ import annotations

__all__ = ["local_scale", "middle_light", "usual_size"]

import torch
from torch import Tensor
from torch.nn import functional

MIDDLE = 0.4
"""Where the middle of an image begins, as a share of its side."""
COVERED = 0.2
"""Share of a pixel's surroundings that must have been measured to be smoothed over."""


def usual_size(n: Tensor, measured: Tensor) -> float:
    """N: of most pixels of `(K, *shape)`, robustly; bright ones are rare."""
    return 1.4826 * float(n[measured > 0].abs().median())


def local_scale(y: Tensor, measured: Tensor, usual: float | Tensor) -> Tensor:
    """s of images `(N, C, H, W)`. measured: 1 where they are, 0 elsewhere. usual: N, a number or `(N, 1, 1, 1)`."""
    window = y.new_tensor([1.0, 2.0, 1.0])
    kernel = (window[:, None] * window)[None, None].expand(y.shape[1], 1, 3, 3) / 16
    light, share = (functional.conv2d(v, kernel, padding=1, groups=y.shape[1]) for v in (y * measured, measured))
    return (usual**2 + torch.maximum((light / share.clamp_min(COVERED)).abs(), (y * measured).abs()).square()).sqrt()


def middle_light(y: Tensor, usual: float | Tensor) -> Tensor:
    """N and the mean size of the middle fifth of images `(N, C, H, W)`, where a centred source is, `(N, 1, 1, 1)`."""
    rows, columns = (slice(a := min(round(MIDDLE * n), (n - 1) // 2), n - a) for n in y.shape[-2:])
    return y[..., rows, columns].abs().mean((1, 2, 3), keepdim=True) + usual
