"""What is asked of MAST and VizieR, and what is said where they do not answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table
from mosaic_files import N, lattice, tangent, write_mosaic

from experiments.galaxies.archive.cut import build
from experiments.galaxies.archive.mast import fetch_catalogue, fetch_mosaics
from mvss.runtime.errors import MvssError


class _Mast:
    """A stand-in for astroquery's Observations: it remembers what it was asked."""

    def __init__(self, status: str = "COMPLETE", found: int = 3) -> None:
        self.asked: dict[str, object] = {}
        self.status, self.found = status, found

    def query_criteria(self, **asked: object) -> Table:
        self.asked |= asked
        return Table({"obs_id": [f"j{i}" for i in reversed(range(self.found))]})

    def get_product_list(self, observations: Table) -> Table:
        return Table({"obs_id": observations["obs_id"], "size": [10] * len(observations)})

    def filter_products(self, products: Table, **asked: object) -> Table:
        self.asked |= asked
        return products

    def download_products(self, products: Table, download_dir: str) -> Table:
        self.asked["products"] = list(products["obs_id"])
        for name in products["obs_id"]:
            path = Path(download_dir) / "mastDownload" / name / f"{name}_drc.fits"
            path.parent.mkdir(parents=True)
            write_mosaic(path, tangent(2.0 + 0.01 * int(name[1:])), lattice(20, 0))
        return Table({"Status": [self.status] * len(products)})


def test_mast_is_asked_for_cosmos_and_what_it_sends_is_used(tmp_path: Path) -> None:
    client = _Mast()
    folder = fetch_mosaics(tmp_path / "cosmos", 2, client)
    assert client.asked["filters"] == "F814W" and client.asked["productSubGroupDescription"] == "DRC"
    assert client.asked["products"] == ["j0", "j1"]
    sky = np.concatenate([tangent(dec).all_pix2world(lattice(20, 0)[:, ::-1], 0) for dec in (2.0, 2.01)])
    vizier = SimpleNamespace(get_catalogs=lambda _: [Table({"_RAJ2000": sky[:, 0], "_DEJ2000": sky[:, 1]}), Table({"x": [1]})])
    catalogue = fetch_catalogue(folder, vizier)
    assert "galaxies" in build(folder, catalogue, tmp_path / "out.h5", N, 0.0)
    assert fetch_catalogue(folder, SimpleNamespace()) == catalogue


def test_an_archive_that_does_not_answer_is_a_line(tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Temporary failure in name resolution\nand more")

    for fetch, client in (
        (lambda c: fetch_mosaics(tmp_path / "a", 2, c), SimpleNamespace(query_criteria=offline)),
        (lambda c: fetch_mosaics(tmp_path / "b", 2, c), _Mast(found=0)),
        (lambda c: fetch_mosaics(tmp_path / "c", 2, c), _Mast(status="ERROR")),
        (lambda c: fetch_catalogue(tmp_path / "d", c), SimpleNamespace(get_catalogs=offline)),
        (lambda c: fetch_catalogue(tmp_path / "e", c), SimpleNamespace(get_catalogs=lambda _: [])),
    ):
        with pytest.raises(MvssError, match=r"FOLDER=|CATALOGUE=") as raised:
            fetch(client)
        assert "\n" not in str(raised.value)
