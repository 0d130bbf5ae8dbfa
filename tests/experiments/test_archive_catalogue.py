"""The catalogue: as a user brings it, or what is detected."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from mosaic_files import tangent

from experiments.galaxies.archive import detection
from experiments.galaxies.archive.catalogue import read_catalogue
from experiments.galaxies.archive.cut import main
from experiments.galaxies.archive.folder import find_mosaics
from experiments.galaxies.data.deep_field import detections, grey
from mvss.runtime.errors import MvssError


def test_without_a_catalogue_what_is_detected_is_cut_each_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two mosaics of the deep field that overlap by 200 columns; a pixel of the first cannot be used."""
    folder, whole, both = tmp_path / "mosaics", grey().astype(np.float32), []
    folder.mkdir()
    for number, left in enumerate((0, 400)):
        wcs = tangent(2.0)
        wcs.wcs.crpix = [500 - left, 436]
        image = whole[:, left : left + 600].copy()
        image[100, 100] = image[100, 100] if number else np.nan
        fits.writeto(folder / f"part_{number}_drz.fits", image, wcs.to_header())
        both.append(wcs)
    out = tmp_path / "own.h5"
    assert main([str(folder), "--out", str(out), "--pixels", "16"]) == 0
    table = Table.read(tmp_path / "own-detected.csv")
    x, y = both[0].all_world2pix(np.stack([table["RA"], table["DEC"]], axis=1), 0).T
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + 99 * np.eye(len(x))
    assert 200 < len(table) < 2000 and apart.min() > 3
    known = detections()
    bright = known.flux > 20
    near = np.hypot(known.x[bright][:, None] - x, known.y[bright][:, None] - y).min(1)
    assert (near < 1.5).mean() > 0.95
    with h5py.File(out) as file:
        assert len(file["galaxies/number"]) > 200
    monkeypatch.setattr(detection, "TILE", 300)  # six parts of each mosaic instead of one
    parts = Table.read(detection.catalogue_of(find_mosaics(folder)[0], tmp_path / "parts.csv"))
    same = SkyCoord(table["RA"], table["DEC"], unit="deg").match_to_catalog_sky(
        SkyCoord(parts["RA"], parts["DEC"], unit="deg")
    )[1]
    assert len(parts) == pytest.approx(len(table), rel=0.05) and (same.arcsec < 0.05).mean() > 0.9
    for file in folder.iterdir():
        fits.writeto(file, 0.01 * np.random.default_rng(0).standard_normal((64, 64)), tangent(2.0).to_header(), overwrite=True)
    assert main([str(folder), "--out", str(out), "--pixels", "16"]) == 1
    assert capsys.readouterr().err.endswith("is detected on the mosaics: name a CATALOGUE=\n")
    fits.writeto(file, np.full((64, 64), np.nan, np.float32), tangent(2.0).to_header(), overwrite=True)
    assert main([str(folder), "--out", str(out), "--pixels", "16"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {file} has no measured pixels")


POSITIONS = [[150.1, 2.2], [150.2, -2.3]]
TABLE = Table({"RA": [150.1, 150.2], "DEC": [2.2, -2.3], "zoo": [7, 8]})


def read(path: Path, content: bytes | str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_catalogue(path)


@pytest.mark.parametrize(
    "content",
    [
        "RA,DEC,zoo\n150.1,2.2,7\n150.2,-2.3,8\n",
        "\ufeffRA,DEC,zoo\r\n150.1,2.2,7\r\n150.2,-2.3,8\r\n",  # of a spreadsheet
        "# a comment, with a comma\n#another\nRA,DEC,zoo\n150.1,2.2,7\n  # in between\n150.2,-2.3,8\n",
        gzip.compress(b"RA,DEC,zoo\n150.1,2.2,7\n150.2,-2.3,8\n"),
        "RA,DEC,name,zoo\n150.1,2.2,caf\xe9,7\n150.2,-2.3,b,8\n".encode("latin-1"),
        "#   1 zoo          a number\n#   2 ALPHA_J2000  right ascension  [deg]\n#   3 DELTA_J2000  declination [deg]\n"
        " 7 150.1  2.2\n 8 150.2 -2.3\n",
    ],
    ids=["plain", "marked", "comments", "packed", "latin", "sextractor"],
)
def test_tables_of_text_are_read_by_what_is_in_them(tmp_path: Path, content: bytes | str) -> None:
    positions, columns = read(tmp_path / "table.dat", content)
    assert np.allclose(positions, POSITIONS) and columns["zoo"].tolist() == [7, 8]


@pytest.mark.parametrize("form", ["votable", "ascii.ecsv", "fits", "ascii.csv"])
def test_tables_of_astropy_are_read_whatever_their_names(tmp_path: Path, form: str) -> None:
    TABLE.write(tmp_path / "table", format=form)
    positions, columns = read_catalogue(tmp_path / "table")
    assert np.allclose(positions, POSITIONS) and columns["zoo"].tolist() == [7, 8]


def test_the_table_with_positions_is_taken_of_several(tmp_path: Path) -> None:
    """As SExtractor's FITS_LDAC has them; a card that nobody can read does not matter."""
    header = fits.BinTableHDU(Table({"Field Header Card": ["x" * 80]}), name="LDAC_IMHEAD")
    fits.HDUList([fits.PrimaryHDU(), header, fits.BinTableHDU(TABLE, name="LDAC_OBJECTS")]).writeto(tmp_path / "a.cat")
    content = (tmp_path / "a.cat").read_bytes()
    end = content.index(b"END" + 77 * b" ")
    (tmp_path / "a.cat").write_bytes(
        content[:end] + b"BROKEN  = 12abc / hm".ljust(80) + b"END".ljust(80) + content[end + 160 :]
    )
    assert np.allclose(read_catalogue(tmp_path / "a.cat")[0], POSITIONS)


@pytest.mark.parametrize("form", ["votable", "ascii.ecsv", "fits"])
def test_units_are_honoured(tmp_path: Path, form: str) -> None:
    ra, dec = np.radians(POSITIONS).T
    table = Table({"RA": ra * units.rad, "DEC": np.degrees(dec) * 60 * units.arcmin, "magnitude": [3631.0, 36.31] * units.Jy})
    table.write(tmp_path / "table", format=form)
    positions, columns = read_catalogue(tmp_path / "table")
    assert np.allclose(positions, POSITIONS) and np.allclose(columns["magnitude"], [0, 5], atol=1e-3)


def test_hours_and_texts_are_angles_where_they_say_so(tmp_path: Path) -> None:
    table = Table({"RA": ["10 00 24", "10 00 48", ""], "DEC": ["+02 12 00", "-02 18 00", ""]})
    table["RA"].unit, table["DEC"].unit = '"h:m:s"', '"d:m:s"'  # as VizieR writes them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.write(tmp_path / "table", format="fits")
    positions, _ = read_catalogue(tmp_path / "table")
    assert np.allclose(positions[:2], POSITIONS) and np.isnan(positions[2]).all()
    positions, _ = read(tmp_path / "a", "RA,DEC\n10h00m24s,+02d12m00s\n10h00m48s,-02d18m00s\n")
    assert np.allclose(positions, POSITIONS)
    hours = Table({"RA": np.array([10.0, 11.0]) * units.hourangle, "DEC": [0.0, 0.0] * units.deg})
    hours.write(tmp_path / "hours", format="ascii.ecsv")
    assert np.allclose(read_catalogue(tmp_path / "hours")[0][:, 0], [150, 165])


def test_what_is_no_position_is_none(tmp_path: Path) -> None:
    positions, _ = read(tmp_path / "a", "RA,DEC\n150.1,2.2\n150.1,\n-99,-99\n150.1,91\n")
    assert positions[0].tolist() == [150.1, 2.2] and np.isnan(positions[1:]).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("RA,DEC\n10:00:24,+02:12:00\n", "column RA is no angle that can be read .*its column states no unit"),
        ("", "it is empty"),
        (b"\x00\x01\xff", "or no text"),
        ("RA;DEC\n1;2\n", "no columns RA and DEC in degrees; its columns are: RA;DEC"),
        ("RA,DEC\n1,2,3,4\n", "cannot read the catalogue"),
        ("<html>404</html>", "no columns RA and DEC|cannot read the catalogue"),
        ("<?xml version='1.0'?><VOTABLE", "cannot read the catalogue|no columns RA"),
        (b"SIMPLE  =                    T", "cannot read the catalogue"),
    ],
)
def test_tables_that_cannot_be_read_are_a_line(tmp_path: Path, content: bytes | str, said: str) -> None:
    with pytest.raises(MvssError, match=said) as raised:
        read(tmp_path / "table.csv", content)
    assert "\n" not in str(raised.value) and "table.csv" in str(raised.value)
    for unit, column in (("m", "RA"), ("s", "magnitude")):
        table = Table({"RA": [1.0], "DEC": [1.0], "magnitude": [1.0]})
        table[column].unit = unit
        table.write(tmp_path / "other", format="fits", overwrite=True)
        with pytest.raises(MvssError, match=rf"column {column} is .*{unit}"):
            read_catalogue(tmp_path / "other")
