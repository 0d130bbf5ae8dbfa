"""Three tiny fits through the door: of vectors, and of images and signals with a posterior that a network learns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mvss import (
    AmortisedConfig,
    AscentConfig,
    Convolve,
    EMConfig,
    Identity,
    Mask,
    MixtureEMConfig,
    MomentMatchingConfig,
    NetworkConfig,
    Noisier2NoiseConfig,
    PriorConfig,
    SamplerConfig,
    Settings,
    TrainingConfig,
    View,
)

SHAPE = (1, 8, 8)
MOST = SamplerConfig("ancestral", 2, 0.3, 0.02)
VECTORS = Settings(
    AscentConfig(components=(2,), steps=20, batch=16, starts=1),
    PriorConfig(NetworkConfig(hidden=(8,), embedding=4)),
    TrainingConfig(steps=4, batch=8, sigma_min=0.02, sigma_max=1.0),
    EMConfig(laps=2, held_out=0.1),
    MomentMatchingConfig(SamplerConfig("pc", 2, 0.3, 0.02), components=2),
    MomentMatchingConfig(MOST, components=2),
)
UNET = NetworkConfig(blocks=(8,))
TRAINING = TrainingConfig(steps=2, batch=4, sigma_min=0.02, sigma_max=3.0)
IMAGES = Settings(
    MixtureEMConfig((1, 2), (0, 2), laps=2, noisier2noise=Noisier2NoiseConfig(UNET, TRAINING, averages=1)),
    PriorConfig(UNET),
    TRAINING,
    EMConfig(laps=(1, 2), stages="sequential"),
    AmortisedConfig(SamplerConfig("ancestral", 2, 3.0, 0.05), MomentMatchingConfig(MOST)),
)


@dataclass(frozen=True)
class Problem:
    """views: in units of `scale`. x: candidates of source `source`, whose density is asked for at noise level `sigma`."""

    settings: Settings
    views: list[View]
    source: str
    x: Tensor
    sigma: float | None


def vectors(scale: float = 1.0) -> Problem:
    """One source alone, under operators of each observation, and with another."""
    normal = _numbers()
    own, shared, other = normal(40, 2, 3), normal(2, 3), normal(30, 2, 2)
    x = [normal(n, 3) * torch.tensor([1.0, 0.3, 2.0]) for n in (40, 30)]
    first = torch.einsum("nij,nj->ni", own, x[0]) + 0.1 * normal(40, 2)
    both = x[1] @ shared.mT + torch.einsum("nij,nj->ni", other, 1 + 0.5 * normal(30, 2)) + 0.2 * normal(30, 2)
    views = [
        View(scale * first, {"a": own}, scale * 0.1, "first"),
        View(scale * both, {"a": shared, "b": other}, scale * 0.2, "both"),
    ]
    return Problem(VECTORS, views, "a", scale * x[0][:3], None)


def images(scale: float = 1.0, amplitude: float = 8.0) -> Problem:
    """A sky alone, and with a target in the middle that is brighter than it."""
    normal, here = _numbers(), Identity(SHAPE)
    target = torch.zeros(18, *SHAPE, dtype=torch.float64)
    target[..., 2:6, 2:6] = amplitude * (2 + normal(18, 1, 4, 4))
    sky = [0.5 + normal(n, *SHAPE) for n in (20, 18)]
    both = sky[1] + target + 0.1 * normal(18, *SHAPE)
    views = [
        View(scale * (sky[0] + 0.1 * normal(20, *SHAPE)), {"sky": here}, scale * 0.1, "sky"),
        View(scale * both, {"sky": here, "target": here}, scale * 0.1, "both"),
    ]
    return Problem(IMAGES, views, "target", scale * target[:1], scale * 1.4 * amplitude)


def signals(scale: float = 1.0) -> Problem:
    """Two channels of eight numbers, some of them not measured: waves alone, and with a pulse; through a response."""
    normal, shape = _numbers(), (2, 8)
    response = Convolve(shape, [0.25, 0.5, 0.25], "same")
    pulse = torch.zeros(18, *shape, dtype=torch.float64)
    pulse[..., 3:6] = 8 * (2 + normal(18, 2, 1))
    views = []
    for x, more, name in ((normal(20, *shape), [], "waves"), (normal(18, *shape) + pulse, ["pulse"], "both")):
        mask = normal(*x.shape) > -1
        y = mask * (response.forward(x) + 0.1 * normal(*x.shape))
        shown = {source: Mask(mask) @ response for source in ["waves", *more]}
        views.append(View(scale * y, shown, scale * 0.1, name))
    unet = replace(UNET, signals=True)
    told = MixtureEMConfig((1, 2), (0, 2), laps=2, noisier2noise=Noisier2NoiseConfig(unet, TRAINING, averages=1))
    settings = replace(IMAGES, estimation=told, prior=PriorConfig(unet))
    return Problem(settings, views, "pulse", scale * pulse[:1], scale * 11)


def _numbers():  # noqa: ANN202 - normal numbers of one generator
    rng = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
