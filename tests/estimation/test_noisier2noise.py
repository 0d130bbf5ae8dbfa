"""Estimates of a source from pairs of views, beside the closed form of Gaussians."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mvss.estimation.mixture_em import SharedMixtureConfig, estimated, fit_shared_mixtures
from mvss.estimation.noisier2noise import Guess, Noisier2NoiseConfig, _MoreBackground, estimate_source
from mvss.posteriors.view_pairs import Pair, Scene, pairs_of, pierced, tight_factor
from mvss.priors.networks import TimeMLP
from mvss.priors.training import TrainingConfig
from mvss.problem.noise import Isotropic
from mvss.problem.operators import BlockAverage, Identity, LinearOperator, Mask, Scale, Zero
from mvss.problem.views import MultiViewData, View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

SHAPE = (1, 2, 2)
RNG = torch.Generator().manual_seed(0)
NOISE, AMPLITUDE, LEVEL = 0.1, 0.5, 3.0
TRAINING = TrainingConfig(steps=600, batch=256, learning_rate=3e-3, ema_decay=0.99)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


def two_views(n: int, mask: Tensor | None = None) -> tuple[MultiViewData, Tensor]:
    """A background of level 3 and deviation 0.4, and a target of deviation 1 that is on top of it; and that target."""
    target, here = normal(n, *SHAPE), Identity(SHAPE) if mask is None else Mask(mask)
    fields = [LEVEL + 0.4 * normal(n, *SHAPE) for _ in range(2)]
    y = [here.forward(fields[0]), here.forward(fields[1] + AMPLITUDE * target)]
    shown: tuple[LinearOperator, LinearOperator] = (here, here @ Scale(AMPLITUDE, SHAPE))
    seen = [here.forward(NOISE * normal(n, *SHAPE)) + v for v in y]
    views = (
        View(seen[0], (here, Zero(SHAPE, SHAPE)), Isotropic(NOISE), "background"),
        View(seen[1], shown, Isotropic(NOISE), "both"),
    )
    return MultiViewData(views, (SHAPE, SHAPE)), target


def estimate(data: MultiViewData, config: Noisier2NoiseConfig) -> Tensor:
    torch.manual_seed(0)
    guess = Guess(TimeMLP(4, (64, 64), 4, "film", 4 * Guess.INPUTS, Guess.OUTPUTS))
    return estimate_source(data, 1, Pair(1, 0), guess, config, Stream(1))


def test_it_is_the_estimate_under_twice_the_background() -> None:
    """Of Gaussians E[x | z] = a v (z − 2 level)/(a² v + 2 s), and its mean over backgrounds the same of y."""
    data, _ = two_views(4000)
    hidden = 0.4**2 + NOISE**2
    exact = AMPLITUDE * (data.views[1].y - LEVEL) / (AMPLITUDE**2 + 2 * hidden)
    error = (estimate(data, Noisier2NoiseConfig(TRAINING, 64)) - exact).square().mean().sqrt()
    assert float(error) < 0.16 * float(exact.std())  # of which the mean over 64 backgrounds leaves 0.08


def test_a_view_alone_is_a_pair_with_its_noise() -> None:
    """E[x | z] of twice the noise, of the background that view 1 shows by itself."""
    data, _ = two_views(4000)
    assert pairs_of(data, 0, alone=True) == [Pair(0, None)] and pairs_of(data, 1, alone=True) == [Pair(1, 0)]
    torch.manual_seed(0)
    guess = Guess(TimeMLP(4, (64, 64), 4, "film", 4 * Guess.INPUTS, Guess.OUTPUTS))
    found = estimate_source(data, 0, Pair(0, None), guess, Noisier2NoiseConfig(TRAINING, 16), Stream(1))
    exact = LEVEL + 0.4**2 / (0.4**2 + 2 * NOISE**2) * (data.views[0].y - LEVEL)
    assert float((found - exact).square().mean().sqrt()) < 0.04  # the noise is 0.1, what it leaves 0.12


def test_estimates_stay_within_what_is_known_of_the_source() -> None:
    data, _ = two_views(40)
    found = estimate(data, Noisier2NoiseConfig(TrainingConfig(steps=2, batch=4), 1, least=0.0, most=0.1))
    assert 0 <= float(found.min()) < float(found.max()) <= 0.1


def test_masked_pixels_teach_nothing() -> None:
    """They are zero, far below the background: what was measured must be estimated as well as without them."""
    mask = torch.rand(4000, *SHAPE, generator=RNG) > 0.1
    mask[:, 0, 0, 0] = True
    data, target = two_views(4000, mask)
    error = (estimate(data, Noisier2NoiseConfig(TRAINING, 64)) - target)[mask].square().mean().sqrt()
    least = (2 * (0.4**2 + NOISE**2) / (AMPLITUDE**2 + 2 * (0.4**2 + NOISE**2))) ** 0.5
    assert float(error) < 1.15 * least


def test_pairs_are_views_that_differ_in_one_source() -> None:
    data, _ = two_views(5)
    assert pairs_of(data, 1) == [Pair(1, 0)]
    assert pairs_of(data, 0) == []  # nothing shows the target alone
    half = View(data.views[0].y, (Scale(0.5, SHAPE), Zero(SHAPE, SHAPE)), Isotropic(NOISE), "half of the background")
    assert pairs_of(MultiViewData((half, data.views[1]), data.source_shapes), 1) == []
    coarse = BlockAverage(SHAPE, 2)
    views = tuple(
        View(
            coarse.forward(v.y),
            (coarse, Zero(SHAPE, (1, 1, 1)) if number == 0 else coarse),
            Isotropic(NOISE),
            f"coarse {number}",
        )
        for number, v in enumerate(data.views)
    )
    both = MultiViewData((*data.views, *views), data.source_shapes)
    assert pairs_of(both, 1) == [Pair(1, 0), Pair(3, 2)]
    assert [tight_factor(both.views[pair.mixed], 1) for pair in pairs_of(both, 1)] == [AMPLITUDE, None]


def test_a_mixture_is_fitted_to_estimates_in_place_of_observations() -> None:
    data, target = two_views(600)
    clean = estimated(data, {1: target}, 0.05)
    assert [view.name for view in clean.views] == ["background", "estimates of source 2"]
    fit = fit_shared_mixtures(clean, SharedMixtureConfig((1, 1), (0, 0), 20, 0.05), ((0,), (1,)), Stream(2))
    torch.testing.assert_close(fit.priors[1].covariances[0], torch.cov(target.flatten(1).T), atol=0.03, rtol=0)
    torch.testing.assert_close(fit.priors[0].covariances[0].diagonal().mean(), torch.tensor(0.16).double(), atol=0.02, rtol=0)


def test_errors_of_wings_count_however_bright_the_middle_is() -> None:
    """With a core a thousand times as bright, pixels far from it weigh what they did: 1/(background² + (0.1 x̂)²)."""
    data, _ = two_views(50)
    more = _MoreBackground(Guess(TimeMLP(4, (4,), 4, "film", 24, 2)), Scene.of(data, 1, Pair(1, 0)), False, 0.0)
    usual = AMPLITUDE * more.scene.usual
    found = torch.full((1, 1, 16, 16), 20 * usual)
    dark = torch.full_like(found, usual)
    core = torch.zeros_like(found)
    core[..., 7:9, 7:9] = 1e3 * usual
    weight = more._weights(found + core + dark, torch.ones_like(found), found + core)
    assert float(weight[0, 0, 0, 0]) == pytest.approx(1 / (2 * usual**2 + 0.01 * 401 * usual**2), rel=1e-3)
    assert float(weight[0, 0, 7, 7]) < 1e-3 * float(weight[0, 0, 0, 0])


def test_averages_must_be_positive() -> None:
    with pytest.raises(MvssError, match="averages=0"):
        Noisier2NoiseConfig(averages=0)
    with pytest.raises(MvssError, match=r"least=1\.0 must be below most=0\.0"):
        Noisier2NoiseConfig(least=1.0, most=0.0)


def test_a_guess_that_learned_with_holes_fills_one_from_its_surroundings() -> None:
    """x is one number t on all pixels: E[a t | z of three] = a² Σ z/(3 a² + 2 s)."""
    n, mean_square = 4000, []
    t = normal(n, 1, 1, 1).expand(n, *SHAPE)
    y = [0.4 * normal(n, *SHAPE), 0.4 * normal(n, *SHAPE) + AMPLITUDE * t]
    here, shown = Identity(SHAPE), Scale(AMPLITUDE, SHAPE)
    views = (
        View(y[0], (here, Zero(SHAPE, SHAPE)), Isotropic(NOISE), "background"),
        View(y[1], (here, shown), Isotropic(NOISE), "both"),
    )
    data = MultiViewData(views, (SHAPE, SHAPE))
    twice = y[1] + y[0].flip(0) - Scene.of(data, 1, Pair(1, 0)).level
    measured = torch.ones_like(twice)
    measured[:, 0, 0, 0] = 0.0
    exact = AMPLITUDE * (measured * twice).sum((1, 2, 3)) / (3 * AMPLITUDE**2 + 2 * 0.4**2)
    for holes in (0.3, 0.0):
        torch.manual_seed(0)
        guess = Guess(TimeMLP(4, (64, 64), 4, "film", 4 * Guess.INPUTS, Guess.OUTPUTS))
        estimate_source(data, 1, Pair(1, 0), guess, Noisier2NoiseConfig(replace(TRAINING, holes=holes), 1), Stream(1))
        with torch.no_grad():
            found = guess((measured * twice / AMPLITUDE).float(), measured.float(), Scene.of(data, 1, Pair(1, 0)).usual)
        mean_square.append(float((found[:, 0, 0, 0] - exact).square().mean() / exact.square().mean()))
    assert mean_square[0] < 0.02 < mean_square[1]


def test_every_second_image_has_holes() -> None:
    torch.manual_seed(0)
    measured = torch.ones(400, *SHAPE)
    measured[:, 0, 0, 0] = 0.0
    found = pierced(measured, 0.25)
    torch.testing.assert_close(found[::2], measured[::2])
    assert not bool(found[:, 0, 0, 0].any()) and 0.7 < float(found[1::2, 0, 1].mean()) < 0.8
    assert pierced(measured, 0.0) is measured
