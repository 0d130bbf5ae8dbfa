"""Lap after lap, stage after stage, saved after each: what is interrupted goes on as if it had not been."""

from __future__ import annotations

__all__ = ["Lap", "Learned", "run_em"]

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvss.em.first_draws import FirstDraws
from mvss.em.stages import plan_stages
from mvss.em.steps import Model, Steps
from mvss.presets.settings import Settings
from mvss.problem.views import OPERATORS, Draws, Views
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.fingerprint import Fingerprint, fingerprint_of
from mvss.runtime.rng import Stream


@dataclass(frozen=True)
class Lap:
    """What a lap has left; number 0 is before the first. record: losses, held-out losses, evaluations so far, seconds. draws:
    of each view. kept: one dictionary for all laps, empty at first; what a callback puts there (see `save_checkpoint`) is
    saved with the lap, and is there again when an interrupted run goes on."""

    number: int
    record: dict[str, Any]
    draws: list[Draws]
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """draws: the last ones, of each view. records: of every lap, also of those before an interruption. kept: see `Lap`."""

    draws: list[Draws]
    records: list[dict[str, Any]]
    kept: dict[str, Any]


def run_em(
    views: Views,
    model: Model,
    first: FirstDraws,
    settings: Settings,
    stream: Stream,
    checkpoint: Path | None = None,
    callback: Callable[[Lap], None] = lambda _: None,
) -> Learned:
    """Run all stages; networks, also those of an amortised posterior, are trained in place.

    checkpoint: file to save to after every lap, and to go on from if it exists. callback: takes every lap, and one of number
    0 before the first.

    Raises MvssError where the checkpoint is damaged, or of a run with other data, first priors, settings, stream or code.
    """
    em = Steps(views, model, settings, stream)
    learning = [source for source, prior in model.priors.items() if prior.network is not None]
    stages = plan_stages(views, settings, learning)
    state: dict[str, Any] = {"lap": 0, "stage": 0, "within": 0, "evaluations": 0, "records": [], "kept": {}}
    draws, made = list(first.draws), None if checkpoint is None else _fingerprint(views, model, settings, stream, em, first)
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, fingerprint=made)
        draws = state.pop("draws")
        em.restore(state.pop("networks"))
    else:
        callback(Lap(0, {"network_evaluations": 0}, draws, state["kept"]))
    while state["stage"] < len(stages):
        stage = stages[state["stage"]]
        if state["within"] >= stage.laps:
            state |= {"stage": state["stage"] + 1, "within": 0}
            continue
        began = time.monotonic()
        better = first.better if state["within"] == 0 else {}
        record = em.maximise(stage, state["lap"], state["within"], draws, better)
        trained, evaluations = time.monotonic(), record.pop("evaluations")
        record |= em.expect(stage, state["lap"], draws)
        state["evaluations"] += evaluations + record.pop("evaluations")
        state |= {"lap": state["lap"] + 1, "within": state["within"] + 1}
        seconds = {"m_step_seconds": trained - began, "e_step_seconds": time.monotonic() - trained}
        # before the checkpoint: a kill in between repeats a record rather than losing it
        record = {"network_evaluations": state["evaluations"], **seconds, **record}
        callback(Lap(state["lap"], record, draws, state["kept"]))
        state["records"] = [*state["records"], record]
        if checkpoint is not None and em.accelerator.is_main_process:
            save_checkpoint(checkpoint, {**state, "draws": draws, "networks": em.networks()}, made)
    return Learned(draws, state["records"], state["kept"])


def _fingerprint(views: Views, model: Model, settings: Settings, stream: Stream, em: Steps, first: FirstDraws) -> Fingerprint:
    """Of a run that has not begun. Weights of components are rounded: to read them back may cost a digit."""
    mixtures = {source: prior.mixture.state() for source, prior in model.priors.items()}
    priors = [{**mixture, "weights": mixture["weights"].float()} for mixture in mixtures.values()]
    modules = "mvss.em", "mvss.posteriors.models", type(model.posterior).__module__, *OPERATORS
    told = {source: [first.draws[alpha][source] for alpha in better] for source, better in first.better.items()}
    parts = {
        "first priors": (list(mixtures), priors, em.networks()),
        "first draws": told,
        "settings": settings,
        "stream": stream,
    }
    return fingerprint_of(modules, {"data": views, **parts})
