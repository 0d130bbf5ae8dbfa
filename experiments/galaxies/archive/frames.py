"""Where the pixels of an image are on the sky: right ascension and declination of rows and columns, whatever frame and
order of axes its header has.

    (column, row)  →  two world axes, by their CTYPE longitude and latitude  →  frame of CTYPE, RADESYS  →  RA, DEC

Frames: ICRS and FK5 of J2000, which are taken for one (0.02″), other equinoxes and galactic, which astropy converts.
"""

from __future__ import annotations

__all__ = ["Frame"]

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.galaxies.archive.files import cause_of
from mvss.runtime.errors import MvssError

NUMBERS = re.compile(r"(CRVAL|CRPIX|CDELT|CROTA)[12]|(CD|PC)[12]_[12]|PV[12]_\d+|(A|B|AP|BP)_(\d_\d|ORDER)|LONPOLE|LATPOLE")
WORDS = re.compile(r"(CTYPE|CUNIT)[12]|RADESYS|RADECSYS")
"""Cards of the coordinates that must be numbers, and those that must be text."""
NEEDED = ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
LINEAR = ("CD1_1", "CD1_2", "CD2_1", "CD2_2", "CDELT1", "CDELT2")
SMALLEST, LARGEST = 1e-4, 100.0
"""Arcseconds a pixel, outside of which a header is wrong."""
ROUND_TRIP = 0.1
"""Pixels by which a position may be off when it has gone to the sky and back."""
Places = NDArray[np.float64]
Header = Any  # astropy has no types


class Frame:
    """Of an image of this shape with this header; `whole` is its file, which may hold tables of distortions. name: what
    the header says of its frame.

    Raises:
        MvssError: no celestial coordinates, or such as cannot be used.
    """

    def __init__(self, header: Header, whole: Header, shape: tuple[int, int]) -> None:
        from astropy.wcs import WCS
        from astropy.wcs.utils import proj_plane_pixel_scales, wcs_to_celestial_frame

        header = _checked(header)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._wcs = WCS(header, whole)
                if self._wcs.naxis != 2:
                    raise MvssError(f"has coordinates of {self._wcs.naxis} axes instead of two")
                if not self._wcs.has_celestial:
                    raise MvssError("has no celestial coordinates (WCS) in its header")
                self._native = wcs_to_celestial_frame(self._wcs)
                self._axes = [self._wcs.wcs.lng, self._wcs.wcs.lat]
                scales = np.asarray(proj_plane_pixel_scales(self._wcs)) * 3600
        except MvssError:
            raise
        except Exception as error:  # of astropy or of the C library below it
            raise MvssError(f"has coordinates that cannot be read ({cause_of(error)})") from error
        self.name, self._convert = self._kind(str(header["CTYPE1"]))
        self.scale, self.distorted = float(np.mean(scales)), bool(self._wcs.has_distortion)
        middle = np.array([[(n - 1) / 2 for n in shape]])
        try:
            back = self.pixels(self.sky(middle))
        except Exception as error:  # a singular matrix, a projection that does not reach so far
            raise MvssError(f"has coordinates that cannot be used ({cause_of(error)})") from error
        if not np.abs(back - middle).max() < ROUND_TRIP or not SMALLEST <= scales.min() <= scales.max() <= LARGEST:
            raise MvssError(f"has coordinates that cannot be used (pixels of {scales[0]:.3g} × {scales[1]:.3g} arcsec)")

    def _kind(self, ctype: str) -> tuple[str, bool]:
        """Name of the native frame, and whether it must be converted."""
        from astropy.coordinates import FK5, ICRS, Galactic

        native = self._native
        if isinstance(native, Galactic) and "GL" in ctype:
            return "galactic, converted to ICRS", True
        if ctype.startswith(("RA--", "DEC-")):
            if isinstance(native, ICRS):
                return "ICRS", False
            equinox = getattr(native, "equinox", None)
            if isinstance(native, FK5) and equinox is not None and abs(equinox.jyear - 2000) < 1e-6:
                return "FK5 J2000", False
            return f"{native.name.upper()} {equinox}, converted to ICRS", True
        raise MvssError(f"has coordinates of a frame that is not known here (CTYPE {ctype}): reproject it to ICRS")

    def sky(self, places: Places) -> Places:
        """Right ascension and declination in degrees `(M, 2)` of rows and columns `(M, 2)`."""
        from astropy.coordinates import SkyCoord

        world = np.asarray(self._wcs.all_pix2world(places[:, ::-1], 0))[:, self._axes]
        if not self._convert:
            return world
        found = SkyCoord(world[:, 0], world[:, 1], unit="deg", frame=self._native).icrs
        return np.stack([found.ra.deg, found.dec.deg], axis=1)

    def pixels(self, positions: Places) -> Places:
        """Rows and columns `(M, 2)` of right ascensions and declinations in degrees `(M, 2)`."""
        from astropy.coordinates import SkyCoord

        if self._convert:
            found = SkyCoord(positions[:, 0], positions[:, 1], unit="deg", frame="icrs").transform_to(self._native)
            positions = np.stack([found.spherical.lon.deg, found.spherical.lat.deg], axis=1)
        return np.asarray(self._wcs.all_world2pix(positions[:, np.argsort(self._axes)], 0, quiet=True))[:, ::-1]

    def cut(self, row: int, column: int, side: int, step: int) -> str:
        """The header of side × side pixels from this one on, each of step × step; in the native frame."""
        wcs = self._wcs.slice(tuple(slice(first * step, (first + side) * step) for first in (row, column)))
        wcs.wcs.crpix = (wcs.wcs.crpix - 0.5) / step + 0.5
        if wcs.wcs.has_cd():  # which a slice with a step would leave as it is
            wcs.wcs.cd = wcs.wcs.cd * step
        else:
            wcs.wcs.cdelt = wcs.wcs.cdelt * step
        return str(wcs.to_header_string(relax=True))


def _checked(header: Header) -> Header:
    """With what coordinates need, each card of its type: the C library takes what it cannot read for 0."""
    if not any(name in header for name in ("CTYPE1", "CTYPE2")):
        raise MvssError("has no celestial coordinates (WCS) in its header")
    missing = [name for name in NEEDED if name not in header]
    if missing or not any(name in header for name in LINEAR):
        raise MvssError(f"has coordinates without {', '.join(missing) or 'a scale (CD or CDELT)'} that can be read")
    for name, value in header.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (NUMBERS.fullmatch(name) and not (number and np.isfinite(value))) or (
            WORDS.fullmatch(name) and not isinstance(value, str)
        ):
            raise MvssError(f"has coordinates that cannot be read ({name} = {value!r})")
    equinox = header.get("EQUINOX", 2000.0)
    if isinstance(equinox, str | bool):
        if not (told := re.fullmatch(r"\s*J?(\d{4}(\.\d*)?)\s*", str(equinox))):
            raise MvssError(f"has coordinates that cannot be read (EQUINOX = {equinox!r})")
        header = header.copy()
        header["EQUINOX"] = float(told[1])
    return header
