"""Grass and digits: what is shared between views and splits, and what is not; a tiny run from data to table."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from closed_forms import ball
from in_process import run_here
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

import mvss
from experiments.core.audit import run_audit
from experiments.core.cache import estimate_key, work_of
from experiments.core.cli import ROOT, main, read_command
from experiments.core.config import Job, MetricsConfig, Recipe
from experiments.core.floor import run_floor
from experiments.core.laws import law_distances
from experiments.core.places import jobs_of
from experiments.core.run import clean_views, fewer
from experiments.core.scores import _in_turn
from experiments.core.task import Candidates, within_support
from experiments.mnist_grass.__main__ import EXPERIMENT
from experiments.mnist_grass.classifier import trained_classifier
from experiments.mnist_grass.config import PROBLEMS, MnistGrassConfig
from experiments.mnist_grass.data import AMPLITUDE, DIGIT, GRASS, MnistGrassTask
from experiments.mnist_grass.figures import make_figures
from experiments.mnist_grass.textures import crops
from experiments.report.samples import Results, samples_path
from mvss.em import first_draws
from mvss.estimation import Estimate
from mvss.metrics.spread import spread_ratio
from mvss.posteriors import posterior_of
from mvss.posteriors.exact import ExactPosterior
from mvss.presets.posterior import SamplerConfig
from mvss.presets.training import NetworkConfig
from mvss.priors.diffusion import DiffusionPrior, Drawing
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import ImageUNet, TimeMLP, build_network
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream
from mvss.separator import SourceSeparator

CONFIG = MnistGrassConfig(observations=31, fresh=9)


def test_crops_stay_in_their_region_and_differ() -> None:
    region = torch.rand(200, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = crops(region, 6, torch.Generator().manual_seed(1))
    assert found.shape == (6, 1, 28, 28) and bool((found >= 0).all() and (found <= 1).all())
    assert len({round(float(x.sum()), 6) for x in found}) == 6
    again = crops(region, 6, torch.Generator().manual_seed(1))
    assert torch.equal(found, again)
    narrow = crops(region[:60, :70], 20, torch.Generator().manual_seed(1))
    assert narrow.shape == (20, 1, 28, 28) and bool(torch.isfinite(narrow).all())
    flat = crops(torch.full((200, 150), 0.3, dtype=torch.float64), 2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3))


def expected(problem: str, grass: Tensor, digit: Tensor, more: Tensor | None, view: View) -> tuple[Tensor, float]:
    """y without noise, and its noise."""
    if problem == "swap-two":
        assert more is not None
        return torch.cat([grass + 0.5 * digit, more + 0.5 * digit], dim=1), 0.01
    x = grass + (0.3 if problem == "swap-fraction" else 0.5) * digit
    if problem == "swap-blur":
        spread = np.apply_along_axis(lambda v: gaussian_filter1d(v, 2.0, mode="constant", truncate=3.0), -1, x.numpy())
        spread = np.apply_along_axis(lambda v: gaussian_filter1d(v, 2.0, mode="constant", truncate=3.0), -2, spread)
        return torch.from_numpy(spread), 0.01
    if problem == "swap-average":
        return torch.nn.functional.avg_pool2d(x, 2), 0.01
    if problem == "swap-mask":
        measured = view.operators[GRASS].forward(torch.ones_like(x))
        assert float(measured.mean()) == pytest.approx(0.5, abs=0.03) and not torch.equal(measured[0], measured[1])
        return measured * x, 0.01
    return x, 0.1 if problem == "swap-noise" else 0.01


@pytest.mark.parametrize("problem", [name for name in PROBLEMS if name.startswith("swap-")])
def test_swapped_observations_are_what_their_names_say(problem: str) -> None:
    task = MnistGrassTask(problem, 0, CONFIG)
    assert CONFIG.learned(problem) == "full" and task.train.sources[:2] == (GRASS, DIGIT)
    assert task.train.sources.index(DIGIT) == int(EXPERIMENT.sought or 0) - 1
    for view, truth in zip(task.fresh, task.fresh_truth, strict=True):
        if DIGIT not in view.sources:
            continue
        clean, noise = expected(problem, truth[0], truth[1], truth[2] if len(truth) > 2 else None, view)
        measured = (view.y != 0) if problem == "swap-mask" else torch.ones_like(view.y, dtype=torch.bool)
        assert view.y.shape == clean.shape and float(view.noise.variance(view.y).mean()) == pytest.approx(noise**2)
        assert float((view.y - clean)[measured].std()) == pytest.approx(noise, rel=0.1)
    if problem == "swap-background":
        gravel, grass = (float(each.fresh_truth[0][0].mean()) for each in (task, MnistGrassTask("full", 0, CONFIG)))
        assert gravel != pytest.approx(grass)
    if problem == "swap-two":
        assert not torch.equal(task.fresh_truth[1][0], task.fresh_truth[1][2])


def test_observations_of_the_priors_themselves_are_separated_without_a_bias() -> None:
    """Under mixtures all is in closed form: exact draws are as wide as their means are off."""
    config = MnistGrassConfig(observations=20, grass_observations=40, fresh=60)
    quick = mvss.Settings(mvss.MixtureEMConfig((1, 2), (0, 2), laps=1), mvss.PriorConfig(network=None))
    model = SourceSeparator(quick).fit(MnistGrassTask("full", 0, config).train, 0, verbose=False)
    plain = MnistGrassTask("swap-prior", 0, config)
    task, same = plain.adapted(model)
    (alpha,) = task.scored_views
    view, truth = task.fresh[alpha], dict(zip(task.train.sources, task.fresh_truth[alpha], strict=True))
    assert same is model and view.operators == plain.fresh[alpha].operators and not torch.equal(view.y, plain.fresh[alpha].y)
    left = (view.y - view.predicted(truth)).double()
    assert float(left.std()) == pytest.approx(0.01, rel=0.02)
    assert torch.equal(within_support(task, truth)[DIGIT], truth[DIGIT])  # nothing is cut
    ratio, error = spread_ratio(model.separate(view, 16, 0)[DIGIT], truth[DIGIT])
    assert abs(ratio - 1) < 4 * error < 0.5


def test_another_background_is_learned_alone_whatever_is_known_of_digits() -> None:
    config = MnistGrassConfig(observations=20, grass_observations=40, fresh=6)
    em = mvss.EMConfig(ranges={DIGIT: (0.0, 1.0)})
    quick = mvss.Settings(mvss.MixtureEMConfig((1, 2), (0, 2), laps=1), mvss.PriorConfig(network=None), em=em)
    model = SourceSeparator(quick).fit(MnistGrassTask("full", 0, config).train, 0, verbose=False)
    task = MnistGrassTask("swap-background", 0, config)
    same, other = task.adapted(model)
    assert same is task and other.priors[DIGIT] is model.priors[DIGIT]
    assert not torch.equal(other.priors[GRASS].mixture.means, model.priors[GRASS].mixture.means)


def test_other_operators_are_separated_by_one_fit_or_learned_anew() -> None:
    by_full, anew = (Job("swap-mask", "auto", 0, Recipe(anew=anew), CONFIG) for anew in (False, True))
    by_full = replace(by_full, config=replace(CONFIG, methods={"auto": by_full.recipe}))
    assert by_full.fitted.problem == "full"
    assert anew.fitted is anew
    recipes = read_command(EXPERIMENT, ["--preset", "cpu"], Path()).config.recipes()
    assert recipes["trained"].settings == recipes["auto"].settings


@pytest.mark.slow
def test_a_fit_separates_swapped_observations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the mixture learned of `full`; of gravel, by what gravel alone tells."""
    run_here(monkeypatch)
    swaps = ["swap-two", "swap-background"]
    arguments = ["--preset", "smoke", "--methods", "mixture", "--problem", *swaps, "--", f"problems=[full, {', '.join(swaps)}]"]
    few = ["methods.mixture.problems=null", "observations=40", "fresh=8", "metrics.drawn=8"]
    assert main(EXPERIMENT, [*arguments, *few], tmp_path) == 0
    assert len([*tmp_path.rglob("swaps.png")]) == 1
    rows = json.loads(next(tmp_path.rglob("table.json")).read_text())["rows"]
    found = {(row["problem"], row["metric"]) for row in rows if row["source"] == "2"}
    assert {(problem, "energy_score") for problem in swaps} <= found


@pytest.mark.parametrize("problem", ["full", "downsampled"])
def test_observations_are_the_sum_of_the_sources(problem: str) -> None:
    task = MnistGrassTask(problem, 0, CONFIG)
    alone, both = (GRASS,), (GRASS, DIGIT)
    assert [v.sources for v in task.train] == [alone] * (len(task.train) // 2) + [both] * len(task.scored_views)
    assert sum(len(task.train[a]) for a in task.scored_views) == 31
    for view, truth in zip(task.train, task.train_truth, strict=True):
        pixels = 28 // view.y.shape[-1]
        clean = truth[0] + (AMPLITUDE * truth[1] if DIGIT in view.sources else 0)
        coarse = torch.nn.functional.avg_pool2d(clean, pixels)
        assert float((view.y - coarse).std()) == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize(("problem", "sizes"), [("full", [50, 31]), ("downsampled", [17, 17, 16, 11, 10, 10])])
def test_views_may_have_different_numbers_of_observations(problem: str, sizes: list[int]) -> None:
    task = MnistGrassTask(problem, 0, replace(CONFIG, grass_observations=50))
    assert [len(view) for view in task.train] == sizes
    assert [[len(x) for x in truth] for truth in task.train_truth] == [[n, n] for n in sizes]
    for view, truth in zip(task.train, task.train_truth, strict=True):
        left = view.y - view.predicted(dict(zip((GRASS, DIGIT), truth, strict=True)))
        assert float(left.std()) == pytest.approx(0.01, rel=0.15)
    plain = MnistGrassTask(problem, 0, CONFIG)
    assert torch.equal(task.train[-1].y, plain.train[-1].y)
    assert torch.equal(task.fresh[0].y, plain.fresh[0].y)
    with pytest.raises(MvssError, match="observations=2: the problem downsampled needs at least 3"):
        MnistGrassTask("downsampled", 0, replace(CONFIG, grass_observations=2))


def test_no_digit_is_in_two_places_and_seeds_differ() -> None:
    task, other = MnistGrassTask("full", 0, CONFIG), MnistGrassTask("full", 1, CONFIG)
    train, fresh = task.train_truth[1][1], task.fresh_truth[1][1]
    digits = torch.cat([train, fresh]).flatten(1)
    assert len(digits.unique(dim=0)) == 40
    assert not torch.equal(train, other.train_truth[1][1])
    pool = {tuple(x.tolist()) for x in fresh.flatten(1)}
    assert {tuple(x.tolist()) for x in task.sample_truth(1, 20, torch.Generator().manual_seed(0)).flatten(1)} <= pool


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"observations": 990}, "there are 1000"),
        ({"digits": tuple(range(9))}, "fewer than two of MNIST's classes"),
        ({"digits": (11,)}, "mnist=embedded has 0, 1, 2, "),
        ({"digits": (3, 3)}, "none twice"),
        ({"texture": "sand"}, "unknown texture 'sand'"),
        ({"grass_observations": 0}, "grass_observations=0 must be at least 1"),
        ({"observations": -1}, "observations=-1"),
    ],
)
def test_bad_settings_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(MvssError, match=says):
        MnistGrassTask("full", 0, MnistGrassConfig(**({"observations": 31, "fresh": 11} | settings)))


def test_other_data_make_a_fit_stale() -> None:
    def key(*overrides: str) -> str:
        command = read_command(EXPERIMENT, ["--preset", "smoke", "--", *overrides], ROOT)
        return estimate_key(jobs_of(command.config, [0])[0], EXPERIMENT.data)

    assert len({key(), key("texture=gravel"), key("digits=[7]"), key("observations=61"), key("grass_observations=61")}) == 5
    assert key() == key("fresh=25") == key("settings.em.laps=2")


def learn_here(monkeypatch: pytest.MonkeyPatch, folder: Path, epochs: int) -> None:
    """Classifiers of few epochs, which are kept in a folder of their own."""
    monkeypatch.setattr("experiments.mnist_grass.classifier.EPOCHS", epochs)
    monkeypatch.setattr("experiments.mnist_grass.data.trained_classifier", partial(trained_classifier, folder=folder))


@pytest.mark.slow
def test_other_digits_and_another_texture_are_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    monkeypatch.setattr("experiments.mnist_grass.data.DETECTED", 64)
    monkeypatch.setattr("experiments.core.floor.SPLITS", 2)
    learn_here(monkeypatch, tmp_path, epochs=1)
    tiny = ["problems=[full]", "observations=20", "grass_observations=20", "fresh=16", "workers=1"]
    tiny += ["settings.estimation={components: [1, 1], laps: 1}", "settings.prior.network.blocks=[8]"]
    tiny += ["settings.training.steps=1", "metrics.pqmass=16", "metrics.references=4"]
    solver = "{kind: moment_matching, start: cold, solver: {iterations: 2}, sampler: {method: ddim, steps: 1}}"
    tiny += [f"settings.posterior={solver}", f"settings.separation={solver}"]
    pairs = "methods.joint.settings.estimation.noisier2noise"
    tiny += [f"{pairs}.training.steps=1", f"{pairs}.averages=1", "metrics.saved=4"]
    other = ["texture=gravel", "digits=[7]"]
    assert main(EXPERIMENT, ["--preset", "smoke", "--methods", "joint", "floor", "--", *tiny, *other], tmp_path) == 0
    (path,) = tmp_path.rglob("table.json")
    rows = json.loads(path.read_text())["rows"]
    assert {"auto", "floor", "joint"} == {row["method"] for row in rows}  # joint separates by the fit of auto
    means = {"posterior_mean_psnr", "posterior_expectation_psnr"}
    assert {"posterior_psnr", "posterior_ssim", *means} <= {row["metric"] for row in rows}
    assert [len(list(tmp_path.rglob(f"figures/*.{kind}"))) for kind in ("png", "pdf", "gif")] == [8, 8, 1]


def test_an_audit_needs_a_known_truth_and_says_so(tmp_path: Path) -> None:
    config = read_command(EXPERIMENT, ["--preset", "smoke", "--", "problems=[full]"], ROOT).config
    job = next(j for j in jobs_of(config, [0]) if j.method == "joint")
    with pytest.raises(MvssError, match="not known"):
        run_audit(
            job, MnistGrassTask("full", 0, CONFIG), tmp_path, lambda _: None, lambda *_: None, tmp_path / "estimate.safetensors"
        )


def begun(task: MnistGrassTask, *overrides: str, method: str = "joint") -> SourceSeparator:
    """As a method of the smoke preset is before its first lap."""
    config = read_command(EXPERIMENT, ["--preset", "smoke", "--", *overrides], ROOT).config
    estimate = Estimate(dict.fromkeys(task.train.sources, _gaussian(0.3)))
    return SourceSeparator(config.recipes()[method].settings).begin(task.train, estimate, 0)


def _gaussian(spread: float) -> GaussianMixture:
    """Of images, around their mean."""
    zero = torch.zeros(1, 784, dtype=torch.float64)
    return GaussianMixture(torch.ones(1), zero, torch.zeros(1, 784, 0, dtype=torch.float64), spread, (1, 28, 28))


@pytest.fixture(scope="module")
def task() -> MnistGrassTask:
    return MnistGrassTask("full", 0, CONFIG)


def test_settings_of_the_network_reach_it(task: MnistGrassTask) -> None:
    def size(*overrides: str) -> int:
        network = begun(task, *overrides).priors[DIGIT].network
        assert network is not None
        return sum(p.numel() for p in network.parameters())

    changes = ("settings.prior.network.blocks=[8]", "settings.prior.network.layers=2", "settings.prior.network.variance=false")
    assert len({size(), *map(size, changes)}) == 4


def test_networks_learn_their_variance_unless_told_otherwise(task: MnistGrassTask) -> None:
    def learns(*overrides: str) -> dict[str, bool]:
        return {source: prior.learns_variance for source, prior in begun(task, *overrides).priors.items()}

    assert learns() == {GRASS: False, DIGIT: True}  # the grass has no network
    assert learns("settings.prior.network.variance=false") == {GRASS: False, DIGIT: False}
    # it has Jacobians
    solver = "{kind: moment_matching, start: cold, solver: {iterations: 1}, sampler: {method: ddim}}"
    assert learns(f"settings.posterior={solver}", f"settings.separation={solver}") == {GRASS: False, DIGIT: False}


def test_guesses_are_learned_where_laps_are_told_to(task: MnistGrassTask) -> None:
    plain, learned = begun(task), begun(task, "methods.joint.settings.em.guess=null")
    assert plain.amortised[DIGIT].guess is not None and learned.amortised[DIGIT].guess is None


def test_first_draws_are_the_estimates_where_there_are_any() -> None:
    task = MnistGrassTask("downsampled", 0, CONFIG)
    model = begun(task)
    x = torch.rand(len(task.train[3]), 1, 28, 28, dtype=torch.float64)
    priors = {source: prior.mixture for source, prior in model.priors.items()}
    inner = Views(map(model.units.inward, task.train))
    told = {DIGIT: {3: x / model.units.scales[DIGIT]}}
    posterior, device = ExactPosterior(64), torch.device("cpu")
    first = [first_draws(inner, priors, t, posterior, Stream(0), device, lambda _: None) for t in ({}, told)]
    assert first[1].better == {DIGIT: [3]} and not first[0].better
    plain, found = ([model.units.outward(parts) for parts in given.draws] for given in first)
    torch.testing.assert_close(found[3][DIGIT], x)
    assert torch.equal(found[4][DIGIT], plain[4][DIGIT])
    torch.testing.assert_close(found[3][GRASS] + AMPLITUDE * x, task.train[3].y)


@pytest.mark.parametrize("part", ["posterior", "separation"])
def test_settings_of_the_solver_reach_the_draws(part: str, task: MnistGrassTask) -> None:
    """Of the E-step and of what is scored, with images of untrained networks that say something."""
    view = task.train[1].select(torch.arange(2))
    start = dict.fromkeys(view.sources, torch.zeros(2, 1, 28, 28, dtype=torch.float64))
    sources = {}
    for beta, source in enumerate(view.sources):
        torch.manual_seed(beta)
        network = ImageUNet(blocks=(8,), layers=1)
        torch.nn.init.normal_(network.net.conv_out.weight, std=0.05)
        drawing = Drawing(SamplerConfig(), True, 1)
        base = ball((1, 28, 28), 0.3)
        sources[source] = DiffusionPrior(base, network.requires_grad_(False), 0.3, drawing, (0.02, 1.0), False)

    def draws(solver: str) -> torch.Tensor:
        sampler = "{method: ddim, steps: 2, sigma_start: 1.0, sigma_min: 0.02}"
        override = f"settings.{part}={{kind: moment_matching, sampler: {sampler}, solver: {{{solver}}}}}"
        config = read_command(EXPERIMENT, ["--preset", "smoke", "--", override], ROOT).config
        settings = config.recipes()["joint_together"].settings  # those of the preset
        posterior = posterior_of({"posterior": settings.posterior, "separation": settings.separating}[part], {})
        return torch.cat(list(posterior.draw(view, sources, Stream(0, ("solver",)), start).draws.values()))

    base = draws("iterations: 2, tolerance: 0.0")
    for other in ("3, tolerance: 0.0", "2, tolerance: 0.99", "2, tolerance: 0.0, regularisation: 0.1"):
        assert float((draws(f"iterations: {other}") - base).abs().max()) > 1e-6


def test_the_papers_preset_has_its_numbers() -> None:
    config = read_command(EXPERIMENT, ["--preset", "paper"], ROOT).config
    assert isinstance(config, MnistGrassConfig)
    assert (config.mnist, config.observations, config.grass_observations) == ("openml", 13824, 32768)
    settings = config.settings
    assert (
        settings.prior.network
        and settings.prior.network.blocks == (32, 64, 128)
        and settings.training.sigma_max == 400.0
        and settings.em.laps == 64
    )


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu"])
def test_every_preset_loads_and_has_enough_digits(preset: str) -> None:
    config = read_command(EXPERIMENT, ["--preset", preset], ROOT).config
    assert isinstance(config, MnistGrassConfig)
    rivals = {"pcpca", "clvm_linear", "clvm_vae", "gibbs", "joint_paper"} if preset != "gpu" else set()
    ours = {"auto", "amortised", "joint"} | (set() if preset == "smoke" else {"moment_matching"})
    assert {job.method for job in jobs_of(config, [0])} == {"floor", "mixture"} | ours | rivals
    MnistGrassTask(config.problems[0], 0, config)


def test_swaps_of_other_methods_leave_their_figure_out(tmp_path: Path) -> None:
    path = samples_path(tmp_path, 0, "swap-mask", "joint_clean")
    path.parent.mkdir(parents=True)
    np.savez(path, mean_2=np.zeros((2, 784)), width_2=np.zeros((2, 784)))
    row = {"problem": "swap-mask", "method": "joint_clean", "source": "2", "metric": "energy_score", "seeds": [0]}
    assert make_figures(Results(tmp_path, {"rows": [row]}, {0: []}, ("swap-mask",), 0)) == []


def test_priors_are_asked_of_digits_and_of_the_same_with_grass_on_them() -> None:
    task = MnistGrassTask("full", 0, CONFIG)
    assert isinstance(task, Candidates) and task.candidates(0) is None
    digits, spoilt = task.candidates(1) or (None, None)
    assert digits is not None and spoilt is not None and torch.equal(digits, task.fresh_truth[1][1][: len(digits)])
    left = (spoilt - digits).flatten(1)
    assert float(left.mean(1).abs().max()) < 1e-12 and 0 < float(left.std(1).min()) < float(left.std(1).max()) < 0.05
    assert MnistGrassTask("downsampled", 0, CONFIG).candidates(1) is None


def test_draws_are_judged_by_their_classes_and_grass_by_what_is_left_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_here(monkeypatch, tmp_path, epochs=4)
    monkeypatch.setattr("experiments.mnist_grass.data.DETECTED", 600)
    task = MnistGrassTask("full", 0, MnistGrassConfig(observations=200, fresh=60, digits=(0, 1, 7)))
    (alpha,) = task.scored_views
    grass, digits = task.train_truth[alpha]
    clean = task.scores(1, "train", {alpha: digits})
    assert clean["class_accuracy"] == clean["class_accuracy_clean"] > 0.9
    shuffled = task.scores(1, "train", {alpha: digits.roll(1, 0)})
    assert shuffled["class_accuracy"] < 0.6 and shuffled["class_accuracy_clean"] == clean["class_accuracy_clean"]
    assert task.scores(1, "fresh", {alpha: task.fresh_truth[alpha][1]}) == {}  # the classifier knows those digits
    assert task.scores(0, "train", {alpha: grass})["remains_auc"] == pytest.approx(0.5)
    assert task.scores(0, "train", {alpha: grass + AMPLITUDE * digits})["remains_auc"] > 0.9
    assert fewer(task, 0.25).scores(1, "train", {alpha: digits[:50]})["class_accuracy"] > 0.8


def test_laws_are_compared_with_clean_sources_that_are_not_those_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth itself in place of draws has what the floor has, and what is no draw of the law has more."""
    learn_here(monkeypatch, tmp_path, epochs=1)
    monkeypatch.setattr("experiments.core.floor.SPLITS", 5)
    task = MnistGrassTask("full", 0, MnistGrassConfig(observations=320, grass_observations=20, fresh=80))
    metrics = MetricsConfig(pqmass=320, references=20, tessellations=40)
    assert set(task._others[1].tolist()) == set(range(2, 10))  # of the features' network
    job, records = Job("full", "floor", 0, Recipe(model="floor"), MnistGrassConfig(metrics=metrics)), list[dict]()
    assert work_of(job) is run_floor
    run_floor(job, task, tmp_path, records.append, lambda *_: None, tmp_path)
    floor = {(r["source"], r["metric"]): r["value"] for r in records}
    shared = ("frechet", "pqmass", "pqmass_chi2")
    assert {m for s, m in floor if s == "2"} == {
        f"{k}_{m}" for k in ("posterior", "prior") for m in (*shared, "frechet_mean_only")
    }
    assert {m for s, m in floor if s == "1"} == {
        f"{k}_{m}" for k in ("posterior", "prior") for m in (*shared, "power_spectrum")
    }
    for b in (0, 1):
        scored, trained = task.clean(b)
        assert (len(scored), len(trained)) == (80, 320)
        assert torch.equal(scored, task.fresh_truth[1][b]) and torch.equal(trained, task.train_truth[1][b])
        exact, wrong = (law_distances(task, job, b, x, trained) for x in (scored, 0.5 * scored))
        for metric in ("frechet", "pqmass_chi2"):
            least = floor[str(b + 1), f"posterior_{metric}"]
            assert exact[metric] < 1.7 * least < wrong[metric], (b, metric)
    assert floor["2", "posterior_pqmass_chi2"] == pytest.approx(1, abs=0.2)


def test_halves_of_a_floor_share_nothing() -> None:
    task = MnistGrassTask("downsampled", 0, CONFIG)
    for b in (0, 1):
        first, second = (x.flatten(1) for x in task.clean_split(b, 0))
        assert (len(first), len(second)) == (9, 31)
        assert float(torch.cdist(first, second).min()) > 0.1
        assert not torch.equal(first, task.clean_split(b, 1)[0].flatten(1))
        digits = torch.cat([x.flatten(1) for x in task.clean(b)])
        assert (float(torch.cdist(torch.cat([first, second]), digits).amin(1).max()) < 1e-5) == (b == 1)


def test_an_ablation_may_learn_from_a_share_of_the_observations() -> None:
    config = read_command(EXPERIMENT, ["--preset", "smoke"], ROOT).config
    jobs = {job.method: job for job in jobs_of(config, [0], ablations=True)}
    assert {"joint_mlp", "joint_data_half", "joint_together"} <= jobs.keys() - {job.method for job in jobs_of(config, [0])}
    task = MnistGrassTask("full", 0, MnistGrassConfig(observations=31, grass_observations=40, fresh=9))
    part = fewer(task, 0.5)
    assert [len(v) for v in part.train] == [20, 16] and [len(v) for v in task.train] == [40, 31]
    assert torch.equal(part.train_truth[1][1], task.train_truth[1][1][:16])
    assert estimate_key(jobs["joint_data_half"], EXPERIMENT.data) != estimate_key(jobs["joint_mlp"], EXPERIMENT.data)
    with pytest.raises(MvssError, match=r"\(0, 1\]"):
        read_command(EXPERIMENT, ["--preset", "smoke", "--", "ablations.joint_mlp.share=2"], ROOT)


def test_a_method_may_learn_from_the_clean_sources() -> None:
    task = MnistGrassTask("downsampled", 0, MnistGrassConfig(observations=31, grass_observations=40, fresh=9))
    data = clean_views(task)
    assert [view.sources for view in data] == [(GRASS,), (DIGIT,)] and [len(view) for view in data] == [71, 31]
    digits = torch.cat([truth[1] for truth in task.train_truth[3:]])
    assert float((data[1].y - digits).abs().max()) == 0.0
    config = read_command(EXPERIMENT, ["--preset", "smoke"], ROOT).config
    jobs = {job.method: job for job in jobs_of(config, [0], ablations=True)}
    assert estimate_key(jobs["amortised_clean"], EXPERIMENT.data) != estimate_key(jobs["joint_mlp"], EXPERIMENT.data)
    pairs = "{noisier2noise: {averages: 2}}"
    with pytest.raises(MvssError, match="clean sources need no noisier2noise"):
        read_command(EXPERIMENT, ["--preset", "smoke", "--", f"ablations.amortised_clean.settings.estimation={pairs}"], ROOT)


def test_first_priors_are_shared_by_those_that_hold_out_the_same() -> None:
    """The networks that make them learn from no observation that is held out."""
    config = read_command(EXPERIMENT, ["--preset", "smoke"], ROOT).config
    jobs = {job.method: job for job in jobs_of(config, [0], ablations=True) if job.problem == "full"}
    recipe = jobs["auto"].recipe
    em = replace(recipe.settings.em, held_out=0.2)
    more = replace(jobs["auto"], recipe=replace(recipe, settings=replace(recipe.settings, em=em)))
    own, laps, other = (estimate_key(job, EXPERIMENT.data) for job in (jobs["auto"], jobs["joint_laps_1"], more))
    assert own == laps != other


def test_without_blocks_an_image_goes_through_a_perceptron() -> None:
    network = build_network(NetworkConfig(hidden=(8,), blocks=()), (1, 28, 28), 2, 1, Stream(0))
    assert isinstance(network, TimeMLP)
    assert network(torch.zeros(3, 2, 1, 28, 28), torch.zeros(3)).reshape(3, 1, 28, 28).shape == (3, 1, 28, 28)


def test_kept_images_of_several_views_are_in_turn() -> None:
    """Means once were kept view after view, beside truths in turn: a figure compared different digits."""
    first, second = torch.zeros(3, 1, 2, 2), torch.ones(2, 1, 2, 2)
    assert _in_turn([first, second])[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]
