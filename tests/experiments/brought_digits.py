"""Digits that a user brings, in every form that they may have."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def noise(count: int, seed: int = 0) -> tuple[Pixels, NDArray[np.int64]]:
    """Noise `(count, 784)` that is named zeros and ones in turn."""
    return np.random.default_rng(seed).integers(0, 256, (count, 784), dtype=np.uint8), np.arange(count) % 2


def write_digits(folder: Path, count: int = 1100, pixels: Pixels | None = None) -> str:
    """An archive of noise, or of these as zeros; the folder's name."""
    found, classes = noise(count) if pixels is None else (pixels, np.zeros(len(pixels), int))
    np.savez(folder / "digits.npz", pixels=found, classes=classes)
    return str(folder)


def idx(array: Pixels) -> bytes:
    """As MNIST's own files have it."""
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(folder: Path, pixels: Pixels, classes: NDArray[np.int64], name: str = "train", zipped: bool = False) -> Path:
    """A pair of files; that of the images."""
    images, ending = folder / f"{name}-images-idx3-ubyte", ".gz" if zipped else ""
    for path, array in ((images, pixels.reshape(-1, 28, 28)), (folder / f"{name}-labels-idx1-ubyte", classes.astype(np.uint8))):
        path.with_name(path.name + ending).write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return images.with_name(images.name + ending)


def write_images(folder: Path, pixels: Pixels, classes: NDArray[np.int64]) -> None:
    """A PNG each, in folders of the classes."""
    for number, (image, digit) in enumerate(zip(pixels.reshape(-1, 28, 28), classes, strict=True)):
        (folder / str(digit)).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / str(digit) / f"{number:05}.png")
