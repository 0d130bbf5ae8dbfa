"""Fits on small problems whose answer is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvss.estimation.evidence_gradient import ShiftDescent
from mvss.estimation.mixture_ascent import MixtureFit, ascend_evidence
from mvss.estimation.source_means import source_means
from mvss.presets.estimation import AscentConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.operators import Dense, Identity, Mask
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

NOISE = 0.05
GAUSSIAN = AscentConfig(components=(1,), steps=250, batch=512, starts=1, temperature=0.02)
QUICK = AscentConfig(components=(2, 4), steps=20, batch=64, starts=1)


def _view(sources: dict[str, Tensor], observed: int, rng: torch.Generator) -> View:
    """A view with a matrix per observation and source."""
    count = len(next(iter(sources.values())))
    y = NOISE * torch.randn(count, observed, generator=rng, dtype=torch.float64)
    operators = {}
    for name, x in sources.items():
        operators[name] = Dense(torch.randn(count, observed, x.shape[1], generator=rng, dtype=torch.float64))
        y = y + operators[name].forward(x)
    return View(y, operators, NOISE)


def _gaussian(count: int, root: Tensor, mean: Tensor, rng: torch.Generator) -> Tensor:
    return mean + torch.randn(count, len(mean), generator=rng, dtype=torch.float64) @ root.mT


@pytest.mark.parametrize("observed", [1, 2])
def test_one_gaussian_is_recovered_from_incomplete_data(observed: int) -> None:
    rng = torch.Generator().manual_seed(0)
    root = torch.tensor([[0.8, 0, 0], [0.3, 0.5, 0], [-0.2, 0.1, 0.4]], dtype=torch.float64)
    mean = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
    data = Views([_view({"x": _gaussian(4096, root, mean, rng)}, observed, rng)])
    prior = ascend_evidence(data, GAUSSIAN, Stream(0, ("fit",))).priors["x"]
    torch.testing.assert_close(prior.means[0], mean, atol=0.05, rtol=0)
    torch.testing.assert_close(prior.covariances[0], root @ root.mT, atol=0.08, rtol=0)


def _three_views() -> Views:
    """Two sources of 4 and 2 numbers in three views, of which one hides the second source."""
    rng = torch.Generator().manual_seed(1)
    roots = [0.6 * torch.eye(4, dtype=torch.float64), torch.tensor([[0.3, 0.0], [0.5, 0.2]], dtype=torch.float64)]
    means = [torch.full((4,), 0.4, dtype=torch.float64), torch.tensor([-0.5, 0.5], dtype=torch.float64)]

    def draw(beta: int) -> Tensor:
        return _gaussian(2048, roots[beta], means[beta], rng)

    return Views(
        [
            _view({"first": draw(0), "second": draw(1)}, 3, rng),
            _view({"first": draw(0)}, 2, rng),
            _view({"first": draw(0), "second": draw(1)}, 1, rng),
        ]
    )


def test_three_views_of_two_sources_of_different_size() -> None:
    fit = ascend_evidence(_three_views(), GAUSSIAN, Stream(0, ("fit",)))
    assert list(fit.priors) == ["first", "second"]
    first, second = fit.priors.values()
    torch.testing.assert_close(first.means[0], torch.full((4,), 0.4, dtype=torch.float64), atol=0.06, rtol=0)
    torch.testing.assert_close(second.means[0], torch.tensor([-0.5, 0.5], dtype=torch.float64), atol=0.06, rtol=0)
    expected = torch.tensor([[0.09, 0.15], [0.15, 0.29]], dtype=torch.float64)
    torch.testing.assert_close(second.covariances[0], expected, atol=0.08, rtol=0)
    assert abs(fit.held_out - fit.train) < 0.3
    assert fit.discarded == 0


def test_starts_are_compared_and_reported() -> None:
    config, seen = dataclasses.replace(QUICK, starts=2, trial=0.5), []
    fit = ascend_evidence(_three_views(), config, Stream(0, ("fit",)), progress=seen.append)
    assert len(fit.starts) == 2
    assert seen == [step / config.total_steps for step in range(1, config.total_steps + 1)]
    assert fit.phases[-1][0] == 4
    assert fit.held_out == pytest.approx(max(value for _, value in fit.phases))


@pytest.mark.parametrize("trial", [0.0, 0.5, 1.0])
def test_the_best_start_goes_on_however_long_the_trial(trial: float) -> None:
    config = dataclasses.replace(QUICK, starts=4, trial=trial, cooled=0.5)
    fit = ascend_evidence(_three_views(), config, Stream(1, ("fit",)))
    assert len(fit.starts) == 4 and all(map(math.isfinite, fit.starts))
    if trial == 1.0:
        assert fit.held_out == pytest.approx(max(fit.starts))


def _pairs(one: MixtureFit, other: MixtureFit) -> Iterator[tuple[GaussianMixture, GaussianMixture]]:
    assert list(one.priors) == list(other.priors)
    return zip(one.priors.values(), other.priors.values(), strict=True)


def test_a_fit_repeats_bit_for_bit() -> None:
    first, second = (ascend_evidence(_three_views(), QUICK, Stream(3, ("fit",))) for _ in range(2))
    assert all(torch.equal(a.means, b.means) for a, b in _pairs(first, second))


@pytest.mark.parametrize("after", [3, 12, 25])  # in the first start's trial, in the second's, in the chosen one's last phase
def test_an_interrupted_fit_goes_on_to_the_same_result(after: int, tmp_path: Path) -> None:
    config, checkpoint = (
        dataclasses.replace(QUICK, components=(2, 4, 4), starts=2, trial=0.4, cooled=0.5),
        tmp_path / "fit.safetensors",
    )
    whole, steps = ascend_evidence(_three_views(), config, Stream(3, ("fit",))), []

    def stop(done: float) -> None:
        if round(done * config.total_steps) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ascend_evidence(_three_views(), config, Stream(3, ("fit",)), progress=stop, checkpoint=checkpoint)
    fit = ascend_evidence(_three_views(), config, Stream(3, ("fit",)), progress=steps.append, checkpoint=checkpoint)
    steps = [round(done * config.total_steps) for done in steps]
    assert steps == list(range(steps[0], config.total_steps + 1))
    assert steps[0] <= after
    assert steps[0] > 1 or after < config.phase_steps(0).stop
    for a, b in _pairs(whole, fit):
        assert all(torch.equal(a.state()[key], b.state()[key]) for key in ("weights", "means", "factors"))
    assert (fit.held_out, fit.phases, fit.starts) == (whole.held_out, whole.phases, whole.starts)


def test_another_fit_does_not_go_on_from_it(tmp_path: Path) -> None:
    path, stream = tmp_path / "fit.safetensors", Stream(3, ("fit",))
    ascend_evidence(_three_views(), QUICK, stream, checkpoint=path)
    other = Views(View(view.y + 1e-9 * (number == 1), view.operators, view.noise) for number, view in enumerate(_three_views()))
    rate = dataclasses.replace(QUICK, learning_rate=0.9 * QUICK.learning_rate)
    for arguments, part in (((other, QUICK, stream), "data, noise or operators"), ((_three_views(), rate, stream), "settings")):
        with pytest.raises(MvssError, match=f"of a run with other {part}: take another folder"):
            ascend_evidence(*arguments, checkpoint=path)
    with pytest.raises(MvssError, match="of a run with another seed:"):
        ascend_evidence(_three_views(), QUICK, stream.child("x"), checkpoint=path)


def _two_sources(offset: float, noise: float = 0.1, placeholder: float | None = None) -> Views:
    """A background alone and with a target of two lumps, of means (1, .3) and (-2, -.6) times the offset; with a placeholder
    a tenth of the numbers was not measured, and their noise is nothing that anyone has measured either."""
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    lumps = draw(600, 1).sign() * torch.tensor([1.0, 0.5]) + 0.2 * draw(600, 2)
    shift, background, eta = offset * torch.tensor([1.0, 0.3]), draw(2, 600, 2) * torch.tensor([1.0, 0.7]), draw(2, 600, 2)
    seen = torch.rand(2, 600, 2, generator=rng) > (0.0 if placeholder is None else 0.1)
    seen[..., 0] = True
    y = torch.stack([background[0] + shift, background[1] + lumps - shift]) + noise * eta
    y, sigma = (
        (y, torch.full_like(y, noise)) if placeholder is None else (y.where(seen, placeholder), noise * seen + 1e-6 * ~seen)
    )
    operators = [Mask(each) @ Identity((2,)) for each in seen] if placeholder is not None else [Identity((2,))] * 2
    return Views([View(y[0], {"b": operators[0]}, sigma[0]), View(y[1], dict.fromkeys("bt", operators[1]), sigma[1])])


def test_an_offset_of_the_sources_changes_their_means_alone() -> None:
    """Up to where adding it rounds the data; a small one is found on the way, as it always was."""
    config = AscentConfig(components=(4,), steps=300, starts=1)
    here, far, farther = (ascend_evidence(_two_sources(offset), config, Stream(0)) for offset in (0.0, 20.0, 2000.0))
    assert here.held_out == pytest.approx(far.held_out, abs=0.03) and far.held_out == pytest.approx(farther.held_out, abs=1e-6)
    for source, sign in (("b", 1.0), ("t", -2.0)):
        one, other = far.priors[source], farther.priors[source]
        moved = sign * 1980.0 * torch.tensor([1.0, 0.3], dtype=torch.float64)
        torch.testing.assert_close(other.means, one.means + moved, atol=1e-5, rtol=0)
        torch.testing.assert_close(other.covariances, one.covariances, atol=1e-5, rtol=1e-5)
        assert one.spread == pytest.approx(here.priors[source].spread, rel=0.03)


def test_noise_of_numbers_that_were_not_measured_is_not_read() -> None:
    """The floor of the components is a share of the least noise that counts."""
    config = AscentConfig(components=(1,), steps=20, starts=1)
    found = [ascend_evidence(_two_sources(0.0, placeholder=y), config, Stream(0)).priors["b"] for y in (0.0, -9999.0)]
    assert found[0].floor == found[1].floor == pytest.approx(config.floor * 0.1)
    assert torch.equal(found[0].means, found[1].means)


def test_means_by_least_squares() -> None:
    """Exact where there is no noise; nothing where no view shows a direction; the share that they explain."""
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(50, 2, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    x, z = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, 4.0]], dtype=torch.float64)
    flat = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    views = Views([View(a @ x + b @ z, {"x": a, "z": b}, 0.1), View((flat @ x).expand(20, 3), {"x": flat}, 0.1)])
    means, share = source_means(views)
    torch.testing.assert_close(means["x"], x, atol=1e-4, rtol=0)
    torch.testing.assert_close(means["z"], z, atol=1e-4, rtol=0)
    assert share == pytest.approx(1.0, abs=1e-8)
    alone, _ = source_means(Views([views[1]]))
    torch.testing.assert_close(alone["x"], flat @ x, atol=1e-6, rtol=0)
    assert source_means(Views([View(torch.zeros(5, 3), {"x": flat}, 0.1)]))[1] == 0.0


@pytest.mark.parametrize("rate", [1e3, 1e10])
def test_a_fit_that_ends_in_finite_garbage_is_refused(rate: float) -> None:
    rng = torch.Generator().manual_seed(0)
    view = View(torch.randn(64, 2, generator=rng).double(), {"x": Identity((2,))}, 0.1)
    config = AscentConfig(components=(1,), steps=20, starts=1, learning_rate=rate)
    with pytest.raises(MvssError, match=r"ended below where it began|diverged"):
        ascend_evidence(Views([view]), config, Stream(0))


def test_divergence_is_one_clear_line() -> None:
    config = dataclasses.replace(QUICK, learning_rate=1e160, final_learning_rate=1e160)
    with pytest.raises(MvssError, match="learning_rate"):
        ascend_evidence(_three_views(), config, Stream(0, ("fit",)))


@pytest.mark.parametrize("wrong", [{"components": ()}, {"floor": 0.0}, {"starts": 0}, {"held_out": 1.0}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(MvssError, match="estimation"):
        dataclasses.replace(QUICK, **wrong)


def test_natural_shift_follows_a_sloppy_direction() -> None:
    """Two numbers seen as (a + 0.9 b, 0.9 a + b) plus noise: the error along (1, −1) vanishes as fast as the other."""
    rng = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    error = torch.tensor([1.0, -1.0], dtype=torch.float64)
    shift = ShiftDescent(rate=0.1)
    for _ in range(200):
        noise = torch.randn(256, 2, generator=rng, dtype=torch.float64)
        error = error + shift.step((noise - error @ mix.mT) @ mix)
    assert float(error.norm()) < 3 * math.sqrt(0.05 / 256) / 0.1
