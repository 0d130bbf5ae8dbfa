"""The galaxies' task: its views, what it knows, and what it says of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from closed_forms import ball
from in_process import run_here
from torch import Tensor

from experiments.core.baselines import run_baseline
from experiments.core.cli import main, read_command
from experiments.core.config import Job, Recipe
from experiments.core.finished import is_done
from experiments.core.places import jobs_of
from experiments.core.run import clean_views, run_job
from experiments.core.scores import Record
from experiments.galaxies import separate
from experiments.galaxies.__main__ import EXPERIMENT
from experiments.galaxies.archive.cut import build
from experiments.galaxies.archive.parts import open_archive
from experiments.galaxies.config import GalaxiesConfig, problem_named
from experiments.galaxies.data.deep_field import LIMIT, detections, grey
from experiments.galaxies.data.stamps import GALAXY, NOISE, SKY, Stamps
from experiments.galaxies.data.task import GalaxiesTask, _rounded, make_task, transform_of
from experiments.galaxies.data.transforms import fluxes, slope_of, transformed
from experiments.galaxies.product import read_product
from experiments.manifolds.__main__ import EXPERIMENT as MANIFOLDS
from mvss.estimation import Estimate
from mvss.presets.settings import EMConfig, Settings
from mvss.priors.augmentation import turned, turned_each
from mvss.priors.diffusion import DiffusionPrior
from mvss.problem.held_out import held_out_count
from mvss.problem.noise import Diagonal, Stationary
from mvss.problem.views import Draws, View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream, generator, stream_of
from mvss.separator import SourceSeparator

ROOT = Path(__file__).parents[2]
SMALL = {"observations": 12, "random_fields": 14, "fresh": 8, "pixels": 16, "draws": 8}
FIGURES = "experiments.galaxies.figures.make_figures"  # which test_galaxy_figures looks at


def small(problem: str, **changes: object) -> GalaxiesTask:
    return make_task(problem, 0, GalaxiesConfig(**{**SMALL, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def simulated() -> GalaxiesTask:
    return small("simulated")


@pytest.fixture(scope="module")
def real() -> GalaxiesTask:
    return small("real")


def residual(task: GalaxiesTask, alpha: int) -> Tensor:
    """(y − A x) / σ of the measured pixels of a view, x the truth."""
    view, truth = task.train[alpha], known(task.train_truth[alpha])
    left = (view.y - view.predicted(truth)) / view.noise.variance(view.y).sqrt()
    return left[view.operators[SKY].forward(torch.ones_like(truth[SKY])) > 0]


def known(truth: Sequence[Tensor | None]) -> Draws:
    """Of sky and galaxy, by name."""
    return {source: x for source, x in zip((SKY, GALAXY), truth, strict=True) if x is not None}


def test_views_are_sky_and_sky_with_a_galaxy_under_the_noise_that_they_say(simulated: GalaxiesTask) -> None:
    assert [view.sources for view in simulated.train] == [(SKY,), (SKY, GALAXY)]
    assert [len(view) for view in simulated.train] == [14, 12] and len(simulated.fresh[1]) == 8
    for alpha in (0, 1):
        left = residual(simulated, alpha)
        assert abs(float(left.std()) - 1) < 0.05 and abs(float(left.mean())) < 0.1
    assert not torch.equal(simulated.fresh_truth[1][1], simulated.train_truth[1][1][:8])
    assert any(isinstance(view.noise, Diagonal) for view in simulated.train)  # some exposures were lost


def test_maps_of_noise_are_rounded_to_what_few_pixels_of_their_own_can_say() -> None:
    sigma = NOISE * torch.exp(0.3 * torch.randn(40, 1, 8, 8, generator=generator(0), dtype=torch.float64))
    y, good = torch.zeros_like(sigma), torch.rand(40, 1, 8, 8, generator=generator(1)) > 0.1
    away = (sigma / NOISE).log().abs()
    rounded = _rounded(Stamps(y, good, sigma), torch.tensor(NOISE, dtype=torch.float64))
    own = rounded != NOISE
    assert torch.equal(rounded[own], sigma[own])
    for farther, its, measured in zip(away, own, good, strict=True):  # of each stamp by itself
        assert float(farther[~its & measured].max()) < float(farther[its].min())
        assert int((its | ~measured).sum()) in (12, 13) or int((~measured).sum()) > 12
    few = _rounded(Stamps(y, good, torch.where(away > 0.9, sigma, NOISE * 1.05)), torch.tensor(NOISE, dtype=torch.float64))
    assert torch.equal(few != NOISE, (away > 0.9) & good)


def test_a_stationary_model_leaves_out_the_pixels_with_more_noise() -> None:
    task = small("simulated", noise="stationary")
    assert all(isinstance(view.noise, Stationary) for view in task.train)
    assert abs(float(residual(task, 1).std()) - 1) < 0.05
    both = small("multi-resolution", noise="stationary", pixels=32)
    assert not any(isinstance(view.noise, Stationary) for view in both.train)  # none of its noise is correlated


def test_the_ground_sees_the_same_sources_through_air_in_coarser_pixels() -> None:
    task = small("multi-resolution", pixels=32)
    assert [tuple(view.observation_shape) for view in task.train] == [(1, 11, 11)] * 2 + [(1, 32, 32)] * 2
    for alpha in range(4):
        assert 0.8 < float(residual(task, alpha).std()) < 1.25, alpha  # the kernel is a model of the air
    alone = small("ground", pixels=32)
    assert torch.equal(alone.fresh[1].y, task.fresh[1].y) and len(alone.train) == 2
    with pytest.raises(MvssError, match="other pixels"):
        task.separate(SimpleNamespace(), Stream(0))


def test_nobody_knows_real_sky_but_injected_galaxies_are_known(real: GalaxiesTask) -> None:
    assert real.train_truth[1] == (None, None) and real.fresh_truth[1][0] is None
    galaxy, y = real.fresh_truth[1][1], real.fresh[1].y
    assert float(galaxy.amax((1, 2, 3)).min()) > 0
    assert float(galaxy.min()) >= 0  # a model, without noise
    assert float((y - galaxy).median()) == pytest.approx(0.05, abs=0.02)  # the level of the sky
    assert len(real.sample_truth(0, 5, generator(0))) == 0 and len(real.sample_truth(1, 5, generator(0))) == 5
    with pytest.raises(MvssError, match="nobody knows"):
        clean_views(real)


def test_no_galaxy_is_held_out_of_the_fit_and_learned_from_turned() -> None:
    stamps = small("real", observations=1000).train[1].y
    alike = [min(turned(y, way).numpy().tobytes() for way in range(8)) for y in stamps]
    held = held_out_count(len(stamps), EMConfig().held_out)
    assert held > 4 and not set(alike[:held]) & set(alike[held:])


def test_shares_that_would_part_copies_of_a_galaxy_are_refused() -> None:
    def preset(recipe: Recipe, **more: object) -> GalaxiesConfig:
        return GalaxiesConfig(**{"problems": ("real",), "methods": {"ours": recipe}, **more})

    tenth = Recipe(settings=Settings(em=EMConfig(held_out=0.1)))
    for recipe in (tenth, Recipe(share=0.5)):
        with pytest.raises(MvssError, match="method ours: copies of a galaxy would be held out and learned from: set"):
            preset(recipe)
    preset(Recipe(settings=Settings(em=EMConfig(held_out=0.0))))
    preset(tenth, copies=1)
    preset(tenth, problems=("simulated",))


def test_the_transform_has_an_inverse_and_a_slope() -> None:
    x = torch.linspace(-0.5, 20.0, 300, dtype=torch.float64)
    assert torch.allclose(fluxes(transformed(x, "asinh"), "asinh"), x)
    assert float(transformed(torch.tensor(1e-6).double(), "asinh")) == pytest.approx(1e-6 * slope_of("asinh"))
    assert torch.equal(transformed(x, "linear"), x) and transform_of("real", "asinh") == "linear"


def test_the_same_sky_is_there_with_and_without_asinh(simulated: GalaxiesTask) -> None:
    seen = small("simulated-asinh")
    good = simulated.fresh[1].operators[SKY].forward(torch.ones_like(simulated.fresh_truth[1][0])) > 0
    for plain, bent in zip(
        (simulated.fresh[1].y[good], *simulated.fresh_truth[1]),
        (seen.fresh[1].y[good], *seen.fresh_truth[1]),
        strict=True,
    ):
        torch.testing.assert_close(transformed(plain, "asinh"), bent)


class Oracle:
    """Draws around the truth of the fresh galaxies, with an error of `width`."""

    sources = (SKY, GALAXY)

    def __init__(self, task: GalaxiesTask, width: float) -> None:
        self.truth, self.width = known(task.fresh_truth[1]), width

    def separate(
        self, view: View, draws: int = 1, seed: int | Stream = 0, progress: Callable[[float], None] = lambda _: None
    ) -> Draws:
        noise = torch.randn(2, draws, *self.truth[GALAXY].shape, generator=stream_of(seed).generator(), dtype=torch.float64)
        return {source: x + self.width * z for (source, x), z in zip(self.truth.items(), noise, strict=True)}

    def sample(self, source: str, count: int, seed: int | Stream = 0, stratified: bool = False) -> Tensor:
        raise NotImplementedError


class Blind:
    """Sees nothing of either source."""

    sources = (SKY, GALAXY)

    def separate(
        self, view: View, draws: int = 1, seed: int | Stream = 0, progress: Callable[[float], None] = lambda _: None
    ) -> Draws:
        return {source: torch.zeros(draws, *view.y.shape, dtype=torch.float64) for source in self.sources}

    def sample(self, source: str, count: int, seed: int | Stream = 0, stratified: bool = False) -> Tensor:
        raise NotImplementedError


def test_a_perfect_separation_is_judged_perfect(simulated: GalaxiesTask) -> None:
    scores = {key: value for key, (value, _) in simulated.judge(Oracle(simulated, 1e-6), Stream(0)).scores.items()}
    assert scores["2", "psnr_peak"] > 80 and abs(scores["2", "flux_bias"]) < 1e-4 and scores["2", "flux_scatter"] < 1e-4
    assert scores["2", "centroid_error"] < 1e-3 and abs(scores["2", "leftover_light"]) < 1e-3
    assert scores["mean", "residual_chi2"] == pytest.approx(1.0, abs=0.1)
    assert scores["mean", "held_out_chi2"] == pytest.approx(1.0, abs=0.3)
    assert scores["mean", "held_out_log_likelihood"] == pytest.approx(-1.42, abs=0.15)
    worse = simulated.judge(Oracle(simulated, 0.1), Stream(0)).scores
    assert worse["2", "psnr_peak"][0] < scores["2", "psnr_peak"] and worse["2", "psnr_peak"][1] == 8


def test_pixels_are_held_out_of_the_first_stamps_alone(simulated: GalaxiesTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.galaxies.data.task.PREDICTED", 3)
    seen: list[int] = []

    class Counting(Oracle):
        def separate(
            self, view: View, draws: int = 1, seed: int | Stream = 0, progress: Callable[[float], None] = lambda _: None
        ) -> Draws:
            seen.append(len(view))
            return {source: x[:, : len(view)] for source, x in super().separate(view, draws, seed).items()}

    scores = simulated.judge(Counting(simulated, 1e-6), Stream(0)).scores
    assert seen == [8, 3] and scores["mean", "held_out_chi2"][1] == 3


def test_clean_sources_are_had_of_stamps_with_noise_of_their_own(simulated: GalaxiesTask) -> None:
    assert [len(view) for view in clean_views(simulated)] == [26, 12]


def test_a_method_without_a_sky_has_no_residual(simulated: GalaxiesTask) -> None:
    scores = simulated.judge(simulated.rival("segmentation"), Stream(0)).scores
    assert ("2", "psnr_peak") in scores and not {("mean", "residual_chi2"), ("2", "flux_coverage")} & scores.keys()


def test_methods_of_their_own_and_problems_are_known_by_name(simulated: GalaxiesTask, tmp_path: Path) -> None:
    with pytest.raises(MvssError, match="known: segmentation, aperture"):
        simulated.rival("photometry")
    with pytest.raises(MvssError, match="did you mean 'simulated'"):
        problem_named("simulate")
    config = read_command(MANIFOLDS, ["--preset", "smoke"], ROOT).config
    job = Job("mixed-0.1", "cut", 0, Recipe(model="segmentation"), config)
    with pytest.raises(MvssError, match="another experiment"):
        run_baseline(job, MANIFOLDS.task("mixed-0.1", 0, config), tmp_path, lambda _: None, lambda *_: None, tmp_path)
    with pytest.raises(MvssError, match="draws must be 6"):
        GalaxiesConfig(draws=2)


@pytest.mark.slow
def test_what_is_learned_separates_real_galaxies_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch)
    monkeypatch.setattr(FIGURES, lambda _: [])
    monkeypatch.setattr("experiments.galaxies.data.injection.MODELS", 20)
    sizes = ["fresh=8", "observations=16", "random_fields=16", "workers=1"]
    scores = ["metrics.drawn=4", "metrics.draws=2"]  # as far as a truth is known
    few = ["problems=[real]", "methods.mixture.problems=[simulated]", *sizes, *scores]
    few += [f"methods.{method}.problems=[simulated]" for method in ("aperture", "pcpca", "clvm_linear")]
    networks = ("settings.prior.network", "methods.joint.settings.estimation.noisier2noise.network")
    few += [f"{network}.blocks=[8]" for network in networks]
    arguments = ["--preset", "smoke", "--", *few]
    monkeypatch.setattr(separate, "ROOT", tmp_path)
    assert separate.main(arguments) == 2  # nothing is learned yet
    assert separate.main(["--problem", "ground", "--preset", "smoke"]) == 2
    assert "no file is made of ground" in capsys.readouterr().err
    assert main(EXPERIMENT, arguments, tmp_path) == 0
    assert separate.main(arguments) == 0
    command = read_command(EXPERIMENT, arguments, tmp_path)
    assert {job.method for job in jobs_of(command.config, (0,))} == {"joint", "segmentation", "floor"}
    product = read_product(command.folder / "seed-0" / "separated-real.h5")
    assert product.draws.shape[1:] == (6, 16, 16) and "half_light_radius" in product.catalogue
    assert "PROBLEM=real" in product.command


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An archive of a user's mosaic, which is the deep field, and a catalogue of nothing but positions, sky `(M, 2)`."""
    folder = tmp_path_factory.mktemp("own")
    found, scale = detections(), 0.05 / 3600
    bright = found.flux > LIMIT
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 500.0, "CRPIX2": 436.0}
    header = fits.Header(cards | {"CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale})
    (folder / "mosaics").mkdir()
    fits.writeto(folder / "mosaics" / "deep_drz.fits", grey().astype("float32"), header)
    sky = WCS(header).all_pix2world(np.stack([found.x[bright], found.y[bright]], axis=1), 0)
    Table({"RA": sky[:, 0], "DEC": sky[:, 1]}).write(folder / "where.csv", format="ascii.csv")
    build(folder / "mosaics", folder / "where.csv", folder / "own.h5", pixels=16)
    return SimpleNamespace(path=folder / "own.h5", sky=sky, scale=scale)


def test_a_users_mosaics_need_no_more_than_positions(
    own: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From FITS and two columns to scored galaxies that know where in the sky they are."""
    run_here(monkeypatch)
    monkeypatch.setattr(FIGURES, lambda _: [])
    sizes = ["fresh=8", "observations=9999", "random_fields=16", "pixels=16", f"archive={own.path}", "workers=1"]
    arguments = ["--preset", "smoke", "--methods", "segmentation", "--", "problems=[archive]", *sizes]
    assert main(EXPERIMENT, arguments, tmp_path) == 0
    command = read_command(EXPERIMENT, arguments, tmp_path)
    (job,) = (job for job in jobs_of(command.config, (0,)) if job.method == "segmentation")
    assert is_done(EXPERIMENT, job, command.folder)
    with h5py.File(own.path, "r+") as file:  # as another folder of mosaics would have it
        inputs, file.attrs["inputs"] = file.attrs["inputs"], "other"
    assert not is_done(EXPERIMENT, job, command.folder)
    with h5py.File(own.path, "r+") as file:
        file.attrs["inputs"] = inputs
    monkeypatch.setattr(separate, "ROOT", tmp_path)
    assert separate.main(["--problem", "archive", "--preset", "smoke"]) == 2
    assert "give FOLDER=, PIXELS= and ARGS=" in capsys.readouterr().err
    task = make_task("archive", 0, command.config)
    assert len(task.train[1]) > 200 and len(task.train[0]) == 16
    monkeypatch.setattr("experiments.galaxies.data.task.AT_ONCE", 100)
    parts = list(task.separate(Blind(), Stream(0)))
    stamps = parts[-1][2]
    assert sum(len(part[2]) for part in parts) == len(open_archive(own.path, "all", True)) > len(task.train[1])
    world = WCS(fits.Header.fromstring(stamps.wcs[3])).all_pix2world([[7.5, 7.5]], 0)[0]
    assert np.hypot(*((own.sky - world) * [np.cos(np.radians(2)), 1]).T).min() < 0.8 * own.scale


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
def test_every_preset_loads(preset: str) -> None:
    config = read_command(EXPERIMENT, ["--preset", preset], ROOT).config
    config = replace(config, problems=("archive",))
    assert {"joint", "mixture", "segmentation", "aperture"} <= {job.method for job in jobs_of(config, [0])}


@pytest.mark.slow
def test_the_papers_preset_is_built_and_runs_two_steps(own: SimpleNamespace, tmp_path: Path) -> None:
    sizes = ["fresh=8", "observations=16", "random_fields=16", "pixels=16", "draws=6", f"archive={own.path}"]
    sizes += ["metrics.drawn=4", "metrics.draws=2", "metrics.pqmass=8", "metrics.references=4"]
    of = {name: f"methods.{name}.settings" for name in ("joint", "joint_paper")}
    pairs = f"{of['joint']}.estimation.noisier2noise"
    networks = ("settings.prior.network", f"{pairs}.network")
    shallow = [f"{name}.{cut}" for name in networks for cut in ("blocks=[8,8]", "layers=1")]
    trained = ("settings.training", f"{pairs}.training", f"{of['joint']}.em.guess", f"{of['joint_paper']}.training")
    few = [f"{name}.steps=2" for name in trained]
    drawn = ("settings.posterior", "settings.posterior.others", f"{of['joint_paper']}.posterior")
    few += [f"{name}.sampler.steps=2" for name in drawn] + ["settings.prior.sampler.steps=2"]
    few += [f"{of['joint_paper']}.posterior.solver.iterations=2"]
    laps = [f"{settings}.em.laps=[1,1]" for settings in of.values()]
    cuts = [*sizes, *shallow, *few, *laps, "settings.estimation.ranks=[4,4]"]
    config = read_command(EXPERIMENT, ["--preset", "paper", "--", *cuts], ROOT).config
    task = make_task("archive", 0, config)
    for job in jobs_of(config, [0]):
        if job.method.startswith("joint"):
            found: list[Record] = []
            shared = tmp_path / f"estimate-{job.method}.safetensors"
            run_job(job, task, tmp_path / job.method, found.append, lambda *_: None, shared)
            assert {r["value"] for r in found if r["metric"] == "laps"} == {2}


def test_galaxies_are_drawn_by_what_has_learned_to() -> None:
    """Wherever a view of random fields is another less the galaxy, from the ground, too; with dynamic networks."""
    base = ball((1, 16, 16), 0.3)

    def begun(problem: str, method: str, *overrides: str) -> SourceSeparator:
        config = read_command(EXPERIMENT, ["--preset", "smoke", "--", *overrides], ROOT).config
        task = make_task(problem, 0, config)
        estimate = Estimate(dict.fromkeys(task.train.sources, base))
        return SourceSeparator(config.methods[method].settings).begin(task.train, estimate, 0)

    for problem, method in (("simulated", "joint"), ("ground", "joint_wide")):
        model = begun(problem, method)
        assert list(model.amortised) == [GALAXY]
        priors = [prior for prior in model.priors.values() if isinstance(prior, DiffusionPrior)]
        assert len(priors) == 2 and all(prior.dynamic and prior.learns_variance for prior in priors)
    matching = "settings.posterior={kind: moment_matching, sampler: {steps: 2}}"
    assert not begun("simulated", "joint", matching).amortised
    learner = begun("simulated", "joint", "methods.joint.settings.em.amortised={turns: false, holes: 0.3}").amortised[GALAXY]
    assert (learner.turns, learner.holes) == (False, 0.3)
    # nothing of it is learned
    assert not begun("simulated", "joint", "settings.prior.closed=[galaxy]").amortised


def test_turned_batches_hold_each_of_the_eight_turns() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3).expand(8, 1, 3, 3)
    found = {tuple(t.flatten().tolist()) for t in turned_each(x, torch.arange(8))}
    assert len(found) == 8
    assert torch.equal(turned_each(x, torch.zeros(8, dtype=torch.long)), x)
    assert all(torch.equal(turned(turned(x, number), number, back=True), x) for number in range(8))
