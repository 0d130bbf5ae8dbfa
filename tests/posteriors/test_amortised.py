"""Posteriors that networks learn from made mixtures: of Gaussians, beside the closed form; in EM, and with the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from closed_forms import ball
from torch import Tensor

import mvss.em.steps
import mvss.posteriors.amortised
from mvss.em import FirstDraws, Lap, Model, run_em
from mvss.posteriors.amortised import OUTPUTS, Amortised, AmortisedPosterior, inputs_of
from mvss.posteriors.saved import load_models, save_models
from mvss.posteriors.view_pairs import pairs_of, thrown_back
from mvss.presets.posterior import AmortisedConfig, MomentMatchingConfig, SamplerConfig
from mvss.presets.settings import EMConfig, Settings
from mvss.presets.training import TrainingConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.networks import ImageUNet
from mvss.priors.prior import Prior
from mvss.priors.regression import Guess, local_scale, usual_size
from mvss.priors.training import fit_denoiser
from mvss.problem.image_operators import BlockAverage
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Identity, Mask, Scale
from mvss.problem.units import Units
from mvss.problem.views import Draws, View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

SHAPE = (1, 9, 9)
RNG = torch.Generator().manual_seed(0)
HIDDEN, LEVEL = 0.7, 2.0
GUESSES = TrainingConfig(steps=2, batch=4)
SAMPLER = SamplerConfig("ancestral", steps=8, sigma_start=10.0, sigma_min=0.05)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


def problem(n: int, amplitude: float = 1.0) -> tuple[Views, Tensor]:
    """Backgrounds LEVEL + HIDDEN z, with and without a target of standard-normal pixels; and that target."""
    here, x = Identity(SHAPE), normal(n, *SHAPE)
    background = View(LEVEL + HIDDEN * normal(n, *SHAPE), {"sky": here}, Isotropic(0.1), "background")
    y = LEVEL + HIDDEN * normal(n, *SHAPE) + amplitude * x
    both = View(y, {"sky": here, "target": Scale(amplitude, SHAPE)}, Isotropic(0.1), "both")
    return Views([background, both]), x


def amortised(network: torch.nn.Module, views: Views, source: str = "target", **options: Any) -> Amortised:  # noqa: ANN401
    """Untrained, for all pairs of views."""
    return Amortised(network, pairs_of(views, source), **options)


def drawn(model: Amortised, view: View, sampler: SamplerConfig, stream: Stream) -> Tensor:
    seen = model.see(view)
    assert seen is not None
    return model.draw(seen, sampler, stream, view.numbers)


class Pixelwise(torch.nn.Module):
    """Of each pixel by itself, which is all that independent pixels need."""

    def __init__(self, inputs: int = inputs_of(SHAPE), outputs: int = OUTPUTS) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(inputs + 1, 64),
            torch.nn.SiLU(),
            torch.nn.Linear(64, 64),
            torch.nn.SiLU(),
            torch.nn.Linear(64, outputs),
        )

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        level = log_sigma.reshape(-1, 1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return self.net(torch.cat([x, level], dim=1).movedim(1, -1)).movedim(-1, 1)


def test_draws_have_the_moments_of_the_posterior() -> None:
    """x | y of independent Gaussian pixels: mean (y − level)/(1 + h²), variance h²/(1 + h²)."""
    data, x = problem(2000)
    torch.manual_seed(0)
    model = amortised(Pixelwise(), data)
    torch.testing.assert_close(model.pairs[0].level.mean(), torch.tensor(LEVEL).double(), atol=0.05, rtol=0)
    training = TrainingConfig(steps=700, batch=24, learning_rate=3e-3, sigma_min=0.05, sigma_max=10.0, beta=(1.0, 1.0))
    fit_denoiser(model, x, training, Stream(0), Accelerator(cpu=True))
    few, draws = data[1].select(torch.arange(40)), 60
    found = torch.stack([drawn(model, few, SAMPLER, Stream(k)) for k in range(draws)])
    share = 1 / (1 + HIDDEN**2)
    error = found.mean(0) - share * (few.y - LEVEL)
    assert float(error.square().mean().sqrt()) < 0.12  # of which the draws leave 0.07
    torch.testing.assert_close(float(found.var(0).mean().sqrt()), (HIDDEN**2 * share) ** 0.5, atol=0.06, rtol=0)


def test_inflated_draws_spread_more_about_the_same_mean() -> None:
    """x' = E[x | y] + 1.5 (x − E[x | y]), of the same noise: 1.5 times the deviation, and no other mean."""
    data, x = problem(2000)
    torch.manual_seed(0)
    model = amortised(Pixelwise(), data)
    training = TrainingConfig(steps=300, batch=24, learning_rate=3e-3, sigma_min=0.05, sigma_max=10.0, beta=(1.0, 1.0))
    fit_denoiser(model, x, training, Stream(0), Accelerator(cpu=True))
    few = data[1].select(torch.arange(40))
    seen, numbers = model.see(few), few.numbers
    assert seen is not None
    plain, wide = (
        torch.stack([model.draw(seen, SAMPLER, Stream(k), numbers, inflation) for k in range(30)]) for inflation in (1.0, 1.5)
    )
    torch.testing.assert_close(float((wide.var(0).mean() / plain.var(0).mean()).sqrt()), 1.5, atol=0.02, rtol=0)
    assert float((wide.mean(0) - plain.mean(0)).square().mean()) < 0.02 * float(plain.var(0).mean())
    others = MomentMatchingConfig(SAMPLER)
    counts = [AmortisedPosterior(AmortisedConfig(SAMPLER, others, inflation), {}).evaluations for inflation in (1.0, 1.5)]
    assert counts[1] == counts[0] + 1


@pytest.mark.parametrize("inflation", [0.0, -1.0, float("inf"), float("nan")])
def test_an_inflation_must_be_positive_and_finite(inflation: float) -> None:
    with pytest.raises(MvssError, match="inflation"):
        AmortisedConfig(inflation=inflation)


def with_blocks() -> tuple[Views, Tensor]:
    """`problem`, and the same seen as averages of 3 × 3 pixels; and the target."""
    data, x = problem(2000)
    coarse = BlockAverage(SHAPE, 3)
    n, target = HIDDEN * normal(2000, *SHAPE) + LEVEL, normal(2000, *SHAPE)
    below = View(coarse.forward(n), {"sky": coarse}, Isotropic(0.1), "coarse background")
    both = View(coarse.forward(n.flip(0) + target), {"sky": coarse, "target": coarse}, Isotropic(0.1), "coarse")
    return Views([*data, below, both]), x


def test_guesses_learn_the_posterior_mean_from_draws() -> None:
    """(y − level)/(1 + h²), of pixels and of blocks (see below), with one network."""
    data, x = with_blocks()
    torch.manual_seed(0)
    guess = Guess(Pixelwise(Guess.inputs_of(SHAPE), Guess.OUTPUTS))
    model = amortised(Pixelwise(), data, guess=guess, anywhere=True)
    training = TrainingConfig(steps=500, batch=24, learning_rate=3e-3, final_learning_rate=1e-4)
    before = [p.clone() for p in model.network.parameters()]
    drowned = SamplerConfig("ddim", steps=1, sigma_start=1e4, sigma_min=1e4)  # the mean, which is the guess where F is zero
    for parameter in model.network.net[-1].parameters():
        parameter.data.zero_()
    model.learn_guess(x, training, Stream(0), Accelerator(cpu=True))
    assert all(torch.equal(a, b) for a, b in zip(before[:-2], list(model.network.parameters())[:-2], strict=True))
    assert not any(p.requires_grad for p in guess.parameters())
    for view in (data[1], data[3]):
        found = drawn(model, view, drowned, Stream(0))
        error = found - view.operators["target"].pseudo_inverse(view.y - LEVEL) / (1 + HIDDEN**2)
        assert float(error.square().mean().sqrt()) < 0.08  # of pixels whose deviation is 1
        assert model.see(view).evaluations == 1


def test_a_model_without_a_guess_says_so_when_it_shall_learn_one() -> None:
    data, x = problem(5)
    with pytest.raises(MvssError, match="no guess"):
        amortised(Pixelwise(), data).learn_guess(x, TrainingConfig(), Stream(0), Accelerator(cpu=True))


@pytest.mark.slow
def test_draws_from_blocks_have_the_moments_of_the_posterior() -> None:
    """The same from averages of 3 × 3 pixels, beside the view at full resolution: one network for both. Given y = x̄ + n̄ of
    a block, n̄ of variance h²/9, its pixels have the mean (y − level)/(1 + h²) and the variance 1 − 1/(9 (1 + h²))."""
    data, x = with_blocks()
    pairs = pairs_of(data, "target")
    assert [(pair.view, pair.size, pair.sharp) for pair in pairs] == [(1, 2000, True), (3, 2000, False)]
    assert all(pair.others == ("sky",) for pair in pairs) and pairs_of(data, "sky") == []
    torch.manual_seed(0)
    model = amortised(Pixelwise(), data)
    training = TrainingConfig(steps=1500, batch=32, learning_rate=1e-2, sigma_min=0.05, sigma_max=10.0, beta=(1.0, 1.0))
    fit_denoiser(model, x, training, Stream(0), Accelerator(cpu=True))
    for view, share, variance in (
        (data[1], 1 / (1 + HIDDEN**2), HIDDEN**2 / (1 + HIDDEN**2)),
        (data[3], 1 / (1 + HIDDEN**2), 1 - 1 / (9 * (1 + HIDDEN**2))),
    ):
        few = view.select(torch.arange(40))
        found = torch.stack([drawn(model, few, SAMPLER, Stream(k)) for k in range(60)])
        u = view.operators["target"].pseudo_inverse(few.y - LEVEL)
        error = found.mean(0) - share * u
        assert (
            float(error.square().mean().sqrt()) < 0.2 * variance**0.5 + 0.03
        )  # of which the draws leave 0.13 of the deviation
        torch.testing.assert_close(float(found.var(0).mean().sqrt()), variance**0.5, atol=0.08, rtol=0)


def test_an_untrained_network_gives_the_guess_where_noise_drowns_x() -> None:
    data, _ = problem(5)
    guess = Guess(ImageUNet(1, 9, Guess.inputs_of(SHAPE), (8,), 1, Guess.OUTPUTS))  # zero: half of what is seen
    torch.manual_seed(0)
    model = amortised(ImageUNet(1, 9, inputs_of(SHAPE), (8,), 1, OUTPUTS), data, guess=guess, turns=True)
    view = data[1]
    drowned = SamplerConfig("ddim", steps=1, sigma_start=1e4, sigma_min=1e4)
    found = drawn(model, view, drowned, Stream(0))
    half = 0.5 * (view.y - model.pairs[0].level)
    torch.testing.assert_close(found, half, atol=2e-3, rtol=0)
    assert model.see(view).evaluations == 8  # over all turns
    assert not any(p.requires_grad for p in guess.parameters())


def test_what_is_thrown_back_is_y_over_a_where_it_was_measured() -> None:
    y, mask = normal(2, *SHAPE), torch.ones(2, *SHAPE, dtype=torch.float64)
    mask[:, :, :3] = 0.0
    u, known = thrown_back(Scale(0.5, SHAPE), y, mask)
    torch.testing.assert_close(u, 2 * y * mask)
    assert torch.equal(known, mask)
    coarse = BlockAverage(SHAPE, 3)
    u, known = thrown_back(coarse, y[..., :3, :3], mask[..., ::3, ::3])
    torch.testing.assert_close(u, (y[..., :3, :3] * mask[..., ::3, ::3]).repeat_interleave(3, -1).repeat_interleave(3, -2))
    torch.testing.assert_close(known, mask / 3)


def test_it_applies_to_views_like_the_one_it_was_made_for() -> None:
    data, _ = problem(5)
    model = amortised(Pixelwise(), data)
    both, here = data[1], Identity(SHAPE)

    def seen_by(**operators: Identity | Scale | Mask) -> View:
        return View(both.y, operators, both.noise)

    assert model.applies(both)
    assert not model.applies(data[0])  # which does not show it
    assert not model.applies(seen_by(sky=here, target=Scale(0.5, SHAPE)))
    assert not model.applies(seen_by(target=here))  # alone
    assert not model.applies(seen_by(sky=here, target=here, more=here))
    mask = Mask(torch.rand(5, *SHAPE, generator=RNG) > 0.2)
    assert model.applies(seen_by(sky=mask, target=mask))
    assert model.applies(seen_by(target=here, sky=here))  # in whatever order
    coarse = BlockAverage(SHAPE, 3)
    assert not model.applies(View(coarse.forward(both.y), {"sky": coarse, "target": coarse}, Isotropic(0.1)))


Fit = tuple[Views, dict[str, Prior], AmortisedPosterior]


def trained(checkpoint: Path | None = None, stop: int | None = None, closed: bool = False, **trainings: TrainingConfig) -> Fit:
    """Two laps of everything, far too short. stop: interrupt when lap `stop` has been recorded. closed: the background has no
    network. trainings: as of `EMConfig`."""
    data, x = problem(12)
    torch.manual_seed(0)
    priors: dict[str, Prior] = {
        s: DiffusionPrior(ball(SHAPE, 1.0), ImageUNet(1, 9, 2, (8,), 1, 2), 1.0, dynamic=True) for s in ("sky", "target")
    }
    if closed:
        priors["sky"] = ball(SHAPE, 1.0)
    guess = Guess(ImageUNet(1, 9, Guess.inputs_of(SHAPE), (8,), 1, Guess.OUTPUTS))
    model = amortised(ImageUNet(1, 9, inputs_of(SHAPE), (8,), 1, OUTPUTS), data, guess=guess, anywhere=True)
    others = MomentMatchingConfig(SamplerConfig("ancestral", steps=2, sigma_start=0.1, sigma_min=0.05))
    config = AmortisedConfig(replace(SAMPLER, steps=3), others)
    training = TrainingConfig(steps=2, batch=4, sigma_min=0.05, sigma_max=10.0, turns=True)
    em = EMConfig(laps=(1, 2), stages="sequential", **trainings)
    posterior = AmortisedPosterior(config, {"target": model})

    def on_lap(lap: Lap) -> None:
        if lap.number == stop:
            raise KeyboardInterrupt

    first = FirstDraws([{"sky": data[0].y}, {"sky": data[1].y - x, "target": x}])
    settings = Settings(training=training, em=em, posterior=config)
    run_em(data, Model(priors, posterior), first, settings, Stream(1), checkpoint, on_lap)
    return data, priors, posterior


def separate(fit: Fit, stream: Stream | None = None) -> Draws:
    data, priors, posterior = fit
    return posterior.draw(data[1], priors, stream or Stream(2)).draws


def same(a: Draws, b: Draws) -> bool:
    return list(a) == list(b) and all(torch.equal(a[source], b[source]) for source in a)


@pytest.mark.parametrize("lap", [3])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(lap: int, tmp_path: Path) -> None:
    state = RNG.get_state()
    whole = trained(guess=GUESSES)
    RNG.set_state(state)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "em.safetensors", stop=lap, guess=GUESSES)
    RNG.set_state(state)
    resumed = trained(tmp_path / "em.safetensors", guess=GUESSES)
    assert same(separate(whole), separate(resumed))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_source_without_a_network_goes_to_the_gpu_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    state, draws = RNG.get_state(), []
    for place in ("cpu", "cuda"):
        RNG.set_state(state)
        with monkeypatch.context() as patch:
            patch.setattr(mvss.em.steps, "default_accelerator", lambda cpu=place == "cpu": Accelerator(cpu=cpu))
            data, priors, posterior = trained(closed=True)
        assert priors["sky"].mixture.means.device.type == place
        found = posterior.draw(data[1].to(place), priors, Stream(2)).draws
        draws.append({source: x.cpu() for source, x in found.items()})
    for source, here in draws[0].items():
        assert float((here - draws[1][source]).abs().max()) < 0.05


def test_posteriors_and_guesses_have_trainings_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of the trainings of two laps; the prior learns once, from the last draws but one."""
    steps: list[int] = []

    def counted(denoiser: torch.nn.Module, draws: Tensor, config: TrainingConfig, *rest: Any) -> Any:  # noqa: ANN401
        steps.append(config.steps)
        return fit_denoiser(denoiser, draws, config, *rest)

    for module in (mvss.em.steps, mvss.posteriors.amortised):
        monkeypatch.setattr(module, "fit_denoiser", counted)
    usual = TrainingConfig(steps=2, batch=4)
    trained(closed=True, guess=replace(usual, steps=3), amortised=replace(usual, steps=5))
    assert steps == [3, 5, 3, 5, 2]


def test_a_source_on_more_than_what_it_was_learned_on_is_not_drawn_first() -> None:
    """Of nested views, each with one source more, every posterior is for its own view alone."""
    here, names = Identity(SHAPE), ("a", "b", "c")
    nested = Views(
        View(normal(3, *SHAPE), dict.fromkeys(names[: n + 1], here), Isotropic(0.1), str(n)) for n in range(len(names))
    )
    models = {source: amortised(Pixelwise(), nested, source) for source in ("b", "c")}
    assert [[model.applies(view) for view in nested] for model in models.values()] == [
        [False, True, False],
        [False, False, True],
    ]


def test_pairs_are_told_in_whatever_units_each_view_is() -> None:
    """Backgrounds beside bright targets are in other units than what shows both; operators that differ are no pair."""
    data, _ = problem(5, amplitude=16.0)
    units = Units.of(data)
    inner = Views(map(units.inward, data))
    factors = [view.operators["sky"].forward(torch.ones(1, *SHAPE))[0, 0, 0, 0] for view in inner]
    assert factors[0] >= 2 * factors[1]
    (own,), (pair,) = pairs_of(data, "target"), pairs_of(inner, "target")
    scale = float(factors[1]) / units.scales["sky"]  # of y in the mixed view
    torch.testing.assert_close(pair.backgrounds[:, 0], scale * own.backgrounds[:, 0])
    torch.testing.assert_close(pair.level, scale * own.level)
    louder = View(data[0].y, {"sky": Scale(2.0, SHAPE)}, data[0].noise)
    with pytest.warns(UserWarning, match="differ in noise"):
        assert pairs_of(Views([louder, data[1]]), "target") == []


def test_views_under_different_noise_are_no_pair_and_it_is_said() -> None:
    """What hides the source would be cleaner, or noisier, than behind it: estimates would be wrong in silence."""
    (background, both), _ = problem(5)
    for sigma in (0.01, 1.0):
        views = Views([background, View(both.y, both.operators, Isotropic(sigma), "both")])
        with pytest.warns(UserWarning, match="background and both differ in noise, so they do not tell target as a pair"):
            assert pairs_of(views, "target") == []


def test_views_whose_sources_have_masks_of_their_own_do_not_match() -> None:
    """There is no one answer to what was measured."""
    data, _ = problem(5)
    (pair,) = pairs_of(data, "target")
    hidden = Mask(torch.arange(81).reshape(1, *SHAPE) > 3)
    odd = View(data[1].y, {"sky": Identity(SHAPE), "target": hidden}, data[1].noise, "odd")
    assert pair.matches(data[1]) and not pair.matches(odd) and pair.see(odd) is None
    assert pairs_of(Views([data[0], odd]), "target") == []


def test_what_hides_a_source_must_vary() -> None:
    data, _ = problem(4)
    still = View(torch.full_like(data[0].y, LEVEL), data[0].operators, data[0].noise)
    with pytest.raises(MvssError, match="both: what hides target does not vary"):
        pairs_of(Views([still, data[1]]), "target")


def test_the_other_sources_are_drawn_given_what_is_left() -> None:
    """Sky and target add up to y within their noise, and what both networks did is counted."""
    data, priors, posterior = trained()
    found = posterior.draw(data[1], priors, Stream(2))
    left = data[1].y - data[1].predicted(found.draws)
    assert list(found.draws) == ["sky", "target"]
    assert float(left.square().mean().sqrt()) < 0.3
    assert found.evaluations == 1 + 3 + 2
    again = posterior.many(data[1], priors, Stream(3), 2)
    assert {source: x.shape for source, x in again.items()} == dict.fromkeys(("sky", "target"), (2, 12, *SHAPE))
    assert not torch.equal(again["sky"][0], again["sky"][1])
    assert priors["target"].sample(3, Stream(4)).shape == (3, *SHAPE)


def test_draws_are_keyed_by_the_observations_numbers() -> None:
    fit = data, priors, posterior = trained()
    rows = torch.tensor([7, 0, 3])
    part = posterior.draw(data[1].select(rows), priors, Stream(2)).draws
    torch.testing.assert_close(part, {s: x[rows] for s, x in separate(fit).items()}, rtol=1e-4, atol=1e-5)


def test_many_draws_share_one_guess() -> None:
    """They are those that single draws would be."""
    fit = data, priors, posterior = trained(guess=GUESSES)
    guess, asked = posterior.models["target"].guess, []
    assert guess is not None
    handle = guess.register_forward_hook(lambda *_: asked.append(1))
    many = posterior.many(data[1], priors, Stream(3), 3)
    assert len(asked) == 1
    handle.remove()
    for number in range(3):
        assert same({source: x[number] for source, x in many.items()}, separate(fit, Stream(3).child(number)))


def read_back(folder: Path, fit: Fit) -> Fit:
    data, priors, posterior = fit
    save_models(folder, priors, posterior.models, {})
    priors, models, _ = load_models(folder)
    return data, priors, AmortisedPosterior(posterior.config, models)


def test_models_that_are_read_back_draw_the_same(tmp_path: Path) -> None:
    fit = trained()
    assert same(separate(fit), separate(read_back(tmp_path, fit)))


def test_a_model_that_was_read_back_does_not_learn(tmp_path: Path) -> None:
    _, _, posterior = read_back(tmp_path, trained())
    model = posterior.models["target"]
    with pytest.raises(MvssError, match="does not learn") as error:
        fit_denoiser(model, normal(4, *SHAPE), GUESSES, Stream(0), Accelerator(cpu=True))
    assert "\n" not in str(error.value)


def test_a_posterior_that_is_missing_is_not_passed_over(tmp_path: Path) -> None:
    _, priors, posterior = trained()
    save_models(tmp_path, priors, posterior.models, {})
    (kept,) = tmp_path.rglob("amortised-2.safetensors")
    kept.unlink()
    with pytest.raises(MvssError, match=r"amortised-2\.safetensors"):
        load_models(tmp_path)
    save_models(tmp_path, priors, posterior.models, {})
    save_models(tmp_path, priors, {}, {})  # over what is there
    assert load_models(tmp_path)[1] == {}


def test_local_scale_is_the_larger_of_a_pixel_and_its_surroundings() -> None:
    y = torch.zeros(1, 1, 5, 5)
    y[0, 0, 2, 2] = 16.0
    s = local_scale(y, torch.ones_like(y), 0.5)
    expected = torch.tensor([16.0, 2.0, 1.0, 0.0])  # itself, beside, at a corner, far away
    torch.testing.assert_close(s[0, 0, (2, 2, 1, 0), (2, 1, 1, 0)], (expected**2 + 0.25).sqrt())
    assert abs(usual_size(torch.randn(100, 100, generator=torch.Generator().manual_seed(0)), torch.ones(100, 100)) - 1) < 0.03
