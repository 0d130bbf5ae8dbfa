"""Scores of draws that are given, beside truth that is given: what each is can be told by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from closed_forms import ball
from torch import Tensor

from experiments.core.config import Config, Job, MetricsConfig, Recipe
from experiments.core.drawn import Drawn
from experiments.core.prior_kl import prior_kl
from experiments.core.scores import Scorer
from mvss import NetworkConfig, PriorConfig, Settings, SplitGibbsConfig, TrainingConfig
from mvss.em import Lap
from mvss.estimation.estimate import Estimate
from mvss.metrics.spread import spread_ratio
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import TimeMLP
from mvss.problem.views import Draws, View, Views
from mvss.runtime.rng import Stream
from mvss.separator import SourceSeparator

NONE = MetricsConfig(sinkhorn=0, lap_sinkhorn=0, paper_sinkhorn=0, pqmass=0, saved=8)
RNG = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


class Given:
    """A task whose views show the sources that they have truth of, `(N, D)`."""

    data_range = 2.0

    def __init__(self, fresh: Sequence[Draws], train: Sequence[Draws] = ()) -> None:
        self.fresh, self.train = _views(fresh), _views(train or fresh)
        self.fresh_truth = [[truth.get(source) for source in self.train.sources] for truth in fresh]
        self.train_truth = [[truth.get(source) for source in self.train.sources] for truth in train or fresh]
        self.scored_views = range(len(fresh))

    def sample_truth(self, source: int, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        return torch.zeros(count, *self.train.shapes[self.train.sources[source]], dtype=torch.float64)

    def training_sources(self, source: int, count: int) -> Tensor:
        raise NotImplementedError

    def exact_priors(self) -> Sequence[GaussianMixture]:
        raise NotImplementedError


def _views(truths: Sequence[Draws]) -> Views:
    """Views that see every number of their sources."""
    shown = [{source: torch.eye(x.shape[1], dtype=torch.float64) for source, x in truth.items()} for truth in truths]
    return Views(
        View(sum(truth.values(), torch.zeros(1)), operators, 1.0) for truth, operators in zip(truths, shown, strict=True)
    )


class Told:
    """A model of source "a" alone, which gives one draw of each observation, or several others, and one of the prior."""

    sources = ("a",)

    def __init__(self, one: Tensor, several: Tensor | None = None, prior: Tensor | None = None) -> None:
        self.one, self.several, self.prior = one, several, one[0] if prior is None else prior

    def separate(self, view: View, draws: int = 1, seed: int | Stream = 0, progress: object = None) -> Draws:
        return {"a": self.one.unsqueeze(0) if draws == 1 or self.several is None else self.several}

    def sample(self, source: str, count: int, seed: int | Stream = 0, stratified: bool = False) -> Tensor:
        return self.prior.expand(count, *self.prior.shape)


def job(**metrics: int | float) -> Job:
    return Job("problem", "method", 0, Recipe(), Config(metrics=replace(NONE, **metrics)))


def scorer(task: Any, of: Job) -> tuple[Scorer, list[dict[str, Any]]]:  # noqa: ANN401 - a task of this test
    records: list[dict[str, Any]] = []
    return Scorer(of, task, task.train.sources, Stream(0), records.append), records


def decibels(*errors: float) -> float:
    """Mean over squared errors, of a range of 2."""
    return sum(10 * math.log10(4 / error) for error in errors) / len(errors)


def test_posterior_draws_are_compared_with_training_sources_and_prior_draws_with_those_that_are_scored() -> None:
    class Few(Given):
        """3 clean sources that are scored, and 5 behind the training observations."""

        def clean(self, source: int) -> tuple[Tensor, Tensor]:
            return torch.zeros(3, 2), torch.zeros(5, 2)

        def clean_split(self, source: int, number: int) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

        def comparable(self, source: int, x: Tensor) -> Tensor:
            return x

        def distances(self, source: int, x: Tensor, reference: Tensor) -> dict[str, float]:
            return {"drawn": len(x), "references": len(reference)}

    score, records = scorer(Few([{"a": normal(4, 2)}]), job())
    score.final(Told(normal(4, 2)), [{}])
    found = {record["metric"]: record["value"] for record in records}
    assert (found["posterior_drawn"], found["posterior_references"]) == (4, 5)
    assert (found["prior_drawn"], found["prior_references"]) == (5, 3)


def test_draws_are_cut_to_the_support_and_scored_as_by_hand() -> None:
    """Draws of -9 and 9 are ones of -4 and 4. Intervals are of the first number alone: the second never varies."""

    class Cut(Given):
        support = (-4.0, 4.0)

    learned = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    one = torch.tensor([[1.0, 0.0], [-9.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
    # of the first number, of which the truth is in the middle: eight for the mean of -3/8, and eight others
    several = torch.full((16, 3, 2), 0.5, dtype=torch.float64)
    several[..., 0] = torch.tensor([9.0, *[-1.0] * 7, *[1.0] * 8]).unsqueeze(1)
    task = Cut([{"a": torch.zeros(3, 2, dtype=torch.float64)}], [{"a": learned}])
    score, records = scorer(task, job(drawn=3, draws=16))
    drawn = [{"a": torch.tensor([-9.0, 0.0]).expand(3, 2)}]
    score.lap(Lap(1, {}, drawn))
    score.final(Told(one, several, torch.tensor([9.0, -9.0])), drawn)
    found = {(record["metric"], record["split"], record["lap"]): (record["value"], record["samples"]) for record in records}
    expected = {
        ("posterior_psnr", "train", 1): (decibels(9 / 2, 16 / 2, 25 / 2), 3),
        ("posterior_psnr", "train", None): (decibels(9 / 2, 16 / 2, 25 / 2), 3),
        ("posterior_psnr", "fresh", None): (decibels(1 / 2, 16 / 2, 1 / 8), 3),
        ("posterior_psnr_inside", "fresh", None): (decibels(1 / 2, 1 / 8), 2),
        ("fraction_outside", "fresh", None): (1 / 3, 3),
        ("posterior_mean_psnr", "fresh", None): (decibels((9 / 64 + 1 / 4) / 2), 3),
        ("coverage", "fresh", None): (1.0, 3),
    }
    for name, pair in expected.items():
        assert found[name] == pytest.approx(pair), name
    np.testing.assert_array_equal(score.saved["prior_1"], np.tile([4.0, -4.0], (8, 1)))


def test_the_divergence_of_shifted_gaussians_is_its_closed_form() -> None:
    """N(0, s²) beside N(δ, s²), both blurred by σ: δ² / 2 (s² + σ²), with the error δ / √(s² + σ²) / √n of n points."""
    s, sigma, count, shifts = 0.7, 0.9, 4096, {"a": 1.5, "b": -0.5}

    def gaussian(mean: float) -> GaussianMixture:
        return GaussianMixture(torch.ones(1), torch.full((1, 1), mean), torch.zeros(1, 1, 0), s)

    class Law(Given):
        def sample_truth(self, source: int, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
            return s * torch.randn(count, 1, generator=rng, dtype=torch.float64)

        def exact_priors(self) -> Sequence[GaussianMixture]:
            return [gaussian(0.0)] * 2

    class Shifted(Told):
        def log_prob(self, source: str, x: Tensor, sigma: float | None = None) -> Tensor:
            return gaussian(shifts[source]).log_prob(x, sigma or 0.0)

    task = Law([{"a": normal(1, 1), "b": normal(1, 1)}])
    found = prior_kl(Shifted(normal(1, 1)), job(kl=count, kl_sigma=sigma), task)
    for (value, error), shift in zip(found, shifts.values(), strict=True):
        closed = abs(shift) / math.sqrt((s**2 + sigma**2) * count)
        assert error == pytest.approx(closed, rel=0.05)
        assert value == pytest.approx(shift**2 / 2 / (s**2 + sigma**2), abs=4 * closed)


def errors(truths: Sequence[Draws], draws: dict[int, Draws]) -> dict[str, float]:
    """Standard errors of spread ratios, by source."""
    task = Given(truths)
    scores = Drawn(job(), task, dict(enumerate(task.fresh)), draws).scores()
    return {source: value for source, metric, value, _ in scores if metric == "spread_ratio_standard_error"}


@pytest.mark.parametrize(("mirrored", "share"), [(True, 1.0), (False, 2**-0.5)])
def test_the_error_of_the_mean_over_sources_is_no_smaller_where_they_mirror_each_other(mirrored: bool, share: float) -> None:
    truth, draws = normal(2000, 3), normal(8, 2000, 3)
    other = (-truth, -draws) if mirrored else (normal(2000, 3), normal(8, 2000, 3))
    found = errors([{"a": truth, "b": other[0]}], {0: {"a": draws, "b": other[1]}})
    assert found["mean"] == pytest.approx(share * found["1"], rel=1e-9 if mirrored else 0.1)


def test_the_error_of_the_mean_over_sources_is_of_observations_that_views_share() -> None:
    """b is in the second view alone, and mirrors a there; beside the jackknife over observations of both views."""
    truth, draws = normal(120, 3), normal(8, 120, 3)
    first, second = torch.arange(120).split(60)
    found = errors(
        [{"a": truth[first]}, {"a": truth[second], "b": -truth[second]}],
        {0: {"a": draws[:, first]}, 1: {"a": draws[:, second], "b": -draws[:, second]}},
    )

    def mean_without(row: int) -> float:
        every, shared = (rows[rows != row] for rows in (torch.arange(120), second))
        return sum(spread_ratio(draws[:, rows], truth[rows])[0] for rows in (every, shared)) / 2

    left_out = torch.tensor([mean_without(row) for row in range(120)], dtype=torch.float64)
    assert found["mean"] == pytest.approx(float(left_out.std(correction=0)) * 119**0.5, rel=0.05)


def test_the_loss_beside_an_untrained_network_is_one_and_the_square_of_what_a_useless_one_adds() -> None:
    """The mixture is the law of the source, so that what is left for the network has mean 0 and variance 1 at every level."""
    s, scale, adds = 0.5, 10.0, 2.0
    network = TimeMLP(3, hidden=(4,), embedding=2, inputs=6)
    torch.nn.init.constant_(network.output.bias, adds)
    priors = {"a": DiffusionPrior(ball((3,), s), network, s), "b": ball((3,), s)}
    model: Any = SimpleNamespace(priors=priors, units=SimpleNamespace(scales={"a": scale, "b": scale}))
    task = Given([{"a": normal(1, 3), "b": normal(1, 3)}])
    score, records = scorer(task, replace(job(), recipe=Recipe(settings=Settings(training=TrainingConfig(sigma_min=0.02)))))
    score.memory(model, [{"a": scale * s * normal(2000, 3)}], [{"a": scale * s * normal(3000, 3)}])
    assert [(r["source"], r["metric"], r["split"], r["samples"]) for r in records] == [
        ("1", "denoising_loss_ratio", "train", 2000),
        ("1", "denoising_loss_ratio", "fresh", 3000),
    ]
    assert [record["value"] for record in records] == pytest.approx([1 + adds**2] * 2, rel=0.05)


@pytest.mark.filterwarnings("ignore:.*chi2 per number of draws")
def test_the_evaluations_of_a_draw_are_those_of_every_network_at_every_step() -> None:
    split = SplitGibbsConfig(levels=3, rounds=2, steps=2)
    settings = Settings(prior=PriorConfig(NetworkConfig(hidden=(4,), embedding=2)), separation=split)
    task = Given([{"a": normal(5, 2), "b": normal(5, 2)}])
    model = SourceSeparator(settings).begin(task.fresh, Estimate({s: ball((2,), 1.0) for s in "ab"}), 0)
    score, records = scorer(task, job())
    score.final(model, [{}], priors=False)
    (found,) = (record for record in records if record["metric"] == "evaluations_per_draw")
    assert (found["source"], found["value"], found["samples"]) == ("mean", 2 * 3 * 2 * 2, 5)
