"""Settings of posteriors: `kind` names which, `implementation` where it is; nothing of it is imported here. What else depends
on the kind, the kind says (`_Kind`): another one is a class here, in `PosteriorConfig`, and its implementation.
"""

from __future__ import annotations

__all__ = [
    "AmortisedConfig",
    "AutoConfig",
    "CGConfig",
    "ExactConfig",
    "GibbsConfig",
    "MomentMatchingConfig",
    "PosteriorConfig",
    "SamplerConfig",
    "SeparationConfig",
    "SplitGibbsConfig",
]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from mvss.presets.ranges import at_least
from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class SamplerConfig:
    """One reverse-time run. steps: noise levels, geometric from sigma_start to sigma_min. corrections: Langevin
    corrections per level ("pc" only), tau: their size, in (0, 1)."""

    method: Literal["ancestral", "pc", "ddim", "heun"] = "ancestral"
    steps: int = 16
    sigma_start: float = 0.3
    sigma_min: float = 0.003
    corrections: int = 1
    tau: float = 0.1

    def __post_init__(self) -> None:
        if self.method not in ("ancestral", "pc", "ddim", "heun"):
            raise MvssError(f"sampler.method={self.method!r} is unknown; use ancestral, pc, ddim or heun")
        if self.steps < 1 or self.corrections < 0 or not 0 < self.tau < 1:
            raise MvssError("sampler: steps must be >= 1, corrections >= 0, and tau in (0, 1)")
        if not 0 < self.sigma_min <= self.sigma_start < math.inf:
            raise MvssError("sampler: 0 < sigma_min <= sigma_start must hold, and sigma_start be finite")

    @property
    def evaluations(self) -> int:
        """Of the expectation, in one run."""
        again = {"heun": self.steps - 1, "pc": self.steps * self.corrections}
        return self.steps + again.get(self.method, 0)


@dataclass(frozen=True)
class CGConfig:
    """How far conjugate gradients go. iterations: at most so many. tolerance: of |r − S v| / |r|, where a system is done.
    regularisation: a variance that is added to the diagonal of S."""

    iterations: int = 4
    tolerance: float = 1e-3
    regularisation: float = 0.0

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0 <= self.tolerance < 1 or not 0 <= self.regularisation < math.inf:
            raise MvssError("solver: iterations must be at least 1, tolerance in [0, 1), regularisation at least 0")


Change = Callable[[SamplerConfig], SamplerConfig]


class _Kind:
    """What a kind of posterior says of itself, where it is not as most are.

    beam: of the search for draws to begin from. learned: whether networks learn it, by source. evaluations: of networks, at
    least, for a draw of an observation in the E-step. jacobians: whether those of networks take the place of variances that
    they learn. of_priors: how priors are sampled alike, by which run (None for the usual one), whether from noise alone, and of
    how many components. arguments: of the implementation, given networks that have learned posteriors. resampled: with other
    runs, of those whose noise levels are in units of the sources. completed: with what it takes from the E-step's.
    """

    implementation: ClassVar[str]
    beam, learned = 64, False

    @property
    def evaluations(self) -> int:
        return 0

    @property
    def jacobians(self) -> bool:
        return False

    @property
    def of_priors(self) -> tuple[SamplerConfig | None, bool, int]:
        return None, False, 1

    def arguments(self, models: Mapping[str, object]) -> tuple[object, ...]:
        return (self, models) if self.learned else (self,)

    def resampled(self, change: Change) -> Self:  # noqa: ARG002 - of those with one
        return self

    def completed(self, e_step: PosteriorConfig) -> Self:  # noqa: ARG002 - of those that take something
        return self


@dataclass(frozen=True)
class ExactConfig(_Kind):
    """Exact joint draws under the closed-form priors. beam: width of the search over their components."""

    implementation: ClassVar = "mvss.posteriors.exact:ExactPosterior"
    kind: Literal["exact"] = field(default="exact", kw_only=True)
    beam: int = 64

    def __post_init__(self) -> None:
        at_least("posterior", self, 1, "beam")

    def arguments(self, models: Mapping[str, object]) -> tuple[object, ...]:  # noqa: ARG002 - it has none
        return (self.beam,)


@dataclass(frozen=True)
class MomentMatchingConfig(_Kind):
    """Reverse time with the posterior's moments at every noise level (Rozet et al. 2024; the paper).

    start: "warm", from given or exact draws, noised to sigma_start, or "cold", from noise alone. components: Gaussians
    kept per source at each noise level; 1 is plain moment matching. passes: runs one after the other, each from the last
    one's draws, noised. solver: conjugate gradients with the networks' Jacobians, for large sources; None for variances
    that networks have learned, or for the covariances of the mixtures. chunk: observations in memory at once.
    """

    implementation: ClassVar = "mvss.posteriors.moment_matching:MomentMatching"
    kind: Literal["moment_matching"] = field(default="moment_matching", kw_only=True)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    start: Literal["warm", "cold"] = "warm"
    components: int = 8
    passes: int = 1
    solver: CGConfig | None = None
    beam: int = 64
    chunk: int = 1024

    def __post_init__(self) -> None:
        at_least("posterior", self, 1, "components", "beam", "chunk", "passes")
        if self.solver and self.sampler.method == "ancestral":
            raise MvssError("posterior.solver gives means, no draws: sampler.method must be pc, ddim or heun")

    @property
    def evaluations(self) -> int:
        return self.sampler.evaluations * self.passes

    @property
    def jacobians(self) -> bool:
        return self.solver is not None

    @property
    def of_priors(self) -> tuple[SamplerConfig, bool, int]:
        return self.sampler, self.start == "cold", self.components

    def resampled(self, change: Change) -> Self:
        return replace(self, sampler=change(self.sampler))


@dataclass(frozen=True)
class GibbsConfig(_Kind):
    """Sweeps over the sources, each drawn from noise alone given the others: the baseline. rounds: of sweeps."""

    implementation: ClassVar = "mvss.posteriors.gibbs:GibbsPosterior"
    kind: Literal["gibbs"] = field(default="gibbs", kw_only=True)
    rounds: int = 1
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(sigma_start=10.0))
    components: int = 8
    beam: int = 64
    chunk: int = 1024

    def __post_init__(self) -> None:
        at_least("posterior", self, 1, "rounds", "components", "beam", "chunk")

    @property
    def evaluations(self) -> int:
        return self.sampler.evaluations * self.rounds

    @property
    def of_priors(self) -> tuple[SamplerConfig, bool, int]:
        return self.sampler, False, self.components

    def resampled(self, change: Change) -> Self:
        return replace(self, sampler=change(self.sampler))


@dataclass(frozen=True)
class SplitGibbsConfig(_Kind):
    """Split Gibbs: all sources given y under Gaussian laws around them, then each from its prior given that, in turn.

    levels: of ρ, geometric, from `first` to `last` times the spread of the source that adds most to y. rounds: of the two
    at each level. steps: of reverse time in each draw from a network; levels × rounds × steps evaluations in all. solver:
    for large sources under operators or noise of each observation.
    """

    implementation: ClassVar = "mvss.posteriors.split_gibbs:SplitGibbs"
    kind: Literal["split_gibbs"] = field(default="split_gibbs", kw_only=True)
    levels: int = 24
    rounds: int = 1
    steps: int = 2
    first: float = 1.0
    last: float = 0.4
    solver: CGConfig = field(default_factory=lambda: CGConfig(iterations=500, tolerance=1e-6))
    chunk: int = 1024

    def __post_init__(self) -> None:
        at_least("posterior", self, 1, "levels", "rounds", "steps", "chunk")
        if not 0 < self.last <= self.first < math.inf:
            raise MvssError("posterior: 0 < last <= first must hold, and first be finite")

    @property
    def evaluations(self) -> int:
        return self.levels * self.rounds * self.steps


@dataclass(frozen=True)
class AmortisedConfig(_Kind):
    """Sources whose posteriors networks have learned, drawn from pure noise by `sampler`, with noise levels in units of what
    is seen at each pixel, which the networks also learn between; then the others given those, and views for which no
    network has learned, by `others`. inflation: by how much draws lie farther from their mean than the networks say, which
    on what they have not learned from are too sure."""

    implementation: ClassVar = "mvss.posteriors.amortised:AmortisedPosterior"
    learned = True
    kind: Literal["amortised"] = field(default="amortised", kw_only=True)
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(sigma_start=3.0, sigma_min=0.01))
    others: MomentMatchingConfig = field(default_factory=MomentMatchingConfig)
    inflation: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.inflation < math.inf:
            raise MvssError(f"posterior.inflation={self.inflation} must be positive and finite")

    @property
    def evaluations(self) -> int:
        return self.sampler.evaluations + self.others.evaluations

    @property
    def of_priors(self) -> tuple[SamplerConfig, bool, int]:
        return self.others.of_priors

    def resampled(self, change: Change) -> Self:
        return replace(self, others=self.others.resampled(change))  # its own levels are in units of what is seen


@dataclass(frozen=True)
class AutoConfig(_Kind):
    """The posterior that networks have learned, for views like those that they have learned from, if it also finds again what
    was put into made observations better; split Gibbs for all others.

    trained: the former; None for that of the E-step. split: the latter. put: draws by each, of every observation that no
    network learns from, which are put into others when the two are compared, in `fit`; draws: of each of those.
    """

    implementation: ClassVar = "mvss.posteriors.auto:AutoPosterior"
    learned = True
    kind: Literal["auto"] = field(default="auto", kw_only=True)
    trained: AmortisedConfig | None = None
    split: SplitGibbsConfig = field(default_factory=SplitGibbsConfig)
    put: int = 4
    draws: int = 4

    def __post_init__(self) -> None:
        at_least("posterior", self, 1, "put")
        at_least("posterior", self, 2, "draws")

    def resampled(self, change: Change) -> Self:
        return replace(self, trained=self.trained and self.trained.resampled(change))

    def completed(self, e_step: PosteriorConfig) -> Self:
        return replace(self, trained=e_step) if self.trained is None and isinstance(e_step, AmortisedConfig) else self


PosteriorConfig = ExactConfig | MomentMatchingConfig | GibbsConfig | SplitGibbsConfig | AmortisedConfig
"""How joint posterior draws are made."""
SeparationConfig = PosteriorConfig | AutoConfig
"""The same, of new observations."""
