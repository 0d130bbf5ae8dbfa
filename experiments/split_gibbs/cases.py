"""Mixtures under operators and noise of many kinds, whose posteriors are known exactly: 2 and 3 sources, few numbers."""

from __future__ import annotations

__all__ = ["CASES", "KERNEL", "ROUNDS", "Case", "accurate", "flat", "normal", "observed", "overlapping"]

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mvss import Diagonal, Identity, Isotropic, LinearOperator, Mask, Noise, Scale, Stack, View
from mvss.posteriors.split_gibbs import levels_of
from mvss.presets.posterior import SplitGibbsConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.image_operators import BlockAverage, Convolve
from mvss.problem.operators import Dense
from mvss.runtime.rng import Stream

ROUNDS = 20
"""Of accurate chains, at each level."""
KERNEL = torch.tensor([[0.05, 0.1, 0.05], [0.1, 0.4, 0.1], [0.05, 0.1, 0.05]], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard-normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case(NamedTuple):
    """What each source is seen through, by name, and the noise."""

    operators: Mapping[str, LinearOperator]
    noise: Noise


CASES = {
    "identity": Case({"a": Identity((3,)), "b": Identity((3,))}, Isotropic(0.3)),
    "mask": Case(
        {"a": Mask([[True, True, False, True]]) @ Scale(0.7, (4,)), "b": Mask([[True, True, False, True]])}, Isotropic(0.3)
    ),
    "three sources, dense": Case(
        {s: Dense(0.7 * normal(3, d, seed=i)) for i, (s, d) in enumerate([("a", 3), ("b", 3), ("c", 2)])},
        Diagonal([[0.2, 0.3, 0.5]]),
    ),
    "average": Case({"a": BlockAverage((1, 4, 4), 2), "b": Identity((1, 2, 2))}, Isotropic(0.3)),
    "psf": Case(
        {"a": Convolve((1, 3, 3), KERNEL, "same"), "b": Identity((1, 3, 3))},
        Diagonal(0.2 + 0.2 * torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)),
    ),
    "two looks at one of three": Case(
        {
            "a": Stack([Identity((2,)), Scale(0.4, (2,))]),
            "b": Stack([Scale(0.5, (2,)), Scale(0.0, (2,))]),
            "c": Stack([Scale(0.0, (2,)), Scale(0.8, (2,))]),
        },
        Isotropic(0.3),
    ),
}


def overlapping(shape: tuple[int, ...], seed: int) -> GaussianMixture:
    """Three components that annealing can go between."""
    size, rng = int(torch.Size(shape).numel()), torch.Generator().manual_seed(seed)
    means = 0.9 * torch.randn(3, size, generator=rng, dtype=torch.float64) / size**0.5
    factors = 0.4 * torch.randn(3, size, 2, generator=rng, dtype=torch.float64)
    return GaussianMixture(0.5 + torch.rand(3, generator=rng, dtype=torch.float64), means, factors, 0.4, shape)


def observed(case: Case, count: int) -> tuple[View, dict[str, GaussianMixture]]:
    """`count` times the same observation, and the priors behind it."""
    priors = {s: overlapping(o.source_shape, place) for place, (s, o) in enumerate(case.operators.items())}
    truth = {source: prior.sample(1, Stream(5, (source,))) for source, prior in priors.items()}
    clean = torch.stack([operator.forward(truth[s]) for s, operator in case.operators.items()]).sum(0)
    y = clean + case.noise.color(normal(*clean.shape, seed=9))
    return View(y.expand(count, *y.shape[1:]), case.operators, case.noise), priors


def flat(draws: Mapping[str, Tensor]) -> Tensor:
    """All numbers of all sources, `(N, D)`."""
    return torch.cat([x.flatten(1) for x in draws.values()], dim=1)


def accurate(
    view: View, priors: Mapping[str, GaussianMixture], reference: Tensor, share: float, levels: int
) -> SplitGibbsConfig:
    """Chains of many rounds whose last ρ is a share of the smallest posterior standard deviation, that of exact draws `(N, D)`
    in the direction where they vary least."""
    smallest = float(torch.linalg.eigvalsh(torch.cov(reference.mT))[0]) ** 0.5
    (one,) = levels_of(SplitGibbsConfig(levels=1, last=1.0), view, priors)
    return SplitGibbsConfig(levels, ROUNDS, last=share * smallest / max(float(rho[0]) for rho in one.values()))
