"""Expectation–maximisation for diffusion priors  (paper, algorithm 2).

    E-step   {x_i^β} ~ p_θ({x^β} | y_i, A_i)       for every observation of every view
    M-step   θ_β ← denoising score matching on the draws of source β, from the views that show it
    repeat, lap by lap; a stage names the sources that learn, all others are frozen.

The first draws are given (exact ones under the mixture priors), so that a lap is an M-step followed by an E-step. In a view
that does not show a source its posterior is its prior: no such draw is made, and none enters an M-step.

Some observations of each view are separated, but no network learns from their draws: on those each lap is judged, by the
denoising loss before and after its M-step.
"""

from __future__ import annotations

__all__ = ["FirstDraws", "Lap", "Learned", "Model", "Stage", "plan_stages", "run_em"]

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvss.posteriors.amortised import Amortised, AmortisedPosterior
from mvss.posteriors.guard import guarded
from mvss.posteriors.posterior import Posterior, Separation
from mvss.presets.settings import Settings
from mvss.presets.training import TrainingConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.prior import Prior
from mvss.priors.training import default_accelerator, denoising_loss, fit_denoiser
from mvss.problem.views import Draws, Views
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream


@dataclass(frozen=True)
class Stage:
    """sources: those that learn. laps: how many. views: numbers of those that show a learning source and nothing that is to be
    learned later."""

    sources: tuple[str, ...]
    laps: int
    views: tuple[int, ...]


@dataclass(frozen=True)
class FirstDraws:
    """draws: of each view. better: of sources whose first draws are better in some views, those views, by number: their first
    M-step is on these alone."""

    draws: list[Draws]
    better: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Lap:
    """What a lap has left; number 0 is before the first. record: losses, held-out losses, evaluations so far, seconds. draws:
    of each view."""

    number: int
    record: dict[str, Any]
    draws: list[Draws]


def plan_stages(views: Views, settings: Settings, learning: Sequence[str]) -> list[Stage]:
    """Every stage of the settings with the sources that learn in it and the views that it uses."""
    em = settings.em
    groups = (views.sources,) if em.stages == "together" else views.stages()
    laps = (em.laps,) * len(groups) if isinstance(em.laps, int) else em.laps
    if len(laps) < len(groups):
        raise MvssError(f"laps={list(laps)} are fewer than the {len(groups)} stages: give one number for each")
    later: set[str] = set()
    stages: list[Stage] = []
    for group, count in reversed(list(zip(groups, laps, strict=False))):
        sources = tuple(source for source in group if source in learning)
        usable = [a for a in views.showing(sources) if not set(views[a].sources) & later]
        reached = {source for a in usable for source in views[a].sources}
        if missing := [source for source in sources if source not in reached]:
            raise MvssError(f"em: no view shows {', '.join(missing)} without later sources: set em.stages to together")
        if sources:
            stages.insert(0, Stage(sources, count, tuple(usable)))
        later |= set(sources)
    return stages


@dataclass(frozen=True)
class Model:
    """What learns: priors by source, and the posterior of the E-step, whose networks learn too where it is amortised."""

    priors: Mapping[str, Prior]
    posterior: Posterior


@dataclass(frozen=True)
class Learned:
    """draws: the last ones, of each view. records: of every lap, also of those before an interruption."""

    draws: list[Draws]
    records: list[dict[str, Any]]


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
    """
    em = _EM(views, model, settings, stream)
    learning = [source for source, prior in model.priors.items() if prior.network is not None]
    stages = plan_stages(views, settings, learning)
    state: dict[str, Any] = {"lap": 0, "stage": 0, "within": 0, "evaluations": 0, "records": []}
    draws = list(first.draws)
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint)
        draws = state.pop("draws")
        em.restore(state.pop("networks"))
    else:
        callback(Lap(0, {"network_evaluations": 0}, draws))
    while state["stage"] < len(stages):
        stage = stages[state["stage"]]
        if state["within"] >= stage.laps:
            state |= {"stage": state["stage"] + 1, "within": 0}
            continue
        began = time.monotonic()
        better = first.better if state["within"] == 0 else {}
        record = em.maximise(stage, state["lap"], draws, better, state["within"] + 1 == stage.laps)
        trained = time.monotonic()
        record |= em.expect(stage, state["lap"], draws)
        state["evaluations"] += record.pop("evaluations")
        state |= {"lap": state["lap"] + 1, "within": state["within"] + 1}
        seconds = {"m_step_seconds": trained - began, "e_step_seconds": time.monotonic() - trained}
        # before the checkpoint: a kill in between repeats a record rather than losing it
        record = {"network_evaluations": state["evaluations"], **seconds, **record}
        callback(Lap(state["lap"], record, draws))
        state["records"] = [*state["records"], record]
        if checkpoint is not None and em.accelerator.is_main_process:
            save_checkpoint(checkpoint, {**state, "draws": draws, "networks": em.networks()})
    return Learned(draws, state["records"])


class _EM:
    """Both steps, of whatever stage."""

    def __init__(self, views: Views, model: Model, settings: Settings, stream: Stream) -> None:
        self.views, self.settings, self.stream = views, settings, stream
        self.priors, self.posterior = model.priors, model.posterior
        self.amortised = model.posterior.models if isinstance(model.posterior, AmortisedPosterior) else {}
        self.accelerator = default_accelerator()
        for module in self._modules().values():  # also what is not trained: what works together is in one place
            module.to(self.accelerator.device).eval()

    def _modules(self) -> dict[str, torch.nn.Module]:
        priors = {f"prior {s}": p for s, p in self.priors.items() if isinstance(p, torch.nn.Module)}
        return {**priors, **{f"amortised {source}": model for source, model in self.amortised.items()}}

    def _trained(self) -> dict[str, torch.nn.Module]:
        """What has weights that laps change, by name."""
        networks = {f"prior {s}": p.network for s, p in self.priors.items() if p.network is not None}
        return {**networks, **{f"amortised {source}": model for source, model in self.amortised.items()}}

    def networks(self) -> dict[str, dict[str, Tensor]]:
        """All weights."""
        return {name: module.state_dict() for name, module in self._trained().items()}

    def restore(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """What `networks` gave."""
        for name, module in self._trained().items():
            module.load_state_dict(weights[name])

    def maximise(
        self, stage: Stage, lap: int, draws: Sequence[Draws], better: Mapping[str, Sequence[int]], last: bool
    ) -> dict[str, Any]:
        """The M-step. last: of the stage."""
        record: dict[str, Any] = {"sources": list(stage.sources)}
        for source in stage.sources:
            showing = [a for a in stage.views if source in self.views[a].sources]
            pool, held = self._pool(source, better.get(source, showing), draws)
            place = self.views.sources.index(source) + 1
            if source in self.amortised:
                keyed = self.stream.child("amortised", lap, place - 1)
                losses = self._learn_posterior(self.amortised[source], pool, held, keyed)
                record |= {f"{name}_amortised_{place}": value for name, value in losses.items()}
                # a prior that no E-step of this stage draws from is learned once, from its last draws but one
                if not last and all(self.amortised[source].applies(self.views[a]) for a in showing):
                    continue
            prior, keyed = self.priors[source], self.stream.child("m-step", lap, place - 1)
            assert isinstance(prior, DiffusionPrior)
            prior.relax(self.settings.em.relaxation)
            losses = self._learn(prior, pool, held, self.settings.training, keyed)
            prior.relax(1.0)
            record |= {f"{name}_{place}": value for name, value in losses.items()}
        return record

    def _pool(self, source: str, showing: Sequence[int], draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
        """Draws of a source that are learned from, and those that are not."""
        kept, held = [], []
        for a in showing:
            first = int(len(self.views[a]) * self.settings.em.held_out)
            held.append(draws[a][source][:first])
            kept.append(draws[a][source][first:])
        return torch.cat(kept), torch.cat(held)

    def _learn_posterior(self, model: Amortised, pool: Tensor, held: Tensor, stream: Stream) -> dict[str, float]:
        run, em = self.posterior.config.sampler, self.settings.em  # type: ignore[attr-defined]
        if em.guess is not None:
            model.learn_guess(pool, em.guess, stream.child("guess"), self.accelerator)
        training = em.amortised or self.settings.training
        # noise levels are in units of what is seen
        levels = replace(training, sigma_min=run.sigma_min, sigma_max=run.sigma_start)
        return self._learn(model, pool, held, levels, stream)

    def _learn(
        self, model: torch.nn.Module, pool: Tensor, held: Tensor, training: TrainingConfig, stream: Stream
    ) -> dict[str, float]:
        """Train; the loss, and that of held-out draws before and after."""
        keyed, scores = stream.child("held-out"), {}
        if len(held):
            scores["held_out_before"] = denoising_loss(model, held, training, keyed)
        scores["loss"] = fit_denoiser(model, pool, training, stream, self.accelerator)[-1][1]
        if len(held):
            scores["held_out_after"] = denoising_loss(model, held, training, keyed)
        return scores

    def expect(self, stage: Stage, lap: int, draws: list[Draws]) -> dict[str, Any]:
        """The E-step; draws are replaced in place, but where new ones do not explain a view and the old ones do."""
        evaluations, clamped, residual, kept = 0, 0.0, 0.0, list[str]()
        with self._frozen():
            for alpha in stage.views:
                separation = self._separate(alpha, draws[alpha], self.stream.child("e-step", lap, alpha))
                draws[alpha], line = guarded(self.views[alpha], separation.draws, separation.start, separation.narrow)
                kept += [line] if line else []
                evaluations += separation.evaluations * len(self.views[alpha])
                clamped, residual = max(clamped, separation.clamped), max(residual, separation.residual)
        return {"evaluations": evaluations, "clamped": clamped, "residual": residual, "kept": kept}

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Priors whose weights ask for no gradient."""
        models = [prior for prior in self.priors.values() if isinstance(prior, DiffusionPrior)]
        try:
            for model in models:
                model.requires_grad_(False)
            yield
        finally:
            for model in models:
                model.requires_grad_(True)

    def _separate(self, alpha: int, start: Draws, stream: Stream) -> Separation:
        """Draws of one view, each process a contiguous share of the observations."""
        view, processes = self.views[alpha], self.accelerator.num_processes
        share = -(-len(view) // processes)
        rows = torch.arange(share) + self.accelerator.process_index * share
        rows = rows.clamp_max(len(view) - 1)  # equal shares: the last observation may be repeated
        part = view.select(rows).to(self.accelerator.device)
        begin = {source: x[rows] for source, x in start.items()}
        separation = self.posterior.draw(part, self.priors, stream, begin)

        def gathered(parts: Draws) -> Draws:
            whole = {source: self.accelerator.gather(x.contiguous()) for source, x in parts.items()}
            return {source: x[: len(view)].to(view.y.device) for source, x in whole.items()}

        began = None if separation.start is None else gathered(separation.start)
        return replace(separation, draws=gathered(separation.draws), start=began)
