"""Contrastive latent variable models (Severson, Ghosh & Ng 2019, arXiv 1811.06094) for incomplete data, known noise.

    off:  y = A^b f_b(z) + η          on:  y = A^b f_b(z) + A^t f_t(t) + η          z, t ~ N(0, I)

Linear: f(z) = W z + m, fitted by the exact marginal likelihood, with the exact posterior of z and t. Neural (VAE): f is a
multilayer perceptron, fitted by the evidence lower bound with encoders q(z | y, A) (off) and q(z, t | y, A) (on) that see A⁺ y,
and the matrix where there is one per observation, or what was measured where masks differ. The noise is annealed from
`temperature` times the observations' spread down to the known one: at a signal-to-noise ratio of hundreds the bound is too
rugged to climb from a random start.
"""

from __future__ import annotations

__all__ = ["CLVM"]

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mvss.baselines.config import CLVMConfig
from mvss.baselines.contrast import (
    Contrast,
    Method,
    Progress,
    background_of,
    check_background,
    descend,
    minibatch,
    without_mask,
)
from mvss.baselines.linear import Latent, loadings
from mvss.priors.networks import load_weights
from mvss.problem.operators import LinearOperator
from mvss.problem.views import Draws, View, Views
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream


class CLVM(Method):
    """Separates the target, and the background where that is one source."""

    def __init__(self, config: CLVMConfig | None = None) -> None:
        self.config = config or CLVMConfig()

    def fit(self, views: Views, stream: Stream, progress: Progress | None = None) -> None:
        """See `Method.fit`."""
        contrast = Contrast.of(views)
        on = _Observed.of(contrast.on[0], contrast.target)
        separated = views.sources if len(views.sources) == 2 else (contrast.target,)
        shapes = (views.shapes[views.sources[0]], views.shapes[contrast.target])
        self._build(separated, shapes, _inputs(on, 1.0).shape[1], stream)
        self.model.start(float(on.estimate().std()))
        try:
            if self.config.decoder == "linear":
                self._ascend(contrast, progress)
            else:
                self._descend(contrast, stream, progress)
        finally:
            self.model.requires_grad_(False)

    def _ascend(self, contrast: Contrast, progress: Progress | None) -> None:
        """Maximise the exact likelihood of all observations by L-BFGS: a mean hardly shows along a broad factor, and
        stochastic steps small enough for the noise take for ever there."""
        parameters = list(self.model.parameters())
        kinds = (contrast.on, contrast.off)
        observed = [(_Observed.of(view, contrast.target), len(view) / sum(map(len, kind))) for kind in kinds for view in kind]
        rng = torch.Generator()
        optimiser = torch.optim.LBFGS(parameters, max_iter=self.config.steps, history_size=20, line_search_fn="strong_wolfe")
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            optimiser.zero_grad()
            loss = -torch.stack([share * self.model.bound(part, rng, 1.0).mean() for part, share in observed]).sum()
            loss.backward()
            if progress:
                progress(min(1.0, calls / (1.25 * self.config.steps)))
            return loss

        if not math.isfinite(float(optimiser.step(closure).detach())):
            raise MvssError("clvm: the fit diverged; check the scale of the observations against their noise")
        if progress:
            progress(1.0)

    def _descend(self, contrast: Contrast, stream: Stream, progress: Progress | None) -> None:
        """Maximise the evidence lower bound by Adam on minibatches."""
        parameters, config = list(self.model.parameters()), self.config
        optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps, 0.01 * config.learning_rate)

        def loss_at(step: int) -> Tensor:
            bounds = []
            for name, kind in (("on", contrast.on), ("off", contrast.off)):
                rng = stream.generator(name, step)
                for batch, share in minibatch(kind, config.batch, stream.child(name, step)):
                    part = _Observed.of(batch, contrast.target)
                    bounds.append(share * self.model.bound(part, rng, step / config.steps).mean())
            return -torch.stack(bounds).sum()

        descend("clvm", loss_at, optimiser, schedule, config.steps, progress, clip=100.0)

    def _build(self, sources: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], width: int, stream: Stream) -> None:
        """A model that knows nothing yet. width: numbers that an encoder sees."""
        self.sources, self.target, self.shapes, self._width = sources, sources[-1], shapes, width
        sizes = tuple(int(torch.Size(s).numel()) for s in shapes)
        linear = self.config.decoder == "linear"
        with torch.random.fork_rng():
            torch.manual_seed(stream.generator("start").initial_seed())
            self.model = _Linear(self.config, sizes) if linear else _Neural(self.config, sizes, width)

    def bound(self, view: View, stream: Stream) -> Tensor:
        """log p(y) `(N,)`, nats: exact for the linear decoder, else one draw of the evidence lower bound."""
        check_background(view, self.target)
        with torch.no_grad():
            return self.model.bound(_Observed.of(view, self.target), stream.generator("bound"), 1.0)

    def _draw(self, view: View, stream: Stream) -> Draws:
        check_background(view, self.target)
        observed = _Observed.of(view, self.target)
        noise = stream.normal(view.numbers, (self.latents,), "latent")
        with torch.no_grad():
            parts = self.model.decode(self.model.latents(observed, noise))
        shaped = [x.double().reshape(-1, *shape) for x, shape in zip(parts, self.shapes, strict=True)]
        return dict(zip(self.sources, shaped[-len(self.sources) :], strict=True))

    @property
    def latents(self) -> int:
        """Of background and target together."""
        return self.config.background + self.config.target

    def _prior(self, source: str, z: Tensor) -> Tensor:
        part = 1 if source == self.target else 0
        with torch.no_grad():
            return self.model.decode(z)[part].double().reshape(-1, *self.shapes[part])

    def save(self, path: Path | str) -> None:
        """See `Method.save`."""
        about = {"sources": self.sources, "shapes": self.shapes, "width": self._width}
        save_checkpoint(path, {**about, "model": self.model.state_dict()})

    def load(self, path: Path | str) -> None:
        """See `Method.load`."""
        state = load_checkpoint(path)
        self._build(tuple(state["sources"]), tuple(tuple(s) for s in state["shapes"]), state["width"], Stream(0, ("load",)))
        load_weights(self.model, state["model"], f"{path}, with the configuration that is given")
        self.model.requires_grad_(False)


@dataclass(frozen=True)
class _Observed:
    """Observations of one view. operators: of background and target, None where the view does not show the latter. measured:
    `(N, M)`, see `without_mask`; y is 0 where nothing was."""

    y: Tensor
    variance: Tensor
    operators: tuple[LinearOperator, LinearOperator | None]
    measured: Tensor | None = None

    @staticmethod
    def of(view: View, target: str) -> _Observed:
        y, measured, operators = without_mask(view)
        pair = operators[background_of(view, target)], operators.get(target)
        return _Observed(y.flatten(1), view.noise.white_variance(y).flatten(1), pair, measured)

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


class _Linear(nn.Module):
    """f(z) = W z + m; z is the background's latents, then the target's."""

    def __init__(self, config: CLVMConfig, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.split = (config.background, config.target)
        self.factors = nn.ParameterList([nn.Parameter(_small(d, n)) for d, n in zip(sizes, self.split, strict=True)])
        self.means = nn.ParameterList([nn.Parameter(torch.zeros(d, dtype=torch.float64)) for d in sizes])

    def start(self, scale: float) -> None:
        """Scale the random start to the observations."""
        for factor in self.factors:
            factor.data *= scale

    def bound(self, observed: _Observed, _rng: torch.Generator, _done: float) -> Tensor:
        return self._latent(observed).log_prob()

    def latents(self, observed: _Observed, noise: Tensor) -> Tensor:
        return self._latent(observed).draw(noise)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(z.split(self.split, dim=1), self.factors, self.means, strict=True)
        background, target = (part @ w.mT + m for part, w, m in pairs)
        return background, target

    def _latent(self, observed: _Observed) -> Latent:
        shown = [(o, w, m) for o, w, m in zip(observed.operators, self.factors, self.means, strict=True) if o is not None]
        count = len(observed.y)
        matrix = torch.cat([loadings(o, w).expand(count if o.count else -1, -1, -1) for o, w, _ in shown], dim=-1)
        mean = torch.stack([o.forward(m.expand(count, -1).reshape(-1, *o.source_shape)).flatten(1) for o, _, m in shown]).sum(0)
        return Latent(matrix, observed.residual(mean), observed.variance, observed.measured)


class _Neural(nn.Module):
    """Perceptrons as decoders and encoders; float32."""

    scale: Tensor

    def __init__(self, config: CLVMConfig, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.config, self.split, self.width = config, (config.background, config.target), width
        self.decoders = nn.ModuleList([_perceptron(n, config.hidden, d) for n, d in zip(self.split, sizes, strict=True)])
        self.off = _perceptron(width, config.hidden, 2 * config.background)
        self.on = _perceptron(width, config.hidden, 2 * sum(self.split))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def start(self, scale: float) -> None:
        """The scale of the sources."""
        self.scale.fill_(scale)

    def _encode(self, observed: _Observed) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the latents that the view shows, `(N, L)`."""
        encoder = self.off if observed.operators[1] is None else self.on
        seen = _inputs(observed, float(self.scale))
        if seen.shape[1] != self.width:  # masks differ where they did not in the fit, or the other way round
            more = seen.new_ones(len(seen), max(0, self.width - seen.shape[1]))
            seen = torch.cat([seen, more], dim=1)[:, : self.width]
        mean, log_sd = encoder(seen).chunk(2, dim=1)
        return mean, log_sd.clamp(-8.0, 2.0)

    def bound(self, observed: _Observed, rng: torch.Generator, done: float) -> Tensor:
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

    def latents(self, observed: _Observed, noise: Tensor) -> Tensor:
        mean, log_sd = self._encode(observed)
        return mean + log_sd.exp() * noise[:, : mean.shape[1]].float()

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        parts = zip(self.decoders, z.float().split(self.split, dim=1), strict=True)
        background, target = (self.scale.float() * decoder(part) for decoder, part in parts)
        return background, target


def _inputs(observed: _Observed, scale: float) -> Tensor:
    """What an encoder sees: A⁺ y, and the matrix where there is one per observation, or what was measured."""
    operator = observed.operators[0]
    parts = [observed.estimate() / scale]
    if observed.measured is not None:
        parts.append(observed.measured)
    if operator.count is not None:
        parts.append(operator.dense().flatten(1))
    return torch.cat(parts, dim=1).float()


def _small(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64) / math.sqrt(columns)


def _perceptron(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    widths = (inputs, *hidden)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
