"""Nothing that settings are chosen on is in what is reported: by the content of digits, grass, stamps and curves."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from brought_digits import noise, write_digits
from torch import Tensor

from experiments.core.cli import ROOT, main, read_command
from experiments.core.pools import tunes
from experiments.core.publish import publish
from experiments.core.sweep import SEEDS
from experiments.galaxies.config import GalaxiesConfig
from experiments.galaxies.data import simulation
from experiments.galaxies.data.deep_field import grey
from experiments.galaxies.data.stamps import Stamps
from experiments.galaxies.data.task import OTHERS, GalaxiesTask
from experiments.manifolds.data import ManifoldTask
from experiments.mnist_grass.__main__ import EXPERIMENT
from experiments.mnist_grass.config import MnistGrassConfig
from experiments.mnist_grass.data import MnistGrassTask
from experiments.mnist_grass.digits import mnist_digits
from experiments.mnist_grass.textures import PARTS, regions, texture_named
from mvss.runtime.errors import MvssError

REPORTED, TUNED = (0, 1, 2, 202), (100, 101, 199)
SIZES = {"observations": 800, "grass_observations": 60, "fresh": 200}


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    yield
    mnist_digits.cache_clear()
    texture_named.cache_clear()


def hashes(images: Iterable[Tensor]) -> set[str]:
    return {hashlib.sha256((255 * x).round().to(torch.uint8).numpy().tobytes()).hexdigest() for each in images for x in each}


def test_a_command_has_seeds_of_one_kind() -> None:
    assert [seed for seed in (*REPORTED, 99, 200) if tunes(seed)] == [] and all(map(tunes, (*TUNED, *SEEDS)))
    with pytest.raises(MvssError, match="seeds 100 to 199 tune and the others are reported: run 100 in a command apart"):
        read_command(EXPERIMENT, ["--preset", "smoke", "--seeds", "0", "100"], ROOT)
    assert read_command(EXPERIMENT, ["--preset", "smoke", "--seeds", "100", "101"], ROOT).seeds == (100, 101)


@pytest.mark.parametrize("name", ["manifolds", "mnist_grass", "galaxies"])
def test_sealed_seeds_are_run_by_no_command(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    experiment = importlib.import_module(f"experiments.{name}.__main__").EXPERIMENT
    for kind in (["--dry-run"], ["--report"], ["--audit"], []):
        assert main(experiment, ["--preset", "smoke", "--seeds", "0", "201", *kind], tmp_path) == 2
        told = capsys.readouterr().err
        assert "seed 201: 200 to 202 are sealed" in told and "experiments/core/pools.py" in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_seeds_that_tune_are_not_published(tmp_path: Path) -> None:
    for seed in (0, 100):
        (tmp_path / f"mnist_grass/smoke/seed-{seed}").mkdir(parents=True)
    with pytest.raises(MvssError, match=r"has seeds \[100\], which tune and are not published"):
        publish(tmp_path / "mnist_grass/smoke", tmp_path)


def test_digits_that_are_scored_are_in_no_mixture_of_a_tuning_seed(tmp_path: Path) -> None:
    tuning = MnistGrassConfig(**SIZES, mnist=write_digits(tmp_path, 1000))
    reported, tuned = set[str](), set[str]()
    for seed in (0, 202):
        task = MnistGrassTask("full", seed, MnistGrassConfig(**SIZES))
        scored, mixed = hashes([task.fresh_truth[1][1]]), hashes([task.train_truth[1][1]])
        assert (len(scored), len(mixed), len(scored & mixed)) == (200, 800, 0)
        reported |= scored | mixed
    for seed in TUNED[:2]:
        task = MnistGrassTask("full", seed, tuning)
        tuned |= hashes([task.train_truth[1][1], task.fresh_truth[1][1]])
    assert len(reported) == 1000 and len(tuned) == 1000 and not reported & tuned


@pytest.mark.parametrize(
    ("seed", "settings", "says"),
    [
        (100, {}, "seed 100 tunes, and the embedded digits are reported: name others, mnist=openml, a file or a folder"),
        (
            199,
            {"mnist": "FOLDER", "texture": "gravel"},
            "seed 199 tunes, on grass alone: leave gravel out, and the problem swap-background",
        ),
        (0, {"mnist": "FOLDER"}, "seed 0 is reported, and digits that you bring are for tuning: take a seed of 100 to 199"),
        (200, {"mnist": "FOLDER"}, "seed 200 is reported"),
    ],
)
def test_a_seed_with_the_other_pool_is_refused(seed: int, settings: dict[str, str], says: str, tmp_path: Path) -> None:
    folder = write_digits(tmp_path, 40)
    settings = {key: folder if value == "FOLDER" else value for key, value in settings.items()}
    with pytest.raises(MvssError, match=says) as told:
        MnistGrassTask("full", seed, MnistGrassConfig(observations=20, fresh=8, **settings))
    assert "\n" not in str(told.value)


def test_tuning_on_all_of_mnist_is_without_the_embedded_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded, classes = mnist_digits("embedded")
    shown = torch.isin(classes, torch.tensor([0, 1]))
    more, named = noise(40)
    pixels = np.concatenate([embedded[shown].flatten(1).numpy(), more]).astype(float)
    names = np.concatenate([classes[shown].numpy(), named]).astype(str)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *_, **__: SimpleNamespace(data=pixels, target=names))
    config = MnistGrassConfig(observations=30, fresh=10, mnist="openml")
    tuning, reported = (MnistGrassTask("full", seed, config) for seed in (100, 0))
    used = [hashes([task.train_truth[1][1], task.fresh_truth[1][1]]) for task in (tuning, reported)]
    assert used[0] == {hashlib.sha256(row.tobytes()).hexdigest() for row in more} and not used[0] >= used[1]
    with pytest.raises(MvssError, match="there are 40"):
        MnistGrassTask("full", 100, MnistGrassConfig(observations=31, fresh=10, mnist="openml"))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"pixels": np.zeros((4, 784), np.uint8)}, "needs the arrays pixels and classes"),
        ({"pixels": np.zeros((4, 100), np.uint8), "classes": np.zeros(4, int)}, r"must be \(N, 784\) of uint8"),
        ({"pixels": np.zeros((4, 784)), "classes": np.zeros(4, int)}, "of uint8"),
        ({"pixels": np.zeros((4, 784), np.uint8), "classes": np.full(4, 10)}, "from 0 to 9"),
    ],
)
def test_what_is_no_folder_of_digits_is_refused(arrays: dict[str, np.ndarray], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", **arrays)
    with pytest.raises(MvssError, match=says):
        MnistGrassConfig(mnist=str(tmp_path))


def test_other_digits_in_the_folder_are_other_data(tmp_path: Path) -> None:
    before = MnistGrassConfig(mnist=write_digits(tmp_path, 40))
    write_digits(tmp_path, 50)
    mnist_digits.cache_clear()
    assert MnistGrassConfig(mnist=str(tmp_path)) != before
    with pytest.raises(MvssError, match="changed during the run"):
        MnistGrassTask("full", 100, before)


def test_no_pixel_of_grass_is_in_two_parts_or_in_those_of_both_kinds_of_seeds() -> None:
    """By the coordinates of pixels; and that crops are of these, by a photograph that shows to which part a pixel belongs."""
    coordinates = torch.arange(512 * 512).reshape(512, 512)
    tuned, orders = set[int](), set[tuple[int, ...]]()
    for seed in (*TUNED, *REPORTED, *range(3, 12)):
        parts = [coordinates[region].flatten().tolist() for region in regions((512, 512), seed).values()]
        pixels = set().union(*parts)
        assert len(pixels) == sum(map(len, parts))
        tuned |= pixels if tunes(seed) else set()
        orders |= set() if tunes(seed) else {tuple(part[0] for part in parts)}
        assert tunes(seed) or (len(pixels) == 3 * 256 * 256 and not pixels & tuned)
    assert len(tuned) == 256 * 256 and len(orders) == 6  # fixed; and every order of the others


@pytest.mark.parametrize("seed", [0, 1, 202, 100, 199])
def test_crops_of_a_view_are_of_its_part_alone(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"view 1": 10, "view 2": 20, "fresh": 30}
    painted = np.full((512, 512), 255, np.uint8)
    for part in PARTS:
        painted[regions((512, 512), seed)[part]] = own[part]
    monkeypatch.setattr("skimage.data.grass", lambda: painted)
    texture_named.cache_clear()
    mnist = {"mnist": write_digits(tmp_path, 70)} if tunes(seed) else {}
    task = MnistGrassTask("full", seed, MnistGrassConfig(observations=50, fresh=20, **mnist))
    seen = (task.train_truth[0][0], task.train_truth[1][0], task.fresh_truth[0][0], task.fresh_truth[1][0])
    again = task.sample_truth(0, 50, torch.Generator().manual_seed(0))
    for grass, part in zip((*seen, again), (*PARTS, "fresh", "fresh"), strict=True):
        torch.testing.assert_close(255 * grass, torch.full_like(grass, own[part]))


GALAXIES = GalaxiesConfig(observations=6, random_fields=6, fresh=5, pixels=16, draws=6)


@pytest.mark.parametrize("problem", ["simulated", "multi-resolution"])
def test_simulated_stamps_of_tuning_seeds_share_nothing_with_others(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[bool, set[tuple[object, ...]]] = {True: set(), False: set()}
    content: dict[bool, set[bytes]] = {True: set(), False: set()}
    simulation.simulate.cache_clear()
    simulation.simulate_ground.cache_clear()
    whose, generator, stream = [False], simulation.generator, simulation.Stream

    def drawn(seed: int, *key: object) -> object:
        keys[whose[0]].add((seed, *key))
        return generator(seed, *key)  # type: ignore[arg-type]

    def keyed(seed: int, key: tuple[object, ...]) -> object:
        keys[whose[0]].add((seed, *key))
        return stream(seed, key)  # type: ignore[arg-type]

    monkeypatch.setattr(simulation, "generator", drawn)
    monkeypatch.setattr(simulation, "Stream", keyed)
    for seed in (0, 202, 100):
        whose[0] = tunes(seed)
        task = GalaxiesTask(problem, seed, GALAXIES)
        content[whose[0]] |= {y.numpy().tobytes() for data in (task.train, task.fresh) for view in data for y in view.y}
    assert all(len(found) > 15 for found in (*keys.values(), *content.values()))
    assert not keys[True] & keys[False] and not content[True] & content[False]


def test_seeds_of_the_simulation_cannot_reach_each_other() -> None:
    for seed in (OTHERS + 100, 100 - OTHERS):
        with pytest.raises(MvssError, match="would share scenes with others; take one from 0 to 999999"):
            GalaxiesTask("simulated", seed, GALAXIES)
    with pytest.raises(MvssError, match="seed 100 tunes, and an archive has no area for that"):
        GalaxiesTask("archive", 100, GALAXIES)


def test_no_pixel_of_the_deep_field_is_in_two_of_tuning_training_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.galaxies.data import task as module

    touched = {kind: np.zeros(grey().shape, bool) for kind in ("learned", "scored", "tuned")}
    cut = module.deep_field

    def noted(part: str, **asked: object) -> Stamps:
        stamps = cut(part, **asked)  # type: ignore[arg-type]
        kind = "learned" if part == "train" else "tuned" if tunes(int(str(asked["seed"]))) else "scored"
        for row, column in zip(stamps.catalogue["row"].tolist(), stamps.catalogue["column"].tolist(), strict=True):
            touched[kind][row : row + stamps.pixels, column : column + stamps.pixels] = True
        return stamps

    monkeypatch.setattr(module, "deep_field", noted)
    monkeypatch.setattr(module, "injected_into", lambda fields, _: fields)
    many = GalaxiesConfig(observations=760, random_fields=1500, fresh=600, draws=6)
    for seed in (0, 100):
        GalaxiesTask("real", seed, many)
    assert all(pixels.sum() > 50_000 for pixels in touched.values())
    assert np.sum(list(touched.values()), axis=0).max() == 1


@pytest.mark.parametrize("problem", ["contrastive-2", "surfaces"])
def test_curves_and_surfaces_of_tuning_seeds_are_others(problem: str) -> None:
    seen: dict[bool, set[bytes]] = {True: set(), False: set()}
    for seed in (0, 202, *SEEDS):
        task = ManifoldTask(problem, seed, 8, 8)
        laws = [law.factors[-9:].flatten(1) for law in task.exact_priors()]
        rows = [view.y for data in (task.train, task.fresh) for view in data]
        seen[tunes(seed)] |= {row.numpy().tobytes() for each in (*laws, *rows) for row in each}
    assert not seen[True] & seen[False] and all(len(found) > 60 for found in seen.values())
