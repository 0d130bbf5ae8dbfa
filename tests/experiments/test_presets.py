"""Every method of every preset is one that there is: a separator whose networks are built, with laps for all its stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from closed_forms import ball

from experiments.core.cli import ROOT, main, read_command
from experiments.core.config import Recipe
from experiments.core.durations import read_times
from experiments.core.places import Experiment
from experiments.core.task import Task
from experiments.galaxies.__main__ import EXPERIMENT as GALAXIES
from experiments.galaxies.config import GalaxiesConfig
from experiments.galaxies.data.task import GalaxiesTask
from experiments.manifolds.__main__ import EXPERIMENT as MANIFOLDS
from experiments.manifolds.data import ManifoldTask
from experiments.mnist_grass.__main__ import EXPERIMENT as MNIST_GRASS
from experiments.mnist_grass.config import MnistGrassConfig
from experiments.mnist_grass.data import MnistGrassTask
from mvss.em import plan_stages
from mvss.estimation import Estimate
from mvss.presets.posterior import AmortisedConfig, SamplerConfig
from mvss.presets.reader import available_presets
from mvss.presets.settings import Settings
from mvss.priors.diffusion import DiffusionPrior
from mvss.problem.views import Views
from mvss.separator import SourceSeparator


@cache
def manifolds(problem: str) -> Task:
    return ManifoldTask(problem, 0, 16, 16)


@cache
def mnist_grass(problem: str) -> Task:
    return MnistGrassTask(problem, 0, MnistGrassConfig(observations=12, grass_observations=12, fresh=6))


@cache
def galaxies(problem: str) -> Task:
    """An archive's views are as those of the simulation."""
    config = GalaxiesConfig(observations=6, random_fields=6, fresh=6, pixels=16)
    return GalaxiesTask("simulated" if problem == "archive" else problem, 0, config)


TASKS: dict[str, tuple[Experiment, Callable[[str], Task]]] = {
    "manifolds": (MANIFOLDS, manifolds),
    "mnist_grass": (MNIST_GRASS, mnist_grass),
    "galaxies": (GALAXIES, galaxies),
}
PRESETS = [(name, preset) for name, (e, _) in TASKS.items() for preset in available_presets(e.folder / "presets")]


def narrow(settings: Settings) -> Settings:
    """The same with networks as deep, but cheap."""
    network = settings.prior.network
    if network is None:
        return settings
    return replace(settings, prior=replace(settings.prior, network=replace(network, blocks=(8,) * len(network.blocks))))


def begun(recipe: Recipe, views: Views) -> SourceSeparator:
    estimate = Estimate({source: ball(shape, 0.3) for source, shape in views.shapes.items()})
    return SourceSeparator(narrow(recipe.settings)).begin(views, estimate, 0)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_method_of_a_preset_can_begin(name: str, preset: str) -> None:
    experiment, task_of = TASKS[name]
    config = read_command(experiment, ["--preset", preset], ROOT).config
    for method, recipe in config.recipes().items():
        if recipe.baseline or recipe.fit:
            continue
        settings = recipe.settings
        for problem in dict.fromkeys(map(config.learned, recipe.problems or config.problems)):
            views = task_of(problem).train
            model, where = begun(recipe, views), f"{method} on {problem}"
            assert model.sources == views.sources, where
            learning = [source for source in views.sources if settings.prior.network and source not in settings.prior.closed]
            assert [s for s, prior in model.priors.items() if isinstance(prior, DiffusionPrior)] == learning, where
            stages = plan_stages(views, settings, learning)
            assert {source for stage in stages for source in stage.sources} == set(learning), where
            assert bool(model.amortised) == (bool(learning) and isinstance(settings.posterior, AmortisedConfig)), where


def samplers(config: object) -> Iterator[SamplerConfig]:
    """Those whose noise levels are in units of the sources."""
    if isinstance(config, SamplerConfig):
        yield config
    elif isinstance(config, tuple):
        yield from (found for part in config for found in samplers(part))
    elif is_dataclass(config):
        own = "sampler" if isinstance(config, AmortisedConfig) else ""
        yield from (found for field in fields(config) if field.name != own for found in samplers(getattr(config, field.name)))


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_networks_are_asked_for_noise_levels_that_they_have_learned(name: str, preset: str) -> None:
    for method, recipe in read_command(TASKS[name][0], ["--preset", preset], ROOT).config.recipes().items():
        settings = recipe.settings
        if not (recipe.baseline or settings.prior.network is None):
            for run in samplers((settings.posterior, settings.separation, settings.prior.sampler)):
                assert settings.training.sigma_min <= run.sigma_min <= run.sigma_start <= settings.training.sigma_max, method


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_dry_run_of_a_preset_tells_its_jobs_and_time_and_trains_nothing(
    name: str, preset: str, tmp_path: Path, archive: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, _ = TASKS[name]
    own = ["--", f"archive={archive.out}"] if (name, preset) == ("galaxies", "paper") else []
    ablations = ["--ablations"] if read_command(experiment, ["--preset", preset], ROOT).config.ablations else []
    assert main(experiment, ["--preset", preset, *ablations, "--dry-run", *own], tmp_path) == 0
    where, said, *jobs = capsys.readouterr().out.splitlines()
    assert where.startswith(f"results: {tmp_path / 'results' / 'runs' / name / preset}")
    assert f", preset {preset}, seeds 0: {len(jobs)} of {len(jobs)} jobs to run, " in said and jobs
    known = {kind.partition(" ")[2] for kind in read_times(ROOT / "results" / name / preset / "times.json")}
    timed = {job.split()[1] for job in jobs} <= known  # new ones are timed when they are published
    assert re.search(r", in about \d+ h \d\d min$", said) if timed else said.endswith(", in a time that nobody has measured")
    assert list(tmp_path.iterdir()) == []


def test_every_preset_is_tried() -> None:
    there = {(path.parents[1].name, path.stem) for path in (ROOT / "experiments").glob("*/presets/*.yaml")}
    assert there == set(PRESETS)
