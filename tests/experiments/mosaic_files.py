"""Mosaics of known pixels, written as files, for the tests of the archive."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from experiments.galaxies.archive.folder import find_mosaics
from experiments.galaxies.archive.mosaics import Mosaic

N = 16
SIZE = 300
SIGMA = 0.1
EXPOSURE = 2000.0
PEAK = 5.0


def tangent(dec: float, ra: float = 150.0, turn: float = 0.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [SIZE / 2, SIZE / 2]
    scale, angle = 0.05 / 3600, np.radians(turn)
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return wcs


def write_mosaic(
    path: Path, wcs: WCS, places: NDArray, seed: int = 0, weights: NDArray | None = None, **keys: object
) -> NDArray:
    """A mosaic with noise and a bright pixel at each place; the first object has PEAK, the second PEAK + 1 ...; with a
    matrix CD, as HST's have."""
    image = SIGMA * np.random.default_rng(seed).standard_normal((SIZE, SIZE))
    for i, (row, column) in enumerate(places):
        image[row, column] = PEAK + i
    header = wcs.to_header()
    for name in [name for name in header if name.startswith(("PC", "CDELT"))]:
        del header[name]
    header.update({f"CD{i + 1}_{j + 1}": wcs.wcs.cd[i, j] for i in (0, 1) for j in (0, 1)})
    header.update({"BUNIT": "ELECTRONS/S", "EXPTIME": EXPOSURE} | keys)
    fits.writeto(path, image.astype(np.float32), header, overwrite=True)
    if weights is not None:
        fits.writeto(path.with_name(path.name.replace("_sci", "_wht")), weights.astype(np.float32), overwrite=True)
    return image


def lattice(count: int, seed: int) -> NDArray:
    """A lattice, shaken, so that stamps stay apart and inside."""
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2)[:count] * 55 + 30
    return grid + np.random.default_rng(seed).integers(-8, 9, grid.shape)


def write_survey(folder: Path, **keys: object) -> tuple[Path, NDArray]:
    """Two mosaics one above the other, the second turned by 30 degrees; the catalogue beside them, and its positions."""
    folder.mkdir(exist_ok=True)
    positions = []
    for i, dec in enumerate((2.0, 2.006)):
        places, wcs = lattice(20, i), tangent(dec, turn=30 * i)
        write_mosaic(folder / f"tile_{i}_sci.fits", wcs, places, i, **keys)
        positions.append(wcs.all_pix2world(places[:, ::-1], 0))
    sky = np.concatenate(positions)
    off = [[151.0, 2.0], [330.0, -2.0], [np.nan, 2.0]]  # beside, on the other side of the sky, nowhere
    sky = np.concatenate([sky, off])
    table = Table({"RA": sky[:, 0], "DEC": sky[:, 1], "zoo/votes": np.arange(len(sky)), "name": ["x"] * len(sky)})
    table.write(folder / "catalogue.csv", format="ascii.csv")
    return folder / "catalogue.csv", sky


def assert_equal(a: Path, b: Path) -> None:
    with h5py.File(a) as x, h5py.File(b) as y:
        names: list[str] = []
        x.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(names) > 20
        for name in names:
            assert np.array_equal(x[name][:], y[name][:]), name


def opened(path: Path, binning: int = 1) -> Mosaic:
    """The mosaic in a file, with the maps beside it."""
    pictures, _ = find_mosaics(path.parent)
    return Mosaic(next(picture for picture in pictures if picture.path == path), binning)
