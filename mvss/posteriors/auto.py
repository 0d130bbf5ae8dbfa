"""Which posterior separates: the one that networks have learned, where it is at home and the better of the two, or split Gibbs.

At home it is in views with the operators, the noise and about the share of measured numbers that it was trained on
(`ViewPair`). The better one is found from observations alone, those that no network has learned from, neither the first
guess nor later ones; where a view has so few that none is held out, from its first one, which favours the network. Draws
of the source given these, half by each posterior, are put before other backgrounds; each posterior draws from what was
made so, and is scored by what was put in:

    x: draws given held-out y,     y′ = A x + n′,     energy score of x_1 … x_K given y′, beside x        (`metrics.spread`)

n′ is an observation of a view that shows all other sources and noise. The lower mean over all x is the better one; a tie is
the network's. The score is proper: nothing has a lower one than draws of what x given y′ follows, whether the others are
too narrow or off. Half and half, since each is best by its own. How well y itself is explained is not asked: a split of y
between sources can be wrong and explain y perfectly, while x is known.
"""

from __future__ import annotations

__all__ = ["AutoPosterior", "Comparison", "choose", "lines_of", "rivals_of"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvss.metrics.spread import energy_score
from mvss.posteriors.amortised import Amortised, AmortisedPosterior
from mvss.posteriors.posterior import Given, Posterior, Priors
from mvss.posteriors.split_gibbs import SplitGibbs
from mvss.posteriors.view_pairs import ViewPair, pairs_of
from mvss.presets.posterior import AmortisedConfig, AutoConfig
from mvss.problem.operators import Mask
from mvss.problem.views import View, Views
from mvss.runtime.rng import Stream


class AutoPosterior(Posterior):
    """See the module. models: by source; those that are not `preferred` are not asked."""

    def __init__(self, config: AutoConfig, models: Mapping[str, Amortised]) -> None:
        preferred = {source: model for source, model in models.items() if model.preferred}
        self.trained, self.split = rivals_of(config, preferred)

    def prepared(self, view: View, priors: Priors) -> Given:
        """See `Posterior`."""
        at_home = any(model.at_home(view) for model in self.trained.models.values())
        return (self.trained if at_home else self.split).prepared(view, priors)


@dataclass(frozen=True)
class Comparison:
    """Energy scores over so many made `observations`, in units of the spread of the source: of the posterior that networks have
    learned for it, and of split Gibbs."""

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
        scores = f"amortised {self.trained:.4g}, split Gibbs {self.split:.4g}; {self.observations} made observations"
        home = f"{taken} in the views that its network has learned, split Gibbs in all others"
        return f"{self.source}: {home} (energy score of what was put in: {scores})"


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


def lines_of(comparisons: Sequence[Comparison], models: Mapping[str, Amortised]) -> list[str]:
    """What the report says of all sources that networks have learned, of those without a comparison, too."""
    missing = models.keys() - {each.source for each in comparisons}
    unknown = "amortised and split Gibbs were not compared, no held-out observations pair up: raise em.held_out"
    return [*map(str, comparisons), *(f"{source}: {unknown}; amortised is taken" for source in models if source in missing)]


def compared(
    views: Sequence[View], source: str, model: Amortised, priors: Priors, config: AutoConfig, stream: Stream
) -> Comparison | None:
    """Of one source; None where none of the views is like those that its network has learned."""
    rivals = rivals_of(config, {source: model})
    scores: list[list[Tensor]] = [[], []]
    for pair in pairs_of(Views(views), source, learn=False):
        view, keyed = views[pair.view], stream.child(pair.view)
        for number, rival in enumerate(rivals):
            put = rival.many(view, priors, keyed.child("put", number), config.put)[source].flatten(0, 1)
            made = _made(view, pair, put, keyed.child("made", number))
            for own, posterior in zip(scores, rivals, strict=True):
                draws = posterior.many(made, priors, keyed.child("draws", number), config.draws)[source]
                own.append(energy_score(draws, put) / priors[source].mixture.spread)
    if not scores[0]:
        return None
    first, second = (torch.cat(own) for own in scores)
    return Comparison(source, float(first.mean()), float(second.mean()), len(first))


def rivals_of(config: AutoConfig, models: Mapping[str, Amortised]) -> tuple[AmortisedPosterior, SplitGibbs]:
    """The posterior that networks have learned, and split Gibbs."""
    return AmortisedPosterior(config.trained or AmortisedConfig(), models), SplitGibbs(config.split)


def _made(view: View, pair: ViewPair, x: Tensor, stream: Stream) -> View:
    """y′ of draws x `(K N, *shape)` of the source, K of each observation of the view, which is of the pair."""
    index = torch.arange(len(x))
    like = view.select(index % len(view))
    backgrounds, operator, noise = pair.backgrounds, pair.operator, pair.background_noise
    assert backgrounds is not None and operator is not None and noise is not None
    chosen = (stream.uniform(index, (), "background") * len(backgrounds)).long()
    n, seen = backgrounds[chosen].to(x).unbind(1)
    measured = seen * pair.observed(like)[1]
    operators = like.operators if bool(seen.all()) else {s: Mask(seen > 0) @ other for s, other in like.operators.items()}
    return View(measured * (operator.forward(x) + n + pair.level.to(x)), operators, noise.select(chosen), view.name, index)
