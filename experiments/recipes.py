"""Every method as one recipe, and what a preset may say; all experiments share them.

A recipe says which closed-form fit gives the first draws, what the network corrects, how the E-step draws, and how many
laps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from mvss.data import MultiViewData
from mvss.errors import MvssError
from mvss.mixture import GaussianMixture
from mvss.mixture_fit import MixtureConfig
from mvss.pipeline import PosteriorConfig
from mvss.training import TrainingConfig

__all__ = ["Config", "EMConfig", "Job", "MetricsConfig", "NetworkConfig", "Recipe", "Task", "check_config"]


@dataclass(frozen=True)
class NetworkConfig:
    """The TimeMLP of every source."""

    hidden: tuple[int, ...] = (128, 128, 128)
    embedding: int = 64
    conditioning: Literal["film", "concat"] = "film"


@dataclass(frozen=True)
class EMConfig:
    """laps of every stage, unless the recipe says otherwise; relaxation ω of the M-step (1: plain EM)."""

    laps: int = 3
    relaxation: float = 1.0


@dataclass(frozen=True)
class MetricsConfig:
    """Sample counts of the scores: the same for every method.

    sinkhorn: points per cloud. lap_sinkhorn: the same for the draws of a lap. paper_sinkhorn: points of the paper's
    form. pqmass: points; references, tessellations: its cells and repetitions. coverage: observations, and
    coverage_draws: draws for each; 0 leaves coverage out. saved: points per cloud kept for the figures.
    """

    sinkhorn: int = 2048
    lap_sinkhorn: int = 1024
    paper_sinkhorn: int = 512
    pqmass: int = 1024
    references: int = 100
    tessellations: int = 300
    coverage: int = 256
    coverage_draws: int = 50
    saved: int = 1000


@dataclass(frozen=True)
class Recipe:
    """One method.

    fit: the closed-form fit that gives the first draws, a key of `Config.fits`; "truth" for the exact priors.
    base: what the network corrects: that mixture, or Karras' skip term.
    network: whether there is one. laps: of every stage, or of each; null for em.laps.
    stages: all sources together, or one after the other as the paper does. relaxation: null for em.relaxation.
    posterior: how the E-step draws, separation: how new observations are separated (null: as the E-step of this recipe, if
    it has one), training: the M-step; null for the configuration's own.
    """

    fit: str = "mixture"
    base: Literal["mixture", "karras"] = "mixture"
    network: bool = True
    laps: int | tuple[int, ...] | None = None
    stages: Literal["together", "sequential"] = "together"
    relaxation: float | None = None
    posterior: PosteriorConfig | None = None
    separation: PosteriorConfig | None = None
    training: TrainingConfig | None = None


@dataclass(frozen=True)
class Config:
    """A preset: problems, sizes, how to fit, and the methods to run.

    posterior: how the E-step draws. separation: how draws that are scored are made.
    workers: jobs at a time; 0 for one per core, or one in all where there is a GPU.
    `make ...-compare` runs `compare` as well, on all problems, and `ablations` on `ablation_problems`.
    """

    problems: tuple[str, ...] = ()
    observations: int = 4096
    fresh: int = 2048
    fits: dict[str, MixtureConfig] = field(default_factory=dict)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    separation: PosteriorConfig = field(default_factory=PosteriorConfig)
    em: EMConfig = field(default_factory=EMConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    methods: dict[str, Recipe] = field(default_factory=dict)
    compare: dict[str, Recipe] = field(default_factory=dict)
    ablations: dict[str, Recipe] = field(default_factory=dict)
    ablation_problems: tuple[str, ...] = ()
    workers: int = 0


class Task(Protocol):
    """What an experiment supplies for one problem and seed."""

    data_range: float
    train: MultiViewData
    fresh: MultiViewData
    train_truth: Sequence[Sequence[Tensor]]
    fresh_truth: Sequence[Sequence[Tensor]]
    scored_views: Sequence[int]
    stages: Sequence[tuple[int, ...]]

    def sample_truth(self, source: int, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """Independent truth, `(count, *shape)`; stratified: spread evenly over its law."""

    def training_sources(self, source: int, count: int) -> Tensor:
        """`(count, *shape)` of the sources behind the training observations, spread evenly over them: all that a learner
        could know who had seen each of them clean."""

    def exact_priors(self) -> Sequence[GaussianMixture]:
        """The true priors, where they are known."""


@dataclass(frozen=True)
class Job:
    """One method on one problem with one seed."""

    problem: str
    method: str
    seed: int
    recipe: Recipe
    config: Config


def check_config(config: Config) -> None:
    """Refuse at the start what would only fail at the end."""
    for name, recipe in {**config.methods, **config.compare, **config.ablations}.items():
        if recipe.fit != "truth" and recipe.fit not in config.fits:
            raise MvssError(f"method {name}: fit={recipe.fit!r} is not among fits: {', '.join(config.fits)}, truth")
    m = config.metrics
    for metric, among in (("sinkhorn", "fresh"), ("lap_sinkhorn", "observations"), ("paper_sinkhorn", "fresh")):
        needed, there = getattr(m, metric), getattr(config, among)
        if needed > there:
            raise MvssError(f"metrics.{metric}={needed} needs as many draws, there are {among}={there}: lower it")
    points = m.pqmass + min(m.pqmass, config.fresh)
    if points < 4 * m.references:
        raise MvssError(f"metrics.references={m.references} needs {4 * m.references} points, not {points}: lower it")
