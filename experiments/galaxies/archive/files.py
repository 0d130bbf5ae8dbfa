"""The FITS files of a folder of mosaics: which they are, what lies beside them, and when they have changed."""

from __future__ import annotations

__all__ = ["cause_of", "find_mosaics", "fingerprint", "weight_map_of"]

import hashlib
import re
from pathlib import Path

import numpy as np

from mvss.runtime.errors import MvssError

IMAGES, WEIGHTS = re.compile(r"_sci(?=[_.])|_dr[cz](?=\.)"), re.compile(r"_(wht|weight)(?=[_.])")
"""What is in the names of mosaics, and in those of weight maps."""
BLOCK, BLOCKS = 65_536, 64
"""Bytes of a part of a file that its fingerprint is made from, and how many such parts."""


def find_mosaics(folder: Path, but: Path | None = None) -> list[Path]:
    """The mosaics in a folder and in those below, by name; weight maps are none. Where no name is like IMAGES, all FITS
    files are taken, but for the catalogue `but`.

    Raises:
        MvssError: there are none.
    """
    files = sorted(p for p in folder.rglob("*.fits*") if p.name.endswith((".fits", ".fits.gz")) and not WEIGHTS.search(p.name))
    files = [p for p in files if p.resolve() != (but and but.resolve())]
    found = [p for p in files if IMAGES.search(p.name)] or files
    if not found:
        raise MvssError(
            f"no mosaics in {folder}: files named *_sci.fits, *_sci_*.fits, *_drz.fits, *_drc.fits, else *.fits, or so and .gz"
        )
    if len({p.name for p in found}) < len(found):
        raise MvssError(f"two mosaics below {folder} have the same name: remove one of them")
    return found


def fingerprint(path: Path) -> str:
    """Of a mosaic and of the weight map beside it, which other files of the same size are unlikely to have: hash of
    their sizes and of BLOCKS parts of each, the first and the last among them. All of it would take longer to read than
    to cut.

    Raises:
        MvssError: one of them cannot be read.
    """
    found, beside = hashlib.sha256(path.name.encode()), weight_map_of(path)
    for file in (path, *([beside] if beside else [])):
        try:
            with file.open("rb") as opened:
                size = opened.seek(0, 2)
                found.update(size.to_bytes(8))
                for start in np.linspace(0, max(size - BLOCK, 0), BLOCKS).astype(int):
                    opened.seek(int(start))
                    found.update(opened.read(BLOCK))
        except OSError as error:
            raise MvssError(f"cannot read {file} ({error.strerror})") from error
    return found.hexdigest()


def weight_map_of(path: Path) -> Path | None:
    """The file beside a mosaic that holds its weights, if there is one."""
    name = path.name.removesuffix(".gz")
    places = [*(found.span() for found in IMAGES.finditer(name)), (name.rindex(".fits"),) * 2]
    named = [f"{name[:start]}_{kind}{name[end:]}" for start, end in places for kind in ("wht", "weight")]
    besides = (path.with_name(beside + packed) for beside in named for packed in ("", ".gz"))
    return next((beside for beside in besides if beside.is_file()), None)


def cause_of(error: BaseException) -> str:
    """What an error of another library says, in a line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
