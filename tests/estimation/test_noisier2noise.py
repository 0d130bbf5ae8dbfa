"""Estimates of a source from pairs of views, beside the closed form of Gaussians."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mvss.estimation.mixture_em import estimated, expectation_maximisation
from mvss.estimation.noisier2noise import _MoreBackground, estimate_source
from mvss.posteriors.view_pairs import ViewPair, pairs_of, pierced
from mvss.presets.estimation import MixtureEMConfig, Noisier2NoiseConfig
from mvss.presets.training import TrainingConfig
from mvss.priors.networks import TimeMLP
from mvss.priors.regression import Guess
from mvss.problem.image_operators import BlockAverage
from mvss.problem.operators import Identity, LinearOperator, Mask, Scale
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

SHAPE = (1, 2, 2)
RNG = torch.Generator().manual_seed(0)
NOISE, AMPLITUDE, LEVEL = 0.1, 0.5, 3.0
TRAINING = TrainingConfig(steps=300, batch=256, learning_rate=5e-3, ema_decay=0.98)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


def two_views(n: int, mask: Tensor | None = None) -> tuple[Views, Tensor]:
    """A background of level 3 and deviation 0.4, and a target of deviation 1 that is on top of it; and that target."""
    target, here = normal(n, *SHAPE), Identity(SHAPE) if mask is None else Mask(mask)
    fields = [LEVEL + 0.4 * normal(n, *SHAPE) for _ in range(2)]
    y = [here.forward(fields[0]), here.forward(fields[1] + AMPLITUDE * target)]
    shown = {"background": here, "target": here @ Scale(AMPLITUDE, SHAPE)}
    seen = [here.forward(NOISE * normal(n, *SHAPE)) + v for v in y]
    views = [View(seen[0], {"background": here}, NOISE, "background"), View(seen[1], shown, NOISE, "both")]
    return Views(views), target


def pair_of(data: Views, source: str = "target") -> ViewPair:
    """The one pair that tells a source."""
    (pair,) = pairs_of(data, source, alone=source == "background")
    return pair


def new_guess() -> Guess:
    torch.manual_seed(0)
    return Guess(TimeMLP(4, (64, 64), 4, "film", 4 * Guess.inputs_of(SHAPE), Guess.OUTPUTS))


def estimate(data: Views, config: Noisier2NoiseConfig) -> Tensor:
    return estimate_source(data[1], data[1], pair_of(data), new_guess(), config, Stream(1))


def test_it_is_the_estimate_under_twice_the_background() -> None:
    """Of Gaussians E[x | z] = a v (z − 2 level)/(a² v + 2 s), and its mean over backgrounds the same of y."""
    data, _ = two_views(4000)
    hidden = 0.4**2 + NOISE**2
    exact = AMPLITUDE * (data[1].y - LEVEL) / (AMPLITUDE**2 + 2 * hidden)
    error = (estimate(data, Noisier2NoiseConfig(training=TRAINING, averages=64)) - exact).square().mean().sqrt()
    assert float(error) < 0.16 * float(exact.std())  # of which the mean over 64 backgrounds leaves 0.08


def test_a_view_alone_is_a_pair_with_its_noise() -> None:
    """E[x | z] of twice the noise, of the background that view 1 shows by itself."""
    data, _ = two_views(4000)
    pair = pair_of(data, "background")
    assert pair.view == 0 and pair.others == () and not bool(pair.level.any()) and pair_of(data).view == 1
    found = estimate_source(data[0], data[0], pair, new_guess(), Noisier2NoiseConfig(training=TRAINING, averages=16), Stream(1))
    exact = LEVEL + 0.4**2 / (0.4**2 + 2 * NOISE**2) * (data[0].y - LEVEL)
    assert float((found - exact).square().mean().sqrt()) < 0.04  # the noise is 0.1, what it leaves 0.12


def test_estimates_stay_within_what_is_known_of_the_source() -> None:
    data, _ = two_views(40)
    found = estimate(data, Noisier2NoiseConfig(training=TrainingConfig(steps=2, batch=4), averages=1, least=0.0, most=0.1))
    assert 0 <= float(found.min()) < float(found.max()) <= 0.1


def test_dark_numbers_tell_that_backgrounds_of_one_view_are_brighter() -> None:
    """Estimates are the same then, and cut to nothing where the source has none, in all but one of six."""
    data, target = two_views(2000)
    light = target.abs() * torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64).reshape(SHAPE)  # the first is dark
    config = Noisier2NoiseConfig(training=replace(TRAINING, steps=150), averages=16, least=0.0, dark=0.25)

    def found(brighter: float, config: Noisier2NoiseConfig) -> Tensor:
        both = data[1]
        return estimate(Views([data[0], replaced(both, both.y + AMPLITUDE * (light - target) + brighter)]), config)

    def apart(config: Noisier2NoiseConfig) -> float:
        return float((found(0.2, config) - found(-0.2, config)).abs().mean())

    assert apart(config) < 0.1 < 0.3 < apart(replace(config, dark=0.0))
    assert float((found(0.2, config)[:, 0, 0, 0] == 0).double().mean()) == pytest.approx(0.84, abs=0.06)


def replaced(view: View, y: Tensor) -> View:
    return View(y, view.operators, view.noise, view.name)


def test_masked_pixels_teach_nothing() -> None:
    """They are zero, far below the background: what was measured must be estimated as well as without them."""
    mask = torch.rand(4000, *SHAPE, generator=RNG) > 0.1
    mask[:, 0, 0, 0] = True
    data, target = two_views(4000, mask)
    error = (estimate(data, Noisier2NoiseConfig(training=TRAINING, averages=64)) - target)[mask].square().mean().sqrt()
    least = (2 * (0.4**2 + NOISE**2) / (AMPLITUDE**2 + 2 * (0.4**2 + NOISE**2))) ** 0.5
    assert float(error) < 1.15 * least


def test_pairs_are_views_that_differ_in_one_source() -> None:
    data, _ = two_views(5)
    pair = pair_of(data)
    assert (pair.source, pair.others, pair.view, pair.factor, pair.sharp) == ("target", ("background",), 1, AMPLITUDE, True)
    assert pair.size == 5 and pair.see(data[1]) is not None and pair.see(data[0]) is None
    assert pairs_of(data, "background") == []  # nothing shows the target alone
    half = View(data[0].y, {"background": Scale(0.5, SHAPE)}, NOISE, "half of the background")
    with pytest.warns(UserWarning, match="half of the background and both differ in noise"):
        assert pairs_of(Views([half, data[1]]), "target") == []
    coarse = BlockAverage(SHAPE, 2)
    views = [View(coarse.forward(v.y), dict.fromkeys(v.sources, coarse), NOISE, f"coarse {v.name}") for v in data]
    both = pairs_of(Views([*data, *views]), "target")
    assert [(pair.view, pair.factor) for pair in both] == [(1, AMPLITUDE), (3, None)]
    assert both[1].level.shape == (1, 1, 1) and both[1].see(data[1]) is None and both[1].see(views[1]) is not None


def test_a_mixture_is_fitted_to_estimates_in_place_of_observations() -> None:
    data, target = two_views(600)
    clean = estimated(data, {"target": target}, 0.05)
    assert [view.name for view in clean] == ["background", "estimates of target"]
    config = MixtureEMConfig(components=(1,), ranks=(0,), laps=20, floor=0.05)
    fit = expectation_maximisation(clean, config, (("background",), ("target",)), Stream(2))
    torch.testing.assert_close(fit.priors["target"].covariances[0], torch.cov(target.flatten(1).T), atol=0.03, rtol=0)
    spread = fit.priors["background"].covariances[0].diagonal().mean()
    torch.testing.assert_close(spread, torch.tensor(0.16).double(), atol=0.02, rtol=0)


def test_views_stay_that_alone_show_a_source_without_estimates() -> None:
    data, _ = two_views(20)
    background = data[0].y
    left = estimated(data, {"background": background}, 0.05)
    assert [(view.name, view.sources) for view in left] == [
        (data[1].name, data[1].sources),
        ("estimates of background", ("background",)),
    ]


@pytest.mark.parametrize("gain", [1.0, 0.5, 0.25])
def test_masked_pairs_are_sharp_in_any_unit(gain: float) -> None:
    """Units of sources that differ put a scale before a mask before an identity."""
    data, _ = two_views(5)
    good = torch.rand(data[1].y.shape, generator=torch.Generator().manual_seed(3)) > 0.1
    seen = {source: (Mask(good) @ Identity(SHAPE)).scaled(gain if source == "target" else 1.0) for source in data[1].sources}
    (pair,) = pairs_of(Views([data[0], View(data[1].y * good, seen, NOISE, "masked")]), "target")
    assert pair.sharp and pair.factor == gain


def test_errors_of_wings_count_however_bright_the_middle_is() -> None:
    """With a core a thousand times as bright, pixels far from it weigh what they did: 1/(background² + (0.1 x̂)²)."""
    data, _ = two_views(50)
    more = _MoreBackground(Guess(TimeMLP(4, (4,), 4, "film", 24, 2)), pair_of(data), False, 0.0)
    usual = AMPLITUDE * more.pair.usual
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
    for wrong in ({"dark": 0.1}, {"dark": 1.0, "least": 0.0}, {"dark": -0.1, "least": 0.0}):
        with pytest.raises(MvssError, match="dark="):
            Noisier2NoiseConfig(**wrong)


@pytest.mark.slow
def test_a_guess_that_learned_with_holes_fills_one_from_its_surroundings() -> None:
    """x is one number t on all pixels: E[a t | z of three] = a² Σ z/(3 a² + 2 s)."""
    n, mean_square = 4000, []
    t = normal(n, 1, 1, 1).expand(n, *SHAPE)
    y = [0.4 * normal(n, *SHAPE), 0.4 * normal(n, *SHAPE) + AMPLITUDE * t]
    here, shown = Identity(SHAPE), Scale(AMPLITUDE, SHAPE)
    operators: dict[str, LinearOperator] = {"background": here, "target": shown}
    data = Views([View(y[0], {"background": here}, NOISE, "background"), View(y[1], operators, NOISE, "both")])
    pair = pair_of(data)
    twice = y[1] + y[0].flip(0) - pair.level
    measured = torch.ones_like(twice)
    measured[:, 0, 0, 0] = 0.0
    exact = AMPLITUDE * (measured * twice).sum((1, 2, 3)) / (3 * AMPLITUDE**2 + 2 * 0.4**2)
    for holes in (0.3, 0.0):
        guess, config = new_guess(), Noisier2NoiseConfig(training=replace(TRAINING, steps=450, holes=holes), averages=1)
        estimate_source(data[1], data[1], pair, guess, config, Stream(1))
        with torch.no_grad():
            found = guess((measured * twice / AMPLITUDE).float(), measured.float(), pair.usual)
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
