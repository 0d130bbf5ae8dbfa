"""Folders of images: which files there are images, what each holds, and all of them as one array."""

from __future__ import annotations

__all__ = ["ENDINGS", "image_files", "image_of", "read_images"]

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvss.io.optional import require
from mvss.runtime.errors import MvssError

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What counts as an image, in either case."""
MODES = ("1", "L", "I;16", "I", "F", "RGB")
"""Kinds of images, as pillow names them, whose numbers are what is seen."""


def image_files(folder: Path) -> list[Path]:
    """The images in a folder by name, hidden files aside; maybe none. Raises MvssError where it cannot be read."""
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
    except OSError as error:
        raise MvssError(f"cannot read the folder {folder} ({error.strerror or error})") from error


def image_of(path: Path) -> tuple[bytes, Any]:
    """The content of a file, and the decoded image of pillow. Raises MvssError where it cannot be read, or is none."""
    pillow = require("PIL.Image", "folders of images")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MvssError(f"cannot read {path} ({error.strerror or error}): put another image in its place, or none") from error
    try:
        image = pillow.open(io.BytesIO(content))
        image.load()
    except Exception as error:  # what is raised for a broken file depends on its format: OSError, SyntaxError, struct.error ...
        raise MvssError(f"cannot read {path} as an image: put another one in its place, or none") from error
    return content, image


def read_images(folder: Path) -> NDArray[Any]:
    """`(N, channels, height, width)`, in the order of their names, with the numbers that the files hold.

    Raises MvssError where there are none, one cannot be read, or holds several, or they are not of one size and kind.
    """
    paths = image_files(folder)
    if not paths:
        raise MvssError(f"{folder} is a folder without images ({', '.join(ENDINGS)})")
    found, mode = list[NDArray[Any]](), ""
    for path in paths:
        _, image = image_of(path)
        if (count := getattr(image, "n_frames", 1)) > 1:
            raise MvssError(f"{path} holds {count} images: save each to a file of its own")
        if image.mode not in MODES:
            raise MvssError(f"{path}: a {image.mode} image is not read: save it as grey or RGB")
        mode = mode or image.mode
        pixels = np.asarray(image)
        pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
        found.append(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))
        if found[-1].shape != found[0].shape:
            raise MvssError(f"{path} has shape {found[-1].shape}, and {paths[0].name} {found[0].shape}: make them one size")
        if image.mode != mode:  # white is 1, 255 or 65535
            raise MvssError(f"{path} is of kind {image.mode}, and {paths[0].name} of {mode}: save them as one kind")
    return np.stack(found)
