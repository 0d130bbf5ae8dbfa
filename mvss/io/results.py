"""Named arrays to a file by its ending, whole or not at all; what `arrays` reads.

.npz     keys `view/source/draws`         .h5    datasets of that name
.zarr    arrays of that name, a folder    .fits  image extensions of that name
"""

from __future__ import annotations

__all__ = ["check_ending", "write_arrays"]

import contextlib
import io
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mvss.io.arrays import Array
from mvss.io.optional import require
from mvss.runtime.errors import MvssError
from mvss.runtime.files import replacing

Arrays = Mapping[str, Array]


def check_ending(path: Path | str, names: Iterable[str] = ()) -> None:
    """Before work is done for a file. names: of the arrays that it will hold. Raises MvssError where its ending cannot be
    written here, a folder has its name, its folder takes no files, or files of its kind cannot hold those names."""
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise MvssError(f"{path}: results are written as {', '.join(WRITERS)}")
    if path.is_dir() and not (path.suffix.lower() == ".zarr" and (path / "zarr.json").is_file()):
        raise MvssError(f"{path} is a folder: name a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise MvssError(f"cannot write {path}: {above} takes no files")
    if path.suffix.lower() in NEEDS:
        require(*NEEDS[path.suffix.lower()])
    if path.suffix.lower() == ".fits":
        _require_capitals(path, names)


def _require_capitals(path: Path, names: Iterable[str]) -> None:
    """FITS knows names in plain capital letters alone."""
    known: dict[str, str] = {}
    for name in names:
        if not (name.isascii() and name.isprintable()):
            raise MvssError(f"{path}: FITS cannot hold the name {name!r}: write .npz or .h5")
        if (other := known.setdefault(name.upper(), name)) != name:
            raise MvssError(f"{path}: FITS does not tell the names {other!r} and {name!r} apart: write .npz or .h5")


def write_arrays(path: Path | str, arrays: Arrays) -> None:
    """Replace the file. Raises MvssError where it cannot be written."""
    path = Path(path)
    check_ending(path, arrays)
    with _replacing_folder(path) if path.suffix.lower() == ".zarr" else replacing(path) as temporary:
        WRITERS[path.suffix.lower()](temporary, arrays)


@contextlib.contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """A name for a folder that takes the place of the one at `path` when the block has ended without an error. That one is
    moved aside first, and back where its successor does not come: a kill in between leaves both, under names beside."""
    unfinished, before = (path.with_name(f"{path.name}.{secrets.token_hex(4)}.{end}") for end in ("tmp", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        if path.exists():
            os.rename(path, before)
        os.rename(unfinished, path)
    except OSError as error:
        raise MvssError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if before.exists() and not path.exists():
            os.rename(before, path)
        shutil.rmtree(before, ignore_errors=True)
        shutil.rmtree(unfinished, ignore_errors=True)


def _npz(path: Path, arrays: Arrays) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # as np.savez, which takes no array of the name "file"
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(values), allow_pickle=False)


def _h5(path: Path, arrays: Arrays) -> None:
    try:
        with require("h5py", ".h5 files").File(path, "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values)
    except (OSError, RuntimeError) as error:  # many lines; a RuntimeError where closing it fails, too
        if not (found := re.search(r"errno = (\d+)", str(error))):
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def _zarr(path: Path, arrays: Arrays) -> None:
    group = require("zarr", ".zarr folders").open_group(path, mode="w", zarr_format=3)
    for name, values in arrays.items():
        group.create_array(name, data=values)


def _fits(path: Path, arrays: Arrays) -> None:
    fits = require("astropy.io.fits", ".fits files")
    units = [fits.ImageHDU(np.ascontiguousarray(values), name=name) for name, values in arrays.items()]
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(buffer)
    path.write_bytes(buffer.getbuffer())


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {".npz": _npz, ".h5": _h5, ".zarr": _zarr, ".fits": _fits}
NEEDS = {".h5": ("h5py", ".h5 files"), ".zarr": ("zarr", ".zarr folders"), ".fits": ("astropy.io.fits", ".fits files")}
"""What writers import."""
