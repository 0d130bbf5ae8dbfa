"""An archive that tests only read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mosaic_files import N, write_survey

from experiments.galaxies.archive.cut import build


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("survey")
    catalogue, sky = write_survey(folder / "mosaics")
    out = folder / "galaxies.h5"
    said = build(folder / "mosaics", catalogue, out, pixels=N, randoms=2.0, command="the command")
    return SimpleNamespace(folder=folder / "mosaics", catalogue=catalogue, sky=sky, out=out, said=said)
