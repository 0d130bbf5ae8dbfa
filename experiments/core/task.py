"""What an experiment supplies for one problem and seed, and what is scored on it."""

from __future__ import annotations

__all__ = [
    "Adapting",
    "Bounded",
    "Candidates",
    "Density",
    "Judge",
    "Judgement",
    "Model",
    "OwnScores",
    "Rivals",
    "Task",
    "within_support",
]

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.views import Draws, View, Views
from mvss.runtime.rng import Stream
from mvss.separator import SourceSeparator


class Task(Protocol):
    """What an experiment supplies for one problem and seed. Sources are numbered in the order of `train.sources`. Truth is by
    view and source; None where nobody knows it."""

    data_range: float
    train: Views
    fresh: Views
    train_truth: Sequence[Sequence[Tensor | None]]
    fresh_truth: Sequence[Sequence[Tensor | None]]
    scored_views: Sequence[int]

    def sample_truth(self, source: int, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """Independent truth, `(count, *shape)`; stratified: spread evenly over its law."""

    def training_sources(self, source: int, count: int) -> Tensor:
        """`(count, *shape)` of the sources behind the training observations, spread evenly over them: all that a learner
        could know who had seen each of them clean."""

    def exact_priors(self) -> Sequence[GaussianMixture]:
        """The true priors, where they are known."""


@runtime_checkable
class Bounded(Protocol):
    """A task whose sources can have no values but those between two: draws of every method are cut to that before they are
    scored or shown."""

    support: tuple[float, float]


def within_support(task: Task, draws: Draws) -> Draws:
    """Draws cut to what the sources of the task can be."""
    return {s: x.clamp(*task.support) for s, x in draws.items()} if isinstance(task, Bounded) else draws


@runtime_checkable
class Laws(Protocol):
    """A task whose sources are few: laws are compared with clean ones that are not those scored, by
    distances of its own and PQMass.

    posterior    one draw for each scored observation      and the sources behind the training observations
    prior        as many draws as there are of the latter  and the scored sources
    floor        clean sources in both places
    """

    def clean(self, source: int) -> tuple[Tensor, Tensor]:
        """Those that are scored, and those behind the training observations, `(N, *shape)` both; none where nobody knows."""

    def clean_split(self, source: int, number: int) -> tuple[Tensor, Tensor]:
        """As many of each, clean and sharing nothing, another time for each number."""

    def comparable(self, source: int, x: Tensor) -> Tensor:
        """Draws `(N, *shape)` as clean ones are, where those are known with noise alone."""

    def distances(self, source: int, x: Tensor, reference: Tensor) -> dict[str, float]:
        """By name, of `(N, *shape)` from `(M, *shape)`."""


@runtime_checkable
class OwnScores(Protocol):
    """A task with scores that no other experiment has."""

    def scores(self, source: int, split: str, draws: Mapping[int, Tensor]) -> dict[str, float]:
        """By name, of the draws of a source by view, `(N_α, *shape)`, for the observations of "train" or "fresh"."""


@runtime_checkable
class Candidates(Protocol):
    """A task that asks a prior which of two is a source."""

    def candidates(self, source: int) -> tuple[Tensor, Tensor] | None:
        """Clean sources, and what is not quite one, `(N, *shape)` both; None where that is not asked."""


class Judgement(Protocol):
    """scores: by (source, from "1", or "mean"; metric) the value and the number of observations. arrays: for the figures."""

    scores: Mapping[tuple[str, str], tuple[float, int]]
    arrays: Mapping[str, np.ndarray]


@runtime_checkable
class Adapting(Protocol):
    """A task whose sources are not all those that are learned where `Config.learned` says, or whose data the model makes."""

    def adapted(self, model: SourceSeparator) -> tuple[Task, SourceSeparator]:
        """The task, and the model with the laws that it lacks."""


@runtime_checkable
class Judge(Protocol):
    """A task with scores of its own that need the model, not one draw for each observation."""

    def judge(self, model: Model, stream: Stream) -> Judgement:
        """Scores of a model as fitted."""


@runtime_checkable
class Rivals(Protocol):
    """A task with methods that no other experiment has, and that nothing is learned for."""

    def rival(self, name: str) -> Model:
        """By name. They have no prior, and give no draws of one."""


class Model(Protocol):
    """What is scored: a `SourceSeparator`, or a baseline. sources: names of those that it separates."""

    @property
    def sources(self) -> tuple[str, ...]: ...

    def separate(self, view: View, draws: int = 1, seed: int | Stream = 0, progress: Callable[[float], None] = ...) -> Draws:
        """`(draws, N, *shape)` of each of `sources` that the view shows."""

    def sample(self, source: str, count: int, seed: int | Stream = 0, stratified: bool = False) -> Tensor:
        """`(count, *shape)` draws of a source."""


@runtime_checkable
class Density(Protocol):
    """A model that tells how probable a candidate is."""

    def log_prob(self, source: str, x: Tensor, sigma: float | None = None) -> Tensor:
        """log p `(N,)`, in nats, of candidates x `(N, *shape)` of a source blurred by noise of level sigma."""
