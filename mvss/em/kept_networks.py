"""Whether the network of a prior is worth keeping: in few dimensions the mixture that it corrects may be as good by itself.

    x: draws given held-out observations, half under the priors with networks, half under the mixtures alone
    kept where    E |x − d(x + σ z)|² < E |x − d_mixture(x + σ z)|²

Half and half, since each law denoises its own draws best; held-out observations, since a network remembers the others.
"""

from __future__ import annotations

__all__ = ["Correction", "corrections"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mvss.posteriors.posterior import Posterior
from mvss.presets.training import TrainingConfig
from mvss.priors.diffusion import DiffusionPrior, MixtureAlone
from mvss.priors.prior import Prior
from mvss.priors.training import denoising_loss
from mvss.problem.views import View
from mvss.runtime.rng import Stream

DRAWS = 4
"""Of each held-out observation, under each law."""


@dataclass(frozen=True)
class Correction:
    """What the network of a source does for held-out draws: the denoising loss with it, and that of the mixture alone."""

    source: str
    network: float
    mixture: float

    @property
    def kept(self) -> bool:
        """Whether the network denoises better."""
        return self.network < self.mixture

    def __str__(self) -> str:
        taken = "with its network" if self.kept else "the mixture alone, without its network"
        return f"{self.source}: {taken} (held-out denoising loss {self.network:.4g} with it, {self.mixture:.4g} without)"


def corrections(
    views: Sequence[View], priors: Mapping[str, Prior], posterior: Posterior, training: TrainingConfig, stream: Stream
) -> list[Correction]:
    """Of every source that has a network. views: observations that no network has learned from. training: whose noise levels
    are looked at."""
    mixtures: dict[str, Prior] = {source: prior.mixture for source, prior in priors.items()}
    draws = [
        posterior.many(view, law, stream.child("draws", number, alpha), DRAWS)
        for number, law in enumerate((priors, mixtures))
        for alpha, view in enumerate(views)
    ]
    found = []
    for place, (source, prior) in enumerate(priors.items()):
        if not isinstance(prior, DiffusionPrior):
            continue
        x = torch.cat([parts[source].flatten(0, 1) for parts in draws if source in parts])
        keyed = stream.child("loss", place)
        network, mixture = (denoising_loss(law, x, training, keyed) for law in (prior, MixtureAlone(prior)))
        found.append(Correction(source, network, mixture))
    return found
