"""Mosaics of the sky in FITS: cut-outs with the variance of each pixel, var = sky + max(flux − level, 0) / electrons
per unit.

The sky's part is 1 / weight where there is a map of noise (`layouts`, `maps`), scaled so that it fits the measured
noise of the sky, whatever the map's units; else that noise, and no less than the read noise, and where pixels are 0 to
the last digit, nothing was measured. level: of the sky. The photons' part needs EXPTIME and BUNIT of the header, and
the gain where the unit is counts; it is left out without them, and where the map holds it.
"""

from __future__ import annotations

__all__ = ["Mosaic"]

import itertools
import re
import zlib
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.galaxies.archive.files import open_fits, trouble
from experiments.galaxies.archive.frames import Frame
from experiments.galaxies.archive.layouts import Picture
from experiments.galaxies.archive.maps import check_against, weights
from experiments.galaxies.data.deep_field import clipped_sigma
from mvss.runtime.errors import MvssError

FULL_WELL = 80_000.0
"""Electrons at which a pixel of ACS/WFC saturates, where the header does not say SATURATE. We have it reached over the
whole exposure time: too early, where that is of several exposures, rather than too late."""
WINDOWS = 16
"""A grid of as many windows in both directions measures the noise of a mosaic, or of fewer that cover all of it."""
WINDOW = 32
LAG = 4
"""Pixels between those whose differences measure noise: more than resampling correlates."""
FAINTEST, QUARTILE = 0.25, 0.6745
"""Share of the pairs of pixels that measure noise, those with the least light: the sum of a pair tells nothing of its
difference, and a galaxy that fills a cut-out is in the others. Standard deviations from a Gaussian's quarter to its
middle."""
NOTHING = 1e-6
"""Share of the usual weight below which a map says that nothing was measured: some have a σ of 10¹⁰ there."""
UNIT = re.compile(r"(ELECTRONS?|E-?|COUNTS?|DN|ADU|CPS)(/S|/SEC|/SECOND|S-1|SEC-1|SECOND-1)?")
"""What BUNIT may be, without blanks and signs of powers."""
Image = NDArray[np.float64]
File = Any  # astropy has no types


class Mosaic:
    """One mosaic, open for reading, as if its pixels were sums over squares of `binning` × `binning` of those in the
    file: a square with a bad one is bad. Positions are rows and columns of such pixels from 0; fluxes are in its own
    unit.

    Raises:
        MvssError: a file is truncated or cannot be read, it has no celestial coordinates, or a map does not fit.
    """

    def __init__(self, picture: Picture, binning: int = 1) -> None:
        self.picture, self.name, self.binning = picture, picture.name, binning
        self._open = {path: open_fits(path) for path in picture.files}
        try:
            whole = self._open[picture.path]
            image = self._image = whole[picture.hdu]
            self.shape = tuple(size // binning for size in image.shape)
            if min(self.shape) < 1:
                raise self._bad(f"has {image.shape} pixels, not one of {binning} × {binning}")
            self._header = whole[0].header.copy()
            self._header.update(image.header)
            try:
                self.frame = Frame(image.header, whole, image.shape)
            except MvssError as error:
                raise self._bad(str(error)) from error
            if binning > 1 and self.frame.distorted:
                raise self._bad("has coordinates with distortions: drizzle it first, or take a binning of 1")
            maps: list[File] = [part and self._open[part.path][part.hdu] for part in (picture.noise, picture.mask)]
            self._weight, self._flags = maps
            for part, kind in ((self._weight, "weight map"), (self._flags, "map of flags")):
                if part is not None and part.shape != image.shape:
                    raise self._bad(f"is {image.shape}, its {kind} {part.shape}")
            self._padded = self._weight is None and image.header["BITPIX"] < 0
        except BaseException:
            self.close()
            raise

    def _bad(self, what: str) -> MvssError:
        return MvssError(f"{self.picture.path.with_name(self.name)} {what}")

    def __str__(self) -> str:
        """How it is understood, in a line."""
        picture, (height, width) = self.picture, self._image.shape
        zeros = "zeros are" if self._padded else "what is no number is"
        line = (
            f"{self.name}: image {picture.extension} ({width} × {height} pixels of {self.frame.scale:.4g} arcsec), unit "
            f"{picture.unit or 'unknown'}, noise {picture.noise or 'measured'}, mask "
            f"{picture.mask.label if picture.mask else f'none, {zeros} no data'}, frame {self.frame.name}"
        )
        return line + (f"; not read: {', '.join(picture.unread)}" if picture.unread else "")

    def __enter__(self) -> Mosaic:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close its files."""
        for file in self._open.values():
            file.close()

    @property
    def unit(self) -> str:
        """BUNIT of the header, or nothing."""
        return self.picture.unit.upper()

    @property
    def band(self) -> str:
        """The filters of the header, or nothing."""
        named = (str(self._header.get(key, "")).strip().upper() for key in ("FILTER", "FILTER1", "FILTER2"))
        return "/".join(dict.fromkeys(name for name in named if name and not name.startswith("CLEAR")))

    @property
    def pixel_scale(self) -> float:
        """Arcseconds a pixel, mean of both directions."""
        return self.frame.scale * self.binning

    @property
    def dark(self) -> bool:
        """Whether nothing tells the noise of the objects' photons."""
        return self.electrons is None and not (self.picture.noise and self.picture.noise.photons)

    @cached_property
    def electrons(self) -> float | None:
        """Electrons to one unit of flux, or None where the header does not say."""
        if not (known := UNIT.fullmatch(re.sub(r"[\s.*^()]", "", self.unit))):
            return None
        unit, per = known.groups()
        gain = 1.0 if unit.startswith("E") else self._number("CCDGAIN", "GAIN", "ATODGAIN")
        time = self._number("EXPTIME") if per or unit == "CPS" else 1.0
        return gain * time if gain and time else None

    def _number(self, *names: str) -> float | None:
        """The first of some keywords that is a positive number."""
        values = (self._header.get(name) for name in names)
        return next((float(v) for v in values if isinstance(v, int | float) and np.isfinite(v) and v > 0), None)

    @cached_property
    def _saturation(self) -> float:
        level = self._number("SATURATE")
        return level or (FULL_WELL / self.electrons if self.electrons else np.inf)

    @cached_property
    def _noise(self) -> tuple[float, float, float]:
        """Variance of the sky's pixels times their weight (1 without a map), their usual standard deviation, their
        level."""
        sizes = [min(WINDOW, n) for n in self.shape]
        scaled, light, deviations, levels, noises, usual = [], [], [], [], [], []
        counts = [min(WINDOWS, -(-n // WINDOW)) for n in self.shape]
        grid = (np.linspace(0, n - size, k).astype(int) for n, size, k in zip(self.shape, sizes, counts, strict=True))
        for row, column in itertools.product(*grid):
            flux, weight = self._pixels(row, column, *sizes)
            variance = np.where(weight > 0, 1 / np.where(weight > 0, weight, 1), np.nan)
            steps = []
            for f, v in ((flux, variance), (flux.T, variance.T)):
                u = (f[:, LAG:] - f[:, :-LAG]) / np.sqrt(v[:, LAG:] + v[:, :-LAG])
                scaled.append(u[np.isfinite(u)])
                light.append((f[:, LAG:] + f[:, :-LAG])[np.isfinite(u)])
                steps.append((f[:, LAG:] - f[:, :-LAG])[np.isfinite(u)])
            deviations.append(np.sqrt(variance[np.isfinite(variance)]))
            levels.append(flux[np.isfinite(flux)])
            if len(np.concatenate(steps)) > flux.size:
                noises.append(_sigma(np.concatenate(steps)) / np.sqrt(2))
                usual.append(float(np.median(weight[weight > 0])))
        values, sums = np.concatenate(scaled), np.concatenate(light)
        scale = _sigma(values[sums <= np.quantile(sums, FAINTEST)]) if len(values) else 0.0
        if not scale > 0:
            raise self._bad("has no measured pixels, or all of the same value: take it out of the folder")
        if noise := self.picture.noise:
            try:
                check_against(np.array(noises), np.array(usual), noise.kind)
            except MvssError as error:
                raise self._bad(f"has a map of noise, {noise}, that {error}") from error
        floor = (self._number("READNSE", "RDNOISE", "READNOIS", "READNSEA") or 0.0) / (self.electrons or np.inf)
        if self._weight is None:
            scale = max(scale, floor)
        usually = scale * float(np.median(np.concatenate(deviations)))
        return scale**2, usually, float(np.quantile(np.concatenate(levels), 0.25)) + QUARTILE * usually

    @property
    def usual_noise(self) -> float:
        """Standard deviation of a usual pixel of the sky."""
        return self._noise[1]

    def _pixels(self, row: int, column: int, height: int, width: int) -> tuple[Image, Image]:
        """Flux, NaN where it is not a number or saturated, and weight, 0 there and where nothing was measured."""
        from astropy.nddata import block_reduce

        box = tuple(slice(first * self.binning, (first + n) * self.binning) for first, n in ((row, height), (column, width)))
        try:
            flux = np.asarray(self._image.data[box], dtype=np.float64)
            if self.picture.noise is None:
                weight = np.where(self._padded & (flux == 0), 0.0, 1.0)
            else:
                weight = weights(np.asarray(self._weight.data[box], dtype=np.float64), self.picture.noise.kind)
            if self.picture.mask is not None:
                weight[self.picture.mask.bad(np.asarray(self._flags.data[box]))] = 0.0
        except (OSError, ValueError, EOFError, TypeError, zlib.error) as error:
            raise self._bad(trouble(error)) from error
        good = np.isfinite(flux) & (weight > 0)
        good &= np.where(good, flux, np.inf) < self._saturation
        flux, weight = np.where(good, flux, np.nan), np.where(good, weight, 0.0)
        if self.binning == 1:
            return flux, weight
        with np.errstate(divide="ignore"):
            return block_reduce(flux, self.binning), 1 / block_reduce(1 / weight, self.binning)

    def _measured(self, row: int, column: int, height: int, width: int) -> tuple[Image, Image]:
        """Flux and weight of a box, both 0 where nothing was measured."""
        flux, weight = self._pixels(row, column, height, width)
        scale, usual, _ = self._noise
        weight = np.where(weight > NOTHING * scale / usual**2, weight, 0.0)
        return np.where(weight > 0, flux, 0.0), weight

    def flux(self, row: int, column: int, height: int, width: int) -> tuple[Image, NDArray[np.bool_]]:
        """The flux of a box, 0 where the second, the mask of bad pixels, is set."""
        flux, weight = self._measured(row, column, height, width)
        return flux, weight == 0

    def stamp(self, row: int, column: int, pixels: int) -> tuple[Image, Image, NDArray[np.bool_]]:
        """Flux and inverse variance, both 0 where the third, the mask of bad pixels, is set; `(pixels, pixels)`
        each."""
        flux, weight = self._measured(row, column, pixels, pixels)
        bad = weight == 0
        scale, _, level = self._noise
        variance = scale / np.where(bad, 1.0, weight)
        if self.electrons and not (self.picture.noise and self.picture.noise.photons):
            variance = variance + np.maximum(flux - level, 0) / self.electrons
        return flux, np.where(bad, 0.0, 1 / variance), bad

    def where(self, positions: Image) -> Image:
        """Row and column `(M, 2)` of right ascensions and declinations in degrees; NaN far off the mosaic."""
        out = np.full(positions.shape, np.nan)
        centre = self.sky(np.array([[(n - 1) / 2 for n in self.shape]]))[0]
        radius = np.radians(0.75 * max(self.shape) * self.pixel_scale / 3600 + 0.02)
        (ra, dec), (ra0, dec0) = np.radians(positions).T, np.radians(centre)
        near = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0) > np.cos(radius)
        if near.any():
            out[near] = (self.frame.pixels(positions[near]) - (self.binning - 1) / 2) / self.binning
        return out

    def sky(self, places: Image) -> Image:
        """Right ascension and declination in degrees `(M, 2)` of rows and columns."""
        return self.frame.sky(places * self.binning + (self.binning - 1) / 2)

    def wcs_of(self, row: int, column: int, pixels: int) -> str:
        """The coordinates of a stamp, as a FITS header."""
        return self.frame.cut(row, column, pixels, self.binning)


def _sigma(values: Image) -> float:
    """As `clipped_sigma`, and 0 where most values are the same."""
    return clipped_sigma(values) if np.median(np.abs(values - np.median(values))) > 0 else 0.0
