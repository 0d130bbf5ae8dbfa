"""How long a fit will take here: a few steps and a few observations of its phases, done and timed.

    n steps            n T(k)/k                                     T: seconds, measured
    n observations     T(a) + (n − a) (T(b) − T(a))/(b − a)         a < b: some work is done once for all

Networks are those that the fit begins with, on mixtures of as many Gaussians as it will have; steps change nothing, since their
rate is zero. Left out are first draws, which take next to nothing, and `LEFT_OUT`.
"""

from __future__ import annotations

__all__ = ["LEFT_OUT", "expected_seconds", "roughly"]

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import mean

import torch
from torch import Tensor, nn

from mvss.em import Model, Stage, last_draws, plan_stages
from mvss.em.kept_networks import DRAWS
from mvss.em.steps import Steps
from mvss.estimation import Estimate, estimate_sources
from mvss.posteriors import posterior_of
from mvss.posteriors.auto import rivals_of
from mvss.posteriors.noise_scaling import suited
from mvss.posteriors.view_pairs import pairs_of
from mvss.presets.estimation import AscentConfig, MixtureEMConfig
from mvss.presets.posterior import AutoConfig
from mvss.presets.settings import Settings
from mvss.presets.training import NetworkConfig, TrainingConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import build_network
from mvss.priors.regression import Guess
from mvss.priors.training import default_accelerator
from mvss.problem.operators import Shape
from mvss.problem.units import Units
from mvss.problem.views import Draws, View, Views
from mvss.runtime.rng import Stream
from mvss.separator import SourceSeparator

LEFT_OUT: dict[type, str] = {MixtureEMConfig: "without the mixtures that EM fits first"}
"""By kind of estimation, what is too slow to be tried: of large sources a lap takes seconds, whatever their number."""
FEW, MORE, MANY = 4, 16, 256
"""Observations of each view: those that are timed, fewer and more, and those that are looked at in all."""
PART = 4
"""One of so many parts of a batch is timed where it takes ENOUGH: there, rows take equally long in any batch."""
ENOUGH = 0.1
"""Seconds of steps that can be trusted."""
QUICK = 2**14
"""Rows, times their numbers squared, whose exact likelihood is quick to climb."""
FORWARD = 1 / 3
"""Of a step: what a network takes that does not learn."""
STREAM = Stream(0)


def expected_seconds(views: Views, settings: Settings) -> dict[str, float]:
    """By the names of the phases of a fit. Raises what the fit would, or what comes of observations that are too few."""
    some = _first(views, MANY)
    model = SourceSeparator(settings).begin(some, _rough(some, settings), 0)
    inner = Views(map(model.units.inward, some))
    return _Fit(views, inner, suited(settings, inner), model).phases()


def roughly(seconds: float) -> str:
    """In words that do not pretend to know better."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        return f"about {round(minutes) if minutes < 10 else 5 * round(minutes / 5)} min"
    return f"about {round(2 * hours) / 2:g} h" if hours < 10 else f"about {round(hours)} h"


def _first(views: Views, count: int) -> Views:
    return views.select([slice(0, count)] * len(views))


def _count(views: Sequence[View]) -> float:
    """Observations of a view."""
    return mean(len(view) for view in views)


def _clocked(work: Callable[[int], object], count: int) -> float:
    began = time.monotonic()
    work(count)
    return time.monotonic() - began


def _steps(work: Callable[[int], object], count: float) -> float:
    """Seconds of so many steps. work: does as many as it is told; its first one may be slow."""
    work(1)
    done, took = 1, _clocked(work, 1)
    while took < ENOUGH and 4 * done < count:
        done *= 4
        took = _clocked(work, done)
    return count * took / done


def _line(work: Callable[[int], object], count: float, few: int = FEW, more: int = MORE) -> float:
    """Seconds of so many observations of a view. work: does as many as it is told; its first call may be slow."""
    work(1)
    least = _clocked(work, few)
    return least + max(0.0, count - few) * max(0.0, _clocked(work, more) - least) / (more - few)


def _rough(views: Views, settings: Settings) -> Estimate:
    """First priors of the size that they will have, in the units of the views, and networks that guess."""
    config, guesses = settings.estimation, dict[str, Guess]()
    components = (max(config.components),) if isinstance(config, AscentConfig) else config.components
    ranks = (0,) if isinstance(config, AscentConfig) else config.ranks
    mixtures = {}
    for place, source in enumerate(source for stage in views.stages() for source in stage):
        shape = views.shapes[source]
        k, rank, size = (components[min(place, len(components) - 1)], ranks[min(place, len(ranks) - 1)], math.prod(shape))
        factors = torch.eye(size, rank or size).expand(k, -1, -1)
        mixtures[source] = GaussianMixture(torch.ones(k), torch.randn(k, size), factors, 0.1, shape)
        if isinstance(config, MixtureEMConfig) and config.noisier2noise:
            guesses[source] = _guess(config.noisier2noise.network, shape)
    return Estimate(mixtures, guesses=guesses).scaled(Units.of(views).scales)


def _guess(network: NetworkConfig, shape: Shape) -> Guess:
    return Guess(build_network(network, shape, Guess.inputs_of(shape), Guess.OUTPUTS, STREAM))


@dataclass(frozen=True)
class _Fit:
    """views: all observations. inner: some of them, in the units of the fit. model: as it is before the first lap."""

    views: Views
    inner: Views
    settings: Settings
    model: SourceSeparator

    def phases(self) -> dict[str, float]:
        """Seconds of each."""
        config, em, separating = self.settings.estimation, self.settings.em, self.settings.separating
        learning, count = [s for s, prior in self.model.priors.items() if prior.network is not None], _count(self.views)
        found = {"first priors": self._ascent(config) if isinstance(config, AscentConfig) else self._guesses(config)}
        stages = plan_stages(self.inner, self.settings, learning)
        found["laps"] = sum((self._laps(stage) for stage in stages if stage.laps), 0.0)
        better = self.settings.prior.keep == "better" and bool(learning)
        if better or (learning and separating != self.settings.posterior):
            found["last draws"] = _line(self._last_draws, count)
        if better or isinstance(separating, AutoConfig):  # of a network: by draws of held-out observations under two laws
            found["choice"] = 2 * DRAWS * em.held_out * found["last draws"] if better else 0.0
            if isinstance(separating, AutoConfig):  # draws that are put in, and of what is made so
                found["choice"] += separating.put * (1 + 2 * separating.draws) * _line(self._rivals, em.held_out * count)
        return found

    def _ascent(self, config: AscentConfig) -> float:
        steps = dict.fromkeys(config.components, 0)
        for phase, size in enumerate(config.components):
            steps[size] += len(config.phase_steps(phase)) * (config.starts if phase < config.trial_phases else 1)
        usual = max(steps, key=lambda size: steps[size])  # larger ones take longer
        wanted = min(config.batch, max(map(len, self.views)))
        rows = min(wanted, max(MORE, QUICK // max(map(math.prod, self.inner.shapes.values())) ** 2))

        def climb(count: int) -> None:
            brief = replace(config, components=(usual,), steps=count, batch=rows, starts=1)
            estimate_sources(_first(self.inner, rows), brief, STREAM)

        return _line(climb, sum(size * count for size, count in steps.items()) / usual, 1, 6) * wanted / rows

    def _guesses(self, config: MixtureEMConfig) -> float:
        """First estimates of sources that pairs of views tell."""
        told, seconds = config.noisier2noise, 0.0
        for source, shape in self.inner.shapes.items() if told else ():
            assert told is not None
            for pair in pairs_of(self.inner, source, told.alone):
                if pair.sharp:
                    step = self._guessing(_guess(told.network, shape), shape, told.training) / told.training.steps
                    shown = told.averages * len(self.views[pair.view]) / told.training.batch
                    seconds += step * (told.training.steps + FORWARD * shown)
        return seconds

    def _laps(self, stage: Stage) -> float:
        em, training = self.settings.em, self.settings.training
        separations = stage.laps + (em.draws - 1) * max(0, stage.laps - 1)
        seconds = separations * _line(partial(self._e_step, stage), _count([self.views[a] for a in stage.views]))
        for source in stage.sources:
            laps, prior, shape = stage.laps, self.model.priors[source], self.inner.shapes[source]
            if learned := self.model.amortised.get(source):
                seconds += laps * self._training(learned, learned.loss, shape, em.amortised or training)
                if em.guess and learned.guess is not None:
                    seconds += laps * self._guessing(learned.guess, shape, em.guess)
                showing = [self.inner[a] for a in stage.views if source in self.inner[a].sources]
                laps = 1 if all(map(learned.applies, showing)) else laps  # no E-step draws from that prior
            assert isinstance(prior, DiffusionPrior)
            with prior.relaxed(em.relaxation):
                seconds += laps * self._training(prior, prior.loss, shape, training)
        return seconds

    def _guessing(self, guess: Guess, shape: Shape, training: TrainingConfig) -> float:
        guess = copy.deepcopy(guess).to(self._device).requires_grad_()  # elsewhere it does not learn
        return self._training(guess, lambda x, *_: guess(x, torch.ones_like(x), 1.0).square().mean(), shape, training)

    def _training(self, module: nn.Module, loss: Callable[..., Tensor], shape: Shape, training: TrainingConfig) -> float:
        """All of its steps."""
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        adam, level = torch.optim.Adam(weights, lr=0.0), math.sqrt(training.sigma_min * training.sigma_max)

        def work(rows: int, count: int) -> None:
            x = torch.randn(rows, *shape, dtype=weights[0].dtype, device=self._device)
            for _ in range(count):
                value = loss(x, x.new_full((rows,), level), torch.randn_like(x), None)
                value.backward()
                adam.step()
                adam.zero_grad()
            value.item()  # waits for a GPU

        part = -(-training.batch // PART)
        work(part, 1)
        rows = part if _clocked(partial(work, part), 1) > ENOUGH else training.batch
        return _steps(partial(work, rows), training.steps) * training.batch / rows

    @cached_property
    def _device(self) -> torch.device:
        return default_accelerator().device

    def _some(self, count: int) -> tuple[Views, list[Draws]]:
        """Observations, and what might be draws of them."""
        views = _first(self.inner, count)
        priors = self.model.priors
        return views, [{s: priors[s].mixture.sample(len(v), STREAM).to(v.y) for s in v.sources} for v in views]

    def _e_step(self, stage: Stage, count: int) -> None:
        views, draws = self._some(count)
        model = Model(self.model.priors, posterior_of(self.settings.posterior, self.model.amortised))
        Steps(views, model, self.settings, STREAM).expect(stage, 0, draws)

    def _last_draws(self, count: int) -> None:
        posterior = posterior_of(self.settings.separating, self.model.amortised)
        last_draws(*self._some(count), posterior, self.model.priors, STREAM, self._device, lambda _: None)

    def _rivals(self, count: int) -> None:
        """A draw of each observation by each posterior that `auto` compares."""
        config, priors = self.settings.separating, self.model.priors
        assert isinstance(config, AutoConfig)
        for source, learned in self.model.amortised.items():
            rivals = rivals_of(config, {source: learned})
            for view in _first(self.inner, count):
                if learned.applies(view):
                    for posterior in rivals:
                        posterior.draw(view.to(self._device), priors, STREAM)
