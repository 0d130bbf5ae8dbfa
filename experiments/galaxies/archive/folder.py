"""The images of the sky in a folder, with the maps in files beside them that have the same name but for a word
(`names`)."""

from __future__ import annotations

__all__ = ["find_mosaics"]

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.galaxies.archive.files import open_fits
from experiments.galaxies.archive.layouts import NOISE, Mask, Part, Picture, map_of, parts_of, pictures_of
from experiments.galaxies.archive.names import SUFFIXES, role_of, set_of
from mvss.runtime.errors import MvssError


def find_mosaics(folder: Path, but: Path | None = None) -> tuple[list[Picture], list[str]]:
    """The images in a folder and in those below, by name, and lines on the files that are none. Where a name says that
    it is an image, files whose names say nothing are left out, as the catalogue `but` is.

    Raises:
        MvssError: there are none, or what a file is cannot be told.
    """
    if not folder.is_dir():
        raise MvssError(f"there is no folder {folder}: name one of mosaics (FOLDER=)")
    files = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(SUFFIXES) and p.is_file())
    files = [p for p in files if p.resolve() != (but and but.resolve())]
    roles = {p: role_of(p.name) for p in files}
    named = [p for p in files if roles[p] == "image"]
    pictures: list[Picture] = []
    none = {p: f"no mosaic, but a {roles[p]} file by its name" for p in files if roles[p] not in ("", "image")}
    for path in named or [p for p in files if not roles[p]]:
        found, what = pictures_of(path)
        if found:
            maps = [p for p in none if roles[p] and p.parent == path.parent and set_of(p.name) == set_of(path.name)]
            pictures += _with_maps(found, maps)
        elif path in named:
            raise MvssError(f"{path} holds no image that is known as one ({what}): take it out of the folder")
        else:
            none[path] = f"no mosaic ({what})"
    used = {p for picture in pictures for p in picture.files}
    said = [f"{p.name}: {none[p]}" for p in files if p in none and p not in used]
    said += [f"{p.name}: left out, as others are named as images" for p in files if named and not roles[p]]
    if not pictures:
        raise MvssError(
            f"no mosaics in {folder}: files named *_sci.fits, *_drz.fits, *_drc.fits, *_i2d.fits, else *.fits, or so and .gz"
            + (f"; {len(said)} files are none: {said[0]}" if said else "")
        )
    names = [picture.name for picture in pictures]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MvssError(f"two mosaics below {folder} have the same name, {twice[0]}: give one of them another")
    return pictures, said


def _with_maps(pictures: Sequence[Picture], files: Sequence[Path]) -> list[Picture]:
    """The images of one file with those maps of other files that its own does not have."""
    by_role: dict[str, list[Path]] = {}
    for path in files:
        by_role.setdefault(role_of(path.name), []).append(path)
    noise = next((role for role in NOISE if role in by_role), "") if pictures[0].noise is None else ""
    read = [role for role in (noise, "flag" if pictures[0].mask is None else "") if role in by_role]
    for role in read:
        both = ", ".join(path.name for path in by_role[role])
        if len(by_role[role]) > 1:
            raise MvssError(f"{pictures[0].path} has two {role} maps beside it, {both}: keep one of them in the folder")
        if len(pictures) > 1:
            raise MvssError(f"{pictures[0].path} holds {len(pictures)} images: of which {both} is the map cannot be told")
    unread = tuple(path.name for role, paths in by_role.items() if role not in read for path in paths)
    found = [replace(picture, unread=picture.unread + unread) for picture in pictures]
    if noise:
        path = by_role[noise][0]
        found[0] = replace(found[0], noise=map_of(path, _only(path), noise, found[0].unit, path.name))
    if "flag" in read:
        path = by_role["flag"][0]
        part = _only(path)
        if part.header["BITPIX"] < 0:
            raise MvssError(f"{path} is named as flags, but its numbers are not whole: take it out of the folder")
        found[0] = replace(found[0], mask=Mask(path, part.hdu, -1, f"{path.name} (any bit)"))
    return found


def _only(path: Path) -> Part:
    """The one image of a map's file, with the cards of the file."""
    whole = open_fits(path)
    try:
        parts, header = parts_of(whole), whole[0].header.copy()
    finally:
        whole.close()
    if len(parts) > 1:
        parts = [part for part in parts if part.role and part.role != "other"]
    if len(parts) != 1:
        raise MvssError(f"{path} holds no image of two axes, or several: which is the {role_of(path.name)} map cannot be told")
    header.update(parts[0].header)
    return replace(parts[0], header=header)
