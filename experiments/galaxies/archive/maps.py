"""Maps that tell how noisy the pixels of an image are, as weights w ∝ 1 / variance:

    σ: w = σ⁻²      variance: w = variance⁻¹      weight: w (inverse variance, exposure; of any scale)

Which kind a map is stands in its header (WEIGHT_TYPE of SExtractor, HDUCLAS3 of ESO, UTYPE of astropy, BUNIT), else in
its name or in the layout of its file. The image has the last word: where its noise does not follow the map, the map is
refused.
"""

from __future__ import annotations

__all__ = ["Map", "check_against", "stated_kind", "weights"]

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvss.runtime.errors import MvssError

POWER = {"sigma": -2.0, "variance": -1.0, "weight": 1.0}
"""Of a map's values that is a weight."""
SAID = {"sigma": "σ", "variance": "variance", "weight": "inverse variance up to a factor"}
STATEMENTS = (
    "WGTTYPE",
    "WHTTYPE",
    "WHT_TYPE",
    "WTTYPE",
    "WEIGHTTYPE",
    "WEIGHT_TYPE",
    "MAPTYPE",
    "IMTYPE",
    "PRODTYPE",
    "HDUCLAS3",
    "UTYPE",
)
"""Cards that say what a map is."""
VALUES = {
    "sigma": ("RMS", "MAPRMS", "SIGMA", "STD", "STDDEV", "RMSE", "STDDEVUNCERTAINTY"),
    "variance": ("VAR", "VARIANCE", "MAPVARIANCE", "MSE", "VARIANCEUNCERTAINTY"),
    "weight": ("WEIGHT", "MAPWEIGHT", "IVAR", "INVVAR", "IVM", "EXP", "WTMAP", "INVMSE", "INVERSEVARIANCE"),
}
"""What they say; without blanks and other signs."""
SPREAD, WINDOWS = 1.2, 20
"""Ratio of a map's values in an image's parts, of which there are as many, from where on the noise must follow."""
STEEP = 0.75
"""Between the slopes of log noise against the logarithm of variance and of σ."""
ABSOLUTE, CLOSE = 5.0, 1.5
"""Times that a map of σ or variance may be off the measured noise, unless it would be as close as this taken for the
other."""
Values = NDArray[np.float64]
Header = Any  # astropy has no types


@dataclass(frozen=True)
class Map:
    """Where a map is. kind: a key of POWER; photons: whether it holds those of the objects, too; label: for users."""

    path: Path
    hdu: int
    kind: str
    photons: bool
    label: str

    def __str__(self) -> str:
        return f"{self.label} ({SAID[self.kind]}{' with the photons of objects' if self.photons else ''})"


def weights(values: Values, kind: str) -> Values:
    """Weights, 0 where a map has no number, or none that can be such a thing."""
    usable = np.isfinite(values) & (values > 0)
    with np.errstate(all="ignore"):
        found = np.where(usable, values, 1.0) ** POWER[kind]
    return np.where(usable & np.isfinite(found), found, 0.0)


def stated_kind(header: Header, unit: str) -> str:
    """The kind that the header of a map says; nothing where it does not. unit: of the image, BUNIT.

    Raises:
        MvssError: it says two.
    """
    told = {}
    for name in STATEMENTS:
        value = re.sub(r"[^A-Z]", "", str(header.get(name, "")).upper())
        if kind := next((kind for kind, values in VALUES.items() if value in values), ""):
            told[kind] = f"{name} = {header[name]}"
    if kind := _kind_of_unit(str(header.get("BUNIT", "")), unit):
        told.setdefault(kind, f"BUNIT = {header['BUNIT']}")
    if len(told) > 1:
        raise MvssError(f"says two things of itself ({', '.join(told.values())})")
    return next(iter(told), "")


def _kind_of_unit(own: str, unit: str) -> str:
    """By powers of the image's unit. One that is the same says nothing: it is often copied."""
    from astropy.units import Unit, UnitBase

    mine, image = (Unit(text, parse_strict="silent") if text.strip() else None for text in (own, unit))
    if not isinstance(mine, UnitBase) or not isinstance(image, UnitBase):
        return ""
    try:
        return "variance" if mine == image**2 and mine != image else "weight" if mine == image**-2 and mine != image else ""
    except (TypeError, ValueError):  # units that are not understood
        return ""


def check_against(noise: Values, weight: Values, kind: str) -> None:
    """noise: standard deviations measured in parts of an image; weight: the usual ones there by a map of this kind.

    Raises:
        MvssError: they contradict each other: the noise falls where it should rise, or a map of σ is one of variance.
    """
    from scipy.stats import theilslopes

    noise, weight = (values[(noise > 0) & (weight > 0)] for values in (noise, weight))
    if len(noise) < WINDOWS:
        return
    values = weight ** (1 / POWER[kind])
    low, high = np.quantile(values, [0.1, 0.9])
    least, most = theilslopes(np.log(noise), np.log(values), 0.99)[2:] if high > SPREAD * low else (-np.inf, np.inf)
    if kind == "weight" and least > 0:
        raise MvssError("looks like a map of σ or variance: where its values are larger, the image is noisier")
    if kind == "weight":
        return
    if most < 0:
        raise MvssError("looks like a weight map: where its values are larger, the image is less noisy")
    off = {k: float(abs(np.log(np.median(noise / values**power)))) for k, power in (("sigma", 1.0), ("variance", 0.5))}
    other = "variance" if kind == "sigma" else "sigma"
    follows = most < STEEP if kind == "sigma" else least > STEEP  # the other, whose slope is ½ or 1
    if off[other] < np.log(CLOSE) and (off[kind] > np.log(ABSOLUTE) or (follows and off[kind] > off[other] + np.log(2))):
        raise MvssError(f"looks like a map of {SAID[other]}: taken for one, it is the noise that the image has")
