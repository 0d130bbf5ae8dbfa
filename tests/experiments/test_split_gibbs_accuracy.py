"""`make split-gibbs`: its scores where they are known, and the command at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.core.cli import ROOT
from experiments.split_gibbs import __main__ as command
from experiments.split_gibbs import cases
from experiments.split_gibbs.__main__ import Row, energy_distance, main, measure, of_digits
from experiments.split_gibbs.cases import CASES, normal
from mvss.presets.posterior import SplitGibbsConfig

CASE = "two looks at one of three"
"""The one whose bias is seen in few draws."""


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.setting: row for row in measure(CASE, 256, 0)}


def test_accurate_chains_have_less_bias_than_those_of_the_default(rows: dict[str, Row]) -> None:
    default, accurate, floor = rows["default"], rows["accurate"], rows["exact"]
    assert floor.bias < 0.15 and abs(floor.distance) < 0.03 and abs(floor.sd_ratio - 1) < 0.1
    assert accurate.bias < 0.15 < default.bias and accurate.distance < default.distance / 3
    assert accurate.chi2 < 1.5 < default.chi2
    assert default.bias < rows["digits"].bias


def test_the_bias_of_the_default_is_that_of_its_rho(rows: dict[str, Row]) -> None:
    assert rows["default"].by_rho == pytest.approx(rows["default"].bias, abs=0.15)
    assert rows["accurate"].last < 1 < rows["default"].last < rows["digits"].last


def test_evaluations_are_those_that_networks_would_be_asked(rows: dict[str, Row]) -> None:
    default, digits = SplitGibbsConfig(), of_digits()
    assert rows["default"].evaluations == default.levels * default.rounds * default.steps
    assert (rows["digits"].evaluations, digits.last) == (digits.levels * digits.rounds * digits.steps, 0.55)
    assert rows["accurate"].evaluations == 20 * rows["default"].evaluations and rows["exact"].evaluations == 0


def test_the_energy_distance_of_two_gaussians_is_known() -> None:
    """In one dimension, of N(0, 1) and N(μ, 1): E|x − y| = 2 s φ(μ/s) + μ (2 Φ(μ/s) − 1), s = √2; E|x − x'|: with μ = 0."""
    unit, s = torch.distributions.Normal(0.0, 1.0), torch.tensor(2.0, dtype=torch.float64).sqrt()
    apart = 2 * s * unit.log_prob(1 / s).exp() + 2 * unit.cdf(1 / s) - 1
    x, y = normal(4000, 1), normal(4000, 1, seed=1)
    assert energy_distance(x, y + 1) == pytest.approx(float(2 * apart - 4 / torch.pi**0.5), rel=0.1)
    assert abs(energy_distance(x, y)) < 0.003


def test_the_command_prints_and_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cases, "ROUNDS", 1)
    monkeypatch.setattr(command, "CASES", {"identity": CASES["identity"]})
    assert main(["--draws", "16", "--seed", "3"], tmp_path) == 0
    folder = tmp_path / "results" / "runs" / "split_gibbs" / "seed-3"
    text, table = (folder / "table.md").read_text(), json.loads((folder / "table.json").read_text())
    assert capsys.readouterr().out == f"{text}\ntable:   {folder / 'table.md'}\n"
    assert [row["setting"] for row in table["rows"]] == ["exact", "default", "digits", "accurate"]
    assert (table["seed"], table["draws"]) == (3, 16) and table["commit"] in text
    assert 'make split-gibbs ARGS="--draws 16 --seed 3"' in text and text.count("\n| identity |") == 4


def test_the_published_table_holds_what_pages_say_of_it() -> None:
    """docs/presets.md: the default is biased in every case, mostly by ρ above the noise; accurate chains hardly are."""
    table = json.loads((ROOT / "results" / "split_gibbs" / "table.json").read_text(encoding="utf-8"))
    assert table["draws"] >= 4096
    found = {(row["case"], row["setting"]): Row(**row) for row in table["rows"]}
    for name in CASES:
        floor, default, accurate = (found[name, setting] for setting in ("exact", "default", "accurate"))
        assert default.last > 1 and default.bias > 5 * floor.bias and default.chi2 > 2 * floor.chi2
        assert default.by_rho > 0.75 * default.bias
        assert accurate.bias < 2 * floor.bias and accurate.distance < default.distance / 20
        assert accurate.evaluations > 10 * default.evaluations


@pytest.mark.parametrize("words", ["--draws 1", "--draws 512 --publish"])
def test_too_few_draws_are_refused(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split(), tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"split-gibbs: --draws {words.split()[1]}: ")
    assert not list(tmp_path.iterdir())
