"""What the name of a FITS file says that it holds, and of which set of files it is one.

    acs_unrot_sci_20.fits      image      ┐
    acs_unrot_wht_20.fits      weight     ┘ both of "acs unrot 20"

The last word that is known counts: field_drz_rms.fits is a map of σ. Words are those of HST, JWST, SExtractor, SWarp,
KiDS, the Legacy Surveys, Pan-STARRS and Euclid.
"""

from __future__ import annotations

__all__ = ["SUFFIXES", "role_of", "set_of", "stem_of"]

import re

SUFFIXES = (".fits", ".fits.gz", ".fits.fz")
ROLES = {
    "image": ("sci", "drz", "drc", "i2d", "bgsub"),
    "sigma": ("rms", "sigma", "std", "stddev"),
    "error": ("err", "error"),
    "variance": ("var", "variance"),
    "weight": ("wht", "wgt", "weight", "weights", "wei", "weightmap", "ivar", "invvar", "ivm"),
    "unknown weight": ("wt", "wtmap", "unc", "uncert", "uncertainty", "noise", "noisemap"),
    "flag": ("flag", "flags", "dq", "dqm"),
    "mask": ("mask", "msk", "maskbits", "bpm", "badpix"),
    "segmentation": ("seg", "segm", "segmap", "segmentation"),
    "exposure": ("exp", "expmap", "exptime", "expwt", "nexp", "num", "cov", "coverage", "depth"),
    "background": ("bkg", "bkgd", "background", "bgmod"),
    "other": (
        *("psf", "psfsize", "psfdepth", "psfex", "galdepth", "model", "blobmodel", "resid", "residual", "chi2", "ctx", "con"),
        *("cat", "catalog", "catalogue"),
    ),
}
"""Of a file's parts; "error" is a σ that holds the photons of the objects, too."""
ROLE = {word: role for role, words in ROLES.items() for word in words}
NEUTRAL = ("image", "img", "map")
EUCLID = re.compile(r"EUC_MER_(?:BGSUB-)?MOSAIC-(.+?)(?:-(?:RMS|FLAG))?_TILE(\w+?)[-_.]", re.IGNORECASE)
"""Mosaics and maps of a tile have names that end in hashes and times of their own."""


def stem_of(name: str) -> str:
    """The name of a FITS file without its suffix."""
    return re.sub(r"\.fits(\.gz|\.fz)?$", "", name, flags=re.IGNORECASE)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[-_.\s]+", stem_of(name).lower()) if word]


def role_of(name: str) -> str:
    """A key of ROLES; nothing where the name does not say."""
    return next((ROLE[word] for word in reversed(_words(name)) if word in ROLE), "")


def set_of(name: str) -> str:
    """What the names of an image and of its maps have in common."""
    if euclid := EUCLID.match(name):
        return "euclid {} {}".format(*euclid.groups()).lower()
    return " ".join(word for word in _words(name) if word not in ROLE and word not in NEUTRAL)
