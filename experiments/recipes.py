"""Every method as one recipe, and one way to run and score a recipe on a problem; all experiments share this loop.

    first draws (exact, under a fitted mixture) → EM laps of M-step and E-step → separate fresh observations → scores

A recipe says which closed-form fit gives the first draws, what the network corrects, how the E-step draws, and how many
laps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from mvss.checkpoints import load_checkpoint, save_checkpoint
from mvss.data import MultiViewData
from mvss.denoisers import Denoiser, karras_base
from mvss.em import Draws, Stage, run_em
from mvss.errors import MvssError
from mvss.metrics.calibration import coverage_error, informed_references, tarp_coverage
from mvss.metrics.images import psnr
from mvss.metrics.pqmass import pqmass
from mvss.metrics.transport import sinkhorn_divergence, sinkhorn_divergence_paper
from mvss.mixture import GaussianMixture
from mvss.mixture_fit import MixtureConfig, fit_mixtures
from mvss.mixture_posterior import DenseView, MixturePosterior
from mvss.networks import TimeMLP
from mvss.pipeline import PosteriorConfig, SourceSeparationPipeline, mixture_from_state, mixture_state
from mvss.records import peak_memory_gib
from mvss.rng import Stream
from mvss.training import TrainingConfig, denoising_loss

__all__ = [
    "Config",
    "EMConfig",
    "Job",
    "MetricsConfig",
    "NetworkConfig",
    "Recipe",
    "Task",
    "build_pipeline",
    "check_config",
    "first_draws",
    "run_job",
]

Record = dict[str, Any]


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

    sinkhorn: points per cloud. repeats: independent truths that a divergence is averaged over. paper_sinkhorn: points
    of the paper's form. pqmass: points; references, tessellations: its cells and repetitions. coverage: observations,
    and coverage_draws: draws for each; 0 leaves coverage out. saved: points per cloud kept for the figures.
    """

    sinkhorn: int = 1024
    repeats: int = 3
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

    def sample_truth(self, source: int, count: int, rng: torch.Generator) -> Tensor:
        """Independent truth, `(count, *shape)`."""

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
    for metric, needed in (("sinkhorn", m.sinkhorn), ("paper_sinkhorn", m.paper_sinkhorn)):
        if needed > config.fresh:
            raise MvssError(f"metrics.{metric}={needed} needs as many draws, there are fresh={config.fresh}: lower it")
    points = m.pqmass + min(m.pqmass, config.fresh, m.sinkhorn * m.repeats)
    if points < 4 * m.references:
        raise MvssError(f"metrics.references={m.references} needs {4 * m.references} points, not {points}: lower it")


def run_job(
    job: Job, task: Task, folder: Path, append: Callable[[Record], None], progress: Callable[[float], None]
) -> dict[str, np.ndarray]:
    """Fit, run and score; everything that a resumed run needs is kept in `folder`. Returns arrays for the figures.

    append: takes every record. progress: takes the fraction done.
    """
    config, recipe = job.config, job.recipe
    stream = Stream(job.seed, (job.problem, job.method))
    score = _Scorer(job, task, stream.child("score"), append)
    priors, seconds = _priors(job, task, folder.parent, append, lambda done: progress(0.4 * done))
    began = time.monotonic()
    pipeline = build_pipeline(job, task, priors)
    groups = [tuple(range(len(priors)))] if recipe.stages == "together" else task.stages
    stages = [Stage(tuple(g), n) for g, n in zip(groups, _laps(config, recipe, len(groups)), strict=True)]
    laps = sum(stage.laps for stage in stages)
    # What the laps so far have left beside run_em's own checkpoint: a resumed run must report the same.
    kept = folder / "laps.pt"
    before = load_checkpoint(kept) if kept.exists() else {"arrays": {}, "evaluations": 0, "seconds": 0.0}
    evaluations, spent = before["evaluations"], before["seconds"]
    score.saved |= {name: array.numpy() for name, array in before["arrays"].items()}

    def on_lap(record: Record, draws: Draws) -> None:
        nonlocal evaluations
        evaluations = record["network_evaluations"]
        score.lap(record, draws)
        arrays = {name: torch.from_numpy(array) for name, array in score.saved.items()}
        so_far = spent + time.monotonic() - began
        save_checkpoint(kept, {"arrays": arrays, "evaluations": evaluations, "seconds": so_far})
        progress(0.4 + 0.4 * record["lap"] / max(1, laps))

    beam = (recipe.posterior or config.posterior).beam
    first = first_draws(task, priors, beam, Stream(job.seed, (job.problem, recipe.fit)))
    relaxation = config.em.relaxation if recipe.relaxation is None else recipe.relaxation
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    draws = run_em(
        task.train,
        pipeline.denoisers,
        first,
        stages,
        recipe.training or config.training,
        pipeline.config,
        stream.child("em"),
        accelerator,
        relaxation,
        folder / "em.pt",
        on_lap,
    )
    spent += time.monotonic() - began
    separator = SourceSeparationPipeline(pipeline.denoisers, recipe.separation or recipe.posterior or config.separation)
    if recipe.network and separator.config != pipeline.config:
        draws = [
            list(separator.separate(view, stream.child("last", alpha), start).draws)
            for alpha, (view, start) in enumerate(zip(task.train.views, draws, strict=True))
        ]
    fresh = score.final(separator, draws)
    if recipe.network:
        score.memory(pipeline.denoisers, build_pipeline(job, task, priors).denoisers, draws, fresh)
    observations = sum(len(view) for view in task.train.views)
    score.add("mean", "network_evaluations", evaluations / observations, observations)
    score.add("mean", "laps", laps, 1)
    score.add("mean", "wall_seconds", seconds + spent, 1)
    score.add("mean", "peak_memory_gib", peak_memory_gib(), 1)
    if recipe.network:
        separator.save_pretrained(folder / "pipeline")
    progress(1.0)
    return score.saved


def _laps(config: Config, recipe: Recipe, stages: int) -> tuple[int, ...]:
    """Laps of each stage."""
    laps = config.em.laps if recipe.laps is None else recipe.laps
    if not recipe.network:
        laps = 0
    if isinstance(laps, int):
        return (laps,) * stages
    if len(laps) < stages:
        raise MvssError(f"laps={list(laps)} are fewer than the {stages} stages: give one number for each")
    return laps[:stages]


def _priors(
    job: Job, task: Task, folder: Path, append: Callable[[Record], None], progress: Callable[[float], None]
) -> tuple[Sequence[GaussianMixture], float]:
    """The closed-form priors that a recipe starts from, fitted once per problem and seed; and what the fit took."""
    name = job.recipe.fit
    if name == "truth":
        return task.exact_priors(), 0.0
    path = folder / f"fit-{name}.pt"
    if path.exists():
        state = load_checkpoint(path)
    else:
        began = time.monotonic()
        mixture = job.config.fits[name]
        stream = Stream(job.seed, (job.problem, "fit", name))
        fit = fit_mixtures(task.train, mixture, stream, progress=lambda step, _: progress(step / mixture.total_steps))
        state = {
            "priors": [mixture_state(p) for p in fit.priors],
            "seconds": time.monotonic() - began,
            "evidence": {"held_out": fit.held_out, "train": fit.train, "discarded": fit.discarded},
        }
        save_checkpoint(path, state)
    for key, value in state["evidence"].items():
        append({"source": "mean", "metric": f"fit_{key}", "split": "train", "lap": None, "value": value, "samples": 1})
    return [mixture_from_state(s) for s in state["priors"]], state["seconds"]


def build_pipeline(job: Job, task: Task, priors: Sequence[GaussianMixture]) -> SourceSeparationPipeline:
    """Denoisers with networks that are zero at the start."""
    denoisers = []
    for beta, (prior, shape) in enumerate(zip(priors, task.train.source_shapes, strict=True)):
        spread = float(prior.covariances.diagonal(dim1=1, dim2=2).mean(1) @ prior.weights)
        spread += float(prior.weights @ (prior.means - prior.weights @ prior.means).square().mean(1))
        sigma_data = math.sqrt(spread)
        network = None
        if job.recipe.network:
            with torch.random.fork_rng():
                torch.manual_seed(Stream(job.seed, ("network", beta)).generator().initial_seed())
                n, size = job.config.network, prior.dimension
                network = TimeMLP(size, n.hidden, n.embedding, n.conditioning, inputs=2 * size)
        base = prior if job.recipe.base == "mixture" else karras_base(prior.dimension, sigma_data)
        denoisers.append(Denoiser(base, network, shape, sigma_data))
    return SourceSeparationPipeline(denoisers, job.recipe.posterior or job.config.posterior)


def first_draws(task: Task, priors: Sequence[GaussianMixture], beam: int, stream: Stream) -> Draws:
    draws = []
    for alpha, view in enumerate(task.train.views):
        posterior = MixturePosterior([priors[b] for b in view.shown], beam=beam)
        flat = posterior.draw(DenseView.of(view), stream.child("first", alpha))
        draws.append([x.reshape(-1, *task.train.source_shapes[b]) for b, x in zip(view.shown, flat, strict=True)])
    return draws


class _Scorer:
    """All scores of one job."""

    def __init__(self, job: Job, task: Task, stream: Stream, append: Callable[[Record], None]) -> None:
        self.job, self.task, self.stream, self._append = job, task, stream, append
        self.metrics = job.config.metrics
        self.saved: dict[str, np.ndarray] = {}
        # The same independent truth for every method: its key names no method.
        truth = Stream(job.seed, (job.problem, "independent"))
        count = max(self.metrics.sinkhorn, self.metrics.paper_sinkhorn, self.metrics.pqmass)
        self.truth = [
            [task.sample_truth(b, count, truth.generator(b, repeat)).flatten(1) for repeat in range(self.metrics.repeats)]
            for b in range(len(task.train.source_shapes))
        ]

    def add(self, source: str, metric: str, value: float, samples: int, split: str = "fresh", lap: int | None = None) -> None:
        """One record."""
        value = value if math.isfinite(value) else None  # type: ignore[assignment]
        self._append({"source": source, "metric": metric, "split": split, "lap": lap, "value": value, "samples": samples})

    def lap(self, record: Record, draws: Draws) -> None:
        """Scores of the training draws of a lap, and what the lap cost."""
        lap = record["lap"]
        for key, value in record.items():
            if isinstance(value, int | float) and key != "lap":
                self.add("mean", key, float(value), 1, "train", lap)
        self._draws(draws, self.task.train, self.task.train_truth, "train", lap)

    def memory(self, trained: Sequence[Denoiser], untrained: Sequence[Denoiser], train: Draws, fresh: Draws) -> None:
        """What the network adds, on draws it was fitted to and on draws of fresh observations: the denoising loss as a
        share of the loss without it. A network that memorises gains on the former only."""
        task, training = self.task, self.job.recipe.training or self.job.config.training
        for draws, data, split in ((train, task.train, "train"), (fresh, task.fresh, "fresh")):
            for b, (new, old) in enumerate(zip(trained, untrained, strict=True)):
                pool = [
                    draws[a][data.views[a].shown.index(b)] for a in range(len(draws)) if draws[a] and b in data.views[a].shown
                ]
                x, keyed = torch.cat(pool), self.stream.child("memory", b)
                if bool(torch.isfinite(x).all()):
                    ratio = denoising_loss(new, x, training, keyed) / denoising_loss(old, x, training, keyed)
                    self.add(str(b + 1), "denoising_loss_ratio", ratio, len(x), split)

    def final(self, pipeline: SourceSeparationPipeline, draws: Draws) -> Draws:
        """Scores of the training draws and of fresh observations, with the model as fitted. Returns the fresh draws."""
        self._draws(draws, self.task.train, self.task.train_truth, "train", None)
        fresh: Draws = [[] for _ in self.task.fresh.views]
        began, count = time.monotonic(), 0
        for alpha in self.task.scored_views:
            view = self.task.fresh.views[alpha]
            fresh[alpha] = list(pipeline.separate(view, self.stream.child("fresh", alpha)).draws)
            count += len(view)
        self.add("mean", "seconds_per_draw", (time.monotonic() - began) / count, count)
        self._draws(fresh, self.task.fresh, self.task.fresh_truth, "fresh", None)
        for b in range(len(pipeline.denoisers)):
            prior = pipeline.sample(b, self.metrics.sinkhorn * self.metrics.repeats, self.stream.child("prior", b)).flatten(1)
            self._laws(str(b + 1), "prior", prior, b, "fresh")
            self.saved[f"prior_{b + 1}"] = self._few(prior)
        if self.metrics.coverage:
            self._coverage(pipeline)
        return fresh

    def _few(self, x: Tensor) -> np.ndarray:
        return x[: self.metrics.saved].flatten(1).float().numpy()

    def _draws(self, draws: Draws, data: MultiViewData, truth: Sequence[Sequence[Tensor]], split: str, lap: int | None) -> None:
        views = [a for a in self.task.scored_views if draws[a]]
        for b in range(len(data.source_shapes)):
            showing = [a for a in views if b in data.views[a].shown]
            pairs = [(draws[a][data.views[a].shown.index(b)], truth[a][b]) for a in showing]
            found, true = (torch.cat(t).flatten(1) for t in zip(*pairs, strict=True))
            source = str(b + 1)
            decibels = psnr(found, true, self.task.data_range)
            self.add(source, "posterior_psnr", float(decibels.mean()), len(found), split, lap)
            # interleave the views, so that a part of the draws holds both
            mixed = torch.stack([x for x, _ in pairs], dim=1).flatten(0, 1).flatten(1)
            name = "posterior" if lap is None else f"lap{lap}"
            if split == "fresh" or lap is not None:
                self.saved[f"{name}_{b + 1}"] = self._few(mixed)
                paired = torch.stack([x for _, x in pairs], dim=1).flatten(0, 1).flatten(1)
                self.saved[f"{'lap_truth' if lap is not None else 'truth'}_{b + 1}"] = self._few(paired)
            if lap is not None:
                n = min(self.metrics.sinkhorn, len(mixed))
                self.add(source, "posterior_sinkhorn", _divergence(mixed[:n], self.truth[b][0][:n]), n, split, lap)
            elif split == "fresh":
                self._laws(source, "posterior", mixed, b, split)
                outside = float((mixed.abs() > self.task.data_range).any(1).double().mean())
                self.add(source, "fraction_outside", outside, len(mixed), split)

    def _laws(self, source: str, kind: str, x: Tensor, b: int, split: str) -> None:
        m = self.metrics
        values = []
        for repeat, truth in enumerate(self.truth[b]):
            part = x[repeat * m.sinkhorn : (repeat + 1) * m.sinkhorn]
            if len(part) == m.sinkhorn:
                values.append(_divergence(part, truth[: m.sinkhorn]))
        if not values:
            raise MvssError(f"metrics.sinkhorn={m.sinkhorn} needs as many draws, there are {len(x)}: lower it")
        self.add(source, f"{kind}_sinkhorn", float(np.mean(values)), m.sinkhorn * len(values), split)
        finite = bool(torch.isfinite(x).all())
        n = m.paper_sinkhorn
        paper = sinkhorn_divergence_paper(x[:n], self.truth[b][0][:n], n) if finite else math.nan
        self.add(source, f"{kind}_sinkhorn_paper", paper, n, split)
        n = min(m.pqmass, len(x))
        if finite:
            mass = pqmass(x[:n], self.truth[b][0][: m.pqmass], m.references, m.tessellations, self.job.seed)
            self.add(source, f"{kind}_pqmass", mass.p_value, n, split)
            self.add(source, f"{kind}_pqmass_chi2", mass.chi2_per_dof, n, split)
        self.saved.setdefault(f"independent_{source}", self._few(self.truth[b][0]))

    def _coverage(self, pipeline: SourceSeparationPipeline) -> None:
        """TARP coverage of joint draws, with references that depend on y: A⁺y plus noise."""
        alpha, m = self.task.scored_views[-1], self.metrics
        count = min(m.coverage, len(self.task.fresh.views[alpha]))
        rows = torch.arange(count)
        view = self.task.fresh.views[alpha].select(rows)
        truth = torch.cat([self.task.fresh_truth[alpha][b][:count].flatten(1) for b in view.shown], dim=1)
        many = view.select(rows.repeat(m.coverage_draws))
        found = pipeline.separate(many, self.stream.child("coverage")).draws
        draws = torch.cat([x.flatten(1) for x in found], dim=1).reshape(m.coverage_draws, count, -1)
        dense = DenseView.of(view)
        estimate = torch.einsum("ndm,nm->nd", torch.linalg.pinv(torch.cat(dense.matrices, dim=-1)), dense.y)
        rng = Stream(self.job.seed, (self.job.problem, "references")).generator()
        references = informed_references(estimate, 0.5, rng)
        levels = torch.linspace(0, 1, 51, dtype=torch.float64)
        expected = tarp_coverage(draws, truth, references, levels)
        self.add("mean", "coverage_error", coverage_error(expected, levels), count)
        self.saved["coverage_levels"], self.saved["coverage_expected"] = levels.numpy(), expected.numpy()


def _divergence(x: Tensor, y: Tensor) -> float:
    if not bool(torch.isfinite(x).all()):
        return math.nan
    return float(sinkhorn_divergence(x, y))
