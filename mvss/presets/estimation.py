"""Settings of first priors and first draws."""

from __future__ import annotations

__all__ = ["AscentConfig", "MixtureEMConfig", "Noisier2NoiseConfig"]

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mvss.presets.ranges import at_least
from mvss.presets.training import NetworkConfig, TrainingConfig
from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class Noisier2NoiseConfig:
    """First estimates of sources from pairs of views. training: of the network that makes them; its noise levels do not
    matter. averages: backgrounds behind each estimate. least, most: what the numbers of the source are known to lie
    between, in the user's units. dark: share of the numbers that are `least` in every observation, such as the corners of
    images: where the darkest ones' estimates are more on average, backgrounds of the two views differ in brightness; that
    is taken off all, and a standard deviation. alone: also of sources that a view shows behind noise alone, which is
    simulated."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    averages: int = 8
    least: float | None = None
    most: float | None = None
    dark: float = 0.0
    alone: bool = False

    def __post_init__(self) -> None:
        at_least("noisier2noise", self, 1, "averages")
        if not 0 <= self.dark < 1 or (self.dark and self.least is None):
            raise MvssError(f"noisier2noise: dark={self.dark} must be in [0, 1), and needs least")
        if self.least is not None and self.most is not None and not self.least < self.most:
            raise MvssError(f"noisier2noise: least={self.least} must be below most={self.most}")


@dataclass(frozen=True)
class AscentConfig:
    """Mixtures by stochastic ascent of the exact likelihood: for small sources, under any operators.

    components: K of each phase, never falling; the phases share the steps equally, and between two of them dead components go
    and the heaviest are cut until there are K. steps: of Adam in all. batch: observations per step and view. learning_rate,
    final_learning_rate: geometric in between. temperature: τ² at the start, as a fraction of the mean square of y; zero
    after `cooled` of the steps. floor: lower bound of a component's standard deviation, as a fraction of the smallest
    noise level. held_out: share of the observations that are kept for the held-out likelihood. starts, trial:
    independent starts; after this fraction of the phases the one of the best held-out evidence goes on.
    """

    implementation: ClassVar = "mvss.estimation.by_ascent:estimate_by_ascent"
    kind: Literal["ascent"] = field(default="ascent", kw_only=True)
    components: tuple[int, ...] = (24,) * 6 + (32, 48, 48, 48)
    steps: int = 1600
    batch: int = 256
    learning_rate: float = 0.02
    final_learning_rate: float = 5e-4
    temperature: float = 0.05
    cooled: float = 0.6
    floor: float = 0.3
    held_out: float = 0.1
    starts: int = 3
    trial: float = 0.3

    def __post_init__(self) -> None:
        at_least("estimation", self, 1, "components", "batch", "starts")
        if not self.components or self.steps < len(self.components):
            raise MvssError(
                f"estimation: steps={self.steps} must be at least one for each of components={list(self.components)}"
            )
        if list(self.components) != sorted(self.components):
            raise MvssError(f"estimation: components={list(self.components)} must not fall from phase to phase")
        if not self.floor > 0 or not 0 <= self.held_out < 1:
            raise MvssError("estimation: floor must be positive and held_out in [0, 1)")
        if not 0 < self.final_learning_rate <= self.learning_rate:
            raise MvssError("estimation: 0 < final_learning_rate <= learning_rate must hold")
        if not self.temperature >= 0 or not 0 <= self.cooled <= 1 or not 0 <= self.trial <= 1:
            raise MvssError("estimation: temperature must be at least 0, cooled and trial in [0, 1]")

    @property
    def trial_phases(self) -> int:
        """Phases that every start runs."""
        return int(self.trial * len(self.components)) if self.starts > 1 else 0

    @property
    def total_steps(self) -> int:
        """Steps over all starts."""
        return self.steps + (self.starts - 1) * self.phase_steps(self.trial_phases).start

    def phase_steps(self, number: int) -> range:
        """The steps of a phase."""
        count = len(self.components)
        return range(number * self.steps // count, (number + 1) * self.steps // count)


@dataclass(frozen=True)
class MixtureEMConfig:
    """Mixtures by EM, for large sources under operators that whole views share. components, ranks: per source in the
    order in which they are learned, those that a view shows alone first, then those that one shows with these alone, and
    so on; the last for all further ones; rank 0 for a full covariance. laps: of EM in every stage. floor: least standard
    deviation of a component in any direction. noisier2noise: of sources that pairs of views tell, fit the mixture to
    estimates of each observation's in place of the observations."""

    implementation: ClassVar = "mvss.estimation.by_em:estimate_by_em"
    kind: Literal["em"] = field(default="em", kw_only=True)
    components: tuple[int, ...] = (1, 8)
    ranks: tuple[int, ...] = (0, 12)
    laps: int = 20
    floor: float = 0.01
    noisier2noise: Noisier2NoiseConfig | None = None

    def __post_init__(self) -> None:
        if not self.components or not self.ranks:
            raise MvssError("estimation: components and ranks need one number at least")
        at_least("estimation", self, 1, "components", "laps")
        at_least("estimation", self, 0, "ranks")
        if not self.floor > 0:
            raise MvssError(f"estimation: floor={self.floor} must be positive")
