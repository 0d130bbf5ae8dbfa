"""Which posterior separates: the one that networks have learned, where it is at home and the better of the two, or split Gibbs.

At home it is in views with the operators, the noise and about the share of measured numbers that it was trained on
(`ViewPair`). The better one is found from observations alone, those that no network has learned from. A share of the
numbers of y is hidden; each posterior is given the others, and its draws predict the hidden ones, noise and all:

    ŷ_k = Σ A x_k + η_k,     energy score of ŷ_1 … ŷ_K beside y, over the hidden numbers        (`metrics.spread`)

It is a proper score: nothing has a lower one than draws of what y follows, whether the others are too narrow or off.
"""

from __future__ import annotations

__all__ = ["AutoPosterior", "Comparison", "choose"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.metrics.spread import energy_score
from mvss.posteriors.amortised import Amortised, AmortisedPosterior
from mvss.posteriors.posterior import Given, Posterior, Priors
from mvss.posteriors.split_gibbs import SplitGibbs
from mvss.presets.posterior import AmortisedConfig, AutoConfig
from mvss.problem.operators import Mask
from mvss.problem.shared_view import unmasked
from mvss.problem.views import View
from mvss.runtime.rng import Stream


class AutoPosterior(Posterior):
    """See the module. models: by source; those that are not `preferred` are not asked."""

    def __init__(self, config: AutoConfig, models: Mapping[str, Amortised]) -> None:
        preferred = {source: model for source, model in models.items() if model.preferred}
        self.trained, self.split = AmortisedPosterior(config.trained or AmortisedConfig(), preferred), SplitGibbs(config.split)

    def prepared(self, view: View, priors: Priors) -> Given:
        """See `Posterior`."""
        at_home = any(model.at_home(view) for model in self.trained.models.values())
        return (self.trained if at_home else self.split).prepared(view, priors)


@dataclass(frozen=True)
class Comparison:
    """Energy scores of predicted numbers, in units of the noise: of the posterior that networks have learned for a source, and
    of split Gibbs, over `observations`."""

    source: str
    trained: float
    split: float
    observations: int

    @property
    def preferred(self) -> bool:
        """Whether the former is the better one."""
        return self.trained <= self.split

    def __str__(self) -> str:
        taken = "amortised" if self.preferred else "split Gibbs"
        scores = f"amortised {self.trained:.4g}, split Gibbs {self.split:.4g}; {self.observations} observations"
        home = f"{taken} in the views that its network has learned, split Gibbs in all others"
        return f"{self.source}: {home} (energy score of hidden numbers of y: {scores})"


def choose(
    views: Sequence[View],
    models: Mapping[str, Amortised],
    priors: Priors,
    config: AutoConfig,
    stream: Stream,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Comparison]:
    """Compare the posteriors of all sources that networks have learned, and note which are preferred. views: observations that
    no network has learned from. progress: takes the fraction done."""
    comparisons = list[Comparison]()
    for n, (source, model) in enumerate(models.items()):
        found = compared(views, source, model, priors, config, stream.child(n))
        comparisons += [] if found is None else [found]
        progress((n + 1) / len(models))
    for each in comparisons:
        models[each.source].preferred = each.preferred
    return comparisons


def compared(
    views: Sequence[View], source: str, model: Amortised, priors: Priors, config: AutoConfig, stream: Stream
) -> Comparison | None:
    """Of one source; None where none of the views is like those that its network has learned."""
    trained = AmortisedPosterior(config.trained or AmortisedConfig(), {source: model})
    rivals: tuple[Posterior, Posterior] = (trained, SplitGibbs(config.split))
    scores: list[list[Tensor]] = [[], []]
    for alpha, view in enumerate(views):
        if not model.applies(view):
            continue
        keyed = stream.child(alpha)
        shown, hidden = _partly(view, config.hidden, keyed)
        for own, posterior in zip(scores, rivals, strict=True):
            draws = posterior.many(shown, priors, keyed.child("draws"), config.draws)
            noise = keyed.child("noise")
            each = ({s: x[k] for s, x in draws.items()} for k in range(config.draws))
            predicted = torch.stack([_predicted(view, x, noise.child(k)) for k, x in enumerate(each)])
            own.append(energy_score(predicted * hidden, view.y * hidden) / view.noise.variance(view.y).mean().sqrt())
    if not scores[0]:
        return None
    first, second = (torch.cat(own) for own in scores)
    return Comparison(source, float(first.mean()), float(second.mean()), len(first))


def _predicted(view: View, draws: Mapping[str, Tensor], stream: Stream) -> Tensor:
    """y of draws, noise and all."""
    normal = stream.normal(view.numbers, view.observation_shape, dtype=view.y.dtype, device=view.y.device)
    return view.predicted(draws) + view.noise.color(normal)


def _partly(view: View, share: float, stream: Stream) -> tuple[View, Tensor]:
    """The view without some of the numbers of each observation, and which of the measured ones these are, `(N, *shape)`."""
    uniform = stream.uniform(view.numbers, view.observation_shape, "hidden").to(view.y.device)
    keep = uniform >= share
    keep.flatten(1)[:, 0] |= ~keep.flatten(1).any(1)  # one number at least
    mask, _ = unmasked(view)
    measured = torch.ones_like(keep) if mask is None else mask.expand_as(keep)
    operators = {source: Mask(keep) @ operator for source, operator in view.operators.items()}
    shown = View(view.y * keep, operators, view.noise, view.name, view.numbers)
    return shown, (measured & ~keep).to(view.y)
