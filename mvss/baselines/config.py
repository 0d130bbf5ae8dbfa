"""Settings of the baselines: `implementation` says where each is; nothing of it is imported here."""

from __future__ import annotations

__all__ = ["CLVMConfig", "PCPCAConfig"]

from dataclasses import dataclass
from typing import ClassVar, Literal

from mvss.presets.ranges import at_least
from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class PCPCAConfig:
    """gamma: γ, the weight of the background, in [0, 1). latents: columns of W. steps of Adam on minibatches of `batch`
    observations of each view, at a learning rate in the units of the source that falls to a tenth."""

    implementation: ClassVar = "mvss.baselines.pcpca:PCPCA"
    gamma: float = 0.3
    latents: int = 5
    steps: int = 500
    batch: int = 512
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        at_least("pcpca", self, 1, "latents", "steps", "batch")
        if not 0 <= self.gamma < 1 or not self.learning_rate > 0:
            raise MvssError("pcpca: gamma must be in [0, 1), learning_rate positive")


@dataclass(frozen=True)
class CLVMConfig:
    """decoder: "linear" or "mlp". background, target: latents of each. hidden: layers of the perceptrons (mlp only).
    steps: of L-BFGS (linear), or of Adam on minibatches of `batch` observations of each view (mlp), with a learning rate that
    falls to a hundredth (cosine).
    temperature: of the annealed noise (mlp only), relative to the observations' spread; gone after half of the steps."""

    implementation: ClassVar = "mvss.baselines.clvm:CLVM"
    decoder: Literal["linear", "mlp"] = "linear"
    background: int = 4
    target: int = 5
    hidden: tuple[int, ...] = (256, 256, 256)
    steps: int = 500
    batch: int = 512
    learning_rate: float = 1e-3
    temperature: float = 0.3

    def __post_init__(self) -> None:
        at_least("clvm", self, 1, "background", "target", "hidden", "steps", "batch")
        if not self.temperature > 0 or not self.learning_rate > 0:
            raise MvssError("clvm: temperature and learning_rate must be positive")
