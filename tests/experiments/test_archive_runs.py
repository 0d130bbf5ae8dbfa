"""Making an archive: kills lose nothing, other inputs are seen, a full disk and bad files say so in a line."""

from __future__ import annotations

import errno
import gzip
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from astropy.io import fits
from mosaic_files import SIZE, N, assert_equal, lattice, tangent, write_mosaic, write_survey

from experiments.galaxies.archive import cut as cutting
from experiments.galaxies.archive.cut import build, main
from experiments.galaxies.archive.mosaics import Mosaic
from experiments.galaxies.archive.parts import open_archive
from experiments.galaxies.archive.shards import write_shard
from mvss.runtime.errors import MvssError


def test_again_is_nothing_to_do_and_files_are_equal(archive: SimpleNamespace, tmp_path: Path) -> None:
    stamp = archive.out.stat().st_mtime_ns
    assert "up to date" in build(archive.folder, archive.catalogue, archive.out, N, 2.0)
    assert archive.out.stat().st_mtime_ns == stamp and not archive.out.with_name("galaxies.h5.part").exists()
    build(archive.folder, archive.catalogue, tmp_path / "again.h5", N, 2.0)
    assert_equal(archive.out, tmp_path / "again.h5")


@pytest.mark.parametrize("damage", ["none", "cut short", "a bit"])
def test_a_killed_run_goes_on(archive: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """Killed in the second mosaic; then the first one's file may be damaged by what killed it."""
    out = tmp_path / "galaxies.h5"
    out.write_bytes(archive.out.read_bytes())
    with h5py.File(out, "r+") as file:
        file.attrs["inputs"] = "others"
    before = out.read_bytes()
    cuts = []

    def stopping(mosaic: Mosaic, *rest: object) -> object:
        cuts.append(mosaic.name)
        if len(cuts) == 2:
            raise KeyboardInterrupt
        return whole(mosaic, *rest)

    whole = cutting._cut
    monkeypatch.setattr(cutting, "_cut", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(archive.folder, archive.catalogue, out, N, 2.0)
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
    build(archive.folder, archive.catalogue, out, N, 2.0)
    assert cuts[2:] == (["tile_1_sci.fits"] if damage == "none" else ["tile_0_sci.fits", "tile_1_sci.fits"])
    assert_equal(archive.out, out)


def test_changed_pixels_and_weights_are_seen_though_sizes_are_as_before(tmp_path: Path) -> None:
    catalogue, _ = write_survey(tmp_path / "mosaics")
    path, out, weights = tmp_path / "mosaics" / "tile_1_sci.fits", tmp_path / "a.h5", np.ones((SIZE, SIZE))
    assert "up to date" not in build(path.parent, catalogue, out, N, 0.0)
    assert "up to date" in build(path.parent, catalogue, out, N, 0.0)
    write_mosaic(path, tangent(2.006, turn=30), lattice(20, 1), seed=7)
    assert "up to date" not in build(path.parent, catalogue, out, N, 0.0)
    for factor in (1.0, 2.0):
        fits.writeto(path.with_name("tile_1_wht.fits"), (factor * weights).astype(np.float32), overwrite=True)
        assert "up to date" not in build(path.parent, catalogue, out, N, 0.0)
        assert "up to date" in build(path.parent, catalogue, out, N, 0.0)


def test_other_inputs_do_not_mix(archive: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(archive.folder, archive.catalogue, tmp_path / "a.h5", N, 2.0)
    with pytest.raises(MvssError, match=r"a\.h5\.part was begun from other files"):
        build(archive.folder, archive.catalogue, tmp_path / "a.h5", N, 1.0)


def test_no_space_is_said_where_the_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, said in ((errno.ENOSPC, "no space left to write"), (errno.EIO, "cannot write .*Input/output error")):

        def fail(_: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(MvssError, match=said) as raised:
                write_shard(tmp_path / "a.h5", {}, N)
        assert ("no space" in str(raised.value)) == (number == errno.ENOSPC) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["mosaic", "joining"])
def test_a_full_disk_leaves_the_old_file(
    archive: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    """The limit of a file's size stands in for the disk's end: both come as OSError in the midst of writing."""
    out = tmp_path / "galaxies.h5"
    build(archive.folder, archive.catalogue, out, N, 0.5)
    before, limits = out.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    command = [str(archive.folder), str(archive.catalogue), "--out", str(out), "--pixels", str(N), "--randoms", "2"]
    room = 50_000 if when == "mosaic" else archive.out.stat().st_size - 10_000
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
    assert_equal(archive.out, out)


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
        ("truncated", r"tile_1_sci.fits is truncated \(.*\): fetch it again"),
        ("truncated gzip", r"tile_1_sci.fits.gz is truncated \(.*\): fetch it again"),
        ("no FITS", r"tile_1_sci.fits is no FITS file that can be read \((?!.*fetch)"),
        ("no coordinates", r"tile_1_sci.fits has no celestial coordinates \(WCS\)"),
        ("no image", "holds no image"),
        ("blank", "no measured pixels"),
        ("weights of another size", "its weight map"),
        ("weights without an image", "holds no image"),
        ("another unit", "keep mosaics of one kind"),
        ("another filter", "filter ELECTRONS/S, F606W, but tile_0_sci.fits .* ELECTRONS/S, unknown: keep mosaics of one kind"),
        ("no mosaics", "no mosaics in"),
        ("no columns", "no columns RA and DEC in degrees; its columns are: ra, de"),
        ("no table", "cannot read the catalogue|no columns RA"),
        ("no catalogue", "cannot read .*catalogue.csv"),
        ("elsewhere", "are they of the same part of the sky"),
        ("large stamps", "are they of the same part of the sky"),
    ],
)
def test_bad_input_is_a_line(tmp_path: Path, kind: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue, _ = write_survey(tmp_path / "mosaics")
    _bad(tmp_path / "mosaics", kind)
    pixels = 2 * SIZE if kind == "large stamps" else N
    with pytest.raises(MvssError, match=complaint) as raised:
        build(tmp_path / "mosaics", catalogue, tmp_path / "out.h5", pixels)
    assert "\n" not in str(raised.value) and not (tmp_path / "out.h5").exists()
    assert main([str(tmp_path / "mosaics"), str(catalogue), "--out", str(tmp_path / "out.h5"), "--pixels", str(pixels)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1  # before any work was done


@pytest.mark.parametrize("damage", ["cut short", "no HDF5", "other HDF5", "missing", "a bit"])
def test_a_damaged_archive_is_a_line(archive: SimpleNamespace, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "galaxies.h5"
    content = bytearray(archive.out.read_bytes())
    if damage == "a bit":
        with h5py.File(archive.out) as file:
            content[file["galaxies/flux"].id.get_chunk_info(0).byte_offset + 1000] ^= 1
    if damage == "other HDF5":
        h5py.File(path, "w").close()
    elif damage != "missing":
        path.write_bytes({"cut short": content[:-5000], "no HDF5": b"hello", "a bit": content}[damage])
    said = {
        "cut short": r"is damaged \(.*truncated.*\): remove it",
        "no HDF5": r"is no archive of stamps \(.*signature not found.*: move it",
        "other HDF5": "is no archive of stamps",
        "missing": "there is no .*: build it",
        "a bit": r"is damaged \(.*\): remove it",
    }[damage]
    with pytest.raises(MvssError, match=said) as raised:
        open_archive(path, "train", galaxies=True)
    assert "\n" not in str(raised.value)
    if damage not in ("missing", "a bit"):
        with pytest.raises(MvssError, match=said):
            build(archive.folder, archive.catalogue, path, N)
