"""Files of FITS and HDF5: what is wrong with one in a line, and by what it is known again."""

from __future__ import annotations

__all__ = ["cause_of", "fingerprint", "is_damage", "open_fits", "trouble"]

import gzip
import hashlib
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvss.runtime.errors import MvssError

BLOCK, BLOCKS = 65_536, 64
"""Bytes of a part of a file that its fingerprint is made from, and how many such parts."""
File = Any  # astropy has no types


def open_fits(path: Path) -> File:
    """All HDUs of a file, their headers read, mended where astropy can and without the cards that nobody can read. The
    caller closes it.

    Raises:
        MvssError: it cannot be read, or ends before its headers say.
    """
    from astropy.io import fits

    whole = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", ".*truncated.*")
            whole = fits.open(path)  # mapped, but for those with scaled numbers
            for hdu in whole:  # reads all headers, and with them where the file should end
                hdu.verify("silentfix+ignore")
                _drop_unreadable(hdu.header)
        if not isinstance(whole[0], fits.PrimaryHDU):
            raise ValueError("its first part is none of FITS")
    except Exception as error:  # of astropy, of gzip, of the disk
        if whole is not None:
            whole.close()
        raise MvssError(f"{path} {trouble(_unpacked(path) or error)}") from error
    return whole


def _unpacked(path: Path) -> Exception | None:
    """What goes wrong when a packed file is unpacked, which astropy does not say."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if packed:
            with gzip.open(path) as file:
                while file.read(1 << 24):
                    pass
    except (OSError, EOFError, zlib.error) as error:
        return error
    return None


def _drop_unreadable(header: File) -> None:
    """Without the cards that have no value that can be read; what is needed is missing then, and says so."""
    from astropy.io.fits.verify import VerifyError

    for i in reversed(range(len(header.cards))):
        try:
            _ = header.cards[i].keyword, header.cards[i].value, header.cards[i].comment
        except (VerifyError, ValueError):
            del header[i]


def trouble(error: BaseException) -> str:
    """What is wrong with a file that gave this error, and what to do: that it should be fetched again only where its
    length or a checksum shows it."""
    if isinstance(error, EOFError) or "truncated" in str(error):
        return f"is truncated ({cause_of(error)}): fetch it again"
    if isinstance(error, zlib.error) or (isinstance(error, gzip.BadGzipFile) and "check" in str(error).lower()):
        return f"is damaged ({cause_of(error)}): fetch it again"
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read ({error.strerror})"
    return f"is no FITS file that can be read ({cause_of(error)}): take it out of the folder"


def is_damage(error: BaseException) -> bool:
    """Whether an error of h5py shows that a file is damaged: it is shorter than it says, or fails a checksum."""
    return any(sign in str(error) for sign in ("truncated file", "filter returned failure", "checksum"))


def fingerprint(files: Sequence[Path]) -> str:
    """Of a mosaic and of the maps beside it, which other files of the same size are unlikely to have: hash of their
    sizes and of BLOCKS parts of each, the first and the last among them. All of it would take longer to read than to
    cut.

    Raises:
        MvssError: one of them cannot be read.
    """
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode())
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


def cause_of(error: BaseException) -> str:
    """What an error of another library says, in a line."""
    return " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
