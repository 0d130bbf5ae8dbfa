"""The table of what is where on the sky, as a user brings it: FITS, VOTable, ECSV, SExtractor's or CSV, told apart by
what is in the file and read by astropy.

Units that the table states are honoured: positions come out in degrees, a column `magnitude` in magnitudes.
"""

from __future__ import annotations

__all__ = ["read_catalogue"]

import gzip
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.galaxies.archive.files import cause_of
from mvss.runtime.errors import MvssError

RIGHT_ASCENSION = ("ra", "raj2000", "_raj2000", "alpha_j2000", "alphawin_j2000", "ra_deg", "radeg", "ra_icrs")
DECLINATION = ("dec", "dej2000", "_dej2000", "delta_j2000", "deltawin_j2000", "dec_deg", "dedeg", "de_icrs")
SEXAGESIMAL = {"h:m:s": "hourangle", "hms": "hourangle", "d:m:s": "deg", "dms": "deg", "degrees": "deg", "hours": "hourangle"}
"""Units of angles as tables write them, where astropy does not know them."""
BYTES = 1 << 20
Column = NDArray[np.float64]
Table = Any  # astropy has no types
Unit = Any


def read_catalogue(path: Path) -> tuple[Column, dict[str, Column]]:
    """Right ascension and declination in degrees `(M, 2)`, NaN where there is none, and all numeric columns `(M,)`
    each.

    path: a table; the two columns may be named RA and DEC, or as VizieR, SExtractor and COSMOS name them. Where no unit
    is stated, they are in degrees.

    Raises:
        MvssError: no table, or one without the two columns, or with units that are none of angles.
    """
    tables = _tables(path)
    for table in tables:
        lower = {name.lower(): name for name in table.colnames}
        named = [next((lower[n] for n in names if n in lower), "") for names in (RIGHT_ASCENSION, DECLINATION)]
        if all(named):
            break
    else:
        there = ", ".join(name for table in tables for name in table.colnames[:8]) or "none"
        raise MvssError(f"{path} has no columns RA and DEC in degrees; its columns are: {there}")
    columns = {name: _numbers(table[name]) for name in table.colnames if _is_numeric(table[name])}
    if "magnitude" in columns:
        columns["magnitude"] = _magnitudes(columns["magnitude"], table["magnitude"], path)
    positions = [_degrees(table[name], path) for name in named]
    places = np.stack(positions, axis=1)
    places[~(np.abs(places[:, 1]) <= 90)] = np.nan  # numbers like −99 for none
    return places, columns


def _tables(path: Path) -> list[Table]:
    """All tables of a file."""
    from astropy.io.votable import is_votable, parse
    from astropy.table import Table

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = _content(path, BYTES)
            if start.startswith(b"SIMPLE  ="):
                return _of_fits(path)
            if start.lstrip().startswith(b"<") and is_votable(str(path)):
                return [table.to_table(use_names_over_ids=True) for table in parse(str(path)).iter_tables()]
            # Without the mark that Excel puts first; what is no UTF-8 can only be in columns of text.
            text = _content(path).decode("utf-8-sig", errors="replace")
            if not text.strip() or "\0" in text:
                raise ValueError("it is empty, or no text")
            lines = text.splitlines()
            if text.startswith("# %ECSV"):
                return [Table.read(lines, format="ascii.ecsv")]
            if re.match(r"#\s*1\s+[A-Za-z]\w*", text):
                return [Table.read(lines, format="ascii.sextractor")]
            return [Table.read([*lines, ""], format="ascii.csv", comment=r"\s*#")]
    except OSError as error:
        if error.errno:
            raise MvssError(f"cannot read {path} ({error.strerror})") from error
        raise _unreadable(path, error) from error
    except Exception as error:  # what astropy raises for a broken table depends on how it is broken
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> MvssError:
    return MvssError(
        f"cannot read the catalogue {path} ({cause_of(error)}): it must be FITS, VOTable, ECSV, CSV or a table of SExtractor's"
    )


def _content(path: Path, count: int = -1) -> bytes:
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            return file.read(count)
    with gzip.open(path) as packed:
        return packed.read(count)


def _of_fits(path: Path) -> list[Table]:
    """All tables of a FITS file; that of SExtractor's LDAC is the second."""
    from astropy.io import fits
    from astropy.table import Table

    with fits.open(path) as whole:
        for hdu in whole:
            hdu.verify("silentfix+ignore")
        return [Table.read(hdu) for hdu in whole if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and len(hdu.columns)]


def _is_numeric(column: Table) -> bool:
    return column.dtype.kind in "iufb" and column.ndim == 1


def _numbers(column: Table) -> Column:
    """As floats, NaN where there is no value."""
    return np.asarray(np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan))


def _degrees(column: Table, path: Path) -> Column:
    """A column of angles, by its unit."""
    from astropy.coordinates import Angle
    from astropy.units import Unit, UnitBase, deg

    unit = str(column.unit or "").strip().strip('"').lower()
    known = Unit(SEXAGESIMAL.get(unit, str(column.unit or "deg")), parse_strict="silent")
    try:
        if _is_numeric(column):
            if not isinstance(known, UnitBase) or not known.is_equivalent(deg):
                raise ValueError(f"its unit is {column.unit}")
            return np.asarray(_numbers(column) * known.to(deg))
        if column.dtype.kind not in "UOS" or column.ndim != 1:
            raise ValueError(f"it holds {column.dtype} of shape {column.shape}")
        return _of_texts([str(text) for text in np.ma.filled(np.ma.asarray(column).astype(str), "")], unit, known, Angle)
    except Exception as error:  # of astropy, which has its own for angles
        raise MvssError(f"{path}: column {column.name} is no angle that can be read ({cause_of(error)})") from error


def _of_texts(texts: list[str], unit: str, known: Unit, angle: Unit) -> Column:
    """Sexagesimal angles in degrees, NaN where there is none: 10h00m28.6s and +02d12m21s say what they are, of others
    the column's unit must."""
    told = [text for text in texts if text.strip()]
    if not unit and not all(re.search("[hd°]", text) for text in told):
        raise ValueError(f"{told[0]!r} is text, and its column states no unit (hourangle, deg)")
    return np.array([angle(text, known if unit else None).deg if text.strip() else np.nan for text in texts], dtype=np.float64)


def _magnitudes(numbers: Column, column: Table, path: Path) -> Column:
    """A column of this name: fluxes in it become AB magnitudes."""
    from astropy.units import ABmag, LogUnit, Unit, UnitBase, mag

    unit = Unit(str(column.unit or "mag"), parse_strict="silent")
    if isinstance(unit, LogUnit) or unit == mag or str(column.unit).strip().lower().endswith("mag"):
        return numbers
    if not isinstance(unit, UnitBase) or not unit.is_equivalent(Unit("Jy")):
        raise MvssError(f"{path}: column {column.name} is in {column.unit}, which is no magnitude")
    with np.errstate(all="ignore"):
        return np.asarray((numbers * unit).to(ABmag).value)
