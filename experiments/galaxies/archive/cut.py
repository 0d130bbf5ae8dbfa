"""The paper's data: galaxies of a catalogue, and random fields, cut from a user's HST mosaics into one HDF5 file.

    python -m experiments.galaxies.archive.cut [FOLDER [CATALOGUE]] --out data/galaxies.h5 --pixels 128 --binning 1

    galaxies, randoms      flux, ivar (N, n, n) float32, mask (N, n, n) bool: pixels without data, ivar and flux are 0 there
                           wcs: FITS header of every stamp; mosaic: number among `mosaics`; row, column of its first pixel
                           there; ra, dec of its centre; masked: share of bad pixels; split: 0 train, 1 test, 2 aside
    galaxies/catalogue     the numeric columns of the catalogue, and `number`, its row
    attributes             command, factor (fluxes over those of the mosaics), unit, noise (of a usual pixel), pixel_scale,
                           binning (pixels of the mosaics across one of these, which row and column count)

Train and test are parts of the sky: the northern fifth of the catalogue is for tests. So are galaxies and random fields: of the
sky, in cells six stamps wide, every fourth cell is for random fields, which may hold whatever is there, catalogued or not, but
for the galaxy that a cut-out was made around. Galaxies whose stamps might touch the line between train and test, or a cell for
random fields, are set aside: they are cut, to be separated in the end, and nothing is learned from them or tested on them. A
galaxy on two mosaics is cut once.

Every mosaic's stamps go to a file of their own below OUT.part, whole or not at all; then all are joined. A run that was killed
goes on from there, a damaged file is made again, and OUT changes only when all is done. CATALOGUE left out: what is detected
on the mosaics (`detection`); both left out: `mast`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.galaxies.archive.detection import catalogue_of
from experiments.galaxies.archive.mosaics import Mosaic, find_mosaics, fingerprint, read_catalogue
from experiments.galaxies.archive.shards import Rows, join, read_attributes, stamps_of, taken_of, write_shard
from experiments.galaxies.data.stamps import NOISE, Stamps
from experiments.galaxies.segmentation import sized
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import generator

__all__ = ["build", "main", "open_archive"]

TEST = 0.2
"""Share of the catalogue's galaxies in the test part."""
CELL = 6
"""Stamps across a cell of the sky."""
GOOD = 0.75
"""Least share of measured pixels in a stamp."""
ASIDE = 2
"""Split of galaxies that are only separated."""
PARTS = {"train": (0,), "test": (1,), "all": (0, 1, ASIDE)}
MEASURED = 300
"""Galaxies whose sizes are measured."""
SMALL, FILLED = 0.1, 0.15
"""Half-light radii over the stamp's side: of what fits, as in the simulation, and from where on galaxies fill their stamps."""
UNLIKE = 1.5
"""Ratio of noises from where on mosaics are told apart."""
TRIES, PROBES = 30, 2000
"""Random positions tried for each field that is wanted, and on each mosaic to see how much room it has for them."""
Places = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What all mosaics need to know. positions: of the catalogue `(M, 2)`, degrees; number: its rows `(M,)`. cut: declination
    of the line between train and test; margin: degrees that a centre must be off it. cell: side of a cell, degrees. fields:
    random ones to be cut of each mosaic, by the room that it has for them. binning: of the mosaics' pixels (`Mosaic`)."""

    pixels: int
    randoms: float
    factor: float
    positions: Places
    number: NDArray[np.int64]
    cut: float
    margin: float
    cell: float
    fields: tuple[int, ...] = ()
    binning: int = 1

    def depth(self, places: Places) -> Places:
        """Degrees from right ascensions and declinations `(K, 2)` to the border of the cells for random fields, which are every
        second one of every second row; negative outside of them, and where there are none."""
        if not self.randoms:
            return np.full(len(places), -np.inf)
        # From a place of the catalogue: right ascension has no seam near it.
        east = (places[:, 0] - self.positions[0, 0] + 180) % 360 - 180
        row = np.floor(places[:, 1] / self.cell)
        found = np.full(len(places), -np.inf)
        for here in (row - 1, row, row + 1):
            along = east * np.cos(np.radians((here + 0.5) * self.cell)) / self.cell % 2
            up = places[:, 1] / self.cell - here
            inside = np.stack([np.minimum(along, 1 - along), np.minimum(up, 1 - up)])
            inside[0] = np.where(along < 1.5, inside[0], along - 2)  # the next such cell is nearer
            depth = np.where((inside >= 0).all(0), inside.min(0), -np.hypot(*inside.clip(max=0)))
            found = np.maximum(found, np.where(here % 2 == 0, depth, -np.inf))
        return found * self.cell

    def split(self, dec: Places) -> NDArray[np.int64]:
        """0 train, 1 test, −1 on the line between, of centres at these declinations."""
        return np.where(np.abs(dec - self.cut) <= self.margin, -1, (dec > self.cut).astype(int))


def build(
    folder: Path, catalogue: Path, out: Path, pixels: int = 128, randoms: float = 1.0, command: str = "", binning: int = 1
) -> str:
    """Make the archive and return a line that says what is in it. randoms: random fields to a galaxy. command: for the record.
    binning: pixels of the mosaics across one of the stamps'.

    Raises:
        MvssError: a mosaic or the catalogue cannot be used, they do not overlap, or the disk is full.
    """
    files = find_mosaics(folder, catalogue)
    try:
        digest = hashlib.sha256(catalogue.read_bytes()).hexdigest()
    except OSError as error:
        raise MvssError(f"cannot read {error.filename} ({error.strerror})") from error
    prints = [fingerprint(file) for file in files]
    inputs = hashlib.sha256(json.dumps([4, pixels, binning, randoms, digest, prints]).encode()).hexdigest()
    if out.exists() and (old := read_attributes(out))["inputs"] == inputs:
        return f"{out} is up to date: {old['summary']}"
    positions, columns = read_catalogue(catalogue)
    plan, attributes, on_mosaic = _plan(files, positions, pixels, randoms, binning)
    part = _part(out, inputs)
    taken: set[int] = set()
    start, made = time.monotonic(), 0
    for i, file in enumerate(files):
        shard = part / f"{i:04d}.h5"
        numbers = taken_of(shard)
        if numbers is None:
            with Mosaic(file, binning) as mosaic:
                galaxies, fields = _cut(mosaic, i, plan, taken)
            write_shard(shard, {"galaxies": galaxies, "randoms": fields}, pixels)
            numbers, made = galaxies.columns("number").tolist(), made + 1
            left = (time.monotonic() - start) / made * (len(files) - i - 1) / 60
            print(
                f"{file.name}: {len(galaxies)} galaxies, {len(fields)} random fields; "
                f"mosaic {i + 1} of {len(files)}, {left:.0f} min left",
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
    summary = join(
        [part / f"{i:04d}.h5" for i in range(len(files))], out, pixels, [file.name for file in files], columns, attributes
    )
    shutil.rmtree(part)
    return f"{out}: {summary}"


def _plan(
    files: Sequence[Path], positions: Places, pixels: int, randoms: float, binning: int
) -> tuple[Plan, dict[str, object], NDArray[np.bool_]]:
    """Look at all mosaics' headers: the plan, the archive's first attributes, and which finite positions any mosaic holds."""
    number = np.flatnonzero(np.isfinite(positions).all(1) & (np.abs(positions[:, 1]) <= 90))
    positions = positions[number]
    on_mosaic = np.zeros(len(number), dtype=bool)
    noises: list[float] = []
    scale, kind, dark = 0.0, ("", ""), 0
    for file in files:
        with Mosaic(file, binning) as mosaic:
            inside = _corners(mosaic, positions, pixels)[1]
            on_mosaic |= inside
            noises.append(mosaic.usual_noise)  # of each, so that a bad one is found before the work begins
            dark += mosaic.electrons is None
            own = mosaic.unit, mosaic.band
            if not scale:
                scale, kind = mosaic.pixel_scale, own
            if abs(mosaic.pixel_scale / scale - 1) > 0.01 or own != kind:
                this, that = (", ".join(name or "unknown" for name in names) for names in (own, kind))
                raise MvssError(
                    f"{file} has {mosaic.pixel_scale:.4f} arcsec a pixel, unit and filter {this}, but {files[0].name} "
                    f"{scale:.4f}, {that}: keep mosaics of one kind in the folder"
                )
    if not on_mosaic.any():
        raise MvssError("no stamp around a position of the catalogue lies on a mosaic: are they of the same part of the sky?")
    _say(noises, dark, kind[0])
    factor = NOISE / float(np.median(noises))
    margin = (1.02 * pixels / np.sqrt(2) + 1) * scale / 3600  # a stamp's centre is up to 0.7 pixels off its galaxy
    cut = float(np.quantile(positions[on_mosaic, 1], 1 - TEST))
    cell = CELL * pixels * scale / 3600
    plan = Plan(pixels, randoms, factor, positions, number, cut, margin, cell, binning=binning)
    plan = replace(plan, fields=_fields(files, plan, randoms * int(on_mosaic.sum())))
    attributes: dict[str, object] = {
        "factor": factor,
        "noise": NOISE,
        "unit": f"{kind[0] or 'the mosaics unit'} times factor, which makes the noise of a usual pixel {NOISE}",
        "pixel_scale": scale,
        "binning": binning,
        "pixels": pixels,
        "split_declination": cut,
    }
    return plan, attributes, on_mosaic


def _say(noises: Sequence[float], dark: int, unit: str) -> None:
    """What is unusual of mosaics with this noise each, of which `dark` do not tell the photons."""
    low, high = np.quantile(noises, [0.05, 0.95])
    if high > UNLIKE * low:
        print(
            f"the mosaics' noise goes from {low:.3g} to {high:.3g}: those of very different depth do not belong in one archive",
            file=sys.stderr,
        )
    if dark:
        print(
            f"{dark} of {len(noises)} mosaics do not tell how many electrons their fluxes are (BUNIT {unit or 'missing'}; "
            "EXPTIME, the gain): the noise of galaxies' photons is left out",
            file=sys.stderr,
        )


def _fields(files: Sequence[Path], plan: Plan, wanted: float) -> tuple[int, ...]:
    """Of as many random fields as are wanted of all mosaics those of each, which need not show a galaxy."""
    rooms = []
    for file in files:
        with Mosaic(file, plan.binning) as mosaic:
            places, split = _anywhere(mosaic, plan, PROBES, "room")
            rooms.append(float((split >= 0).mean()) * math.prod(mosaic.shape) if len(places) else 0.0)
    shares = np.cumsum([0.0, *rooms]) / max(sum(rooms), 1e-300)
    return tuple(np.diff(np.round(wanted * shares)).astype(int).tolist())


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


def _corners(mosaic: Mosaic, positions: Places, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows and columns of the first pixels of the stamps around positions, and which stamps lie on the mosaic."""
    where = mosaic.where(positions)
    corner = np.floor(np.nan_to_num(where, nan=-1e6) - pixels / 2 + 1).astype(np.int64)
    return corner, ((corner >= 0) & (corner + pixels <= np.array(mosaic.shape))).all(1)


def _cut(mosaic: Mosaic, index: int, plan: Plan, taken: set[int]) -> tuple[Rows, Rows]:
    """The galaxies on a mosaic that no earlier one had, and random fields."""
    corner, inside = _corners(mosaic, plan.positions, plan.pixels)
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
    tries, split = _anywhere(mosaic, plan, TRIES * count, "fields")
    for i in np.flatnonzero(split >= 0):
        if len(fields) == count:
            break
        _add(fields, mosaic, plan, tries[i], {"mosaic": index, "split": split[i]})
    return fields


def _anywhere(mosaic: Mosaic, plan: Plan, count: int, key: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixels `(count, 2)` of stamps at random, none where none fits; and the part of each, −1 if it is for no random
    field."""
    room = torch.tensor(mosaic.shape) - plan.pixels + 1
    if not bool((room > 0).all()):
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64)
    rng = generator(0, "galaxies", "archive", key, mosaic.path.name)
    corners = (torch.rand(count, 2, generator=rng, dtype=torch.float64) * room).long().numpy()
    middles = corners + (plan.pixels - 1) / 2
    centres = mosaic.sky(middles) if count else np.zeros((0, 2))
    free = (plan.depth(centres) > plan.margin) & ~_shows_own(mosaic, plan, middles)
    return corners, np.where(free, plan.split(centres[:, 1]), -1)


def _shows_own(mosaic: Mosaic, plan: Plan, middles: Places) -> NDArray[np.bool_]:
    """Which stamps in these places `(count, 2)` show the galaxy that the mosaic is a cut-out around, if it is: of those that
    random fields hold, it alone is not there by chance."""
    own, reach = (np.array(mosaic.shape) - 1) / 2, plan.pixels / 2
    away = np.linalg.norm(mosaic.where(plan.positions) - own, axis=1)
    if not np.nanmin(away, initial=np.inf) <= reach / 2:
        return np.zeros(len(middles), dtype=bool)
    return (np.abs(middles - own) < 2 * reach).all(1)


def _add(rows: Rows, mosaic: Mosaic, plan: Plan, corner: NDArray[np.int64], note: dict[str, float]) -> None:
    """Cut one stamp, and keep it if it has data enough."""
    row, column = (int(v) for v in corner)
    flux, ivar, mask = mosaic.stamp(row, column, plan.pixels)
    if mask.mean() > 1 - GOOD:
        return
    ra, dec = mosaic.sky(np.array([[row, column]]) + (plan.pixels - 1) / 2)[0]
    note |= {"row": row, "column": column, "ra": ra, "dec": dec, "masked": mask.mean()}
    rows.add(flux * plan.factor, ivar / plan.factor**2, mask, mosaic.wcs_of(row, column, plan.pixels), note)


def open_archive(path: Path, part: str, galaxies: bool, count: int | None = None) -> Stamps:
    """Stamps of a part, "train" or "test", of an archive, or of "all": every one, or `count` at most, evenly among them, of
    all mosaics.

    Where a pixel was not measured, `good` is false, y is 0 and sigma that of a usual pixel. Truth is not known. Catalogue:
    the numeric columns of the file, those of the user's catalogue below them where a name is taken.

    Raises:
        MvssError: it is no archive, is damaged, or has no such stamps.
    """
    if part not in PARTS:
        raise MvssError(f"part {part!r}: {', '.join(PARTS)}")
    group = "galaxies" if galaxies else "randoms"
    stamps = stamps_of(path, group, PARTS[part], count)
    if count and not len(stamps):
        raise MvssError(
            f"{path} has no {group} in the {part} part: make it of a larger part of the sky, or with cut-outs between galaxies"
        )
    return stamps


def _too_small(path: Path) -> str:
    """What to do where many galaxies fill their stamps; nothing where they do not."""
    stamps = stamps_of(path, "galaxies", PARTS["all"], MEASURED)
    try:
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
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m experiments.galaxies.archive.cut", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="of mosaics *_sci.fits, *_sci_*.fits, *_drz.fits or *_drc.fits, else *.fits; default: MAST",
    )
    parser.add_argument("catalogue", nargs="?", type=Path, help="CSV or FITS table with RA and DEC; default: what is detected")
    parser.add_argument("--out", type=Path, default=Path("data/galaxies.h5"))
    parser.add_argument("--pixels", type=int, default=128, help="side of a stamp (default: 128)")
    parser.add_argument("--binning", type=int, default=1, help="pixels of the mosaics across one of a stamp (default: 1)")
    parser.add_argument("--randoms", type=float, default=1.0, help="random fields to a galaxy (default: 1)")
    parser.add_argument("--mosaics", type=int, default=20, help="how many to fetch from MAST (default: 20)")
    asked = parser.parse_args(arguments)
    try:
        if asked.pixels < 2 or asked.randoms < 0 or min(asked.mosaics, asked.binning) < 1:
            raise MvssError("--pixels must be 2 or more, --randoms 0 or more, --mosaics and --binning 1 or more")
        folder, catalogue = (path and path.expanduser() for path in (asked.folder, asked.catalogue))
        if folder is None:
            from experiments.galaxies.archive.mast import fetch_catalogue, fetch_mosaics

            catalogue = fetch_catalogue(asked.out.parent / "cosmos")
            folder = fetch_mosaics(asked.out.parent / "cosmos", asked.mosaics)
        elif catalogue is None:
            detected = asked.out.with_name(f"{asked.out.stem}-detected.csv")
            catalogue = catalogue_of(find_mosaics(folder), detected, asked.binning)
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
