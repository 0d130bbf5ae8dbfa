"""Modules of the extra `files`, imported where a file needs them."""

from __future__ import annotations

__all__ = ["OPTIONAL", "require"]

import importlib
from types import ModuleType

from mvss.runtime.errors import MvssError

OPTIONAL = {"h5py": "h5py", "zarr": "zarr", "astropy.io.fits": "astropy", "PIL.Image": "pillow"}
"""By what pip calls them."""


def require(module: str, what: str) -> ModuleType:
    """One of them. Raises MvssError which says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MvssError(f"{what} need {OPTIONAL[module]}: pip install {OPTIONAL[module]}") from error
