"""The M-step against closed forms, and against itself on another number of processes."""

from __future__ import annotations

import gc
import math
import sys
import weakref
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from processes import launch
from torch import Tensor, nn

from mvss.presets.training import TrainingConfig
from mvss.priors.networks import TimeMLP
from mvss.priors.training import denoising_loss, fit_denoiser, learning_rate, noise_levels
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

STREAM = Stream(0, ("m-step", 1))


class Toy(nn.Module):
    """Unweighted squared error of whatever forward says."""

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None) -> Tensor:
        level = sigma.reshape(-1, *[1] * (x.ndim - 1))
        error = (self(x + level * noise, sigma) - x).square().flatten(1).mean(1)
        return (error if weights is None else weights * error).mean()


class Linear(Toy):
    """d(x, σ) = a x + b, the form of the optimal denoiser of a Gaussian at a fixed σ."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.frozen * (self.a * x + self.b)


class Perceptron(Toy):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = TimeMLP(3, hidden=(16, 16), embedding=8)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma[:, None] ** 2) + self.network(x, sigma.log())


class Broken(Linear):
    calls = 0

    def loss(self, *args: Tensor | None) -> Tensor:
        self.calls += self.training
        return super().loss(*args) * (math.nan if self.calls == 3 and self.training else 1)  # type: ignore[arg-type]


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def gaussian(n: int = 4096, mean: float = 1.0, scale: float = 2.0) -> Tensor:
    """Draws of N(mean, scale² I) in R^3, standardised so that the sample's own moments are these."""
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return mean + scale * (z - z.mean()) / z.std(correction=0)


def fixed_level(sigma: float = 1.5, **options: object) -> TrainingConfig:
    defaults = {"steps": 400, "batch": 256, "learning_rate": 0.1, "final_learning_rate": 1e-3}
    return TrainingConfig(**(defaults | {"sigma_min": sigma, "sigma_max": sigma} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("ema_decay", [0.0, 0.99])
def test_linear_denoiser_of_a_gaussian(accelerator: Accelerator, ema_decay: float) -> None:
    mean, scale, sigma = 1.0, 2.0, 1.5
    model = Linear()
    config = fixed_level(sigma, ema_decay=ema_decay)
    loss = fit_denoiser(model, gaussian(), config, STREAM, accelerator)
    a = scale**2 / (scale**2 + sigma**2)
    assert model.a.item() == pytest.approx(a, abs=0.01)
    assert model.b.item() == pytest.approx((1 - a) * mean, abs=0.03)
    assert model.frozen.item() == 1 and model.training
    assert [step for step, _ in loss] == [100, 200, 300, 400]
    assert loss[-1][1] == pytest.approx(a * sigma**2, rel=0.03)
    assert denoising_loss(model, gaussian(), config, STREAM) == pytest.approx(a * sigma**2, rel=0.03)


def test_moving_average_moves_and_lags(accelerator: Accelerator) -> None:
    # On the way from 0 to its optimum the average is behind the weights, but no longer where it started.
    weights = {}
    for decay in (0.0, 0.999):
        model = Linear()
        fit_denoiser(model, gaussian(), fixed_level(steps=50, learning_rate=0.01, ema_decay=decay), STREAM, accelerator)
        weights[decay] = model.a.item()
    assert 0.3 * weights[0.0] < weights[0.999] < 0.97 * weights[0.0]


def test_network_learns_to_denoise_two_points(accelerator: Accelerator) -> None:
    draws = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]).repeat(256, 1)
    config = TrainingConfig(steps=150, batch=128, learning_rate=1e-2, sigma_min=0.2, sigma_max=2.0)
    model = Perceptron()
    before = denoising_loss(model, draws, config, STREAM)
    fit_denoiser(model, draws, config, STREAM, accelerator)
    assert denoising_loss(model, draws, config, STREAM) < 0.5 * before


def test_same_stream_same_weights_and_the_global_generator_is_left_alone(accelerator: Accelerator) -> None:
    def train(stream: Stream) -> float:
        model = Linear()
        fit_denoiser(model, gaussian(), fixed_level(steps=20), stream, accelerator)
        return model.a.item()

    state = torch.get_rng_state()
    first = train(STREAM)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    assert train(STREAM) == first != train(STREAM.child("other"))


def test_the_last_block_of_steps_may_be_shorter(accelerator: Accelerator) -> None:
    assert [step for step, _ in fit_denoiser(Linear(), gaussian(), fixed_level(steps=150), STREAM, accelerator)] == [100, 150]


def test_accelerator_forgets_the_lap(accelerator: Accelerator) -> None:
    model = Linear()
    fit_denoiser(model, gaussian(), fixed_level(steps=2), STREAM, accelerator)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_held_out_loss_is_the_same_whatever_the_batch() -> None:
    model, draws = Perceptron().double(), gaussian(300)
    losses = [denoising_loss(model, draws, TrainingConfig(batch=batch), STREAM) for batch in (300, 7)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0] == denoising_loss(model, draws, TrainingConfig(batch=300), STREAM)
    assert losses[0] != denoising_loss(model, draws, TrainingConfig(batch=300), STREAM.child("other"))
    assert model.training


def test_noise_levels_follow_the_beta_law() -> None:
    config = TrainingConfig(sigma_min=1e-2, sigma_max=1e2)
    t = (noise_levels(config) / 1e-2).log() / math.log(1e4)
    assert t.min() > 0 and t.max() < 1
    assert t.mean().item() == pytest.approx(1 / 2, abs=1e-4)
    assert t.var().item() == pytest.approx(1 / 28, rel=1e-3)  # a b / ((a + b)² (a + b + 1))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_learning_rate(schedule: str) -> None:
    config = TrainingConfig(steps=101, learning_rate=1.0, final_learning_rate=0.2, schedule=schedule)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == 1 and rates[50] == pytest.approx(0.6) and rates[100] == pytest.approx(0.2)
    assert rates[25] == pytest.approx(0.8 if schedule == "linear" else 0.6 + 0.4 * math.cos(math.pi / 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch": 0}, "batch=0"),
        ({"learning_rate": 0.0}, "positive learning_rate"),
        ({"learning_rate": math.nan}, "positive learning_rate"),
        ({"final_learning_rate": 1.0}, "final_learning_rate"),
        ({"schedule": "step"}, "linear and cosine"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"gradient_clip": 0.0}, "gradient_clip"),
        ({"sigma_min": 0.0}, "noise of zero"),
        ({"sigma_max": 1e-4}, "sigma_max"),
        ({"beta": (3.0, 0.0)}, "beta"),
        ({"warmup": -1}, "warmup"),
        ({"decay": 1.0}, "decay"),
        ({"shifts": -1}, "shifts"),
        ({"holes": 1.0}, "holes"),
    ],
)
def test_bad_settings_are_refused_in_one_line(options: dict, words: str) -> None:
    with pytest.raises(MvssError, match=words) as error:
        TrainingConfig(**options)
    assert "\n" not in str(error.value)


def test_bad_draws_and_denoisers_are_refused(accelerator: Accelerator) -> None:
    bad = gaussian()
    bad[3, 1] = math.nan
    for draws in (bad, bad[:0]):
        with pytest.raises(MvssError, match="draws"):
            fit_denoiser(Linear(), draws, fixed_level(), STREAM, accelerator)
        with pytest.raises(MvssError, match="draws"):
            denoising_loss(Linear(), draws, fixed_level(), STREAM)
    with pytest.raises(MvssError, match="no trainable parameter"):
        fit_denoiser(Linear().requires_grad_(False), gaussian(), fixed_level(), STREAM, accelerator)
    with pytest.raises(MvssError, match=r"step 3.*smaller learning rate"):
        fit_denoiser(Broken(), gaussian(), fixed_level(), STREAM, accelerator)


def two_laps(accelerator: Accelerator) -> dict[str, Tensor]:
    """Weights after two M-steps; the odd batch does not split evenly over two processes."""
    model = Perceptron().double()  # in float64 rounding cannot hide a wrong share of the batch
    config = TrainingConfig(steps=30, batch=33, ema_decay=0.9, sigma_min=0.1, sigma_max=2.0)
    for lap in (1, 2):
        fit_denoiser(model, gaussian(100), config, STREAM.child(lap), accelerator)
    return {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("rate", [10.0, 1e10, 1e30])
def test_a_learning_rate_that_ends_in_garbage_is_refused(rate: float, accelerator: Accelerator) -> None:
    config = TrainingConfig(steps=20, batch=64, learning_rate=rate, sigma_min=0.1, sigma_max=3.0)
    with pytest.raises(MvssError, match="smaller learning rate") as caught:
        fit_denoiser(Perceptron(), gaussian(), config, STREAM, accelerator)
    assert "\n" not in str(caught.value)


def test_training_that_hardly_moves_is_no_garbage(accelerator: Accelerator) -> None:
    """Nor is a lap that goes on from a trained network on few draws, whose loss cannot fall any more."""
    model = Perceptron()
    for rate, draws in ((1e-12, gaussian()), (1e-2, gaussian()), (1e-2, gaussian(5))):
        config = TrainingConfig(steps=40, batch=16, learning_rate=rate, final_learning_rate=0.0, sigma_min=0.1, sigma_max=3.0)
        fit_denoiser(model, draws, config, STREAM, accelerator)


def test_an_interrupted_training_leaves_modes_and_the_generator_as_they_were(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        torch.rand(1)
        raise KeyboardInterrupt

    model = Perceptron().eval()
    model.network.train()
    modes, state = [m.training for m in model.modules()], torch.random.get_rng_state()
    monkeypatch.setattr("mvss.priors.training._descend", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit_denoiser(model, gaussian(), fixed_level(), STREAM, accelerator)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state) and not accelerator._optimizers


def test_a_loss_that_draws_from_the_global_generator_is_keyed() -> None:
    class Drawing(Linear):
        def loss(self, x: Tensor, *_: Tensor | None) -> Tensor:
            return torch.rand(1).sum() + 0 * self.a

    config, found = fixed_level(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(denoising_loss(Drawing(), gaussian(8), config, STREAM))
    assert found[0] == found[1]


@pytest.mark.slow  # of which nearly all is starting them
def test_two_processes_give_the_weights_of_one(accelerator: Accelerator, tmp_path: Path) -> None:
    launch(__file__, tmp_path / "weights.pt")
    processes, weights = torch.load(tmp_path / "weights.pt")
    assert processes == 2
    torch.testing.assert_close(weights, two_laps(accelerator), rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    launched = Accelerator()
    trained = two_laps(launched)
    if launched.is_main_process:
        torch.save((launched.num_processes, trained), sys.argv[1])
    launched.end_training()


@pytest.mark.parametrize("shape", [(5,), (1, 4, 6)])
def test_only_square_images_are_turned(shape: tuple[int, ...]) -> None:
    with pytest.raises(MvssError, match="square images"):
        fit_denoiser(Toy(), torch.zeros(8, *shape), TrainingConfig(steps=1, turns=True), STREAM, Accelerator(cpu=True))


def test_only_images_are_shifted() -> None:
    with pytest.raises(MvssError, match="shifts is for images"):
        fit_denoiser(Toy(), torch.zeros(8, 5), TrainingConfig(steps=1, shifts=1), STREAM, Accelerator(cpu=True))


def test_the_rate_rises_first_where_it_is_told_to() -> None:
    config = TrainingConfig(steps=100, learning_rate=1.0, final_learning_rate=0.0, warmup=10)
    plain = TrainingConfig(steps=100, learning_rate=1.0, final_learning_rate=0.0)
    assert [learning_rate(s, config) / learning_rate(s, plain) for s in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


def test_shifted_draws_are_moved_by_so_many_pixels_at_most() -> None:
    """One bright pixel in the middle: where the loss has seen it."""
    image, places = torch.zeros(1, 1, 9, 9), set()
    image[0, 0, 4, 4] = 1.0

    class Watch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None) -> Tensor:
            places.update((row, column) for _, _, row, column in x.nonzero().tolist())
            return self.weight * x.sum()

    fit_denoiser(Watch(), image, TrainingConfig(steps=8, batch=64, shifts=2), Stream(0), Accelerator(cpu=True))
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
