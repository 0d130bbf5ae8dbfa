"""Arrays from files of every kind, and results to files of every ending, read back."""

from __future__ import annotations

import gzip
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from mvss.io.arrays import read_array
from mvss.io.optional import OPTIONAL
from mvss.io.results import check_ending, write_arrays
from mvss.runtime.errors import MvssError

X = np.random.default_rng(0).normal(size=(5, 2, 3))
NAMED = {"both/a/draws": X, "both/b/draws": X[:, 0], "both/b/sd": np.abs(X[0])}


@pytest.mark.parametrize("ending", [".npz", ".h5", ".zarr", ".fits"])
def test_results_are_read_back_as_they_were_written(tmp_path: Path, ending: str) -> None:
    if ending == ".zarr":
        pytest.importorskip("zarr")
    path = tmp_path / "new" / f"out{ending}"
    write_arrays(path, NAMED)
    write_arrays(path, NAMED)  # in place of the first
    for name, values in NAMED.items():
        found = read_array(f"out{ending}:{name}", path.parent)
        assert found.dtype == np.float64 and found.dtype.isnative
        np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(read_array(f"out{ending}", path.parent, "both/b/sd"), NAMED["both/b/sd"])
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    with pytest.raises(MvssError, match=r"has no 'nothing': allowed: |has no 'NOTHING': allowed: "):
        read_array(f"out{ending}:nothing", path.parent)


def test_what_fails_midway_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    write_arrays(tmp_path / "out.fits", NAMED)
    before = (tmp_path / "out.fits").read_bytes()
    with pytest.raises(MvssError, match=r"write \.npz or \.h5"):
        write_arrays(tmp_path / "out.fits", {"a": X, "A": X})
    assert (tmp_path / "out.fits").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_zarr_that_fails_midway_leaves_the_one_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr = pytest.importorskip("zarr")
    write_arrays(tmp_path / "out.zarr", NAMED)
    zarr.save_array(tmp_path / "one.zarr", X)
    np.testing.assert_array_equal(read_array("one.zarr", tmp_path), X)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zarr.Group, "create_array", full)
    with pytest.raises(MvssError, match=r"cannot write .*out\.zarr: No space left"):
        write_arrays(tmp_path / "out.zarr", NAMED)
    assert {each.name for each in tmp_path.iterdir()} == {"out.zarr", "one.zarr"}
    np.testing.assert_array_equal(read_array("out.zarr:both/a/draws", tmp_path), X)


@pytest.mark.parametrize("ending", [".npz", ".h5", ".zarr", ".fits"])
def test_a_disk_that_is_full_is_told_in_one_line(tmp_path: Path, ending: str) -> None:
    if ending == ".zarr":
        pytest.importorskip("zarr")
    path = tmp_path / f"out{ending}"
    write_arrays(path, NAMED)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
        with pytest.raises(MvssError, match=rf"cannot write .*out\{ending}: File too large") as caught:
            write_arrays(path, {"large": np.random.default_rng(0).normal(size=2**17)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(read_array(f"out{ending}:both/a/draws", tmp_path), X)


def test_ctrl_c_at_the_last_moment_leaves_a_zarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zarr")
    write_arrays(tmp_path / "out.zarr", NAMED)
    rename = os.rename

    def stopped(one: Path, other: Path) -> None:
        if one.suffix == ".tmp":
            raise KeyboardInterrupt
        rename(one, other)

    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_arrays(tmp_path / "out.zarr", {"other": X})
    assert [each.name for each in tmp_path.iterdir()] == ["out.zarr"]
    np.testing.assert_array_equal(read_array("out.zarr:both/a/draws", tmp_path), X)


def test_endings_that_are_not_written_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MvssError, match=r"out\.csv: results are written as \.npz, \.h5, \.zarr, \.fits"):
        check_ending("out.csv")
    (tmp_path / "photographs.zarr").mkdir()
    with pytest.raises(MvssError, match="is a folder: name a file"):
        check_ending(tmp_path / "photographs.zarr")
    with pytest.raises(MvssError, match="is a folder: name a file"):
        (tmp_path / "out.npz").mkdir()
        check_ending(tmp_path / "out.npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(MvssError, match="file takes no files"):
        check_ending(tmp_path / "file" / "deeper" / "out.npz")
    for module, ending in (("h5py", ".h5"), ("zarr", ".zarr"), ("astropy.io.fits", ".fits")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MvssError, match=rf"{ending} f\w+ need {OPTIONAL[module]}: pip install {OPTIONAL[module]}"):
            check_ending(f"out{ending}")
    check_ending("out.npz")


@pytest.mark.parametrize("names", ["", "u, v\n"])
def test_rows_of_a_csv_with_and_without_names(tmp_path: Path, names: str) -> None:
    (tmp_path / "a.csv").write_text(f"\ufeff{names}1, 2.5\n-3e-1,4\n", encoding="utf-8")
    assert read_array("a.csv", tmp_path).tolist() == [[1.0, 2.5], [-0.3, 4.0]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no rows"),
        ("u,v\n", "holds no rows"),
        ("1,2\n3\n", "a.csv:2: has 1 columns, where the first line has 2"),
        ("1,2\n3,\n", "a.csv:2: column 2 is empty"),
        ("u,v\n\n1,2\n3,x\n", "a.csv:4: column 2 holds 'x', no number"),
        ("1.0,,3.0\n1,2,3\n", "a.csv:1: column 2 is empty"),  # no names: a row of its own
        ("1.0,2.O,3\n1,2,3\n", "a.csv:1: column 2 holds '2.O', no number"),
        ("u,2,w\n1,2,3\n", "a.csv:1: column 1 holds 'u', no number"),
        (",u,v\n0,1,2\n", "a.csv:1: the first cell is empty: write a table of pandas with index=False"),
        (",0,1\n0,1,2\n", "a.csv:1: the first cell is empty"),
        ("1;2\n3;4\n", "a.csv:2: column 1 holds '3;4', no number: commas stand between numbers"),
    ],
)
def test_a_csv_with_holes_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(MvssError) as caught:
        read_array("a.csv", tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.fits.gz", "A.FITS.GZ", "a.fit.gz", "a.fit"])
def test_packed_fits_are_read(tmp_path: Path, name: str) -> None:
    from astropy.io import fits

    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(X, name="SCI"), fits.ImageHDU(X[0], name="ERR")]).writeto(
        tmp_path / "x.fits"
    )
    content = (tmp_path / "x.fits").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    np.testing.assert_array_equal(read_array(f"{name}:SCI", tmp_path), X)
    np.testing.assert_array_equal(read_array(f"{name}:err", tmp_path), X[0])


def test_a_folder_of_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    from PIL import Image

    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name, values in (("b.png", grey), ("a.png", 2 * grey)):
        Image.fromarray(values).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".b.png").write_text("what some systems keep beside an image")
    found = read_array(str(tmp_path), Path())
    assert found.shape == (2, 1, 3, 4)
    np.testing.assert_array_equal(found[:, 0], [2 * grey, grey])
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(MvssError, match=r"c\.png has shape \(3, 3, 4\), and a\.png \(1, 3, 4\)"):
        read_array(str(tmp_path), Path())
    Image.fromarray(np.zeros((3, 4, 4), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(MvssError, match="a RGBA image is not read: save it as grey or RGB"):
        read_array(str(tmp_path), Path())
    (tmp_path / "c.png").write_bytes(b"none")
    with pytest.raises(MvssError, match=r"cannot read .*c\.png as an image"):
        read_array(str(tmp_path), Path())


def test_images_of_two_kinds_are_not_of_one_scale(tmp_path: Path) -> None:
    from PIL import Image

    grey = Image.fromarray(np.full((3, 4), 200, np.uint8))
    grey.save(tmp_path / "a.png")
    kinds = {"I;16": Image.fromarray(np.full((3, 4), 200, np.uint16)), "1": grey.convert("1")}
    for kind, image in kinds.items():
        image.save(tmp_path / "b.png")
        with pytest.raises(MvssError, match=rf"b\.png is of kind {kind}, and a\.png of L: save them as one kind"):
            read_array(str(tmp_path), Path())


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png", "a.webp"])
def test_a_file_of_several_images_is_refused(tmp_path: Path, name: str) -> None:
    from PIL import Image

    first, second = (Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    with pytest.raises(MvssError, match=rf"{name} holds 2 images: save each to a file of its own"):
        read_array(str(tmp_path), Path())


def test_the_kinds_of_images_that_an_experiment_reads_are_those_of_the_library(tmp_path: Path) -> None:
    from PIL import Image

    from experiments.mnist_grass.textures import texture_named
    from mvss.io.images import ENDINGS

    rng = np.random.default_rng(0)
    for number, ending in enumerate(ENDINGS):
        Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).save(tmp_path / f"{number}{ending.upper()}")
    assert len(ENDINGS) >= 4 and texture_named(str(tmp_path)).fingerprint
    for path in tmp_path.glob("*.[GW]*"):  # their numbers are of a palette or in three channels
        path.unlink()
    assert read_array(str(tmp_path), Path()).shape == (len(ENDINGS) - 2, 1, 4, 4)


def test_the_only_array_of_a_file_needs_no_name(tmp_path: Path) -> None:
    import h5py
    from astropy.io import fits

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/down"] = X
    fits.writeto(tmp_path / "a.fits", X.astype(">f4"))
    np.testing.assert_array_equal(read_array("a.h5", tmp_path), X)
    np.testing.assert_array_equal(read_array("a.h5:/deep/down", tmp_path), X)
    np.testing.assert_array_equal(read_array("a.fits", tmp_path), X.astype(np.float32))
    np.testing.assert_array_equal(read_array("a.fits:0", tmp_path), X.astype(np.float32))
    np.save(tmp_path / "a.csv:b.npy", X)  # a colon in a name
    np.testing.assert_array_equal(read_array("a.csv:b.npy", tmp_path), X)
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(MvssError, match=r"a\.npy holds one array: leave :x out"):
        read_array("a.npy:x", tmp_path)


def test_extensions_of_one_name_are_told_apart_by_their_versions(tmp_path: Path) -> None:
    """As those of Hubble's two chips; by place, where versions are the same."""
    from astropy.io import fits

    def write(*names: tuple[str, int]) -> None:
        units = [fits.ImageHDU(np.full(2, place), name=name, ver=ver) for place, (name, ver) in enumerate(names, start=1)]
        fits.HDUList([fits.PrimaryHDU(), *units]).writeto(tmp_path / "a.fits", overwrite=True)

    def read(part: str) -> int:
        return int(read_array(f"a.fits:{part}", tmp_path)[0])

    write(("SCI", 1), ("ERR", 1), ("SCI", 2))
    assert (read("SCI,1"), read("sci,2"), read("ERR"), read("1"), read("3")) == (1, 3, 2, 1, 3)
    with pytest.raises(MvssError, match=r"several arrays: write a\.fits:KEY, with one of SCI,1, ERR, SCI,2"):
        read("SCI")
    write(("SCI", 1), ("SCI", 2))
    for prefer in ("", "SCI"):
        with pytest.raises(MvssError, match=r"a\.fits holds several arrays: write a\.fits:KEY, with one of SCI,1, SCI,2"):
            read_array("a.fits", tmp_path, prefer)
    write(("SCI", 1), ("SCI", 1), ("SCI", 2))
    with pytest.raises(MvssError, match=r"with one of 1, 2, SCI,2"):
        read_array("a.fits", tmp_path)
    assert (read("1"), read("2"), read("SCI,2")) == (1, 2, 3)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.zarr", "a.fits", "a.csv"])
def test_what_is_damaged_or_no_number_is_told_by_name(tmp_path: Path, name: str) -> None:
    if name == "a.zarr":
        pytest.importorskip("zarr")
    (tmp_path / name).write_bytes(b"\x80nothing of the kind" * 9)
    with pytest.raises(MvssError, match=rf"cannot read .*{name}|{name} holds no"):
        read_array(name, tmp_path)
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    with pytest.raises(MvssError, match="no real numbers"):
        read_array("text.npy", tmp_path)
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(MvssError, match=r"a\.txt: an array is read from \.npy, "):
        read_array("a.txt", tmp_path)


def test_an_array_may_have_any_name(tmp_path: Path) -> None:
    """`numpy.savez` calls its own first argument so."""
    path = tmp_path / "drawn.npz"
    write_arrays(path, {"file": np.arange(3.0), "x": np.ones((2, 2), np.float32)})
    with np.load(path) as found:
        assert sorted(found) == ["file", "x"] and found["x"].dtype == np.float32
        np.testing.assert_array_equal(found["file"], np.arange(3.0))


def test_bytes_that_do_not_unpack_are_told_by_name(tmp_path: Path) -> None:
    """Not every damage is found by a zip file's own checks: zlib raises an error of its own."""
    path, rng = tmp_path / "packed.npz", np.random.default_rng(0)
    np.savez_compressed(path, x=rng.normal(size=(20, 20)).round(2))
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(60, len(whole) - 120, 3):
            damaged[place] ^= 255
        path.write_bytes(bytes(damaged))
        with pytest.raises(MvssError, match=r"packed\.npz"):
            read_array(str(path), tmp_path)
