"""First estimates of a source that is never seen alone, from mixtures alone, by adding more of what hides it.

    y = A x + n,  n: all other sources and noise,    n': an observation of a view that shows those others and nothing else
    z = y + n',  E[n | z] = E[n' | z], since the two may change places    ⇒    E[A x | z] = 2 E[y | z] − z
    m:  min E w(z) ‖½ (A m(z) + z) − y‖²,    x̂ = mean over n' of m(y + n')

Noisier2Noise (Moran et al. 2020, arXiv 1910.11908) adds simulated noise of a known law. Where one view is another less one
source, as backgrounds are beside backgrounds with targets, real observations serve instead: no law of n need be known. The
estimate is E[x | z] of twice the background: worse than E[x | y], but free of any prior, and a good start for one. Where
backgrounds are brighter in one view than in the other, n and n' may not change places, and the difference is in x̂: in its
dark parts it shows, if there are any (`Noisier2NoiseConfig.dark`).

m is `regression.Guess`. Of y itself, m(y) is a guess of E[x | y].
"""

from __future__ import annotations

__all__ = ["estimate_source"]

import torch
from torch import Tensor

from mvss.posteriors.view_pairs import ViewPair, pierced
from mvss.presets.estimation import Noisier2NoiseConfig
from mvss.priors.augmentation import TURNS, turned
from mvss.priors.regression import BATCH, Guess, tolerance
from mvss.priors.training import default_accelerator, fit_denoiser
from mvss.problem.views import View
from mvss.runtime.memory import in_chunks
from mvss.runtime.rng import Stream


def estimate_source(
    view: View, taught: View, pair: ViewPair, guess: Guess, config: Noisier2NoiseConfig, stream: Stream
) -> Tensor:
    """x̂ of the pair's source, `(N, *shape)`, for all observations of a view.

    A must be a multiple of the identity but for its mask. taught: those of the observations on which guess is trained.
    """
    y, measured = pair.observed(view)
    more = _MoreBackground(guess, pair, config.training.turns, config.training.holes)
    both = torch.stack(pair.observed(taught), dim=1)
    fit_denoiser(more, both, config.training, stream.child("fit"), default_accelerator())
    keyed = [stream.child("average", number) for number in range(config.averages)]
    x = sum((more.apply_to(y, measured, k, number) for number, k in enumerate(keyed)), torch.zeros_like(y))
    x = x / config.averages
    if config.dark and config.least is not None:
        x = x + config.least - _light_of_dark(x, config.dark)
    return x if config.least is None and config.most is None else x.clamp(config.least, config.most)


def _light_of_dark(x: Tensor, share: float) -> Tensor:
    """What the darkest numbers of estimates `(N, *shape)` are: their mean and a standard deviation. By the latter most are cut
    where they belong, and others become hardly darker."""
    flat = x.flatten(1)
    darkest = flat[:, flat.mean(0).argsort()[: max(1, round(share * flat.shape[1]))]]
    return darkest.mean() + darkest.std()


class _MoreBackground(torch.nn.Module):
    """A m(z), trained as `fit_denoiser` trains denoisers. turns, holes: as there; of backgrounds, too."""

    def __init__(self, guess: Guess, pair: ViewPair, turns: bool, holes: float) -> None:
        super().__init__()
        assert pair.factor is not None
        self.guess, self.pair, self.turns, self.holes, self.factor = guess, pair, turns, holes, pair.factor

    def loss(self, x: Tensor, _sigma: Tensor, _noise: Tensor, weights: Tensor | None) -> Tensor:
        """x: y and where it was measured, `(N, 2, *shape)`. Noise levels are not looked at."""
        y, measured = x.unbind(1)
        n, empty = self.pair.some(len(y), self.turns, y)
        both = measured * empty
        shown = pierced(both, self.holes)
        z = shown * (y + n)
        estimate = self.factor * self.guess(z / self.factor, shown, self.pair.usual)
        # ½ (A m + y + n') − y, also in holes: of n and n', neither is seen there
        error = (both * self._weights(z, shown, estimate.detach()) * (0.5 * (estimate + n - y)).square()).flatten(1).sum(1)
        error = error / both.flatten(1).sum(1).clamp_min(1.0)
        return error.mean() if weights is None else (weights * error).mean()

    @torch.no_grad()
    def apply_to(self, y: Tensor, measured: Tensor, stream: Stream, turn: int) -> Tensor:
        """E[x | z], `(N, *shape)`, for z with backgrounds chosen at random. turn: by which all are turned, if any are."""
        backgrounds, home = self.pair.backgrounds, next(self.parameters()).device
        assert backgrounds is not None
        chosen = (stream.uniform(torch.arange(len(y)), (), "background") * len(backgrounds)).long()
        turn = turn % TURNS if self.turns else 0

        def work(rows: slice) -> Tensor:
            n, empty = backgrounds[chosen[rows]].unbind(1)
            both = measured[rows] * empty
            u, both = (turned(v, turn).float().to(home) for v in (both * (y[rows] + n) / self.factor, both))
            return turned(self.guess(u, both, self.pair.usual).to(y), turn, back=True)

        return torch.cat(in_chunks(work, len(y), BATCH))

    def _weights(self, z: Tensor, shown: Tensor, estimate: Tensor) -> Tensor:
        """w(z): any function of z leaves the least where it is. Beside bright light, errors are large and say little; but
        beside the light of the middle, those of the wings of a large galaxy would say nothing at all."""
        return 1 / tolerance(z - estimate, estimate, shown, self.factor * self.pair.usual).square()
