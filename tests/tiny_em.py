"""A tiny problem for the EM loop: two sources, of which the first view shows one and the second view both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from closed_forms import random_prior

from mvss.em import Draws, HeldOut, Stage, run_em
from mvss.posteriors.exact_mixture import DenseView, MixturePosterior
from mvss.posteriors.pipeline import PosteriorConfig
from mvss.posteriors.samplers import SamplerConfig
from mvss.priors.diffusion import Denoiser
from mvss.priors.networks import TimeMLP
from mvss.priors.training import TrainingConfig
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Dense, Zero
from mvss.problem.views import MultiViewData, View
from mvss.runtime.rng import Stream

SIZES = (3, 2)
STREAM = Stream(0, ("em",))
STAGES = (Stage((0,), 1), Stage((1,), 2))
TRAINING = TrainingConfig(steps=4, batch=15, learning_rate=1e-2, sigma_min=0.05, sigma_max=1.0)
POSTERIOR = PosteriorConfig(SamplerConfig("pc", 3, sigma_start=0.5, sigma_min=0.05), components=2, chunk=16)


def problem(second_scale: float = 1.0) -> MultiViewData:
    """Odd numbers of observations, which do not split evenly; `second_scale` multiplies the second view's y."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    first = View(normal(21, 2), (Dense(normal(21, 2, 3)), Zero((2,), (2,))), Isotropic(0.2), "first")
    both = View(second_scale * normal(17, 2), (Dense(normal(2, 3)), Dense(normal(17, 2, 2))), Isotropic(0.3), "both")
    return MultiViewData((first, both), ((3,), (2,)))


def denoisers() -> list[Denoiser]:
    """Networks in float64, where rounding cannot hide a wrong share of a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = [TimeMLP(d, hidden=(8,), embedding=4, inputs=2 * d).double() for d in SIZES]
    return [Denoiser(random_prior(3, d, d), n, (d,), 1.0) for d, n in zip(SIZES, networks, strict=True)]


def first_draws(data: MultiViewData, sources: list[Denoiser]) -> Draws:
    return [
        list(MixturePosterior([sources[b].mixture for b in view.shown]).draw(DenseView.of(view), STREAM.child("first", a)))
        for a, view in enumerate(data.views)
    ]


def run(
    data: MultiViewData | None = None,
    stages: tuple[Stage, ...] = STAGES,
    accelerator: Accelerator | None = None,
    checkpoint: Path | None = None,
    on_lap: Callable[[dict[str, Any], Draws], None] | None = None,
    relaxation: float = 1.3,
    held_out: HeldOut | None = None,
    **options: object,
) -> tuple[Draws, list[Denoiser]]:
    """All laps; `options` are of the posterior."""
    data, sources = data or problem(), denoisers()
    draws = run_em(
        data,
        sources,
        first_draws(data, sources),
        stages,
        TRAINING,
        replace(POSTERIOR, **options),
        STREAM,
        accelerator or Accelerator(cpu=True),
        relaxation,
        checkpoint,
        on_lap,
        held_out,
    )
    return draws, sources


def weights(sources: list[Denoiser]) -> list[dict[str, torch.Tensor]]:
    return [{k: v.clone() for k, v in d.network.state_dict().items()} for d in sources]
