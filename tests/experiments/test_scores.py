"""A count of 0 leaves the score that it is of out, in every experiment, and no other; what many draws are scored for is told
from exact ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_separators import vectors
from torch import Tensor

from experiments.core.config import Config, Job, MetricsConfig, Recipe
from experiments.core.drawn import Drawn
from experiments.core.evaluations import counted
from experiments.core.prior_kl import prior_kl
from experiments.core.scores import Scorer
from experiments.core.task import Task
from experiments.galaxies.config import GalaxiesConfig
from experiments.galaxies.data.task import GalaxiesTask
from experiments.manifolds.data import ManifoldTask
from experiments.mnist_grass.classifier import trained_classifier
from experiments.mnist_grass.config import MnistGrassConfig
from experiments.mnist_grass.data import MnistGrassTask
from mvss.posteriors.exact import ExactPosterior
from mvss.presets.posterior import SplitGibbsConfig
from mvss.problem.views import Draws, View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream, stream_of
from mvss.separator import SourceSeparator

NONE = MetricsConfig(sinkhorn=0, lap_sinkhorn=0, paper_sinkhorn=0, pqmass=0, saved=8)
ALL = replace(NONE, sinkhorn=8, paper_sinkhorn=8, pqmass=8, references=4, tessellations=2, drawn=4, draws=3, kl=4)
OF = {  # what a record's name holds, by the setting that counts its samples
    "sinkhorn": ("posterior_sinkhorn", "prior_sinkhorn"),
    "paper_sinkhorn": ("posterior_sinkhorn_paper", "prior_sinkhorn_paper"),
    "pqmass": ("posterior_pqmass", "prior_pqmass", "posterior_pqmass_chi2", "prior_pqmass_chi2"),
    "drawn": (
        *("energy_score", "spread_ratio", "spread_ratio_standard_error", "chi2"),
        *("coverage", "coverage_error", "rank_error", "posterior_mean_psnr", "posterior_expectation_psnr"),
    ),
    "kl": ("prior_kl", "prior_kl_standard_error"),
}


class Noise:
    """Draws that are noise."""

    def __init__(self, task: Task) -> None:
        self.sources, self._shapes = task.train.sources, task.train.shapes

    def separate(self, view: View, draws: int = 1, seed: int | Stream = 0, progress: object = None) -> Draws:
        rng, count = stream_of(seed).generator(), len(view)
        return {s: torch.rand(draws, count, *self._shapes[s], generator=rng, dtype=torch.float64) for s in view.sources}

    def log_prob(self, source: str, x: Tensor, sigma: float | None = None) -> Tensor:
        return x.flatten(1).square().sum(1) / -2

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
        assert found.classifier and found.featurer and found.detector
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
    metrics = ALL if name == "manifolds" else replace(ALL, kl=0)  # of images nobody knows the law
    whole = scored(task, config, metrics)
    assert ("posterior_frechet" in whole) == (name == "mnist_grass")
    assert set(OF["drawn"]) - {"coverage_error", "posterior_expectation_psnr"} < whole
    assert ("coverage_error" in whole) == (name == "manifolds") != ("posterior_expectation_psnr" in whole)  # of images
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
        ("drawn", -1, "at least 0"),
        ("draws", 1, "at least 2"),
        ("kl", 1, "0, or at least 2"),
        ("kl_sigma", 0.0, "positive"),
        ("saved", 0, "at least 1"),
    ],
)
def test_a_count_that_gives_no_score_is_refused(setting: str, value: float, says: str) -> None:
    with pytest.raises(MvssError, match=f"metrics.{setting}={value} must be {says}"):
        MetricsConfig(**{setting: value})


class Oracle(Noise):
    """Exact draws of the posterior of the manifolds, or of what stands in their place."""

    def __init__(self, task: Task, width: float = 1.0) -> None:
        super().__init__(task)
        priors = dict(zip(task.train.sources, task.exact_priors(), strict=True))
        self.priors, self.exact, self.width = priors, ExactPosterior(256), width

    def separate(self, view: View, draws: int = 1, seed: int | Stream = 0, progress: object = None) -> Draws:
        found = self.exact.many(view, self.priors, stream_of(seed), draws)
        return {s: x.mean(0) + self.width * (x - x.mean(0)) if len(x) > 1 else x for s, x in found.items()}

    def log_prob(self, source: str, x: Tensor, sigma: float | None = None) -> Tensor:
        return self.priors[source].log_prob(x.flatten(1), sigma or 0.0)


class Blind(Oracle):
    """Draws of the true priors, that no observation has any say in."""

    def separate(self, view: View, draws: int = 1, seed: int | Stream = 0, progress: object = None) -> Draws:
        rng, size = stream_of(seed), (draws, len(view))
        return {s: self.priors[s].sample(draws * len(view), rng.child(s)).reshape(*size, -1) for s in view.sources}


@pytest.fixture(scope="module")
def manifold() -> Task:
    return ManifoldTask("mixed-0.5", 0, 12, 300)


def values(model: Any, task: Task) -> dict[str, float]:  # noqa: ANN401 - a model of this test
    """Mean over sources of the scores of many draws, and of priors."""
    job = Job("problem", "method", 0, Recipe(), Config(metrics=replace(NONE, drawn=300, draws=8, kl=64)))
    scores = [(s, m, v) for s, m, v, _ in Drawn.of(model, job, task, Stream(0)).scores()]
    means = {m: sum(v for _, n, v in scores if n == m) / sum(n == m for _, n, _ in scores) for _, m, _ in scores}
    return means | {"prior_kl": sum(value for value, _ in prior_kl(model, job, task)) / 2}


def test_what_is_exact_is_calibrated_and_what_is_not_is_told(manifold: Task) -> None:
    exact, narrow, blind = (values(m, manifold) for m in (Oracle(manifold), Oracle(manifold, 0.5), Blind(manifold)))
    assert exact["spread_ratio"] == pytest.approx(1, abs=0.25) and narrow["spread_ratio"] < 0.5
    assert exact["coverage"] == pytest.approx(0.68, abs=0.04) and narrow["coverage"] < 0.55
    assert exact["chi2"] == pytest.approx(1, abs=0.1) and blind["chi2"] > 100
    assert max(exact["coverage_error"], exact["rank_error"]) < 0.06 < min(blind["coverage_error"], narrow["rank_error"])
    assert 3 * exact["energy_score"] < blind["energy_score"] and exact["energy_score"] < narrow["energy_score"]
    assert exact["prior_kl"] == pytest.approx(0, abs=1e-9)


def test_a_prior_whose_density_fails_has_no_divergence_and_ends_no_job(
    manifold: Task, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Tensor:
        raise MvssError("the integration failed")

    model = Oracle(manifold)
    monkeypatch.setattr(model, "log_prob", fails)
    job = Job("problem", "method", 0, Recipe(), Config(metrics=replace(NONE, kl=4)))
    assert all(math.isnan(value) for pair in prior_kl(model, job, manifold) for value in pair)
    assert "no prior_kl of source 1: the integration failed" in capsys.readouterr().err


def test_draws_that_are_not_finite_have_no_coverage(manifold: Task) -> None:
    class Lost(Oracle):
        def separate(self, view: View, draws: int = 1, seed: int | Stream = 0, progress: object = None) -> Draws:
            return {s: x * math.nan for s, x in super().separate(view, draws, seed).items()}

    lost = values(Lost(manifold), manifold)
    assert all(math.isnan(lost[name]) for name in ("energy_score", "spread_ratio", "coverage", "rank_error", "chi2"))


@pytest.mark.parametrize("shifted", ["view 1", "view 2"])
def test_the_laws_of_draws_are_told_from_those_of_every_scored_view(manifold: Task, shifted: str) -> None:
    """Also where fewer points are compared than one view has."""

    class Shifted(Blind):
        def separate(self, view: View, draws: int = 1, seed: int | Stream = 0, progress: object = None) -> Draws:
            return {s: x + 9.0 * (view.name == shifted) for s, x in super().separate(view, draws, seed).items()}

    def laws(model: Any) -> dict[tuple[str, str], float]:  # noqa: ANN401 - a model of this test
        records: list[dict[str, Any]] = []
        metrics = replace(NONE, sinkhorn=64, paper_sinkhorn=64, pqmass=64, references=8, tessellations=16)
        job = Job("problem", "method", 0, Recipe(), Config(metrics=metrics))
        Scorer(job, manifold, ("1", "2"), Stream(0), records.append).final(model, [{}, {}], priors=False)
        return {(r["source"], r["metric"]): r["value"] for r in records}

    near, far = laws(Blind(manifold)), laws(Shifted(manifold))
    for source in ("1", "2"):
        assert near[source, "posterior_pqmass_chi2"] < 2 < 4 < far[source, "posterior_pqmass_chi2"]
        assert near[source, "posterior_sinkhorn"] < 2 < 10 < far[source, "posterior_sinkhorn"]
    assert near["2", "posterior_sinkhorn_paper"] < 2 < 10 < far["2", "posterior_sinkhorn_paper"]
    assert ("1", "posterior_sinkhorn_paper") not in near  # the paper has it of the newest source alone


def test_evaluations_are_counted_for_every_network_and_only_within() -> None:
    problem = vectors()
    model = SourceSeparator(problem.settings).fit(problem.views, 0, verbose=False)
    view, learned = problem.views[-1], [p for p in model.priors.values() if p.network is not None]
    split = SplitGibbsConfig(levels=3, rounds=2, steps=2)
    with counted(model) as count:
        model.separate(view, 2, 0, posterior=split)
    drawn = sum(prior in learned for source, prior in model.priors.items() if source in view.sources)
    assert drawn and count.rows == 2 * len(view) * drawn * 3 * 2 * 2
    model.separate(view, 1, 0, posterior=split)
    assert count.rows == 2 * len(view) * drawn * 3 * 2 * 2
