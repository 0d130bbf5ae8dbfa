"""FITS files that are odd in ways that do not matter, or wrong in ways that do, by a seed."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from mosaic_files import SIGMA

SIDE = 48
Rng = np.random.Generator
Mend = Callable[[fits.HDUList, Rng], object]
LAYOUTS: dict[str, tuple[str, ...]] = {
    "a_sci.fits": (),
    "plain.fits": (),
    "j_drz.fits": ("SCI", "WHT", "CTX"),
    "j_flc.fits": ("SCI", "ERR", "DQ", "SCI", "ERR", "DQ"),
    "jw_i2d.fits": ("SCI", "ERR", "DQ"),
    "coadd.fits": ("IMAGE", "MASK", "VARIANCE"),
}


def _header() -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [SIDE / 2, SIDE / 3]
    wcs.wcs.cdelt = [-0.05 / 3600, 0.05 / 3600]
    return wcs.to_header()


def _whole(name: str, rng: Rng) -> fits.HDUList:
    """A file of a known layout."""
    values = {
        "WHT": np.ones((SIDE, SIDE), np.float32),
        "ERR": np.full((SIDE, SIDE), SIGMA, np.float32),
        "VARIANCE": np.full((SIDE, SIDE), SIGMA**2, np.float32),
    } | {part: (rng.random((SIDE, SIDE)) < 0.02).astype(np.int32) for part in ("CTX", "DQ", "MASK")}
    cards = {"TELESCOP": "JWST" if name.startswith("jw") else "HST", "EXPTIME": 2000.0, "BUNIT": "ELECTRONS/S"}
    whole = [fits.PrimaryHDU()]
    for i, part in enumerate(LAYOUTS[name]):
        data = values.get(part, (SIGMA * rng.standard_normal((SIDE, SIDE))).astype(np.float32))
        whole.append(fits.ImageHDU(data, _header(), name=part, ver=1 + i // 3))
        if part == "MASK":
            whole[-1].header.update({"MP_BAD": 0, "MP_DETECTED": 5})
    if not LAYOUTS[name]:
        whole = [fits.PrimaryHDU((SIGMA * rng.standard_normal((SIDE, SIDE))).astype(np.float32), _header())]
    for hdu in whole:
        hdu.header.update(cards)
    return fits.HDUList(whole)


def images(whole: fits.HDUList) -> list:
    """The parts that are of the sky."""
    return [hdu for hdu in whole if hdu.data is not None and hdu.name in ("SCI", "IMAGE", "PRIMARY")]


def _set(**cards: object) -> Mend:
    """Of all images; without a card where its value is none."""

    def mend(whole: fits.HDUList, rng: Rng) -> None:
        for hdu in images(whole):
            for name, value in cards.items():
                if value is None:
                    hdu.header.remove(name, ignore_missing=True)
                else:
                    hdu.header[name] = value

    return mend


def _unknown(whole: fits.HDUList, rng: Rng) -> None:
    for hdu in whole:
        for _ in range(rng.integers(1, 9)):
            letters = "".join(rng.choice(list("ABCXYZ_-0123"), 6))
            value = [rng.normal(), int(rng.integers(99)), True, "it's / odd", "x" * 60, None][rng.integers(6)]
            hdu.header[f"Q{letters}" if rng.random() < 0.7 else f"HIERARCH Q {letters} LONG"] = value
        hdu.header["COMMENT"], hdu.header["HISTORY"] = "= ' /", "x" * 200


def _swap(whole: fits.HDUList, rng: Rng) -> None:
    """Declination first."""
    for hdu in images(whole):
        h = hdu.header
        for name in ("CTYPE", "CRVAL", "CUNIT"):
            h[f"{name}1"], h[f"{name}2"] = h[f"{name}2"], h[f"{name}1"]
        h.update({"PC1_1": 0.0, "PC1_2": -1.0, "PC2_1": -1.0, "PC2_2": 0.0})


def _galactic(whole: fits.HDUList, rng: Rng) -> None:
    for hdu in images(whole):
        for name in ("CTYPE1", "CTYPE2"):
            hdu.header[name] = hdu.header[name].replace("RA---", "GLON-").replace("DEC--", "GLAT-")


def _holes(whole: fits.HDUList, rng: Rng) -> None:
    for hdu in images(whole):
        hdu.data[rng.random((SIDE, SIDE)) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])


def _no_data(whole: fits.HDUList, rng: Rng) -> None:
    for hdu in images(whole):
        hdu.data[:] = rng.choice([np.nan, 0.0, 7.0])


def _cube(whole: fits.HDUList, rng: Rng) -> None:
    for hdu in images(whole):
        hdu.data = np.zeros((2, SIDE, SIDE), np.float32)


def _unnamed(whole: fits.HDUList, rng: Rng) -> None:
    for hdu in images(whole):
        if hdu.name == "PRIMARY":
            whole.append(fits.ImageHDU(hdu.data.copy(), hdu.header, name="B2"))
        else:
            hdu.header["EXTNAME"], hdu.name = "NIGHT", "NIGHT"
            whole.append(fits.ImageHDU(hdu.data.copy(), name="DAY"))


def _other_size(whole: fits.HDUList, rng: Rng) -> None:
    whole.append(fits.ImageHDU(np.ones((SIDE, SIDE + 1), np.float32), name="ERR"))


def _two_of_a_kind(whole: fits.HDUList, rng: Rng) -> None:
    whole += [fits.ImageHDU(np.zeros((SIDE, SIDE), np.int32), name="DQ") for _ in range(2)]


MATTERS_NOT: dict[str, Mend] = {
    "unknown cards": _unknown,
    "swapped axes": _swap,
    "holes": _holes,
    "galactic": _galactic,
    "older equinox": _set(RADESYS="FK5", EQUINOX=1975.0),
    "equinox as text": _set(RADESYS="FK5", EQUINOX="J2000.0"),
    "another unit": _set(BUNIT="banana"),
    "a unit that is a number": _set(BUNIT=5),
    "no unit": _set(BUNIT=""),
    "time as text": _set(EXPTIME="long"),
    "negative time": _set(EXPTIME=-3.0),
    "saturation as text": _set(SATURATE="x", CCDGAIN=True),
    "a table": lambda whole, rng: whole.append(fits.BinTableHDU(Table({"x": [1, 2]}), name="HDRTAB")),
}
MATTERS: dict[str, Mend] = {
    "no type of axes": _set(CTYPE1=None, CTYPE2=None),
    "one type of axes": _set(CTYPE2=None),
    "no reference": _set(CRVAL1=None),
    "no reference pixel": _set(CRPIX2=None),
    "text for a number": _set(CRVAL2="2 degrees"),
    "a number for text": _set(CTYPE1=3),
    "true for a number": _set(CRPIX1=True),
    "ecliptic": _set(CTYPE1="ELON-TAN", CTYPE2="ELAT-TAN"),
    "two longitudes": _set(CTYPE1="RA---TAN", CTYPE2="RA---TAN"),
    "no such projection": _set(CTYPE1="RA---XYZ", CTYPE2="DEC--XYZ"),
    "a pixel of nothing": _set(CDELT1=0.0, CDELT2=0.0),
    "a pixel of the sky": _set(CDELT1=3.0, CDELT2=3.0),
    "no such unit": _set(CUNIT1="parrots"),
    "magnitudes": _set(BUNIT="mag / arcsec2"),
    "asinh": _set(BSOFTEN=1.0),
    "no data": _no_data,
    "a cube": _cube,
    "unknown parts": _unnamed,
    "a map of another size": _other_size,
    "two maps of a kind": _two_of_a_kind,
}
DAMAGE = ("cut", "a page", "empty")


def odd_file(folder: Path, seed: int) -> tuple[Path, Path, bool, str]:
    """A file in a folder, a catalogue of places on it, whether it is right, and what is odd."""
    rng = np.random.default_rng(seed)
    name, right = list(LAYOUTS)[rng.integers(len(LAYOUTS))], bool(rng.random() < 0.5)
    whole = _whole(name, rng)
    odd = [str(kind) for kind in rng.choice(list(MATTERS_NOT), rng.integers(1, 4), replace=False)]
    for kind in odd:
        MATTERS_NOT[kind](whole, rng)
    x, y = rng.uniform(10, SIDE - 10, (2, 6))
    with np.errstate(all="ignore"):
        places = WCS(images(whole)[0].header).pixel_to_world(x, y).icrs
    Table({"RA": places.ra.deg, "DEC": places.dec.deg}).write(folder / "catalogue.csv", format="ascii.csv")
    wrong = "" if right else str(rng.choice([*MATTERS, *DAMAGE]))
    if wrong in MATTERS:
        MATTERS[wrong](whole, rng)
    path = folder / name
    whole.writeto(path, output_verify="ignore")
    content = path.read_bytes()
    if rng.random() < 0.3 and (end := content.index(b"END" + 77 * b" ")) % 2880 < 2600:
        odd.append("a card that cannot be read")
        content = content[:end] + b"GARBAGE = 12abc / hm".ljust(80) + b"END".ljust(80) + content[end + 160 :]
    if wrong in DAMAGE:
        content = {"cut": content[: rng.integers(1, len(content) - 2880)], "a page": b"<html>404</html>", "empty": b""}[wrong]
    path.write_bytes(content)
    if rng.random() < 0.2:
        path.unlink()
        path = path.with_name(name + ".gz")
        path.write_bytes(gzip.compress(content))
    return path, folder / "catalogue.csv", right, f"{seed}: {path.name}, {', '.join(odd)}; {wrong or 'right'}"
