"""First estimates of a source that is never seen alone, from mixtures alone, by adding more of what hides it.

    y = A x + n,  n: all other sources and noise,    n': an observation of a view that shows those others and nothing else
    z = y + n',  E[n | z] = E[n' | z], since the two may change places    ⇒    E[A x | z] = 2 E[y | z] − z
    f:  min E w(z) ‖½ (A f(z) + z) − y‖²,    x̂ = mean over n' of f(y + n')

Noisier2Noise (Moran et al. 2020, arXiv 1910.11908) adds simulated noise of a known law. Where one view is another less one
source, as backgrounds are beside backgrounds with targets, real observations serve instead: no law of n need be known. The
estimate is E[x | z] of twice the background: worse than E[x | y], but free of any prior, and a good start for one.
"""

from __future__ import annotations

__all__ = ["Noisier2NoiseConfig", "Pair", "estimate_source", "pairs_of"]

import math
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from mvss.data import MultiViewData, View
from mvss.errors import MvssError
from mvss.operators import LinearOperator
from mvss.rng import Stream
from mvss.shared_view import unmasked
from mvss.training import TrainingConfig, fit_denoiser

BATCH = 256
"""Images that go through the network at a time when nothing is learned."""


@dataclass(frozen=True)
class Noisier2NoiseConfig:
    """training: of f; its noise levels do not matter. averages: backgrounds n' behind each estimate."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    averages: int = 8

    def __post_init__(self) -> None:
        if self.averages < 1:
            raise MvssError(f"noisier2noise: averages={self.averages} must be at least 1")


@dataclass(frozen=True)
class Pair:
    """A view that shows a source, and one that shows all of it but that source, by their numbers."""

    mixed: int
    background: int


def pairs_of(data: MultiViewData, beta: int) -> list[Pair]:
    """Pairs of views that tell source `beta`: A, but for a mask, must be a multiple of the identity."""
    found = []
    for a, view in enumerate(data.views):
        if beta not in view.shown or _factor(view.operators[beta], unmasked(view)[1][view.shown.index(beta)]) is None:
            continue
        others = set(view.shown) - {beta}
        same = [b for b, v in enumerate(data.views) if set(v.shown) == others and v.observation_shape == view.observation_shape]
        if others and same:
            found.append(Pair(a, same[0]))
    return found


def estimate_source(
    data: MultiViewData, beta: int, pair: Pair, network: torch.nn.Module, config: Noisier2NoiseConfig, stream: Stream
) -> Tensor:
    """x̂ of source `beta`, `(N, *shape)`, for all observations of the pair's view.

    network: F(x, log σ) for images, of one input and one output, which is trained.
    """
    mixed, background = data.views[pair.mixed], data.views[pair.background]
    factor = _factor(mixed.operators[beta], unmasked(mixed)[1][mixed.shown.index(beta)])
    assert factor is not None
    seen, empty = (_seen(view) for view in (mixed, background))
    usual = (background.y * empty).sum(0) / empty.sum(0).clamp_min(1.0)
    y, n = ((view.y - usual) * mask for view, mask in ((mixed, seen), (background, empty)))
    model = _Estimator(network, torch.stack([n, empty], dim=1).float())
    # fit_denoiser's noise level, uniform in its logarithm over batch strata, says which background is added
    training = replace(config.training, sigma_min=1.0, sigma_max=math.e, beta=(1.0, 1.0))
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    fit_denoiser(model, torch.stack([y, seen], dim=1), training, stream.child("fit"), accelerator)
    index, home = torch.arange(len(y)), next(network.parameters()).device
    total = torch.zeros_like(y)
    for number in range(config.averages):
        chosen = (stream.uniform(index, (), "background", number) * len(n)).long()
        for rows in index.split(BATCH):
            total[rows] += model.estimate(y[rows].to(home), seen[rows].to(home), chosen[rows].to(home)).to(y)
    return total / (config.averages * factor)


class _Estimator(torch.nn.Module):
    """A f(z), trained as `fit_denoiser` trains denoisers. backgrounds: n' and where it was measured, `(K, 2, *shape)`."""

    backgrounds: Tensor

    def __init__(self, network: torch.nn.Module, backgrounds: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("backgrounds", backgrounds)

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None) -> Tensor:
        """x: y and where it was measured, `(N, 2, *shape)`. sigma: from 1 to e. noise: not looked at."""
        y, seen = x.unbind(1)
        chosen = (sigma.log().clamp(0, 1) * len(self.backgrounds)).long().clamp_max(len(self.backgrounds) - 1)
        z, both, scale, found = self._found(y, seen, chosen)
        error = (both * (0.5 * (found + z) - y) / scale).square().flatten(1).sum(1) / both.flatten(1).sum(1).clamp_min(1.0)
        return error.mean() if weights is None else (weights * error).mean()

    @torch.no_grad()
    def estimate(self, y: Tensor, seen: Tensor, chosen: Tensor) -> Tensor:
        """E[A x | z], `(N, *shape)`, for z with the backgrounds of the numbers `chosen`."""
        return self._found(y.float(), seen.float(), chosen)[-1]

    def _found(self, y: Tensor, seen: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z, where it was measured, its scale, and A f(z)."""
        n, empty = self.backgrounds[chosen].unbind(1)
        both = seen * empty
        z = both * (y + n)
        size = (-1, *[1] * (y.ndim - 1))
        scale = (z.square().flatten(1).sum(1) / both.flatten(1).sum(1).clamp_min(1.0)).sqrt().clamp_min(1e-12).reshape(size)
        out = self.network((z / scale).unsqueeze(1), torch.zeros(len(y), dtype=z.dtype, device=z.device))
        return z, both, scale, z + scale * out.reshape(z.shape)


def _seen(view: View) -> Tensor:
    """1 where a pixel was measured, `(N, *shape)`."""
    mask, _ = unmasked(view)
    return torch.ones_like(view.y) if mask is None else mask.expand_as(view.y).to(view.y)


def _factor(operator: LinearOperator, bare: LinearOperator) -> float | None:
    """a where A = a I behind its mask."""
    if operator.source_shape != operator.observation_shape or not bare.is_tight:
        return None
    probe = torch.ones(1, *bare.source_shape, dtype=torch.float64)
    image = bare.forward(probe)
    return float(image.flatten()[0]) if torch.allclose(image, image.flatten()[0] * probe) else None
