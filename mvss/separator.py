"""The door: learn a prior of each source from mixtures alone, then separate, sample, and ask how probable a candidate is.

views → first priors, in closed form (`estimation`) → first draws → laps of M-step and E-step (`em`) → report
"""

from __future__ import annotations

__all__ = ["FitEvent", "SourceSeparator"]

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvss.em import Lap, Model, first_draws, held_out, last_draws, plan_stages, run_em
from mvss.estimation import Estimate, estimate_sources
from mvss.metrics.fit_report import FitReport, LapReport, ViewReport
from mvss.posteriors import posterior_of
from mvss.posteriors.amortised import Amortised
from mvss.posteriors.auto import choose
from mvss.posteriors.exact import ExactPosterior
from mvss.posteriors.guard import chi2
from mvss.posteriors.models import build_amortised, build_priors
from mvss.posteriors.noise_scaling import suited
from mvss.posteriors.posterior import Posterior, shown
from mvss.posteriors.saved import load_models, save_models
from mvss.presets import load_settings, settings_from, settings_text
from mvss.presets.posterior import AutoConfig, SeparationConfig
from mvss.presets.settings import Settings
from mvss.priors.prior import Prior
from mvss.priors.training import default_accelerator
from mvss.problem.constraints import unconstrained
from mvss.problem.units import Units
from mvss.problem.views import Draws, View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.locks import locked
from mvss.runtime.memory import PeakMemory
from mvss.runtime.numbers import real
from mvss.runtime.progress import Phases
from mvss.runtime.rng import Stream, stream_of


@dataclass(frozen=True)
class FitEvent:
    """What `fit` tells of itself. phase: "first priors", "first draws", "laps" or "last draws". done: the fraction of it.
    lap: of laps, each as it ends (None in other phases), its draws in the units of the user."""

    phase: str
    done: float
    lap: Lap | None = None


class SourceSeparator:
    """Separates mixtures of sources that are never seen alone or clean.

    settings: the name of a preset in `mvss/presets` ("vectors": sources of few numbers under any operators; "images": square
    images, `(channels, side, side)`, under operators that views share), the path of a YAML file, or `Settings`. Raises
    MvssError for a preset that there is not, an unknown key, or a value of another type or out of range.

    Attributes, after `fit` or `from_pretrained`: sources, their names; priors, of each, in the units of `units`. After `fit`
    alone: report, what the fit says of itself (`FitReport`, with `warnings`); draws, the last ones of the observations, a
    dictionary of `(N, *shape)` for each view; kept, what the callback has put into `Lap.kept`. Units are those of
    the views wherever nothing else is said.

    >>> import torch, mvss
    >>> rng = torch.Generator().manual_seed(0)
    >>> x = torch.randn(256, 2, generator=rng)
    >>> y = x + 0.1 * torch.randn(256, 2, generator=rng)
    >>> view = mvss.View(y, {"signal": torch.eye(2)}, noise=0.1)
    >>> quick = mvss.Settings(mvss.AscentConfig(components=(1,), steps=20, starts=1), mvss.PriorConfig(network=None))
    >>> model = mvss.SourceSeparator(quick).fit([view], seed=0, verbose=False)
    >>> model.separate(view, draws=3)["signal"].shape
    torch.Size([3, 256, 2])
    >>> model.log_prob("signal", model.sample("signal", 5)).shape, model.report.warnings
    (torch.Size([5]), [])
    """

    def __init__(self, settings: str | Path | Settings = "vectors") -> None:
        self.settings = load_settings(settings)
        self.report: FitReport | None = None
        self.priors: dict[str, Prior] = {}
        self.amortised: dict[str, Amortised] = {}
        self.units = Units({})
        self.draws: list[Draws] = []
        self.kept: dict[str, Any] = {}
        self._posterior: Posterior | None = None
        self._suited = self.settings

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the order in which views show them; none before the fit."""
        return tuple(self.priors)

    def fit(
        self,
        views: Sequence[View],
        seed: int | Stream = 0,
        checkpoint: Path | str | None = None,
        callback: Callable[[FitEvent], None] = lambda _: None,
        estimate: Estimate | None = None,
        verbose: bool = True,
    ) -> SourceSeparator:
        """Learn a prior of every source from observations alone; returns itself.

        views: see `View`; any number, in which each source has one shape. seed: decides every random number. checkpoint:
        folder to keep the state of the fit in (made if missing); the same call, after whatever interrupted it, goes on from
        there with the same result. It is locked while the fit runs, and refuses a fit of other views, settings, seed or
        code. Of several processes one writes it. callback: takes every `FitEvent`. estimate: first priors that are known
        already (`mvss.estimation`), in the units of the views. verbose: whether progress and the report are printed.

        Raises MvssError where views and settings do not fit, or the checkpoint cannot be read or written, is in use, or belongs
        to another fit.
        """
        folder, before = None if checkpoint is None else Path(checkpoint).expanduser(), self.priors
        keeps = folder is not None and default_accelerator().is_main_process
        try:
            with locked(folder / "lock") if folder is not None and keeps else nullcontext():
                return self._fit(Views(views), stream_of(seed), folder, callback, estimate, verbose)
        except BaseException:
            if self.priors is not before:
                self._posterior = None  # what has half learned does not separate
            raise

    def _fit(
        self,
        data: Views,
        stream: Stream,
        folder: Path | None,
        callback: Callable[[FitEvent], None],
        estimate: Estimate | None,
        verbose: bool,
    ) -> SourceSeparator:
        memory, phases = PeakMemory(), Phases(verbose)

        def tell(phase: str, done: float, lap: Lap | None = None) -> None:
            phases.tell(phase, done)
            callback(FitEvent(phase, done, lap))

        if estimate is None:
            tell("first priors", 0.0)  # each phase begins before its first result
            path, keyed = None if folder is None else folder / "estimate.safetensors", stream.child("estimate")
            if path is not None and not path.exists() and not default_accelerator().is_main_process:
                path = None  # one process writes what all make
            progress = partial(tell, "first priors")
            estimate = estimate_sources(data, self.settings.estimation, keyed, progress, path)
        self.begin(data, estimate, stream.seed)
        inner, exact = Views(map(self.units.inward, data)), ExactPosterior(getattr(self.settings.posterior, "beam", 64))
        mixtures, told = self._start.priors, self._start.draws
        progress = partial(tell, "first draws")
        first = first_draws(inner, mixtures, told, exact, stream.child("first"), self._device, progress)
        learning = [source for source, prior in self.priors.items() if prior.network is not None]
        most = max(1, sum(stage.laps for stage in plan_stages(inner, self._suited, learning)))

        def on_lap(lap: Lap) -> None:
            tell("laps", lap.number / most, replace(lap, draws=[self.units.outward(x) for x in lap.draws]))

        model = Model(self.priors, posterior_of(self._suited.posterior, self.amortised))
        path, keyed = None if folder is None else folder / "em.safetensors", stream.child("em")
        tell("laps", 0.0)
        learned = run_em(inner, model, first, self._suited, keyed, path, on_lap)
        self.kept, draws, kept = learned.kept, learned.draws, list[str]()
        separating, chosen = self._suited.separating, list[str]()
        if isinstance(separating, AutoConfig):
            held = held_out(inner, self._suited.em.held_out, self._device)
            chosen = [*map(str, choose(held, self.amortised, self.priors, separating, stream.child("chosen")))]
            self.to(self._device)
        if learning and separating != self._suited.posterior:
            posterior, progress = self._fitted(), partial(tell, "last draws")
            draws, kept = last_draws(inner, draws, posterior, self.priors, stream.child("last"), self._device, progress)
        self.draws = [self.units.outward(parts) for parts in draws]
        explained = [ViewReport(v.name, len(v), chi2(v, x)) for v, x in zip(inner, draws, strict=True)]
        laps = [LapReport.of(number, record, self.sources) for number, record in enumerate(learned.records, start=1)]
        lines, evidence = unconstrained(inner), estimate.evidence
        lowered = None if self._suited == self.settings else self._suited.training.sigma_min
        self.report = FitReport(
            explained, laps, evidence, lines, phases.seconds(), memory.gib(), kept, first.discarded, lowered, chosen
        )
        if verbose:
            print(self.report)
        return self

    def begin(self, views: Sequence[View], estimate: Estimate, seed: int) -> SourceSeparator:
        """As it is before the first lap: networks add nothing to the closed-form priors yet. Arguments as of `fit`."""
        data = Views(views)
        units = Units.of(data)
        inner = Views(map(units.inward, data))
        start = estimate.scaled({source: 1 / scale for source, scale in units.scales.items()})
        if missing := [source for source in data.sources if source not in start.priors]:
            raise MvssError(f"the estimate holds no prior of {', '.join(missing)}")
        self._suited = suited(self.settings, inner)
        priors = build_priors(self._suited, inner, start.priors, seed)
        self.amortised = build_amortised(self._suited, inner, estimate.guesses, seed)
        self.units, self._start, self.priors = units, start, priors
        return self.to(default_accelerator().device)

    def to(self, device: torch.device | str) -> SourceSeparator:
        """Itself, with all networks moved there, such as "cuda": where it separates. Draws come back to where y is."""
        for model in (*self.priors.values(), *self.amortised.values()):
            if isinstance(model, torch.nn.Module):
                model.to(device).eval()
        self._posterior = posterior_of(self._suited.separating, self.amortised)
        return self

    def separating_by(self, posterior: str | SeparationConfig) -> SourceSeparator:
        """The same priors and networks, which separate by another posterior: a kind of them, such as "split_gibbs", as the
        settings have it or else with its defaults, or all that there is to say of one. Raises MvssError for an unknown kind."""
        named = self._suited.posterior_named(posterior) if isinstance(posterior, str) else posterior
        other = copy.copy(self)
        other._suited = replace(self._suited, separation=named)
        other._posterior = posterior_of(other._suited.separating, self.amortised) if self._posterior else None
        return other

    def separate(
        self,
        view: View,
        draws: int = 1,
        seed: int | Stream = 0,
        progress: Callable[[float], None] = lambda _: None,
        posterior: str | SeparationConfig | None = None,
    ) -> Draws:
        """Joint posterior draws of all sources that a view shows, `(draws, N, *shape)` of each by name: their spread is the
        error bar.

        view: any that shows sources of the fit: its operators, noise and number of observations may be others, the units of
        the sources may not. seed: decides the draws, with the observations' numbers. progress: takes the fraction done.
        posterior: another one than that of the settings, see `separating_by`.

        Raises MvssError before the fit, for sources that were not learned or have another shape, and for operators or noise
        that the posterior of the settings cannot serve.
        """
        if posterior is not None:
            return self.separating_by(posterior).separate(view, draws, seed, progress)
        joint = self._fitted()
        shown(view, self.priors)
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise MvssError(f"separate: draws={draws} must be a whole number of at least 1")
        inner = self.units.inward(view).to(self._device)
        found = joint.many(inner, self.priors, stream_of(seed), draws, progress)
        return {source: x.to(view.y.device) for source, x in self.units.outward(found).items()}

    def sample(self, source: str, count: int, seed: int | Stream = 0, stratified: bool = False) -> Tensor:
        """`(count, *shape)` draws of the prior of a source, in the units of the views, on the CPU. stratified: as evenly spread
        as they can be, for measuring the law itself; not independent. Raises MvssError for a source that was not learned."""
        prior = self._prior(source)
        return self.units.scales[source] * prior.sample(count, stream_of(seed), stratified).cpu()

    def log_prob(self, source: str, x: Tensor, sigma: float | None = None) -> Tensor:
        """How probable candidates x `(N, *shape)` of a source are: log density `(N,)` in nats, per unit of the source.

        sigma: of x + σ z, in the units of the source: a source on a manifold has no density itself; None for the least that
        the prior was trained at (0 for a prior in closed form).

        Raises MvssError for a source that was not learned, or candidates of another shape or with NaN.
        """
        prior, scale = self._prior(source), self.units.scales[source]
        x = real(x, f"log_prob: candidates of {source}")
        if x.shape[1:] != prior.shape or not bool(torch.isfinite(x).all()):
            raise MvssError(f"log_prob: candidates of {source} must be finite and (N, {', '.join(map(str, prior.shape))})")
        density = prior.log_prob(x.to(self._device) / scale, None if sigma is None else sigma / scale)
        return density.to(x.device) - x[0].numel() * math.log(scale)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write networks (diffusers format), mixtures, units and settings to a folder, which is made. Report and draws are not
        kept. Raises MvssError before the fit, or where the folder cannot be written."""
        self._fitted()
        about = {"settings": settings_text(self._suited), "scales": dict(self.units.scales)}
        save_models(Path(folder).expanduser(), self.priors, self.amortised, about)

    @staticmethod
    def from_pretrained(folder: Path | str) -> SourceSeparator:
        """Read what `save_pretrained` wrote: it separates as it did before, on the CPU (`to` moves it).

        Raises MvssError where the folder is no such model, is damaged, or is of another version.
        """
        priors, amortised, about = load_models(Path(folder).expanduser())
        model = SourceSeparator(settings_from(about["settings"]))
        model.priors, model.amortised, model.units = priors, amortised, Units(about["scales"])
        return model.to("cpu")

    @property
    def _device(self) -> torch.device:
        return next(iter(self.priors.values())).mixture.means.device

    def _fitted(self) -> Posterior:
        if self._posterior is None:
            raise MvssError("the separator has learned nothing yet: call fit first")
        return self._posterior

    def _prior(self, source: str) -> Prior:
        self._fitted()
        if source not in self.priors:
            raise MvssError(f"there is no source {source!r}: known are {', '.join(self.sources)}")
        return self.priors[source]
