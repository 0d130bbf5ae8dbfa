"""`make data` tells what is here from what is missing, and downloads nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import data_status as module
from experiments.core.cache import ROOT
from experiments.data_status import data_status


def _states(folder: Path) -> dict[str, str]:
    return {row.data: row.state for row in data_status(folder)}


def test_what_is_missing_comes_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openml/openml.org/api/v1/json/data/list/data_name/mnist_784").mkdir(parents=True)  # of a failed download
    states = _states(tmp_path)
    assert states["all 70,000 MNIST digits"].startswith('missing: make mnist-grass ARGS="mnist=openml"')
    assert states["5,000 MNIST digits (default)"].startswith("present")
    assert states["photographs grass, gravel, brick (grass: default)"].startswith("present")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    bare = _states(tmp_path)
    assert bare["5,000 MNIST digits (default)"].startswith("missing: make setup")
    assert bare["photographs grass, gravel, brick (grass: default)"].startswith("missing: make setup")


def test_a_download_is_found_where_scikit_learn_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "openml/openml.org/data/v1/download/52667/mnist_784.arff.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"0" * 2_000_000)
    assert _states(tmp_path)["all 70,000 MNIST digits"] == "present (2 MB)"


def test_the_command_ends_well_and_covers_every_experiment() -> None:
    done = subprocess.run([sys.executable, "-m", "experiments.data_status"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    told = {line.split()[0] for line in done.stdout.splitlines()}
    assert {p.parent.name.replace("_", "-") for p in (ROOT / "experiments").glob("*/data.py")} <= told
