"""The archive: what is cut is where it should be, kills lose nothing, and bad files say so in a line."""

from __future__ import annotations

import gzip
import re
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from experiments.galaxies.archive import cut as cutting
from experiments.galaxies.archive import detection
from experiments.galaxies.archive.cut import build, main
from experiments.galaxies.archive.files import find_mosaics
from experiments.galaxies.archive.mast import fetch_catalogue, fetch_mosaics
from experiments.galaxies.archive.mosaics import Mosaic
from experiments.galaxies.archive.parts import ASIDE, open_archive
from experiments.galaxies.archive.plan import Plan
from experiments.galaxies.data.deep_field import detections, grey
from experiments.galaxies.data.stamps import NOISE
from mvss.runtime.errors import MvssError

N = 16
SIZE = 300
SIGMA = 0.1
EXPOSURE = 2000.0
PEAK = 5.0


def _wcs(dec: float, ra: float = 150.0, turn: float = 0.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [SIZE / 2, SIZE / 2]
    scale, angle = 0.05 / 3600, np.radians(turn)
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return wcs


def _mosaic(path: Path, wcs: WCS, places: NDArray, seed: int = 0, weights: NDArray | None = None, **keys: object) -> NDArray:
    """A mosaic with noise and a bright pixel at each place; the first object has PEAK, the second PEAK + 1 ...; with a matrix
    CD, as HST's have."""
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


def _places(count: int, seed: int) -> NDArray:
    """A lattice, shaken, so that stamps stay apart and inside."""
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2)[:count] * 55 + 30
    return grid + np.random.default_rng(seed).integers(-8, 9, grid.shape)


def _survey(folder: Path, **keys: object) -> tuple[Path, NDArray]:
    """Two mosaics one above the other, the second turned by 30 degrees; the catalogue beside them, and its positions."""
    folder.mkdir(exist_ok=True)
    positions = []
    for i, dec in enumerate((2.0, 2.006)):
        places, wcs = _places(20, i), _wcs(dec, turn=30 * i)
        _mosaic(folder / f"tile_{i}_sci.fits", wcs, places, i, **keys)
        positions.append(wcs.all_pix2world(places[:, ::-1], 0))
    sky = np.concatenate(positions)
    off = [[151.0, 2.0], [330.0, -2.0], [np.nan, 2.0]]  # beside, on the other side of the sky, nowhere
    sky = np.concatenate([sky, off])
    table = Table({"RA": sky[:, 0], "DEC": sky[:, 1], "zoo/votes": np.arange(len(sky)), "name": ["x"] * len(sky)})
    table.write(folder / "catalogue.csv", format="ascii.csv")
    return folder / "catalogue.csv", sky


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("survey")
    catalogue, sky = _survey(folder / "mosaics")
    out = folder / "galaxies.h5"
    said = build(folder / "mosaics", catalogue, out, pixels=N, randoms=2.0, command="the command")
    return SimpleNamespace(folder=folder / "mosaics", catalogue=catalogue, sky=sky, out=out, said=said)


def test_galaxies_are_cut_to_the_pixel_and_know_where_they_are(made: SimpleNamespace) -> None:
    with h5py.File(made.out) as file:
        galaxies, factor = file["galaxies"], file.attrs["factor"]
        assert file.attrs["command"] == "the command" and file.attrs["pixel_scale"] == pytest.approx(0.05)
        names = [name.decode() for name in file["mosaics"][:]]
        assert galaxies["flux"].chunks == (CHUNKED, N, N) and galaxies["flux"].compression == "gzip"
        number = galaxies["number"][:]
        assert len(number) == len(set(number)) == len(made.sky) - 3
        assert np.array_equal(galaxies["catalogue/zoo_votes"][:], number)
        for i, row in enumerate(number):
            image = fits.getdata(made.folder / names[galaxies["mosaic"][i]])
            top, left = galaxies["row"][i], galaxies["column"][i]
            assert np.allclose(galaxies["flux"][i] / factor, image[top : top + N, left : left + N], rtol=1e-6)
            # The object's bright pixel is nearest to the centre, where both the catalogue and the stamp's coordinates put it.
            peak = np.array(np.unravel_index(galaxies["flux"][i].argmax(), (N, N)))
            assert np.abs(peak - (N - 1) / 2).max() <= 0.5
            assert galaxies["flux"][i].max() / factor == pytest.approx(PEAK + row % 20, rel=1e-5)
            wcs = WCS(fits.Header.fromstring(galaxies["wcs"][i].decode()))
            assert np.allclose(wcs.all_world2pix(made.sky[row : row + 1], 0)[0, ::-1], peak, atol=1e-3)
            centre = wcs.all_pix2world([[(N - 1) / 2, (N - 1) / 2]], 0)[0]
            assert np.allclose(centre, [galaxies["ra"][i], galaxies["dec"][i]], atol=1e-9)


CHUNKED = 256


def test_parts_and_views_share_no_sky(made: SimpleNamespace) -> None:
    """Corners of stamps on the sky, from the coordinates of each alone."""
    corners = np.array([[-0.5, -0.5], [N - 0.5, -0.5], [-0.5, N - 0.5], [N - 0.5, N - 0.5]])
    dec: dict[tuple[str, int], list[float]] = {}
    centres: dict[str, NDArray] = {}
    with h5py.File(made.out) as file:
        for group in ("galaxies", "randoms"):
            used = file[f"{group}/split"][:] < ASIDE
            for header, split in zip(file[f"{group}/wcs"][used], file[f"{group}/split"][used], strict=True):
                dec.setdefault((group, split), []).extend(
                    WCS(fits.Header.fromstring(header.decode())).all_pix2world(corners, 0)[:, 1]
                )
            centres[group] = (
                np.stack([file[f"{group}/ra"][used] * np.cos(np.radians(2)), file[f"{group}/dec"][used]], 1) * 3600 / 0.05
            )
    assert len(dec) == 4
    assert max(dec["galaxies", 0] + dec["randoms", 0]) < min(dec["galaxies", 1] + dec["randoms", 1])
    apart = np.linalg.norm(centres["galaxies"][:, None] - centres["randoms"][None], axis=2)
    assert apart.min() > np.sqrt(2) * N
    assert len(centres["randoms"]) == 2 * (len(made.sky) - 3) and len(centres["galaxies"]) > 15


def test_random_fields_hold_what_is_there(made: SimpleNamespace) -> None:
    """Those of the catalogue, too: neighbours of other galaxies look like them."""
    with h5py.File(made.out) as file:
        brightest = file["randoms/flux"][:].max((1, 2)) / file.attrs["factor"]
    assert 0.05 < (brightest > 0.9 * PEAK).mean() < 0.5


def test_random_fields_do_not_show_what_a_cutout_was_made_for(tmp_path: Path) -> None:
    """Cut-outs around each galaxy: fields lie beside it where there is room, and where there is none, there are no fields."""
    catalogue, sky = _survey(tmp_path / "mosaics")
    for side in (5 * N, 2 * N - 4):
        folder = tmp_path / f"cut-{side}"
        folder.mkdir()
        for i in range(2):
            path = tmp_path / "mosaics" / f"tile_{i}_sci.fits"
            image, wcs = fits.getdata(path), WCS(fits.getheader(path))
            for number, (x, y) in enumerate(wcs.all_world2pix(sky[20 * i : 20 * i + 20], 0)):
                cut = Cutout2D(image, (x, y), side, wcs=wcs, mode="partial", fill_value=np.nan)
                fits.writeto(folder / f"{i}-{number}.fits", cut.data, cut.wcs.to_header())
        build(folder, catalogue, tmp_path / "galaxies.h5", N, 1.0)
        with h5py.File(tmp_path / "galaxies.h5") as file:
            fields = file["randoms"]
            middle = np.stack([fields["row"][:], fields["column"][:]], 1) + (N - 1) / 2 - (side - 1) / 2
            assert len(file["galaxies/ra"]) > 30 and (np.abs(middle).max(1, initial=N) >= N).all()
        assert (len(middle) > 30) == (side == 5 * N) and (len(middle) == 0) == (side < 2 * N)
    with pytest.raises(MvssError, match="cut-outs between galaxies"):
        open_archive(tmp_path / "galaxies.h5", "train", galaxies=False, count=5)


def test_cells_for_random_fields_are_a_quarter_of_the_sky_with_edges_as_far_as_is_said() -> None:
    rng = np.random.default_rng(0)
    for dec in (-60.0, 2.0):
        plan = Plan(16, 1.0, 1.0, np.array([[359.99, dec]]), np.array([0]), 0.0, 0.0, 0.01)
        places = np.stack([rng.uniform(359.9, 360.1, 4000) % 360, dec + rng.uniform(-0.05, 0.05, 4000)], axis=1)
        depth = plan.depth(places)
        assert (depth > 0).mean() == pytest.approx(0.25, abs=0.02) and depth.max() == pytest.approx(0.005, rel=0.1)
        near = places + rng.uniform(-1, 1, places.shape) * 0.002 / np.array([np.cos(np.radians(dec)), 1])
        step = np.hypot(*((near - places) * [np.cos(np.radians(dec)), 1]).T)  # before the seam
        near[:, 0] %= 360
        assert (np.abs(plan.depth(near) - depth) <= 1.01 * step + 1e-9).all()  # as of a distance
    assert np.isneginf(replace(plan, randoms=0.0).depth(places)).all()


def test_what_is_left_out_is_counted(made: SimpleNamespace) -> None:
    with h5py.File(made.out) as file:
        cut = len(file["galaxies/number"])
    assert f"{cut} galaxies" in made.said and "1 without a position, 2 not wholly on a mosaic" in made.said
    parts = re.search(r"\((\d+) train, (\d+) test, (\d+) aside\)", made.said)
    assert cut + 3 == len(made.sky) and parts and sum(map(int, parts.groups())) == cut and min(map(int, parts.groups())) > 0


def test_noise_is_that_of_sky_and_photons(made: SimpleNamespace) -> None:
    stamps = open_archive(made.out, "train", galaxies=True)
    assert stamps.y.dtype == torch.float64 and stamps.good.all()
    with h5py.File(made.out) as file:
        factor = file.attrs["factor"]
    assert factor * SIGMA == pytest.approx(NOISE, rel=0.02)  # measured on 150,000 pixels
    expected = (NOISE**2 + factor**2 * (stamps.y / factor).clamp_min(0) / EXPOSURE).sqrt()
    assert torch.allclose(stamps.sigma, expected, rtol=0.02)
    assert stamps.sigma.median() == pytest.approx(NOISE, rel=0.01)


def test_detector_terms_of_the_header(tmp_path: Path) -> None:
    """Without a weight map: the read noise, where it is above the measured noise; the gain, where the unit is counts."""
    keys = {"READNSE": 2 * SIGMA * EXPOSURE * 3, "CCDGAIN": 3.0, "BUNIT": "COUNTS/S"}
    _mosaic(tmp_path / "a_sci.fits", _wcs(2.0), _places(20, 0), **keys)
    with Mosaic(tmp_path / "a_sci.fits") as mosaic:
        assert mosaic.electrons == 3 * EXPOSURE
        assert mosaic.usual_noise == pytest.approx(2 * SIGMA)


@pytest.mark.parametrize(
    "unit", ["electrons/s", "ELECTRON / S", "electron s-1", "e-/s", "e/s", "ELECTRONS/SEC", "counts/s", "cps"]
)
def test_units_of_rates_are_known_however_they_are_written(tmp_path: Path, unit: str) -> None:
    _mosaic(tmp_path / "a_sci.fits", _wcs(2.0), _places(20, 0), BUNIT=unit, CCDGAIN=1.0)
    with Mosaic(tmp_path / "a_sci.fits") as mosaic:
        assert mosaic.electrons == EXPOSURE


def test_noise_is_that_of_the_sky_where_a_galaxy_fills_a_cutout(tmp_path: Path) -> None:
    rng, away = np.random.default_rng(0), np.hypot(*np.mgrid[-50:50, -50:50])
    found = []
    for i in range(30):
        image = SIGMA * rng.standard_normal((100, 100)) + 30 * SIGMA * np.exp(-away / rng.uniform(6, 14)) + 1.0
        fits.writeto(tmp_path / f"{i}_sci.fits", image.astype(np.float32), _wcs(2.0).to_header())
        with Mosaic(tmp_path / f"{i}_sci.fits") as mosaic:
            found.append(mosaic.usual_noise)
    assert found == pytest.approx([SIGMA] * 30, rel=0.1) and np.median(found) == pytest.approx(SIGMA, rel=0.02)


def test_where_there_are_no_weights_zeros_are_no_data(tmp_path: Path) -> None:
    image = _mosaic(tmp_path / "a_sci.fits", _wcs(2.0), _places(20, 0))
    image[:, :200] = 0.0
    fits.update(tmp_path / "a_sci.fits", image.astype(np.float32), fits.getheader(tmp_path / "a_sci.fits"))
    with Mosaic(tmp_path / "a_sci.fits") as mosaic:
        assert mosaic.usual_noise == pytest.approx(SIGMA, rel=0.03)
        assert np.array_equal(mosaic.stamp(100, 190, N)[2], np.tile(np.arange(N) < 10, (N, 1)))
    counts = (100 + 5 * np.random.default_rng(0).standard_normal((SIZE, SIZE))).astype(np.int16)
    counts[3, 4] = 0
    scaled = fits.PrimaryHDU(counts, _wcs(2.0).to_header())
    scaled.header.update({"BSCALE": 0.01, "BZERO": -1.0})
    scaled.writeto(tmp_path / "b_sci.fits")
    with Mosaic(tmp_path / "b_sci.fits") as mosaic:  # whole numbers: what is 0 may be measured
        assert mosaic.usual_noise == pytest.approx(0.05, rel=0.03) and not mosaic.stamp(0, 0, N)[2].any()


def test_mosaics_of_very_different_depth_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue, _ = _survey(tmp_path / "mosaics", BUNIT="nanomaggies")
    path = tmp_path / "mosaics" / "tile_1_sci.fits"
    fits.update(path, 4 * fits.getdata(path), fits.getheader(path))
    said = build(tmp_path / "mosaics", catalogue, tmp_path / "out.h5", N, 0.0)
    lines = capsys.readouterr().err.splitlines()
    assert "galaxies" in said and "very different depth" in lines[0] and "BUNIT NANOMAGGIES" in lines[1]
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs["factor"] == pytest.approx(NOISE / (2.5 * SIGMA), rel=0.02)  # the median of both


def test_binned_pixels_are_sums_where_they_should_be(tmp_path: Path) -> None:
    """Flux and place of a bright pixel, noise of sky and photons, bad pixels and coordinates, of squares of 3 × 3."""
    places, wcs = _places(20, 0), _wcs(2.0, turn=20)
    weights = np.full((SIZE, SIZE), 7.0)
    row, column = places[0] // 3 + [4, 0]
    weights[3 * row + 1, 3 * column + 2] = 0
    image = _mosaic(tmp_path / "a_sci.fits", wcs, places, weights=weights)
    sums = image.reshape(SIZE // 3, 3, SIZE // 3, 3).sum((1, 3))
    sky = wcs.all_pix2world(places[:, ::-1], 0)
    with Mosaic(tmp_path / "a_sci.fits", binning=3) as mosaic:
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


def test_an_archive_of_binned_pixels(tmp_path: Path) -> None:
    """By the command; other squares are another archive."""
    catalogue, _ = _survey(tmp_path / "mosaics")
    command = [str(tmp_path / "mosaics"), str(catalogue), "--out", str(tmp_path / "galaxies.h5"), "--pixels", "8"]
    inputs = []
    for binning in ("2", "1"):
        assert main([*command, "--binning", binning]) == 0
        with h5py.File(tmp_path / "galaxies.h5") as file:
            inputs.append(file.attrs["inputs"])
            assert file.attrs["pixel_scale"] == pytest.approx(0.05 * int(binning)) and file.attrs["binning"] == int(binning)
            assert len(file["galaxies/ra"]) > 30
            peaks = np.stack(np.unravel_index(file["galaxies/flux"][:].reshape(-1, 64).argmax(1), (8, 8)), 1)
            assert np.abs(peaks - 3.5).max() <= 1.5
    assert inputs[0] != inputs[1]
    assert main([*command, "--binning", "0"]) == 1


def test_galaxies_that_fill_their_stamps_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    places = _places(20, 0)
    light = sum(3 * np.exp(-0.5 * ((rows - r) ** 2 + (columns - c) ** 2) / 25) for r, c in places)
    image = _mosaic(tmp_path / "a_sci.fits", _wcs(2.0), places[:0]) + light
    fits.writeto(tmp_path / "a_sci.fits", image.astype(np.float32), _wcs(2.0).to_header(), overwrite=True)
    command = [str(tmp_path), "--out", str(tmp_path / "galaxies.h5"), "--randoms", "0", "--pixels"]
    said = {}
    for pixels, binning in (("24", "1"), ("48", "1"), ("24", "2")):
        assert main([*command, pixels, "--binning", binning]) == 0
        said[pixels, binning] = capsys.readouterr().err
    assert "a binning of 2 (BINNING=2), or larger stamps" in said["24", "1"]
    assert "stamps" not in said["48", "1"] and "stamps" not in said["24", "2"]


def test_opening_gives_what_is_asked_for_from_all_mosaics(made: SimpleNamespace) -> None:
    every = open_archive(made.out, "train", galaxies=False)
    some = open_archive(made.out, "train", galaxies=False, count=9)
    assert len(some) == 9 and set(some.catalogue["mosaic"].tolist()) == {0, 1}
    rows = [(every.y == y).flatten(1).all(1).nonzero().item() for y in some.y]
    assert torch.equal(some.catalogue["ra"], every.catalogue["ra"][rows])
    assert len(open_archive(made.out, "train", galaxies=False, count=999)) == len(every)
    assert every.wcs[rows[3]] == some.wcs[3] and "CRVAL1" in some.wcs[3]
    with pytest.raises(MvssError, match="train, test, all"):
        open_archive(made.out, "fresh", galaxies=True)


def test_again_is_nothing_to_do_and_files_are_equal(made: SimpleNamespace, tmp_path: Path) -> None:
    stamp = made.out.stat().st_mtime_ns
    assert "up to date" in build(made.folder, made.catalogue, made.out, N, 2.0)
    assert made.out.stat().st_mtime_ns == stamp and not made.out.with_name("galaxies.h5.part").exists()
    build(made.folder, made.catalogue, tmp_path / "again.h5", N, 2.0)
    _assert_equal(made.out, tmp_path / "again.h5")


def _assert_equal(a: Path, b: Path) -> None:
    with h5py.File(a) as x, h5py.File(b) as y:
        names: list[str] = []
        x.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(names) > 20
        for name in names:
            assert np.array_equal(x[name][:], y[name][:]), name


@pytest.mark.parametrize("damage", ["none", "cut short", "a bit"])
def test_a_killed_run_goes_on(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """Killed in the second mosaic; then the first one's file may be damaged by what killed it."""
    out = tmp_path / "galaxies.h5"
    out.write_bytes(made.out.read_bytes())
    with h5py.File(out, "r+") as file:
        file.attrs["inputs"] = "others"
    before = out.read_bytes()
    cuts = []

    def stopping(mosaic: Mosaic, *rest: object) -> object:
        cuts.append(mosaic.path.name)
        if len(cuts) == 2:
            raise KeyboardInterrupt
        return whole(mosaic, *rest)

    whole = cutting._cut
    monkeypatch.setattr(cutting, "_cut", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(made.folder, made.catalogue, out, N, 2.0)
    assert out.read_bytes() == before
    done = out.with_name("galaxies.h5.part") / "0000.h5"
    content = bytearray(done.read_bytes())
    if damage == "cut short":
        done.write_bytes(content[: len(content) // 2])
    elif damage == "a bit":
        with h5py.File(done) as file:
            where = file["galaxies/flux"].id.get_chunk_info(0).byte_offset
        content[where + 1000] ^= 1
        done.write_bytes(content)
    build(made.folder, made.catalogue, out, N, 2.0)
    assert cuts[2:] == (["tile_1_sci.fits"] if damage == "none" else ["tile_0_sci.fits", "tile_1_sci.fits"])
    _assert_equal(made.out, out)


def test_changed_pixels_and_weights_are_seen_though_sizes_are_as_before(tmp_path: Path) -> None:
    catalogue, _ = _survey(tmp_path / "mosaics")
    path, out, weights = tmp_path / "mosaics" / "tile_1_sci.fits", tmp_path / "a.h5", np.ones((SIZE, SIZE))
    assert "up to date" not in build(path.parent, catalogue, out, N, 0.0)
    assert "up to date" in build(path.parent, catalogue, out, N, 0.0)
    _mosaic(path, _wcs(2.006, turn=30), _places(20, 1), seed=7)
    assert "up to date" not in build(path.parent, catalogue, out, N, 0.0)
    for factor in (1.0, 2.0):
        fits.writeto(path.with_name("tile_1_wht.fits"), (factor * weights).astype(np.float32), overwrite=True)
        assert "up to date" not in build(path.parent, catalogue, out, N, 0.0)
        assert "up to date" in build(path.parent, catalogue, out, N, 0.0)


def test_random_fields_come_from_mosaics_without_a_galaxy_too(made: SimpleNamespace, tmp_path: Path) -> None:
    """Beside the survey lies a mosaic of the same size, which shows nothing that the catalogue knows."""
    folder = tmp_path / "mosaics"
    shutil.copytree(made.folder, folder)
    _mosaic(folder / "blank_sci.fits", _wcs(1.99), np.zeros((0, 2), dtype=int))
    build(folder, made.catalogue, tmp_path / "a.h5", N, 2.0)
    with h5py.File(tmp_path / "a.h5") as file:
        mosaic = [name.decode() for name in file["mosaics"][:]].index("blank_sci.fits")
        assert not (file["galaxies/mosaic"][:] == mosaic).any()
        from_it = (file["randoms/mosaic"][:] == mosaic).mean()
        assert len(file["randoms/mosaic"]) == 2 * (len(made.sky) - 3) and 0.15 < from_it < 0.6


def test_plain_names_are_mosaics_where_none_is_named_as_one(tmp_path: Path) -> None:
    for name in ("b.fits", "a.fits.gz", "a_wht.fits.gz", "stars.fits", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in find_mosaics(tmp_path, tmp_path / "stars.fits")] == ["a.fits.gz", "b.fits"]
    (tmp_path / "c_drz.fits").touch()
    assert [p.name for p in find_mosaics(tmp_path, tmp_path / "stars.fits")] == ["c_drz.fits"]


@pytest.mark.parametrize(
    ("image", "weights"),
    [
        ("acs_I_030mas_077_sci.fits", "acs_I_030mas_077_wht.fits.gz"),
        ("acs_I_100028+0214_unrot_sci_20.fits", "acs_I_100028+0214_unrot_wht_20.fits"),
        ("field_drz_sci.fits.gz", "field_drz_wht.fits.gz"),
        ("field_drz.fits", "field_drz_weight.fits"),
        ("stamp.fits", "stamp_wht.fits"),
    ],
)
def test_weight_maps_are_found_by_their_names(tmp_path: Path, image: str, weights: str) -> None:
    """Names of COSMOS's mosaics and cut-outs at IRSA, of drizzled images, and plain ones."""
    fits.writeto(tmp_path / weights, np.full((40, 40), 4.0))
    pixels = SIGMA * np.random.default_rng(0).standard_normal((40, 40))
    pixels[3, 4] = np.nan
    fits.writeto(tmp_path / image, pixels, _wcs(2.0).to_header())
    (tmp_path / "field_drz_rms.fits").touch()
    assert [p.name for p in find_mosaics(tmp_path, tmp_path / "field_drz_rms.fits")] == [image]
    fits.writeto(tmp_path / weights, np.full((30, 30), 4.0), overwrite=True)
    with pytest.raises(MvssError, match=re.escape("(40, 40), its weight map (30, 30)")):
        Mosaic(tmp_path / image)


def test_other_inputs_do_not_mix(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(made.folder, made.catalogue, tmp_path / "a.h5", N, 2.0)
    with pytest.raises(MvssError, match=r"a\.h5\.part was begun from other files"):
        build(made.folder, made.catalogue, tmp_path / "a.h5", N, 1.0)


@pytest.mark.parametrize("when", ["mosaic", "joining"])
def test_a_full_disk_leaves_the_old_file(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    """The limit of a file's size stands in for the disk's end: both come as OSError in the midst of writing."""
    out = tmp_path / "galaxies.h5"
    build(made.folder, made.catalogue, out, N, 0.5)
    before, limits = out.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    command = [str(made.folder), str(made.catalogue), "--out", str(out), "--pixels", str(N), "--randoms", "2"]
    room = 50_000 if when == "mosaic" else made.out.stat().st_size - 10_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        assert main(command) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("error: cannot write") and "File too large" in complaint
    assert out.read_bytes() == before and not list(tmp_path.rglob("*.tmp"))
    assert len(list(tmp_path.rglob("00*.h5"))) == (0 if when == "mosaic" else 2)
    assert main(command) == 0
    _assert_equal(made.out, out)


def test_bad_pixels_are_masked(tmp_path: Path) -> None:
    folder = tmp_path / "mosaics"
    folder.mkdir()
    places, weights = np.array([[50, 50], [50, 150], [150, 50], [150, 150], [240, 240]]), np.full((SIZE, SIZE), 7.0)
    weights[53, 54] = 0
    weights[56, 54] = np.nan
    weights[230:290, 230:290] = 0
    weights[:, 100:200] = 28.0  # four times the exposure: half the noise
    path = folder / "one_sci.fits"
    image = _mosaic(path, _wcs(2.0), places, weights=weights, SATURATE=20.0)
    image[:, 100:200] = np.where(image[:, 100:200] < 1, image[:, 100:200] / 2, image[:, 100:200])
    image[52, 148], image[49, 151], image[148, 46], image[147, 46] = 30.0, np.inf, np.nan, -np.inf
    fits.update(path, image.astype(np.float32), fits.getheader(path))
    sky = _wcs(2.0).all_pix2world(places[:, ::-1], 0)
    Table({"ra": sky[:, 0], "dec": sky[:, 1]}).write(tmp_path / "table.fits")
    said = build(folder, tmp_path / "table.fits", tmp_path / "out.h5", N, 0.0)
    assert "1 mostly without data" in said and "3 stamps with bad pixels" in said
    parts = [open_archive(tmp_path / "out.h5", part, galaxies=True) for part in ("train", "test")]
    found = {int(n): (s, i) for s in parts for i, n in enumerate(s.catalogue["number"])}
    expected = {0: [(53, 54), (56, 54)], 1: [(52, 148), (49, 151)], 2: [(148, 46), (147, 46)], 3: []}
    for number, bad in expected.items():
        stamps, i = found[number]
        row, column = int(stamps.catalogue["row"][i]), int(stamps.catalogue["column"][i])
        assert {(r + row, c + column) for r, c in (~stamps.good[i, 0]).nonzero().tolist()} == set(bad)
        assert (stamps.y[i][~stamps.good[i]] == 0).all() and (stamps.sigma[i][~stamps.good[i]] == NOISE).all()
        assert stamps.catalogue["masked"][i] == pytest.approx(len(bad) / N**2)
    ratio = found[0][0].sigma[found[0][1]].median() / found[1][0].sigma[found[1][1]].median()
    assert ratio == pytest.approx(2.0, rel=0.02)


def test_a_galaxy_on_two_mosaics_is_cut_once_where_there_is_data(tmp_path: Path) -> None:
    places = _places(20, 0)
    sky = _wcs(2.0).all_pix2world(places[:, ::-1], 0)
    image = _mosaic(tmp_path / "a_sci.fits", _wcs(2.0), places)
    image[:, :150] = np.nan
    fits.update(tmp_path / "a_sci.fits", image.astype(np.float32), fits.getheader(tmp_path / "a_sci.fits"))
    _mosaic(tmp_path / "b_sci.fits", _wcs(2.0), places, 1)
    Table({"ra": sky[:, 0], "dec": sky[:, 1]}).write(tmp_path / "table.csv", format="ascii.csv")
    build(tmp_path, tmp_path / "table.csv", tmp_path / "out.h5", N, 0.0)
    with h5py.File(tmp_path / "out.h5") as file:
        number, mosaic = file["galaxies/number"][:], file["galaxies/mosaic"][:]
    assert len(set(number)) == len(number)
    assert np.array_equal(mosaic, (places[number, 1] < 150 - 2).astype(int))


def _bad(folder: Path, kind: str) -> None:
    """Make one file of a survey bad."""
    mosaic = folder / "tile_1_sci.fits"
    if kind == "truncated":
        mosaic.write_bytes(mosaic.read_bytes()[:100_000])
    elif kind == "truncated gzip":
        whole = gzip.compress(mosaic.read_bytes())
        mosaic.with_name("tile_1_sci.fits.gz").write_bytes(whole[: len(whole) // 2])
        mosaic.unlink()
    elif kind == "no FITS":
        mosaic.write_text("<html>404</html>")
    elif kind == "no coordinates":
        fits.writeto(mosaic, np.zeros((50, 50), np.float32), overwrite=True)
    elif kind == "no image":
        fits.HDUList([fits.PrimaryHDU()]).writeto(mosaic, overwrite=True)
    elif kind == "blank":
        fits.writeto(mosaic, np.full((SIZE, SIZE), np.nan, np.float32), fits.getheader(mosaic), overwrite=True)
    elif kind == "weights of another size":
        fits.writeto(folder / "tile_1_wht.fits", np.ones((50, 50), np.float32))
    elif kind == "weights without an image":
        fits.HDUList([fits.PrimaryHDU()]).writeto(folder / "tile_1_wht.fits")
    elif kind == "another unit":
        fits.setval(mosaic, "BUNIT", value="ELECTRONS")
    elif kind == "another filter":
        fits.setval(mosaic, "FILTER2", value="F606W")
    elif kind == "no mosaics":
        for path in folder.glob("*.fits"):
            path.unlink()
    elif kind == "no columns":
        (folder / "catalogue.csv").write_text("ra,de\n150,2\n")
    elif kind == "no table":
        (folder / "catalogue.csv").write_bytes(b"\x00\xff\n\n1,2,3")
    elif kind == "no catalogue":
        (folder / "catalogue.csv").unlink()
    elif kind == "elsewhere":
        (folder / "catalogue.csv").write_text("RA,DEC\n10,2\n")
    elif kind == "large stamps":
        pass


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("truncated", "tile_1_sci.fits is truncated or no FITS file"),
        ("truncated gzip", "tile_1_sci.fits.gz is truncated"),
        ("no FITS", "tile_1_sci.fits is truncated or no FITS file"),
        ("no coordinates", r"tile_1_sci.fits has no celestial coordinates \(WCS\)"),
        ("no image", "holds no image"),
        ("blank", "no measured pixels"),
        ("weights of another size", "its weight map"),
        ("weights without an image", "holds no image"),
        ("another unit", "keep mosaics of one kind"),
        ("another filter", "filter ELECTRONS/S, F606W, but tile_0_sci.fits .* ELECTRONS/S, unknown: keep mosaics of one kind"),
        ("no mosaics", "no mosaics in"),
        ("no columns", "no columns RA and DEC in degrees; its numeric columns are: ra, de"),
        ("no table", "cannot read the catalogue|no columns RA"),
        ("no catalogue", "cannot read .*catalogue.csv"),
        ("elsewhere", "are they of the same part of the sky"),
        ("large stamps", "are they of the same part of the sky"),
    ],
)
def test_bad_input_is_a_line(tmp_path: Path, kind: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue, _ = _survey(tmp_path / "mosaics")
    _bad(tmp_path / "mosaics", kind)
    pixels = 2 * SIZE if kind == "large stamps" else N
    with pytest.raises(MvssError, match=complaint) as raised:
        build(tmp_path / "mosaics", catalogue, tmp_path / "out.h5", pixels)
    assert "\n" not in str(raised.value) and not (tmp_path / "out.h5").exists()
    assert main([str(tmp_path / "mosaics"), str(catalogue), "--out", str(tmp_path / "out.h5"), "--pixels", str(pixels)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1  # before any work was done


@pytest.mark.parametrize("damage", ["cut short", "no HDF5", "other HDF5", "missing", "a bit"])
def test_a_damaged_archive_is_a_line(made: SimpleNamespace, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "galaxies.h5"
    content = bytearray(made.out.read_bytes())
    if damage == "a bit":
        with h5py.File(made.out) as file:
            content[file["galaxies/flux"].id.get_chunk_info(0).byte_offset + 1000] ^= 1
    if damage == "other HDF5":
        h5py.File(path, "w").close()
    elif damage != "missing":
        path.write_bytes({"cut short": content[:-5000], "no HDF5": b"hello", "a bit": content}[damage])
    with pytest.raises(MvssError, match=r"there is no|is damaged, or no archive") as raised:
        open_archive(path, "train", galaxies=True)
    assert "\n" not in str(raised.value)
    if damage not in ("missing", "a bit"):
        with pytest.raises(MvssError, match="remove it"):
            build(made.folder, made.catalogue, path, N)


class _Mast:
    """A stand-in for astroquery's Observations: it remembers what it was asked."""

    def __init__(self, status: str = "COMPLETE", found: int = 3) -> None:
        self.asked: dict[str, object] = {}
        self.status, self.found = status, found

    def query_criteria(self, **asked: object) -> Table:
        self.asked |= asked
        return Table({"obs_id": [f"j{i}" for i in reversed(range(self.found))]})

    def get_product_list(self, observations: Table) -> Table:
        return Table({"obs_id": observations["obs_id"], "size": [10] * len(observations)})

    def filter_products(self, products: Table, **asked: object) -> Table:
        self.asked |= asked
        return products

    def download_products(self, products: Table, download_dir: str) -> Table:
        self.asked["products"] = list(products["obs_id"])
        for name in products["obs_id"]:
            path = Path(download_dir) / "mastDownload" / name / f"{name}_drc.fits"
            path.parent.mkdir(parents=True)
            _mosaic(path, _wcs(2.0 + 0.01 * int(name[1:])), _places(20, 0))
        return Table({"Status": [self.status] * len(products)})


def test_mast_is_asked_for_cosmos_and_what_it_sends_is_used(tmp_path: Path) -> None:
    client = _Mast()
    folder = fetch_mosaics(tmp_path / "cosmos", 2, client)
    assert client.asked["filters"] == "F814W" and client.asked["productSubGroupDescription"] == "DRC"
    assert client.asked["products"] == ["j0", "j1"]
    sky = np.concatenate([_wcs(dec).all_pix2world(_places(20, 0)[:, ::-1], 0) for dec in (2.0, 2.01)])
    vizier = SimpleNamespace(get_catalogs=lambda _: [Table({"_RAJ2000": sky[:, 0], "_DEJ2000": sky[:, 1]}), Table({"x": [1]})])
    catalogue = fetch_catalogue(folder, vizier)
    assert "galaxies" in build(folder, catalogue, tmp_path / "out.h5", N, 0.0)
    assert fetch_catalogue(folder, SimpleNamespace()) == catalogue


def test_an_archive_that_does_not_answer_is_a_line(tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Temporary failure in name resolution\nand more")

    for fetch, client in (
        (lambda c: fetch_mosaics(tmp_path / "a", 2, c), SimpleNamespace(query_criteria=offline)),
        (lambda c: fetch_mosaics(tmp_path / "b", 2, c), _Mast(found=0)),
        (lambda c: fetch_mosaics(tmp_path / "c", 2, c), _Mast(status="ERROR")),
        (lambda c: fetch_catalogue(tmp_path / "d", c), SimpleNamespace(get_catalogs=offline)),
        (lambda c: fetch_catalogue(tmp_path / "e", c), SimpleNamespace(get_catalogs=lambda _: [])),
    ):
        with pytest.raises(MvssError, match=r"FOLDER=|CATALOGUE=") as raised:
            fetch(client)
        assert "\n" not in str(raised.value)


def test_without_a_catalogue_what_is_detected_is_cut_each_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two mosaics of the deep field that overlap by 200 columns; a pixel of the first cannot be used."""
    folder, whole, both = tmp_path / "mosaics", grey().astype(np.float32), []
    folder.mkdir()
    for number, left in enumerate((0, 400)):
        wcs = _wcs(2.0)
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
    parts = Table.read(detection.catalogue_of(sorted(folder.iterdir()), tmp_path / "parts.csv"))
    same = SkyCoord(table["RA"], table["DEC"], unit="deg").match_to_catalog_sky(
        SkyCoord(parts["RA"], parts["DEC"], unit="deg")
    )[1]
    assert len(parts) == pytest.approx(len(table), rel=0.05) and (same.arcsec < 0.05).mean() > 0.9
    for file in folder.iterdir():
        fits.writeto(file, 0.01 * np.random.default_rng(0).standard_normal((64, 64)), _wcs(2.0).to_header(), overwrite=True)
    assert main([str(folder), "--out", str(out), "--pixels", "16"]) == 1
    assert capsys.readouterr().err.endswith("is detected on the mosaics: name a CATALOGUE=\n")
    fits.writeto(file, np.full((64, 64), np.nan, np.float32), _wcs(2.0).to_header(), overwrite=True)
    assert main([str(folder), "--out", str(out), "--pixels", "16"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {file} has no measured pixels")
