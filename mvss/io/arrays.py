"""Arrays from files, by the ending of the name.

    a.npy   a.npz[:key]   a.h5[:dataset]   a.zarr[:array]   a.fits[:extension]   a.csv   folder of images

An extension is a name, NAME,VERSION where several have that name, or a place, from 0. FITS may be packed, a.fits.gz.
h5py, zarr, astropy and pillow are imported where a file needs them (the extra `files`). Nothing in a file is run:
arrays of Python objects are refused.
"""

from __future__ import annotations

__all__ = ["ENDINGS", "Array", "read_array"]

import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvss.io.images import read_images
from mvss.io.optional import require
from mvss.presets.reader import suggest
from mvss.runtime.errors import MvssError

Array = NDArray[Any]


def read_array(text: str, folder: Path, prefer: str = "") -> Array:
    """What a file holds. text: its name, from `folder`, and after a colon what is meant in it. prefer: the key that is meant
    in a file of several, where none is named.

    Raises MvssError where it is missing, cannot be read, has no such part, or holds no numbers.
    """
    path, part = _split(text, folder)
    reader = ENDINGS.get(_ending(path.name))
    if path.is_dir() and reader is not _zarr:
        return read_images(path)
    if not path.exists():
        raise MvssError(f"there is no file {path}")
    if reader is None:
        raise MvssError(f"{path.name}: an array is read from {', '.join(ENDINGS)} or a folder of images")
    if part and reader in (_npy, _csv):
        raise MvssError(f"{path.name} holds one array: leave :{part} out")
    try:
        found = reader(path, part, prefer)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, TypeError) as error:
        says = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise MvssError(f"cannot read {path}: {says or type(error).__name__}") from error
    if found.dtype.kind not in "biuf":
        raise MvssError(f"{path.name} holds {found.dtype}, no real numbers")
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _split(text: str, folder: Path) -> tuple[Path, str]:
    """The file and what follows its ending and a colon; a colon elsewhere is of the name."""
    path = folder / Path(text).expanduser()
    name, colon, part = text.rpartition(":")
    if colon and _ending(name) and not path.exists():
        return folder / Path(name).expanduser(), part
    return path, ""


def _ending(name: str) -> str:
    """That of a name, in small letters, if files of it are read."""
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")


def _npy(path: Path, _: str, __: str) -> Array:
    found: Array = np.load(path, allow_pickle=False)
    return found


def _npz(path: Path, part: str, prefer: str) -> Array:
    with np.load(path, allow_pickle=False) as file:
        found: Array = file[_chosen(path, part, prefer, file.files)]
    return found


def _h5(path: Path, part: str, prefer: str) -> Array:
    h5py = require("h5py", ".h5 files")
    with h5py.File(path, "r") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        found: Array = np.asarray(file[_chosen(path, part.strip("/"), prefer, names)])
    return found


def _zarr(path: Path, part: str, prefer: str) -> Array:
    zarr = require("zarr", ".zarr folders")
    found = zarr.open(path, mode="r")
    if isinstance(found, zarr.Group):
        names = [name for name, item in found.members(max_depth=None) if isinstance(item, zarr.Array)]
        found = found[_chosen(path, part.strip("/"), prefer, names)]
    elif part:
        raise MvssError(f"{path.name} holds one array: leave :{part} out")
    return np.asarray(found[...])


def _fits(path: Path, part: str, prefer: str) -> Array:
    fits = require("astropy.io.fits", ".fits files")
    with fits.open(path, memmap=False) as units:
        images = _by_key({place: hdu for place, hdu in enumerate(units) if hdu.is_image and hdu.header["NAXIS"]})
        if any(key.startswith(f"{part.upper()},") for key in images):
            part, prefer = "", ""  # several have that name
        if part.isdigit() and part not in images and int(part) < len(units):
            found = units[int(part)].data
        else:
            found = images[_chosen(path, part.upper(), prefer.upper(), list(images))].data
    if found is None or not isinstance(found, np.ndarray):
        raise MvssError(f"{path.name}: that extension holds no image")
    return np.array(found)


def _by_key(images: Mapping[int, Any]) -> dict[str, Any]:
    """Extensions, given by place, by NAME; where others have that name by NAME,VERSION; and by place where neither tells."""
    names = {place: hdu.name.upper() for place, hdu in images.items()}
    keys = {place: (name, f"{name},{images[place].ver}") if name else () for place, name in names.items()}
    times = Counter(key for each in keys.values() for key in each)
    return {next((key for key in keys[p] if times[key] == 1), str(p)): hdu for p, hdu in images.items()}


def _csv(path: Path, _: str, __: str) -> Array:
    """Rows of numbers with commas between; a first line of names, of which none is a number, is passed over."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    first = lines[0].split(",") if lines else []
    if len(first) > 1 and not first[0].strip():
        raise MvssError(f"{path.name}:1: the first cell is empty: write a table of pandas with index=False, or a number there")
    names = not any(map(_is_number, first))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty file, which is told below
        try:
            found: Array = np.loadtxt(lines, delimiter=",", skiprows=int(names), ndmin=2, comments=None)
        except ValueError as error:
            raise _misread(path, lines, int(names)) or error from error
    if not found.size:
        raise MvssError(f"{path.name} holds no rows")
    return found


def _misread(path: Path, lines: Sequence[str], skip: int) -> MvssError | None:
    """What is wrong with the first line that is no row of numbers."""
    rows = [(number, line.split(",")) for number, line in enumerate(lines, start=1) if number > skip and line.strip()]
    for number, cells in rows:
        for column, cell in enumerate(cells, start=1):
            if not _is_number(cell):
                says = f"holds {cell.strip()[:40]!r}, no number: commas stand between numbers, points in them"
                says = says if cell.strip() else "is empty: write nan where a number is missing"
                return MvssError(f"{path.name}:{number}: column {column} {says}")
        if len(cells) != len(rows[0][1]):
            return MvssError(f"{path.name}:{number}: has {len(cells)} columns, where the first line has {len(rows[0][1])}")
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


ENDINGS: dict[str, Callable[[Path, str, str], Array]] = {
    ".npy": _npy, ".npz": _npz, ".h5": _h5, ".hdf5": _h5, ".zarr": _zarr, ".csv": _csv,
    ".fits": _fits, ".fit": _fits, ".fits.gz": _fits, ".fit.gz": _fits,
}  # fmt: skip
"""Readers by ending."""


def _chosen(path: Path, part: str, prefer: str, names: Sequence[str]) -> str:
    """The part that is meant. Raises MvssError where there is none, or several."""
    if not names:
        raise MvssError(f"{path.name} holds no array")
    if part:
        if part not in names:
            raise MvssError(f"{path.name} has no {part!r}{suggest(part, names)}")
        return part
    if prefer in names:
        return prefer
    if len(names) > 1:
        raise MvssError(f"{path.name} holds several arrays: write {path.name}:KEY, with one of {', '.join(names)}")
    return names[0]
