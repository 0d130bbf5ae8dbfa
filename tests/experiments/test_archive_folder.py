"""Which files of a folder are images of the sky, and which maps are whose: by documented names, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from mosaic_files import SIGMA, opened, tangent
from numpy.typing import NDArray

from experiments.galaxies.archive.folder import find_mosaics
from mvss.runtime.errors import MvssError

SIDE = 40


def noise(value: float = SIGMA) -> NDArray:
    return (value * np.random.default_rng(0).standard_normal((SIDE, SIDE))).astype(np.float32)


def write(path: Path, data: NDArray, **keys: object) -> None:
    fits.writeto(path, data, fits.Header({**tangent(2.0).to_header(), **keys}))


def test_plain_names_are_mosaics_where_none_is_named_as_one(tmp_path: Path) -> None:
    for name in ("b.fits", "a.fits.gz", "stars.fits"):
        write(tmp_path / name, noise())
    write(tmp_path / "a_wht.fits.gz", np.ones((SIDE, SIDE), np.float32))
    (tmp_path / "notes.txt").touch()
    pictures, _ = find_mosaics(tmp_path, tmp_path / "stars.fits")
    assert [picture.name for picture in pictures] == ["a.fits.gz", "b.fits"] and pictures[0].noise and not pictures[1].noise
    write(tmp_path / "c_drz.fits", noise())
    pictures, said = find_mosaics(tmp_path, tmp_path / "stars.fits")
    assert [picture.name for picture in pictures] == ["c_drz.fits"]
    assert said[1:] == [f"{name}: left out, as others are named as images" for name in ("a.fits.gz", "b.fits")]
    assert said[0] == "a_wht.fits.gz: no mosaic, but a weight file by its name"


WORDS = "rms err ivar seg flag wht weight var exp bkg mask dq psf segm noise model"
AUXILIARY = [*(f"_{word}" for word in WORDS.split()), ".weight", ".wht", ".rms", "-wht", "-invvar"]


@pytest.mark.parametrize("science", ["field_drz", "field"])
def test_maps_of_every_usual_name_are_no_mosaics(tmp_path: Path, science: str) -> None:
    """Each beside the image, and each alone: nothing is ever cut from it."""
    write(tmp_path / f"{science}.fits", noise())
    for word in AUXILIARY:
        for name in {f"field{word}.fits", f"{science}{word}.fits"}:
            map_ = tmp_path / name
            write(map_, np.ones((SIDE, SIDE), np.int32 if word in ("_flag", "_dq") else np.float32))
            if word != "_noise":
                pictures, said = find_mosaics(tmp_path)
                assert [picture.name for picture in pictures] == [f"{science}.fits"]
                assert any(name in line for line in said) or map_ in pictures[0].files
            else:
                with pytest.raises(MvssError, match=r"_noise.fits is a map of σ, variance or weights cannot be told"):
                    find_mosaics(tmp_path)
            map_.rename(tmp_path / "map.hidden")
            (tmp_path / "alone").mkdir(exist_ok=True)
            (tmp_path / "map.hidden").rename(tmp_path / "alone" / name)
            with pytest.raises(MvssError, match=r"no mosaics in .*; 1 files are none"):
                find_mosaics(tmp_path / "alone")
            (tmp_path / "alone" / name).unlink()


@pytest.mark.parametrize(
    ("image", "map_", "kind"),
    [
        ("acs_I_030mas_077_sci.fits", "acs_I_030mas_077_wht.fits.gz", "weight"),
        ("acs_I_100028+0214_unrot_sci_20.fits", "acs_I_100028+0214_unrot_wht_20.fits", "weight"),
        ("field_drz_sci.fits.gz", "field_drz_wht.fits.gz", "weight"),
        ("field_drz.fits", "field_drz_weight.fits", "weight"),
        ("stamp.fits", "stamp_wht.fits", "weight"),
        ("coadd.fits", "coadd.weight.fits", "weight"),
        ("hlsp_candels_gs_f814w_v1.0_drz.fits", "hlsp_candels_gs_f814w_v1.0_rms.fits", "sigma"),
        ("KiDS_DR4.0_180.0_-0.5_r_sci.fits", "KiDS_DR4.0_180.0_-0.5_r_wei.fits", "weight"),
        ("legacysurvey-0001m002-image-r.fits.fz", "legacysurvey-0001m002-invvar-r.fits.fz", "weight"),
        ("mosaic_f444w_A1_v0_8_sci.fits", "mosaic_f444w_A1_v0_8_err.fits", "sigma"),
        (
            "EUC_MER_BGSUB-MOSAIC-VIS_TILE102018211-ACBD03_20241018T142710.276838Z_00.00.fits",
            "EUC_MER_MOSAIC-VIS-RMS_TILE102018211-1C1A6_20241018T142927.697351Z_00.00.fits",
            "sigma",
        ),
        ("field_drz.fits", "field_drz_var.fits", "variance"),
    ],
)
def test_maps_are_found_by_their_names(tmp_path: Path, image: str, map_: str, kind: str) -> None:
    """As archives and programs name them; a noise half as large is a weight of four."""
    values = np.full((SIDE, SIDE), SIGMA, np.float32)
    values[:, SIDE // 2 :] /= 2
    pixels = noise()
    pixels[:, SIDE // 2 :] /= 2
    power = {"sigma": 1, "variance": 2, "weight": -2}[kind]
    for name, data in ((image, pixels), (map_, values**power)):
        if name.endswith(".fz"):
            header = tangent(2.0).to_header()
            fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, header)]).writeto(tmp_path / name)
        else:
            write(tmp_path / name, data)
    pictures, said = find_mosaics(tmp_path)
    assert [picture.name for picture in pictures] == [image] and not said
    assert pictures[0].noise and pictures[0].noise.kind == kind and pictures[0].noise.label == map_
    with opened(tmp_path / image) as mosaic:
        ivar = mosaic.stamp(0, 0, SIDE)[1]
        assert ivar[0, -1] / ivar[0, 0] == pytest.approx(4, rel=1e-3)
        assert ivar[0, 0] ** -0.5 == pytest.approx(SIGMA, rel=0.1)
        assert map_ in str(mosaic)
    (tmp_path / map_).unlink()
    write(tmp_path / map_.replace(".fz", ""), np.full((30, 30), 4.0))
    with pytest.raises(MvssError, match=re.escape("(40, 40), its weight map (30, 30)")):
        opened(tmp_path / image)


def test_two_maps_of_a_kind_and_two_mosaics_of_a_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a_sci.fits", noise())
    for name in ("a_wht.fits", "a_weight.fits"):
        write(tmp_path / name, np.ones((SIDE, SIDE), np.float32))
    with pytest.raises(MvssError, match=r"has two weight maps beside it, a_weight.fits, a_wht.fits"):
        find_mosaics(tmp_path)
    (tmp_path / "a_weight.fits").unlink()
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "a_sci.fits", noise())
    with pytest.raises(MvssError, match=r"have the same name, a_sci.fits"):
        find_mosaics(tmp_path)
    with pytest.raises(MvssError, match="there is no folder"):
        find_mosaics(tmp_path / "none")


def test_what_a_header_says_counts_before_the_name(tmp_path: Path) -> None:
    """SExtractor calls every map WEIGHT; a σ map that its header calls variance is refused."""
    write(tmp_path / "a_sci.fits", noise(), BUNIT="Jy")
    for cards, kind in (
        ({"HIERARCH WEIGHT_TYPE": "MAP_RMS"}, "sigma"),
        ({"WHT_TYPE": "MAP_VARIANCE"}, "variance"),
        ({"HDUCLAS3": "MSE"}, "variance"),
        ({"HDUCLAS3": "INVMSE"}, "weight"),
        ({"BUNIT": "Jy^2"}, "variance"),
        ({"BUNIT": "Jy"}, "weight"),  # copied from the image
        ({}, "weight"),
    ):
        (tmp_path / "a_weight.fits").unlink(missing_ok=True)
        write(tmp_path / "a_weight.fits", np.full((SIDE, SIDE), 0.1, np.float32), **cards)
        (picture,), _ = find_mosaics(tmp_path)
        assert picture.noise and picture.noise.kind == kind
    (tmp_path / "a_weight.fits").unlink()
    write(tmp_path / "a_rms.fits", np.ones((SIDE, SIDE), np.float32), WHTTYPE="MAP_VARIANCE")
    with pytest.raises(MvssError, match=r"the map a_rms.fits is named like one of sigma, but its header says variance"):
        find_mosaics(tmp_path)
    (tmp_path / "a_rms.fits").unlink()
    write(tmp_path / "a_weight.fits", np.ones((SIDE, SIDE), np.float32), WHTTYPE="MAP_VARIANCE", HDUCLAS3="RMSE")
    with pytest.raises(MvssError, match=r"says two things of itself"):
        find_mosaics(tmp_path)


@pytest.mark.parametrize(
    ("keys", "kind", "said"),
    [
        ({"IMTYPE": "invvar"}, np.float32, "IMTYPE = invvar"),
        ({"PRODTYPE": "dqmask"}, np.int16, "PRODTYPE = dqmask"),
        ({"EXTNAME": "RMS"}, np.float32, "RMS"),
        ({"BSOFTEN": 3.0}, np.float32, "holds asinh of fluxes"),
        ({"BUNIT": "mag/arcsec^2"}, np.float32, "is in magnitudes"),
        ({}, np.int32, r"whole numbers of no known unit \(BITPIX 32, BUNIT missing\)"),
    ],
)
def test_files_that_say_that_they_are_no_image_are_none(tmp_path: Path, keys: dict, kind: type, said: str) -> None:
    write(tmp_path / "a.fits", np.ones((SIDE, SIDE), kind), **keys)
    with pytest.raises(MvssError, match=said):
        find_mosaics(tmp_path)


CARDS = ("IMTYPE", "IMAGETYP", "PRODTYPE", "PRODCATG", "HDUCLAS2", "OBSTYPE", "DATATYPE", "MAPTYPE")


@pytest.mark.parametrize("card", CARDS)
def test_only_words_for_science_are_images(tmp_path: Path, card: str) -> None:
    """Other words are refused, whatever the name of the file says."""
    path = tmp_path / "a_sci.fits"
    for word in ("image", "SCIENCE", "object", "SCIENCE.IMAGE", "Light Frame", "DATA"):
        path.unlink(missing_ok=True)
        write(path, noise(), **{card: word})
        assert len(find_mosaics(tmp_path)[0]) == 1
    for word in ("badpix", "flat", "illumination", "SCIENCE.SPECTRUM", "NOISE", "2"):
        path.unlink()
        write(path, noise(), **{card: word})
        with pytest.raises(MvssError, match=rf"not known as an image of the sky \({card} = {word}\)"):
            find_mosaics(tmp_path)
