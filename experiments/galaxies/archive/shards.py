"""HDF5 files of stamps, written whole or not at all: one for each mosaic, and all joined.

    write under another name  →  fsync  →  rename  →  fsync of the folder        (`files.replacing`)

Every chunk has a checksum, so that a damaged file is known.
"""

from __future__ import annotations

__all__ = ["Rows", "join", "read_attributes", "stamps_of", "taken_of", "write_shard"]

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Buffer, override

from experiments.galaxies.archive.files import cause_of, is_damage
from experiments.galaxies.data.stamps import NOISE, Stamps
from mvss.runtime.errors import MvssError
from mvss.runtime.files import replacing

GROUPS = ("galaxies", "randoms")
IMAGES = {"flux": np.float32, "ivar": np.float32, "mask": np.bool_}
NOTES = {
    "mosaic": np.int32,
    "row": np.int32,
    "column": np.int32,
    "ra": np.float64,
    "dec": np.float64,
    "masked": np.float32,
    "split": np.uint8,
}
CHUNK = 1 << 16
"""Pixels in a chunk, about: 4 stamps of 128 × 128."""
BROKEN = (OSError, RuntimeError, KeyError, ValueError)
"""What h5py raises for files that are damaged, and where it cannot write."""
File = Any  # h5py has no types


class Rows:
    """Stamps in memory, one mosaic's."""

    def __init__(self) -> None:
        self._images: dict[str, list[NDArray[Any]]] = {name: [] for name in IMAGES}
        self._wcs: list[str] = []
        self._notes: list[Mapping[str, float]] = []

    def __len__(self) -> int:
        return len(self._wcs)

    def add(self, flux: NDArray[Any], ivar: NDArray[Any], mask: NDArray[Any], wcs: str, notes: Mapping[str, float]) -> None:
        """One stamp, `(n, n)` each, its coordinates and the columns of `NOTES`; a galaxy's number in the catalogue
        too."""
        for (name, kind), value in zip(IMAGES.items(), (flux, ivar, mask), strict=True):
            self._images[name].append(value.astype(kind))
        self._wcs.append(wcs)
        self._notes.append(notes)

    def columns(self, name: str) -> NDArray[Any]:
        """A dataset of the file: images `(N, n, n)`, wcs or a column of the notes `(N,)`."""
        if name in self._images:
            return np.array(self._images[name])
        if name == "wcs":
            return np.array(self._wcs, dtype=object)
        return np.array([note[name] for note in self._notes], dtype=NOTES.get(name, np.int64))


def _names(group: str) -> list[str]:
    return [*IMAGES, "wcs", *NOTES, *(["number"] if group == "galaxies" else [])]


def _append(file: File, group: str, pixels: int, count: int, columns: Mapping[str, NDArray[Any]]) -> None:
    """Add `count` stamps to a group, chunk by chunk. columns: the datasets, in memory or in another file."""
    import h5py

    rows = max(1, CHUNK // pixels**2)
    for name in _names(group):
        kind = IMAGES.get(name) or NOTES.get(name) or (h5py.string_dtype() if name == "wcs" else np.int64)
        if f"{group}/{name}" not in file:
            shape = (pixels, pixels) if name in IMAGES else ()
            light: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if name in IMAGES else {}
            chunks = (rows if name in IMAGES else 1024, *shape)
            light["fletcher32"] = name != "wcs"  # strings have none
            file.create_dataset(f"{group}/{name}", (0, *shape), kind, maxshape=(None, *shape), chunks=chunks, **light)
        data = file[f"{group}/{name}"]
        start = len(data)
        data.resize(start + count, axis=0)
        step = rows if name in IMAGES else count
        for first in range(0, count, step or 1):
            last = min(first + step, count)
            data[start + first : start + last] = columns[name][first:last]


class _Careful(io.FileIO):
    """A file that takes what it is given though the disk be full, and says so later: HDF5 that fails to write may
    crash."""

    error: OSError | None = None

    @override
    def write(self, data: Buffer, /) -> int:
        """Of as many bytes as there are, or as if."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and not self.error:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size

    def check(self) -> None:
        """Raise what went wrong."""
        if self.error:
            raise self.error


def _write(path: Path, fill: Callable[[File], None]) -> None:
    """Make a file whole or leave what is there."""
    import h5py

    try:
        with replacing(path) as unfinished, _Careful(unfinished, "wb+") as raw:
            try:
                with h5py.File(raw, "w") as file:
                    fill(file)
            finally:
                raw.check()  # rather than what came of it
    except BROKEN as error:
        raise MvssError(f"cannot write {path} ({cause_of(error)}): the same command goes on from there") from error


def write_shard(path: Path, groups: Mapping[str, Rows], pixels: int) -> None:
    """The stamps of one mosaic.

    Raises:
        MvssError: they cannot be written; the file is not there then.
    """

    def fill(file: File) -> None:
        for name, rows in groups.items():
            _append(file, name, pixels, len(rows), {key: rows.columns(key) for key in _names(name)})
        file.attrs["complete"] = True

    _write(path, fill)


def taken_of(path: Path) -> list[int] | None:
    """The numbers of the galaxies in a mosaic's file; None where it is missing or damaged."""
    import h5py

    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            if not file.attrs["complete"]:
                return None
            for group in GROUPS:
                for name in _names(group):
                    for some in _slices(file[f"{group}/{name}"]):
                        file[f"{group}/{name}"][some]
            return [int(n) for n in file["galaxies/number"][:]]
    except BROKEN:
        return None


def _slices(data: File) -> Iterator[slice]:
    step = data.chunks[0]
    return (slice(first, first + step) for first in range(0, len(data), step))


def join(
    shards: Sequence[Path],
    out: Path,
    pixels: int,
    mosaics: Sequence[str],
    columns: Mapping[str, NDArray[np.float64]],
    attributes: Mapping[str, object],
) -> str:
    """All mosaics' stamps in one file; a line that says how many. mosaics: their names. columns: of the catalogue.

    Raises:
        MvssError: it cannot be written; what was there before still is.
    """
    import h5py

    summary = ""

    def fill(file: File) -> None:
        nonlocal summary
        for shard in shards:
            with h5py.File(shard, "r") as source:
                for group in GROUPS:
                    _append(file, group, pixels, len(source[group]["split"]), source[group])
        file["mosaics"] = np.array(mosaics, dtype=object)
        number = file["galaxies/number"][:]
        for name, column in columns.items():
            file[f"galaxies/catalogue/{name.replace('/', '_')}"] = column[number]
        summary = _summary(file, str(attributes["left_out"]))
        for name, value in attributes.items():
            file.attrs[name] = value
        file.attrs["summary"], file.attrs["complete"] = summary, True

    _write(out, fill)
    return summary


def _summary(file: File, left_out: str) -> str:
    """What a user wants to know of an archive."""
    galaxies, fields = (file[f"{group}/split"][:] for group in GROUPS)
    masked = sum(int((file[f"{group}/masked"][:] > 0).sum()) for group in GROUPS)
    gone = ", ".join(f"{count} {why}" for why, count in json.loads(left_out).items() if count) or "none"
    return (
        f"{len(galaxies)} galaxies ({int((galaxies == 0).sum())} train, {int((galaxies == 1).sum())} test, "
        f"{int((galaxies > 1).sum())} aside), {len(fields)} "
        f"random fields ({int((fields == 0).sum())}, {int((fields == 1).sum())}); {masked} stamps with bad pixels; "
        f"galaxies left out: {gone}"
    )


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of an archive.

    Raises:
        MvssError: it is none, or was cut short.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if file.attrs["complete"]:
                return dict(file.attrs)
    except BROKEN as error:
        raise _damaged(path, error) from error
    raise _damaged(path, KeyError("incomplete"))


def _damaged(path: Path, error: Exception) -> MvssError:
    if not path.exists():
        return MvssError(f"there is no {path}: build it with make galaxies-data")
    if isinstance(error, OSError) and error.errno:
        return MvssError(f"cannot read {path} ({error.strerror})")
    what, do = ("is damaged", "remove") if is_damage(error) else ("is no archive of stamps", "move")
    return MvssError(f"{path} {what} ({cause_of(error)}): {do} it and build one with make galaxies-data")


def stamps_of(path: Path, group: str, splits: Sequence[int], count: int | None) -> Stamps:
    """See `archive.open_archive`."""
    import h5py

    read_attributes(path)
    try:
        with h5py.File(path, "r") as file:
            here = file[group]
            rows = np.flatnonzero(np.isin(here["split"][:], splits))
            if count is not None and count < len(rows):
                rows = rows[np.arange(count) * len(rows) // max(count, 1)]
            flux, ivar, mask = (_read(here[name], rows) for name in IMAGES)
            catalogue = {name: torch.from_numpy(data[:][rows]) for name, data in here.get("catalogue", {}).items()}
            wcs = here["wcs"].asstr()[:][rows]
            for name in _names(group):
                if name not in (*IMAGES, "wcs"):
                    column = here[name][:][rows]
                    catalogue[name] = torch.from_numpy(column.astype(np.float64 if column.dtype.kind == "f" else np.int64))
    except BROKEN as error:
        raise _damaged(path, error) from error
    good = ~mask & (ivar > 0) & flux.isfinite() & ivar.isfinite()
    y = torch.where(good, flux.double(), 0.0)
    return Stamps(y, good, torch.where(good, ivar.double(), NOISE**-2).rsqrt(), None, None, catalogue, tuple(wcs))


def _read(data: File, rows: NDArray[np.int64]) -> Tensor:
    """Some rows of images, `(N, 1, n, n)`."""
    out = np.empty((len(rows), 1, *data.shape[1:]), dtype=data.dtype)
    step = data.chunks[0]
    for chunk in np.unique(rows // step):  # each chunk is read once
        mine = np.flatnonzero(rows // step == chunk)
        out[mine, 0] = data[chunk * step : (chunk + 1) * step][rows[mine] - chunk * step]
    return torch.from_numpy(out)
