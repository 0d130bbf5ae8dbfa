"""Clean sources that laws of draws are compared with (`core.task.Laws`); none of those behind the training observations is
among the scored ones.

    simulated    sky and galaxies, as far as they were made
    real         of galaxies none. Of the sky what was observed in random fields, with which draws are compared once they
                 have noise and gaps, too; the areas of scored and training fields share no pixel
"""

from __future__ import annotations

__all__ = ["CleanSources"]

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.galaxies.config import Transform
from experiments.galaxies.data.stamps import GALAXY, Stamps
from experiments.galaxies.data.transforms import fluxes, transformed
from experiments.galaxies.scores.laws import galaxy_distances, sky_distances
from mvss.problem.views import Views
from mvss.runtime.rng import generator

Fields = tuple[Stamps, Stamps]
"""Random fields: where the scored ones lie, and where the training ones do."""


class CleanSources:
    """Of a task; what it compares, it has as its model sees it."""

    seed: int
    train: Views
    train_truth: Sequence[Sequence[Tensor | None]]
    fresh_truth: Sequence[Sequence[Tensor | None]]
    pixels: int
    most: int
    """Sources behind the training observations that are compared."""
    usual: float
    """Standard deviation of the noise of a usual pixel, in flux."""
    transform: Transform
    fields: Fields | None

    def other_fields(self, number: int) -> Fields:
        """As `fields`, drawn anew for each number where they can be."""
        raise NotImplementedError

    def clean(self, source: int) -> tuple[Tensor, Tensor]:
        """See `core.task.Laws`. Both are empty where nobody knows them."""
        if self.fields is not None:
            return self._observed(source, self.fields)
        scored, name = self.fresh_truth[1][source], self.train.sources[source]
        # of random fields the galaxies are zeros
        behind = [self.train_truth[a][source] for a, view in enumerate(self.train) if name in view.sources]
        trained = [x for x in behind if x is not None]
        assert scored is not None
        return scored, torch.cat(trained)[: self.most]

    def clean_split(self, source: int, number: int) -> tuple[Tensor, Tensor]:
        """See `core.task.Laws`: all anew in two parts; of real sky, the two areas."""
        if self.fields is not None:
            return self._observed(source, self.other_fields(number))
        scored, trained = self.clean(source)
        whole = torch.cat([scored, trained])
        order = torch.randperm(len(whole), generator=generator(self.seed, "galaxies", "split", source, number))
        return whole[order[: len(scored)]], whole[order[len(scored) :]]

    def comparable(self, source: int, x: Tensor) -> Tensor:
        """See `core.task.Laws`."""
        if self.fields is None or self.train.sources[source] == GALAXY:
            return x
        stamps = self.fields[0]
        rows = torch.arange(len(x)) % len(stamps)
        noise = torch.randn(x.shape, generator=generator(self.seed, "galaxies", "noise of laws"), dtype=torch.float64)
        seen = fluxes(x, self.transform) + stamps.sigma[rows] * noise
        return transformed(torch.where(stamps.good[rows], seen, 0.0), self.transform)

    def distances(self, source: int, x: Tensor, reference: Tensor) -> dict[str, float]:
        """See `core.task.Laws`: `scores.laws`, of fluxes."""
        pair = (fluxes(x, self.transform), fluxes(reference, self.transform))
        if not len(x):
            return {}
        if self.train.sources[source] == GALAXY:
            return galaxy_distances(*pair, self.usual)
        return sky_distances(*pair, self.usual)

    def _observed(self, source: int, fields: Fields) -> tuple[Tensor, Tensor]:
        if self.train.sources[source] == GALAXY:
            empty = torch.zeros(0, 1, self.pixels, self.pixels, dtype=torch.float64)
            return empty, empty
        scored, trained = (transformed(torch.where(s.good, s.y, 0.0), self.transform) for s in fields)
        return scored, trained[: self.most]
