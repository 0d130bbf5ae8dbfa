"""The audit of a finished method."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.core.audit import run_audit
from experiments.core.cli import read_command
from experiments.core.config import Job
from experiments.core.places import jobs_of
from experiments.core.run import run_job
from experiments.manifolds.__main__ import EXPERIMENT
from experiments.manifolds.data import ManifoldTask
from mvss.runtime.errors import MvssError

TINY = [
    "problems=[contrastive-2]",
    "observations=96",
    "fresh=64",
    "settings.estimation={components: [4], steps: 30, starts: 1}",
    "settings.training={steps: 4, batch: 32, sigma_min: 0.01, sigma_max: 1.0}",
    "metrics={sinkhorn: 32, lap_sinkhorn: 32, paper_sinkhorn: 32, pqmass: 32, references: 8, tessellations: 4}",
    "audit={observations: 64, draws: 16, candidates: 32, distances: [0.0, 0.3], sigma: 0.02}",
]


def job(method: str, *overrides: str) -> Job:
    command = read_command(EXPERIMENT, ["--preset", "smoke", "--", *TINY, *overrides], EXPERIMENT.folder.parents[1])
    return next(j for j in jobs_of(command.config, [0]) if j.method == method)


def audit(method: str, folder: Path, *overrides: str) -> tuple[dict[tuple[str, str], float], dict[str, np.ndarray]]:
    which = job(method, *overrides)
    task = ManifoldTask(which.problem, 0, which.config.observations, which.config.fresh)
    if not (folder / method).exists():
        run_job(which, task, folder / method, lambda _: None, lambda *_: None, folder / "estimate.safetensors")
    records: list[dict[str, Any]] = []
    arrays = run_audit(which, task, folder / method, records.append, lambda *_: None, folder / "estimate.safetensors")
    return {(r["source"], r["metric"]): r["value"] for r in records}, arrays


@cache
def _mixture(folder: Path) -> tuple[dict[tuple[str, str], float], dict[str, np.ndarray]]:
    return audit("mixture", folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all audits of the mixture find the one fit."""
    return tmp_path_factory.mktemp("audit")


def test_the_exact_prior_passes_and_a_poor_one_does_not(tmp_path: Path) -> None:
    exact, arrays = audit("exact", tmp_path)
    poor, _ = audit("joint", tmp_path)
    for source in ("1", "2"):
        assert exact[source, "candidate_kl_nats"] == pytest.approx(0, abs=1e-9)
        assert exact[source, "candidate_rank_correlation"] == pytest.approx(1)
        assert exact[source, "candidate_auc_0.3"] > 0.95
        assert poor[source, "candidate_kl_nats"] > 1 and poor[source, "candidate_auc_0.3"] < 0.95
    limit = 1.63 / 64**0.5  # the 1 % point of Kolmogorov's law
    assert exact["mean", "audit_coverage_error"] < limit and exact["mean", "audit_misfit_error"] < limit
    assert arrays["ranks"].shape == (10, 17) and arrays["ranks"].sum() == 10 * 64
    assert arrays["log_prob_1"].shape == (2, 32)


@pytest.mark.parametrize(
    "setting", ["observations=32", "draws=12", "candidates=16", "distances=[0.0, 0.2]", "sigma=0.03", "methods=[joint]"]
)
def test_a_setting_of_the_audit_changes_it(setting: str, folder: Path) -> None:
    if setting.startswith("methods"):
        config = job("exact", f"audit.{setting}").config
        assert {j.method for j in jobs_of(config, [0], audit=True) if j.audit} == {"joint"}
        return
    base, arrays = _mixture(folder)
    found, other = audit("mixture", folder, f"audit.{setting}")
    same = found == base and all(np.array_equal(other[name], array) for name, array in arrays.items())
    assert not same


def test_what_the_audit_is_not_for_is_refused() -> None:
    with pytest.raises(MvssError, match="not for baselines"):
        job("joint", "audit.methods=[joint, pcpca]")
    with pytest.raises(MvssError, match="begin with 0"):
        job("joint", "audit.distances=[0.1, 0.3]")
