"""What the model sees of a flux. Mixing is linear in flux alone.

linear    y
asinh     0.2 · asinh(y / 0.1), clipped at ± 2 (the paper's, for its galaxies). A sum becomes no sum of sources, and noise
          no longer the same everywhere: it is taken as on the sky, where it doubles, which is too much on bright pixels
"""

from __future__ import annotations

__all__ = ["fluxes", "slope_of", "transformed"]

import torch
from torch import Tensor

from experiments.galaxies.config import Transform

SOFTENING, SCALE, CLIP = 0.1, 0.2, 2.0


def transformed(x: Tensor, transform: Transform) -> Tensor:
    """Of fluxes `(...)`."""
    return x if transform == "linear" else (SCALE * torch.asinh(x / SOFTENING)).clamp(-CLIP, CLIP)


def fluxes(x: Tensor, transform: Transform) -> Tensor:
    """The inverse."""
    return x if transform == "linear" else SOFTENING * torch.sinh(x.clamp(-CLIP, CLIP) / SCALE)


def slope_of(transform: Transform) -> float:
    """By how much noise on the sky grows."""
    return 1.0 if transform == "linear" else SCALE / SOFTENING
