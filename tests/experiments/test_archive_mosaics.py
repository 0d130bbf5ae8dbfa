"""Mosaics: noise, units, bad pixels and places of single ones."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from mosaic_files import EXPOSURE, SIGMA, SIZE, N, lattice, opened, tangent, write_mosaic, write_survey

from experiments.galaxies.archive.cut import build
from experiments.galaxies.data.stamps import NOISE


def test_detector_terms_of_the_header(tmp_path: Path) -> None:
    """Without a weight map: the read noise, where it is above the measured noise; the gain, where the unit is counts."""
    keys = {"READNSE": 2 * SIGMA * EXPOSURE * 3, "CCDGAIN": 3.0, "BUNIT": "COUNTS/S"}
    write_mosaic(tmp_path / "a_sci.fits", tangent(2.0), lattice(20, 0), **keys)
    with opened(tmp_path / "a_sci.fits") as mosaic:
        assert mosaic.electrons == 3 * EXPOSURE
        assert mosaic.usual_noise == pytest.approx(2 * SIGMA)


@pytest.mark.parametrize(
    "unit", ["electrons/s", "ELECTRON / S", "electron s-1", "e-/s", "e/s", "ELECTRONS/SEC", "counts/s", "cps"]
)
def test_units_of_rates_are_known_however_they_are_written(tmp_path: Path, unit: str) -> None:
    write_mosaic(tmp_path / "a_sci.fits", tangent(2.0), lattice(20, 0), BUNIT=unit, CCDGAIN=1.0)
    with opened(tmp_path / "a_sci.fits") as mosaic:
        assert mosaic.electrons == EXPOSURE


def test_noise_is_that_of_the_sky_where_a_galaxy_fills_a_cutout(tmp_path: Path) -> None:
    rng, away = np.random.default_rng(0), np.hypot(*np.mgrid[-50:50, -50:50])
    found = []
    for i in range(30):
        image = SIGMA * rng.standard_normal((100, 100)) + 30 * SIGMA * np.exp(-away / rng.uniform(6, 14)) + 1.0
        fits.writeto(tmp_path / f"{i}_sci.fits", image.astype(np.float32), tangent(2.0).to_header())
        with opened(tmp_path / f"{i}_sci.fits") as mosaic:
            found.append(mosaic.usual_noise)
    assert found == pytest.approx([SIGMA] * 30, rel=0.1) and np.median(found) == pytest.approx(SIGMA, rel=0.02)


def test_where_there_are_no_weights_zeros_are_no_data(tmp_path: Path) -> None:
    image = write_mosaic(tmp_path / "a_sci.fits", tangent(2.0), lattice(20, 0))
    image[:, :200] = 0.0
    fits.update(tmp_path / "a_sci.fits", image.astype(np.float32), fits.getheader(tmp_path / "a_sci.fits"))
    with opened(tmp_path / "a_sci.fits") as mosaic:
        assert mosaic.usual_noise == pytest.approx(SIGMA, rel=0.03)
        assert np.array_equal(mosaic.stamp(100, 190, N)[2], np.tile(np.arange(N) < 10, (N, 1)))
    counts = (100 + 5 * np.random.default_rng(0).standard_normal((SIZE, SIZE))).astype(np.int16)
    counts[3, 4] = 0
    scaled = fits.PrimaryHDU(counts, tangent(2.0).to_header())
    scaled.header.update({"BSCALE": 0.01, "BZERO": -1.0})
    scaled.writeto(tmp_path / "b_sci.fits")
    with opened(tmp_path / "b_sci.fits") as mosaic:  # whole numbers: what is 0 may be measured
        assert mosaic.usual_noise == pytest.approx(0.05, rel=0.03) and not mosaic.stamp(0, 0, N)[2].any()


def test_mosaics_of_very_different_depth_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue, _ = write_survey(tmp_path / "mosaics", BUNIT="nanomaggies")
    path = tmp_path / "mosaics" / "tile_1_sci.fits"
    fits.update(path, 4 * fits.getdata(path), fits.getheader(path))
    said = build(tmp_path / "mosaics", catalogue, tmp_path / "out.h5", N, 0.0)
    lines = capsys.readouterr().err.splitlines()
    assert "galaxies" in said and "very different depth" in lines[0] and "BUNIT NANOMAGGIES" in lines[1]
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs["factor"] == pytest.approx(NOISE / (2.5 * SIGMA), rel=0.02)  # the median of both


def test_binned_pixels_are_sums_where_they_should_be(tmp_path: Path) -> None:
    """Flux and place of a bright pixel, noise of sky and photons, bad pixels and coordinates, of squares of 3 × 3."""
    places, wcs = lattice(20, 0), tangent(2.0, turn=20)
    weights = np.full((SIZE, SIZE), 7.0)
    row, column = places[0] // 3 + [4, 0]
    weights[3 * row + 1, 3 * column + 2] = 0
    image = write_mosaic(tmp_path / "a_sci.fits", wcs, places, weights=weights)
    sums = image.reshape(SIZE // 3, 3, SIZE // 3, 3).sum((1, 3))
    sky = wcs.all_pix2world(places[:, ::-1], 0)
    with opened(tmp_path / "a_sci.fits", binning=3) as mosaic:
        assert mosaic.shape == (SIZE // 3, SIZE // 3) and mosaic.pixel_scale == pytest.approx(0.15)
        assert mosaic.usual_noise == pytest.approx(3 * SIGMA, rel=0.03)
        assert np.allclose(mosaic.where(sky), (places - 1) / 3, atol=1e-4)
        assert np.allclose(mosaic.sky(mosaic.where(sky)), sky, atol=1e-9)
        top, left = places[0] // 3 - N // 2
        flux, ivar, bad = mosaic.stamp(top, left, N)
        assert np.argwhere(bad).tolist() == [[row - top, column - left]]
        assert np.allclose(flux[~bad], sums[top : top + N, left : left + N][~bad], rtol=1e-5, atol=1e-5)
        expected = (3 * SIGMA) ** 2 + np.maximum(flux - np.median(sums), 0) / EXPOSURE
        assert np.allclose(1 / ivar[~bad], expected[~bad], rtol=0.06)
        stamp = WCS(fits.Header.fromstring(mosaic.wcs_of(top, left, N)))
    centre = np.array([[3 * top + 1.0, 3 * left + 1.0]])  # of the middle one of the first pixel's nine
    assert np.allclose(stamp.all_pix2world([[0, 0]], 0), wcs.all_pix2world(centre[:, ::-1], 0), atol=1e-9)
    far = np.array([[3.0 * (top + 9) + 1, 3.0 * (left + 5) + 1]])
    assert np.allclose(stamp.all_pix2world([[5, 9]], 0), wcs.all_pix2world(far[:, ::-1], 0), atol=1e-9)
