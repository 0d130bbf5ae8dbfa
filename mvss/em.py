"""Expectation–maximisation for diffusion priors  (paper, algorithm 2).

    E-step   {x_i^β} ~ p_θ({x^β} | y_i, A_i)       for every observation of every view
    M-step   θ_β ← denoising score matching on the draws of source β, from the views that show it
    repeat, lap by lap; a stage names the sources that learn, all others are frozen.

The first draws are given (exact ones under the mixture priors), so that a lap is an M-step followed by an E-step. In a view
that does not show a source its posterior is its prior: no such draw is made, and none enters an M-step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mvss.checkpoints import load_checkpoint, save_checkpoint
from mvss.data import MultiViewData
from mvss.denoisers import Denoiser
from mvss.errors import MvssError
from mvss.pipeline import PosteriorConfig, SourceSeparationPipeline
from mvss.rng import Stream
from mvss.training import TrainingConfig, fit_denoiser

__all__ = ["Draws", "Stage", "run_em"]

Draws = list[list[Tensor]]
"""`draws[α][position]`: `(N_α, *shape)` of each source that view α shows, in the order of `View.shown`."""


@dataclass(frozen=True)
class Stage:
    """sources: those that learn (from 0). laps: how many. The views used are those that show a learning source and
    nothing that is to be learned later."""

    sources: tuple[int, ...]
    laps: int


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
) -> Draws:
    """Run all stages; the denoisers' networks are trained in place. Returns the last draws.

    draws: the first draws, see `Draws`. checkpoint: file to save to after every lap, and to go on from if it exists.
    on_lap: called after every lap with its record, and once with lap 0 before the first.
    """
    later: set[int] = set()
    schedule: list[tuple[Stage, list[int]]] = []
    for stage in reversed(stages):
        views = [a for a in data.showing(stage.sources) if not set(data.views[a].shown) & later]
        reached = {beta for a in views for beta in data.views[a].shown}
        if missing := [s + 1 for s in stage.sources if s not in reached]:
            raise MvssError(f"em: no view shows sources {missing} without later ones; reorder stages")
        schedule[:0] = [(stage, views)] * stage.laps
        later |= set(stage.sources)
    pipeline = SourceSeparationPipeline(denoisers, posterior)
    done, evaluations, draws = 0, 0, list(draws)
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint)
        done, draws, evaluations = state["lap"], state["draws"], state["evaluations"]
        for denoiser, weights in zip(denoisers, state["networks"], strict=True):
            if denoiser.network is not None:
                denoiser.network.load_state_dict(weights)
    elif on_lap:
        on_lap({"lap": 0, "network_evaluations": 0}, draws)
    for lap in range(done, len(schedule)):
        stage, views = schedule[lap]
        began = time.monotonic()
        losses = {}
        for beta in stage.sources:
            pool = [draws[a][data.views[a].shown.index(beta)] for a in views if beta in data.views[a].shown]
            denoisers[beta].relax(relaxation)
            result = fit_denoiser(denoisers[beta], torch.cat(pool), training, stream.child("m-step", lap, beta), accelerator)
            denoisers[beta].relax(1.0)
            losses[f"loss_{beta + 1}"] = result.loss[-1][1]
        trained = time.monotonic()
        _freeze(denoisers, True)
        clamped = 0.0
        for alpha in views:
            found, count, raised = _e_step(pipeline, data, alpha, draws[alpha], stream.child("e-step", lap, alpha), accelerator)
            draws[alpha] = found
            evaluations += count * len(data.views[alpha])
            clamped = max(clamped, raised)
        _freeze(denoisers, False)
        record = {
            "lap": lap + 1,
            "sources": [b + 1 for b in stage.sources],
            "network_evaluations": evaluations,
            "clamped": clamped,
            "m_step_seconds": trained - began,
            "e_step_seconds": time.monotonic() - trained,
            **losses,
        }
        if on_lap:  # before the checkpoint: a kill in between repeats a record rather than losing it
            on_lap(record, draws)
        if checkpoint is not None and accelerator.is_main_process:
            networks = [d.network.state_dict() if d.network is not None else {} for d in denoisers]
            save_checkpoint(checkpoint, {"lap": lap + 1, "draws": draws, "networks": networks, "evaluations": evaluations})
    return draws


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
) -> tuple[list[Tensor], int, float]:
    """Draws of one view, each process a contiguous share of the observations."""
    view = data.views[alpha]
    share = -(-len(view) // accelerator.num_processes)
    index = torch.arange(share) + accelerator.process_index * share
    index = index.clamp_max(len(view) - 1)  # equal shares: the last observation may be repeated
    begin = [s[index] for s in start]
    found = pipeline.posterior_sample(view.select(index), stream, begin, index)
    gathered = [accelerator.gather(d.contiguous().to(accelerator.device))[: len(view)].to(d.device) for d in found.draws]
    return gathered, found.evaluations, found.clamped
