"""First estimates of a source that is never seen alone, from mixtures alone, by adding more of what hides it.

    y = A x + n,  n: all other sources and noise,    n': an observation of a view that shows those others and nothing else
    z = y + n',  E[n | z] = E[n' | z], since the two may change places    ⇒    E[A x | z] = 2 E[y | z] − z
    m:  min E w(z) ‖½ (A m(z) + z) − y‖²,    x̂ = mean over n' of m(y + n')

Noisier2Noise (Moran et al. 2020, arXiv 1910.11908) adds simulated noise of a known law. Where one view is another less one
source, as backgrounds are beside backgrounds with targets, real observations serve instead: no law of n need be known. The
estimate is E[x | z] of twice the background: worse than E[x | y], but free of any prior, and a good start for one.

m decides which share of u, which is z on the pixels of the source (`view_pairs`), is the source's. With s the size of u at
each pixel and around it (`dynamic_range`), m = sigmoid(F₂) u + s F₁; where u is blurred, m = exp(F₂) u + s F₁. It sees u beside
the background and beside the light of the middle, where the source is taken to be, and where each pixel is. Of y itself, m(y)
is a guess of E[x | y].
"""

from __future__ import annotations

__all__ = ["BATCH", "Guess", "Noisier2NoiseConfig", "estimate_source", "tolerance"]

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvss.posteriors.view_pairs import Pair, Scene, pierced
from mvss.priors.dynamic_range import local_scale, middle_light
from mvss.priors.training import TURNS, TrainingConfig, default_accelerator, fit_denoiser, turned
from mvss.problem.views import MultiViewData
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import in_chunks
from mvss.runtime.rng import Stream

BATCH = 256
"""Images that go through a network at a time when nothing is learned."""
MOST = 6.0
"""F₂ is kept below this: a core is at most 400 times as bright as its blurred image."""
RELATIVE = 0.1
"""Error that counts as much as the background does, beside the estimate's own light there."""


@dataclass(frozen=True)
class Noisier2NoiseConfig:
    """training: of m; its noise levels do not matter. averages: backgrounds n' behind each estimate.
    least, most: what the numbers of the source are known to lie between. alone: also of sources that a view shows behind noise
    alone, which is simulated."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    averages: int = 8
    least: float | None = None
    most: float | None = None
    alone: bool = False

    def __post_init__(self) -> None:
        if self.averages < 1:
            raise MvssError(f"noisier2noise: averages={self.averages} must be at least 1")
        if self.least is not None and self.most is not None and not self.least < self.most:
            raise MvssError(f"noisier2noise: least={self.least} must be below most={self.most}")


class Guess(torch.nn.Module):
    """m(y). network: of INPUTS and OUTPUTS images; its noise level is not looked at."""

    INPUTS, OUTPUTS = 6, 2

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, u: Tensor, measured: Tensor, usual: float, sharp: bool = True) -> Tensor:
        """m of u, `(N, *shape)`. measured: see `view_pairs.thrown_back`. usual: size of the background on these pixels. sharp:
        whether pixels were seen by themselves."""
        dtype = next(self.network.parameters()).dtype
        inputs = torch.stack(self.inputs(u, measured, usual), dim=1).to(dtype)
        out = self.network(inputs, torch.zeros(len(u), dtype=dtype, device=u.device)).to(u.dtype)
        plain, share = out.reshape(len(u), self.OUTPUTS, *u.shape[1:]).unbind(1)
        share = torch.sigmoid(share) if sharp else share.clamp_max(MOST).exp()
        return share * u + local_scale(u, (measured > 0).to(u), usual) * plain

    @staticmethod
    def inputs(u: Tensor, measured: Tensor, usual: float | Tensor) -> list[Tensor]:
        """What a network is shown of y, INPUTS images `(N, *shape)`."""
        light = [torch.asinh(u / usual) / 3, torch.asinh(u / (10 * usual)) / 2, torch.asinh(u / middle_light(u, usual))]
        return [*light, measured, *_places(u)]


def estimate_source(
    data: MultiViewData, beta: int, pair: Pair, guess: Guess, config: Noisier2NoiseConfig, stream: Stream
) -> Tensor:
    """x̂ of source `beta`, `(N, *shape)`, for all observations of the pair's view.

    A must be a multiple of the identity but for its mask. guess: is trained.
    """
    scene = Scene.of(data, beta, pair)
    y, measured = scene.observed(data.views[pair.mixed])
    more = _MoreBackground(guess, scene, config.training.turns, config.training.holes)
    accelerator = default_accelerator()
    fit_denoiser(more, torch.stack([y, measured], dim=1), config.training, stream.child("fit"), accelerator)
    keyed = [stream.child("average", number) for number in range(config.averages)]
    x = sum((more.apply_to(y, measured, k, number) for number, k in enumerate(keyed)), torch.zeros_like(y))
    x = x / config.averages
    return x if config.least is None and config.most is None else x.clamp(config.least, config.most)


class _MoreBackground(torch.nn.Module):
    """A m(z), trained as `fit_denoiser` trains denoisers. turns, holes: as there; of backgrounds, too."""

    def __init__(self, guess: Guess, scene: Scene, turns: bool, holes: float) -> None:
        super().__init__()
        assert scene.factor is not None
        self.guess, self.scene, self.turns, self.holes, self.factor = guess, scene, turns, holes, scene.factor

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None) -> Tensor:
        """x: y and where it was measured, `(N, 2, *shape)`. sigma, noise: not looked at."""
        y, measured = x.unbind(1)
        n, empty = self.scene.some(len(y), self.turns, y)
        both = measured * empty
        shown = pierced(both, self.holes)
        z = shown * (y + n)
        found = self.factor * self.guess(z / self.factor, shown, self.scene.usual)
        # ½ (A m + y + n') − y, also in holes: of n and n', neither is seen there
        error = (both * self._weights(z, shown, found.detach()) * (0.5 * (found + n - y)).square()).flatten(1).sum(1)
        error = error / both.flatten(1).sum(1).clamp_min(1.0)
        return error.mean() if weights is None else (weights * error).mean()

    @torch.no_grad()
    def apply_to(self, y: Tensor, measured: Tensor, stream: Stream, turn: int) -> Tensor:
        """E[x | z], `(N, *shape)`, for z with backgrounds chosen at random. turn: by which all are turned, if any are."""
        backgrounds, home = self.scene.backgrounds, next(self.parameters()).device
        assert backgrounds is not None
        chosen = (stream.uniform(torch.arange(len(y)), (), "background") * len(backgrounds)).long()
        turn = turn % TURNS if self.turns else 0

        def work(rows: slice) -> Tensor:
            n, empty = backgrounds[chosen[rows]].unbind(1)
            both = measured[rows] * empty
            u, both = (turned(v, turn).float().to(home) for v in (both * (y[rows] + n) / self.factor, both))
            return turned(self.guess(u, both, self.scene.usual).to(y), turn, back=True)

        return torch.cat(list(in_chunks(work, len(y), BATCH)))

    def _weights(self, z: Tensor, shown: Tensor, found: Tensor) -> Tensor:
        """w(z): any function of z leaves the least where it is. Beside bright light, errors are large and say little; but
        beside the light of the middle, those of the wings of a large galaxy would say nothing at all."""
        return 1 / tolerance(z - found, found, shown, self.factor * self.scene.usual).square()


def tolerance(hidden: Tensor, found: Tensor, shown: Tensor, usual: float) -> Tensor:
    """What errors of an estimate are measured by, `(N, *shape)`. hidden: what it leaves of the observation. shown: where there
    is one. usual: see `Guess`."""
    hides, own = local_scale(hidden, shown, usual), local_scale(found, torch.ones_like(found), usual)
    return (hides.square() + (RELATIVE * own).square()).sqrt()


def _places(like: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row of each pixel, -1 to 1: a convolution does not know where it is (Liu et al. 2018, arXiv 1807.03247)."""
    row, column = (torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in like.shape[-2:])
    return column.expand_as(like), row[:, None].expand_as(like)
