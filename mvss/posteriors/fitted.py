"""What has been learned of sources: it separates observations, samples, and tells how probable a candidate is."""

from __future__ import annotations

__all__ = ["Fitted"]

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar, get_args

import torch
from torch import Tensor

from mvss.posteriors import posterior_of
from mvss.posteriors.amortised import Amortised
from mvss.posteriors.posterior import Posterior, shown
from mvss.posteriors.pretrained import model_folder
from mvss.posteriors.saved import load_models, save_models
from mvss.presets import load_settings, settings_from, settings_text
from mvss.presets.posterior import AmortisedConfig, AutoConfig, PosteriorConfig, SeparationConfig
from mvss.presets.settings import Settings
from mvss.priors.prior import Prior
from mvss.problem.units import Units
from mvss.problem.views import Draws, View
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import ensure_memory
from mvss.runtime.numbers import finite, integer, real
from mvss.runtime.rng import Stream, stream_of

Model = TypeVar("Model", Prior, Amortised)


class Fitted:
    """Priors of all sources, and how observations are separated by them; `SourceSeparator` learns them.

    settings: as of `SourceSeparator`. Attributes: sources, their names; priors, of each, in the units of `units`; amortised,
    networks that have learned posteriors, by source.
    """

    def __init__(self, settings: str | Path | Settings) -> None:
        self.settings = load_settings(settings)
        self.priors: dict[str, Prior] = {}
        self.amortised: dict[str, Amortised] = {}
        self.units = Units({})
        self._posterior: Posterior | None = None
        self._suited = self.settings

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the order in which views show them; none before the fit."""
        return tuple(self.priors)

    def to(self, device: torch.device | str) -> Self:
        """Itself, with all networks there, such as "cuda": where it separates. Draws come back to where y is. Those made of it,
        such as by `separating_by`, stay where they are."""
        self.priors = {source: _at(prior, device) for source, prior in self.priors.items()}
        self.amortised = {source: _at(model, device) for source, model in self.amortised.items()}
        self._posterior = self._posterior and self._built()  # anew: what it keeps to save time is where it was
        return self

    def separating_by(self, posterior: str | SeparationConfig) -> Self:
        """The same priors and networks, which separate by another posterior: a kind of them, such as "split_gibbs", as the
        settings have it or else with its defaults, or all that there is to say of one. Raises MvssError for an unknown kind,
        for what is neither, and for "auto" where the settings of the fit have another separation: nothing was compared then."""
        named = self._suited.posterior_named(posterior) if isinstance(posterior, str) else posterior
        if not isinstance(named, SeparationConfig):
            shown = f"the class {named.__name__}" if isinstance(named, type) else type(named).__name__
            raise MvssError(f"posterior must be a name or an object such as mvss.SplitGibbsConfig(), not {shown}")
        if isinstance(named, AutoConfig) and not isinstance(self.settings.separation, AutoConfig):
            kinds = ", ".join(kind.kind for kind in get_args(PosteriorConfig))
            raise MvssError(
                f"posterior='auto' needs a fit with separation: {{kind: auto}} in its settings; here ask for {kinds}"
            )
        other = copy.copy(self)
        other._suited = replace(self._suited, separation=named)
        other._posterior = self._posterior and other._built()
        return other

    def with_source(self, name: str, fitted: Fitted, source: str) -> Self:
        """The same with one source more, or with another law of one: what another fit, or this one, knows as `source`. Both are
        to have one unit. Networks that have learned posteriors with the old law are left out.

        Raises MvssError for a source that was not learned.
        """
        prior, other = fitted._prior(source), copy.copy(self)
        self._fitted()
        other.priors = {**self.priors, name: prior}
        stale = {s for s, m in self.amortised.items() if s == name or any(name in pair.others for pair in m.pairs)}
        other.amortised = {s: model for s, model in self.amortised.items() if s not in stale}
        other.units = Units({**self.units.scales, name: fitted.units.scales[source]})
        return other.to(self._device)

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
        the sources may not. seed: decides the draws, with the observations' numbers: draws of two views that are to be
        independent need two seeds. progress: takes the fraction done. posterior: another one than that of the settings, see
        `separating_by`.

        Raises MvssError before the fit, for sources that were not learned or have another shape, and for operators or noise
        that the posterior of the settings cannot serve.
        """
        if posterior is not None:
            return self.separating_by(posterior).separate(view, draws, seed, progress)
        joint = self._fitted()
        shown(view, self.priors)
        draws = integer(draws, "separate: draws", 1)
        inner = self.units.inward(view).to(self._device)
        self._tell_of_strangers(inner)
        found = joint.many(inner, self.priors, stream_of(seed), draws, progress)
        return {source: x.to(view.y.device) for source, x in self.units.outward(found).items()}

    def sample(self, source: str, count: int, seed: int | Stream = 0, stratified: bool = False) -> Tensor:
        """`(count, *shape)` draws of the prior of a source, in the units of the views, on the CPU. seed: decides the draws,
        with the name of the source; a stream does so alone. stratified: as evenly spread as they can be, for measuring the
        law itself; not independent. Raises MvssError for a source that was not learned, for a count or seed that is no whole
        number, and where memory does not suffice."""
        prior, stream = self._prior(source), stream_of(seed, "sample", source)
        if (count := integer(count, "sample: count", 0)) == 0:
            return torch.zeros(0, *prior.shape, dtype=torch.float64)
        numbers = prior.mixture.factors.shape[2] + 4 * prior.mixture.dimension
        ensure_memory(8 * count * numbers, f"{count} draws of {source}", "ask for fewer", self._device)
        return self.units.scales[source] * prior.sample(count, stream, stratified).cpu()

    def log_prob(self, source: str, x: Tensor, sigma: float | None = None) -> Tensor:
        """How probable candidates x `(N, *shape)` of a source are: log density `(N,)` in nats, per unit of the source.

        sigma: of x + σ z, in the units of the source: a source on a manifold has no density itself; None for the least that
        the prior was trained at (0 for a prior in closed form).

        Of a source of more than 256 numbers that has a network it is an estimate, by four random probes of what the network
        adds to the mixture. Of correlated Gaussian images, 28 × 28, its error is below 0.1 % of |log p| where the network adds
        1 % of it, and about 6 % where it adds all correlations; each candidate has its own. There the exact trace is needed for
        0.1 %, see `mvss.priors.likelihood.flow_log_prob`.

        Raises MvssError for a source that was not learned, candidates of another shape, with NaN or none at all, or a sigma
        below that.
        """
        prior, scale = self._prior(source), self.units.scales[source]
        x = real(x, f"log_prob: candidates of {source}")
        if x.shape[1:] != prior.shape or not len(x) or not bool(torch.isfinite(x).all()):
            raise MvssError(f"log_prob: candidates of {source} must be finite and (N, {', '.join(map(str, prior.shape))})")
        if sigma is not None and (sigma := finite(sigma, "log_prob: sigma")) < 0:
            raise MvssError(f"log_prob: sigma={sigma:g} must be at least 0")
        density = prior.log_prob(x.to(self._device) / scale, None if sigma is None else sigma / scale)
        return density.to(x.device) - x[0].numel() * math.log(scale)

    def save_pretrained(self, folder: Path | str, half: bool = False) -> None:
        """Write networks (diffusers format), mixtures, units and settings to a folder, which is made. Report and draws are not
        kept. half: networks and covariances in half precision, to pass on: half the size or less, and the same laws to three
        digits. Raises MvssError before the fit, or where the folder cannot be written."""
        self._fitted()
        about = {"settings": settings_text(self._suited), "scales": dict(self.units.scales)}
        save_models(Path(folder).expanduser(), self.priors, self.amortised, about, half)

    @classmethod
    def from_pretrained(cls, name: Path | str) -> Self:
        """Read what `save_pretrained` wrote: it separates as it did before, on the CPU (`to` moves it).

        name: a folder; where there is none of that name, one of the models to try, "manifolds", "mnist-grass" or "galaxies", or
        a repository of the Hugging Face hub, "user/repo", which is downloaded once. A path is always a folder.

        Raises MvssError where there is no such model, or it is damaged, or of another version.
        """
        priors, amortised, about = load_models(model_folder(name))
        model = cls(settings_from(about["settings"]))
        model.priors, model.amortised, model.units = priors, amortised, Units(about["scales"])
        model._posterior = model._built()
        return model.to("cpu")

    @property
    def _device(self) -> torch.device:
        return next(iter(self.priors.values())).mixture.means.device

    def _built(self) -> Posterior:
        """By which it separates, with the settings and networks that it has."""
        return posterior_of(self._suited.separating, self.amortised)

    def _tell_of_strangers(self, view: View) -> None:
        """With a warning, where a network is asked for the posterior of a view unlike those that it has learned from."""
        if not isinstance(self._suited.separating, AmortisedConfig):
            return
        if strange := [s for s, model in self.amortised.items() if model.applies(view) and not model.at_home(view)]:
            warnings.warn(
                f"{view.name}: the network of {strange[0]} has learned from another noise, or another share of measured "
                "numbers: its draws may be off; those of posterior='split_gibbs' follow the noise that is said",
                stacklevel=3,
            )

    def _fitted(self) -> Posterior:
        if self._posterior is None:
            raise MvssError("the separator has learned nothing yet: call fit first")
        return self._posterior

    def _prior(self, source: str) -> Prior:
        self._fitted()
        if source not in self.priors:
            raise MvssError(f"there is no source {source!r}: known are {', '.join(self.sources)}")
        return self.priors[source]


def _at(model: Model, device: torch.device | str) -> Model:
    """The same on a device: a copy, where it is on another one, since others may hold it, too."""
    if not isinstance(model, torch.nn.Module):
        return model
    here = all(x.device == torch.device(device) for x in (*model.parameters(), *model.buffers()))
    return (model if here else copy.deepcopy(model).to(device)).eval()
