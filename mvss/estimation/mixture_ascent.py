"""Maximum-likelihood mixture priors under linear mixing: annealed stochastic ascent of the exact likelihood.

    max_θ Σ_i log p_θ(y_i | A_i),
    p_θ(y | A) = Σ_k Π_β π_{k_β} · N(y; Σ_β A^β m_{k_β}, Σ_i + τ² I + Σ_β A^β C_{k_β} A^βᵀ)

EM moves a mean by C times its gradient, so that a thin component cannot move off its own manifold: EM stalls. Adam on
the gradient of `mixture_gradient` has no such brake, and a natural-gradient move of each whole prior follows what Adam
is too slow for. The temperature τ² falls from a fraction of the observations' power to zero. Between phases dead
components go and the heaviest are cut, so that K grows on the way (coarse to fine). One Gaussian is K = 1.

Adam's steps have a length of their own, and begin near zero: an offset of the sources that is large beside their spread is
taken off y first, by least squares, and added to the means that are found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvss.estimation.evidence_gradient import Batch, ShiftDescent, evidence_gradient
from mvss.estimation.mixture_start import initial_mixture
from mvss.estimation.source_means import image_of, source_means
from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact_mixture import MixturePosterior
from mvss.presets.estimation import AscentConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.views import OPERATORS, Views
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.fingerprint import fingerprint_of
from mvss.runtime.rng import Stream

__all__ = ["MixtureFit", "ascend_evidence"]

RETAIN = 5.0
"""Nats below the best combination at which one stops counting in a gradient; evidence and draws keep more."""
SHIFT_RATE = 0.1
OFFSET = 0.25
"""Share of the power of what was measured from which the sources' means are taken off it: means that explain less are found."""
NEAR = 0.05
"""Starts whose held-out evidence differs by less than this many nats per observation are rivals."""


@dataclass(frozen=True)
class MixtureFit:
    """What a fit gives.

    priors: by source, of the phase whose held-out evidence was best.
    held_out, train: mean log p(y | A) per observation, nats.
    discarded: share of responsibility not kept, mean of the worst view.
    phases: (K, held-out evidence) at the end of each phase that ran at temperature zero.
    starts: held-out evidence of each start when one was chosen, at the temperature then.
    rivalry: how far the best start is from others of nearly its evidence, nats per draw of the prior; large where the
        observations do not tell which source a part belongs to (two sources traded parts). NaN without a rival.
    """

    priors: dict[str, GaussianMixture]
    held_out: float
    train: float
    discarded: float
    phases: tuple[tuple[int, float], ...]
    starts: tuple[float, ...]
    rivalry: float


class _Parameters:
    """Unconstrained parameters of one source's mixture, with gradients set by hand."""

    def __init__(self, prior: GaussianMixture) -> None:
        self.floor, self.shape = prior.floor, prior.shape
        self.tensors = [prior.weights.log().clone(), prior.means.clone(), prior.factors.clone()]

    def mixture(self) -> GaussianMixture:
        logits, means, factors = self.tensors
        return GaussianMixture(torch.softmax(logits, 0), means, factors, self.floor, self.shape)

    def set_gradient(self, count: Tensor, first: Tensor, second: Tensor) -> None:
        logits, means, factors = self.tensors
        logits.grad = torch.softmax(logits, 0) * count.sum() - count
        means.grad = -first
        factors.grad = -(second @ factors)


class _Ascent:
    """One start: the priors of all sources, climbing phase by phase."""

    def __init__(self, batch: Batch, config: AscentConfig, priors: Sequence[GaussianMixture], stream: Stream) -> None:
        self.batch, self.config, self.priors, self.stream = batch, config, tuple(priors), stream
        self.shift = ShiftDescent(SHIFT_RATE)
        self.power = float(sum((v.y.square().mean() for _, v in batch), torch.zeros(())) / len(batch))

    def phase(self, number: int, report: Callable[[int], None]) -> None:
        """Run one phase; on entering any but the first, dead components go and the heaviest are cut."""
        size = self.config.components[number]
        parameters = [_Parameters(p.resize(size) if number else p) for p in self.priors]
        optimiser = torch.optim.Adam([t for p in parameters for t in p.tensors], lr=1.0, betas=(0.9, 0.99))
        for step in self.config.phase_steps(number):
            rate, temperature = _schedule(self.config, step, self.power)
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = _minibatch(self.batch, self.config.batch, self.stream.generator("batch", step), temperature)
            gradient = evidence_gradient(batch, [p.mixture() for p in parameters], RETAIN)
            for own, sums in zip(parameters, gradient.sums, strict=True):
                own.set_gradient(*sums)
            norms = [float(torch.nn.utils.clip_grad_norm_(p.tensors, 10.0)) for p in parameters]
            if not math.isfinite(gradient.evidence + sum(norms)):
                raise MvssError(f"the fit of the first priors diverged at step {step}: use a smaller estimation.learning_rate")
            optimiser.step()
            moves = self.shift.step(gradient.scores).split([p.tensors[1].shape[1] for p in parameters])
            for own, move in zip(parameters, moves, strict=True):
                own.tensors[1] += move
            report(1)
        self.priors = tuple(p.mixture() for p in parameters)

    def state(self) -> dict[str, Any]:
        """What a later run needs to go on after the phases so far."""
        return {"priors": [p.state() for p in self.priors], "fisher": self.shift.fisher}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.priors = tuple(GaussianMixture(**prior) for prior in state["priors"])
        self.shift.fisher = state["fisher"]


def ascend_evidence(
    views: Views,
    config: AscentConfig,
    stream: Stream,
    progress: Callable[[float], None] = lambda _: None,
    checkpoint: Path | None = None,
) -> MixtureFit:
    """Fit one mixture per source to all views at once.

    progress: takes the fraction done. checkpoint: written after every phase; a call that finds it goes on from there,
    with the same result.

    Raises MvssError where the fit diverges or ends below where it began, or the checkpoint is damaged, or of a run with
    other data, settings, stream or code.
    """
    parts = {"data": views, "settings": config, "stream": stream}
    made = None if checkpoint is None else fingerprint_of([__name__, *OPERATORS], parts)
    means, share = source_means(views)
    if share <= OFFSET:
        return _ascend(views, config, stream, progress, checkpoint, made)
    centred = Views(replace(view, y=view.y - image_of(view, means)) for view in views)
    found = _ascend(centred, config, stream, progress, checkpoint, made)
    return replace(found, priors={source: prior.shifted(means[source]) for source, prior in found.priors.items()})


def _ascend(
    views: Views,
    config: AscentConfig,
    stream: Stream,
    progress: Callable[[float], None],
    checkpoint: Path | None,
    made: Mapping[str, str] | None,
) -> MixtureFit:
    """The same of sources near zero. made: what the checkpoint must be of."""
    train, test = _split(views, config)
    done = 0

    def report(steps: int) -> None:
        nonlocal done
        done += steps
        progress(done / config.total_steps)

    ascents = []
    for number in range(config.starts):
        keyed = stream.child("start", number)
        priors = [initial_mixture(views, config, beta, keyed) for beta in range(len(views.sources))]
        ascents.append(_Ascent(train, config, priors, keyed))
    begun = ascents[0].priors
    trial, last = config.trial_phases, len(config.components)
    plan = [(number, phase) for number in range(config.starts) for phase in range(trial)]
    plan += [(-1, phase) for phase in range(trial, last)]  # of the start that is chosen
    state: dict[str, Any] = {"finished": 0, "scores": [], "rivalry": math.nan, "phases": [], "best": None}
    if checkpoint and checkpoint.exists():
        state = load_checkpoint(checkpoint, fingerprint=made)
        for ascent, kept in zip(ascents, state.pop("ascents"), strict=True):
            ascent.restore(kept)
    done = sum(len(config.phase_steps(phase)) for _, phase in plan[: state["finished"]])
    for number, phase in plan[state["finished"] :]:
        if number < 0 and not state["scores"]:
            state["scores"], state["rivalry"] = _compare(test, config, ascents, stream)
        ascent = ascents[number] if number >= 0 else _best(ascents, state["scores"])
        ascent.phase(phase, report)
        if number < 0:
            _judge(ascent, phase, test, state)
        state["finished"] += 1
        if checkpoint:
            save_checkpoint(checkpoint, {**state, "ascents": [a.state() for a in ascents]}, made)
    if not state["scores"]:  # the trial was all there is
        state["scores"], state["rivalry"] = _compare(test, config, ascents, stream)
    return _risen(_result(views, train, test, _best(ascents, state["scores"]), state), train, begun)


def _risen(fit: MixtureFit, train: Batch, start: Sequence[GaussianMixture]) -> MixtureFit:
    """The fit, unless it is worse than what it started from by more than steps that hardly move."""
    if not fit.train > _in_sample(train, start) - 1:  # nats
        raise MvssError("the fit of the first priors ended below where it began: use a smaller estimation.learning_rate")
    return fit


def _in_sample(train: Batch, priors: Sequence[GaussianMixture]) -> float:
    return _evidence([(shown, view.select(slice(0, 1024))) for shown, view in train], priors)[0]


def _split(views: Views, config: AscentConfig) -> tuple[Batch, Batch]:
    """Observations to learn from, and those held out, the first of each view; where there are none, the former."""
    train, test = [], []
    for view in views:
        places = tuple(views.sources.index(source) for source in view.sources)
        dense, held = DenseView.of(view), int(len(view) * config.held_out)
        train.append((places, dense.select(slice(held, None))))
        test.append((places, dense.select(slice(0, held))))
    return train, test if any(len(view) for _, view in test) else train


def _judge(ascent: _Ascent, phase: int, test: Batch, state: dict[str, Any]) -> None:
    """Note the held-out evidence at the end of a phase that ran at temperature zero, and keep the best priors."""
    config = ascent.config
    if _schedule(config, config.phase_steps(phase + 1).start, ascent.power)[1] == 0:
        value, _ = _evidence(test, ascent.priors)
        if value > max((v for _, v in state["phases"]), default=-math.inf):
            state["best"] = [prior.state() for prior in ascent.priors]
        state["phases"].append((config.components[phase], value))


def _result(views: Views, train: Batch, test: Batch, ascent: _Ascent, state: dict[str, Any]) -> MixtureFit:
    priors = tuple(GaussianMixture(**prior) for prior in state["best"]) if state["best"] else ascent.priors
    held_out, discarded = _evidence(test, priors)
    in_sample = _in_sample(train, priors)
    phases = tuple((int(size), float(value)) for size, value in state["phases"])
    named = dict(zip(views.sources, priors, strict=True))
    return MixtureFit(named, held_out, in_sample, discarded, phases, tuple(state["scores"]), state["rivalry"])


def _compare(test: Batch, config: AscentConfig, ascents: Sequence[_Ascent], stream: Stream) -> tuple[list[float], float]:
    """Held-out evidence of each start after the trial, at the temperature then, and their rivalry."""
    if len(ascents) == 1:
        return [0.0], math.nan
    heat = _schedule(config, config.phase_steps(config.trial_phases).start, ascents[0].power)[1]
    scores = [_evidence(test, a.priors, heat)[0] for a in ascents]
    return scores, _rivalry(ascents, scores, _best(ascents, scores), stream)


def _best(ascents: Sequence[_Ascent], scores: Sequence[float]) -> _Ascent:
    return ascents[max(range(len(scores)), key=scores.__getitem__)]


def _rivalry(ascents: Sequence[_Ascent], scores: Sequence[float], best: _Ascent, stream: Stream) -> float:
    """Largest E[log p_best(x) − log p_rival(x)] over sources and starts within NEAR nats of the best."""
    distances = []
    for ascent, score in zip(ascents, scores, strict=True):
        if ascent is best or score < max(scores) - NEAR:
            continue
        for beta, (ours, other) in enumerate(zip(best.priors, ascent.priors, strict=True)):
            x = ours.sample(512, stream.child("rivalry", beta)).flatten(1)
            blur = 0.1 * float(x.std())  # at the scale of whole parts, not of the thickness of a thin prior
            x = x + blur * torch.randn(x.shape, generator=stream.generator("blur", beta), dtype=x.dtype)
            distances.append(float((ours.log_prob(x, blur) - other.log_prob(x, blur)).mean()))
    return max(distances, default=math.nan)


def _schedule(config: AscentConfig, step: int, power: float) -> tuple[float, float]:
    """Learning rate and temperature τ² of a step: geometric, the temperature ending at zero."""
    done = step / config.steps
    rate = config.learning_rate * (config.final_learning_rate / config.learning_rate) ** done
    if done >= config.cooled:
        return rate, 0.0
    return rate, config.temperature * power * 10.0 ** (-3.0 * done / config.cooled)


def _minibatch(whole: Batch, size: int, rng: torch.Generator, temperature: float) -> Batch:
    """`size` observations of each view, with the temperature in their noise."""
    picked = []
    for shown, view in whole:
        part = view.select(torch.randperm(len(view), generator=rng)[:size].to(view.y.device))
        picked.append((shown, replace(part, noise=part.noise + temperature)))
    return picked


def _evidence(batch: Batch, priors: Sequence[GaussianMixture], temperature: float = 0.0) -> tuple[float, float]:
    """Mean log evidence per observation, and the largest mean discarded share of a view."""
    values, discarded = [], [0.0]
    for shown, view in batch:
        if len(view):
            hot = replace(view, noise=view.noise + temperature)
            evidence, lost = MixturePosterior([priors[b] for b in shown]).log_evidence(hot)
            values.append(evidence)
            discarded.append(float(lost.mean()))
    return (float(torch.cat(values).mean()) if values else math.nan), max(discarded)
