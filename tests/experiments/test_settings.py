"""Every setting reaches what it names: set to another value, the result changes (paper's code: some never did)."""

from __future__ import annotations

import gc
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from experiments.core.cache import ROOT
from experiments.core.cli import _jobs, read_command
from experiments.core.run import run_job
from experiments.manifolds.__main__ import EXPERIMENT
from experiments.manifolds.data import ManifoldTask

TINY = [
    "problems=[contrastive-2]",
    "observations=48",
    "em.held_out=8",
    "fresh=40",
    "network={hidden: [8], embedding: 8}",
    "fits.mixture={components: [2, 3, 3], steps: 8, batch: 16, starts: 8, trial: 0.5, cooled: 0.6, held_out: 0.25}",
    "training={steps: 8, batch: 16, learning_rate: 0.01, sigma_min: 0.01, sigma_max: 2.0, ema_decay: 0.5}",
    "posterior={sampler: {method: pc, steps: 2, sigma_start: 0.5, sigma_min: 0.05}, components: 2, jumps: [0.5]}",
    "separation={sampler: {method: pc, steps: 2, sigma_start: 0.4, sigma_min: 0.05}, components: 2, jumps: [0.5]}",
    "em={laps: 2, relaxation: 1.2}",
    "metrics={sinkhorn: 24, lap_sinkhorn: 24, paper_sinkhorn: 24, pqmass: 24, references: 8, tessellations: 4, coverage: 8}",
    "metrics.coverage_draws=4",
    "metrics.saved=24",
]
SAMPLER = {"method": "ancestral", "steps": 3, "sigma_start": 0.8, "sigma_min": 0.02, "corrections": 2, "tau": 0.3}
POSTERIOR = {
    **{f"sampler.{name}": value for name, value in SAMPLER.items()},
    "passes": 2,
    "start": "cold",
    "components": 1,
    "jumps": "[0.9]",
    "gibbs_rounds": 1,
}
OTHER: dict[str, Any] = {
    "observations": 56,
    "fresh": 44,
    "fits.mixture.components": "[2, 2, 2]",
    "fits.mixture.steps": 10,
    "fits.mixture.batch": 20,
    "fits.mixture.learning_rate": 0.05,
    "fits.mixture.final_learning_rate": 0.01,
    "fits.mixture.temperature": 0.2,
    "fits.mixture.cooled": 0.9,
    "fits.mixture.floor": 3.0,
    "fits.mixture.held_out": 0.5,
    "fits.mixture.starts": 1,
    "fits.mixture.trial": 0.7,
    "network.hidden": "[12]",
    "network.embedding": 12,
    "network.conditioning": "concat",
    "training.steps": 9,
    "training.batch": 12,
    "training.learning_rate": 0.02,
    "training.final_learning_rate": 0.005,
    "training.schedule": "cosine",
    "training.warmup": 4,
    "training.decay": 0.5,
    "training.ema_decay": 0.2,
    "training.gradient_clip": 1e-4,
    "training.sigma_min": 0.1,
    "training.sigma_max": 1.0,
    "training.beta": "[3.0, 3.0]",
    **{f"posterior.{name}": value for name, value in POSTERIOR.items()},
    **{f"separation.{name}": value for name, value in POSTERIOR.items()},
    "separation.prior": "{method: ancestral, steps: 3, sigma_start: 0.8, sigma_min: 0.02}",
    "em.laps": 1,
    "em.relaxation": 1.5,
    "metrics.sinkhorn": 28,
    "metrics.lap_sinkhorn": 28,
    "metrics.paper_sinkhorn": 28,
    "metrics.pqmass": 30,
    "metrics.references": 9,
    "metrics.tessellations": 6,
    "metrics.coverage": 12,
    "metrics.coverage_draws": 6,
    "metrics.mean_draws": 2,
    "metrics.saved": 20,
}
SILENT = {
    *(f"{name}.{setting}" for name in ("posterior", "separation") for setting in ("chunk", "beam")),  # see the tests below
    "workers",
}
LISTS = ("problems", "methods", "compare", "fits.gaussian", "fits.four")  # not settings
# of the audit and of laps: auto, see test_audit.py; what only images have, see test_mnist_grass.py and test_galaxies_task.py
IMAGES = (
    *(f"network.{setting}" for setting in ("blocks", "layers", "variance", "dynamic")),
    *(f"{name}.{setting}" for name in ("posterior", "separation") for setting in ("solver", "amortised")),
    "training.turns",
    "training.shifts",
    "training.holes",
)
# prior draws are the separation's
ELSEWHERE = ("audit", "em.max_laps", "em.held_out", "posterior.prior", *IMAGES)


@cache
def _task(problem: str, observations: int, fresh: int) -> ManifoldTask:
    return ManifoldTask(problem, 0, observations, fresh)


@pytest.fixture(autouse=True)
def _without_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate collects garbage after every M-step, which in a process of many tests takes longer than the step."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


def _run(folder: Path, *overrides: str) -> tuple[dict[Any, Any], dict[str, bytes]]:
    command = read_command(EXPERIMENT, ["--preset", "smoke", "--", *TINY, *overrides], ROOT)
    (job,) = (job for job in _jobs(command.config, [0], False) if job.method == "joint")
    records: list[dict[str, Any]] = []
    task = _task(job.problem, command.config.observations, command.config.fresh)
    saved = run_job(job, task, folder / "joint", records.append, lambda _: None)
    values = {
        (r["source"], r["metric"], r["split"], r["lap"]): (r["value"], r["samples"])
        for r in records
        if not any(word in r["metric"] for word in ("seconds", "memory"))
    }
    return values, {name: array.tobytes() for name, array in saved.items()}


@cache
def _base(folder: Path) -> tuple[dict[Any, Any], dict[str, bytes]]:
    return _run(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base")


def test_every_setting_is_tried() -> None:
    config = read_command(EXPERIMENT, ["--preset", "smoke", "--", *TINY], ROOT).config

    def leaves(content: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for name, value in content.items():
            path = f"{prefix}{name}"
            if path not in (*LISTS, *ELSEWHERE):
                found |= leaves(value, f"{path}.") if isinstance(value, dict) else {path}
        return found

    assert leaves(asdict(config)) == set(OTHER) | SILENT


@pytest.mark.parametrize("setting", OTHER)
def test_a_setting_changes_the_result(setting: str, folder: Path, tmp_path: Path) -> None:
    assert _run(tmp_path, f"{setting}={OTHER[setting]}") != _base(folder)


def test_the_chunk_changes_nothing_but_memory(folder: Path, tmp_path: Path) -> None:
    values, _ = _run(tmp_path, "posterior.chunk=7", "separation.chunk=7")
    expected, _ = _base(folder)
    assert values.keys() == expected.keys()
    assert values["mean", "network_evaluations", "train", 2] == expected["mean", "network_evaluations", "train", 2]
    psnr = ("1", "posterior_psnr", "fresh", None)
    assert values[psnr][0] == pytest.approx(expected[psnr][0], rel=1e-3)
