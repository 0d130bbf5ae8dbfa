"""The table: derived rows by hand, runs that diverged, methods that are missing, the paper's numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from experiments.report import columns
from experiments.report.columns import AUDIT, COST, PAPERS, QUALITY, Column
from experiments.report.markdown import markdown
from experiments.report.paper import paper_value
from experiments.report.tables import build_table, lookup, write_table
from mvss.runtime import files
from mvss.runtime.errors import MvssError


def record(
    method: str,
    source: str,
    metric: str,
    value: float | None,
    *,
    problem: str = "mixed-0.1",
    split: str = "fresh",
    lap: int | None = None,
) -> dict[str, Any]:
    return {
        "seed": 0,
        "problem": problem,
        "method": method,
        "source": source,
        "metric": metric,
        "split": split,
        "lap": lap,
        "value": value,
        "samples": 100,
        "commit": "abc",
    }


def rows(records_by_seed: dict[int, list[dict[str, Any]]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Rows of mixed-0.1 by (method, source, metric)."""
    table = build_table("manifolds", "cpu", records_by_seed, "make manifolds")
    return {key[1:]: dict(row) for key, row in lookup(table).items() if key[0] == "mixed-0.1"}


def pair(ours: tuple[float, float], exact: tuple[float, float], metric: str) -> list[dict[str, Any]]:
    """Both sources of joint and exact."""
    found = [record("joint", str(b + 1), metric, value) for b, value in enumerate(ours)]
    return found + [record("exact", str(b + 1), metric, value) for b, value in enumerate(exact)]


def test_gap_and_its_spread_are_those_of_the_differences_between_a_seeds_own_runs() -> None:
    # The PSNR itself spreads by 10 dB between seeds, the gap by nothing for source 1 and by √2 for source 2.
    found = rows(
        {
            0: pair((30.0, 31.0), (35.0, 37.0), "posterior_psnr"),
            1: pair((40.0, 42.0), (45.0, 46.0), "posterior_psnr"),
        }
    )
    gap = found["joint", "1", "oracle_gap_db"]
    assert (gap["mean"], gap["std"], gap["seeds"], gap["values"]) == (5.0, 0.0, [0, 1], [5.0, 5.0])
    assert found["joint", "2", "oracle_gap_db"]["mean"] == 5.0
    assert found["joint", "2", "oracle_gap_db"]["std"] == pytest.approx(math.sqrt(2))
    assert found["joint", "mean", "oracle_gap_db"]["mean"] == 5.0
    assert found["joint", "mean", "oracle_gap_db"]["std"] == pytest.approx(math.sqrt(0.5))
    assert found["joint", "mean", "posterior_psnr"]["mean"] == pytest.approx((30.5 + 41) / 2)
    assert ("exact", "1", "oracle_gap_db") not in found


@pytest.mark.parametrize("kind", ["posterior", "prior"])
def test_excess_is_over_the_floor_of_the_same_seed(kind: str) -> None:
    found = rows({3: pair((0.5, 0.25), (0.125, 0.125), f"{kind}_sinkhorn")})
    excess = found["joint", "mean", f"{kind}_sinkhorn_excess"]
    assert (excess["mean"], excess["std"], excess["seeds"], excess["samples"]) == (0.25, None, [3], 100)


def test_a_mean_over_sources_that_was_recorded_is_kept() -> None:
    found = rows({0: [record("joint", "1", "coverage_error", 1.0), record("joint", "mean", "coverage_error", 7.0)]})
    assert found["joint", "mean", "coverage_error"]["mean"] == 7.0


def test_no_mean_over_sources_where_a_source_is_missing() -> None:
    sources = [record("joint", b, "posterior_psnr", 1.0) for b in "12"]
    found = rows({0: sources, 1: sources[:1]})
    assert found["joint", "1", "posterior_psnr"]["seeds"] == [0, 1]
    assert found["joint", "mean", "posterior_psnr"]["seeds"] == [0]


def test_laps_are_left_out_and_the_later_record_holds() -> None:
    found = rows(
        {
            0: [
                record("joint", "1", "posterior_psnr", 1.0),
                record("joint", "1", "posterior_psnr", 2.0),
                record("joint", "1", "posterior_psnr", 9.0, lap=3),
                record("joint", "1", "posterior_psnr", 5.0, split="train"),
            ]
        }
    )
    assert found["joint", "1", "posterior_psnr"]["mean"] == 2.0
    assert found["joint", "1", "posterior_psnr_train"]["mean"] == 5.0


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_run_that_diverged_leaves_a_gap_and_flatters_nobody(bad: float | None, tmp_path: Path) -> None:
    good, lost = pair((30.0, 31.0), (35.0, 36.0), "posterior_psnr"), pair((30.0, 31.0), (35.0, 36.0), "posterior_psnr")
    lost[0]["value"] = bad
    table = build_table("manifolds", "cpu", {0: good, 1: lost}, "make manifolds")
    write_table(tmp_path, table, "caption")
    found = lookup(json.loads((tmp_path / "table.json").read_text()))
    for source, metric in (("1", "posterior_psnr"), ("1", "oracle_gap_db"), ("mean", "posterior_psnr")):
        row = found["mixed-0.1", "joint", source, metric]
        assert (row["mean"], row["std"], row["seeds"]) == (None, None, [0, 1])
        assert row["values"][0] is not None and row["values"][1] is None
    assert found["mixed-0.1", "joint", "2", "oracle_gap_db"]["mean"] == 5.0
    assert "| joint (ours) | – |" in (tmp_path / "table.md").read_text()


def test_without_the_oracle_there_are_no_gaps() -> None:
    found = rows({0: [record("joint", "1", "posterior_psnr", 30.0)]})
    assert {key[2] for key in found} == {"posterior_psnr"}


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (("manifolds", "contrastive-2", "joint", "2", "posterior_psnr"), 38.27),
        (("manifolds", "contrastive-2", "joint", "1", "posterior_psnr"), None),
        (("manifolds", "contrastive-3", "gibbs", "3", "prior_sinkhorn_paper"), 4.53),
        (("manifolds", "mixed-0.1", "gibbs_8x", "2", "posterior_sinkhorn_paper"), 1.84),
        (("manifolds", "mixed-0.1", "gibbs", "2", "posterior_sinkhorn_paper"), None),
        (("manifolds", "mixed-0.1", "joint", "2", "posterior_pqmass"), 0.001),
        (("manifolds", "mixed-0.1", "joint", "mean", "seconds_per_draw"), 0.022),
        (("manifolds", "mixed-0.9", "joint", "mean", "seconds_per_draw"), None),
        (("mnist_grass", "downsampled", "clvm_vae", "2", "posterior_frechet_mean_only"), 1008.0),
        (("mnist_grass", "full", "joint_laps_8", "2", "posterior_psnr"), 27.15),
        (("galaxies", "real", "joint", "mean", "seconds_per_draw"), 1.5),
        (("nowhere", "full", "joint", "2", "posterior_psnr"), None),
    ],
)
def test_the_papers_numbers(cell: tuple[str, str, str, str, str], value: float | None) -> None:
    assert paper_value(*cell) == value


def test_the_page_shows_the_paper_beside_ours_and_the_best_in_bold(tmp_path: Path) -> None:
    psnr, energy = {"joint": 38.0, "mixture": 36.0, "exact": 44.0}, {"joint": 0.5, "mixture": 0.75, "exact": 0.25}
    records = {
        seed: [record(m, b, "posterior_psnr", value + seed) for m, value in psnr.items() for b in "12"]
        + [record(m, b, "energy_score", value) for m, value in energy.items() for b in "12"]
        + [record("joint", "mean", "spread_ratio", 0.9), record("joint", "mean", "seconds_per_draw", 0.004)]
        for seed in (0, 2)
    }
    write_table(tmp_path, build_table("manifolds", "cpu", records, "make manifolds SEEDS='0 2'"), "How scored.")
    page = (tmp_path / "table.md").read_text()
    assert "- command: `make manifolds SEEDS='0 2'`\n- commit: `abc`\n- seeds: 0, 2\n" in page
    assert "How scored." in page
    assert "| method | energy score ↓ | over oracle ↓ | energy score, source 2 ↓ | PSNR (dB) ↑ | spread ratio → 1 |" in page
    ours = "| joint (ours) | **0.500 ± 0.000** | 0.250 ± 0.000 | 0.500 ± 0.000 |"
    assert f"{ours} 39.00 ± 1.41 | 0.90 ± 0.00 | 39.00 ± 1.41 | – |" in page
    theirs = "| mixture (closed form) | 0.750 ± 0.000 | 0.500 ± 0.000 | 0.750 ± 0.000 |"
    assert f"{theirs} 37.00 ± 1.41 | – | 37.00 ± 1.41 | – |" in page
    assert "| exact (oracle, floor) | 0.250 ± 0.000 | – | 0.250 ± 0.000 | 45.00 ± 1.41 | – | 45.00 ± 1.41 | – | – |" in page
    assert "| joint (ours) | 39.00 ± 1.41 | 24.15 | – |" in page
    assert "| joint (ours) | 4.00 ± 0.00 | 22 |" in page


def test_a_smoke_runs_table_says_that_it_means_nothing_and_compares_nothing() -> None:
    found = [
        record(m, "2", metric, v) for m, v in (("joint", 1.0), ("gibbs", 2.0)) for metric in ("energy_score", "posterior_psnr")
    ]
    pages = {preset: markdown(build_table("manifolds", preset, {0: found}, "make"), "How.") for preset in ("smoke", "cpu")}
    assert "numbers mean nothing" in pages["smoke"].splitlines()[0] and "numbers mean nothing" not in pages["cpu"]
    assert [word in pages["cpu"] for word in ("| **1.00** |", "Bold", "| paper |")] == [True] * 3
    assert [word in pages["smoke"] for word in ("**", "Bold", "paper")] == [False] * 3


def test_an_empty_table_is_still_a_table(tmp_path: Path) -> None:
    write_table(tmp_path, build_table("manifolds", "smoke", {0: []}, "make manifolds"), "")
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == []


def test_a_failed_write_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = build_table("manifolds", "cpu", {0: [record("joint", "1", "posterior_psnr", 1.0)]}, "make")
    write_table(tmp_path, table, "first")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(MvssError, match="no space left"):
        write_table(tmp_path, {**table, "command": "other"}, "second")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_every_line_of_a_table_has_as_many_cells_as_its_head(tmp_path: Path) -> None:
    columns = (*QUALITY, *PAPERS, *AUDIT, *COST)
    found = [record(method, "2", column.metric, 1.5) for method in ("joint", "exact") for column in columns]
    write_table(tmp_path, build_table("manifolds", "cpu", {0: found}, "make manifolds"), "How.")
    lines = (tmp_path / "table.md").read_text().splitlines()
    heads = [n for n, line in enumerate(lines) if line.startswith("| method")]
    assert len(heads) == 4
    for head in heads:
        assert lines[head].count("|") == lines[head + 1].count("|") == lines[head + 2].count("|")


def test_a_method_that_separates_a_part_of_the_sources_has_no_mean() -> None:
    found = [record("joint", b, "energy_score", 30.0) for b in "12"] + [record("pcpca", "2", "energy_score", 9.0)]
    table = rows({0: found})
    assert ("joint", "mean", "energy_score") in table and ("pcpca", "mean", "energy_score") not in table
    assert table["joint", "2", "energy_score_under_pcpca"]["mean"] == -21.0
    assert ("joint", "mean", "energy_score_under_pcpca") not in table


def test_rows_of_several_commits_say_which_made_them(tmp_path: Path) -> None:
    records = [record("joint", "1", "posterior_psnr", 1.0)]
    later = [record("pcpca", "1", "posterior_psnr", 1.0), record("joint", "1", "audit_coverage_error", 0.1)]
    records += [{**each, "commit": "def"} for each in later]
    table = build_table("manifolds", "cpu", {0: records}, "make")
    assert table["commits"] == {"abc": {"mixed-0.1": ["joint"]}, "def": {"mixed-0.1": ["pcpca", "joint (audit)"]}}
    write_table(tmp_path, table, "How.")
    page = (tmp_path / "table.md").read_text()
    assert "- commit `abc`: joint on mixed-0.1\n- commit `def`: joint (audit), pcpca on mixed-0.1\n" in page
    other = [{**record("joint", "1", "posterior_psnr", 2.0), "seed": seed, "commit": "def"} for seed in (1, 2)]
    mixed = build_table("manifolds", "cpu", {0: records, 1: other[:1], 2: other[1:]}, "make")["commits"]
    assert mixed["abc"] == {"mixed-0.1": ["joint (seed 0)"]}
    assert mixed["def"] == {"mixed-0.1": ["joint (seed 1, 2)", "pcpca", "joint (audit)"]}


def test_galaxies_have_tables_of_their_own_and_others_have_none_of_them(tmp_path: Path) -> None:
    values = {"joint": (30.0, -0.02, 0.66), "aperture": (25.0, 0.051, None)}
    found = []
    for method, (decibels, bias, coverage) in values.items():
        found += [record(method, "2", "psnr_peak", decibels), record(method, "2", "flux_bias", bias)]
        found += [record(method, "2", "flux_coverage", coverage)] if coverage else []
    found += [
        record("joint", "2", "spread_ratio", 0.61),
        record("joint", "mean", "residual_chi2", 1.034),
        record("joint", "mean", "held_out_chi2", 1.2),
    ]
    write_table(tmp_path, build_table("galaxies", "cpu", {0: found}, "make galaxies"), "How.")
    page = (tmp_path / "table.md").read_text()
    parts = page.split("Galaxies, beside their truth:")[1].split("Their fluxes, beside the true ones:")
    fluxes, observations = parts[1].split("Observations, beside sky + galaxy:")
    assert "| joint (ours) | 30.00 | 0.61 |" in parts[0] and "| masked aperture | 25.00 | – |" in parts[0]
    assert "| joint (ours) | -2.0 | 66.0 |" in fluxes and "| masked aperture | 5.1 | – |" in fluxes
    assert "| residual χ² → 1 | held-out χ² → 1 |" in observations and "| joint (ours) | 1.03 | 1.20 |" in observations
    assert "aperture" not in observations
    others = [record("joint", "1", "posterior_psnr", 1.0)]
    write_table(tmp_path, build_table("manifolds", "cpu", {0: others}, "make"), "How.")
    assert "beside t" not in (tmp_path / "table.md").read_text()


def test_laws_and_bins_of_galaxies_have_tables(tmp_path: Path) -> None:
    bright = "mag<21.5,blend>0.3"
    found = [
        *(record("joint", "2", f"{metric}:{bright}", v) for metric, v in (("flux_bias", 0.07), ("flux_coverage", 0.42))),
        record("segmentation", "2", f"flux_bias:{bright}", 0.5),
        *(record(m, "2", "prior_ks_flux", v) for m, v in (("joint", 0.1), ("floor", 0.05))),
        *(record(m, "1", "prior_pixels", v) for m, v in (("joint", 0.3), ("floor", 0.2))),
    ]
    write_table(tmp_path, build_table("galaxies", "cpu", {0: found}, "make galaxies"), "How.")
    fluxes, laws = (tmp_path / "table.md").read_text().split("Their fluxes by brightness")[1].split("Laws of galaxies")
    count = found[0]["samples"]
    assert f"| mag < 21.5, blend ≥ 0.3 | joint (ours) | {count} | 7.0 | – | 42.0 | – | – |" in fluxes.replace("7.00", "7.0")
    assert "| segmentation, symmetric |" in fluxes and "floor" not in fluxes
    assert "| joint (ours) | 0.10" in laws and "truth beside other truth (floor)" in laws
    real = [record("joint", "2", "energy_score", 1.0), record("floor", "1", "posterior_pqmass_chi2", 1.0), *found]
    write_table(tmp_path, build_table("galaxies", "cpu", {0: real}, "make galaxies"), "How.")
    assert "floor" not in (tmp_path / "table.md").read_text().split("Their fluxes by")[0].split("##")[1]  # no line of dashes
    others = [record("joint", "1", "prior_power_spectrum", 1.0), record("joint", "1", "prior_pqmass_chi2", 1.0)]
    write_table(tmp_path, build_table("mnist_grass", "cpu", {0: others}, "make"), "How.")
    assert "Laws of" not in (tmp_path / "table.md").read_text()


def test_what_has_seen_the_truth_is_the_best_of_no_column() -> None:
    rows = [
        {"problem": "full", "method": m, "source": "2", "metric": "energy_score", "mean": v}
        | {"std": None, "seeds": [0], "values": [v], "samples": 10, "paper": None}
        for m, v in (("joint", 17.0), ("mixture", 18.0), ("joint_clean", 14.0), ("exact", 11.0), ("floor", 10.0))
    ]
    head = {"experiment": "x", "preset": "cpu", "command": "make x", "commits": {}}
    page = markdown({**head, "rows": rows}, "")
    assert page.count("**") == 4 and "**17.00**" in page  # and the word that explains it
    assert "| joint, learned from clean sources | 14.00 |" in page


GRIDS = [value for value in vars(columns).values() if isinstance(value, tuple) and all(isinstance(c, Column) for c in value)]


def test_no_psnr_is_without_the_spread_ratio_beside_it() -> None:
    """Of the same source; that of means has one beside that of single draws."""
    seen = 0
    for grid in GRIDS:
        if grid == columns.SCORED:
            continue
        for column, after in zip(grid, [*grid[1:], None], strict=True):
            if column.metric in ("posterior_psnr", "posterior_psnr_train", "psnr_peak"):
                assert after is not None and (after.metric, after.source, after.always) == ("spread_ratio", column.source, True)
                seen += 1
    assert seen == 6


def test_the_best_is_told_by_the_first_proper_score_and_by_no_other() -> None:
    metrics = {"energy_score": (0.5, 0.4), "prior_kl": (2.0, 3.0), "posterior_psnr": (40.0, 30.0)}
    found = [record(m, "mean", name, values[n]) for n, m in enumerate(("joint", "mixture")) for name, values in metrics.items()]
    page = markdown(build_table("manifolds", "cpu", {0: found}, "make"), "")
    assert "| joint (ours) | 0.500 | 0.500 | 2.00 | 40.00 | – |" in page
    assert "| mixture (closed form) | **0.400** | 0.400 | 3.00 | 30.00 | – |" in page
    without = markdown(build_table("manifolds", "cpu", {0: [r for r in found if r["metric"] != "energy_score"]}, "make"), "")
    assert "| joint (ours) | **2.00** | 40.00 | – |" in without  # where there is no energy score


def test_distances_without_a_floor_are_told_of() -> None:
    row = {"problem": "full", "method": "joint", "source": "2", "metric": "posterior_frechet", "mean": 1.0, "std": None}
    row |= {"seeds": [0], "samples": 8, "paper": None, "values": [1.0]}
    table = {"experiment": "mnist_grass", "preset": "cpu", "command": "", "commits": {}}
    told = [markdown({**table, "rows": [row, row | {"method": name}]}, "") for name in ("mixture", "floor")]
    assert ["No floor stands beside" in text for text in told] == [True, False]


def test_the_papers_number_of_what_was_learned_stands_beside_the_fit_that_ours_separates_by() -> None:
    def paper(*methods: str) -> dict[tuple[str, str], float | None]:
        metrics = ("prior_frechet_mean_only", "posterior_psnr")
        found = [record(method, "2", metric, 1.0, problem="full") for method in methods for metric in metrics]
        table = build_table("mnist_grass", "cpu", {0: found}, "make mnist-grass")
        return {(row["method"], row["metric"]): row["paper"] for row in table["rows"] if row["source"] == "2"}

    assert paper("auto")["auto", "prior_frechet_mean_only"] == 20.1 and paper("auto")["auto", "posterior_psnr"] is None
    assert paper("auto", "joint")["auto", "prior_frechet_mean_only"] is None  # it has a row of its own
