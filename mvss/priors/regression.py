"""A network m(y) ≈ E[x | y] of one source, which sees y on the pixels of the source, u.

    m = sigmoid(F₂) u + s F₁,    where u is blurred   m = exp(F₂) u + s F₁

with s the size of u at each pixel and around it (`dynamic_range`). It sees u beside the background and beside the light of
the middle, where the source is taken to be, and where each pixel is.
"""

from __future__ import annotations

__all__ = ["BATCH", "Guess", "tolerance"]

import torch
from torch import Tensor

from mvss.priors.dynamic_range import local_scale, middle_light

BATCH = 256
"""Images that go through a network at a time when nothing is learned."""
MOST = 6.0
"""F₂ is kept below this: a core is at most 400 times as bright as its blurred image."""
RELATIVE = 0.1
"""Error that counts as much as the background does, beside the estimate's own light there."""


class Guess(torch.nn.Module):
    """m(y). network: of INPUTS and OUTPUTS images; its noise level is not looked at."""

    INPUTS, OUTPUTS = 6, 2

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
    def inputs(u: Tensor, measured: Tensor, usual: float | Tensor) -> list[Tensor]:
        """What a network is shown of y, INPUTS images `(N, *shape)`."""
        light = [torch.asinh(u / usual) / 3, torch.asinh(u / (10 * usual)) / 2, torch.asinh(u / middle_light(u, usual))]
        return [*light, measured, *_places(u)]


def tolerance(hidden: Tensor, found: Tensor, shown: Tensor, usual: float) -> Tensor:
    """What errors of an estimate are measured by, `(N, *shape)`. hidden: what it leaves of the observation. shown: where there
    is one. usual: see `Guess`."""
    hides, own = local_scale(hidden, shown, usual), local_scale(found, torch.ones_like(found), usual)
    return (hides.square() + (RELATIVE * own).square()).sqrt()


def _places(like: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row of each pixel, -1 to 1: a convolution does not know where it is (Liu et al. 2018, arXiv 1807.03247)."""
    row, column = (torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in like.shape[-2:])
    return column.expand_as(like), row[:, None].expand_as(like)
