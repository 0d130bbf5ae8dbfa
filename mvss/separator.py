"""The door: learn a prior of each source from mixtures alone, then separate, sample, and ask how probable a candidate is.

views → first priors, in closed form (`estimation`) → first draws → laps of M-step and E-step (`em`) → report
"""

from __future__ import annotations

__all__ = ["FitEvent", "SourceSeparator"]

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mvss.em import FirstDraws, Lap, Model, plan_stages, run_em
from mvss.estimation import Estimate, estimate_sources
from mvss.metrics.fit_report import FitReport, LapReport, ViewReport
from mvss.posteriors import posterior_of
from mvss.posteriors.amortised import Amortised
from mvss.posteriors.exact import ExactPosterior
from mvss.posteriors.guard import chi2, guarded
from mvss.posteriors.models import build_amortised, build_priors, load_models, save_models
from mvss.posteriors.posterior import Posterior, shown
from mvss.presets import load_settings, settings_from, settings_text
from mvss.presets.settings import Settings
from mvss.priors.prior import Prior
from mvss.priors.training import default_accelerator
from mvss.problem.constraints import unconstrained
from mvss.problem.units import Units
from mvss.problem.views import Draws, View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text
from mvss.runtime.memory import PeakMemory
from mvss.runtime.numbers import real
from mvss.runtime.progress import Phases
from mvss.runtime.rng import Stream, stream_of

VERSION = 1
"""Of the files of a saved model."""


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
    MvssError for a preset that there is not, an unknown key, or a value out of range.

    Attributes, after `fit` or `from_pretrained`: sources, their names; priors, of each, in the units of `units`. After `fit`
    alone: report, what the fit says of itself (`FitReport`, with `warnings`); draws, the last ones of the observations, a
    dictionary of `(N, *shape)` for each view. Units are those of the views wherever nothing else is said.

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
        self.settings = settings if isinstance(settings, Settings) else load_settings(settings)
        self.report: FitReport | None = None
        self.priors: dict[str, Prior] = {}
        self.amortised: dict[str, Amortised] = {}
        self.units = Units({})
        self.draws: list[Draws] = []
        self._posterior: Posterior | None = None

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
        there with the same result. It does not know its data: take another one for other views, settings or seeds. Of several
        processes one writes it. callback: takes every `FitEvent`. estimate: first priors that are known already
        (`mvss.estimation`), in the units of the views. verbose: whether progress and the report are printed.

        Raises MvssError where views and settings do not fit, or the checkpoint cannot be read or written.
        """
        data, stream, memory, phases = Views(views), stream_of(seed), PeakMemory(), Phases(verbose)
        folder = None if checkpoint is None else Path(checkpoint)

        def tell(phase: str, done: float, lap: Lap | None = None) -> None:
            phases.tell(phase, done)
            callback(FitEvent(phase, done, lap))

        if estimate is None:
            tell("first priors", 0.0)  # each phase begins before its first result
            path, keyed = None if folder is None else folder / "estimate.pt", stream.child("estimate")
            if path is not None and not path.exists() and not default_accelerator().is_main_process:
                path = None  # one process writes what all make
            progress = partial(tell, "first priors")
            estimate = estimate_sources(data, self.settings.estimation, keyed, progress, path)
        self.begin(data, estimate, stream.seed)
        inner = Views(map(self.units.inward, data))
        first = self._first_draws(inner, estimate, stream.child("first"), partial(tell, "first draws"))
        learning = [source for source, prior in self.priors.items() if prior.network is not None]
        most = max(1, sum(stage.laps for stage in plan_stages(inner, self.settings, learning)))

        def on_lap(lap: Lap) -> None:
            tell("laps", lap.number / most, Lap(lap.number, lap.record, [self.units.outward(x) for x in lap.draws]))

        posterior = posterior_of(self.settings.posterior, self.amortised)
        path = None if folder is None else folder / "em.pt"
        model, keyed = Model(self.priors, posterior), stream.child("em")
        tell("laps", 0.0)
        learned = run_em(inner, model, first, self.settings, keyed, path, on_lap)
        draws, kept = learned.draws, list[str]()
        if learning and self.settings.separating != self.settings.posterior:
            draws, kept = self._last_draws(inner, draws, stream.child("last"), partial(tell, "last draws"))
        self.draws = [self.units.outward(parts) for parts in draws]
        explained = [ViewReport(v.name, len(v), chi2(v, x)) for v, x in zip(inner, draws, strict=True)]
        laps = [LapReport.of(number, record, self.sources) for number, record in enumerate(learned.records, start=1)]
        lines, evidence = unconstrained(inner), estimate.evidence
        self.report = FitReport(explained, laps, evidence, lines, phases.seconds(), memory.gib(), kept)
        if verbose:
            print(self.report)
        return self

    def begin(self, views: Sequence[View], estimate: Estimate, seed: int) -> SourceSeparator:
        """As it is before the first lap: networks add nothing to the closed-form priors yet. Arguments as of `fit`."""
        data = Views(views)
        self.units = Units.of(data)
        inner = Views(map(self.units.inward, data))
        mixtures = estimate.scaled({source: 1 / scale for source, scale in self.units.scales.items()}).priors
        if missing := [source for source in data.sources if source not in mixtures]:
            raise MvssError(f"the estimate holds no prior of {', '.join(missing)}")
        self.priors = build_priors(self.settings, inner, mixtures, seed)
        self.amortised = build_amortised(self.settings, inner, estimate.guesses, seed)
        self._mixtures = mixtures
        return self.to(default_accelerator().device)

    def to(self, device: torch.device | str) -> SourceSeparator:
        """Itself, with all networks moved there, such as "cuda": where it separates. Draws come back to where y is."""
        for model in (*self.priors.values(), *self.amortised.values()):
            if isinstance(model, torch.nn.Module):
                model.to(device).eval()
        self._posterior = posterior_of(self.settings.separating, self.amortised)
        return self

    def separate(
        self, view: View, draws: int = 1, seed: int | Stream = 0, progress: Callable[[float], None] = lambda _: None
    ) -> Draws:
        """Joint posterior draws of all sources that a view shows, `(draws, N, *shape)` of each by name: their spread is the
        error bar.

        view: any that shows sources of the fit: its operators, noise and number of observations may be others, the units of
        the sources may not. seed: decides the draws, with the observations' numbers. progress: takes the fraction done.

        Raises MvssError before the fit, for sources that were not learned or have another shape, and for operators or noise
        that the posterior of the settings cannot serve.
        """
        posterior = self._fitted()
        shown(view, self.priors)
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise MvssError(f"separate: draws={draws} must be a whole number of at least 1")
        inner = self.units.inward(view).to(self._device)
        found = posterior.many(inner, self.priors, stream_of(seed), draws, progress)
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
        folder = Path(folder)
        described = save_models(folder, self.priors, self.amortised)
        content = {"version": VERSION, "sources": described, "scales": dict(self.units.scales)}
        content["settings"] = settings_text(self.settings)
        atomic_write_text(folder / "separator.json", json.dumps(content, indent=1) + "\n")

    @staticmethod
    def from_pretrained(folder: Path | str) -> SourceSeparator:
        """Read what `save_pretrained` wrote: it separates as it did before, on the CPU (`to` moves it).

        Raises MvssError where the folder is no such model, is damaged, or is of another version.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / "separator.json").read_text())
            version, described, scales = content["version"], content["sources"], content["scales"]
            settings = settings_from(content["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MvssError(f"{folder} holds no readable separator.json: name a folder written by save_pretrained") from error
        if version != VERSION:
            raise MvssError(f"{folder} is of version {version}, and this mvss reads {VERSION}: learn it again")
        model = SourceSeparator(settings)
        try:
            model.priors, model.amortised = load_models(folder, described)
            model.units = Units({source: float(scales[source]) for source in model.priors})
        except (KeyError, TypeError, ValueError) as error:
            raise MvssError(f"{folder}: separator.json is damaged, or of another version: save the model again") from error
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

    def _first_draws(self, views: Views, estimate: Estimate, stream: Stream, progress: Callable[[float], None]) -> FirstDraws:
        """One exact posterior draw under the first priors for every observation; estimates of sources in their place, and what
        they leave of y as the draw of the other source, where there is one."""
        beam = getattr(self.settings.posterior, "beam", 64)
        exact, first = ExactPosterior(beam), []
        for alpha, view in enumerate(views):
            found = exact.draw(view.to(self._device), self._mixtures, stream.child(alpha)).draws
            first.append({source: x.to(view.y.device) for source, x in found.items()})
            progress((alpha + 1) / len(views))
        for source, by_view in estimate.draws.items():
            for alpha, x in by_view.items():
                view = views[alpha]
                first[alpha][source] = x / self.units.scales[source]
                others = [other for other in view.sources if other != source]
                if len(others) == 1:
                    left = view.without(source, first[alpha][source])
                    first[alpha][others[0]] = left.operators[others[0]].pseudo_inverse(left.y)
        return FirstDraws(first, {source: list(by_view) for source, by_view in estimate.draws.items()})

    def _last_draws(
        self, views: Views, draws: list[Draws], stream: Stream, progress: Callable[[float], None]
    ) -> tuple[list[Draws], list[str]]:
        """Draws of the observations as new ones are separated, from the last ones of EM; a line where those are kept."""
        last, lines = [], []
        for alpha, (view, start) in enumerate(zip(views, draws, strict=True)):
            inner = view.to(self._device)
            found = self._fitted().draw(inner, self.priors, stream.child(alpha), start)
            kept, line = guarded(inner, found.draws, found.start, found.narrow)
            last.append({source: x.to(view.y.device) for source, x in kept.items()})
            lines += [line] if line else []
            progress((alpha + 1) / len(views))
        return last, lines
