"""The models of `clvm`: sources from latents, and latents given y.

    linear    f(z) = W z + m,  y = A f(z) + η,  η ~ N(0, Σ + τ² I):  exact, see `linear`
    neural    f, q(z | y, A): perceptrons; the encoder sees A⁺ y, and the matrix where there is one per observation, or what
              was measured where masks differ

The noise of the neural model's bound is annealed from `temperature` times the observations' spread down to the known one: at
a signal-to-noise ratio of hundreds the bound is too rugged to climb from a random start.
"""

from __future__ import annotations

__all__ = ["Linear", "Neural", "Observed", "inputs"]

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvss.baselines.config import CLVMConfig
from mvss.baselines.contrast import background_of, without_mask
from mvss.baselines.linear import Latent, loadings, principal
from mvss.problem.operators import LinearOperator
from mvss.problem.views import View


@dataclass(frozen=True)
class Observed:
    """Observations of one view. operators: of background and target, None where the view does not show the latter. measured:
    `(N, M)`, see `without_mask`; y is 0 where nothing was."""

    y: Tensor
    variance: Tensor
    operators: tuple[LinearOperator, LinearOperator | None]
    measured: Tensor | None = None

    @staticmethod
    def of(view: View, target: str) -> Observed:
        y, measured, operators = without_mask(view)
        pair = operators[background_of(view, target)], operators.get(target)
        return Observed(y.flatten(1), view.noise.white_variance(y).flatten(1), pair, measured)

    def residual(self, expected: Tensor) -> Tensor:
        """y less what is expected, `(N, M)`, 0 where nothing was measured."""
        return self.y - expected if self.measured is None else self.y - self.measured * expected

    def estimate(self) -> Tensor:
        """A⁺ y of the background's operator, `(N, D)`."""
        operator = self.operators[0]
        return operator.pseudo_inverse(self.y.reshape(-1, *operator.observation_shape)).flatten(1)

    def apply(self, parts: tuple[Tensor, Tensor]) -> Tensor:
        """A^b b + A^t t, `(N, M)`, for parts `(N, D)`."""
        pairs = [(o, x) for o, x in zip(self.operators, parts, strict=True) if o is not None]
        shares = [o.forward(x.to(self.y).reshape(-1, *o.source_shape)).flatten(1) for o, x in pairs]
        return torch.stack(shares).sum(0)


class Linear(nn.Module):
    """f(z) = W z + m; z is the background's latents, then the target's. Without τ² the known noise, a tenth of what factors
    leave of an image or less, makes each of them certain of what it cannot know."""

    def __init__(self, config: CLVMConfig, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.split = (config.background, config.target)
        empty = [torch.zeros(d, n, dtype=torch.float64) for d, n in zip(sizes, self.split, strict=True)]
        self.factors = nn.ParameterList([nn.Parameter(x) for x in empty])
        self.means = nn.ParameterList([nn.Parameter(torch.zeros(d, dtype=torch.float64)) for d in sizes])
        self.log_excess = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def start(self, off: Sequence[Observed], on: Sequence[Observed]) -> None:
        """Principal components: W^b and τ² of A⁺ y of views without the target, W^t of what varies more in those with it."""
        background = torch.cat([seen.estimate() for seen in off])
        self.log_excess.data = self._begin(0, background.T.cov(), background.mean(0)).log()
        with_target, without = [], []
        for seen in on:
            first, target = seen.operators
            assert target is not None
            each = first.count is not None or target.count is not None or seen.measured is not None
            others = background[torch.arange(len(seen.y)) % len(background)] if each else background
            mean, shown = (first.forward(x.reshape(-1, *first.source_shape)) for x in (self.means[0].expand_as(others), others))
            left = seen.residual(mean.flatten(1) if each else mean[:1].flatten(1)).reshape(-1, *shown.shape[1:])
            shown = shown if seen.measured is None else seen.measured.reshape(shown.shape) * shown
            with_target.append(target.pseudo_inverse(left).flatten(1))
            without.append(target.pseudo_inverse(shown).flatten(1))
        x, rest = torch.cat(with_target), torch.cat(without)
        self._begin(1, x.T.cov() - rest.T.cov(), x.mean(0))

    def _begin(self, part: int, covariance: Tensor, mean: Tensor) -> Tensor:
        """Factors and mean of background or target; the variance that the factors leave."""
        self.factors[part].data, rest = principal(covariance, self.split[part])
        self.means[part].data = mean
        return rest

    def bound(self, observed: Observed, _rng: torch.Generator, _done: float) -> Tensor:
        return self._latent(observed).log_prob()

    def latents(self, observed: Observed, noise: Tensor) -> Tensor:
        return self._latent(observed).draw(noise)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(z.split(self.split, dim=1), self.factors, self.means, strict=True)
        background, target = (part @ w.mT + m for part, w, m in pairs)
        return background, target

    def _latent(self, observed: Observed) -> Latent:
        shown = [(o, w, m) for o, w, m in zip(observed.operators, self.factors, self.means, strict=True) if o is not None]
        count = len(observed.y)
        matrix = torch.cat([loadings(o, w).expand(count if o.count else -1, -1, -1) for o, w, _ in shown], dim=-1)
        mean = torch.stack([o.forward(m.expand(count, -1).reshape(-1, *o.source_shape)).flatten(1) for o, _, m in shown]).sum(0)
        return Latent(matrix, observed.residual(mean), observed.variance + self.log_excess.exp(), observed.measured)


class Neural(nn.Module):
    """Perceptrons as decoders and encoders; float32."""

    scale: Tensor

    def __init__(self, config: CLVMConfig, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.config, self.split, self.width = config, (config.background, config.target), width
        self.decoders = nn.ModuleList([_perceptron(n, config.hidden, d) for n, d in zip(self.split, sizes, strict=True)])
        self.off = _perceptron(width, config.hidden, 2 * config.background)
        self.on = _perceptron(width, config.hidden, 2 * sum(self.split))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def start(self, _off: Sequence[Observed], on: Sequence[Observed]) -> None:
        """The scale of the sources."""
        self.scale.fill_(on[0].estimate().std())

    def _encode(self, observed: Observed) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the latents that the view shows, `(N, L)`."""
        encoder = self.off if observed.operators[1] is None else self.on
        seen = inputs(observed, float(self.scale))
        if seen.shape[1] != self.width:  # masks differ where they did not in the fit, or the other way round
            more = seen.new_ones(len(seen), max(0, self.width - seen.shape[1]))
            seen = torch.cat([seen, more], dim=1)[:, : self.width]
        mean, log_sd = encoder(seen).chunk(2, dim=1)
        return mean, log_sd.clamp(-8.0, 2.0)

    def bound(self, observed: Observed, rng: torch.Generator, done: float) -> Tensor:
        """One draw of E_q[log p(y | z)] − KL(q ‖ N(0, I)), `(N,)`, at the temperature of a fit that is `done` (1: none)."""
        mean, log_sd = self._encode(observed)
        z = mean + log_sd.exp() * torch.randn(mean.shape, generator=rng)
        if z.shape[1] < sum(self.split):
            z = torch.cat([z, z.new_zeros(len(z), self.split[1])], dim=1)
        residual = observed.residual(observed.apply(self.decode(z)))
        variance = observed.variance
        if done < 0.5:
            heat = (self.config.temperature * self.scale) ** 2 * 10.0 ** (-6 * 2 * done)
            variance = variance + heat
        log_likelihood = -0.5 * (residual.square() / variance + variance.log() + math.log(2 * math.pi)).sum(1)
        divergence = 0.5 * (mean.square() + (2 * log_sd).exp() - 1 - 2 * log_sd).sum(1)
        return log_likelihood - divergence.double()

    def latents(self, observed: Observed, noise: Tensor) -> Tensor:
        mean, log_sd = self._encode(observed)
        return mean + log_sd.exp() * noise[:, : mean.shape[1]].float()

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        parts = zip(self.decoders, z.float().split(self.split, dim=1), strict=True)
        background, target = (self.scale.float() * decoder(part) for decoder, part in parts)
        return background, target


def inputs(observed: Observed, scale: float) -> Tensor:
    """What an encoder sees: A⁺ y, and the matrix where there is one per observation, or what was measured."""
    operator = observed.operators[0]
    parts = [observed.estimate() / scale]
    if observed.measured is not None:
        parts.append(observed.measured)
    if operator.count is not None:
        parts.append(operator.dense().flatten(1))
    return torch.cat(parts, dim=1).float()


def _perceptron(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    widths = (inputs, *hidden)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
