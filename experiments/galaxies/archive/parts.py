"""What an archive is read for: stamps of one of its parts of the sky, galaxies or random fields."""

from __future__ import annotations

__all__ = ["ASIDE", "open_archive"]

from pathlib import Path

from experiments.galaxies.archive.shards import stamps_of
from experiments.galaxies.data.stamps import Stamps
from mvss.runtime.errors import MvssError

ASIDE = 2
"""Split of galaxies that are only separated."""
PARTS = {"train": (0,), "test": (1,), "all": (0, 1, ASIDE)}


def open_archive(path: Path, part: str, galaxies: bool, count: int | None = None) -> Stamps:
    """Stamps of a part, "train" or "test", of an archive, or of "all": every one, or `count` at most, evenly among
    them, of all mosaics.

    Where a pixel was not measured, `good` is false, y is 0 and sigma that of a usual pixel. Truth is not known.
    Catalogue: the numeric columns of the file, those of the user's catalogue below them where a name is taken.

    Raises:
        MvssError: it is no archive, is damaged, or has no such stamps.
    """
    if part not in PARTS:
        raise MvssError(f"part {part!r}: {', '.join(PARTS)}")
    group = "galaxies" if galaxies else "randoms"
    stamps = stamps_of(path, group, PARTS[part], count)
    if count and not len(stamps):
        raise MvssError(
            f"{path} has no {group} in the {part} part: make it of a larger part of the sky, or with cut-outs between galaxies"
        )
    return stamps
