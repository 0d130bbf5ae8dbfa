"""Digits of a file or folder: the same in every form; what is cut short, mispaired or nameless ends in one line."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from brought_digits import idx, noise, write_digits, write_idx, write_images
from PIL import Image

from experiments.core.cli import main
from experiments.mnist_grass.__main__ import EXPERIMENT
from experiments.mnist_grass.config import MnistGrassConfig
from experiments.mnist_grass.data import MnistGrassTask
from experiments.mnist_grass.digit_files import read_digits
from experiments.mnist_grass.digits import mnist_digits, other_digits
from mvss.runtime.errors import MvssError

PIXELS, CLASSES = noise(7)


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    yield
    mnist_digits.cache_clear()


def archive(folder: Path) -> Path:
    np.savez(folder / "any.npz", pixels=PIXELS.reshape(-1, 28, 28), classes=CLASSES)
    return folder / "any.npz"


def images(folder: Path) -> Path:
    write_images(folder, PIXELS, CLASSES)
    return folder


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "write",
    [archive, lambda f: write_idx(f, PIXELS, CLASSES), lambda f: write_idx(f, PIXELS, CLASSES, "t10k", zipped=True), images],
)
def test_every_form_holds_the_same_digits(write: Callable[[Path], Path], whole: bool, tmp_path: Path) -> None:
    """Named as a folder, and as a file where it is one."""
    path = write(tmp_path)
    pixels, classes = read_digits(str(tmp_path if whole else path))
    order = np.argsort(CLASSES, kind="stable") if path == tmp_path else slice(None)  # folders go by class
    assert pixels.dtype == np.uint8 and classes.dtype == np.int64
    np.testing.assert_array_equal(pixels, PIXELS[order])
    np.testing.assert_array_equal(classes, CLASSES[order])


def test_a_folder_may_hold_several_and_copies_count_once(tmp_path: Path) -> None:
    more, named = noise(5, seed=1)
    write_idx(tmp_path, PIXELS, CLASSES)
    write_idx(tmp_path, PIXELS, CLASSES, zipped=True)  # unzipped, and kept
    write_idx(tmp_path, more, named, "t10k", zipped=True)
    archive(tmp_path)
    write_images(tmp_path, more, named)
    (tmp_path / "._any.npz").write_bytes(b"what macOS leaves beside files")
    (tmp_path / "README.md").write_text("no digits")
    pixels, _ = read_digits(str(tmp_path))
    assert len(pixels) == 12 == len(np.unique(pixels, axis=0))


def test_images_of_other_kinds_are_grey(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    grey = Image.fromarray(np.where(PIXELS[0] > 127, 255, 0).astype(np.uint8).reshape(28, 28))
    for mode in ("1", "L", "P", "RGB"):
        grey.convert(mode).save(tmp_path / "3" / f"{mode}.png")
    pixels, classes = read_digits(str(tmp_path))
    np.testing.assert_array_equal(pixels, np.asarray(grey).reshape(1, 784))
    assert classes.tolist() == [3]


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def unlabelled(folder: Path) -> None:
    write_idx(folder, PIXELS, CLASSES)
    (folder / "train-labels-idx1-ubyte").unlink()


def mispaired(folder: Path) -> None:
    write_idx(folder, PIXELS, CLASSES)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(CLASSES[:-1].astype(np.uint8)))


def small(folder: Path) -> None:
    write_idx(folder, PIXELS, CLASSES)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(PIXELS[:, :400].reshape(-1, 20, 20)))


def picture(folder: Path, size: int, dtype: type = np.uint8) -> None:
    (folder / "1").mkdir()
    Image.fromarray(np.ones((size, size), dtype)).save(folder / "1" / "a.png")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda f: None, "no digits are there"),
    "no digits": (lambda f: (f / "notes.txt").write_text("none"), "no digits are there"),
    "none of them": (lambda f: write_idx(f, PIXELS[:0], CLASSES[:0]), "no digits are there"),
    "no labels": (unlabelled, "labels-idx1-ubyte is not there, gzipped or not"),
    "no images": (lambda f: write_idx(f, PIXELS, CLASSES).unlink(), "images-idx3-ubyte is not there, gzipped or not"),
    "mispaired": (mispaired, r"7 images and classes of shape \(6,\) are no pair"),
    "cut": (lambda f: cut(write_idx(f, PIXELS, CLASSES), 5), "holds 5,483 of 5,488 bytes: fetch it again"),
    "cut in its head": (lambda f: write_idx(f, PIXELS, CLASSES).write_bytes(idx(PIXELS)[:6]), "is no IDX file of bytes in 3"),
    "cut in its zip": (lambda f: cut(write_idx(f, PIXELS, CLASSES, zipped=True), 20), "cannot be unzipped: fetch it again"),
    "not zipped": (lambda f: write_idx(f, PIXELS, CLASSES, zipped=True).write_bytes(b"<html>"), "cannot be unzipped"),
    "zipped twice": (
        lambda f: write_idx(f, PIXELS, CLASSES, zipped=True).write_bytes(gzip.compress(gzip.compress(idx(PIXELS)))),
        "is no IDX file of bytes in 3 dimensions",
    ),
    "small": (small, r"must be \(N, 784\) of uint8, got \(7, 20, 20\)"),
    "letters": (lambda f: write_idx(f, PIXELS, CLASSES + 10), "whole numbers from 0 to 9"),
    "cut archive": (lambda f: cut(archive(f), 300), "needs the arrays pixels and classes"),
    "one array": (lambda f: np.save((f / "any.npz").open("wb"), PIXELS), "needs the arrays pixels and classes"),
    "loose image": (lambda f: Image.new("L", (28, 28)).save(f / "7.png"), r"7.png has no class: put images into folders"),
    "large image": (lambda f: picture(f, 32), r"a.png is 32 × 32, L: digits are 28 × 28, of 8 bits a pixel"),
    "deep image": (lambda f: picture(f, 28, np.uint16), "digits are 28 × 28, of 8 bits a pixel"),
    "broken image": (lambda f: (picture(f, 28), cut(f / "1" / "a.png", 30)), "cannot read .*a.png as an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    breaks, says = BROKEN[name]
    breaks(tmp_path)
    with pytest.raises(MvssError, match=says) as told:
        read_digits(str(tmp_path))
    assert "\n" not in str(told.value) and str(tmp_path) in str(told.value)


def test_a_broken_file_ends_the_command_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "brought").mkdir()
    mispaired(tmp_path / "brought")
    run = ["--preset", "smoke", "--seeds", "100", "--", f"mnist={tmp_path / 'brought'}"]
    assert main(EXPERIMENT, run, tmp_path) == 2
    said = capsys.readouterr().err
    assert "are no pair" in said and said.count("\n") == 1 and [p.name for p in tmp_path.iterdir()] == ["brought"]


@pytest.mark.parametrize("named", ["", "openmll", "nowhere/digits.npz", "\0", 300 * "a"])
def test_what_is_no_file_or_folder_is_refused(named: str) -> None:
    with pytest.raises(MvssError, match=r"neither embedded nor openml, nor a file or folder|cannot be read") as told:
        MnistGrassConfig(mnist=named)
    assert "\n" not in str(told.value)


def test_a_class_that_is_not_there_is_told(tmp_path: Path) -> None:
    config = MnistGrassConfig(mnist=write_digits(tmp_path, pixels=PIXELS), observations=3, fresh=2)
    with pytest.raises(MvssError, match=rf"digits=\[0, 1\]: mnist={tmp_path} has 0; name at least one"):
        MnistGrassTask("full", 100, config)


def test_tuning_seeds_have_none_of_the_embedded_digits(tmp_path: Path) -> None:
    pixels, classes = mnist_digits("embedded")
    zeros = pixels[classes == 0][:3].flatten(1).numpy()
    blurred = zeros + (zeros < 255).astype(np.uint8)  # as another decoder may have them
    folder = write_digits(tmp_path, pixels=np.concatenate([zeros, PIXELS, blurred]))
    left, named = other_digits(folder)
    np.testing.assert_array_equal(left.flatten(1), PIXELS)
    assert named.tolist() == [0] * 7
    mnist_digits.cache_clear()
    with pytest.raises(MvssError, match="all of its digits are among those embedded, which are reported: name others"):
        other_digits(write_digits(tmp_path, pixels=zeros))
