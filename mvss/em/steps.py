"""The two steps of a lap.

Some observations of each view are separated, but no network learns from their draws: on those each lap is judged, by the
denoising loss before and after its M-step.
"""

from __future__ import annotations

__all__ = ["Model", "Steps"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mvss.em.stages import Stage
from mvss.posteriors.amortised import Amortised, AmortisedPosterior
from mvss.posteriors.guard import guarded
from mvss.posteriors.posterior import Posterior, Separation
from mvss.presets.settings import Settings
from mvss.presets.training import TrainingConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.networks import frozen, load_weights
from mvss.priors.prior import Prior
from mvss.priors.training import default_accelerator, denoising_loss, fit_denoiser
from mvss.problem.held_out import held_out_count
from mvss.problem.views import Draws, Views
from mvss.runtime.rng import Stream


@dataclass(frozen=True)
class Model:
    """What learns: priors by source, and the posterior of the E-step, whose networks learn too where it is amortised. ranges:
    of sources whose numbers are known to lie between two; what networks learn from is cut to that."""

    priors: Mapping[str, Prior]
    posterior: Posterior
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Steps:
    """Both steps, of whatever stage."""

    def __init__(self, views: Views, model: Model, settings: Settings, stream: Stream) -> None:
        self.views, self.settings, self.stream = views, settings, stream
        self.priors, self.posterior, self.ranges = model.priors, model.posterior, model.ranges
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
            load_weights(module, weights[name], f"the network of {name}")

    def maximise(
        self, stage: Stage, lap: int, within: int, draws: Sequence[Draws], better: Mapping[str, Sequence[int]]
    ) -> dict[str, Any]:
        """The M-step. within: number of the lap in its stage."""
        record: dict[str, Any] = {"sources": list(stage.sources), "evaluations": 0}
        every, last = [draws], within + 1 == stage.laps
        for k in range(1, self.settings.em.draws if within else 1):  # by what has made the draws of the last E-step
            more = list(draws)
            record["evaluations"] += self.expect(stage, lap, more, "more", k)["evaluations"]
            every.append(more)
        for source in stage.sources:
            showing = [a for a in stage.views if source in self.views[a].sources]
            pool, held = self._pool(source, better.get(source, showing), every)
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
            with prior.relaxed(self.settings.em.relaxation):
                losses = self._learn(prior, pool, held, self.settings.training, keyed)
            record |= {f"{name}_{place}": value for name, value in losses.items()}
        return record

    def _pool(self, source: str, showing: Sequence[int], every: Sequence[Sequence[Draws]]) -> tuple[Tensor, Tensor]:
        """Draws of a source that are learned from, and those that are not, one of each observation."""
        kept, held, (low, high) = [], [], self.ranges.get(source, (-math.inf, math.inf))
        for a in showing:
            first = held_out_count(len(self.views[a]), self.settings.em.held_out)
            held.append(every[0][a][source][:first])
            kept += [draws[a][source][first:] for draws in every]
        return torch.cat(kept).clamp(low, high), torch.cat(held).clamp(low, high)

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

    def expect(self, stage: Stage, lap: int, draws: list[Draws], *key: str | int) -> dict[str, Any]:
        """The E-step; draws are replaced in place, but where new ones do not explain a view and the old ones do. key: of other
        draws than those of the lap."""
        evaluations, clamped, residual, kept = 0, 0.0, 0.0, list[str]()
        with frozen(*(prior for prior in self.priors.values() if isinstance(prior, DiffusionPrior))):
            for alpha in stage.views:
                separation = self._separate(alpha, draws[alpha], self.stream.child("e-step", lap, alpha, *key))
                draws[alpha], line = guarded(self.views[alpha], separation.draws, separation.start, separation.narrow)
                kept += filter(None, (line, separation.unsolved(self.views[alpha])))
                evaluations += separation.evaluations * len(self.views[alpha])
                clamped, residual = max(clamped, separation.clamped), max(residual, separation.residual)
        return {"evaluations": evaluations, "clamped": clamped, "residual": residual, "kept": kept}

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
