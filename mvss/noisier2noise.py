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

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from mvss.amortised import BATCH, level_of, seen, tight_factor
from mvss.data import MultiViewData
from mvss.dynamic import local_scale, usual_size
from mvss.errors import MvssError
from mvss.memory import in_chunks
from mvss.rng import Stream
from mvss.training import TrainingConfig, fit_denoiser

RELATIVE = 0.05
"""Error that counts as much as the noise does, beside the light of a pixel."""


@dataclass(frozen=True)
class Noisier2NoiseConfig:
    """training: of f; its noise levels do not matter. averages: backgrounds n' behind each estimate. dynamic_range: of images
    whose bright pixels are many times as bright as their noise: f gives a share of the light of each pixel, and errors count
    beside that light."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    averages: int = 8
    dynamic_range: bool = False

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
        if beta not in view.shown or tight_factor(view, beta) is None:
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

    network: F(x, log σ) for images, of two inputs and two outputs, which is trained.
    """
    mixed, background = data.views[pair.mixed], data.views[pair.background]
    factor, level = tight_factor(mixed, beta), level_of(background)
    assert factor is not None
    measured, empty = seen(mixed), seen(background)
    y, n = (mixed.y - level) * measured, (background.y - level) * empty
    model = _Estimator(network, torch.stack([n, empty], dim=1).float(), config.dynamic_range)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    fit_denoiser(model, torch.stack([y, measured], dim=1), config.training, stream.child("fit"), accelerator)
    home, total = next(network.parameters()).device, torch.zeros_like(y)
    for number in range(config.averages):
        chosen = (stream.uniform(torch.arange(len(y)), (), "background", number) * len(n)).long()

        def work(rows: slice, chosen: Tensor = chosen) -> Tensor:
            return model.estimate(y[rows].to(home), measured[rows].to(home), chosen[rows].to(home)).to(y)

        total += torch.cat(list(in_chunks(work, len(y), BATCH)))
    return total / (config.averages * factor)


class _Estimator(torch.nn.Module):
    """A f(z), trained as `fit_denoiser` trains denoisers. backgrounds: n' and where it was measured, `(K, 2, *shape)`."""

    backgrounds: Tensor

    def __init__(self, network: torch.nn.Module, backgrounds: Tensor, dynamic: bool) -> None:
        super().__init__()
        self.network, self.dynamic = network, dynamic
        self.register_buffer("backgrounds", backgrounds)
        self.usual = usual_size(*backgrounds.unbind(1))

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None) -> Tensor:
        """x: y and where it was measured, `(N, 2, *shape)`. sigma, noise: not looked at. Backgrounds are chosen by the global
        generator, which `fit_denoiser` seeds."""
        y, measured = x.unbind(1)
        z, both, found = self._found(y, measured, torch.randint(len(self.backgrounds), (len(y),)).to(y.device))
        error = (self._weights(z, both, found.detach()) * (0.5 * (found + z) - y).square()).flatten(1).sum(1)
        error = error / both.flatten(1).sum(1).clamp_min(1.0)
        return error.mean() if weights is None else (weights * error).mean()

    @torch.no_grad()
    def estimate(self, y: Tensor, measured: Tensor, chosen: Tensor) -> Tensor:
        """E[A x | z], `(N, *shape)`, for z with the backgrounds of the numbers `chosen`."""
        return self._found(y.float(), measured.float(), chosen)[-1]

    def _found(self, y: Tensor, measured: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z, where it was measured, and A f(z)."""
        n, empty = self.backgrounds[chosen].unbind(1)
        both = measured * empty
        z = both * (y + n)
        scale = local_scale(z, both, self.usual) if self.dynamic else _size(z, both)
        inputs = (
            [torch.asinh(z / self.usual) / 3, torch.asinh(z / (10 * self.usual)) / 2] if self.dynamic else [z / scale, both]
        )
        out = self.network(torch.stack(inputs, dim=1), torch.zeros(len(y), dtype=z.dtype, device=z.device))
        share, more = out.reshape(len(z), 2, *z.shape[1:]).unbind(1)
        return z, both, z * torch.sigmoid(share) + scale * more

    def _weights(self, z: Tensor, both: Tensor, found: Tensor) -> Tensor:
        """w(z): any function of z leaves the least where it is. Beside bright light, errors are large and say little."""
        if not self.dynamic:
            return both / _size(z, both).square()
        hidden = local_scale(z - found, both, self.usual)
        return both / (hidden.square() + (RELATIVE * local_scale(z, both, self.usual)).square())


def _size(z: Tensor, both: Tensor) -> Tensor:
    """Root mean square of each image, `(N, 1, …)`."""
    mean = z.square().flatten(1).sum(1) / both.flatten(1).sum(1).clamp_min(1.0)
    return mean.sqrt().clamp_min(1e-12).reshape(-1, *[1] * (z.ndim - 1))
