"""A catalogue of what mosaics show, for users who have none: detection as in SExtractor (Bertin & Arnouts 1996), by
sep."""

from __future__ import annotations

__all__ = ["catalogue_of"]

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.galaxies.archive.layouts import Picture
from experiments.galaxies.archive.mosaics import Mosaic
from experiments.galaxies.data.deep_field import DETECTION, KERNEL
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text

SIGNIFICANT = 30.0
"""Least flux, in standard deviations of the noise of its pixels."""
TILE, MARGIN = 4096, 128
"""Pixels in a side of the parts in which a mosaic is searched, which bound the memory, and how far they overlap."""
MESH = 128
"""Pixels across which the background is one number."""
SAME = 0.5
"""Arcseconds within which two detections, on two mosaics, are one."""
Rows = NDArray[np.float64]


def catalogue_of(pictures: Sequence[Picture], out: Path, binning: int = 1) -> Path:
    """Write a CSV of all significant objects, brightest first, and return `out`: RA, DEC in degrees, significance.
    Stars are among them. binning: of the mosaics' pixels (`Mosaic`).

    Raises:
        MvssError: a mosaic cannot be used, or nothing is detected.
    """
    from astropy.table import Table

    rows = np.concatenate([_detected(picture, binning) for picture in pictures])
    if not len(rows):
        raise MvssError(f"nothing brighter than {SIGNIFICANT:g} times its noise is detected on the mosaics: name a CATALOGUE=")
    rows = _once(rows[np.argsort(-rows[:, 2], kind="stable")])
    text = io.StringIO()
    Table(dict(zip(("RA", "DEC", "significance"), rows.T, strict=True))).write(text, format="ascii.csv")
    atomic_write_text(out, text.getvalue())
    return out


def _detected(picture: Picture, binning: int) -> Rows:
    """RA, DEC and significance of what one mosaic shows."""
    with Mosaic(picture, binning) as mosaic:
        corners = itertools.product(*(range(0, size, TILE) for size in mosaic.shape))
        return np.concatenate([_in_tile(mosaic, row, column) for row, column in corners])


def _in_tile(mosaic: Mosaic, row: int, column: int) -> Rows:
    """Of what lies in the tile with this first pixel, and is seen with what is MARGIN around it."""
    import sep

    top, left = max(row - MARGIN, 0), max(column - MARGIN, 0)
    height, width = (min(first + TILE + MARGIN, size) for first, size in zip((row, column), mosaic.shape, strict=True))
    (flux, bad), noise = mosaic.flux(top, left, height - top, width - left), mosaic.usual_noise
    background = sep.Background(flux, mask=bad, bw=min(MESH, flux.shape[1]), bh=min(MESH, flux.shape[0]))
    sep.set_extract_pixstack(max(300_000, flux.size // 4))
    try:
        found = sep.extract(flux - background, err=noise, mask=bad, filter_kernel=KERNEL, **DETECTION)
    except Exception as error:  # sep's own, where the image is too crowded for it
        raise MvssError(f"objects of {mosaic.name} cannot be told apart ({error}): name a CATALOGUE=") from error
    significance = found["flux"] / (noise * np.sqrt(found["npix"]))
    places = np.stack([found["y"] + top, found["x"] + left], axis=1)
    inside = ((places >= (row - 0.5, column - 0.5)) & (places < (row + TILE - 0.5, column + TILE - 0.5))).all(1)
    kept = inside & (significance >= SIGNIFICANT)
    return np.column_stack([mosaic.sky(places[kept]) if kept.any() else np.zeros((0, 2)), significance[kept]])


def _once(rows: Rows) -> Rows:
    """Those with no brighter one in the same place; brightest first."""
    from scipy.spatial import cKDTree

    ra, dec = np.radians(rows[:, :2]).T
    points = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    double = cKDTree(points).query_pairs(np.radians(SAME / 3600), output_type="ndarray")
    return np.delete(rows, np.unique(double[:, 1]), axis=0) if len(double) else rows
