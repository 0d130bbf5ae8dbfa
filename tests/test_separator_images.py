"""What the preset "images" is for: networks separate shapes that a mixture of Gaussians cannot describe."""

from __future__ import annotations

__all__: list[str] = []

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mvss import Identity, PriorConfig, SourceSeparator, View

NUMBER, SIDE, NOISE = 300, 12, 0.05


def texture(rng: torch.Generator) -> Tensor:
    return avg_pool2d(torch.randn(NUMBER, 1, SIDE + 2, SIDE + 2, generator=rng).double(), 3, 1).exp()


def blobs(rng: torch.Generator) -> Tensor:
    place = SIDE / 4 * (1 + 2 * torch.rand(NUMBER, 2, 1, 1, generator=rng))
    size = 1.2 + 1.2 * torch.rand(NUMBER, 1, 1, generator=rng)
    yx = torch.arange(float(SIDE))
    squared = (yx[:, None] - place[:, 0]) ** 2 + (yx - place[:, 1]) ** 2
    return (torch.exp(-squared / (2 * size**2))[:, None] * (1 + torch.rand(NUMBER, 1, 1, 1, generator=rng))).double()


@pytest.mark.slow
def test_images_separate_blobs_from_a_texture_better_than_the_mixture() -> None:
    rng, here = torch.Generator().manual_seed(0), Identity((1, SIDE, SIDE))
    background, target = texture(rng), blobs(rng)
    y = [x + NOISE * torch.randn(x.shape, generator=rng) for x in (texture(rng), background + target)]
    views = [View(y[0], {"texture": here}, NOISE, "alone"), View(y[1], {"texture": here, "blob": here}, NOISE, "both")]

    def psnr(model: SourceSeparator) -> float:
        model.fit(views, verbose=False)
        return float(-10 * (model.separate(views[1], draws=2)["blob"] - target).square().mean().log10())

    full = SourceSeparator("images")
    estimation = replace(full.settings.estimation, noisier2noise=None)
    mixture = SourceSeparator(replace(full.settings, estimation=estimation, prior=PriorConfig(network=None)))
    got, least = psnr(full), psnr(mixture) + 1.5
    print(f"{got:.2f} dB, at least {least:.2f}")
    assert got > least
