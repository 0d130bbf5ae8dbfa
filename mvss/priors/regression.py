"""A network m(y) ≈ E[x | y] of one source, which sees y on the pixels of the source, u.

    m = sigmoid(F₂) u + s F₁,    where u is blurred   m = exp(F₂) u + s F₁

with s the size of u at each pixel and around it, for images and signals whose brightest pixels are thousands of times as
bright as their noise,

    s² = N² + max(|u|, |u smoothed|)²,    N: usual size of what is dark

so that no pixel's error drowns all others. It sees u beside the background and beside the light of
the middle, where the source is taken to be, or of a whole signal, and where each pixel is.
"""

from __future__ import annotations

__all__ = ["BATCH", "Guess", "local_scale", "middle_light", "source_scale", "tolerance", "usual_size"]

import torch
from torch import Tensor
from torch.nn import functional

BATCH = 256
"""Images that go through a network at a time when nothing is learned."""
MOST = 6.0
"""F₂ is kept below this: a core is at most 400 times as bright as its blurred image."""
RELATIVE = 0.1
"""Error that counts as much as the background does, beside the estimate's own light there."""
MIDDLE = 0.4
"""Where the middle of an image begins, as a share of its side."""
COVERED = 0.2
"""Share of a pixel's surroundings that must have been measured to be smoothed over."""


class Guess(torch.nn.Module):
    """m(y) of images or signals. network: takes `inputs_of` them and gives OUTPUTS; its noise level is not looked at."""

    OUTPUTS = 2

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, u: Tensor, measured: Tensor, usual: float, sharp: bool = True) -> Tensor:
        """m of u, `(N, *shape)`. measured: see `view_pairs.thrown_back`. usual: size of the background on these pixels. sharp:
        whether pixels were seen by themselves."""
        dtype = next(self.network.parameters()).dtype
        inputs = torch.stack(self.inputs(u, measured, usual), dim=1).to(dtype)
        out = self.network(inputs, torch.zeros(len(u), dtype=dtype, device=u.device)).to(u.dtype)
        plain, share = out.reshape(len(u), self.OUTPUTS, *u.shape[1:]).unbind(1)
        share = torch.sigmoid(share) if sharp else share.clamp_max(MOST).exp()
        return share * u + local_scale(u, (measured > 0).to(u), usual) * plain

    @staticmethod
    def inputs_of(shape: tuple[int, ...]) -> int:
        """How many sources' worth of numbers a network is shown for sources of `shape`."""
        return 3 + len(shape)

    @staticmethod
    def inputs(u: Tensor, measured: Tensor, usual: float | Tensor) -> list[Tensor]:
        """What a network is shown of y, `inputs_of(shape)` times `(N, *shape)`."""
        light = [torch.asinh(u / usual) / 3, torch.asinh(u / (10 * usual)) / 2, torch.asinh(u / middle_light(u, usual))]
        return [*light, measured, *_places(u)]


def tolerance(hidden: Tensor, found: Tensor, shown: Tensor, usual: float) -> Tensor:
    """What errors of an estimate are measured by, `(N, *shape)`. hidden: what it leaves of the observation. shown: where there
    is one. usual: see `Guess`."""
    hides, own = local_scale(hidden, shown, usual), local_scale(found, torch.ones_like(found), usual)
    return (hides.square() + (RELATIVE * own).square()).sqrt()


def _places(like: Tensor) -> list[Tensor]:
    """Column and row of each pixel, -1 to 1: a convolution does not know where it is (Liu et al. 2018, arXiv 1807.03247)."""
    along = [torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in like.shape[2:]]
    return [place.expand_as(like) for place in reversed(torch.meshgrid(*along, indexing="ij"))]


def usual_size(n: Tensor, measured: Tensor) -> float:
    """N: of most pixels of `(K, *shape)`, robustly; bright ones are rare."""
    return 1.4826 * float(n[measured > 0].abs().median())


def local_scale(y: Tensor, measured: Tensor, usual: float | Tensor) -> Tensor:
    """s of images `(N, C, H, W)` or signals `(N, C, L)`. measured: 1 where they are, 0 elsewhere. usual: N, a number or one of
    each observation."""
    window = y.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel, smooth = (window[:, None] * window, functional.conv2d) if y.ndim == 4 else (window, functional.conv1d)
    kernel = kernel.expand(y.shape[1], 1, *kernel.shape)
    light, share = (smooth(v, kernel, padding=1, groups=y.shape[1]) for v in (y * measured, measured))
    return (usual**2 + torch.maximum((light / share.clamp_min(COVERED)).abs(), (y * measured).abs()).square()).sqrt()


def middle_light(y: Tensor, usual: float | Tensor) -> Tensor:
    """N and the mean size of the middle fifth of images `(N, C, H, W)`, where a centred source is, `(N, 1, 1, 1)`; of signals
    `(N, C, L)` that of the whole, `(N, 1, 1)`."""
    if y.ndim == 3:
        return y.abs().mean((1, 2), keepdim=True) + usual
    rows, columns = (slice(a := min(round(MIDDLE * n), (n - 1) // 2), n - a) for n in y.shape[-2:])
    return y[..., rows, columns].abs().mean((1, 2, 3), keepdim=True) + usual


def source_scale(u: Tensor, measured: Tensor, m: Tensor, usual: float | Tensor) -> Tensor:
    """s of each pixel of the source: of u, or of a guess m where that is larger, as in cores that seeing has spread."""
    return torch.maximum(local_scale(u, (measured > 0).to(u), usual), local_scale(m, torch.ones_like(m), usual))
