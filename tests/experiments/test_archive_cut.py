"""What is cut of mosaics: the pixels that it should be, from parts of the sky that do not meet."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS
from mosaic_files import EXPOSURE, PEAK, SIGMA, SIZE, N, lattice, tangent, write_mosaic, write_survey
from numpy.typing import NDArray

from experiments.galaxies.archive.cut import build, main
from experiments.galaxies.archive.parts import ASIDE, open_archive
from experiments.galaxies.archive.plan import Plan
from experiments.galaxies.data.stamps import NOISE
from mvss.runtime.errors import MvssError


def test_galaxies_are_cut_to_the_pixel_and_know_where_they_are(archive: SimpleNamespace) -> None:
    with h5py.File(archive.out) as file:
        galaxies, factor = file["galaxies"], file.attrs["factor"]
        assert file.attrs["command"] == "the command" and file.attrs["pixel_scale"] == pytest.approx(0.05)
        names = [name.decode() for name in file["mosaics"][:]]
        assert galaxies["flux"].chunks == (256, N, N) and galaxies["flux"].compression == "gzip"
        number = galaxies["number"][:]
        assert len(number) == len(set(number)) == len(archive.sky) - 3
        assert np.array_equal(galaxies["catalogue/zoo_votes"][:], number)
        for i, row in enumerate(number):
            image = fits.getdata(archive.folder / names[galaxies["mosaic"][i]])
            top, left = galaxies["row"][i], galaxies["column"][i]
            assert np.allclose(galaxies["flux"][i] / factor, image[top : top + N, left : left + N], rtol=1e-6)
            # The object's bright pixel is nearest to the centre, where both the catalogue and the stamp's coordinates put it.
            peak = np.array(np.unravel_index(galaxies["flux"][i].argmax(), (N, N)))
            assert np.abs(peak - (N - 1) / 2).max() <= 0.5
            assert galaxies["flux"][i].max() / factor == pytest.approx(PEAK + row % 20, rel=1e-5)
            wcs = WCS(fits.Header.fromstring(galaxies["wcs"][i].decode()))
            assert np.allclose(wcs.all_world2pix(archive.sky[row : row + 1], 0)[0, ::-1], peak, atol=1e-3)
            centre = wcs.all_pix2world([[(N - 1) / 2, (N - 1) / 2]], 0)[0]
            assert np.allclose(centre, [galaxies["ra"][i], galaxies["dec"][i]], atol=1e-9)


def test_parts_and_views_share_no_sky(archive: SimpleNamespace) -> None:
    """Corners of stamps on the sky, from the coordinates of each alone."""
    corners = np.array([[-0.5, -0.5], [N - 0.5, -0.5], [-0.5, N - 0.5], [N - 0.5, N - 0.5]])
    dec: dict[tuple[str, int], list[float]] = {}
    centres: dict[str, NDArray] = {}
    with h5py.File(archive.out) as file:
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
    assert len(centres["randoms"]) == 2 * (len(archive.sky) - 3) and len(centres["galaxies"]) > 15


def test_random_fields_hold_what_is_there(archive: SimpleNamespace) -> None:
    """Those of the catalogue, too: neighbours of other galaxies look like them."""
    with h5py.File(archive.out) as file:
        brightest = file["randoms/flux"][:].max((1, 2)) / file.attrs["factor"]
    assert 0.05 < (brightest > 0.9 * PEAK).mean() < 0.5


def test_random_fields_do_not_show_what_a_cutout_was_made_for(tmp_path: Path) -> None:
    """Cut-outs around each galaxy: fields lie beside it where there is room, and where there is none, there are no fields."""
    catalogue, sky = write_survey(tmp_path / "mosaics")
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


def test_what_is_left_out_is_counted(archive: SimpleNamespace) -> None:
    with h5py.File(archive.out) as file:
        cut = len(file["galaxies/number"])
    assert f"{cut} galaxies" in archive.said and "1 without a position, 2 not wholly on a mosaic" in archive.said
    parts = re.search(r"\((\d+) train, (\d+) test, (\d+) aside\)", archive.said)
    assert cut + 3 == len(archive.sky) and parts and sum(map(int, parts.groups())) == cut and min(map(int, parts.groups())) > 0


def test_noise_is_that_of_sky_and_photons(archive: SimpleNamespace) -> None:
    stamps = open_archive(archive.out, "train", galaxies=True)
    assert stamps.y.dtype == torch.float64 and stamps.good.all()
    with h5py.File(archive.out) as file:
        factor = file.attrs["factor"]
    assert factor * SIGMA == pytest.approx(NOISE, rel=0.02)  # measured on 150,000 pixels
    expected = (NOISE**2 + factor**2 * (stamps.y / factor).clamp_min(0) / EXPOSURE).sqrt()
    assert torch.allclose(stamps.sigma, expected, rtol=0.02)
    assert stamps.sigma.median() == pytest.approx(NOISE, rel=0.01)


def test_opening_gives_what_is_asked_for_from_all_mosaics(archive: SimpleNamespace) -> None:
    every = open_archive(archive.out, "train", galaxies=False)
    some = open_archive(archive.out, "train", galaxies=False, count=9)
    assert len(some) == 9 and set(some.catalogue["mosaic"].tolist()) == {0, 1}
    rows = [(every.y == y).flatten(1).all(1).nonzero().item() for y in some.y]
    assert torch.equal(some.catalogue["ra"], every.catalogue["ra"][rows])
    assert len(open_archive(archive.out, "train", galaxies=False, count=999)) == len(every)
    assert every.wcs[rows[3]] == some.wcs[3] and "CRVAL1" in some.wcs[3]
    with pytest.raises(MvssError, match="train, test, all"):
        open_archive(archive.out, "fresh", galaxies=True)


def test_random_fields_come_from_mosaics_without_a_galaxy_too(archive: SimpleNamespace, tmp_path: Path) -> None:
    """Beside the survey lies a mosaic of the same size, which shows nothing that the catalogue knows."""
    folder = tmp_path / "mosaics"
    shutil.copytree(archive.folder, folder)
    write_mosaic(folder / "blank_sci.fits", tangent(1.99), np.zeros((0, 2), dtype=int))
    build(folder, archive.catalogue, tmp_path / "a.h5", N, 2.0)
    with h5py.File(tmp_path / "a.h5") as file:
        mosaic = [name.decode() for name in file["mosaics"][:]].index("blank_sci.fits")
        assert not (file["galaxies/mosaic"][:] == mosaic).any()
        from_it = (file["randoms/mosaic"][:] == mosaic).mean()
        assert len(file["randoms/mosaic"]) == 2 * (len(archive.sky) - 3) and 0.15 < from_it < 0.6


def test_bad_pixels_are_masked(tmp_path: Path) -> None:
    folder = tmp_path / "mosaics"
    folder.mkdir()
    places, weights = np.array([[50, 50], [50, 150], [150, 50], [150, 150], [240, 240]]), np.full((SIZE, SIZE), 7.0)
    weights[53, 54] = 0
    weights[56, 54] = np.nan
    weights[230:290, 230:290] = 0
    weights[:, 100:200] = 28.0  # four times the exposure: half the noise
    path = folder / "one_sci.fits"
    image = write_mosaic(path, tangent(2.0), places, weights=weights, SATURATE=20.0)
    image[:, 100:200] = np.where(image[:, 100:200] < 1, image[:, 100:200] / 2, image[:, 100:200])
    image[52, 148], image[49, 151], image[148, 46], image[147, 46] = 30.0, np.inf, np.nan, -np.inf
    fits.update(path, image.astype(np.float32), fits.getheader(path))
    sky = tangent(2.0).all_pix2world(places[:, ::-1], 0)
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
    places = lattice(20, 0)
    sky = tangent(2.0).all_pix2world(places[:, ::-1], 0)
    image = write_mosaic(tmp_path / "a_sci.fits", tangent(2.0), places)
    image[:, :150] = np.nan
    fits.update(tmp_path / "a_sci.fits", image.astype(np.float32), fits.getheader(tmp_path / "a_sci.fits"))
    write_mosaic(tmp_path / "b_sci.fits", tangent(2.0), places, 1)
    Table({"ra": sky[:, 0], "dec": sky[:, 1]}).write(tmp_path / "table.csv", format="ascii.csv")
    build(tmp_path, tmp_path / "table.csv", tmp_path / "out.h5", N, 0.0)
    with h5py.File(tmp_path / "out.h5") as file:
        number, mosaic = file["galaxies/number"][:], file["galaxies/mosaic"][:]
    assert len(set(number)) == len(number)
    assert np.array_equal(mosaic, (places[number, 1] < 150 - 2).astype(int))


def test_an_archive_of_binned_pixels(tmp_path: Path) -> None:
    """By the command; other squares are another archive."""
    catalogue, _ = write_survey(tmp_path / "mosaics")
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
    places = lattice(20, 0)
    light = sum(3 * np.exp(-0.5 * ((rows - r) ** 2 + (columns - c) ** 2) / 25) for r, c in places)
    image = write_mosaic(tmp_path / "a_sci.fits", tangent(2.0), places[:0]) + light
    fits.writeto(tmp_path / "a_sci.fits", image.astype(np.float32), tangent(2.0).to_header(), overwrite=True)
    command = [str(tmp_path), "--out", str(tmp_path / "galaxies.h5"), "--randoms", "0", "--pixels"]
    said = {}
    for pixels, binning in (("24", "1"), ("48", "1"), ("24", "2")):
        assert main([*command, pixels, "--binning", binning]) == 0
        said[pixels, binning] = capsys.readouterr().err
    assert "a binning of 2 (BINNING=2), or larger stamps" in said["24", "1"]
    assert "stamps" not in said["48", "1"] and "stamps" not in said["24", "2"]
