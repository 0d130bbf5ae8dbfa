"""Distances between laws of galaxies and of sky, by construction, taken from what shares nothing with the scored."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from blobs import blob

from experiments.core.config import Job, MetricsConfig, Recipe
from experiments.core.floor import run_floor
from experiments.core.task import Laws
from experiments.galaxies.config import GalaxiesConfig
from experiments.galaxies.data.deep_field import COLUMNS, noise_level
from experiments.galaxies.data.stamps import NOISE
from experiments.galaxies.data.task import GalaxiesTask, make_task
from experiments.galaxies.scores.laws import galaxy_distances, half_light_radii, sky_distances
from mvss.runtime.rng import generator

SMALL = {"observations": 30, "random_fields": 14, "fresh": 20, "pixels": 16, "draws": 8}
GALAXIES = torch.stack([blob(float(flux)) for flux in torch.linspace(4.0, 20.0, 100)])
SKY = torch.randn(50, 1, 16, 16, generator=generator(0, "laws"), dtype=torch.float64) * NOISE


def test_blank_stamps_and_bright_edges_are_seen() -> None:
    truth = galaxy_distances(GALAXIES, GALAXIES.flip(0), NOISE)
    assert truth == {"blank_share": 0.0, "edge_excess": pytest.approx(0.0, abs=1e-3), "ks_flux": 0.0, "ks_radius": 0.0}
    blank = galaxy_distances(torch.zeros_like(GALAXIES), GALAXIES, NOISE)
    assert blank == {"blank_share": 1.0, "edge_excess": 0.0, "ks_flux": 1.0, "ks_radius": 1.0}
    some = torch.where(torch.arange(100).reshape(-1, 1, 1, 1) < 25, 0.0, GALAXIES)
    assert galaxy_distances(some, GALAXIES, NOISE)["blank_share"] == 0.25
    for side in ((slice(None), slice(0, 2)), (slice(0, 2), slice(None))):
        edged = torch.zeros_like(GALAXIES)
        edged[(..., *side)] = 3 * NOISE  # of one side: 64 of the frame's 240 pixels
        assert galaxy_distances(edged, GALAXIES, NOISE)["edge_excess"] == pytest.approx(3 * 64 / 240)


def test_fluxes_and_radii_of_another_law_are_far() -> None:
    brighter = galaxy_distances(20 * GALAXIES, GALAXIES, NOISE)
    assert brighter["ks_flux"] == 1.0 and brighter["ks_radius"] == 0.0
    larger = torch.stack([blob(float(x.sum()), (4.0, 4.0)) for x in GALAXIES])
    assert galaxy_distances(larger, GALAXIES, NOISE)["ks_radius"] == 1.0
    assert half_light_radii(GALAXIES).tolist() == pytest.approx([2 * math.sqrt(2 * math.log(2))] * 100, abs=0.3)
    assert half_light_radii(torch.stack([blob(0.0), -blob(1.0)])).tolist() == [0.0, 0.0]


def test_sky_that_is_brighter_or_rougher_is_as_far_as_it_is() -> None:
    assert sky_distances(SKY, SKY.flip(0), NOISE) == {"pixels": 0.0, "power_spectrum": pytest.approx(0.0, abs=1e-9)}
    assert sky_distances(SKY + 2 * NOISE, SKY, NOISE) == pytest.approx({"pixels": 2.0, "power_spectrum": 0.0}, abs=1e-6)
    assert sky_distances(2 * SKY, SKY, NOISE)["power_spectrum"] == pytest.approx(20 * math.log10(2))


def small(problem: str, **changes: object) -> GalaxiesTask:
    return make_task(problem, 0, GalaxiesConfig(**{**SMALL, **changes}))  # type: ignore[arg-type]


def floor(task: GalaxiesTask, problem: str, folder: Path) -> dict[tuple[str, str], float]:
    metrics, records = (
        MetricsConfig(pqmass=20, references=50, tessellations=40),
        list[dict](),
    )  # more cells than there are points for
    job = Job(problem, "floor", 0, Recipe(model="floor"), GalaxiesConfig(metrics=metrics))
    run_floor(job, task, folder, records.append, lambda *_: None, folder)
    return {(r["source"], r["metric"].removeprefix("prior_")): r["value"] for r in records if r["metric"].startswith("prior_")}


@pytest.mark.parametrize("problem", ["simulated", "simulated-asinh", "ground"])
def test_laws_of_the_simulation_are_compared_with_sources_that_are_not_scored(
    problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.core.floor.SPLITS", 3)
    task = small(problem, pixels=32 if problem == "ground" else 16)
    assert isinstance(task, Laws)
    for b, count in ((0, 30), (1, 30)):
        for scored, trained in (task.clean(b), task.clean_split(b, 0), task.clean_split(b, 1)):
            assert (len(scored), len(trained)) == (20, count)
            assert float(torch.cdist(scored.flatten(1), trained.flatten(1)).min()) > 0
        assert torch.equal(task.clean(b)[0], task.fresh_truth[1][b])
        assert float(task.clean(b)[1].flatten(1).amax(1).min()) > 0 or b == 0  # no galaxy of a random field
        assert task.comparable(b, scored) is scored
    found = floor(task, problem, tmp_path)
    mass = ("pqmass", "pqmass_chi2")
    assert {m for s, m in found if s == "1"} == {"pixels", "power_spectrum", *mass}
    assert {m for s, m in found if s == "2"} == {"ks_flux", "ks_radius", "blank_share", "edge_excess", *mass}
    assert found["2", "blank_share"] < 0.2 and -1 < found["2", "edge_excess"] <= 0  # light falls outwards
    blank = task.distances(1, torch.zeros_like(scored), trained)
    assert blank["blank_share"] == 1.0 and blank["ks_flux"] == 1.0 > 2 * found["2", "ks_flux"]


def test_real_sky_is_compared_as_observed_in_an_area_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.core.floor.SPLITS", 2)
    task = small("real", fresh=20)
    assert task.fields is not None
    for fields in (task.fields, task.other_fields(0), task.other_fields(1)):
        for stamps, (left, right) in zip(fields, (COLUMNS["test"], COLUMNS["train"]), strict=True):
            column = stamps.catalogue["column"]
            assert left <= int(column.min()) and int(column.max()) + 16 <= right
    assert not torch.equal(task.other_fields(0)[0].y, task.other_fields(1)[0].y)
    noise = task.comparable(0, torch.zeros(40, 1, 16, 16, dtype=torch.float64))
    assert float(noise.std()) == pytest.approx(noise_level(), rel=0.05)
    assert [len(x) for x in task.clean(0)] == [20, 14] and [len(x) for x in task.clean(1)] == [0, 0]
    assert {s for s, _ in floor(task, "real", tmp_path)} == {"1"}
    assert task.distances(1, *[torch.zeros(3, 1, 16, 16)[:n] for n in (3, 0)]) == {"blank_share": 1.0, "edge_excess": 0.0}
