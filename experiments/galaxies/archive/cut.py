"""The paper's data: galaxies of a catalogue, and random fields, cut from a user's HST mosaics into one HDF5 file.

    python -m experiments.galaxies.archive.cut [FOLDER [CATALOGUE]] --out data/galaxies.h5 --pixels 128 --binning 1

    galaxies, randoms      flux, ivar (N, n, n) float32, mask (N, n, n) bool: pixels without data, ivar and flux are 0 there
                           wcs: FITS header of every stamp; mosaic: number among `mosaics`; row, column of its first
                           pixel there; ra, dec of its centre; masked: share of bad pixels; split: 0 train, 1 test, 2
                           aside
    galaxies/catalogue     the numeric columns of the catalogue, and `number`, its row
    attributes             command, factor (fluxes over those of the mosaics), unit, noise (of a usual pixel), pixel_scale,
                           binning (pixels of the mosaics across one of these, which row and column count)

Train and test are parts of the sky: the northern fifth of the catalogue is for tests. So are galaxies and random
fields: of the sky, in cells six stamps wide, every fourth cell is for random fields, which may hold whatever is there,
catalogued or not, but for the galaxy that a cut-out was made around. Galaxies whose stamps might touch the line between
train and test, or a cell for random fields, are set aside: they are cut, to be separated in the end, and nothing is
learned from them or tested on them. A galaxy on two mosaics is cut once.

Every mosaic's stamps go to a file of their own below OUT.part, whole or not at all; then all are joined. A run that was
killed goes on from there, a damaged file is made again, and OUT changes only when all is done. CATALOGUE left out: what
is detected on the mosaics (`detection`); both left out: `mast`.
"""

from __future__ import annotations

__all__ = ["build", "look", "main"]

import argparse
import hashlib
import json
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.galaxies.archive.catalogue import read_catalogue
from experiments.galaxies.archive.detection import catalogue_of
from experiments.galaxies.archive.files import fingerprint
from experiments.galaxies.archive.folder import find_mosaics
from experiments.galaxies.archive.layouts import Picture
from experiments.galaxies.archive.mosaics import Mosaic
from experiments.galaxies.archive.parts import ASIDE, open_archive
from experiments.galaxies.archive.plan import Plan, anywhere, corners, plan_for
from experiments.galaxies.archive.shards import Rows, join, read_attributes, taken_of, write_shard
from experiments.galaxies.segmentation import sized
from mvss.runtime.errors import MvssError

GOOD = 0.75
"""Least share of measured pixels in a stamp."""
MEASURED = 300
"""Galaxies whose sizes are measured."""
SMALL, FILLED = 0.1, 0.15
"""Half-light radii over the stamp's side: of what fits, as in the simulation, and from where on galaxies fill their
stamps."""
TRIES = 30
"""Random positions tried for each field that is wanted."""


def build(
    folder: Path,
    catalogue: Path | None,
    out: Path,
    pixels: int = 128,
    randoms: float = 1.0,
    command: str = "",
    binning: int = 1,
) -> str:
    """Make the archive and return a line that says what is in it. randoms: random fields to a galaxy. command: for the
    record. binning: pixels of the mosaics across one of the stamps'. catalogue: what is detected, where there is none.

    Raises:
        MvssError: a mosaic or the catalogue cannot be used, they do not overlap, or the disk is full.
    """
    pictures = _understood(folder, catalogue, binning)
    catalogue = catalogue or catalogue_of(pictures, out.with_name(f"{out.stem}-detected.csv"), binning)
    try:
        digest = hashlib.sha256(catalogue.read_bytes()).hexdigest()
    except OSError as error:
        raise MvssError(f"cannot read {error.filename} ({error.strerror})") from error
    prints = [picture.name + fingerprint(picture.files) for picture in pictures]
    inputs = hashlib.sha256(json.dumps([5, pixels, binning, randoms, digest, prints]).encode()).hexdigest()
    if out.exists() and (old := read_attributes(out))["inputs"] == inputs:
        return f"{out} is up to date: {old['summary']}"
    positions, columns = read_catalogue(catalogue)
    plan, attributes, on_mosaic = plan_for(pictures, positions, pixels, randoms, binning)
    part = _part(out, inputs)
    taken: set[int] = set()
    start, made = time.monotonic(), 0
    for i, picture in enumerate(pictures):
        shard = part / f"{i:04d}.h5"
        numbers = taken_of(shard)
        if numbers is None:
            with Mosaic(picture, binning) as mosaic:
                galaxies, fields = _cut(mosaic, i, plan, taken)
            write_shard(shard, {"galaxies": galaxies, "randoms": fields}, pixels)
            numbers, made = galaxies.columns("number").tolist(), made + 1
            left = (time.monotonic() - start) / made * (len(pictures) - i - 1) / 60
            print(
                f"{picture.name}: {len(galaxies)} galaxies, {len(fields)} random fields; "
                f"mosaic {i + 1} of {len(pictures)}, {left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
        taken.update(numbers)
    attributes |= {"inputs": inputs, "command": command}
    finite = np.isfinite(positions).all(1)
    attributes["left_out"] = json.dumps(
        {
            "without a position": int((~finite).sum()),
            "not wholly on a mosaic": int((~on_mosaic).sum()),
            "mostly without data": int(on_mosaic.sum()) - len(taken),
        }
    )
    shards, names = [part / f"{i:04d}.h5" for i in range(len(pictures))], [picture.name for picture in pictures]
    summary = join(shards, out, pixels, names, columns, attributes)
    shutil.rmtree(part)
    return f"{out}: {summary}"


def _understood(folder: Path, catalogue: Path | None, binning: int) -> list[Picture]:
    """The images of a folder, when a line for each has said how it is read."""
    pictures, left_out = find_mosaics(folder, catalogue)
    for picture in pictures:
        with Mosaic(picture, binning) as mosaic:
            print(mosaic)
    print(*left_out, sep="\n", end="\n" if left_out else "", flush=True)
    return pictures


def look(folder: Path, catalogue: Path | None, pixels: int, randoms: float, binning: int) -> str:
    """What `build` would cut, in a line; nothing is written.

    Raises:
        MvssError: as `build`.
    """
    pictures = _understood(folder, catalogue, binning)
    if catalogue is None:
        for picture in pictures:
            with Mosaic(picture, binning) as mosaic:
                _ = mosaic.usual_noise
        return f"{len(pictures)} images can be read; without a catalogue, galaxies would be detected on them"
    positions, _ = read_catalogue(catalogue)
    plan, _, on_mosaic = plan_for(pictures, positions, pixels, randoms, binning)
    return f"{on_mosaic.sum()} galaxies on {len(pictures)} images and {sum(plan.fields)} random fields would be cut"


def _part(out: Path, inputs: str) -> Path:
    """The folder of what is done, new or gone on with."""
    part = out.with_name(out.name + ".part")
    note = part / "inputs.json"
    try:
        if note.exists() and note.read_text() != inputs:
            raise MvssError(f"{part} was begun from other files or with other settings: remove it to begin anew")
        part.mkdir(parents=True, exist_ok=True)
        note.write_text(inputs)
    except OSError as error:
        raise MvssError(f"cannot write below {part} ({error.strerror})") from error
    return part


def _cut(mosaic: Mosaic, index: int, plan: Plan, taken: set[int]) -> tuple[Rows, Rows]:
    """The galaxies on a mosaic that no earlier one had, and random fields."""
    corner, inside = corners(mosaic, plan.positions, plan.pixels)
    inside &= ~np.isin(plan.number, list(taken))
    rows = np.flatnonzero(inside)
    here, galaxies = plan.positions[rows], Rows()
    split = plan.split(here[:, 1])
    split = np.where((split < 0) | (plan.depth(here) > -plan.margin), ASIDE, split)
    for i, part in zip(rows, split, strict=True):
        _add(galaxies, mosaic, plan, corner[i], {"mosaic": index, "split": part, "number": plan.number[i]})
    return galaxies, _random(mosaic, index, plan, plan.fields[index])


def _random(mosaic: Mosaic, index: int, plan: Plan, count: int) -> Rows:
    """Up to `count` fields anywhere in the cells for them."""
    fields = Rows()
    tries, split = anywhere(mosaic, plan, TRIES * count, "fields")
    for i in np.flatnonzero(split >= 0):
        if len(fields) == count:
            break
        _add(fields, mosaic, plan, tries[i], {"mosaic": index, "split": split[i]})
    return fields


def _add(rows: Rows, mosaic: Mosaic, plan: Plan, corner: NDArray[np.int64], note: dict[str, float]) -> None:
    """Cut one stamp, and keep it if it has data enough."""
    row, column = (int(v) for v in corner)
    flux, ivar, mask = mosaic.stamp(row, column, plan.pixels)
    if mask.mean() > 1 - GOOD:
        return
    ra, dec = mosaic.sky(np.array([[row, column]]) + (plan.pixels - 1) / 2)[0]
    note |= {"row": row, "column": column, "ra": ra, "dec": dec, "masked": mask.mean()}
    rows.add(flux * plan.factor, ivar / plan.factor**2, mask, mosaic.wcs_of(row, column, plan.pixels), note)


def _too_small(path: Path) -> str:
    """What to do where many galaxies fill their stamps; nothing where they do not."""
    try:
        stamps = open_archive(path, "all", True, MEASURED)
        radius = float(sized(stamps).catalogue["half_light_radius"].median())
    except MvssError:  # of stamps that show nothing: what learns from them says so
        return ""
    if radius <= FILLED * stamps.pixels:
        return ""
    better = round(int(read_attributes(path)["binning"]) * radius / (SMALL * stamps.pixels))
    return (
        f"the usual galaxy has a half-light radius of {radius:.1f} pixels, and stamps of {stamps.pixels} hold little sky "
        f"around it: a binning of {better} (BINNING={better}), or larger stamps, would"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m experiments.galaxies.archive.cut", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="of mosaics *_sci.fits, *_drz.fits, *_drc.fits or *_i2d.fits, else *.fits; default: MAST",
    )
    parser.add_argument("catalogue", nargs="?", type=Path, help="table with RA and DEC; default: what is detected")
    parser.add_argument("--out", type=Path, default=Path("data/galaxies.h5"))
    parser.add_argument("--pixels", type=int, default=128, help="side of a stamp (default: 128)")
    parser.add_argument("--binning", type=int, default=1, help="pixels of the mosaics across one of a stamp (default: 1)")
    parser.add_argument("--randoms", type=float, default=1.0, help="random fields to a galaxy (default: 1)")
    parser.add_argument("--mosaics", type=int, default=20, help="how many to fetch from MAST (default: 20)")
    parser.add_argument("--dry-run", action="store_true", help="say how each file is read and what would be cut; cut nothing")
    asked = parser.parse_args(arguments)
    try:
        if asked.pixels < 2 or asked.randoms < 0 or min(asked.mosaics, asked.binning) < 1:
            raise MvssError("--pixels must be 2 or more, --randoms 0 or more, --mosaics and --binning 1 or more")
        folder, catalogue = (path and path.expanduser() for path in (asked.folder, asked.catalogue))
        if asked.dry_run:
            if folder is None:
                raise MvssError("--dry-run looks at a folder of mosaics: name it (FOLDER=)")
            print(look(folder, catalogue, asked.pixels, asked.randoms, asked.binning))
            return 0
        if folder is None:
            from experiments.galaxies.archive.mast import fetch_catalogue, fetch_mosaics

            catalogue = fetch_catalogue(asked.out.parent / "cosmos")
            folder = fetch_mosaics(asked.out.parent / "cosmos", asked.mosaics)
        command = shlex.join(["python", "-m", "experiments.galaxies.archive.cut", *arguments])
        print(build(folder, catalogue, asked.out, asked.pixels, asked.randoms, command, asked.binning))
        if asked.randoms:  # without random fields nothing can be learned: better said now than by what learns
            for part in ("train", "test"):
                open_archive(asked.out, part, False, 1)
        if said := _too_small(asked.out):
            print(said, file=sys.stderr)
    except MvssError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
