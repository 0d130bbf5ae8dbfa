"""Expectation–maximisation for diffusion priors  (paper, algorithm 2).

    E-step   {x_i^β} ~ p_θ({x^β} | y_i, A_i)       for every observation of every view
    M-step   θ_β ← denoising score matching on the draws of source β, from the views that show it
    repeat, lap by lap; a stage names the sources that learn, all others are frozen.

The first draws are given (exact ones under the mixture priors), so that a lap is an M-step followed by an E-step. In a view
that does not show a source its posterior is its prior: no such draw is made, and none enters an M-step.

How long? The likelihood of the observations under a diffusion prior has no closed form, but what a lap adds to it has bounds
on both sides (Jensen): for the priors p before the lap and p' after it,

    E_{x ~ p(x | y)} [Σ_β log p'(x^β) − log p(x^β)]  ≤  log p'(y) − log p(y)  ≤  the same under p'(x | y)

and their mean is right to second order in the change. Observations that no M-step sees are separated before and after each
lap; `likelihood.expected_log_prob` takes the difference, with the same noise for both priors. (The density of each lap's own
draws would be no measure: it rises whenever a prior narrows.)
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mvss.posteriors.amortised import Amortised
from mvss.posteriors.pipeline import PosteriorConfig, Separation, SourceSeparationPipeline
from mvss.priors.diffusion import Denoiser
from mvss.priors.likelihood import expected_log_prob
from mvss.priors.training import TrainingConfig, fit_denoiser
from mvss.problem.views import MultiViewData
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

__all__ = ["Draws", "HeldOut", "Stage", "run_em"]

LEVELS = 64  # noise levels per held-out draw: enough that the draws themselves are most of the error
Draws = list[list[Tensor]]
"""`draws[α][position]`: `(N_α, *shape)` of each source that view α shows, in the order of `View.shown`."""


@dataclass(frozen=True)
class Stage:
    """sources: those that learn (from 0). laps: how many. The views used are those that show a learning source and
    nothing that is to be learned later."""

    sources: tuple[int, ...]
    laps: int


@dataclass(frozen=True)
class HeldOut:
    """Observations that stay out of the M-step. start: draws to begin each separation from, see `Draws`; posterior: how they
    are separated. patience: a stage ends when the gain of so many laps together is not above its standard error."""

    data: MultiViewData
    start: Draws
    posterior: PosteriorConfig
    patience: int = 3


def run_em(
    data: MultiViewData,
    denoisers: Sequence[Denoiser],
    draws: Draws,
    stages: Sequence[Stage],
    training: TrainingConfig,
    posterior: PosteriorConfig,
    stream: Stream,
    accelerator: Accelerator,
    relaxation: float = 1.0,
    checkpoint: Path | None = None,
    on_lap: Callable[[dict[str, Any], Draws], None] | None = None,
    held_out: HeldOut | None = None,
    amortised: Mapping[int, Amortised] | None = None,
    first_views: Mapping[int, Sequence[int]] | None = None,
    guess_training: TrainingConfig | None = None,
    amortised_training: TrainingConfig | None = None,
) -> Draws:
    """Run all stages; the denoisers' networks are trained in place. Returns the last draws.

    draws: the first draws, see `Draws`. checkpoint: file to save to after every lap, and to go on from if it exists.
    on_lap: called after every lap with its record, and once with lap 0 before the first.
    held_out: where given, stages end by it, and their laps are the most that they may take. amortised: of sources (from 0) that
    have one, the network that learns their posterior beside the denoiser; trained in place. first_views: of sources whose first
    draws are better in some views, those views: their first M-step is on these alone. amortised_training: of `amortised`, where
    it differs from the denoisers'. guess_training: how their guesses learn from each lap's draws; None: they stay as they are.
    """
    plan = _plan(data, stages)
    amortised = amortised or {}
    if amortised and posterior.amortised is None:
        raise MvssError("em: networks for posteriors need posterior.amortised, the noise levels that they learn between")
    if amortised and held_out:
        raise MvssError("em: held-out observations judge priors, and laps of networks for posteriors learn none: leave one out")
    # also what is not trained: what works together is in one place
    pipeline = SourceSeparationPipeline(denoisers, posterior, amortised).to(accelerator.device)
    state: dict[str, Any] = {"lap": 0, "stage": 0, "within": 0, "evaluations": 0, "gains": [], "asked": None}
    draws = list(draws)
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint)
        draws = state.pop("draws")
        for denoiser, weights in zip(denoisers, state.pop("networks"), strict=True):
            if denoiser.network is not None:
                denoiser.network.load_state_dict(weights)
        for model, weights in zip(amortised.values(), state.pop("amortised", []), strict=True):
            model.load_state_dict(weights)
    elif on_lap:
        on_lap({"lap": 0, "network_evaluations": 0}, draws)
    while state["stage"] < len(plan):
        stage, views = plan[state["stage"]]
        if state["within"] >= stage.laps:
            state |= {"stage": state["stage"] + 1, "within": 0, "asked": None}
            continue
        lap, scores = state["lap"], {}
        if held_out and state["asked"] is None:
            state["asked"], count = _separate(denoisers, held_out, views, stream.child("held-out", lap), accelerator)
            state["evaluations"] += count
        former, began = copy.deepcopy(list(denoisers)) if held_out else [], time.monotonic()
        for beta in stage.sources:
            showing = [a for a in views if beta in data.views[a].shown]
            learned_from = (first_views or {}).get(beta, showing) if state["within"] == 0 else showing
            pool = torch.cat([draws[a][data.views[a].shown.index(beta)] for a in learned_from])
            if beta in amortised:
                keyed = stream.child("amortised", lap, beta)
                run = posterior.amortised
                assert run is not None
                if guess_training is not None:
                    amortised[beta].learn_guess(pool, guess_training, keyed.child("guess"), accelerator)
                own = amortised_training or training
                levels = replace(own, sigma_min=run.sigma_min, sigma_max=run.sigma_start)  # in units of what is seen
                losses = fit_denoiser(amortised[beta], pool, levels, keyed, accelerator)
                scores[f"loss_amortised_{beta + 1}"] = losses[-1][1]
                # a prior that no E-step of this stage draws from is learned once, from its last draws but one
                if state["within"] + 1 < stage.laps and all(amortised[beta].applies(data.views[a], beta) for a in showing):
                    continue
            denoisers[beta].relax(relaxation)
            losses = fit_denoiser(denoisers[beta], pool, training, stream.child("m-step", lap, beta), accelerator)
            denoisers[beta].relax(1.0)
            scores[f"loss_{beta + 1}"] = losses[-1][1]
        trained = time.monotonic()
        _freeze(denoisers, True)
        clamped, residual = 0.0, 0.0
        for alpha in views:
            found = _e_step(pipeline, data, alpha, draws[alpha], stream.child("e-step", lap, alpha), accelerator)
            draws[alpha] = list(found.draws)
            state["evaluations"] += found.evaluations * len(data.views[alpha])
            clamped, residual = max(clamped, found.clamped), max(residual, found.residual)
        _freeze(denoisers, False)
        e_step_seconds = time.monotonic() - trained
        state |= {"lap": lap + 1, "within": state["within"] + 1}
        if held_out:
            keyed, before = stream.child("held-out", lap + 1), state["asked"]
            state["asked"], count = _separate(denoisers, held_out, views, keyed, accelerator)
            state["evaluations"] += count
            bounds = [_gain(former, denoisers, asked, training, keyed) for asked in (before, state["asked"])]
            gain = torch.stack(bounds).mean(0)
            state["gains"] = [*state["gains"], (float(gain.mean()), float(gain.std()) / math.sqrt(len(gain)))]
            last = state["gains"][-held_out.patience :]
            if state["within"] >= held_out.patience and sum(m for m, _ in last) <= math.hypot(*(e for _, e in last)):
                state["within"] = stage.laps
            scores |= {"held_out_gain": last[-1][0], "held_out_gain_error": last[-1][1]}
            scores["held_out_nats"] = sum(m for m, _ in state["gains"])
        record = {
            "lap": lap + 1,
            "sources": [b + 1 for b in stage.sources],
            "network_evaluations": state["evaluations"],
            "clamped": clamped,
            "residual": residual,
            "m_step_seconds": trained - began,
            "e_step_seconds": e_step_seconds,
            **scores,
        }
        if on_lap:  # before the checkpoint: a kill in between repeats a record rather than losing it
            on_lap(record, draws)
        if checkpoint is not None and accelerator.is_main_process:
            networks = [d.network.state_dict() if d.network is not None else {} for d in denoisers]
            learned = [model.state_dict() for model in amortised.values()]
            save_checkpoint(checkpoint, {**state, "draws": draws, "networks": networks, "amortised": learned})
    return draws


def _plan(data: MultiViewData, stages: Sequence[Stage]) -> list[tuple[Stage, list[int]]]:
    """Every stage with the views that it uses."""
    later: set[int] = set()
    plan: list[tuple[Stage, list[int]]] = []
    for stage in reversed(stages):
        views = [a for a in data.showing(stage.sources) if not set(data.views[a].shown) & later]
        reached = {beta for a in views for beta in data.views[a].shown}
        if missing := [s + 1 for s in stage.sources if s not in reached]:
            raise MvssError(f"em: no view shows sources {missing} without later ones; reorder stages")
        plan[:0] = [(stage, views)]
        later |= set(stage.sources)
    return plan


def _separate(
    denoisers: Sequence[Denoiser], held_out: HeldOut, views: Sequence[int], stream: Stream, accelerator: Accelerator
) -> tuple[list[dict[int, Tensor]], int]:
    """One draw `(N, *shape)` of each source of each held-out observation of `views`, and the network evaluations."""
    _freeze(denoisers, True)
    pipeline, drawn, evaluations = SourceSeparationPipeline(denoisers, held_out.posterior), [], 0
    for alpha in views:
        view = held_out.data.views[alpha]
        found = _e_step(pipeline, held_out.data, alpha, held_out.start[alpha], stream.child(alpha), accelerator)
        drawn.append(dict(zip(view.shown, found.draws, strict=True)))
        evaluations += found.evaluations * len(view)
    _freeze(denoisers, False)
    return drawn, evaluations


def _gain(
    former: Sequence[Denoiser],
    latter: Sequence[Denoiser],
    drawn: Sequence[dict[int, Tensor]],
    training: TrainingConfig,
    stream: Stream,
) -> Tensor:
    """Expected log density of all sources of each held-out observation under the latter denoisers less that under the former,
    `(N,)`, nats."""
    values = []
    for place, sources in enumerate(drawn):
        each = []
        for beta, x in sources.items():
            keyed = stream.child("density", place, beta)
            new, old = (
                expected_log_prob(denoisers[beta], x, training.sigma_min, training.sigma_max, keyed, LEVELS)
                for denoisers in (latter, former)
            )
            each.append(new - old)
        values.append(torch.stack(each).sum(0))
    return torch.cat(values)


def _freeze(denoisers: Sequence[Denoiser], frozen: bool) -> None:
    for denoiser in denoisers:
        denoiser.requires_grad_(not frozen)


def _e_step(
    pipeline: SourceSeparationPipeline,
    data: MultiViewData,
    alpha: int,
    start: list[Tensor],
    stream: Stream,
    accelerator: Accelerator,
) -> Separation:
    """Draws of one view, each process a contiguous share of the observations."""
    view = data.views[alpha]
    share = -(-len(view) // accelerator.num_processes)
    index = torch.arange(share) + accelerator.process_index * share
    index = index.clamp_max(len(view) - 1)  # equal shares: the last observation may be repeated
    begin = [s[index] for s in start]
    found = pipeline.posterior_sample(view.select(index), stream, begin, index)
    gathered = [accelerator.gather(d.contiguous().to(accelerator.device))[: len(view)].to(d.device) for d in found.draws]
    return replace(found, draws=tuple(gathered))
