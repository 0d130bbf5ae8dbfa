"""One way to run and score a recipe on a problem (those of the baselines: `baselines`).

first draws (exact, under a fitted mixture) → EM laps of M-step and E-step → separate fresh observations → scores
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.core.config import Config, Job, NetworkConfig, Recipe, Task
from experiments.core.scores import Record, Scorer
from mvss.em import Draws, HeldOut, Stage, run_em
from mvss.estimation.mixture_ascent import fit_mixtures
from mvss.estimation.mixture_em import SharedMixtureConfig, estimated, fit_shared_mixtures
from mvss.estimation.noisier2noise import Guess, Noisier2NoiseConfig, estimate_source
from mvss.posteriors.amortised import INPUTS, OUTPUTS, Amortised
from mvss.posteriors.pipeline import LARGE, PosteriorConfig, SourceSeparationPipeline
from mvss.posteriors.view_pairs import pairs_of, tight_factor
from mvss.priors.diffusion import Denoiser, karras_base
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import ImageUNet, TimeMLP
from mvss.priors.training import default_accelerator
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Identity, Zero
from mvss.problem.views import MultiViewData, View
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import PeakMemory
from mvss.runtime.rng import Stream

__all__ = ["Fit", "build_pipeline", "first_draws", "load_model", "run_job"]


def run_job(
    job: Job, task: Task, folder: Path, append: Callable[[Record], None], progress: Callable[[float], None]
) -> dict[str, np.ndarray]:
    """Fit, run and score; everything that a resumed run needs is kept in `folder`. Returns arrays for the figures.

    append: takes every record. progress: takes the fraction done.
    """
    config, recipe = job.config, job.recipe
    task = _fewer(task, recipe.share)
    stream, memory = Stream(job.seed, (job.problem, job.method)), PeakMemory()
    data = _clean(task) if recipe.clean else task.train
    fit = _fitted(job, task, data, folder.parent, append, lambda done: progress(0.4 * done))
    priors = fit.priors
    began = time.monotonic()
    pipeline = build_pipeline(job, task, fit)
    separator = SourceSeparationPipeline(pipeline.denoisers, config.separation_of(recipe), pipeline.amortised)
    beam, keyed = config.posterior_of(recipe).beam, Stream(job.seed, (job.problem, recipe.fit))
    held_out = None
    if config.laps(recipe) == "auto":
        task, aside = _hold_out(task, config.em.held_out)
        data = task.train
        held_out = HeldOut(aside, first_draws(aside, priors, beam, keyed.child("held-out")), separator.config)
    score = Scorer(job, task, separator.sources, stream.child("score"), append)
    groups = [tuple(range(len(priors)))] if recipe.stages == "together" else task.stages
    learning = [tuple(b for b in group if pipeline.denoisers[b].network is not None) for group in groups]
    stages = [Stage(g, n) for g, n in zip(learning, _laps(config, recipe, len(groups)), strict=True) if g]
    most = sum(stage.laps for stage in stages)
    # What the laps so far have left beside run_em's own checkpoint: a resumed run must report the same.
    kept = folder / "laps.pt"
    before = load_checkpoint(kept) if kept.exists() else {"arrays": {}, "laps": 0, "evaluations": 0, "seconds": 0.0}
    laps, evaluations, spent = before["laps"], before["evaluations"], before["seconds"]
    score.saved |= {name: array.numpy() for name, array in before["arrays"].items()}

    def on_lap(record: Record, draws: Draws) -> None:
        nonlocal laps, evaluations, began
        laps, evaluations = record["lap"], record["network_evaluations"]
        if not recipe.clean:
            began += score.lap(record, draws)  # the clock stands still while laps are scored
        arrays = {name: torch.from_numpy(array) for name, array in score.saved.items()}
        so_far = spent + time.monotonic() - began
        save_checkpoint(kept, {"arrays": arrays, "laps": laps, "evaluations": evaluations, "seconds": so_far})
        progress(0.4 + 0.4 * laps / max(1, most))

    first = _with_estimates(data, first_draws(data, priors, beam, keyed), fit.estimates)
    relaxation = config.em.relaxation if recipe.relaxation is None else recipe.relaxation
    accelerator = default_accelerator()
    draws = run_em(
        data,
        pipeline.denoisers,
        first,
        stages,
        config.training_of(recipe),
        pipeline.config,
        stream.child("em"),
        accelerator,
        relaxation,
        folder / "em.pt",
        on_lap,
        held_out,
        pipeline.amortised,
        {beta: list(found) for beta, found in fit.estimates.items()},
        recipe.guess_training,
        recipe.amortised_training,
    )
    spent += time.monotonic() - began
    if recipe.clean:
        draws = first_draws(task.train, priors, beam, keyed.child("mixtures"))
    if recipe.network and (recipe.clean or separator.config != pipeline.config):
        draws = [
            list(separator.posterior_sample(view, stream.child("last", alpha), start).draws)
            for alpha, (view, start) in enumerate(zip(task.train.views, draws, strict=True))
        ]
    fresh = score.final(separator, draws)
    if recipe.network:
        untrained = [denoiser.to(accelerator.device) for denoiser in build_pipeline(job, task, fit).denoisers]
        score.memory(pipeline.denoisers, untrained, draws, fresh)
    observations = sum(len(view) for view in task.train.views)
    score.add("mean", "network_evaluations", evaluations / observations, observations)
    score.add("mean", "laps", laps, 1)
    score.add("mean", "wall_seconds", fit.seconds + spent, 1)
    score.add("mean", "peak_memory_gib", memory.gib(), 1)
    if recipe.network:
        separator.save_pretrained(folder / "pipeline")
    progress(1.0)
    return score.saved


def _laps(config: Config, recipe: Recipe, stages: int) -> tuple[int, ...]:
    """Laps of each stage."""
    laps = config.laps(recipe)
    if laps == "auto":
        laps = config.em.max_laps
    if isinstance(laps, int):
        return (laps,) * stages
    if len(laps) < stages:
        raise MvssError(f"laps={list(laps)} are fewer than the {stages} stages: give one number for each")
    return laps[:stages]


@dataclass(frozen=True)
class Fit:
    """priors: one per source. estimates: of sources (from 0), by view, `(N, *shape)`. networks: weights of the guesses
    that made them, by source. seconds: what the fit took."""

    priors: Sequence[GaussianMixture]
    seconds: float = 0.0
    estimates: Mapping[int, Mapping[int, Tensor]] = field(default_factory=dict)
    networks: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)


def _fitted(
    job: Job,
    task: Task,
    data: MultiViewData,
    folder: Path,
    append: Callable[[Record], None],
    progress: Callable[[float], None],
) -> Fit:
    """The closed-form priors that a recipe starts from, fitted once per problem and seed."""
    name = job.recipe.fit
    if name == "truth":
        return Fit(task.exact_priors())
    path = folder / f"fit-{name}.pt"
    if path.exists():
        state = load_checkpoint(path)
    else:
        began = time.monotonic()
        mixture, half = job.config.fits[name], path.with_suffix(".part")
        stream, evidence, estimates, networks = Stream(job.seed, (job.problem, "fit", name)), {}, {}, {}
        if isinstance(mixture, SharedMixtureConfig):
            if mixture.noisier2noise:
                estimates, networks = _estimates(job, data, mixture.noisier2noise, stream.child("noisier2noise"))
                together = {beta: torch.cat(list(found.values())) for beta, found in estimates.items()}
                data = estimated(data, together, mixture.floor)
            shared = fit_shared_mixtures(data, mixture, task.stages, stream, progress)
            priors, evidence = shared.priors, {"train": shared.evidence[-1]}
        else:
            total = mixture.total_steps
            fit = fit_mixtures(data, mixture, stream, progress=lambda step, _: progress(step / total), checkpoint=half)
            priors, evidence = fit.priors, {"held_out": fit.held_out, "train": fit.train, "discarded": fit.discarded}
        seconds = time.monotonic() - began
        state = {"priors": [p.state() for p in priors], "seconds": seconds, "evidence": evidence}
        state |= {"estimates": estimates, "networks": networks}
        save_checkpoint(path, state)
        half.unlink(missing_ok=True)
    for key, value in state["evidence"].items():
        append({"source": "mean", "metric": f"fit_{key}", "split": "train", "lap": None, "value": value, "samples": 1})
    return Fit([GaussianMixture(**s) for s in state["priors"]], state["seconds"], state["estimates"], state["networks"])


def _estimates(
    job: Job, data: MultiViewData, config: Noisier2NoiseConfig, stream: Stream
) -> tuple[dict[int, dict[int, Tensor]], dict[int, dict[str, Tensor]]]:
    """Of every source that pairs of views tell, by view; and weights of the guesses that made them."""
    found: dict[int, dict[int, Tensor]] = {}
    networks: dict[int, dict[str, Tensor]] = {}
    for beta, shape in enumerate(data.source_shapes):
        guess = _guess(job, beta, shape)
        for pair in pairs_of(data, beta, config.alone):
            if tight_factor(data.views[pair.mixed], beta) is not None:
                x = estimate_source(data, beta, pair, guess, config, stream.child(beta, pair.mixed))
                found.setdefault(beta, {})[pair.mixed] = x
                networks[beta] = dict(guess.network.state_dict())
    return found, networks


def _guess(job: Job, beta: int, shape: tuple[int, ...]) -> Guess:
    """Untrained."""
    return Guess(_seeded(job, ("guess", beta), job.config.network, shape, Guess.INPUTS, Guess.OUTPUTS))


def load_model(job: Job, task: Task, folder: Path) -> SourceSeparationPipeline:
    """The fitted method of a finished job, which has kept its state in `folder`, as it separates new observations."""
    if job.recipe.network:
        return SourceSeparationPipeline.from_pretrained(folder / "pipeline").to(default_accelerator().device)
    data = _clean(task) if job.recipe.clean else task.train
    fit = _fitted(job, task, data, folder.parent, lambda _: None, lambda _: None)
    denoisers = build_pipeline(job, task, fit).denoisers
    return SourceSeparationPipeline(denoisers, job.config.separation_of(job.recipe))


def build_pipeline(job: Job, task: Task, fit: Fit) -> SourceSeparationPipeline:
    """Denoisers with networks that are zero at the start."""
    priors = fit.priors
    denoisers, pipeline_config = [], job.config.posterior_of(job.recipe)
    for beta, (prior, shape) in enumerate(zip(priors, task.train.source_shapes, strict=True)):
        spread = float(prior.covariances.diagonal(dim1=1, dim2=2).mean(1) @ prior.weights)
        spread += float(prior.weights @ (prior.means - prior.weights @ prior.means).square().mean(1))
        sigma_data = math.sqrt(spread)
        network = None
        if job.recipe.network and beta + 1 not in job.recipe.closed:
            architecture = job.config.architecture_of(job.recipe)
            learned = architecture.variance and prior.dimension > LARGE and pipeline_config.solver is None
            network = _seeded(job, ("network", beta), architecture, shape, 2, 2 if learned else 1)
        base = prior if job.recipe.base == "mixture" else karras_base(prior.dimension, sigma_data)
        dynamic = network is not None and job.config.architecture_of(job.recipe).dynamic
        denoisers.append(Denoiser(base, network, shape, sigma_data, dynamic))
    amortised = {}
    anywhere = job.recipe.guess_training is not None
    for beta in range(len(priors) if pipeline_config.amortised and job.recipe.network else 0):
        if beta + 1 not in job.recipe.closed and pairs_of(task.train, beta):
            shape = task.train.source_shapes[beta]
            training = job.recipe.amortised_training or job.config.training_of(job.recipe)
            network = _seeded(job, ("amortised", beta), job.config.architecture_of(job.recipe), shape, INPUTS, OUTPUTS)
            guess = _guess(job, beta, shape) if beta in fit.networks or anywhere else None
            if guess and beta in fit.networks:
                guess.network.load_state_dict(fit.networks[beta])
            amortised[beta] = Amortised.of(network, task.train, beta, guess, training.turns, training.holes, anywhere)
    return SourceSeparationPipeline(denoisers, pipeline_config, amortised)


def _seeded(
    job: Job, key: tuple[str, int], config: NetworkConfig, shape: tuple[int, ...], inputs: int, outputs: int
) -> TimeMLP | ImageUNet:
    """A network whose weights the job's seed and the key determine."""
    with torch.random.fork_rng():
        torch.manual_seed(Stream(job.seed, key).generator().initial_seed())
        return _network(config, shape, inputs, outputs)


def _network(config: NetworkConfig, shape: tuple[int, ...], inputs: int, outputs: int) -> TimeMLP | ImageUNet:
    if len(shape) == 3 and config.blocks:
        return ImageUNet(shape[0], shape[1], inputs, config.blocks, config.layers, outputs)
    size = math.prod(shape)
    return TimeMLP(size, config.hidden, config.embedding, config.conditioning, inputs * size, outputs)


def first_draws(data: MultiViewData, priors: Sequence[GaussianMixture], beam: int, stream: Stream) -> Draws:
    """One exact posterior draw under the priors for every observation."""
    denoisers = [Denoiser(p, None, shape, 1.0) for p, shape in zip(priors, data.source_shapes, strict=True)]
    exact = SourceSeparationPipeline(denoisers, PosteriorConfig(beam=beam))
    return [list(exact.posterior_sample(v, stream.child("first", a)).draws) for a, v in enumerate(data.views)]


def _with_estimates(data: MultiViewData, draws: Draws, estimates: Mapping[int, Mapping[int, Tensor]]) -> Draws:
    """First draws with the estimates of sources in their place, and what they leave of y as the draw of the other source, where
    there is one."""
    draws = [list(d) for d in draws]
    for beta, found in estimates.items():
        for alpha, x in found.items():
            view = data.views[alpha]
            x = x[: len(view)]  # without those that are held out
            draws[alpha][view.shown.index(beta)] = x
            others = [b for b in view.shown if b != beta]
            if len(others) == 1:
                left = view.y - view.operators[beta].forward(x)
                draws[alpha][view.shown.index(others[0])] = view.operators[others[0]].pseudo_inverse(left)
    return draws


def _hold_out(task: Task, count: int) -> tuple[Task, MultiViewData]:
    """The task without the last `count` training observations of each view, and those. The closed-form fit, which other
    methods share, has seen them; no network does."""

    if (least := min(len(view) for view in task.train.views)) < 2 * count:
        raise MvssError(f"em.held_out={count} is more than half of a view of {least} observations: lower it")
    views = len(task.train.views)
    return _part(task, [slice(None, -count)] * views), _part(task, [slice(-count, None)] * views).train


def _fewer(task: Task, share: float) -> Task:
    """The task with the first observations of each view, a share of all."""
    return task if share == 1 else _part(task, [slice(math.ceil(share * len(view))) for view in task.train.views])


def _clean(task: Task) -> MultiViewData:
    """One view of each source alone, as the training observations hold it, under the least noise of theirs."""
    shapes, views = task.train.source_shapes, []
    least = min(float(view.noise.variance(view.y).min()) for view in task.train.views) ** 0.5
    for beta, shape in enumerate(shapes):
        shown = task.train.showing([beta])
        known = [truth for a in shown if (truth := task.train_truth[a][beta]) is not None]
        if len(known) < len(shown):
            raise MvssError(f"clean: nobody knows source {beta + 1} of these observations; leave it out")
        x = torch.cat(known)
        operators = tuple(Identity(shape) if b == beta else Zero(s, shape) for b, s in enumerate(shapes))
        views.append(View(x, operators, Isotropic(least), f"source {beta + 1} alone"))
    return MultiViewData(tuple(views), shapes)


def _part(task: Task, rows: Sequence[slice]) -> Task:
    """The task with some of the training observations of each view."""
    part = copy.copy(task)
    views = [view.select(torch.arange(len(view))[r]) for view, r in zip(task.train.views, rows, strict=True)]
    part.train = MultiViewData(tuple(views), task.train.source_shapes)
    known = zip(task.train_truth, rows, strict=True)
    part.train_truth = [[None if x is None else x[r] for x in truth] for truth, r in known]
    return part
