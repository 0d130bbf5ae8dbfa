"""What a page lets one go through, of made-up samples: names, order, how bright; and what is missing is left out."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.report.browsers import Browser, sheet
from experiments.report.samples import Results, samples_path

RNG = np.random.default_rng(0)


def browsers(experiment: str, folder: Path, problem: str, kept: dict[str, dict[str, np.ndarray]]) -> list[Browser]:
    """Of a run whose methods have kept these arrays."""
    for method, arrays in kept.items():
        path = samples_path(folder, 0, problem, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)  # type: ignore[arg-type]
    rows = [{"problem": problem, "method": m, "metric": "posterior_psnr", "seeds": [0]} for m in [*kept, "gibbs"]]
    results = Results(folder, {"rows": rows}, {}, (problem, "another"), 0)
    found: list[Browser] = importlib.import_module(f"experiments.{experiment}.__main__").EXPERIMENT.browsers(results)
    for each in (part for browser in found for part in (browser, *browser.laps)):
        assert sheet(each.strips())[1] > 0
    return found


def names(browser: Browser) -> tuple[list[str], dict[str, list[str]]]:
    return [s.name for s in browser.common], {g.label: [s.name for s in g.strips] for g in browser.groups}


def test_digits_and_grass(tmp_path: Path) -> None:
    kinds = ("truth", "posterior", "mean", "width", "lap_truth", "lap0", "lap2")
    ours = {f"{kind}_{b}": RNG.random((3, 784)) for kind in kinds for b in "12"}
    (found,) = browsers("mnist_grass", tmp_path, "full", {"joint": ours, "pcpca": {"posterior_2": RNG.random((3, 784))}})
    common, groups = names(found)
    assert common == ["observation", "digit, truth", "grass, truth"] and groups["PCPCA"] == ["digit, draw"]
    assert groups["joint (ours)"] == [f"{b}, {kind}" for b in ("digit", "grass") for kind in ("draw", "mean", "SD × 2")]
    np.testing.assert_array_equal(found.groups[0].strips[2].images, 2 * ours["width_2"].reshape(3, 28, 28))
    np.testing.assert_allclose(found.common[0].images.reshape(3, -1), ours["truth_1"] + 0.5 * ours["truth_2"])
    (laps,) = found.laps
    assert laps.laps == [0, 2] and [strip.name for strip in laps.frames[1]] == ["digit", "grass"]
    np.testing.assert_array_equal(laps.frames[1][0].images, ours["lap2_2"].reshape(3, 28, 28))


def test_curves(tmp_path: Path) -> None:
    kinds = ("truth", "posterior", "prior", "lap_truth", "lap0", "lap1")
    ours = {f"{kind}_{b}": RNG.normal(size=(20, 5)) for kind in kinds for b in "12"}
    (found,) = browsers("manifolds", tmp_path, "mixed-0.1", {"joint": ours, "pcpca": {"posterior_2": ours["posterior_2"]}})
    common, groups = names(found)
    assert common == ["source 1, truth", "source 2, truth"] and groups["PCPCA"] == ["source 2, draws"]
    assert groups["joint (ours)"] == [f"source {b}, {kind}" for kind in ("draws", "prior") for b in "12"]
    assert len(found.common[0].images) == 2 and found.laps[0].laps == [0, 1]


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_galaxies(tmp_path: Path, sigma: float | None) -> None:
    kinds = ("observed", "galaxy", "galaxy_mean", "galaxy_sd", "sky", "sky_mean")
    ours = {f"{start}_{kind}": RNG.random((3, 16)) for start in ("known", "real") for kind in kinds}
    ours |= {"known_truth": RNG.random((3, 16))} | {f"lap{lap}_2": RNG.random((3, 16)) for lap in (0, 1)}
    ours |= {} if sigma is None else {"known_sigma": np.full((3, 16), sigma)}
    ours["known_observed"][0, 0] = math.nan
    one = {"known_observed": ours["known_observed"], "known_galaxy": ours["known_galaxy"], "known_galaxy_sd": np.zeros((3, 16))}
    known, real = browsers("galaxies", tmp_path, "real", {"joint": ours, "aperture": one})
    common, groups = names(known)
    assert common == ["observation", "galaxy, truth"] and groups["masked aperture"] == ["galaxy"]
    assert groups["joint (ours)"] == ["galaxy, draw", "galaxy, mean", "galaxy, SD × 3", "sky, draw", "sky, mean"]
    assert list(names(real)[1]) == ["joint (ours)"] and real.problem == "real, real stamps" and not real.laps
    assert known.laps[0].laps == [0, 1] and np.isnan(known.common[0].images[0, 0, 0])
    # asinh, from −3 σ to 30 σ
    expected = (math.asinh(ours["known_truth"][0, 0] / (sigma or 0.02)) + math.asinh(3)) / (math.asinh(30) + math.asinh(3))
    assert known.common[1].images[0, 0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("experiment", ["manifolds", "mnist_grass", "galaxies"])
def test_without_samples_there_is_nothing_to_go_through(experiment: str, tmp_path: Path) -> None:
    problem = {"manifolds": "mixed-0.1", "mnist_grass": "full", "galaxies": "simulated"}[experiment]
    assert browsers(experiment, tmp_path, problem, {}) == []
