"""Which parts of a file are images of the sky, and which are maps of them: decided before any pixel is read.

    HST      SCI (one or more), WHT (drizzled) or ERR (with photons), DQ: every bit
    JWST     SCI, ERR (with photons), DQ: the first bit (DO_NOT_USE)
    LSST     IMAGE, VARIANCE (with photons), MASK: planes by the cards MP_*
    astropy  CCDData: an image, UNCERT by UTYPE, MASK
    plain    the one image of a file, with maps in files beside (`folder`)

What is none of these is refused with what was seen.
"""

from __future__ import annotations

__all__ = ["NOISE", "Mask", "Part", "Picture", "map_of", "parts_of", "pictures_of"]

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.galaxies.archive.files import open_fits
from experiments.galaxies.archive.maps import Map, stated_kind
from experiments.galaxies.archive.names import role_of
from mvss.runtime.errors import MvssError

DISTORTIONS = ("D2IMARR", "WCSDVARR")
"""Parts that the coordinates read."""
EXTENSIONS = {
    "sigma": ("RMS", "SIGMA"),
    "error": ("ERR", "ERROR"),
    "total variance": ("VARIANCE", "VAR", "STAT"),
    "uncertainty": ("UNCERT",),
    "weight": ("WHT", "WEIGHT", "IVAR", "INVVAR"),
    "flag": ("DQ", "MASK", "FLAG", "FLAGS"),
    "other": ("CTX", "CON", "SEG", "SEGMAP", "EXP", "AREA", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT", *DISTORTIONS),
}
"""Names of parts that are no images of the sky."""
PART = {name: role for role, names in EXTENSIONS.items() for name in names}
NOISE = ("error", "sigma", "total variance", "variance", "uncertainty", "weight", "unknown weight")
"""Roles of maps of noise; of several the first is taken."""
KINDS = {"error": "sigma", "sigma": "sigma", "total variance": "variance", "variance": "variance", "weight": "weight"}
BAD_PLANES = ("BAD", "SAT", "CR", "INTRP", "EDGE", "NO_DATA", "SUSPECT", "UNMASKEDNAN")
"""Of LSST's masks; others tell what was detected, or how a coadd was made."""
DO_NOT_USE = 1
"""The bit of JWST's data quality that makes a pixel bad."""
FLUX_COUNTS = re.compile(r"(ELECTRONS?|E-?|COUNTS?|CTS?|DN|ADU|CPS|NJY|UJY|JY)(/.*|S-1)?")
"""Units in which whole numbers are light."""
WORDS = ("IMTYPE", "IMAGETYP", "PRODTYPE", "PRODCATG", "HDUCLAS2", "OBSTYPE", "DATATYPE", "MAPTYPE")
"""Cards that say what a file is."""
SCIENCE = re.compile(
    r"sci(ence)?(\.(mef)?image(\.fluxmap)?)?|image\d?|imaging|(sci|science|direct|coadded|stacked)[ _-]?image|object|light"
    r"([ _-]?frame)?|ext|data|flux|intensity|coadd|stack(ed)?|mosaic|target",
    re.IGNORECASE,
)
"""What they say of images of the sky."""
NO_IMAGE = re.compile(
    r"(dq)?mask|maskbits|expmap|wtmap|invvar|chi2|(blob)?model|error|quality|(gal|psf)?depth|psfsize|nexp|ancillary\..*",
    re.IGNORECASE,
)
"""What they say of what is known to be none, and left out; other words are refused."""
UNNAMED = ("", "COMPRESSED_IMAGE", "DATA")
"""Names of parts that say nothing: of the one image of a file."""
File = Any  # astropy has no types


@dataclass(frozen=True)
class Mask:
    """Where flags are; bits: those that make a pixel bad, −1 for every one; label: for users."""

    path: Path
    hdu: int
    bits: int
    label: str

    def bad(self, flags: NDArray[Any]) -> NDArray[np.bool_]:
        """Which pixels are, of those with these flags."""
        return flags != 0 if self.bits < 0 else (flags.astype(np.int64) & self.bits) != 0


@dataclass(frozen=True)
class Picture:
    """An image of the sky: part `hdu` of the file at `path`. name: for users, `extension` of the part; unit: BUNIT.
    unread: parts and files of its that are not read."""

    path: Path
    hdu: int
    name: str
    extension: str
    unit: str
    noise: Map | None
    mask: Mask | None
    unread: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All that it is read from."""
        return tuple(dict.fromkeys([self.path, *(part.path for part in (self.noise, self.mask) if part)]))


@dataclass(frozen=True)
class Part:
    """A part of a file with an image of two axes."""

    hdu: int
    name: str
    version: int
    role: str
    header: File

    def __str__(self) -> str:
        return f"{self.hdu} {self.name or 'without a name'} ({self.header['NAXIS1']} × {self.header['NAXIS2']})"


def pictures_of(path: Path) -> tuple[list[Picture], str]:
    """The images of a file, with the maps that it holds; and what it is if it has none.

    Raises:
        MvssError: the file cannot be read, or what it holds is not known.
    """
    whole = open_fits(path)
    try:
        parts = parts_of(whole)
        images = _images(parts, path)
        if not images:
            return [], f"it has {', '.join(map(str, parts)) or 'no part with an image of two axes'}"
        for image in images:
            if said := _no_image(image.header, whole[0].header, path):
                return [], said
        _check_cubes(whole, path)
        _check_light(images, path, whole)
        others = [part for part in parts if part.hdu not in {image.hdu for image in images}]
        return [_picture(path, image, images, others, whole) for image in images], ""
    finally:
        whole.close()


def parts_of(whole: File) -> list[Part]:
    """The parts of an open file that are images of two axes."""
    found = []
    for i, hdu in enumerate(whole):
        if hdu.is_image and hdu.header.get("NAXIS") == 2 and min(hdu.shape) > 0:
            name = _name(hdu)
            found.append(Part(i, "" if i == 0 and name == "PRIMARY" else name, int(hdu.ver), PART.get(name, ""), hdu.header))
    return found


def _name(hdu: File) -> str:
    return str(hdu.name or hdu.header.get("EXTTYPE", "")).strip().upper()


def _check_cubes(whole: File, path: Path) -> None:
    """That all parts of more axes, beside an image, are known."""
    for i, hdu in enumerate(whole):
        if hdu.is_image and hdu.header.get("NAXIS", 0) > 2 and _name(hdu) not in PART:
            size = " × ".join(map(str, reversed(hdu.shape)))
            raise MvssError(f"{path} has a part that is not known here, {i} {_name(hdu)} ({size}), beside its image: split it")


def _images(parts: Sequence[Part], path: Path) -> list[Part]:
    """Those of the sky, none where all are maps: of SCI any number, of others one. All other parts are known maps."""
    names = next((names for names in (("SCI", "SCIENCE"), ("IMAGE",)) if any(part.name in names for part in parts)), UNNAMED)
    images = [part for part in parts if part.name in names]
    rest = [part for part in parts if not part.role and part not in images]
    if not images and len(rest) == 1 and role_of(path.name) == "image":  # the name of the file tells
        images, rest = rest, []
    if rest or (len(images) > 1 and names != ("SCI", "SCIENCE")):
        seen, strange = ("; ".join(map(str, some)) for some in (parts, rest))
        raise MvssError(
            f"{path} has a layout that is not known here ({seen}){f', for {strange}' if rest else ''}: name the parts SCI, "
            "WHT, ERR, DQ, or split it"
        )
    return images


def _no_image(header: File, first: File, path: Path) -> str:
    """What the cards of a file say that it is, if that is known to be no image.

    Raises:
        MvssError: they say what is neither known as an image nor as something else.
    """
    said = {name: str(header.get(name, first.get(name, ""))).strip() for name in WORDS}
    for name, value in said.items():
        if NO_IMAGE.fullmatch(value):
            return f"{name} = {value}"
    if strange := [f"{name} = {value}" for name, value in said.items() if value and not SCIENCE.fullmatch(value)]:
        raise MvssError(
            f"{path} says what is not known as an image of the sky ({', '.join(strange)}): take it out of the folder, or say "
            "image there"
        )
    return ""


def _check_light(images: Sequence[Part], path: Path, whole: File) -> None:
    """That the numbers are light, and linear."""
    for image in images:
        header = image.header
        unit = re.sub(r"[\s.*^()]", "", str(header.get("BUNIT", whole[0].header.get("BUNIT", "")))).upper()
        if "BSOFTEN" in header:
            raise MvssError(f"{path} holds asinh of fluxes (BSOFTEN in its header): undo it first")
        if re.match(r"(AB|ST|VEGA)?MAG(?!G)", unit):
            raise MvssError(f"{path} is in magnitudes (BUNIT {unit}): fluxes are needed")
        whole_numbers = header["BITPIX"] > 0 and header.get("BSCALE", 1) == 1
        if whole_numbers and image.name != "SCI" and role_of(path.name) != "image" and not FLUX_COUNTS.fullmatch(unit):
            raise MvssError(
                f"{path} holds whole numbers of no known unit (BITPIX {header['BITPIX']}, BUNIT {unit or 'missing'}): "
                "counts, flags and labels of objects cannot be told apart"
            )


def _picture(path: Path, image: Part, images: Sequence[Part], others: Sequence[Part], whole: File) -> Picture:
    """An image with the maps of its own file."""
    several = len(images) > 1
    distinct = len({part.version for part in images}) == len(images)
    if several and not distinct and any(part.role not in ("", "other") for part in others):
        raise MvssError(f"{path} has {len(images)} images of one EXTVER: which maps belong to which cannot be told")
    others = [part for part in others if not several or part.version == image.version]
    noise = sorted((part for part in others if part.role in NOISE), key=lambda part: NOISE.index(part.role))
    flags = [part for part in others if part.role == "flag"]
    for kind in (flags, [part for part in noise if part.role == noise[0].role]):
        if len(kind) > 1:
            raise MvssError(f"{path} has two maps of one kind ({kind[0]}; {kind[1]}): which is of the image cannot be told")
    number = image.version if distinct else image.hdu
    read = {part.hdu for part in (*noise[:1], *flags)}
    unit = str(image.header.get("BUNIT", whole[0].header.get("BUNIT", ""))).strip()
    return Picture(
        path,
        image.hdu,
        f"{path.name}[{image.name},{number}]" if several else path.name,
        f"{image.name},{number}" if image.name else f"{image.hdu}",
        unit,
        map_of(path, noise[0], noise[0].role, unit, noise[0].name) if noise else None,
        _mask(path, flags[0], image.name, whole) if flags else None,
        tuple(part.name or str(part) for part in others if part.hdu not in read and part.name not in DISTORTIONS),
    )


def map_of(path: Path, part: Part, role: str, unit: str, label: str) -> Map:
    """A map of noise. role: by its name or its place; unit: of the image; label: for users.

    Raises:
        MvssError: its kind cannot be told.
    """
    try:
        stated = stated_kind(part.header, unit)
    except MvssError as error:
        raise MvssError(f"{path}: the map {label} {error}: which it is cannot be told") from error
    kind = KINDS.get(role, "")
    if stated and kind and stated != kind and role != "weight":  # which is what any map of noise may be called
        raise MvssError(f"{path}: the map {label} is named like one of {kind}, but its header says {stated}")
    if not (stated or kind):
        raise MvssError(
            f"{path}: whether {label} is a map of σ, variance or weights cannot be told: say so in its header by "
            "WHT_TYPE = RMS, VARIANCE or WEIGHT"
        )
    return Map(path, part.hdu, stated or kind, role in ("error", "total variance"), label)


def _mask(path: Path, part: Part, image: str, whole: File) -> Mask:
    """Flags in the file of an image."""
    header = part.header
    if header["BITPIX"] < 0:
        raise MvssError(f"{path}: {part.name} is of broken numbers, and no map of flags")
    if image == "IMAGE":
        planes = {name[3:]: bit for name, bit in header.items() if name.startswith("MP_") and type(bit) is int}
        if not planes:
            raise MvssError(f"{path}: which bits of MASK are bad is not known, as its header has no cards MP_*")
        bad = [name for name in BAD_PLANES if name in planes]
        return Mask(path, part.hdu, sum(1 << planes[name] for name in bad), f"MASK ({', '.join(bad) or 'no plane'})")
    if str(whole[0].header.get("TELESCOP", "")).strip() == "JWST":
        return Mask(path, part.hdu, DO_NOT_USE, f"{part.name} (DO_NOT_USE)")
    return Mask(path, part.hdu, -1, f"{part.name} (any bit)")
