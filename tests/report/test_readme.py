"""The README's example runs as it stands; its results, and those of the pages, are generated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.report import digit_results
from experiments.report.bars import Against, Bar
from experiments.report.beside_paper import beside_paper
from experiments.report.manifold_results import AGAINST, BARS, COLUMNS, results
from experiments.report.readme import FILLED, ROOT, _printed, fill, filled, main, published
from experiments.report.summary import summary
from mvss import (
    AscentConfig,
    EMConfig,
    MomentMatchingConfig,
    NetworkConfig,
    PriorConfig,
    SamplerConfig,
    Settings,
    SourceSeparator,
    TrainingConfig,
)
from mvss.runtime.errors import MvssError

README = ROOT / "README.md"


QUICK = Settings(
    AscentConfig(components=(2,), steps=20, batch=64, starts=1),
    PriorConfig(NetworkConfig(hidden=(8,), embedding=4)),
    TrainingConfig(steps=4, batch=64, sigma_min=0.02, sigma_max=1.0),
    EMConfig(laps=1),
    MomentMatchingConfig(SamplerConfig("ancestral", 2, 0.3, 0.02), components=2),
)
"""Of a fit whose numbers mean nothing."""


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    return code


def sequel() -> str:
    """What docs/own-data.md does with the model of the example."""
    page = ROOT / "docs" / "own-data.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return code


def run_example(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Its names."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"quick": QUICK}
    exec(code, names)
    return names


def test_the_example_is_short_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = example()
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15 and code.count('SourceSeparator("vectors")') == 1
    names = run_example(code.replace('"vectors"', "quick") + sequel(), tmp_path, monkeypatch)
    draws = {**names["draws"], "prior": names["prior"], "logp": names["logp"]}
    shapes = {"background": (10, 2048, 4), "target": (10, 2048, 4), "prior": (100, 4), "logp": (100,)}
    assert {name: tuple(x.shape) for name, x in draws.items()} == shapes
    assert all(bool(x.isfinite().all()) for x in draws.values())
    assert (tmp_path / "run" / "estimate.safetensors").exists()
    again = SourceSeparator.from_pretrained(tmp_path / "my-mixture").separate(names["both"], draws=1)
    torch.testing.assert_close(again["target"], names["draws"]["target"][:1])


@pytest.mark.slow
def test_the_example_as_printed_separates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_example(example(), tmp_path, monkeypatch)
    for source, x in {"background": names["background"][1], "target": names["target"]}.items():
        rmse = (names["draws"][source].mean(0) - x).square().mean().sqrt()
        assert rmse < 0.5 * (x - x.mean(0)).square().mean().sqrt(), source
        assert 0.75 < rmse / names["draws"][source].var(0).mean().sqrt() < 1.3, source  # as sure as README says


def row(problem: str, method: str, metric: str, *values: float | None) -> dict[str, object]:
    mean = None if None in values else sum(v for v in values if v is not None) / len(values)
    head = {"problem": problem, "method": method, "source": "mean", "metric": metric, "mean": mean, "std": 0.5}
    return {**head, "seeds": list(range(len(values))), "values": list(values), "samples": 2048, "paper": None}


def table(*more: dict[str, object], value: float = 40.0) -> dict[str, object]:
    rows = [row("mixed-0.1", method, metric, value, value) for method in ("joint", "exact") for metric in COLUMNS]
    head = {"experiment": "manifolds", "preset": "cpu", "commits": {"abc": {}}, "command": "make manifolds"}
    return {**head, "rows": [*rows, *more]}


def test_the_results_say_what_was_met_and_what_was_not() -> None:
    text = results(table())
    ours = "40.0000 ± 0.5000 | 40.00 ± 0.50 | 40.000 ± 0.500 | 40.0 ± 0.5 | 40.00 ± 0.50 | 40.0 ± 0.5 | 40.0000 ± 0.5000 |"
    assert f"| mixed-0.1 | joint (ours) | {ours}" in text
    assert "| energy score | prior KL (nats) | coverage error | PSNR (dB) | spread ratio |" in text
    assert "| mixed-0.1 | joint | PSNR (dB) ≥ 36 | 40.0 ± 0.5 | met |" in text
    assert "| mixed-0.1 | joint | below oracle (dB) ≤ 8 | 40.0 ± 0.5 | **not met** (0 of 2 seeds) |" in text
    assert text.count("not measured") == len(AGAINST) + sum(
        (bar.problem, bar.method) != ("mixed-0.1", "joint") or bar.metric not in COLUMNS for bar in BARS
    )
    assert all(word in text for word in ("seeds 0, 1", "`make manifolds`", "2,048")) and "abc" not in text
    assert "make manifolds" in results(None)


def test_a_bar_is_met_where_every_seed_is_on_its_side() -> None:
    bar = Bar("p", "m", 1.0)
    assert bar.verdict([1.0, 0.9]) == "met" and bar.verdict([0.1, 0.1, 1.1]) == "**not met** (2 of 3 seeds)"
    assert bar.verdict([0.1, None]) == "**not met** (1 of 2 seeds)" and bar.verdict([2.0]) == "**not met**"
    assert bar.verdict([]) == "not measured"
    assert Bar("p", "m", least=1.0).verdict([1.0, 2.0]) == "met"
    assert Bar("p", "m", least=1.0).verdict([0.9, 2.0]) == "**not met** (1 of 2 seeds)"
    assert Bar("p", "m", 1.25, 0.8).verdict([0.8, 1.3]) == "**not met** (1 of 2 seeds)"
    assert Bar("p", "m", 1.25, 0.8).told("ratio") == "ratio from 0.8 to 1.25"


def test_a_bar_beside_another_method_is_of_each_seed_that_both_have() -> None:
    def beside(*ours: float | None, metric: str = "prior_kl", method: str = "chosen") -> str:
        theirs = [row("p", "mixture", metric, 1.0, 2.0), row("p", "mixture", "prior_kl_standard_error", 0.1, 0.3)]
        text = results({**table(), "rows": [*theirs, row("p", "exact", "coverage", 0.7, 0.7), row("p", method, metric, *ours)]})
        return next(line for line in text.splitlines() if line.startswith(f"| p | {method} | ") and "'s" in line)

    assert beside(1.05, 2.25).endswith("| prior KL (nats) ≤ mixture's + its standard error | +0.15 | met |")
    assert beside(1.05, 2.35).endswith("| +0.20 | **not met** (1 of 2 seeds) |")
    assert beside(1.05, None).endswith("| – | **not met** (1 of 2 seeds) |") and beside(0.5).endswith("| -0.50 | met |")
    for ours, verdict in (((0.66, 0.74), "met"), ((0.64, 0.76), "**not met** (0 of 2 seeds)")):
        told = beside(*ours, metric="coverage")
        assert "share in 68 % intervals within 0.05 of exact's" in told and told.endswith(f"| +0.000 | {verdict} |")


def test_bars_of_digits_are_of_the_digit_and_of_the_seeds_that_both_have() -> None:
    def of(problem: str, method: str, metric: str, *values: float) -> dict[str, object]:
        return {**row(problem, method, metric, *values), "source": "2"}

    rows = [of("full", "joint", "energy_score", 1.6, 1.7), of("full", "amortised", "energy_score", 1.5, 1.5)]
    rows += [of("swap-mask", m, "posterior_mean_psnr", v, v) for m, v in (("joint", 19.6), ("mixture", 18.0))]
    rows += [of("swap-mask", "mixture", "posterior_expectation_psnr", 18.2, 18.0)]
    rows += [of("swap-prior", m, "posterior_mean_psnr", v) for m, v in (("joint", 20.0), ("joint_long", 20.4))]
    text = digit_results.results({**table(), "rows": rows})
    assert "| swap-prior | joint | PSNR of means of 8 (dB) within 0.3 of joint_long's | -0.4 | **not met** |" in text
    assert "| full | joint | energy score ≤ 1.1 × amortised's | +0.15 | **not met** (1 of 2 seeds) |" in text
    assert (
        "| swap-mask | joint | PSNR of means of 8 (dB) ≥ mixture's posterior mean + 1.5 | +1.5 | **not met** (1 of 2 seeds) |"
        in text
    )
    assert "| swap-mask | 19.6" in text and "| problem | joint (ours) | mixture | mixture, its posterior mean |" in text
    assert text.count("not measured") == len(digit_results.AGAINST) + len(digit_results.BARS) - 3
    assert Against("a", "m", "b", 1.0, sign=-1).told({"m": ("PSNR", 1)}) == "PSNR ≥ b's − 1"
    assert "make mnist-grass" in digit_results.results(None)


def test_the_results_say_where_ours_is_worse_than_its_start() -> None:
    worse = [row(p, "joint", "prior_kl_under_mixture", v) for p, v in (("mixed-0.1", -0.5), ("mixed-0.5", 0.25))]
    better = row("mixed-0.1", "joint", "energy_score_under_mixture", 0.1)
    spread = row("mixed-0.5", "joint", "spread_ratio", 0.67)
    text = results(table(*worse, better, spread, value=0.9))
    text = " ".join(text.split())
    assert "Its energy score is worse than the mixture's in every seed on no problem." in text
    assert "Its prior KL is worse than the mixture's in every seed on 1 of 2 problems (mixed-0.1)." in text
    assert "Its draws have spread ratios from 0.67 to 0.90" in text


def test_columns_that_nobody_has_measured_are_left_out_but_for_the_spread_ratio() -> None:
    text = results({**table(), "rows": [row("mixed-0.1", "joint", "posterior_psnr", 40.0)]})
    assert "| problem | method | PSNR (dB) | spread ratio |" in text


def of(experiment: str, *rows: dict[str, object]) -> dict[str, dict[str, object]]:
    return {experiment: {**table(), "experiment": experiment, "rows": list(rows)}}


def scored(method: str, *values: float, paper: float | None = None) -> dict[str, object]:
    """A row of blended galaxies, of which there is a claim."""
    spread = None if len(values) == 1 else 0.5
    return {**row("simulated", method, "psnr_peak_blended", *values), "source": "2", "std": spread, "paper": paper}


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ((31.0,), (30.0,), "better"),
        ((29.9,), (30.0,), "**worse**"),
        ((29.6, 29.8), (30.0,), "as good"),  # within the spread, 0.5
        ((29.8, 25.7), (30.0, 26.0), "**worse**"),  # in both seeds
        ((30.3, 25.7), (29.0, 26.0), "as good"),
        ((28.96, 30.96), (29.0, 31.0), "as good"),  # in both seeds, but by less than is shown
    ],
)
def test_the_summary_judges_by_the_best_other_seed_by_seed_where_it_can(
    ours: tuple[float, ...], theirs: tuple[float, ...], verdict: str
) -> None:
    truth, variation = scored("joint_clean", 50.0), scored("joint_laps_1", 60.0)  # no rivals
    text = summary(
        of("galaxies", scored("joint", *ours, paper=30.5), scored("gibbs", *theirs), scored("pcpca", 1.0), truth, variation)
    )
    (line,) = text.splitlines()[2:]
    assert line.startswith(f"| {verdict} | simulated galaxies, blended") and "(Gibbs) |" in line
    assert line.endswith("| **30.5** |" if sum(ours) / len(ours) < 30.5 else "| 30.5 |")


def of_digits(method: str, metric: str, value: float, source: str = "2") -> dict[str, object]:
    return {**row("full", method, metric, value), "source": source, "std": None}


def test_spread_ratios_stand_beside_psnrs_and_floors_beside_distances() -> None:
    rows = [of_digits("joint", "posterior_psnr", 23.0), of_digits("gibbs", "posterior_psnr", 15.0)]
    assert "| 23.0 | – | 15.0 (Gibbs) | – |" in summary(of("mnist_grass", *rows))
    found = [*rows, of_digits("joint", "spread_ratio", 0.67), of_digits("gibbs", "spread_ratio", 0.33)]
    found += [of_digits(m, "prior_frechet_mean_only", v) for m, v in (("joint", 59.0), ("mixture", 35.0), ("floor", 1.5))]
    text = summary(of("mnist_grass", *found))
    assert "| 23.0 | 0.67 | 15.0 (Gibbs) | – |" in text and "| 59.0 | 1.5 | 35.0 (mixture) | – |" in text
    assert "| 0.67 |  | 0.33 (Gibbs) | – |" in text  # the ratio itself
    assert text.index("spread ratio of draws") < text.index("PSNR of draws")


def test_what_the_decimals_do_not_show_is_as_good() -> None:
    rows = [of_digits("joint", "remains_auc", 0.533, "1"), of_digits("gibbs", "remains_auc", 0.466, "1")]
    assert "| as good | digits left in the grass" in summary(of("mnist_grass", *rows))


def test_what_lies_on_either_side_of_the_ideal_is_compared_by_how_far_off_it_is() -> None:
    rows = [{**of_digits(m, "remains_auc", v, "1"), "std": 0.05} for m, v in (("joint", 0.40), ("gibbs", 0.58))]
    assert "| as good | digits left in the grass" in summary(of("mnist_grass", *rows))


def test_the_summary_leaves_out_what_was_not_measured() -> None:
    assert summary({}).count("\n") == 1 and summary(of("galaxies", scored("joint", 31.0))).count("\n") == 1


def test_numbers_of_the_paper_stand_beside_those_of_its_recipe_and_ours() -> None:
    rows = [{**row("full", method, "posterior_psnr", value), "source": "2", "std": None} for method, value in
            (("joint", 21.125), ("joint_paper", 11.5), ("joint_mlp", 9.25))]  # fmt: skip
    text = beside_paper(of("mnist_grass", *rows))
    assert "| joint | PSNR of draws (dB) | 25.60 | 11.50 | 21.12 |" in text
    assert "| joint_mlp (Table 6) | PSNR of draws (dB) | 17.93 | – | 9.25 |" in text
    assert "`make mnist-grass PROBLEM=full`" in text and "Gibbs" not in text


def test_scores_of_priors_stand_beside_the_papers_though_another_row_has_learned_them() -> None:
    learned = {**row("full", "auto", "prior_frechet_mean_only", 16.25), "source": "2", "std": None}
    timed = {**row("full", "auto", "wall_seconds", 3600.0), "source": "mean", "std": None}
    text = beside_paper(of("mnist_grass", learned, timed))
    assert "| joint | Fréchet, means, prior | 20.10 | – | 16.25 |" in text
    assert "| mnist grass, full | joint | training (s) | 244800 | – | 3600 |" in text


def test_pages_say_what_a_job_takes_and_what_a_fit_reports() -> None:
    peak = {**row("full", "auto", "peak_memory_gib", 5.75), "source": "mean"}
    assert FILLED["docs/experiments.md"]["memory"](of("mnist_grass", peak)).startswith(
        "Memory of a job: of mnist-grass up to 5.8 GiB"
    )
    report = FILLED["docs/report.md"]["report"]({}).splitlines()
    assert report[0] == "```text" and report[1].startswith("chi2 per number: ") and report[-1] == "```"
    assert all(len(line) <= 120 for line in report) and any(line.startswith("prior of ") for line in report)


def test_a_notebook_without_the_report_is_told(tmp_path: Path) -> None:
    (tmp_path / "n.ipynb").write_text('{"cells": [{"outputs": [{"text": ["other"]}]}]}')
    with pytest.raises(MvssError, match=r"n\.ipynb has printed nothing that begins with 'chi2'"):
        _printed(tmp_path / "n.ipynb", "chi2")


def write_markers(folder: Path) -> None:
    for name, blocks in FILLED.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(
            "before\n" + "".join(f"<!-- {b}:begin -->\nEARLIER\n<!-- {b}:end -->\nafter\n" for b in blocks)
        )


def test_filling_twice_is_filling_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_markers(tmp_path)
    assert main(tmp_path) == 0 and "no results of mnist_grass: run make mnist-grass" in capsys.readouterr().out
    path = tmp_path / "results" / "manifolds" / "cpu" / "table.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(table()))
    assert main(tmp_path) == 0
    first = {name: (tmp_path / name).read_text() for name in FILLED}
    assert main(tmp_path) == 0 and {name: (tmp_path / name).read_text() for name in FILLED} == first
    for text in first.values():
        assert text.startswith("before\n") and text.endswith("after\n") and "EARLIER" not in text
    with pytest.raises(MvssError, match="put them back"):
        fill("no markers", "results", "x", "README.md")


@pytest.mark.parametrize("name", FILLED)
def test_the_pages_have_the_rows_of_the_committed_tables(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert filled(name, text, published()) == text, "make readme"


def test_a_broken_table_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_markers(tmp_path)
    path = tmp_path / "results" / "manifolds" / "cpu" / "table.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"rows": [')
    assert main(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "make tables" in line
