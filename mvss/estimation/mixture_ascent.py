"""Maximum-likelihood mixture priors under linear mixing: annealed stochastic ascent of the exact likelihood.

    max_θ Σ_i log p_θ(y_i | A_i),
    p_θ(y | A) = Σ_k Π_β π_{k_β} · N(y; Σ_β A^β m_{k_β}, Σ_i + τ² I + Σ_β A^β C_{k_β} A^βᵀ)

EM moves a mean by C times its gradient, so that a thin component cannot move off its own manifold: EM stalls. Adam on
the gradient of `mixture_gradient` has no such brake, and a natural-gradient move of each whole prior follows what Adam
is too slow for. The temperature τ² falls from a fraction of the observations' power to zero. Between phases dead
components go and the heaviest are cut, so that K grows on the way (coarse to fine). One Gaussian is K = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvss.estimation.evidence_gradient import Batch, ShiftDescent, evidence_gradient
from mvss.posteriors.exact_mixture import DenseView, MixturePosterior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.views import MultiViewData
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

__all__ = ["MixtureConfig", "MixtureFit", "fit_mixtures"]

RETAIN = 5.0
"""Nats below the best combination at which one stops counting in a gradient; evidence and draws keep more."""
SHIFT_RATE = 0.1
NEAR = 0.05
"""Starts whose held-out evidence differs by less than this many nats per observation are rivals."""


@dataclass(frozen=True)
class MixtureConfig:
    """How to fit the mixtures.

    components: K of each phase; the phases share the steps equally, and between two of them dead components go and the
        heaviest are cut until there are K.
    steps: steps of Adam in all. batch: observations per step and view.
    learning_rate, final_learning_rate: in the units of the source, geometric in between.
    temperature: τ² at the start, as a fraction of the mean square of y; zero after `cooled` of the steps.
    floor: lower bound of a component's standard deviation, as a fraction of the smallest noise level.
    held_out: share of the observations that are kept for the held-out likelihood.
    starts, trial: independent starts; after this fraction of the phases the one of the best held-out evidence goes on.
    """

    components: tuple[int, ...] = (24,) * 6 + (32, 48, 48, 48)
    steps: int = 1600
    batch: int = 256
    learning_rate: float = 0.02
    final_learning_rate: float = 5e-4
    temperature: float = 0.05
    cooled: float = 0.6
    floor: float = 0.3
    held_out: float = 0.1
    starts: int = 3
    trial: float = 0.3

    def __post_init__(self) -> None:
        if not self.components or min(self.components) < 1 or self.steps < len(self.components) or self.batch < 1:
            raise MvssError("mixture: components and batch must be at least 1, with at least one step per phase")
        if not self.floor > 0 or not 0 <= self.held_out < 1:
            raise MvssError("mixture: floor must be positive and held_out in [0, 1)")
        if self.starts < 1:
            raise MvssError("mixture: starts must be at least 1")

    @property
    def trial_phases(self) -> int:
        """Phases that every start runs."""
        return int(self.trial * len(self.components)) if self.starts > 1 else 0

    @property
    def total_steps(self) -> int:
        """Steps over all starts."""
        return self.steps + (self.starts - 1) * self.phase_steps(self.trial_phases).start

    def phase_steps(self, number: int) -> range:
        """The steps of a phase."""
        count = len(self.components)
        return range(number * self.steps // count, (number + 1) * self.steps // count)


@dataclass(frozen=True)
class MixtureFit:
    """What a fit gives.

    priors: one per source, of the phase whose held-out evidence was best.
    held_out, train: mean log p(y | A) per observation, nats.
    discarded: share of responsibility not kept, mean of the worst view.
    phases: (K, held-out evidence) at the end of each phase that ran at temperature zero.
    starts: held-out evidence of each start when one was chosen, at the temperature then.
    rivalry: how far the best start is from others of nearly its evidence, nats per draw of the prior; large where the
        observations do not tell which source a part belongs to (two sources traded parts). NaN without a rival.
    """

    priors: tuple[GaussianMixture, ...]
    held_out: float
    train: float
    discarded: float
    phases: tuple[tuple[int, float], ...]
    starts: tuple[float, ...]
    rivalry: float


class _Parameters:
    """Unconstrained parameters of one source's mixture, with gradients set by hand."""

    def __init__(self, prior: GaussianMixture) -> None:
        self.floor = prior.floor
        self.tensors = [prior.weights.log().clone(), prior.means.clone(), prior.factors.clone()]

    def mixture(self) -> GaussianMixture:
        logits, means, factors = self.tensors
        return GaussianMixture(torch.softmax(logits, 0), means, factors, self.floor)

    def set_gradient(self, count: Tensor, first: Tensor, second: Tensor) -> None:
        logits, means, factors = self.tensors
        logits.grad = torch.softmax(logits, 0) * count.sum() - count
        means.grad = -first
        factors.grad = -(second @ factors)


class _Ascent:
    """One start: the priors of all sources, climbing phase by phase."""

    def __init__(
        self,
        data: MultiViewData,
        views: Sequence[DenseView],
        config: MixtureConfig,
        priors: Sequence[GaussianMixture],
        free: Sequence[int],
        stream: Stream,
    ) -> None:
        self.views, self.config, self.stream = _everything(data, views, free), config, stream
        self.priors, self.free = tuple(priors), tuple(free)
        self.shift = ShiftDescent(SHIFT_RATE)
        self.power = float(sum((v.y.square().mean() for v in views), torch.zeros(())) / len(views))

    def phase(self, number: int, report: Callable[[dict[str, float]], None]) -> None:
        """Run one phase; on entering any but the first, dead components go and the heaviest are cut."""
        size = self.config.components[number]
        resized = [p.resize(size) if number and b in self.free else p for b, p in enumerate(self.priors)]
        parameters = {beta: _Parameters(resized[beta]) for beta in self.free}
        tensors = [t for beta in self.free for t in parameters[beta].tensors]

        def current() -> tuple[GaussianMixture, ...]:
            return tuple(parameters[b].mixture() if b in parameters else p for b, p in enumerate(self.priors))

        optimiser = torch.optim.Adam(tensors, lr=1.0, betas=(0.9, 0.99))
        for step in self.config.phase_steps(number):
            rate, temperature = _schedule(self.config, step, self.power)
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = _minibatch(self.views, self.config.batch, self.stream.generator("batch", step), temperature)
            gradient = evidence_gradient(batch, current(), self.free, RETAIN)
            for beta in self.free:
                parameters[beta].set_gradient(*gradient.sums[beta])
            norms = [float(torch.nn.utils.clip_grad_norm_(parameters[beta].tensors, 10.0)) for beta in self.free]
            if not math.isfinite(gradient.evidence + sum(norms)):
                raise MvssError(f"mixture fit diverged at step {step}; use a smaller mixture.learning_rate")
            optimiser.step()
            moves = self.shift.step(gradient.scores).split([parameters[b].tensors[1].shape[1] for b in self.free])
            for beta, move in zip(self.free, moves, strict=True):
                parameters[beta].tensors[1] += move
            report({"log_evidence": gradient.evidence, "temperature": temperature, "learning_rate": rate})
        self.priors = current()

    def state(self) -> dict[str, Any]:
        """What a later run needs to go on after the phases so far."""
        return {"priors": [p.state() for p in self.priors], "fisher": self.shift.fisher}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        given = {beta: prior for beta, prior in enumerate(self.priors) if beta not in self.free}
        self.priors = tuple(given.get(beta) or GaussianMixture(**prior) for beta, prior in enumerate(state["priors"]))
        self.shift.fisher = state["fisher"]


def fit_mixtures(
    data: MultiViewData,
    config: MixtureConfig,
    stream: Stream,
    frozen: Sequence[GaussianMixture | None] | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    checkpoint: Path | None = None,
) -> MixtureFit:
    """Fit one mixture per source to all views at once.

    frozen: priors that stay as they are, None for those to fit.
    progress: called with the number of steps done, of `config.total_steps`, and the step's record.
    checkpoint: written after every phase; a call that finds it goes on from there, with the same result. It must be of
        the same data, config and stream.
    """
    views = [DenseView.of(view) for view in data.views]
    held = [int(len(view) * config.held_out) for view in views]
    train = [view.select(slice(h, None)) for view, h in zip(views, held, strict=True)]
    test = [view.select(slice(0, h)) for view, h in zip(views, held, strict=True)]
    if not any(held):  # nothing to hold out: choose by the training evidence
        test = train
    frozen = frozen or [None] * len(data.source_shapes)
    free = [beta for beta, prior in enumerate(frozen) if prior is None]
    done = 0

    def report(record: dict[str, float]) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, record)

    ascents = []
    for number in range(config.starts):
        own = stream.child("start", number)
        priors = [prior or _initial(data, config, beta, own) for beta, prior in enumerate(frozen)]
        ascents.append(_Ascent(data, train, config, priors, free, own))
    trial, last = (config.trial_phases, len(config.components)) if free else (0, 0)
    plan = [(number, phase) for number in range(config.starts) for phase in range(trial)]
    plan += [(-1, phase) for phase in range(trial, last)]  # of the start that is chosen
    state: dict[str, Any] = {"finished": 0, "scores": [], "rivalry": math.nan, "phases": [], "found": None}
    if checkpoint and checkpoint.exists():
        state = load_checkpoint(checkpoint)
        for ascent, kept in zip(ascents, state.pop("ascents"), strict=True):
            ascent.restore(kept)
    done = sum(len(config.phase_steps(phase)) for _, phase in plan[: state["finished"]])
    for number, phase in plan[state["finished"] :]:
        if number < 0 and not state["scores"]:
            state["scores"], state["rivalry"] = _compare(data, test, config, ascents, stream)
        ascent = ascents[number] if number >= 0 else _best(ascents, state["scores"])
        ascent.phase(phase, report)
        if number < 0 and _schedule(config, config.phase_steps(phase + 1).start, ascent.power)[1] == 0:
            value, _ = _evidence(data, test, ascent.priors)
            if value > max((v for _, v in state["phases"]), default=-math.inf):
                state["found"] = [prior.state() for prior in ascent.priors]
            state["phases"].append((config.components[phase], value))
        state["finished"] += 1
        if checkpoint:
            save_checkpoint(checkpoint, {**state, "ascents": [a.state() for a in ascents]})
    if not state["scores"]:  # the trial was all there is
        state["scores"], state["rivalry"] = _compare(data, test, config, ascents, stream)
    found = _best(ascents, state["scores"]).priors
    if state["found"]:
        found = tuple(given or GaussianMixture(**prior) for given, prior in zip(frozen, state["found"], strict=True))
    held_out, discarded = _evidence(data, test, found)
    in_sample, _ = _evidence(data, [t.select(slice(0, 1024)) for t in train], found)
    phases = tuple((int(size), float(value)) for size, value in state["phases"])
    return MixtureFit(found, held_out, in_sample, discarded, phases, tuple(state["scores"]), state["rivalry"])


def _compare(
    data: MultiViewData, test: Sequence[DenseView], config: MixtureConfig, ascents: Sequence[_Ascent], stream: Stream
) -> tuple[list[float], float]:
    """Held-out evidence of each start after the trial, at the temperature then, and their rivalry."""
    if len(ascents) == 1:
        return [0.0], math.nan
    heat = _schedule(config, config.phase_steps(config.trial_phases).start, ascents[0].power)[1]
    scores = [_evidence(data, test, a.priors, heat)[0] for a in ascents]
    return scores, _rivalry(ascents, scores, _best(ascents, scores), stream)


def _best(ascents: Sequence[_Ascent], scores: Sequence[float]) -> _Ascent:
    return ascents[max(range(len(scores)), key=scores.__getitem__)]


def _rivalry(ascents: Sequence[_Ascent], scores: Sequence[float], best: _Ascent, stream: Stream) -> float:
    """Largest E[log p_best(x) − log p_rival(x)] over sources and starts within NEAR nats of the best."""
    found = []
    for ascent, score in zip(ascents, scores, strict=True):
        if ascent is best or score < max(scores) - NEAR:
            continue
        for beta in best.free:
            ours, other = best.priors[beta], ascent.priors[beta]
            x = ours.sample(512, stream.generator("rivalry", beta))
            blur = 0.1 * float(x.std())  # at the scale of whole parts, not of the thickness of a thin prior
            x = x + blur * torch.randn(x.shape, generator=stream.generator("blur", beta), dtype=x.dtype)
            found.append(float((ours.log_prob(x, blur) - other.log_prob(x, blur)).mean()))
    return max(found, default=math.nan)


def _schedule(config: MixtureConfig, step: int, power: float) -> tuple[float, float]:
    """Learning rate and temperature τ² of a step: geometric, the temperature ending at zero."""
    done = step / config.steps
    rate = config.learning_rate * (config.final_learning_rate / config.learning_rate) ** done
    if done >= config.cooled:
        return rate, 0.0
    return rate, config.temperature * power * 10.0 ** (-3.0 * done / config.cooled)


def _initial(data: MultiViewData, config: MixtureConfig, beta: int, stream: Stream) -> GaussianMixture:
    """Random means, of the power that the observations suggest if the sources share it."""
    power, gain = 0.0, 0.0
    for alpha in data.showing([beta]):
        view = DenseView.of(data.views[alpha])
        power += float((view.y.square() - view.noise).sum(1).mean())
        gain += float(sum((a.square().sum((1, 2)).mean() for a in view.matrices), torch.zeros(())))
    scale = math.sqrt(max(power, 1e-12) / gain)
    dimension = int(torch.Size(data.source_shapes[beta]).numel())
    least = min(float(view.noise.white_variance(view.y).min()) for view in data.views) ** 0.5
    rng = stream.generator("initial", beta)
    k = config.components[0]
    means = scale * torch.randn(k, dimension, generator=rng, dtype=torch.float64) * (0.0 if k == 1 else 1.0)
    factors = scale * (1.0 if k == 1 else 0.5) * torch.eye(dimension, dtype=torch.float64).expand(k, -1, -1)
    return GaussianMixture(torch.ones(k), means, factors.clone(), config.floor * least)


def _everything(data: MultiViewData, views: Sequence[DenseView], free: Sequence[int]) -> Batch:
    """The views that show a free source, with the sources that they show."""
    return [(v.shown, view) for v, view in zip(data.views, views, strict=True) if set(v.shown) & set(free)]


def _minibatch(whole: Batch, size: int, rng: torch.Generator, temperature: float) -> Batch:
    """`size` observations of each view, with the temperature in their noise."""
    picked = []
    for shown, view in whole:
        part = view.select(torch.randperm(len(view), generator=rng)[:size].to(view.y.device))
        picked.append((shown, DenseView(part.y, part.matrices, part.noise + temperature)))
    return picked


def _evidence(
    data: MultiViewData, views: Sequence[DenseView], priors: Sequence[GaussianMixture], temperature: float = 0.0
) -> tuple[float, float]:
    """Mean log evidence per observation, and the largest mean discarded share of a view."""
    values, discarded = [], [0.0]
    for view, source in zip(views, data.views, strict=True):
        if len(view):
            hot = DenseView(view.y, view.matrices, view.noise + temperature)
            evidence, lost = MixturePosterior([priors[b] for b in source.shown]).log_evidence(hot)
            values.append(evidence)
            discarded.append(float(lost.mean()))
    return (float(torch.cat(values).mean()) if values else math.nan), max(discarded)
