"""The door: fits that are interrupted, new views, units, what a folder gives back, and the report."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import math
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_separators import VECTORS, Problem, images, vectors
from torch import Tensor

from mvss import (
    AscentConfig,
    AutoConfig,
    Dense,
    ExactConfig,
    Identity,
    Isotropic,
    Mask,
    MvssError,
    PriorConfig,
    Settings,
    SourceSeparator,
    SplitGibbsConfig,
    View,
)
from mvss.estimation import estimate_sources
from mvss.metrics.fit_report import LapReport, ViewReport
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.views import Views
from mvss.runtime import memory
from mvss.runtime.rng import Stream
from mvss.separator import FitEvent

PROBLEMS = {"vectors": vectors, "images": images}


class Killed(Exception):
    pass


def fit(problem: Problem, **options: object) -> SourceSeparator:
    return SourceSeparator(problem.settings).fit(problem.views, verbose=False, **options)


@pytest.fixture(scope="module")
def fitted() -> dict[str, tuple[Problem, SourceSeparator]]:
    return {name: (problem(), fit(problem())) for name, problem in PROBLEMS.items()}


Fitted = dict[str, tuple[Problem, SourceSeparator]]


@pytest.fixture(scope="module")
def expected(fitted: Fitted) -> dict[str, tuple[object, Tensor]]:
    return {name: results(*parts) for name, parts in fitted.items()}


Expected = dict[str, tuple[object, Tensor]]


def same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def undone(value: object, scale: float) -> object:
    """In units of one; powers of two round nothing."""
    if isinstance(value, Tensor):
        return value / scale
    return {k: undone(v, scale) for k, v in value.items()} if isinstance(value, dict) else [undone(v, scale) for v in value]


def results(problem: Problem, model: SourceSeparator) -> tuple[object, Tensor]:
    """All that has the units of the sources, and log densities."""
    drawn = [model.separate(view, 2, seed=5) for view in problem.views]
    sampled = {source: model.sample(source, 4, seed=3) for source in model.sources}
    return [model.draws, drawn, sampled], model.log_prob(problem.source, problem.x, problem.sigma)


@pytest.mark.parametrize(
    ("name", "lap"), [("vectors", 1), ("vectors", 2), pytest.param("images", 1, marks=pytest.mark.slow), ("images", 2)]
)
def test_an_interrupted_fit_goes_on_as_if_it_had_not_been(
    name: str, lap: int, fitted: Fitted, expected: Expected, tmp_path: Path
) -> None:
    problem, whole = fitted[name]

    def kill(event: FitEvent) -> None:
        if event.lap is not None and event.lap.number == lap:
            raise Killed

    with pytest.raises(Killed):
        fit(problem, checkpoint=tmp_path, callback=kill)
    resumed = fit(problem, checkpoint=tmp_path)
    same(results(problem, resumed), expected[name])
    again = fit(problem, checkpoint=tmp_path)  # nothing is left to do
    same(again.draws, whole.draws)


def test_what_the_generator_of_torch_holds_decides_nothing(fitted: Fitted, expected: Expected) -> None:
    problem, model = fitted["images"]  # networks, guesses and made observations
    torch.manual_seed(17)
    state = torch.random.get_rng_state()
    again = fit(problem)
    same(results(problem, again), expected["images"])
    assert [lap.held_out for lap in again.report.laps] == [lap.held_out for lap in model.report.laps]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_checkpoint_serves_one_fit_at_a_time_and_no_other(fitted: Fitted, tmp_path: Path) -> None:
    problem, _ = fitted["vectors"]

    def second(event: FitEvent) -> None:
        with pytest.raises(MvssError, match=f"{tmp_path.name} is in use by process"):
            fit(problem, checkpoint=tmp_path)
        raise Killed

    with pytest.raises(Killed):
        fit(problem, checkpoint=tmp_path, callback=second)
    assert not (tmp_path / "lock").exists()
    estimate = estimate_sources(Views(problem.views), problem.settings.estimation, Stream(0))
    model = fit(problem, checkpoint=tmp_path, estimate=estimate)
    assert [path.name for path in tmp_path.iterdir()] == ["em.safetensors"]
    more = replace(problem.settings, em=replace(problem.settings.em, laps=3))
    refused = {
        "data": lambda: fit(replace(problem, views=vectors(1.5).views), checkpoint=tmp_path, estimate=estimate),
        "settings": lambda: fit(replace(problem, settings=more), checkpoint=tmp_path, estimate=estimate),
        "first priors, and another seed": lambda: fit(problem, checkpoint=tmp_path, estimate=estimate, seed=1),
    }
    for part, call in refused.items():
        with pytest.raises(MvssError, match=part) as caught:
            call()
        assert "\n" not in str(caught.value)
    same(fit(problem, checkpoint=tmp_path, estimate=estimate).draws, model.draws)


def test_what_has_half_learned_does_not_separate(fitted: Fitted) -> None:
    problem, _ = fitted["vectors"]
    model = SourceSeparator(problem.settings)

    def kill(event: FitEvent) -> None:
        if event.phase == "laps":
            raise Killed

    with pytest.raises(Killed):
        model.fit(problem.views, callback=kill, verbose=False)
    for where in (model, model.to("cpu")):
        with pytest.raises(MvssError, match="call fit first"):
            where.separate(problem.views[0])


def test_a_fit_that_is_refused_leaves_the_one_before(fitted: Fitted) -> None:
    problem, model = fitted["vectors"]
    before = model.separate(problem.views[-1], seed=3)
    with pytest.raises(MvssError):
        model.fit(problem.views[0], verbose=False)  # type: ignore[arg-type]
    same(model.separate(problem.views[-1], seed=3), before)


def test_a_fit_that_cannot_begin_leaves_the_one_before_with_its_settings(fitted: Fitted, tmp_path: Path) -> None:
    """Those suit its data: of other data, of less noise, they are others."""
    problem, model = fitted["vectors"]
    before = model.separate(problem.views[-1], seed=3, posterior="moment_matching")
    sharp = [View(view.y, view.operators, 1e-4, view.name) for view in problem.views]
    known = estimate_sources(Views(problem.views), problem.settings.estimation, Stream(0))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("mvss.separator.build_amortised", killed)
        model.fit(sharp, estimate=known, verbose=False)
    same(model.separate(problem.views[-1], seed=3, posterior="moment_matching"), before)
    model.save_pretrained(tmp_path)
    assert SourceSeparator.from_pretrained(tmp_path).settings == problem.settings


def killed(*_: object, **__: object) -> NoReturn:
    raise Killed


def test_the_first_draws_of_a_fit_are_made_where_its_networks_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the networks correct no mixture, but Karras' base."""
    problem, places = vectors(), dict[str, object]()
    settings = replace(problem.settings, prior=replace(problem.settings.prior, base="karras"))

    def look(_: Views, mixtures: dict[str, GaussianMixture], *rest: object) -> NoReturn:
        places.update({source: mixture.means.device for source, mixture in mixtures.items()}, draws=rest[3])
        raise Killed

    monkeypatch.setattr("mvss.separator.default_accelerator", lambda: SimpleNamespace(device="meta", is_main_process=True))
    monkeypatch.setattr("mvss.separator.first_draws", look)
    with pytest.raises(Killed):
        SourceSeparator(settings).fit(problem.views, verbose=False)
    assert places == dict.fromkeys(("a", "b", "draws"), torch.device("meta"))


def test_a_fit_takes_views_from_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the CPU, where the mixtures are that it compares them with."""
    problem, moved = vectors(), list[tuple[str, str]]()

    def move(view: View, device: str) -> View:
        moved.append((view.name, device))
        return view

    monkeypatch.setattr(View, "to", move)
    monkeypatch.setattr("mvss.separator.estimate_sources", killed)
    with pytest.raises(Killed):
        fit(problem)
    assert moved == [("first", "cpu"), ("both", "cpu")]


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("vectors", 2.0**-27),
        ("vectors", 2.0**20),
        ("images", 2.0**-27),
        pytest.param("images", 2.0**20, marks=pytest.mark.slow),
    ],
)
def test_units_change_nothing(name: str, scale: float, fitted: Fitted, expected: Expected) -> None:
    """Fit, separate and sample, bit for bit, once the scale is undone; log densities but for the rounding of its logarithm."""
    problem, model = fitted[name]
    other = PROBLEMS[name](scale)
    scaled = fit(other)
    (draws, density), (found, scaled_density) = expected[name], results(other, scaled)
    same(undone(found, scale), draws)
    numbers = problem.x[0].numel()
    torch.testing.assert_close(scaled_density + numbers * math.log(scale), density, rtol=0, atol=1e-9)
    assert scaled.report.warnings == model.report.warnings and scaled.report.evidence == model.report.evidence


def test_vectors_may_have_any_shape() -> None:
    """Such as two channels, of which each observation misses some numbers."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 40, 2, 3, generator=rng)
    here = Mask(torch.rand(40, 2, 3, generator=rng) > 0.3) @ Identity((2, 3))
    y = here.forward(x[0]), here.forward(x[0] + x[1])
    views = [View(y[0], {"a": here}, 0.1, "alone"), View(y[1], {"a": here, "b": here}, 0.1, "both")]
    estimation = AscentConfig(components=(1, 2), steps=20, batch=16, starts=1)
    model = SourceSeparator(replace(VECTORS, estimation=estimation)).fit(views, verbose=False)
    assert model.separate(views[1], draws=2)["b"].shape == (2, 40, 2, 3)
    prior = model.sample("b", 4)
    assert prior.shape == (4, 2, 3) and model.log_prob("b", prior).shape == (4,)


def test_a_bright_target_has_its_posterior_learned(fitted: Fitted) -> None:
    _, model = fitted["images"]
    assert list(model.amortised) == ["target"]
    assert "posterior of target" in model.report.laps[-1].held_out or not model.report.laps[-1].held_out


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_saved_model_gives_identical_draws_and_densities(
    name: str, fitted: Fitted, expected: Expected, tmp_path: Path
) -> None:
    problem, model = fitted[name]
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)  # over what is there
    again = SourceSeparator.from_pretrained(str(tmp_path))
    assert again.settings == model.settings and again.sources == model.sources and again.units == model.units
    again.draws = model.draws
    same(results(problem, again), expected[name])
    assert again.report is None


def test_another_view_is_separated(fitted: Fitted) -> None:
    """Other operators, noise and number of observations, in any order: each row by its number, whatever others are with it."""
    _, model = fitted["vectors"]
    rng = torch.Generator().manual_seed(7)
    operators = {
        "b": torch.randn(1, 2, generator=rng, dtype=torch.float64),
        "a": torch.randn(9, 1, 3, generator=rng, dtype=torch.float64),
    }
    view = View(torch.randn(9, 1, generator=rng), operators, torch.linspace(0.1, 0.9, 9), "new")
    whole = model.separate(view, 3)
    assert {source: x.shape for source, x in whole.items()} == {"b": (3, 9, 2), "a": (3, 9, 3)}
    rows = torch.tensor([8, 0, 5, 2])
    torch.testing.assert_close(model.separate(view.select(rows), 3), {s: x[:, rows] for s, x in whole.items()})
    one = model.separate(view.select(slice(4, 5)), 3)
    torch.testing.assert_close(one, {s: x[:, 4:5] for s, x in whole.items()})
    assert not torch.allclose(model.separate(view, 3, seed=1)["a"], whole["a"])
    alone = model.separate(View(view.y, {"b": operators["b"]}, 0.1))
    assert list(alone) == ["b"]


def test_another_posterior_separates_by_the_same_priors(fitted: Fitted, tmp_path: Path) -> None:
    problem, model = fitted["images"]
    view = problem.views[1].select(slice(0, 6))
    split = model.separate(view, 2, posterior="split_gibbs")
    torch.testing.assert_close(model.separating_by(SplitGibbsConfig()).separate(view, 2), split)
    assert not torch.allclose(split["target"], model.separate(view, 2)["target"])
    for auto in ("auto", AutoConfig()):  # nothing was compared in this fit
        with pytest.raises(MvssError, match=r"needs a fit with separation: \{kind: auto\} .*ask for exact, .*amortised$"):
            model.separate(view, posterior=auto)
    model.separating_by("split_gibbs").save_pretrained(tmp_path)
    torch.testing.assert_close(SourceSeparator.from_pretrained(tmp_path).separate(view, 2), split)
    with pytest.raises(MvssError, match="'splitgibbs' is unknown; there are exact, "):
        model.separate(view, posterior="splitgibbs")


def test_a_source_of_another_fit_is_separated_like_its_own(fitted: Fitted, tmp_path: Path) -> None:
    _, model = fitted["vectors"]
    both = model.with_source("c", model, "b")
    assert both.sources == ("a", "b", "c") and model.sources == ("a", "b")
    assert torch.equal(both.sample("c", 5, Stream(0)), model.sample("b", 5, Stream(0)))
    rng = torch.Generator().manual_seed(3)
    a, b = torch.randn(1, 3, generator=rng, dtype=torch.float64), torch.randn(1, 2, generator=rng, dtype=torch.float64)
    y = torch.randn(9, 1, generator=rng)
    own, other = (model.separate(View(y, {"a": a, "b": b}, 0.3)), both.separate(View(y, {"a": a, "c": b}, 0.3)))
    torch.testing.assert_close([*other.values()], [*own.values()])
    twice = both.separate(View(y, {"b": b, "c": b}, 0.3))
    assert not torch.allclose(twice["b"], twice["c"])
    both.save_pretrained(tmp_path)
    assert torch.equal(SourceSeparator.from_pretrained(tmp_path).sample("c", 5), both.sample("c", 5))
    with pytest.raises(MvssError, match="no source 'd'"):
        model.with_source("c", model, "d")


@pytest.mark.parametrize("stratified", [False, True])
def test_prior_draws_of_two_sources_are_independent_at_one_seed(stratified: bool, fitted: Fitted) -> None:
    """Also of two of one law, whose draws were the same once."""
    _, model = fitted["vectors"]
    twins = model.with_source("c", model, "b")
    first, second, again = (twins.sample(source, 2000, 3, stratified) for source in ("b", "c", "b"))
    assert torch.equal(first, again)
    assert float(torch.corrcoef(torch.cat([first, second], dim=1).mT)[:2, 2:].abs().max()) < 0.1


def test_a_fit_says_which_posterior_it_has_chosen() -> None:
    problem = images()
    settings = replace(problem.settings, separation=AutoConfig(split=SplitGibbsConfig(levels=2, steps=1), draws=2))
    told: list[tuple[str, float]] = []
    model = SourceSeparator(settings).fit(
        problem.views, callback=lambda event: told.append((event.phase, event.done)), verbose=False
    )
    assert list(dict(told)) == ["first priors", "first draws", "laps", "choice", "last draws"]
    assert [done for phase, done in told if phase == "choice"] == [0.0, 1.0]
    taken = "amortised" if model.amortised["target"].preferred else "split Gibbs"
    assert len(model.report.chosen) == 1
    assert f"posterior of target: {taken} in the views that its network has learned" in str(model.report)
    view = problem.views[1].select(slice(0, 6))
    torch.testing.assert_close(model.separate(view, posterior="auto"), model.separate(view))


@pytest.mark.parametrize(("share", "first"), [(0.25, (5, 4)), (0.03, (0, 0))])
def test_the_first_guess_learns_from_no_observation_that_is_held_out(
    share: float, first: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those are the first of each view, by which auto chooses; of few there are none."""
    problem, learned = images(), list[Tensor]()
    settings = replace(problem.settings, separation=AutoConfig(), em=replace(problem.settings.em, held_out=share))

    def stop(more: torch.nn.Module, seen: Tensor, *_: object) -> None:
        learned.extend([more.pair.backgrounds[:, 0], seen[:, 0]])
        raise Killed

    monkeypatch.setattr("mvss.estimation.noisier2noise.fit_denoiser", stop)
    with pytest.raises(Killed):
        SourceSeparator(settings).fit(problem.views, verbose=False)
    for found, view, count in zip(learned, problem.views, first, strict=True):
        found, seen = (x.double() - x[:1].double() for x in (found, view.y[count:]))  # a level was taken off
        torch.testing.assert_close(found * (seen.norm() / found.norm()), seen, rtol=1e-5, atol=1e-5)


def test_images_are_drawn_by_their_numbers(fitted: Fitted) -> None:
    problem, model = fitted["images"]
    rows = torch.tensor([11, 3, 7])
    whole, part = model.separate(problem.views[1]), model.separate(problem.views[1].select(rows))
    torch.testing.assert_close(part, {s: x[:, rows] for s, x in whole.items()}, rtol=1e-4, atol=1e-4)


def test_more_draws_than_matrices_would_fit_are_made(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.copy(fitted["vectors"][1])
    factors = torch.eye(300, dtype=torch.float64)[None]
    model.priors = {**model.priors, "b": GaussianMixture(torch.ones(1), torch.zeros(1, 300), factors, 0.1)}
    monkeypatch.setattr(memory, "_memory", lambda device: (10**8, 10**9))
    assert model.sample("b", 1000).shape == (1000, 300)  # with a matrix each, 720 MB


def refusals(model: SourceSeparator) -> dict[str, tuple[str, Callable[[], object]]]:
    y = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    view = View(y, {"b": torch.eye(2)}, 0.1)
    return {
        "source": ("c, which was not learned: known are a, b", lambda: model.separate(View(y, {"c": torch.eye(2)}, 0.1))),
        "shape": (r"b has shape \(3,\), and \(2,\) in the fit", lambda: model.separate(View(y, {"b": torch.ones(2, 3)}, 0.1))),
        "list": ("one mvss.View, not list", lambda: model.separate([View(y, {"b": torch.eye(2)}, 0.1)])),  # type: ignore[arg-type]
        "draws": ("draws=0 must be a whole number", lambda: model.separate(View(y, {"b": torch.eye(2)}, 0.1), 0)),
        "complex": ("must be real numbers", lambda: model.log_prob("b", y + 1j)),
        "bool": ("must be real numbers", lambda: model.log_prob("b", y > 0)),
        "sample": ("no source 'c'", lambda: model.sample("c", 2)),
        "many": (r"draws of b need \S+ GiB, and .* ask for fewer", lambda: model.sample("b", 10**12)),
        "density": ("no source 'c'", lambda: model.log_prob("c", y)),
        "candidates": ("must be finite", lambda: model.log_prob("b", torch.zeros(2, 3))),
        "infinite": ("must be finite", lambda: model.log_prob("b", torch.full((2, 2), math.inf))),
        "none": ("must be finite", lambda: model.log_prob("b", np.zeros((0, 2)))),
        "sigma below 0": ("sigma=-1.* must be at least 0", lambda: model.log_prob("b", y, sigma=-1)),
        "sigma as text": ("log_prob: sigma must be real", lambda: model.log_prob("b", y, sigma="a")),  # type: ignore[arg-type]
        "sigma is NaN": ("log_prob: sigma must be one finite", lambda: model.log_prob("b", y, sigma=math.nan)),
        "fewer than none": ("sample: count=-1 must be a whole number of at least 0", lambda: model.sample("b", -1)),
        "half a draw": ("count=2.5 must be a whole number", lambda: model.sample("b", 2.5)),  # type: ignore[arg-type]
        "half of draws": ("draws=1.5 must be", lambda: model.separate(view, 1.5)),  # type: ignore[arg-type]
        "a class": ("not the class SplitGibbsConfig", lambda: model.separate(view, posterior=SplitGibbsConfig)),  # type: ignore[arg-type]
        "a number": ("posterior must be a name or .*, not int", lambda: model.separating_by(3)),  # type: ignore[arg-type]
        "no seed": ("seed=None must be a whole number", lambda: model.separate(view, seed=None)),  # type: ignore[arg-type]
        "half a seed": ("seed=1.5 must be a whole number", lambda: model.sample("b", 2, seed=1.5)),  # type: ignore[arg-type]
        "a fit's seed": ("seed=None must be", lambda: SourceSeparator().fit([view], seed=None)),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize(
    "case",
    [
        *("source", "shape", "list", "draws", "complex", "bool", "sample", "many", "density", "candidates", "infinite", "none"),
        *("sigma below 0", "sigma as text", "sigma is NaN", "fewer than none", "half a draw", "half of draws", "a class"),
        *("a number", "no seed", "half a seed", "a fit's seed"),
    ],
)
def test_what_was_not_learned_is_refused_in_one_line(case: str, fitted: Fitted) -> None:
    words, call = refusals(fitted["vectors"][1])[case]
    with pytest.raises(MvssError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_count_draws_and_seed(fitted: Fitted) -> None:
    problem, model = fitted["vectors"]
    view = problem.views[1]
    same(model.separate(view, np.int64(2), seed=np.uint8(3)), model.separate(view, 2, seed=3))  # type: ignore[arg-type]
    same(model.sample("b", np.int32(4)), model.sample("b", 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_views_that_hold_one_number_alone_are_refused_before_anything_is_learned(value: float, tmp_path: Path) -> None:
    """Also where masked numbers differ."""
    seen = torch.tensor([[True, True, False]])
    y = torch.full((50, 3), value).where(seen, torch.arange(50.0)[:, None])
    views = [View(torch.randn(50, 3), {"b": torch.eye(3)}, 0.1), View(y, {"b": Mask(seen), "t": Mask(seen)}, 0.1, "both")]
    with pytest.raises(MvssError, match=f"both: every measured number is {value:g}, where noise alone would make") as caught:
        SourceSeparator(VECTORS).fit(views, checkpoint=tmp_path / "fit", verbose=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "fit").exists()


def test_a_separator_that_was_not_fitted_says_so(tmp_path: Path) -> None:
    model = SourceSeparator()
    view = View(torch.zeros(2, 2), {"a": torch.eye(2)}, 0.1)
    assert model.to("cpu").sources == ()
    for call in (
        lambda: model.separate(view),
        lambda: model.sample("a", 2),
        lambda: model.log_prob("a", view.y),
        lambda: model.save_pretrained(tmp_path),
    ):
        with pytest.raises(MvssError, match="call fit first") as error:
            call()
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


FILES = ["separator.json", "mixture-2.safetensors", "network-1/config.json", "network-1/diffusion_pytorch_model.safetensors"]


def place(folder: Path, name: str) -> Path:
    """Where a file of a saved model is."""
    return folder / name if name == "separator.json" else next(folder.glob("model-*")) / name


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
@pytest.mark.parametrize("name", [*FILES, "network-2"])
def test_a_damaged_folder_is_refused_in_one_line(name: str, damage: str, fitted: Fitted, tmp_path: Path) -> None:
    fitted["vectors"][1].save_pretrained(tmp_path)
    path = place(tmp_path, name)
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
    elif damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(MvssError, match=name.split(".")[0].split("/")[0]) as error:
        SourceSeparator.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("defect", ["lacks", "nan", "more", "shape"])
def test_a_network_that_is_not_whole_is_refused(defect: str, fitted: Fitted, tmp_path: Path) -> None:
    """Also where somebody has written checksums that fit."""
    fitted["vectors"][1].save_pretrained(tmp_path)
    name = "network-1/diffusion_pytorch_model.safetensors"
    weights = load_file(place(tmp_path, name))
    first = next(iter(weights))
    changes = {"nan": weights[first] * math.nan, "shape": weights[first][..., :-1]}
    weights |= {"more": torch.zeros(1)} if defect == "more" else {first: changes.get(defect, weights[first])}
    if defect == "lacks":
        del weights[first]
    save_file({k: v.contiguous() for k, v in weights.items()}, place(tmp_path, name))
    with pytest.raises(MvssError, match="its checksum says"):
        SourceSeparator.from_pretrained(tmp_path)
    about = json.loads((tmp_path / "separator.json").read_text())
    del about["sha256"]
    about["files"][name] = hashlib.sha256(place(tmp_path, name).read_bytes()).hexdigest()
    about["sha256"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    (tmp_path / "separator.json").write_text(json.dumps(about))
    with pytest.raises(MvssError, match=r"network-1: (1 tensors are missing or of another network|.* holds NaN)") as caught:
        SourceSeparator.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_flip_of_a_bit_in_a_saved_model_is_believed(fitted: Fitted, tmp_path: Path) -> None:
    fitted["vectors"][1].save_pretrained(tmp_path)
    rng = random.Random(0)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        for place in rng.sample(range(len(data)), 8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            if path.name == "separator.json" and json.loads(data) == _parsed(bytes(flipped)):
                continue  # a space for another
            with pytest.raises(MvssError) as caught:
                SourceSeparator.from_pretrained(tmp_path)
            assert "\n" not in str(caught.value)
        path.write_bytes(data)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".bin", ".pkl")]
    SourceSeparator.from_pretrained(tmp_path)


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None


def test_a_full_disk_leaves_the_model_that_was_there(fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted["vectors"][1]
    model.save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    calls = []

    def full(path: Path, data: bytes) -> int:
        calls.append(path)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "full")
        return path.open("wb").write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MvssError, match="no space left") as caught:
        model.save_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_foreign_folder_is_refused_in_one_line(fitted: Fitted, tmp_path: Path) -> None:
    fitted["vectors"][1].save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "separator.json").read_text())
    settings = whole["settings"] + "unheard_of: 1\n"
    strange = (
        [],
        {},
        "text",
        {**whole, "version": 99},
        {**whole, "settings": settings},
        {**whole, "sources": [{}]},
        {**whole, "scales": {}},
    )
    for content in strange:
        (tmp_path / "separator.json").write_text(json.dumps(content))
        with pytest.raises(MvssError) as error:
            SourceSeparator.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)
    with pytest.raises(MvssError, match=r"separator\.json"):
        SourceSeparator.from_pretrained(tmp_path / "nowhere")


def test_fits_of_gaussians_are_explained_and_reported() -> None:
    """χ² of exact draws of a prior in closed form is that of the noise; views that tell too little are named."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(800, 2, generator=rng, dtype=torch.float64)
    y = x + 0.3 * torch.randn(800, 2, generator=rng, dtype=torch.float64)
    quick = Settings(AscentConfig((1,), steps=200, starts=1), PriorConfig(network=None), posterior=ExactConfig())
    view = View(y, {"a": torch.eye(2)}, 0.3, "alone")
    model = SourceSeparator(quick).fit([view], verbose=False)
    report = model.report
    assert report.views[0].chi2 == pytest.approx(1.0, abs=0.08) and report.views[0].observations == 800
    assert not report.warnings and report.laps == []
    assert {"first priors", "first draws", "laps"} <= set(report.seconds) and report.peak_memory_gib > 0
    assert "alone 1.0" in str(report) or "alone 0.9" in str(report)
    density = model.log_prob("a", x[:5])
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    torch.testing.assert_close(density, law.log_prob(x[:5]), atol=0.3, rtol=0)
    blind = {"a": Dense(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))}
    wrong = View(y, blind, Isotropic(0.01), "blind")
    lines = SourceSeparator(quick).fit([wrong], verbose=False).report.warnings
    assert any("1 directions of a" in line for line in lines) and any(line.startswith("blind: chi2") for line in lines)


def test_reports_list_laps_and_warn() -> None:
    lap = LapReport(3, {"a": (0.5, 0.7), "b": (0.5, 0.4)}, 0.2, 0.0, 1.0, 1.0)
    assert [line.split(":")[0] for line in lap.warnings()] == ["lap 3", "lap 3"]
    assert ViewReport("v", 10, 1.0).warning() is None
    assert "noise may be less" in ViewReport("v", 10, 0.5).warning()
    assert "do not explain" in ViewReport("v", 10, 2.0).warning()


def test_events_tell_phases_and_laps(fitted: Fitted, capsys: pytest.CaptureFixture) -> None:
    problem, model = fitted["vectors"]
    events: list[FitEvent] = []
    SourceSeparator(problem.settings).fit(problem.views, callback=events.append)
    order = list(dict.fromkeys(event.phase for event in events))
    assert order == ["first priors", "first draws", "laps", "last draws"]
    assert (events[0].phase, events[0].done) == ("first priors", 0.0)  # told, and timed, from its beginning
    laps = [event for event in events if event.lap is not None]
    assert [(event.lap.number, event.done) for event in laps] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert [lap.number for lap in model.report.laps] == [1, 2]
    out = capsys.readouterr()
    assert "chi2 per number: first" in out.out and "lap 2: held-out denoising loss" in out.out and "laps:" in out.err
    inner = laps[-1].lap.draws[1]["b"]
    assert inner.shape == (30, 2)


def test_what_was_made_of_a_model_stays_where_it_is(fitted: Fitted) -> None:
    """They had one set of networks: who moved one moved the other, whose posterior stayed behind."""
    _, model = fitted["images"]
    other = model.separating_by("split_gibbs").to("meta")
    assert other._device.type == "meta" and all(p.device.type == "meta" for p in other.amortised["target"].parameters())
    assert model._device.type == "cpu" and all(p.device.type == "cpu" for p in model.amortised["target"].parameters())
    kept = model.priors["target"]
    assert model.to("cpu").priors["target"] is kept  # nothing is copied without need


def test_no_draws_of_a_prior_are_of_its_shape(fitted: Fitted) -> None:
    for problem, model in fitted.values():
        for source, shape in Views(problem.views).shapes.items():
            assert model.sample(source, 0).shape == (0, *shape)


def test_draws_under_a_noise_that_the_network_has_not_learned_are_told(fitted: Fitted) -> None:
    problem, model = fitted["images"]
    view = problem.views[1].select(slice(0, 6))
    loud = View(view.y, view.operators, 30 * view.noise.variance(view.y).mean().sqrt(), "loud")
    told = r"^loud: the network of target has learned from another noise, .*split_gibbs"
    with pytest.warns(UserWarning, match=told):
        model.separate(loud, posterior="amortised")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*has learned from another noise")
        model.separate(view, posterior="amortised")
        model.separate(loud, posterior="split_gibbs")
