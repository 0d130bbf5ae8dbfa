"""Named arrays to a file by its ending, whole or not at all; what `arrays` reads.

.npz    keys `view/source/draws`          .h5    datasets of that name          .fits    image extensions of that name
"""

from __future__ import annotations

__all__ = ["check_ending", "write_arrays"]

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mvss.io.arrays import Array
from mvss.io.optional import require
from mvss.runtime.errors import MvssError
from mvss.runtime.files import replacing

Arrays = Mapping[str, Array]


def check_ending(path: Path | str) -> None:
    """Before work is done for a file: raises MvssError where its ending cannot be written here, a folder has its name, or its
    folder takes no files."""
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise MvssError(f"{path}: results are written as {', '.join(WRITERS)}")
    if path.is_dir():
        raise MvssError(f"{path} is a folder: name a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise MvssError(f"cannot write {path}: {above} takes no files")
    if path.suffix.lower() != ".npz":
        require(*{".fits": ("astropy.io.fits", ".fits files")}.get(path.suffix.lower(), ("h5py", ".h5 files")))


def write_arrays(path: Path | str, arrays: Arrays) -> None:
    """Replace the file. Raises MvssError where it cannot be written."""
    path = Path(path)
    check_ending(path)
    with replacing(path) as temporary:
        WRITERS[path.suffix.lower()](temporary, arrays)


def _npz(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _h5(path: Path, arrays: Arrays) -> None:
    with require("h5py", ".h5 files").File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)


def _fits(path: Path, arrays: Arrays) -> None:
    fits = require("astropy.io.fits", ".fits files")
    if not all(name.isascii() for name in arrays) or len({name.upper() for name in arrays}) < len(arrays):
        raise MvssError("FITS knows names in plain capital letters alone: write .npz or .h5")
    units = [fits.ImageHDU(np.ascontiguousarray(values), name=name) for name, values in arrays.items()]
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(buffer)
    path.write_bytes(buffer.getbuffer())


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {".npz": _npz, ".h5": _h5, ".fits": _fits}
