"""Figures from records and kept samples: all of them, and as many as there can be where things are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.manifolds.figures import (
    _ablations_figure,
    _gap_figure,
    _lap_curve,
    _laps_figure,
    _mixing_figure,
    make_figures,
)
from experiments.manifolds.figures_audit import candidates_figure, coverage_figure, ranks_figure
from experiments.manifolds.figures_draws import Run, marginals_figure, methods_figure, priors_figure
from experiments.report.samples import Results
from experiments.report.tables import build_table

PROBLEMS = ("mixed-0.1", "mixed-1.0-separate")


def records(seed: int, problems: tuple[str, ...] = PROBLEMS) -> list[dict[str, Any]]:
    def one(problem: str, method: str, source: str, metric: str, value: float | None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        given = {"seed": seed, "problem": problem, "method": method, "source": source, "metric": metric, "value": value}
        return {"split": "fresh", "lap": None, "samples": 20} | given | more

    found = []
    for problem in problems:
        for method, scale in (("joint", 1.0), ("gibbs", 4.0), ("exact", 0.1)):
            for source in ("1", "2"):
                diverged = (problem, method, seed) == ("mixed-0.1", "gibbs", 1)
                found.append(one(problem, method, source, "posterior_psnr", 40 - scale))
                for kind in ("posterior", "prior"):
                    found.append(one(problem, method, source, f"{kind}_sinkhorn", None if diverged else scale + seed))
                for lap in range(3 if method != "exact" else 0):
                    value = scale / (lap + 1) + seed
                    found.append(one(problem, method, source, "posterior_sinkhorn", value, lap=lap, split="train"))
            found.append(one(problem, method, "mean", "coverage_error", 0.1))
    return found


def keep_samples(folder: Path, problem: str, method: str) -> None:
    rng = np.random.default_rng(0)
    names = [f"{name}_{b}" for name in ("posterior", "truth", "prior", "independent", "lap_truth") for b in (1, 2)]
    names += [f"lap{lap}_{b}" for lap in range(3) for b in (1, 2)]
    arrays = {name: rng.normal(size=(20, 5)) for name in names}
    arrays["lap1_1"][0] = np.nan
    levels = np.linspace(0, 1, 5)
    path = folder / "seed-0" / "samples" / problem / f"{method}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, coverage_levels=levels, coverage_expected=levels, **arrays)


def table_of(by_seed: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    return build_table("manifolds", "smoke", by_seed, "make manifolds")


def test_all_figures(tmp_path: Path) -> None:
    by_seed = {seed: records(seed) for seed in (0, 1)}
    keep_samples(tmp_path, "mixed-0.1", "joint")
    bad = tmp_path / "seed-0" / "samples" / "mixed-1.0-separate" / "joint.npz"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"cut short")
    names = ["problem", "marginals-mixed-0.1", "sinkhorn-vs-lap", "sinkhorn-vs-mixing", "priors", "coverage", "gap"]
    written = make_figures(Results(tmp_path, table_of(by_seed), by_seed, PROBLEMS, 0))
    assert written == [tmp_path / "figures" / f"{name}.{kind}" for name in names for kind in ("png", "pdf")]
    assert all(path.stat().st_size > 1000 for path in written)


def test_one_seed_without_samples_or_oracle(tmp_path: Path) -> None:
    by_seed = {0: [row for row in records(0, ("mixed-0.1",)) if row["method"] != "exact"]}
    written = make_figures(Results(tmp_path, table_of(by_seed), by_seed, ("mixed-0.1", "contrastive-2"), 0))
    assert [path.name for path in written[::2]] == ["problem.png", "sinkhorn-vs-lap.png", "sinkhorn-vs-mixing.png"]


def test_methods_stand_side_by_side_where_they_have_drawn(tmp_path: Path) -> None:
    rows = records(0, ("contrastive-2",))
    for method in ("joint", "gibbs", "exact"):
        keep_samples(tmp_path, "contrastive-2", method)
    run = Run(tmp_path, table_of({0: rows}), {0: rows}, ("contrastive-2",), 0)
    figure = methods_figure(run, "contrastive-2")
    assert figure is not None and [ax.get_title() for ax in figure.axes] == ["joint (ours)", "Gibbs"]
    assert methods_figure(run, "contrastive-3") is None


def test_ablations_have_a_figure_of_their_own(tmp_path: Path) -> None:
    rows = records(0, ("mixed-0.1",))
    extra = [{**row, "method": "joint_cold"} for row in rows if row["method"] == "joint"]
    by_seed = {0: rows + extra}
    run = Run(tmp_path, table_of(by_seed), by_seed, ("mixed-0.1",), 0)
    assert run.rivals() == ["joint", "gibbs", "exact"] and "joint_cold" in run.methods()
    figure = _ablations_figure(run)
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    plt.close(figure)
    assert labels == ["joint (ours)", "joint cold"]


def test_nothing_to_show_is_no_figure(tmp_path: Path) -> None:
    run = Run(tmp_path, table_of({0: []}), {0: []}, ("mixed-0.1",), 0)
    made = [make(run) for make in (_laps_figure, _mixing_figure, _gap_figure, _ablations_figure, priors_figure)]
    made += [make(run) for make in (coverage_figure, ranks_figure, candidates_figure)]
    assert made == [None] * 8
    assert marginals_figure(run, "mixed-0.1") is None


def test_lap_curve_is_the_mean_over_sources_for_each_seed(tmp_path: Path) -> None:
    by_seed = {seed: records(seed) for seed in (0, 1)}
    run = Run(tmp_path, table_of(by_seed), by_seed, PROBLEMS, 0)
    assert _lap_curve(run, "mixed-0.1", "joint") == {0: [1.0, 2.0], 1: [0.5, 1.5], 2: [pytest.approx(1 / 3), 4 / 3]}
    assert _lap_curve(run, "mixed-0.1", "mixture") == {}


def test_a_caption_says_when_a_method_has_fewer_seeds(tmp_path: Path) -> None:
    def run(seeds: list[int]) -> Run:
        row = {"problem": "mixed-0.1", "method": "gibbs", "source": "mean", "metric": "posterior_psnr", "seeds": seeds}
        return Run(tmp_path, {"rows": [row]}, {0: [], 1: []}, ("mixed-0.1",), 0)

    assert "fewer seeds" in run([0]).seeds()
    assert "fewer seeds" not in run([0, 1]).seeds()
