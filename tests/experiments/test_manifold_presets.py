"""What the cpu preset says of the baselines is what the sweep has found."""

from __future__ import annotations

import json

import pytest

from experiments.core.cli import ROOT, read_command
from experiments.manifolds.__main__ import EXPERIMENT


@pytest.mark.parametrize("method", ["pcpca", "clvm_linear", "clvm_vae"])
def test_the_baselines_have_the_settings_that_the_sweep_found(method: str) -> None:
    found = json.loads((ROOT / "results" / "manifolds" / "cpu" / "sweep.json").read_text())["methods"][method]
    settings = read_command(EXPERIMENT, ["--preset", "cpu"], ROOT).config.methods[method].baseline
    assert {key: getattr(settings, key) for key in found["best"]} == pytest.approx(found["best"], rel=1e-3)
    assert found["trials"]
