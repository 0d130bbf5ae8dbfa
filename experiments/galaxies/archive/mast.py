"""What a user did not bring: COSMOS mosaics from MAST, and the Galaxy Zoo: Hubble catalogue from VizieR, by astroquery.

The visits of the COSMOS programmes (9822, 10092) with ACS/WFC in F814W, drizzled by CALACS to 0.05 arcsec a pixel and
corrected for charge transfer (DRC), with their weight maps inside; the catalogue is that of Willett et al. 2017
(J/MNRAS/464/4176).
"""

from __future__ import annotations

__all__ = ["fetch_catalogue", "fetch_mosaics"]

import sys
from pathlib import Path
from typing import Any

from mvss.runtime.errors import MvssError
from mvss.runtime.files import replacing

PROGRAMMES = ["9822", "10092"]
CATALOGUE = "J/MNRAS/464/4176"
Client = Any  # astroquery has no types


def _client(service: str) -> Client:
    """What astroquery offers for a service."""
    try:
        if service == "MAST":
            from astroquery.mast import Observations

            return Observations
        from astroquery.vizier import Vizier

        return Vizier(columns=["*", "_RAJ2000", "_DEJ2000"], row_limit=-1)
    except ImportError as error:
        raise MvssError("astroquery is missing: make galaxies-data installs it, or name FOLDER= and CATALOGUE=") from error


def _failed(service: str, error: Exception, instead: str) -> MvssError:
    cause = str(error).strip().partition("\n")[0] or type(error).__name__
    return MvssError(f"{service} did not answer as it should ({cause}): run the same command again, or {instead}")


def fetch_mosaics(folder: Path, count: int, client: Client | None = None) -> Path:
    """Download up to `count` mosaics into a folder and return it; what is there whole is kept. client: for MAST.

    Raises:
        MvssError: MAST cannot be reached, or does not have them.
    """
    client = client or _client("MAST")
    instead = "name a folder of mosaics with FOLDER="
    try:
        found = client.query_criteria(
            obs_collection="HST",
            provenance_name="CALACS",
            proposal_id=PROGRAMMES,
            instrument_name="ACS/WFC",
            filters="F814W",
            dataproduct_type="image",
        )
        if len(found):
            found.sort("obs_id")
            products = client.get_product_list(found[:count])
            found = client.filter_products(products, productSubGroupDescription="DRC", extension="fits")
        if not len(found):
            raise MvssError(f"MAST has no such mosaics: {instead}")
        print(f"{len(found)} mosaics, {sum(found['size']) / 1e9:.1f} GB, to {folder}", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        done = client.download_products(found, download_dir=str(folder))
    except MvssError:
        raise
    except Exception as error:  # of astroquery, of requests, of the disk
        raise _failed("MAST", error, instead) from error
    failed = [row for row in done if row["Status"] not in ("COMPLETE", "SKIPPED")]
    if failed:
        raise MvssError(f"MAST did not send {len(failed)} of {len(done)} mosaics: run the same command again, or {instead}")
    return folder


def fetch_catalogue(folder: Path, client: Client | None = None) -> Path:
    """Download the catalogue into a folder, once, and return its file. client: for VizieR.

    Raises:
        MvssError: VizieR cannot be reached, or does not have it.
    """
    out = folder / "galaxy_zoo_hubble.csv"
    if out.exists():
        return out
    client = client or _client("VizieR")
    instead = "name a catalogue with CATALOGUE="
    try:
        tables = client.get_catalogs(CATALOGUE)
        whole = [table for table in tables if {"_RAJ2000", "_DEJ2000"} <= set(table.colnames)]
        if not whole:
            raise MvssError(f"VizieR has no {CATALOGUE} with positions: {instead}")
        with replacing(out) as unfinished:
            max(whole, key=len).write(unfinished, format="ascii.csv")
    except MvssError:
        raise
    except Exception as error:
        raise _failed("VizieR", error, instead) from error
    return out
