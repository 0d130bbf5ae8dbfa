"""The table of what is where on the sky, as a user brings it."""

from __future__ import annotations

__all__ = ["read_catalogue"]

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.galaxies.archive.files import cause_of
from mvss.runtime.errors import MvssError

RIGHT_ASCENSION = ("ra", "raj2000", "_raj2000", "alpha_j2000", "alphawin_j2000", "ra_deg", "radeg", "ra_icrs")
DECLINATION = ("dec", "dej2000", "_dej2000", "delta_j2000", "deltawin_j2000", "dec_deg", "dedeg", "de_icrs")
Column = NDArray[np.float64]


def read_catalogue(path: Path) -> tuple[Column, dict[str, Column]]:
    """Right ascension and declination in degrees `(M, 2)`, NaN where there is none, and all numeric columns `(M,)`
    each.

    path: a FITS table, or CSV with a header line; the two columns may be named RA and DEC, or as VizieR and COSMOS name
    them.

    Raises:
        MvssError: no table, or one without the two columns.
    """
    from astropy.table import Table
    from astropy.units import UnitsWarning

    fits = path.name.lower().endswith((".fits", ".fits.gz", ".fit"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnitsWarning)
            table = Table.read(path, format="fits") if fits else Table.read(path, format="ascii.csv")
    except Exception as error:  # what astropy raises for a broken table depends on how it is broken
        raise MvssError(f"cannot read the catalogue {path} ({cause_of(error)}): it must be CSV or a FITS table") from error
    columns = {}
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind in "iufb" and column.ndim == 1:
            columns[name] = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
    lower = {name.lower(): name for name in columns}
    named = [next((lower[n] for n in names if n in lower), None) for names in (RIGHT_ASCENSION, DECLINATION)]
    if None in named:
        there = ", ".join(list(columns)[:8]) or "none"
        raise MvssError(f"{path} has no columns RA and DEC in degrees; its numeric columns are: {there}")
    return np.stack([columns[str(name)] for name in named], axis=1), columns
