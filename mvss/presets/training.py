"""Settings of networks and of their training."""

from __future__ import annotations

__all__ = ["NetworkConfig", "TrainingConfig"]

import math
from dataclasses import dataclass
from typing import Literal

from mvss.presets.ranges import at_least
from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class TrainingConfig:
    """One M-step; the defaults are the paper's, but for the number of steps.

    steps, batch: gradient steps, and draws per step over all processes together. learning_rate, final_learning_rate:
    Adam's at the first and at the last step, on a schedule "linear" or "cosine". warmup: first steps, over which the
    rate also rises from zero. decay: of Adam's mean of the squared gradients. ema_decay: of the moving average of the
    weights; 0 for none. gradient_clip: largest norm of the gradient. sigma_min, sigma_max: range of the noise level,
    beta: a and b of t ~ Beta(a, b), log-linear in between. turns: whether each draw enters a batch turned by quarters
    and mirrored at random, for images that have no upper side. shifts: most pixels that each is moved by at random; what
    leaves on one side enters opposite. holes: share of pixels that every second image is shown without, for networks
    that are shown observations: they then know what to do where a pixel was not measured, though none was missing.
    """

    steps: int = 1024
    batch: int = 1024
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    schedule: str = "linear"
    warmup: int = 0
    decay: float = 0.999
    ema_decay: float = 0.0
    gradient_clip: float = 1.0
    sigma_min: float = 1e-3
    sigma_max: float = 10.0
    beta: tuple[float, float] = (3.0, 3.0)
    turns: bool = False
    shifts: int = 0
    holes: float = 0.0

    def __post_init__(self) -> None:
        rate, final = self.learning_rate, self.final_learning_rate
        low, high = self.sigma_min, self.sigma_max
        checks = [
            (self.steps >= 1, f"needs at least one step, not steps={self.steps}"),
            (self.batch >= 1, f"needs at least one draw in a batch, not batch={self.batch}"),
            (0 < rate < math.inf, f"needs a positive learning_rate, not {rate}"),
            (0 <= final <= rate, f"needs final_learning_rate between 0 and learning_rate={rate}, not {final}"),
            (self.schedule in ("linear", "cosine"), f"knows schedule linear and cosine, not {self.schedule!r}"),
            (self.shifts >= 0, f"needs shifts of at least 0, not {self.shifts}"),
            (0 <= self.holes < 1, f"needs holes in [0, 1), not {self.holes}"),
            (self.warmup >= 0, f"needs warmup of at least 0, not {self.warmup}"),
            (0 <= self.decay < 1, f"needs decay in [0, 1), not {self.decay}"),
            (0 <= self.ema_decay < 1, f"needs ema_decay in [0, 1), not {self.ema_decay}"),
            (self.gradient_clip > 0, f"needs a positive gradient_clip, not {self.gradient_clip}"),
            (low > 0, f"cannot use a noise of zero: choose sigma_min > 0, not {low}"),
            (low <= high < math.inf, f"needs a finite sigma_max of at least sigma_min={low}, not {high}"),
            (len(self.beta) == 2 and min(self.beta) > 0, f"needs two positive numbers as beta, not {self.beta}"),
        ]
        for holds, complaint in checks:
            if not holds:
                raise MvssError(f"training {complaint}")


@dataclass(frozen=True)
class NetworkConfig:
    """The network of a source: of images a U-Net with `blocks` (channels by resolution) of `layers` behind squares of
    `patch` pixels, else, or without blocks, a perceptron with layers `hidden`. signals: whether sources `(channels, length)`
    have a U-Net, too. variance: whether it also learns Var[x | x_t],
    where sources are too large for explicit Jacobians. dynamic: scales by the light at each pixel, for images of a large
    dynamic range."""

    hidden: tuple[int, ...] = (128, 128, 128)
    embedding: int = 64
    conditioning: Literal["film", "concat"] = "film"
    blocks: tuple[int, ...] = (32, 64, 128)
    layers: int = 1
    patch: int = 1
    signals: bool = False
    variance: bool = True
    dynamic: bool = False

    def __post_init__(self) -> None:
        at_least("network", self, 1, "hidden", "blocks", "layers", "patch")
        at_least("network", self, 2, "embedding")
