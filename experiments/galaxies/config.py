"""What a preset of the galaxies may say. No implementation is imported."""

from __future__ import annotations

__all__ = ["DENSITY", "PROBLEMS", "REAL_DENSITY", "GalaxiesConfig", "Transform", "problem_named"]

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.core.config import Config
from experiments.core.experiment import Named
from mvss.presets.ranges import at_least
from mvss.presets.reader import suggest
from mvss.presets.settings import EMConfig
from mvss.runtime.errors import MvssError

PROBLEMS = ("simulated", "simulated-asinh", "real", "archive", "multi-resolution", "ground")
Transform = Literal["linear", "asinh"]
"""What the model sees of a flux."""
REAL_DENSITY = 203.0
"""Galaxies brighter than magnitude 26.5 per square arcminute of real sky."""
DENSITY = 10 * REAL_DENSITY
"""Of the simulated sky: so that a stamp of 3.2″ holds six, of which two stand out."""


@dataclass(frozen=True)
class GalaxiesConfig(Config):
    """observations: galaxies to learn from, fresh: to score on, random_fields: of view 1; of real sky as many as there are,
    the deep field's galaxies with their copies. pixels: side of a stamp. transform: what the model sees (`data.transforms`).
    noise: the model of the noise, which in the simulation is that of HST's mosaics, whose correlation a stationary model
    knows and a white one leaves to the sky. density: of the simulated sky, galaxies per square arcminute. copies: how often
    each galaxy of the deep field enters, turned. archive: file of `make galaxies-data`. draws: of the posterior of each
    galaxy, for the scores.
    """

    random_fields: int = 1200
    pixels: int = 32
    transform: Transform = "linear"
    noise: Literal["white", "stationary"] = "white"
    density: float = DENSITY
    copies: int = 4
    archive: Path = Path("data/galaxies.h5")
    draws: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 6:
            raise MvssError("galaxies: draws must be 6 or more, for their 68 % intervals")
        at_least("galaxies", self, 1, "random_fields", "pixels", "copies")
        if not self.density > 0:
            raise MvssError(f"galaxies: density={self.density} must be positive")
        for name, recipe in self.recipes().items():
            turned = self.copies > 1 and "real" in (recipe.problems or self.problems) and not recipe.baseline
            held, kept_apart = recipe.settings.em.held_out, EMConfig().held_out  # see `data.deep_field.copies_apart`
            if turned and held and (held != kept_apart or recipe.share < 1):
                raise MvssError(
                    f"method {name}: copies of a galaxy would be held out and learned from: set copies=1, or leave share at "
                    f"1 and em.held_out at {kept_apart}"
                )

    def brought(self, problem: str) -> str:
        """Of the archive: hash of the mosaics, the catalogue and the settings that it was made from."""
        read_attributes = Named("experiments.galaxies.archive.shards:read_attributes")
        return str(read_attributes(self.archive)["inputs"]) if problem == "archive" else ""


def problem_named(name: str) -> str:
    """The same, if there is such a problem."""
    if name not in PROBLEMS:
        raise MvssError(f"unknown problem {name!r}{suggest(name, PROBLEMS)}")
    return name
