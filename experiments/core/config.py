"""Every method as one recipe, and what a preset may say; all experiments share them.

A recipe says which closed-form fit gives the first draws, what the network corrects, how the E-step draws, and how many
laps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mvss.baselines.clvm import CLVMConfig
from mvss.baselines.pcpca import PCPCAConfig
from mvss.estimation.mixture_ascent import MixtureConfig
from mvss.estimation.mixture_em import SharedMixtureConfig
from mvss.posteriors.pipeline import PosteriorConfig, Separation
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.training import TrainingConfig
from mvss.problem.views import MultiViewData, View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

__all__ = [
    "AuditConfig",
    "Bounded",
    "Config",
    "EMConfig",
    "Job",
    "MetricsConfig",
    "Judge",
    "Model",
    "NetworkConfig",
    "OwnModels",
    "OwnScores",
    "Recipe",
    "Task",
    "check_config",
]


@dataclass(frozen=True)
class NetworkConfig:
    """The network of every source: of images a U-Net with `blocks` and `layers`, else, or without blocks, a TimeMLP with the
    rest. variance: whether those of large sources learn it, or leave it to the mixture. dynamic: for images of a large dynamic
    range (`dynamic_range`)."""

    hidden: tuple[int, ...] = (128, 128, 128)
    embedding: int = 64
    conditioning: Literal["film", "concat"] = "film"
    blocks: tuple[int, ...] = (32, 64, 128)
    layers: int = 1
    variance: bool = True
    dynamic: bool = False


@dataclass(frozen=True)
class EMConfig:
    """laps of every stage, unless the recipe says otherwise; relaxation ω of the M-step (1: plain EM).

    Where laps are auto, `held_out` observations of each view stay out of the M-step, and a stage ends when
    their likelihood has stopped to rise (`mvss.em.HeldOut`), or after max_laps.
    """

    laps: int | Literal["auto"] = 3
    relaxation: float = 1.0
    max_laps: int = 32
    held_out: int = 256


@dataclass(frozen=True)
class MetricsConfig:
    """Sample counts of the scores: the same for every method; 0 leaves a score out.

    sinkhorn: points per cloud. lap_sinkhorn: the same for the draws of a lap. paper_sinkhorn: points of the paper's
    form. pqmass: points; references, tessellations: its cells and repetitions. coverage: observations, and
    coverage_draws: draws for each. mean_draws: draws behind a posterior mean, which is scored too. saved: points per cloud
    kept for the figures.
    """

    sinkhorn: int = 2048
    lap_sinkhorn: int = 1024
    paper_sinkhorn: int = 512
    pqmass: int = 1024
    references: int = 100
    tessellations: int = 300
    coverage: int = 256
    coverage_draws: int = 50
    mean_draws: int = 0
    saved: int = 1000


@dataclass(frozen=True)
class AuditConfig:
    """What `make ...-audit` looks at, of the methods named: calibration, with `draws` posterior draws for each of
    `observations` fresh ones; and log p of `candidates` per source at each of `distances` from the truth, in the units of the
    source, at the noise level `sigma`."""

    methods: tuple[str, ...] = ("joint", "mixture", "exact")
    observations: int = 4096
    draws: int = 100
    candidates: int = 256
    distances: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3)
    sigma: float = 0.01

    def __post_init__(self) -> None:
        if not self.distances or self.distances[0] != 0 or min(self.distances[1:], default=1.0) <= 0 or not self.sigma > 0:
            raise MvssError(
                "audit.distances must begin with 0, for the truth itself, and go on positive; sigma must be positive"
            )


@dataclass(frozen=True)
class Recipe:
    """One method.

    problems: those it is run on; null for all. pcpca, clvm: the settings of a baseline, own: the name of one that only this
    experiment has (`OwnModels`); it is then the method, and the rest of the recipe does not matter.
    fit: the closed-form fit that gives the first draws, a key of `Config.fits`; "truth" for the exact priors.
    base: what the network corrects: that mixture, or Karras' skip term.
    network: whether there is one. closed: sources (from 1) that stay their mixture, without a network, all the same.
    architecture: of the networks; null for the configuration's own.
    laps: of every stage, or of each; auto: see `EMConfig`; null for em.laps.
    stages: all sources together, or one after the other as the paper does. relaxation: null for em.relaxation.
    posterior: how the E-step draws, separation: how new observations are separated (null: as the E-step of this recipe, if
    it has one), training: the M-step; null for the configuration's own. amortised_training: the M-step of posteriors that
    networks learn; null for the same. guess_training: of their guesses, on each lap's draws, for views of any operator; null
    where they stay as `noisier2noise` made them, for views at full resolution.
    share: of the observations of each view that are learned from, the first ones. clean: learn from the truth behind the
    training observations instead, with the same fit and M-steps: what is lost beside it, mixing costs; what is missing even so,
    no EM can find. The closed-form fit learns from nothing else, and needs a name of its own in both cases.
    """

    problems: tuple[str, ...] | None = None
    pcpca: PCPCAConfig | None = None
    clvm: CLVMConfig | None = None
    own: str | None = None
    fit: str = "mixture"
    base: Literal["mixture", "karras"] = "mixture"
    network: bool = True
    architecture: NetworkConfig | None = None
    closed: tuple[int, ...] = ()
    laps: int | tuple[int, ...] | Literal["auto"] | None = None
    stages: Literal["together", "sequential"] = "together"
    relaxation: float | None = None
    posterior: PosteriorConfig | None = None
    separation: PosteriorConfig | None = None
    training: TrainingConfig | None = None
    amortised_training: TrainingConfig | None = None
    guess_training: TrainingConfig | None = None
    share: float = 1.0
    clean: bool = False

    @property
    def baseline(self) -> PCPCAConfig | CLVMConfig | str | None:
        """The settings or the name of the baseline that this is, if it is one."""
        return self.pcpca or self.clvm or self.own


@dataclass(frozen=True)
class Config:
    """A preset: problems, sizes, how to fit, and the methods to run.

    posterior: how the E-step draws. separation: how draws that are scored are made.
    workers: jobs at a time; 0 for one per core, or one in all where there is a GPU.
    `make ...-compare` runs `compare` as well, more baselines and ablations; `make ...-ablations` those of `ablations`.
    """

    problems: tuple[str, ...] = ()
    observations: int = 4096
    fresh: int = 2048
    fits: dict[str, MixtureConfig | SharedMixtureConfig] = field(default_factory=dict)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    separation: PosteriorConfig = field(default_factory=PosteriorConfig)
    em: EMConfig = field(default_factory=EMConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    methods: dict[str, Recipe] = field(default_factory=dict)
    compare: dict[str, Recipe] = field(default_factory=dict)
    ablations: dict[str, Recipe] = field(default_factory=dict)
    workers: int = 0

    def recipes(self) -> dict[str, Recipe]:
        """All of them by name."""
        return {**self.methods, **self.compare, **self.ablations}

    def architecture_of(self, recipe: Recipe) -> NetworkConfig:
        """The networks of a recipe."""
        return recipe.architecture or self.network

    def laps(self, recipe: Recipe) -> int | tuple[int, ...] | Literal["auto"]:
        """Of a recipe: its own, or those of all; none without a network."""
        if not recipe.network or recipe.baseline:
            return 0
        return self.em.laps if recipe.laps is None else recipe.laps

    def brought(self, problem: str) -> str:
        """Hash of what a user brought for a problem, which no setting tells; empty where that is nothing."""
        return ""

    def training_of(self, recipe: Recipe) -> TrainingConfig:
        """The M-step of a recipe."""
        return recipe.training or self.training

    def posterior_of(self, recipe: Recipe) -> PosteriorConfig:
        """The E-step of a recipe."""
        return recipe.posterior or self.posterior

    def separation_of(self, recipe: Recipe) -> PosteriorConfig:
        """How a recipe separates new observations."""
        return recipe.separation or recipe.posterior or self.separation


class Task(Protocol):
    """What an experiment supplies for one problem and seed. Truth is by view and source; None where nobody knows it."""

    data_range: float
    train: MultiViewData
    fresh: MultiViewData
    train_truth: Sequence[Sequence[Tensor | None]]
    fresh_truth: Sequence[Sequence[Tensor | None]]
    scored_views: Sequence[int]
    stages: Sequence[tuple[int, ...]]

    def sample_truth(self, source: int, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """Independent truth, `(count, *shape)`; stratified: spread evenly over its law."""

    def training_sources(self, source: int, count: int) -> Tensor:
        """`(count, *shape)` of the sources behind the training observations, spread evenly over them: all that a learner
        could know who had seen each of them clean."""

    def features(self, source: int) -> Callable[[Tensor], Tensor] | None:
        """What Fréchet distances of a source are taken in: `(N, *shape)` to `(N, F)`; None where there is no such thing."""

    def exact_priors(self) -> Sequence[GaussianMixture]:
        """The true priors, where they are known."""


@runtime_checkable
class Bounded(Protocol):
    """A task whose sources can have no values but those between two: draws of every method are cut to that before they are
    scored or shown."""

    support: tuple[float, float]


@runtime_checkable
class OwnScores(Protocol):
    """A task with scores that no other experiment has."""

    def scores(self, source: int, split: str, draws: Mapping[int, Tensor]) -> dict[str, float]:
        """By name, of the draws of a source by view, `(N_α, *shape)`, for the observations of "train" or "fresh"."""


class Judgement(Protocol):
    """scores: by (source, from "1", or "mean"; metric) the value and the number of observations. arrays: for the figures."""

    scores: Mapping[tuple[str, str], tuple[float, int]]
    arrays: Mapping[str, np.ndarray]


@runtime_checkable
class Judge(Protocol):
    """A task with scores of its own that need the model, not one draw for each observation."""

    def judge(self, model: Model, stream: Stream) -> Judgement:
        """Scores of a model as fitted."""


@runtime_checkable
class OwnModels(Protocol):
    """A task with methods that no other experiment has, and that nothing is learned for."""

    def own_model(self, name: str) -> Model:
        """By name. They have no prior, and give no draws of one."""


class Model(Protocol):
    """What is scored: a pipeline of ours, or a baseline. sources: the numbers of those that it separates."""

    sources: tuple[int, ...]

    def posterior_sample(self, view: View, stream: Stream, /) -> Separation:
        """One draw of each of `sources` that the view shows, per observation."""

    def posterior_samples(
        self, view: View, stream: Stream, draws: int, progress: Callable[[float], None] = ..., /
    ) -> tuple[Tensor, ...]:
        """`(draws, N, *shape)` of each of those."""

    def prior_sample(self, source: int, count: int, stream: Stream, stratified: bool = False) -> Tensor:
        """`(count, *shape)` draws of a source."""


@dataclass(frozen=True)
class Job:
    """One method on one problem with one seed; `audit`: not its fit and scores, but its audit."""

    problem: str
    method: str
    seed: int
    recipe: Recipe
    config: Config
    audit: bool = False


def check_config(config: Config) -> None:
    """Refuse at the start what would only fail at the end."""
    for name, recipe in config.recipes().items():
        if sum(setting is not None for setting in (recipe.pcpca, recipe.clvm, recipe.own)) > 1:
            raise MvssError(f"method {name}: is either pcpca, clvm or own; leave the others out")
        if recipe.clean and config.laps(recipe) == "auto":
            raise MvssError(f"method {name}: laps=auto is for mixtures, and this one learns from clean sources: give a number")
        if config.laps(recipe) == "auto" and recipe.network and config.posterior_of(recipe).amortised:
            raise MvssError(f"method {name}: laps=auto judges priors, but amortised posteriors learn none: give a number")
        if config.laps(recipe) == "auto" and not 0 < config.em.held_out < config.observations:
            raise MvssError(f"method {name}: laps=auto needs 0 < em.held_out < observations, not {config.em.held_out}")
        rivals = [
            n for n, r in config.recipes().items() if r.fit == recipe.fit and (r.share, r.clean) != (recipe.share, recipe.clean)
        ]
        if not 0 < recipe.share <= 1 or ((recipe.share < 1 or recipe.clean) and rivals):
            other = f" of its own, not that of {', '.join(rivals)}" if rivals else ""
            raise MvssError(f"method {name}: share={recipe.share} must be in (0, 1], and share and clean need a fit{other}")
        if recipe.clean and getattr(config.fits.get(recipe.fit), "noisier2noise", None):
            raise MvssError(f"method {name}: clean sources need no noisier2noise: name another fit")
        if recipe.fit != "truth" and recipe.fit not in config.fits:
            raise MvssError(f"method {name}: fit={recipe.fit!r} is not among fits: {', '.join(config.fits)}, truth")
    if rivals := [n for n, r in config.recipes().items() if r.baseline and n in config.audit.methods]:
        raise MvssError(f"audit.methods names {', '.join(rivals)}: the audit is for pipelines, not for baselines")
    m = config.metrics
    for metric, among in (("sinkhorn", "fresh"), ("lap_sinkhorn", "observations"), ("paper_sinkhorn", "fresh")):
        needed, there = getattr(m, metric), getattr(config, among)
        if needed > there:
            raise MvssError(f"metrics.{metric}={needed} needs as many draws, there are {among}={there}: lower it")
    points = m.pqmass + min(m.pqmass, config.fresh)
    if m.pqmass and points < 4 * m.references:
        raise MvssError(f"metrics.references={m.references} needs {4 * m.references} points, not {points}: lower it")
