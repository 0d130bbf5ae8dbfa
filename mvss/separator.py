"""The door: learn a prior of each source from mixtures alone, then separate, sample, and ask how probable a candidate is.

views → first priors, in closed form (`estimation`) → first draws → laps of M-step and E-step (`em`) → report
"""

from __future__ import annotations

__all__ = ["FitEvent", "SourceSeparator"]

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mvss.em import Lap, Model, corrections, first_draws, last_draws, plan_stages, run_em
from mvss.estimation import Estimate, estimate_sources
from mvss.metrics.fit_report import FitReport, LapReport, ViewReport
from mvss.posteriors import posterior_of
from mvss.posteriors.auto import choose, lines_of
from mvss.posteriors.exact import ExactPosterior
from mvss.posteriors.fitted import Fitted
from mvss.posteriors.guard import chi2
from mvss.posteriors.models import build_amortised, build_priors, require_networks
from mvss.posteriors.noise_scaling import lowest, suited
from mvss.presets.posterior import AutoConfig
from mvss.presets.settings import Settings
from mvss.priors.training import default_accelerator
from mvss.problem.constraints import unconstrained
from mvss.problem.data_checks import data_warnings, require_varied
from mvss.problem.held_out import ENOUGH, held_out, learned_from
from mvss.problem.units import Units
from mvss.problem.views import Draws, View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.locks import locked
from mvss.runtime.memory import PeakMemory
from mvss.runtime.progress import Phases
from mvss.runtime.rng import Stream, stream_of


@dataclass(frozen=True)
class FitEvent:
    """What `fit` tells of itself. phase: "first priors", "first draws", "laps", "choice" (where held-out observations decide
    on networks or the posterior) or "last draws". done: the fraction of it. lap: of laps, each as it ends (None in other
    phases), its draws in the units of the user."""

    phase: str
    done: float
    lap: Lap | None = None


class SourceSeparator(Fitted):
    """Separates mixtures of sources that are never seen alone or clean.

    settings: the name of a preset in `mvss/presets` ("vectors": sources of few numbers under any operators; "images":
    `(channels, height, width)`, under operators that views share; "signals": the same of `(channels, length)`), the path of a
    YAML file, or `Settings`. Raises MvssError for a preset that there is not, an unknown key, or a value of another type
    or out of range.

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
        super().__init__(settings)
        self.report: FitReport | None = None
        self.draws: list[Draws] = []
        self.kept: dict[str, Any] = {}

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

        views: see `View`; any number, in which each source has one shape, on any device: a fit holds them, and its draws, on
        the CPU, and moves to a GPU what it works on. seed: decides every random number; networks begin with weights that are
        the same for all streams of one seed. checkpoint:
        folder to keep the state of the fit in (made if missing); the same call, after whatever interrupted it, goes on from
        there with the same result. It is locked while the fit runs, and refuses a fit of other views, settings, seed or
        code. Of several processes one writes it. callback: takes every `FitEvent`. estimate: first priors that are known
        already (`mvss.estimation`), in the units of the views. verbose: whether progress and the report are printed.

        Raises MvssError where views and settings do not fit, where all numbers of a view are the same, or where the checkpoint
        cannot be read or written, is in use, or belongs to another fit.
        """
        data = Views(view.to("cpu") for view in Views(views))
        require_networks(self.settings, data)
        for view in data:
            require_varied(view)
        stream = stream_of(seed)
        folder, before = None if checkpoint is None else Path(checkpoint).expanduser(), self.priors
        keeps = folder is not None and default_accelerator().is_main_process
        try:
            with locked(folder / "lock") if folder is not None and keeps else nullcontext():
                return self._fit(data, stream, folder, callback, estimate, verbose)
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
            how, progress = self.settings, partial(tell, "first priors")
            estimate = estimate_sources(data, how.estimation, keyed, progress, path, how.em.held_out)
        self.begin(data, estimate, stream.seed)
        inner, exact = Views(map(self.units.inward, data)), ExactPosterior(self.settings.posterior.beam)
        mixtures, told = {s: prior.to(self._device) for s, prior in self._start.priors.items()}, self._start.draws
        progress = partial(tell, "first draws")
        first = first_draws(inner, mixtures, told, exact, stream.child("first"), self._device, progress)
        learning = [source for source, prior in self.priors.items() if prior.network is not None]
        most = max(1, sum(stage.laps for stage in plan_stages(inner, self._suited, learning)))

        def on_lap(lap: Lap) -> None:
            tell("laps", lap.number / most, replace(lap, draws=[self.units.outward(x) for x in lap.draws]))

        scales = self.units.scales
        ranges = {s: (low / scales[s], high / scales[s]) for s, (low, high) in self._suited.em.ranges.items()}
        model = Model(self.priors, posterior_of(self._suited.posterior, self.amortised), ranges)
        path, keyed = None if folder is None else folder / "em.safetensors", stream.child("em")
        tell("laps", 0.0)
        learned = run_em(inner, model, first, self._suited, keyed, path, on_lap)
        self.kept, draws, kept = learned.kept, learned.draws, list[str]()
        separating, better = self._suited.separating, self._suited.prior.keep == "better" and bool(learning)
        chosen = list[str]()
        if better or isinstance(separating, AutoConfig):
            tell("choice", 0.0)
            chosen = self._choose(inner, better, stream, partial(tell, "choice"))
        if better or (learning and separating != self._suited.posterior):
            tell("last draws", 0.0)
            posterior, progress = self._fitted(), partial(tell, "last draws")
            draws, kept = last_draws(inner, draws, posterior, self.priors, stream.child("last"), self._device, progress)
        self.draws = [self.units.outward(parts) for parts in draws]
        explained = [ViewReport(v.name, len(v), chi2(v, x)) for v, x in zip(inner, draws, strict=True)]
        laps = [LapReport.of(number, record, self.sources) for number, record in enumerate(learned.records, start=1)]
        lines, evidence = unconstrained(inner), estimate.evidence
        lowered = None if self._suited == self.settings else lowest(inner)
        spent, odd = (phases.seconds(), memory.gib()), data_warnings(data)
        self.report = FitReport(explained, laps, evidence, lines, *spent, kept, first.discarded, lowered, chosen, odd)
        if verbose:
            print(self.report)
        return self

    def _choose(self, views: Views, better: bool, stream: Stream, progress: Callable[[float], None]) -> list[str]:
        """By held-out observations: of every source the network or the mixture alone, where better, and the posterior, where
        the settings leave it open. A line for each."""
        held, lines = held_out(views, self._suited.em.held_out, self._device), list[str]()
        if better:
            found = corrections(held, self.priors, self._fitted(), self._suited.training, stream.child("kept"))
            self.priors |= {each.source: self.priors[each.source].mixture for each in found if not each.kept}
            lines += [f"prior of {each}" for each in found]
        if isinstance(separating := self._suited.separating, AutoConfig):
            few = held_out(views, self._suited.em.held_out, self._device, ENOUGH)
            compared = choose(few, self.amortised, self.priors, separating, stream.child("chosen"), progress)
            lines += [f"posterior of {line}" for line in lines_of(compared, self.amortised)]
            self.to(self._device)
        return lines

    def begin(self, views: Sequence[View], estimate: Estimate, seed: int) -> SourceSeparator:
        """As it is before the first lap: networks add nothing to the closed-form priors yet. Arguments as of `fit`."""
        data = Views(views)
        units = Units.of(data)
        inner = Views(map(units.inward, data))
        start = estimate.scaled({source: 1 / scale for source, scale in units.scales.items()})
        if missing := [source for source in data.sources if source not in start.priors]:
            raise MvssError(f"the estimate holds no prior of {', '.join(missing)}")
        if unknown := set(self.settings.em.ranges) - set(data.sources):
            raise MvssError(f"em.ranges names {', '.join(sorted(unknown))}: the sources are {', '.join(data.sources)}")
        settings = suited(self.settings, inner)
        priors = build_priors(settings, inner, start.priors, seed)
        amortised = build_amortised(settings, learned_from(inner, settings.em.held_out), estimate.guesses, seed)
        self._suited, self.units, self._start, self.priors, self.amortised = settings, units, start, priors, amortised
        self._posterior = self._built()
        return self.to(default_accelerator().device)
