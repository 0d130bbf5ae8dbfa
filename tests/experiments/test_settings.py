"""Every setting reaches what it names: set to another value, the result changes (paper's code: some never did)."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from experiments.core.config import Config
from experiments.core.places import estimate_path, jobs_of
from experiments.core.run import run_job
from experiments.manifolds.__main__ import EXPERIMENT
from experiments.manifolds.data import ManifoldTask
from mvss.presets.reader import load_config

TINY = """
problems: [contrastive-2]
observations: 48
fresh: 40
settings:
  estimation:
    {kind: ascent, components: [2, 2, 3], steps: 8, batch: 16, starts: 8, trial: 0.7, cooled: 0.6, held_out: 0.25}
  prior: {network: {hidden: [8], embedding: 8}}
  training: {steps: 8, batch: 16, learning_rate: 0.01, sigma_min: 0.01, sigma_max: 2.0, beta: [1.0, 1.0], ema_decay: 0.5}
  em: {laps: 2, relaxation: 1.2, held_out: 0.2}
  posterior:
    kind: moment_matching
    sampler: {method: pc, steps: 2, sigma_start: 0.5, sigma_min: 0.009}
    components: 2
  separation:
    kind: moment_matching
    sampler: {method: pc, steps: 2, sigma_start: 0.4, sigma_min: 0.009}
    components: 2
metrics:
  {sinkhorn: 24, lap_sinkhorn: 24, paper_sinkhorn: 0, pqmass: 24, references: 8, tessellations: 4, drawn: 8,
   draws: 4, kl: 0, kl_sigma: 0.05, saved: 24}
methods:
  joint: {}
"""
SAMPLER = {"method": "ancestral", "steps": 3, "sigma_start": 0.8, "sigma_min": 0.006, "corrections": 2, "tau": 0.3}
POSTERIOR = {
    **{f"sampler.{name}": value for name, value in SAMPLER.items()},
    "kind": "gibbs",
    "passes": 2,
    "start": "cold",
    "components": 1,
}
OTHER: dict[str, Any] = {
    "observations": 56,
    "fresh": 44,
    "settings.estimation.components": "[2, 2, 2]",
    "settings.estimation.steps": 10,
    "settings.estimation.batch": 20,
    "settings.estimation.learning_rate": 0.05,
    "settings.estimation.final_learning_rate": 0.01,
    "settings.estimation.temperature": 0.2,
    "settings.estimation.cooled": 0.9,
    "settings.estimation.floor": 3.0,
    "settings.estimation.held_out": 0.5,
    "settings.estimation.starts": 1,
    "settings.estimation.trial": 0.4,
    "settings.prior.network.hidden": "[12]",
    "settings.prior.network.embedding": 12,
    "settings.prior.network.conditioning": "concat",
    "settings.prior.base": "karras",
    "settings.prior.closed": "['1']",
    "settings.prior.sampler": "{method: ancestral, steps: 3, sigma_start: 0.8, sigma_min: 0.02}",
    "settings.training.steps": 9,
    "settings.training.batch": 12,
    "settings.training.learning_rate": 0.02,
    "settings.training.final_learning_rate": 0.005,
    "settings.training.schedule": "cosine",
    "settings.training.warmup": 4,
    "settings.training.decay": 0.5,
    "settings.training.ema_decay": 0.2,
    "settings.training.gradient_clip": 1e-4,
    "settings.training.sigma_min": 0.1,
    "settings.training.sigma_max": 1.0,
    "settings.training.beta": "[3.0, 3.0]",
    **{f"settings.posterior.{name}": value for name, value in POSTERIOR.items()},
    **{f"settings.separation.{name}": value for name, value in POSTERIOR.items()},
    "settings.em.laps": 1,
    "settings.em.stages": "sequential",
    "settings.em.relaxation": 1.5,
    "settings.em.draws": 2,
    "settings.em.held_out": 0.4,
    "metrics.sinkhorn": 28,
    "metrics.lap_sinkhorn": 28,
    "metrics.paper_sinkhorn": 24,
    "metrics.pqmass": 30,
    "metrics.references": 9,
    "metrics.tessellations": 6,
    "metrics.drawn": 12,
    "metrics.draws": 6,
    "metrics.kl": 8,
    "metrics.saved": 20,
}
OF_A_METHOD = {"truth": "true", "share": 0.5, "clean": "true"}
OF_GIBBS = {"rounds": 2, "components": 1, "sampler.steps": 3}
SILENT = {  # see the test below; a beam is for thousands of combinations
    *(f"settings.{name}.{setting}" for name in ("posterior", "separation") for setting in ("chunk", "beam")),
    "workers",
}
LISTS = ("problems", "methods", "ablations")  # not settings
# of the audit, see test_audit.py; what only images have, see test_scores.py, test_models.py, test_mnist_grass.py and
# test_galaxies_task.py
IMAGES = (
    "settings.estimation.kind",
    *(f"settings.prior.network.{setting}" for setting in ("blocks", "layers", "patch", "signals", "variance", "dynamic")),
    *(f"settings.{name}.solver" for name in ("posterior", "separation")),
    *(f"settings.em.{setting}" for setting in ("amortised", "guess", "network")),
    *(f"settings.training.{setting}" for setting in ("turns", "shifts", "holes")),
)
# keep: see test_kept_networks.py; ranges: see test_em.py
ELSEWHERE = ("audit", "metrics.kl_sigma", "settings.prior.keep", "settings.em.ranges", *IMAGES)


@cache
def _task(problem: str, observations: int, fresh: int) -> ManifoldTask:
    return ManifoldTask(problem, 0, observations, fresh)


@cache
def _preset() -> Path:
    path = Path(mkdtemp()) / "tiny.yaml"
    path.write_text(TINY)
    return path


def _run(folder: Path, *overrides: str) -> tuple[dict[Any, Any], dict[str, bytes]]:
    config = load_config(Config, _preset(), overrides)
    (job,) = jobs_of(config, [0])
    shared = estimate_path(EXPERIMENT, job, folder.parent)  # also by its name: who asks for others gets others
    records: list[dict[str, Any]] = []
    task = _task(job.problem, config.observations, config.fresh)
    saved = run_job(job, task, folder / "joint", records.append, lambda *_: None, shared)
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
    return tmp_path_factory.mktemp("settings")


def test_every_setting_is_tried() -> None:
    config = load_config(Config, _preset())

    def leaves(content: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for name, value in content.items():
            path = f"{prefix}{name}"
            if path not in (*LISTS, *ELSEWHERE):
                found |= leaves(value, f"{path}.") if isinstance(value, dict) else {path}
        return found

    assert leaves(asdict(config)) == set(OTHER) | SILENT


@pytest.mark.parametrize("setting", OTHER)
def test_a_setting_changes_the_result(setting: str, folder: Path) -> None:
    assert _run(folder / setting, f"{setting}={OTHER[setting]}") != _base(folder / "base")


@pytest.mark.parametrize("setting", OF_A_METHOD)
def test_a_setting_of_the_method_changes_the_result(setting: str, folder: Path) -> None:
    assert _run(folder / setting, f"methods.joint.{setting}={OF_A_METHOD[setting]}") != _base(folder / "base")


def test_divergences_are_of_laws_at_the_level_that_is_set(folder: Path) -> None:
    """Without them in all the other runs here: a density takes longer than the rest."""
    found = [_run(folder / f"kl {sigma}", "metrics.kl=8", f"metrics.kl_sigma={sigma}")[0] for sigma in (0.05, 0.06)]
    changed = {key[1] for key, value in found[0].items() if found[1][key] != value}
    assert changed == {"prior_kl", "prior_kl_standard_error"}


GIBBS = (
    "settings.posterior={kind: gibbs, rounds: 1, components: 2, sampler: {steps: 2, sigma_start: 2.0}}",
    "settings.separation=null",
)


@pytest.mark.parametrize("setting", OF_GIBBS)
def test_a_setting_of_gibbs_changes_the_result(setting: str, folder: Path) -> None:
    base = _gibbs(folder / "gibbs")
    assert _run(folder / f"gibbs {setting}", *GIBBS, f"settings.posterior.{setting}={OF_GIBBS[setting]}") != base


@cache
def _gibbs(folder: Path) -> tuple[dict[Any, Any], dict[str, bytes]]:
    return _run(folder, *GIBBS)


def test_each_lap_is_judged_by_what_is_held_out(folder: Path) -> None:
    judged = {("mean", f"held_out_{when}_{b}", "train", lap) for when in ("before", "after") for b in (1, 2) for lap in (1, 2)}
    assert judged <= _base(folder / "base")[0].keys()
    assert not judged & _run(folder / "none", "settings.em.held_out=0.0")[0].keys()


def test_the_chunk_changes_nothing_but_memory(folder: Path) -> None:
    values, _ = _run(folder / "chunk", "settings.posterior.chunk=7", "settings.separation.chunk=7")
    expected, _ = _base(folder / "base")
    assert values.keys() == expected.keys()
    assert values["mean", "network_evaluations", "train", 2] == expected["mean", "network_evaluations", "train", 2]
    psnr = ("1", "posterior_psnr", "fresh", None)
    assert values[psnr][0] == pytest.approx(expected[psnr][0], rel=1e-3)
