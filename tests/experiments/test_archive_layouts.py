"""Layouts of files with several parts: HST, JWST, LSST, astropy; what is known, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty, VarianceUncertainty
from mosaic_files import EXPOSURE, SIGMA, opened, tangent
from numpy.typing import NDArray

from experiments.galaxies.archive.folder import find_mosaics
from experiments.galaxies.archive.maps import check_against
from experiments.galaxies.archive.mosaics import Mosaic
from mvss.runtime.errors import MvssError

SIDE = 64
HALF = np.where(np.arange(SIDE) < SIDE // 2, SIGMA, SIGMA / 2) * np.ones((SIDE, 1))
"""σ: half as large on the right."""


def sky(seed: int = 0) -> NDArray:
    return (HALF * np.random.default_rng(seed).standard_normal((SIDE, SIDE))).astype(np.float32)


def write(path: Path, parts: list[tuple[str, int, NDArray]], primary: dict | None = None, **cards: object) -> None:
    """Parts by name, version and pixels, all with coordinates; cards of all, and of the first, empty part."""
    whole = [fits.PrimaryHDU(header=fits.Header(primary or {}))]
    for name, version, data in parts:
        header = fits.Header({**tangent(2.0 + 0.01 * version).to_header(), **cards})
        whole.append(fits.ImageHDU(np.asarray(data), header, name=name, ver=version))
    fits.HDUList(whole).writeto(path, overwrite=True)


def check(mosaic: Mosaic, bad: tuple[int, int] | None = None) -> None:
    """That σ is known where it is, and the bad pixel alone is masked."""
    _, ivar, mask = mosaic.stamp(0, 0, SIDE)
    assert np.argwhere(mask).tolist() == ([list(bad)] if bad else [])
    assert np.median(ivar[:, -5:]) / np.median(ivar[:, :5]) == pytest.approx(4, rel=0.05)
    assert np.median(ivar[:, :5]) ** -0.5 == pytest.approx(SIGMA, rel=0.1)


def flags(value: int) -> NDArray:
    """One bit more than a flag that is not bad."""
    found = np.zeros((SIDE, SIDE), np.int32)
    found[7, 9] = value
    return found


def test_drizzled_images_of_hst_have_weights(tmp_path: Path) -> None:
    parts = [("SCI", 1, sky()), ("WHT", 1, (HALF**-2.0).astype(np.float32)), ("CTX", 1, flags(1))]
    write(tmp_path / "j_drc.fits", parts, {"TELESCOP": "HST", "EXPTIME": EXPOSURE}, BUNIT="ELECTRONS/S")
    with opened(tmp_path / "j_drc.fits") as mosaic:
        check(mosaic)
        assert mosaic.electrons == EXPOSURE and not mosaic.dark
        assert str(mosaic) == (
            "j_drc.fits: image SCI,1 (64 × 64 pixels of 0.05 arcsec), unit ELECTRONS/S, noise WHT (inverse variance up to a "
            "factor), mask none, what is no number is no data, frame ICRS; not read: CTX"
        )


def test_every_chip_of_an_exposure_is_an_image(tmp_path: Path) -> None:
    parts = [
        part
        for i in (1, 2)
        for part in (("SCI", i, sky(i)), ("ERR", i, HALF.astype(np.float32)), ("DQ", i, flags(64).astype(np.int16)))
    ]
    write(tmp_path / "j_flc.fits", parts, {"TELESCOP": "HST", "EXPTIME": EXPOSURE}, BUNIT="ELECTRONS")
    pictures, _ = find_mosaics(tmp_path)
    assert [picture.name for picture in pictures] == ["j_flc.fits[SCI,1]", "j_flc.fits[SCI,2]"]
    for i, picture in enumerate(pictures, 1):
        with Mosaic(picture) as mosaic:
            check(mosaic, (7, 9))
            assert np.array_equal(mosaic.stamp(10, 10, 8)[0], sky(i)[10:18, 10:18].astype(float))
            assert mosaic.sky(np.array([[31.5, 31.5]]))[0, 1] == pytest.approx(2 + 0.01 * i, abs=0.01)
    write(tmp_path / "j_flc.fits", [(name, 1, data) for name, _, data in parts])
    with pytest.raises(MvssError, match="2 images of one EXTVER: which maps belong to which cannot be told"):
        find_mosaics(tmp_path)


def test_webb_has_errors_with_photons_and_one_bit_that_counts(tmp_path: Path) -> None:
    quality = flags(1)
    quality[3, 3] = 4  # a jump, which was mended
    parts = [
        ("SCI", 1, sky()),
        ("ERR", 1, HALF.astype(np.float32)),
        ("DQ", 1, quality),
        ("VAR_RNOISE", 1, HALF),
        ("WHT", 1, HALF),
    ]
    write(tmp_path / "jw_i2d.fits", parts, {"TELESCOP": "JWST"}, BUNIT="MJy/sr")
    with opened(tmp_path / "jw_i2d.fits") as mosaic:
        check(mosaic, (7, 9))
        assert not mosaic.dark and "ERR (σ with the photons of objects), mask DQ (DO_NOT_USE)" in str(mosaic)
        assert str(mosaic).endswith("not read: VAR_RNOISE, WHT")


def test_photons_that_a_map_holds_are_not_added_again(tmp_path: Path) -> None:
    image = sky()
    image[20, 20] = 1000 * SIGMA
    for name, adds in (("ERR", False), ("RMS", True)):
        write(tmp_path / "a_sci.fits", [("SCI", 1, image), (name, 1, HALF)], BUNIT="ELECTRONS")
        with opened(tmp_path / "a_sci.fits") as mosaic:
            ivar = mosaic.stamp(0, 0, SIDE)[1]
            assert (ivar[20, 20] < 0.5 * ivar[21, 21]) == adds


def test_rubin_has_planes_and_variance(tmp_path: Path) -> None:
    """Pixels of a detected object are good ones; the planes' bits are those of the header."""
    planes = {"MP_BAD": 0, "MP_SAT": 1, "MP_DETECTED": 5, "MP_NO_DATA": 8}
    mask = flags(1 << 8)
    mask[30:40, 30:40] = 1 << 5
    parts = [("IMAGE", 1, sky()), ("MASK", 1, mask), ("VARIANCE", 1, (HALF**2).astype(np.float32))]
    path = tmp_path / "deepCoadd_i_4849_1_2.fits"
    write(path, parts, BUNIT="nJy", **planes)
    with opened(path) as mosaic:
        check(mosaic, (7, 9))
        said = str(mosaic)
        assert "VARIANCE (variance with the photons of objects), mask MASK (BAD, SAT, NO_DATA)" in said
    write(path, parts, BUNIT="nJy")
    with pytest.raises(MvssError, match=r"has no cards MP_\*"):
        find_mosaics(tmp_path)
    write(path, parts, BUNIT="nJy", **planes)
    with fits.open(path, mode="update") as whole:  # the names of older files
        for hdu in whole[1:]:
            hdu.header["EXTTYPE"] = hdu.header.pop("EXTNAME")
    with opened(path) as mosaic:
        check(mosaic, (7, 9))


@pytest.mark.parametrize(("kind", "power"), [(StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)])
def test_files_of_astropy(tmp_path: Path, kind: type, power: int) -> None:
    image = CCDData(sky(), unit="adu", uncertainty=kind(HALF**power), mask=flags(1) > 0, wcs=tangent(2.0))
    image.write(tmp_path / "a.fits")
    with opened(tmp_path / "a.fits") as mosaic:
        check(mosaic, (7, 9))


def test_unknown_layouts_say_what_was_seen(tmp_path: Path) -> None:
    write(tmp_path / "a.fits", [("G", 1, sky()), ("R", 1, sky())])
    with pytest.raises(MvssError, match=r"not known here \(1 G \(64 × 64\); 2 R \(64 × 64\)\), for .*: name the parts"):
        find_mosaics(tmp_path)
    write(tmp_path / "a.fits", [("SCI", 1, sky()), ("UNCERT", 1, HALF)])
    with pytest.raises(MvssError, match=r"whether UNCERT is a map of σ, variance or weights cannot be told"):
        find_mosaics(tmp_path)
    write(tmp_path / "a.fits", [("SCI", 1, np.zeros((3, 8, 8), np.float32))])
    with pytest.raises(MvssError, match=r"no mosaics.*no part with an image of two axes"):
        find_mosaics(tmp_path)


@pytest.mark.parametrize("image", ["SCI", "IMAGE", ""])
@pytest.mark.parametrize("name", ["MSK", "NOISE", "BADPIX", "COVERAGE", ""])
def test_parts_of_no_known_kind_are_refused_by_name(tmp_path: Path, image: str, name: str) -> None:
    """Whatever is beside an image is known, or it could be the map that tells which pixels are bad."""
    write(tmp_path / "a_sci.fits", [(image, 1, sky()), (name, 1, np.ones((SIDE, SIDE), np.float32))])
    seen = rf"not known here \(1 {image or 'without a name'} \(64 × 64\); 2 {name or 'without a name'} \(64 × 64\)\)"
    with pytest.raises(MvssError, match=seen):
        find_mosaics(tmp_path)


def test_one_part_is_an_image_where_its_name_or_that_of_the_file_says_so(tmp_path: Path) -> None:
    for name in ("BADPIX", "J8PU01"):
        write(tmp_path / "a.fits", [(name, 1, sky())])
        with pytest.raises(MvssError, match=rf"not known here \(1 {name} "):
            find_mosaics(tmp_path)
    (tmp_path / "a.fits").rename(tmp_path / "a_sci.fits")
    assert len(find_mosaics(tmp_path)[0]) == 1
    cube = np.zeros((3, SIDE, SIDE), np.float32)
    for name, known in (("CON", True), ("MASKS", False)):
        write(tmp_path / "a_sci.fits", [("SCI", 1, sky()), (name, 1, cube)])
        if known:
            assert len(find_mosaics(tmp_path)[0]) == 1
        else:
            with pytest.raises(MvssError, match=r"not known here, 2 MASKS \(64 × 64 × 3\), beside its image"):
                find_mosaics(tmp_path)


def _survey(path: Path, name: str, power: float, factor: float = 1.0) -> Mosaic:
    rng = np.random.default_rng(1)
    sigma = np.geomspace(0.5, 2, 256) * SIGMA * np.ones((256, 1))
    image, values = (sigma * rng.standard_normal((256, 256))).astype(np.float32), (factor * sigma**power).astype(np.float32)
    write(path, [("SCI", 1, image), (name, 1, values)])
    return opened(path)


@pytest.mark.parametrize(
    ("name", "power", "said"),
    [
        ("WHT", 1, "looks like a map of σ or variance: where its values are larger, the image is noisier"),
        ("WHT", 2, "looks like a map of σ or variance"),
        ("ERR", -2, "looks like a weight map: where its values are larger, the image is less noisy"),
        ("RMS", 2, "looks like a map of variance: taken for one, it is the noise that the image has"),
        ("VARIANCE", 1, "looks like a map of σ: taken for one"),
        ("WHT", -2, ""),
        ("ERR", 1, ""),
        ("VARIANCE", 2, ""),
    ],
)
def test_maps_that_the_noise_does_not_follow_are_refused(tmp_path: Path, name: str, power: float, said: str) -> None:
    with _survey(tmp_path / "a_sci.fits", name, power) as mosaic:
        if said:
            with pytest.raises(MvssError, match=rf"a_sci.fits has a map of noise, {name} .* that {said}"):
                _ = mosaic.usual_noise
        else:
            assert mosaic.usual_noise == pytest.approx(SIGMA, rel=0.1)


def test_maps_that_vary_little_or_follow_roughly_are_taken() -> None:
    rng = np.random.default_rng(0)
    noise = np.exp(0.05 * rng.standard_normal(50))
    check_against(noise, np.full(50, 3.0), "weight")
    check_against(noise, 1 + 0.02 * rng.random(50), "weight")
    weight = np.geomspace(1, 4, 50)
    check_against(noise * weight**-0.2, weight, "weight")  # faint objects drown a part of what a map says
    check_against(noise, weight, "weight")


def test_what_has_no_data_in_a_map_is_masked(tmp_path: Path) -> None:
    """Maps of σ have huge numbers there."""
    sigma = HALF.astype(np.float32)
    sigma[7, 9] = 1e20
    write(tmp_path / "a_sci.fits", [("SCI", 1, sky()), ("RMS", 1, sigma)])
    with opened(tmp_path / "a_sci.fits") as mosaic:
        check(mosaic, (7, 9))
        assert mosaic.flux(0, 0, SIDE, SIDE)[1].sum() == 1
