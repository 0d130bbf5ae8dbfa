"""How a mixture is separated, as one tree of data: what a preset says, and what `SourceSeparator` is made from.

    Settings
      estimation   ascent | em                first priors and draws, in closed form
      prior        what corrects them         network, base, sources that stay closed
      em           laps, stages               and their training
      posterior    exact | moment_matching | gibbs | amortised | split_gibbs      of the E-step
      separation   the same, or auto, of new observations

Where there is a choice, `kind` names it. Everything is in units in which each source and each view have a size of about
one: `SourceSeparator.fit` sees to that. This module imports no implementation.
"""

from __future__ import annotations

__all__ = ["EMConfig", "PriorConfig", "Settings"]

from dataclasses import dataclass, field
from typing import Literal, get_args

from mvss.presets.estimation import AscentConfig, MixtureEMConfig
from mvss.presets.posterior import MomentMatchingConfig, PosteriorConfig, SamplerConfig, SeparationConfig
from mvss.presets.ranges import at_least
from mvss.presets.training import NetworkConfig, TrainingConfig
from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class PriorConfig:
    """Priors of the sources. network: what corrects the closed-form fit; None for that alone. base: what it corrects, the
    fitted mixture, or Karras' skip term, one Gaussian. closed: sources, by name, that stay their mixture all the same.
    sampler: of prior draws from pure noise; None for that of the posterior, from draws of the mixture. keep: "all"
    networks or, where the fit ends, those alone that denoise held-out draws "better" than the mixture does."""

    network: NetworkConfig | None = field(default_factory=NetworkConfig)
    base: Literal["mixture", "karras"] = "mixture"
    closed: tuple[str, ...] = ()
    sampler: SamplerConfig | None = None
    keep: Literal["all", "better"] = "all"


@dataclass(frozen=True)
class EMConfig:
    """laps: of every stage, or of each. stages: all sources together, or one after the other, as views allow. relaxation:
    ω of the M-step; 1 is plain EM. draws: of each observation that networks learn from, once there are posterior draws.
    ranges: what is known of the numbers of a source, by name, in units of the views; what networks learn from is cut to
    that. held_out: share of the observations of each view that no network learns from, by which each lap is judged.
    amortised: the M-step of posteriors that networks learn; None for that of the priors. network: of those; None for one
    like the priors'. guess: the M-step of their guesses, on each lap's draws, for views of any operator; None where they
    stay as the estimation made them, for views at full resolution."""

    laps: int | tuple[int, ...] = 3
    stages: Literal["together", "sequential"] = "together"
    relaxation: float = 1.0
    draws: int = 1
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    held_out: float = 0.03
    amortised: TrainingConfig | None = None
    network: NetworkConfig | None = None
    guess: TrainingConfig | None = None

    def __post_init__(self) -> None:
        at_least("em", self, 0, "laps")
        at_least("em", self, 1, "draws")
        if empty := [source for source, (low, high) in self.ranges.items() if not low < high]:
            raise MvssError(f"em.ranges of {', '.join(empty)}: the first number must be below the second")
        if not 0 <= self.held_out < 1 or not self.relaxation > 0:
            raise MvssError(f"em: held_out={self.held_out} must be in [0, 1), relaxation={self.relaxation} positive")


@dataclass(frozen=True)
class Settings:
    """See the module. separation: None for the posterior of the E-step."""

    estimation: AscentConfig | MixtureEMConfig = field(default_factory=AscentConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    em: EMConfig = field(default_factory=EMConfig)
    posterior: PosteriorConfig = field(default_factory=MomentMatchingConfig)
    separation: SeparationConfig | None = None

    @property
    def separating(self) -> SeparationConfig:
        """How new observations are separated."""
        return self.completed(self.separation or self.posterior)

    def completed(self, posterior: SeparationConfig) -> SeparationConfig:
        """With what it takes from that of the E-step."""
        return posterior.completed(self.posterior)

    def posterior_named(self, kind: str) -> SeparationConfig:
        """That of the separation, or of the E-step, which is of a kind; else one with the kind's defaults. Raises MvssError for
        a kind that there is not."""
        kinds = {each.kind: each for each in get_args(SeparationConfig)}
        if kind not in kinds:
            raise MvssError(f"posterior={kind!r} is unknown; there are {', '.join(kinds)}")
        there = (own for own in (self.separation, self.posterior) if own is not None and own.kind == kind)
        return self.completed(next(there, None) or kinds[kind]())
