"""Labelled digits that a user brings: one file, or a folder with any of these.

*.npz                                         `pixels` (N, 784), 0 to 255, and `classes` (N,)
*images-idx3-ubyte and *labels-idx1-ubyte     MNIST's own format (train-…, t10k-…), gzipped or not
0/*.png ... 9/*.png                           images in a folder for each class
"""

from __future__ import annotations

__all__ = ["SIZE", "Digits", "read_digits"]

import gzip
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from os.path import expanduser
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.mnist_grass.config import SHIPPED
from mvss.io.images import image_files, image_of
from mvss.runtime.errors import MvssError

SIZE = 28
Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pixels `(N, 784)` and classes `(N,)`."""
SHAPES = ((SIZE * SIZE,), (SIZE, SIZE), (1, SIZE, SIZE))
IDX = re.compile(r"(?P<set>.*)(?P<kind>images|labels)(?P<mark>[-.])idx[13]-ubyte(\.gz)?")
KINDS = f"*.npz, MNIST's own *images-idx3-ubyte with *labels-idx1-ubyte, or folders 0 to 9 of images of {SIZE} × {SIZE}"


def read_digits(name: str) -> Digits:
    """All digits of a file or folder, in the order of the files' names; of copies the first.

    Raises:
        MvssError: there is none, or a file cannot be read, is cut short, or is not what it should be.
    """
    path = Path(expanduser(name))
    try:
        if not name or not path.exists():
            raise MvssError(f"mnist={name}: neither {' nor '.join(SHIPPED)}, nor a file or folder of digits")
        parts = list(_folder(path) if path.is_dir() else _files([path]))
    except OSError as error:
        raise MvssError(f"mnist={name}: cannot be read ({error.strerror or error})") from error
    if not any(len(classes) for _, classes in parts):
        raise MvssError(f"mnist={name}: no digits are there: {KINDS}")
    pixels, classes = (np.concatenate(part) for part in zip(*parts, strict=True))
    first = np.sort(np.unique(pixels, axis=0, return_index=True)[1])
    return pixels[first], classes[first]


def _folder(folder: Path) -> Iterator[Digits]:
    """Of what lies in a folder. Raises MvssError for images that no folder names."""
    if loose := image_files(folder):
        raise MvssError(f"{loose[0]} has no class: put images into folders that are named after it, 0 to 9")
    yield from _files(sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")))
    for named in (folder / str(digit) for digit in range(10)):
        if named.is_dir() and (files := image_files(named)):
            yield np.stack([_image(file) for file in files]), np.full(len(files), int(named.name), np.int64)


def _files(paths: list[Path]) -> Iterator[Digits]:
    """Of those among these that hold digits: archives, then each set of images with its labels."""
    sets = dict[tuple[Path, str, str], None]()
    for path in paths:
        if path.suffix == ".npz":
            yield _archive(path)
        elif found := IDX.fullmatch(path.name):
            sets[path.parent, found["set"], found["mark"]] = None
    for folder, own, mark in sets:
        images = _beside(folder, f"{own}images{mark}idx3-ubyte", "labels")
        labels = _beside(folder, f"{own}labels{mark}idx1-ubyte", "images")
        yield _checked(images, _idx(images, 3), _idx(labels, 1))


def _beside(folder: Path, name: str, other: str) -> Path:
    """The file of a name, gzipped or not."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise MvssError(f"{folder / name} is not there, gzipped or not, and its {other} say nothing without it: put it there")


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An array of bytes in the format IDX: 0, 0, 8, the number of dimensions, each size in four bytes, the content."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise MvssError(f"{path} cannot be unzipped: fetch it again") from error
    head = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < head:
        raise MvssError(f"{path} is no IDX file of bytes in {dimensions} dimension{'s' * (dimensions > 1)}: fetch it again")
    sizes = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    if len(content) - head != math.prod(sizes):
        raise MvssError(f"{path} holds {len(content) - head:,} of {math.prod(sizes):,} bytes: fetch it again")
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes)


def _archive(path: Path) -> Digits:
    try:
        with np.load(path) as arrays:
            return _checked(path, arrays["pixels"], arrays["classes"])
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise MvssError(f"{path} is no file of digits: it needs the arrays pixels and classes") from error


def _image(path: Path) -> NDArray[np.uint8]:
    """`(784,)`, grey."""
    _, image = image_of(path)
    if image.size != (SIZE, SIZE) or image.mode.startswith(("I", "F")):
        width, height = image.size
        raise MvssError(f"{path} is {width} × {height}, {image.mode}: digits are {SIZE} × {SIZE}, of 8 bits a pixel")
    return np.asarray(image.convert("L")).ravel()


def _checked(path: Path, pixels: NDArray[np.generic], classes: NDArray[np.generic]) -> Digits:
    """As digits. Raises MvssError where they are none."""
    if pixels.shape[1:] not in SHAPES or pixels.dtype != np.uint8:
        raise MvssError(f"{path}: pixels must be (N, {SIZE**2}) of uint8, got {pixels.shape} of {pixels.dtype}")
    if classes.shape != pixels.shape[:1]:
        raise MvssError(f"{path}: {len(pixels):,} images and classes of shape {classes.shape} are no pair")
    if classes.dtype.kind not in "iu" or not np.isin(classes, range(10)).all():
        raise MvssError(f"{path}: classes must be whole numbers from 0 to 9")
    return pixels.reshape(-1, SIZE**2).astype(np.uint8), classes.astype(np.int64)
