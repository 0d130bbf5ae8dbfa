"""Posteriors that networks learn from made mixtures: of Gaussians, beside the closed form; and in the pipeline and EM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

import mvss.em
import mvss.posteriors.amortised
from mvss.em import Draws, HeldOut, Stage, run_em
from mvss.estimation.noisier2noise import Guess
from mvss.posteriors.amortised import INPUTS, OUTPUTS, Amortised
from mvss.posteriors.pipeline import PosteriorConfig, SourceSeparationPipeline
from mvss.posteriors.samplers import SamplerConfig
from mvss.posteriors.view_pairs import Pair, pairs_of, thrown_back
from mvss.priors.diffusion import Denoiser, karras_base
from mvss.priors.dynamic_range import local_scale, usual_size
from mvss.priors.networks import ImageUNet
from mvss.priors.training import TrainingConfig, fit_denoiser
from mvss.problem.noise import Isotropic
from mvss.problem.operators import BlockAverage, Identity, Mask, Scale, Zero
from mvss.problem.views import MultiViewData, View
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

SHAPE = (1, 9, 9)
RNG = torch.Generator().manual_seed(0)
HIDDEN, LEVEL = 0.7, 2.0
GUESSES = TrainingConfig(steps=2, batch=4)
SAMPLER = SamplerConfig("ancestral", steps=8, sigma_start=10.0, sigma_min=0.05)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


def views(n: int, amplitude: float = 1.0) -> tuple[MultiViewData, Tensor]:
    """Backgrounds LEVEL + HIDDEN z, with and without a target of standard-normal pixels; and that target."""
    here, x = Identity(SHAPE), normal(n, *SHAPE)
    background = View(LEVEL + HIDDEN * normal(n, *SHAPE), (here, Zero(SHAPE, SHAPE)), Isotropic(0.1), "background")
    y = LEVEL + HIDDEN * normal(n, *SHAPE) + amplitude * x
    both = View(y, (here, Scale(amplitude, SHAPE)), Isotropic(0.1), "both")
    return MultiViewData((background, both), (SHAPE, SHAPE)), x


class Pixelwise(torch.nn.Module):
    """Of each pixel by itself, which is all that independent pixels need."""

    def __init__(self, inputs: int = INPUTS, outputs: int = OUTPUTS) -> None:
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
    data, x = views(2000)
    torch.manual_seed(0)
    model = Amortised.of(Pixelwise(), data, 1)
    torch.testing.assert_close(model.scenes[0].level.mean(), torch.tensor(LEVEL).double(), atol=0.05, rtol=0)
    training = TrainingConfig(steps=1500, batch=32, learning_rate=3e-3, sigma_min=0.05, sigma_max=10.0, beta=(1.0, 1.0))
    fit_denoiser(model, x, training, Stream(0), Accelerator(cpu=True))
    few, draws = data.views[1].select(torch.arange(40)), 60
    found = torch.stack([model.draw(few, 1, SAMPLER, Stream(k), torch.arange(40))[0] for k in range(draws)])
    share = 1 / (1 + HIDDEN**2)
    error = found.mean(0) - share * (few.y - LEVEL)
    assert float(error.square().mean().sqrt()) < 0.12  # of which the draws leave 0.07
    torch.testing.assert_close(float(found.var(0).mean().sqrt()), (HIDDEN**2 * share) ** 0.5, atol=0.06, rtol=0)


def with_blocks() -> tuple[MultiViewData, Tensor]:
    """`views`, and the same seen as averages of 3 × 3 pixels; and the target."""
    data, x = views(2000)
    coarse = BlockAverage(SHAPE, 3)
    shapes = coarse.observation_shape
    n, target = HIDDEN * normal(2000, *SHAPE) + LEVEL, normal(2000, *SHAPE)
    below = View(coarse.forward(n), (coarse, Zero(SHAPE, shapes)), Isotropic(0.1), "coarse background")
    both = View(coarse.forward(n.flip(0) + target), (coarse, coarse), Isotropic(0.1), "coarse")
    return MultiViewData((*data.views, below, both), data.source_shapes), x


def test_guesses_learn_the_posterior_mean_from_draws() -> None:
    """(y − level)/(1 + h²), of pixels and of blocks (see below), with one network."""
    data, x = with_blocks()
    torch.manual_seed(0)
    guess = Guess(Pixelwise(Guess.INPUTS, Guess.OUTPUTS))
    model = Amortised.of(Pixelwise(), data, 1, guess, anywhere=True)
    training = TrainingConfig(steps=800, batch=32, learning_rate=3e-3, final_learning_rate=1e-4)
    before = [p.clone() for p in model.network.parameters()]
    drowned = SamplerConfig("ddim", steps=1, sigma_start=1e4, sigma_min=1e4)  # the mean, which is the guess where F is zero
    for parameter in model.network.net[-1].parameters():
        parameter.data.zero_()
    model.learn_guess(x, training, Stream(0), Accelerator(cpu=True))
    assert all(torch.equal(a, b) for a, b in zip(before[:-2], list(model.network.parameters())[:-2], strict=True))
    assert not any(p.requires_grad for p in guess.parameters())
    for view in (data.views[1], data.views[3]):
        found, evaluations = model.draw(view, 1, drowned, Stream(0), torch.arange(len(view)))
        error = found - view.operators[1].pseudo_inverse(view.y - LEVEL) / (1 + HIDDEN**2)
        assert float(error.square().mean().sqrt()) < 0.08  # of pixels whose deviation is 1
        assert evaluations == 2


def test_a_model_without_a_guess_says_so_when_it_shall_learn_one() -> None:
    data, x = views(5)
    with pytest.raises(MvssError, match="no guess"):
        Amortised.of(Pixelwise(), data, 1).learn_guess(x, TrainingConfig(), Stream(0), Accelerator(cpu=True))


def test_draws_from_blocks_have_the_moments_of_the_posterior() -> None:
    """The same from averages of 3 × 3 pixels, beside the view at full resolution: one network for both. Given y = x̄ + n̄ of
    a block, n̄ of variance h²/9, its pixels have the mean (y − level)/(1 + h²) and the variance 1 − 1/(9 (1 + h²))."""
    data, x = with_blocks()
    assert pairs_of(data, 1) == [Pair(1, 0), Pair(3, 2)] and pairs_of(data, 0) == []
    torch.manual_seed(0)
    model = Amortised.of(Pixelwise(), data, 1)
    training = TrainingConfig(steps=3000, batch=32, learning_rate=3e-3, sigma_min=0.05, sigma_max=10.0, beta=(1.0, 1.0))
    fit_denoiser(model, x, training, Stream(0), Accelerator(cpu=True))
    for view, share, variance in (
        (data.views[1], 1 / (1 + HIDDEN**2), HIDDEN**2 / (1 + HIDDEN**2)),
        (data.views[3], 1 / (1 + HIDDEN**2), 1 - 1 / (9 * (1 + HIDDEN**2))),
    ):
        few = view.select(torch.arange(40))
        found = torch.stack([model.draw(few, 1, SAMPLER, Stream(k), torch.arange(40))[0] for k in range(60)])
        u = view.operators[1].pseudo_inverse(few.y - LEVEL)
        error = found.mean(0) - share * u
        assert (
            float(error.square().mean().sqrt()) < 0.2 * variance**0.5 + 0.03
        )  # of which the draws leave 0.13 of the deviation
        torch.testing.assert_close(float(found.var(0).mean().sqrt()), variance**0.5, atol=0.08, rtol=0)


def test_an_untrained_network_gives_the_guess_where_noise_drowns_x() -> None:
    data, _ = views(5)
    guess = Guess(ImageUNet(1, 9, Guess.INPUTS, (8,), 1, Guess.OUTPUTS))  # zero: half of what is seen
    torch.manual_seed(0)
    model = Amortised.of(ImageUNet(1, 9, INPUTS, (8,), 1, OUTPUTS), data, 1, guess, turns=True)
    view, index = data.views[1], torch.arange(5)
    drowned = SamplerConfig("ddim", steps=1, sigma_start=1e4, sigma_min=1e4)
    found, evaluations = model.draw(view, 1, drowned, Stream(0), index)
    half = 0.5 * (view.y - model.scenes[0].level)
    torch.testing.assert_close(found, half, atol=2e-3, rtol=0)
    assert evaluations == 8 + 1  # guesses over all turns
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
    data, _ = views(5)
    model = Amortised.of(Pixelwise(), data, 1)
    both = data.views[1]
    assert model.applies(both, 1)
    assert not model.applies(data.views[0], 1)  # which does not show it
    assert not model.applies(replace(both, operators=(Identity(SHAPE), Scale(0.5, SHAPE))), 1)
    assert not model.applies(replace(both, operators=(Zero(SHAPE, SHAPE), Identity(SHAPE))), 1)  # alone
    mask = Mask(torch.rand(5, *SHAPE, generator=RNG) > 0.2)
    assert model.applies(replace(both, operators=(mask, mask)), 1)
    coarse = BlockAverage(SHAPE, 3)
    assert not model.applies(View(coarse.forward(both.y), (coarse, coarse), Isotropic(0.1)), 1)


def trained(
    checkpoint: Path | None = None,
    stop: int | None = None,
    cpu: bool = True,
    closed: bool = False,
    **trainings: TrainingConfig,
) -> tuple[MultiViewData, SourceSeparationPipeline]:
    """Two laps of everything, far too short. stop: interrupt when lap `stop` has been recorded. closed: the background has no
    network. trainings: as of `run_em`."""
    data, x = views(12)
    torch.manual_seed(0)
    denoisers = [Denoiser(karras_base(81, 1.0), ImageUNet(1, 9, 2, (8,), 1, 2), SHAPE, 1.0, dynamic=True) for _ in range(2)]
    if closed:
        denoisers[0] = Denoiser(karras_base(81, 1.0), None, SHAPE, 1.0)
    guess = Guess(ImageUNet(1, 9, Guess.INPUTS, (8,), 1, Guess.OUTPUTS))
    model = Amortised.of(ImageUNet(1, 9, INPUTS, (8,), 1, OUTPUTS), data, 1, guess, anywhere=True)
    config = PosteriorConfig(
        SamplerConfig("ancestral", steps=2, sigma_start=0.1, sigma_min=0.05), amortised=replace(SAMPLER, steps=3)
    )
    training = TrainingConfig(steps=2, batch=4, sigma_min=0.05, sigma_max=10.0, turns=True)

    def on_lap(record: dict[str, Any], draws: Draws) -> None:
        if record["lap"] == stop:
            raise KeyboardInterrupt

    run_em(
        data,
        denoisers,
        [[data.views[0].y], [data.views[1].y - x, x]],
        [*([] if closed else [Stage((0,), 1)]), Stage((1,), 2)],
        training,
        config,
        Stream(1),
        Accelerator(cpu=cpu),
        checkpoint=checkpoint,
        on_lap=on_lap,
        amortised={1: model},
        **trainings,
    )
    return data, SourceSeparationPipeline(denoisers, config, {1: model})


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    state = RNG.get_state()
    data, whole = trained(guess_training=GUESSES)
    RNG.set_state(state)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "em.pt", stop=3, guess_training=GUESSES)
    RNG.set_state(state)
    _, resumed = trained(tmp_path / "em.pt", guess_training=GUESSES)
    a, b = (pipeline.posterior_sample(data.views[1], Stream(2)).draws for pipeline in (whole, resumed))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_source_without_a_network_goes_to_the_gpu_with_the_others() -> None:
    state, draws = RNG.get_state(), []
    for cpu in (True, False):
        RNG.set_state(state)
        data, pipeline = trained(cpu=cpu, closed=True)
        draws.append(pipeline.posterior_sample(data.views[1], Stream(2)).draws)
    for here, there in zip(*draws, strict=True):
        assert here.device == there.device and float((here - there).abs().max()) < 0.05


def test_posteriors_and_guesses_have_trainings_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of the trainings of two laps; the denoiser learns once, from the last draws but one."""
    steps: list[int] = []

    def counted(denoiser: torch.nn.Module, draws: Tensor, config: TrainingConfig, *rest: Any) -> Any:  # noqa: ANN401
        steps.append(config.steps)
        return fit_denoiser(denoiser, draws, config, *rest)

    for module in (mvss.em, mvss.posteriors.amortised):
        monkeypatch.setattr(module, "fit_denoiser", counted)
    usual = TrainingConfig(steps=2, batch=4)
    trained(closed=True, guess_training=replace(usual, steps=3), amortised_training=replace(usual, steps=5))
    assert steps == [3, 5, 3, 5, 2]


def test_a_network_for_posteriors_needs_their_noise_levels() -> None:
    data, x = views(4)
    denoisers = [Denoiser(karras_base(81, 1.0), None, SHAPE, 1.0) for _ in range(2)]
    model = Amortised.of(ImageUNet(1, 9, INPUTS, (8,), 1, OUTPUTS), data, 1)
    draws, stages = [[data.views[0].y], [data.views[1].y - x, x]], [Stage((1,), 1)]
    with pytest.raises(MvssError, match=r"posterior\.amortised"):
        run_em(
            data,
            denoisers,
            draws,
            stages,
            TrainingConfig(),
            PosteriorConfig(),
            Stream(0),
            Accelerator(cpu=True),
            amortised={1: model},
        )


def test_held_out_observations_do_not_end_laps_of_posteriors() -> None:
    data, x = views(4)
    denoisers = [Denoiser(karras_base(81, 1.0), None, SHAPE, 1.0) for _ in range(2)]
    model = Amortised.of(ImageUNet(1, 9, INPUTS, (8,), 1, OUTPUTS), data, 1)
    draws = [[data.views[0].y], [data.views[1].y - x, x]]
    config = PosteriorConfig(amortised=SAMPLER)
    with pytest.raises(MvssError, match="held-out observations judge priors"):
        run_em(
            data,
            denoisers,
            draws,
            [Stage((1,), 1)],
            TrainingConfig(),
            config,
            Stream(0),
            Accelerator(cpu=True),
            amortised={1: model},
            held_out=HeldOut(data, draws, config),
        )


def test_a_source_on_more_than_what_it_was_learned_on_is_not_drawn_first() -> None:
    """Of nested views, each with one source more, every posterior is for its own view alone."""
    here, none = Identity(SHAPE), Zero(SHAPE, SHAPE)
    operators = [(here, none, none), (here, here, none), (here, here, here)]
    nested = MultiViewData(
        tuple(View(normal(3, *SHAPE), o, Isotropic(0.1), str(n)) for n, o in enumerate(operators)), (SHAPE,) * 3
    )
    models = {beta: Amortised.of(Pixelwise(), nested, beta) for beta in (1, 2)}
    assert [[model.applies(view, beta) for view in nested.views] for beta, model in models.items()] == [
        [False, True, False],
        [False, False, True],
    ]


def test_what_hides_a_source_must_vary() -> None:
    data, _ = views(4)
    still = replace(data.views[0], y=torch.full_like(data.views[0].y, LEVEL))
    with pytest.raises(MvssError, match="both: what hides source 2 does not vary"):
        Amortised.of(Pixelwise(), MultiViewData((still, data.views[1]), data.source_shapes), 1)


def test_the_other_sources_are_drawn_given_what_is_left() -> None:
    """Sky and target add up to y within their noise, and the pipeline counts what both networks did."""
    data, pipeline = trained()
    found = pipeline.posterior_sample(data.views[1], Stream(2))
    left = data.views[1].y - found.draws[0] - found.draws[1]
    assert float(left.square().mean().sqrt()) < 0.3
    assert found.evaluations == 1 + 3 + 2
    again = pipeline.posterior_samples(data.views[1], Stream(3), 2)
    assert [x.shape for x in again] == [(2, 12, *SHAPE)] * 2
    assert not torch.equal(again[0][0], again[0][1])
    assert pipeline.prior_sample(1, 3, Stream(4)).shape == (3, *SHAPE)


def test_many_draws_share_one_guess() -> None:
    """They are those that single draws would be."""
    data, pipeline = trained(guess_training=GUESSES)
    guess, asked = pipeline.amortised[1].guess, []
    assert guess is not None
    handle = guess.register_forward_hook(lambda *_: asked.append(1))
    many = pipeline.posterior_samples(data.views[1], Stream(3), 3)
    assert len(asked) == 1
    handle.remove()
    for number in range(3):
        single = pipeline.posterior_sample(data.views[1], Stream(3).child(number)).draws
        assert all(torch.equal(x[number], one) for x, one in zip(many, single, strict=True))


def test_a_pipeline_that_is_read_back_draws_the_same(tmp_path: Path) -> None:
    data, pipeline = trained()
    pipeline.save_pretrained(tmp_path / "model")
    back = SourceSeparationPipeline.from_pretrained(tmp_path / "model")
    for a, b in zip(
        pipeline.posterior_sample(data.views[1], Stream(2)).draws,
        back.posterior_sample(data.views[1], Stream(2)).draws,
        strict=True,
    ):
        assert torch.equal(a, b)


def test_a_pipeline_moves_as_a_whole() -> None:
    _, pipeline = trained(guess_training=GUESSES)
    assert pipeline.to("meta") is pipeline
    places = [p.device.type for m in (*pipeline.denoisers, *pipeline.amortised.values()) for p in m.parameters()]
    assert set(places) == {"meta"} and pipeline.denoisers[0].mixture.means.device.type == "meta"


def test_a_model_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    _, pipeline = trained()
    pipeline.save_pretrained(tmp_path / "model")
    state = load_checkpoint(tmp_path / "model" / "amortised-2.pt")
    del state["guess"]
    save_checkpoint(tmp_path / "model" / "amortised-2.pt", state)
    with pytest.raises(MvssError, match="of another version") as error:
        SourceSeparationPipeline.from_pretrained(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_local_scale_is_the_larger_of_a_pixel_and_its_surroundings() -> None:
    y = torch.zeros(1, 1, 5, 5)
    y[0, 0, 2, 2] = 16.0
    s = local_scale(y, torch.ones_like(y), 0.5)
    expected = torch.tensor([16.0, 2.0, 1.0, 0.0])  # itself, beside, at a corner, far away
    torch.testing.assert_close(s[0, 0, (2, 2, 1, 0), (2, 1, 1, 0)], (expected**2 + 0.25).sqrt())
    assert abs(usual_size(torch.randn(100, 100, generator=torch.Generator().manual_seed(0)), torch.ones(100, 100)) - 1) < 0.03
