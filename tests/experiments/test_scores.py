"""A count of 0 leaves the score that it is of out, in every experiment, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.core.config import Config, Job, MetricsConfig, Recipe
from experiments.core.scores import Scorer
from experiments.core.task import Task
from experiments.galaxies.config import GalaxiesConfig
from experiments.galaxies.data.task import GalaxiesTask
from experiments.manifolds.data import ManifoldTask
from experiments.mnist_grass.classifier import trained_classifier
from experiments.mnist_grass.config import MnistGrassConfig
from experiments.mnist_grass.data import MnistGrassTask
from mvss.problem.views import Draws, View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream, stream_of

NONE = MetricsConfig(sinkhorn=0, lap_sinkhorn=0, paper_sinkhorn=0, pqmass=0, frechet=0, coverage=0, saved=8)
ALL = replace(NONE, sinkhorn=8, paper_sinkhorn=8, pqmass=8, references=4, tessellations=2, frechet=8, coverage=4, mean_draws=2)
ALL = replace(ALL, coverage_draws=3)
OF = {  # what a record's name holds, by the setting that counts its samples
    "sinkhorn": ("posterior_sinkhorn", "prior_sinkhorn"),
    "paper_sinkhorn": ("posterior_sinkhorn_paper", "prior_sinkhorn_paper"),
    "pqmass": ("posterior_pqmass", "prior_pqmass", "posterior_pqmass_chi2", "prior_pqmass_chi2"),
    "frechet": ("posterior_frechet", "prior_frechet", "posterior_frechet_mean_only", "prior_frechet_mean_only"),
    "coverage": ("coverage_error",),
    "mean_draws": ("posterior_mean_psnr",),
}


class Noise:
    """Draws that are noise."""

    def __init__(self, task: Task) -> None:
        self.sources, self._shapes = task.train.sources, task.train.shapes

    def separate(self, view: View, draws: int = 1, seed: int | Stream = 0, progress: object = None) -> Draws:
        rng, count = stream_of(seed).generator(), len(view)
        return {s: torch.rand(draws, count, *self._shapes[s], generator=rng, dtype=torch.float64) for s in view.sources}

    def sample(self, source: str, count: int, seed: int | Stream = 0, stratified: bool = False) -> Tensor:
        return torch.rand(count, *self._shapes[source], generator=stream_of(seed).generator(), dtype=torch.float64)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Task, Config]]:
    sizes = {"observations": 12, "fresh": 10}
    grass = MnistGrassConfig(**sizes, grass_observations=12)
    galaxies = GalaxiesConfig(observations=12, random_fields=14, fresh=8, pixels=16, draws=8)
    found = MnistGrassTask("full", 0, grass)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.mnist_grass.classifier.EPOCHS", 1)
        patch.setattr("experiments.mnist_grass.data.DETECTED", 64)
        folder = tmp_path_factory.mktemp("classifiers")
        patch.setattr(
            "experiments.mnist_grass.data.trained_classifier",
            lambda x, named, classes=10: trained_classifier(x[:200], named[:200], classes, folder=folder),
        )
        assert found.classifier and found.detector
    return {
        "manifolds": (ManifoldTask("contrastive-2", 0, 12, 10), Config(**sizes)),
        "mnist_grass": (found, grass),
        "galaxies": (GalaxiesTask("simulated", 0, galaxies), galaxies),
    }


def scored(task: Task, config: Config, metrics: MetricsConfig) -> set[str]:
    """Names of the final scores."""
    records: list[dict[str, Any]] = []
    job = Job("problem", "method", 0, Recipe(), replace(config, metrics=metrics))
    Scorer(job, task, task.train.sources, Stream(0), records.append).final(Noise(task), [{} for _ in task.train])
    return {record["metric"] for record in records}


@pytest.mark.parametrize("name", ["manifolds", "mnist_grass", "galaxies"])
def test_a_count_of_zero_leaves_its_score_out_and_no_other(name: str, tasks: dict[str, tuple[Task, Config]]) -> None:
    task, config = tasks[name]
    metrics = ALL if name == "manifolds" else replace(ALL, coverage=0)  # of images A⁺ takes seconds
    whole = scored(task, config, metrics)
    assert ("posterior_frechet" in whole) == (name == "mnist_grass")
    for setting, own in OF.items():
        assert scored(task, config, replace(metrics, **{setting: 0})) == whole - set(own), setting
    left_out = {metric for own in OF.values() for metric in own}
    assert scored(task, config, NONE) == whole - left_out != set()


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("sinkhorn", -1, "at least 0"),
        ("tessellations", 0, "at least 1"),
        ("references", 1, "at least 2"),
        ("mean_draws", 1, "0, or at least 2"),
        ("coverage_draws", 0, "at least 1"),
        ("saved", 0, "at least 1"),
    ],
)
def test_a_count_that_gives_no_score_is_refused(setting: str, value: int, says: str) -> None:
    with pytest.raises(MvssError, match=f"metrics.{setting}={value} must be {says}"):
        MetricsConfig(**{setting: value})
