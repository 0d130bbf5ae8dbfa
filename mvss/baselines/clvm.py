"""Contrastive latent variable models (Severson, Ghosh & Ng 2019, arXiv 1811.06094) for incomplete data, known noise.

    off:  y = A^b f_b(z) + η          on:  y = A^b f_b(z) + A^t f_t(t) + η          z, t ~ N(0, I)

Linear: f(z) = W z + m, fitted by the exact marginal likelihood, with the exact posterior of z and t; the variance of η is the
known one and τ² more, which is fitted, for what no factor holds. Neural (VAE): f is a multilayer perceptron, fitted by the
evidence lower bound. The models themselves are in `clvm_models`.
"""

from __future__ import annotations

__all__ = ["CLVM"]

import math
from pathlib import Path

import torch
from torch import Tensor

from mvss.baselines.clvm_models import Linear, Neural, Observed, inputs
from mvss.baselines.config import CLVMConfig
from mvss.baselines.contrast import (
    Contrast,
    Method,
    Progress,
    check_background,
    descend,
    minibatch,
)
from mvss.priors.networks import load_weights
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
        on = Observed.of(contrast.on[0], contrast.target)
        separated = views.sources if len(views.sources) == 2 else (contrast.target,)
        shapes = (views.shapes[views.sources[0]], views.shapes[contrast.target])
        self._build(separated, shapes, inputs(on, 1.0).shape[1], stream)
        self.model.start(*([Observed.of(view, contrast.target) for view in kind] for kind in (contrast.off, contrast.on)))
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
        total = sum(len(view) for kind in kinds for view in kind)
        observed = [(Observed.of(view, contrast.target), len(view) / total) for kind in kinds for view in kind]
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
                    part = Observed.of(batch, contrast.target)
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
            self.model = Linear(self.config, sizes) if linear else Neural(self.config, sizes, width)

    def bound(self, view: View, stream: Stream) -> Tensor:
        """log p(y) `(N,)`, nats: exact for the linear decoder, else one draw of the evidence lower bound."""
        check_background(view, self.target)
        with torch.no_grad():
            return self.model.bound(Observed.of(view, self.target), stream.generator("bound"), 1.0)

    def _draw(self, view: View, stream: Stream) -> Draws:
        check_background(view, self.target)
        observed = Observed.of(view, self.target)
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
