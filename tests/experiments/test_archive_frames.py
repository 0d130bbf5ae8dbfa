"""Coordinates: axes by their type, frames converted or refused, and headers that are broken where nothing needs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from mosaic_files import SIGMA, SIZE, lattice, opened, tangent, write_mosaic

from experiments.galaxies.archive.mosaics import Mosaic
from mvss.runtime.errors import MvssError

PLACES = lattice(20, 0).astype(float)


def written(path: Path, header: fits.Header) -> Mosaic:
    image = SIGMA * np.random.default_rng(0).standard_normal((SIZE, SIZE))
    fits.writeto(path, image.astype(np.float32), header, overwrite=True)
    return opened(path)


def test_galactic_coordinates_are_converted(tmp_path: Path) -> None:
    wcs = tangent(40.0, turn=20)
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    x, y = PLACES.T[::-1]
    expected = SkyCoord(*wcs.all_pix2world(x, y, 0), unit="deg", frame="galactic").icrs
    with written(tmp_path / "a_sci.fits", wcs.to_header()) as mosaic:
        sky = mosaic.sky(PLACES)
        assert np.allclose(sky, np.stack([expected.ra.deg, expected.dec.deg], 1), atol=1e-9)
        assert np.allclose(mosaic.where(sky), PLACES, atol=1e-4)
        assert str(mosaic).endswith("frame galactic, converted to ICRS")
        stamp = WCS(fits.Header.fromstring(mosaic.wcs_of(10, 20, 16)))
        assert np.allclose(stamp.all_pix2world([[0, 0]], 0), wcs.all_pix2world([[20, 10]], 0)) and "GLON" in stamp.wcs.ctype[0]


def test_other_equinoxes_are_converted(tmp_path: Path) -> None:
    header = tangent(2.0).to_header()
    header.update({"RADESYS": "FK4", "EQUINOX": 1950.0})
    with written(tmp_path / "a_sci.fits", header) as mosaic:
        centre = mosaic.sky(PLACES[:1])[0]
        assert 0.5 < np.abs(centre - [150, 2]).max() < 1 and "FK4 1950.0, converted to ICRS" in str(mosaic)
    for cards in ({"RADESYS": "FK5", "EQUINOX": 2000.0}, {"RADESYS": "FK5", "EQUINOX": "J2000.0"}):
        header.update(cards)
        with written(tmp_path / "a_sci.fits", header) as mosaic:
            assert str(mosaic).endswith("frame FK5 J2000")
            assert np.abs(mosaic.sky(PLACES[:1])[0] - [150, 2]).max() < 0.01


@pytest.mark.parametrize("binning", [1, 3])
def test_axes_are_told_by_their_type(tmp_path: Path, binning: int) -> None:
    """Declination first: positions and stamps are as where right ascension is."""
    wcs, swapped = tangent(2.0, turn=20), WCS(naxis=2)
    swapped.wcs.ctype, swapped.wcs.crval, swapped.wcs.crpix = list(wcs.wcs.ctype)[::-1], wcs.wcs.crval[::-1], wcs.wcs.crpix
    swapped.wcs.cd = wcs.wcs.cd[::-1]
    write_mosaic(tmp_path / "a_sci.fits", wcs, lattice(20, 0))
    header = swapped.to_header()
    written(tmp_path / "b_sci.fits", header).close()
    with opened(tmp_path / "a_sci.fits", binning) as usual, opened(tmp_path / "b_sci.fits", binning) as mosaic:
        sky = usual.sky(PLACES / binning)
        assert np.allclose(mosaic.sky(PLACES / binning), sky, atol=1e-9)
        assert np.allclose(mosaic.where(sky), PLACES / binning, atol=1e-4)
        assert mosaic.pixel_scale == pytest.approx(usual.pixel_scale)
        stamps = [WCS(fits.Header.fromstring(m.wcs_of(4, 9, 8))) for m in (usual, mosaic)]
        first = [s.all_pix2world([[3, 5]], 0)[0] for s in stamps]
        assert np.allclose(first[0], first[1][::-1], atol=1e-9) and stamps[1].wcs.ctype[0].startswith("DEC")


def _with_cards(path: Path, *cards: bytes) -> None:
    """Cards as bytes, right or wrong, in place of END."""
    content = path.read_bytes()
    end = content.index(b"END" + 77 * b" ")
    filled = b"".join(card.ljust(80) for card in (*cards, b"END"))
    assert end % 2880 + len(filled) <= 2880
    path.write_bytes(content[:end] + filled + content[end + len(filled) :])


def test_cards_that_cannot_be_read_matter_only_where_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a_sci.fits"
    write_mosaic(path, tangent(2.0), lattice(20, 0))
    before = path.read_bytes()
    _with_cards(path, b"OBSERVER= 'O'Neil and", b"GARBAGE = 12abc / hm", b"BAD KEY = = 3", b"NOTES   = \xe9\xff")
    with opened(path) as mosaic:
        assert mosaic.electrons and np.isfinite(mosaic.usual_noise)
    path.write_bytes(before.replace(b"CRVAL1  =                150.0", b"CRVAL1  =              15O.0x8"))
    assert path.read_bytes() != before
    with pytest.raises(MvssError, match=r"coordinates (without CRVAL1|that cannot be read \(CRVAL1)"):
        opened(path)
    path.write_bytes(before.replace(b"EXPTIME =               2000.0", b"EXPTIME =           2000.0.0.0"))
    assert path.read_bytes() != before
    with opened(path) as mosaic:
        assert mosaic.dark  # and told of


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        ({"CTYPE1": "ELON-TAN", "CTYPE2": "ELAT-TAN"}, "a frame that is not known here .CTYPE ELON-TAN"),
        ({"CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN"}, "coordinates"),
        ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, "no celestial coordinates"),
        ({"CTYPE2": "RA---TAN"}, "coordinates that cannot be read"),
        ({"CTYPE1": None, "CTYPE2": None}, "no celestial coordinates"),
        ({"CRVAL2": None}, "coordinates without CRVAL2"),
        ({"CRPIX1": None}, "coordinates without CRPIX1"),
        ({"CD1_1": None, "CD2_2": None}, "coordinates that cannot be used|without a scale"),
        ({"CD1_1": 0.0, "CD2_2": 0.0}, "coordinates that cannot be used"),
        ({"CD1_1": "north"}, "CD1_1 = 'north'"),
        ({"CRVAL1": "10:00:28"}, "CRVAL1 = '10:00:28'"),
        ({"CRVAL1": True}, "CRVAL1 = True"),
        ({"CTYPE1": 5}, "CTYPE1 = 5"),
        ({"EQUINOX": "now"}, "EQUINOX = 'now'"),
        ({"CUNIT1": "furlong"}, "coordinates that cannot be read"),
        ({"CD1_1": 2.0, "CD2_2": 2.0}, "coordinates that cannot be used"),
        ({"WCSAXES": 3, "CTYPE3": "FREQ"}, "3 axes"),
    ],
)
def test_coordinates_that_cannot_be_used_are_a_line(tmp_path: Path, cards: dict, said: str) -> None:
    path = tmp_path / "a_sci.fits"
    write_mosaic(path, tangent(2.0), lattice(20, 0))
    header = fits.getheader(path)
    for name in ("CD1_2", "CD2_1"):
        del header[name]
    for name, value in cards.items():
        if value is None:
            del header[name]
        else:
            header[name] = value
    with pytest.raises(MvssError, match=said) as raised:
        written(path, header)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)
