"""Probabilistic contrastive PCA for incomplete data (Li, Jones, Banerjee & Engelhardt 2020, arXiv 2012.07977, section 7).

    max_{W, μ, τ}  Σ_{i on} log N(y_i; A_i μ, C_i) − γ Σ_{j off} log N(y_j; A_j m, C_j),   C_i = A_i W Wᵀ A_iᵀ + Σ_i + τ² I

Directions that vary in the view without the target as well are discouraged. γ in [0, 1) is a tuning parameter; m, the mean of
the background, is its least-squares estimate (its likelihood enters negatively and has no maximum). The target is
W z + μ − m. τ² stands for what W leaves; the original's σ² is Σ + τ².
"""

from __future__ import annotations

__all__ = ["PCPCA"]

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from mvss.baselines.config import PCPCAConfig
from mvss.baselines.contrast import Contrast, Method, Progress, background_of, descend, minibatch, without_mask
from mvss.baselines.linear import Latent, loadings, principal
from mvss.problem.operators import LinearOperator, Scale
from mvss.problem.views import Draws, View, Views
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream


class PCPCA(Method):
    """Separates the target only, as the original does."""

    def __init__(self, config: PCPCAConfig | None = None) -> None:
        self.config = config or PCPCAConfig()

    def fit(self, views: Views, stream: Stream, progress: Progress | None = None) -> None:
        """See `Method.fit`. Starts from the closed form on pseudo-inverse data A⁺ y."""
        config, contrast = self.config, _alike(Contrast.of(views))
        self.sources, self._shape = (contrast.target,), views.shapes[contrast.target]
        self._start(contrast)
        parameters = [self.factors, self.mean, self.log_excess]
        optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / config.steps))

        weight = config.gamma * _count(contrast.off) / _count(contrast.on)
        zero = torch.zeros((), dtype=torch.float64)

        def loss_at(step: int) -> Tensor:
            terms = []
            for name, kind, mean in (("on", contrast.on, self.mean), ("off", contrast.off, self.background)):
                parts = minibatch(kind, config.batch, stream.child(name, step))
                terms.append(sum((share * self._latent(part, mean).log_prob().mean() for part, share in parts), zero))
            return -terms[0] + weight * terms[1]

        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            descend("pcpca", loss_at, optimiser, schedule, config.steps, progress)
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)

    def _start(self, contrast: Contrast) -> None:
        """The closed form of complete data: eigenvectors of C_on − γ C_off (section 3 of the original)."""
        gamma, latents = self.config.gamma, self.config.latents
        counts = [_count(contrast.on), _count(contrast.off)]
        if counts[0] <= gamma * counts[1]:
            raise MvssError(
                f"pcpca: {counts[0]} observations with the target do not outweigh gamma={gamma:g} times "
                f"{counts[1]} without it; lower gamma"
            )
        spread, means = [], []
        for views in (contrast.on, contrast.off):
            seen = [_seen(view, contrast.target) for view in views]
            x = torch.cat([operator.pseudo_inverse(y).flatten(1) for operator, _, y in seen])
            means.append(_least_squares(seen))
            spread.append((x - x.mean(0)).mT @ (x - x.mean(0)))
        contrasted = (spread[0] - gamma * spread[1]) / (counts[0] - gamma * counts[1])
        self.factors, rest = principal(contrasted, latents)
        self.mean, self.background = means
        self.log_excess = rest.log()

    def _latent(self, view: View, mean: Tensor) -> Latent:
        """z of the observations of a view whose mean source is `mean`."""
        operator, measured, y = _seen(view, self.sources[0])
        shift = operator.forward(mean.reshape(1, *self._shape).expand(len(y), *self._shape)).flatten(1)
        variance = view.noise.white_variance(y).flatten(1) + self.log_excess.exp()
        return Latent(loadings(operator, self.factors), y.flatten(1) - shift, variance, measured)

    def _draw(self, view: View, stream: Stream) -> Draws:
        noise = stream.normal(view.numbers, (self.latents,), "latent")
        z = self._latent(view, self.mean).draw(noise)
        return {self.sources[0]: self._source(z)}

    @property
    def latents(self) -> int:
        """Columns of W."""
        return self.config.latents

    @override
    def _prior(self, source: str, z: Tensor) -> Tensor:
        return self._source(z)

    def _source(self, z: Tensor) -> Tensor:
        return (z @ self.factors.mT + self.mean - self.background).reshape(-1, *self._shape)

    def save(self, path: Path | str) -> None:
        """See `Method.save`."""
        tensors = {name: getattr(self, name) for name in ("factors", "mean", "background", "log_excess")}
        save_checkpoint(path, {**tensors, "sources": self.sources, "shape": self._shape})

    def load(self, path: Path | str) -> None:
        """See `Method.load`."""
        state = load_checkpoint(path)
        self.sources, self._shape = tuple(state.pop("sources")), tuple(state.pop("shape"))
        for name, value in state.items():
            setattr(self, name, value)


def _seen(view: View, target: str) -> tuple[LinearOperator, Tensor | None, Tensor]:
    """What the source passes through, the target's operator, or the background's in the view without it; what was measured,
    and y, see `without_mask`."""
    y, measured, operators = without_mask(view)
    return operators[target if target in view.sources else background_of(view, target)], measured, y


def _alike(contrast: Contrast) -> Contrast:
    """The same, with the background seen as large as the target is, |A^t| / |A^b| of the view of both: what varies in both
    can only cancel in the same units."""
    view = contrast.on[0]
    on, background = view.operators[contrast.target], view.operators[background_of(view, contrast.target)]
    x = torch.randn(len(view), *on.source_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ratio = float(on.forward(x).norm() / background.forward(x).norm())
    if abs(ratio - 1) < 1e-12:
        return contrast
    scaled = []
    for off in contrast.off:
        weight = Scale(ratio, off.observation_shape)
        operators = {source: weight @ operator for source, operator in off.operators.items()}
        scaled.append(View(off.y, operators, off.noise, off.name, off.numbers))
    return replace(contrast, off=tuple(scaled))


def _count(views: Sequence[View]) -> int:
    return sum(map(len, views))


def _least_squares(seen: Sequence[tuple[LinearOperator, Tensor | None, Tensor]]) -> Tensor:
    """argmin_m Σ ‖y_i − A_i m‖², `(D,)`, over what was measured in the observations of several views."""
    gram, pulled = [], []
    for operator, measured, y in seen:
        a = operator.dense(y.dtype)
        if measured is None:
            gram.append((a.mT @ a).mean(0) * len(y))
        else:
            gram.append((a[0].mT * measured.sum(0)) @ a[0])
        pulled.append(operator.adjoint(y).flatten(1).sum(0))
    # by eigenvectors: last bits of `lstsq` depend on where in memory its arguments lie
    return torch.linalg.pinv(torch.stack(gram).sum(0), hermitian=True) @ torch.stack(pulled).sum(0)
