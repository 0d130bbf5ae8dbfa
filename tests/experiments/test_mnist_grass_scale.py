"""`make mnist-grass-scale`: runs of several numbers of mixtures, as any command has them, and the curve that they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch
from brought_digits import write_digits
from in_process import run_here

from experiments.core.cache import received, settings_key
from experiments.core.cli import Command, read_command
from experiments.core.cli import main as run
from experiments.core.experiment import Experiment
from experiments.core.places import jobs_of
from experiments.mnist_grass import scale
from experiments.mnist_grass.__main__ import EXPERIMENT
from experiments.mnist_grass.classifier import trained_classifier
from experiments.mnist_grass.config import MnistGrassConfig
from experiments.mnist_grass.data import MnistGrassTask
from experiments.mnist_grass.digits import mnist_digits
from experiments.mnist_grass.figures_scale import draw_scale
from experiments.mnist_grass.scale import COLUMNS, METHODS, measure_scale
from experiments.report.metrics import write_metrics
from mvss.runtime.fingerprint import digest


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    yield
    mnist_digits.cache_clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """The runs that are asked for; each leaves scores that tell of which they are."""
    commands: list[Command] = []

    def leave(experiment: Experiment, command: Command) -> int:
        commands.append(command)
        if command.dry_run:
            return 0
        records = []
        for number, method in enumerate(command.methods):
            for place, (source, metric, *_) in enumerate(COLUMNS):
                if method == "floor" and metric != "prior_frechet":
                    continue
                value = 100 * command.config.observations + 10 * number + place
                record = {"seed": 100, "problem": "full", "method": method, "source": source, "metric": metric, "samples": 1}
                records.append({**record, "split": "fresh", "lap": None, "value": float(value), "commit": "abc1234"})
                records.append({**record, "split": "fresh", "lap": 0, "value": -1.0, "commit": "abc1234"})
                records.append({**record, "split": "train", "lap": None, "value": -2.0, "commit": "abc1234"})
        write_metrics(command.folder / "seed-100" / "metrics.jsonl", records)
        return 0

    monkeypatch.setattr(scale, "run", leave)
    return commands


def brought(folder: Path, count: int = 70) -> str:
    (folder / "brought").mkdir(exist_ok=True)
    return f"mnist={write_digits(folder / 'brought', count)}"


def test_each_number_is_a_run_and_their_scores_are_one_curve(tmp_path: Path, asked: list[Command]) -> None:
    digits = brought(tmp_path)
    assert measure_scale(EXPERIMENT, ["--preset", "smoke", "--seeds", "0", "--", digits], tmp_path) == 0
    home = tmp_path / "results/runs/mnist_grass/smoke"
    assert [command.folder for command in asked] == [home / f"overrides-scale-{n}" for n in (24, 40)]
    for command, count in zip(asked, (24, 40), strict=True):
        config = command.config
        assert isinstance(config, MnistGrassConfig)
        assert (command.seeds, command.problems, command.methods) == ((100,), ("full",), METHODS)
        assert (config.observations, config.grass_observations, config.fresh, config.metrics.drawn) == (count, None, 20, 20)
        longer = ("methods.auto.settings.em.draws=1",) if count == 40 else ()
        own = (f"observations={count}", "grass_observations=null", "fresh=20", "metrics.drawn=20")
        assert command.overrides == (digits, *own, *longer)
        assert config.recipes()["auto"].settings.em.draws == (1 if longer else 2)
    found = json.loads((home / "scale.json").read_text())
    assert [(row["observations"], row["method"]) for row in found["rows"]] == [(n, m) for n in (24, 40) for m in METHODS]
    assert found["rows"][4]["posterior_psnr"] == 4000 and found["rows"][7]["posterior_psnr"] is None
    assert found["rows"][7]["prior_frechet"] == 4035
    assert (found["seed"], found["fresh"], found["digits"], found["paper"]) == (100, 20, {"0": 35, "1": 35}, [])
    said = (home / "scale.md").read_text()
    assert "seed: 100, which tunes" in said and "**The numbers mean nothing" in said and "| 40 | `joint` | 4000.00 |" in said
    assert 'make mnist-grass-scale PRESET=smoke ARGS="mnist=/path/to/digits"' in said and str(tmp_path) not in said
    assert "Of 40 mixtures with these settings in place of the preset's: `methods.auto.settings.em.draws=1`." in said
    assert "Of 24 mixtures" not in said
    assert found["sha256"] in said and len(found["sha256"]) == 64
    assert all((home / "figures" / f"scale.{kind}").stat().st_size > 2000 for kind in ("png", "pdf"))


def test_the_papers_points_stand_beside(tmp_path: Path, asked: list[Command]) -> None:
    sizes = ["scale.observations=[20, 30]", "scale.fresh=20", "metrics.references=4", "metrics.pqmass=16"]
    assert measure_scale(EXPERIMENT, ["--", brought(tmp_path), *sizes], tmp_path) == 0
    (path,) = tmp_path.rglob("scale.json")
    preset = tmp_path / "results/runs/mnist_grass/cpu"
    assert path.parent.parent == preset and asked[0].folder == Path(f"{path.parent}-scale-20")  # not the preset as it is
    paper = {(row["observations"], row["posterior_psnr"]) for row in json.loads(path.read_text())["paper"]}
    assert paper == {(216, 15.34), (864, 20.97), (3456, 23.67), (13824, 25.6), (13824, 27.15)}
    assert "| 216 | `joint_data_64th` | 15.34 |" in path.with_name("scale.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset", "smoke", "--", "mnist=BROUGHT"], "observations + fresh = 60 need as many digits, there are 50"),
        (["--preset", "smoke"], "seed 100 tunes, and the embedded digits are reported: name others"),
        (["--preset", "gpu", "--", "mnist=BROUGHT", "scale.observations=[]"], "has no scale.observations: take another one"),
        (["--preset", "smoke", "--", "scale.observations=[24, 1]"], r"scale.observations=[24, 1] must be at least 2"),
        (["--preset", "smoke", "--seeds", "1"], "--seeds says nothing to this command"),
        (["--preset", "smoke", "--methods", "joint"], "--methods says nothing to this command"),
        (["--preset", "smoke", "--report"], "--report says nothing to this command"),
    ],
)
def test_what_cannot_end_well_is_told_before_anything_runs(
    arguments: list[str], says: str, tmp_path: Path, asked: list[Command], capsys: pytest.CaptureFixture[str]
) -> None:
    digits = brought(tmp_path, 50)
    assert measure_scale(EXPERIMENT, [digits if word == "mnist=BROUGHT" else word for word in arguments], tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("mnist-grass-scale: ") and says in error and error.count("\n") == 1
    assert not asked and not (tmp_path / "results").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path, asked: list[Command]) -> None:
    assert measure_scale(EXPERIMENT, ["--preset", "smoke", "--dry-run", "--", brought(tmp_path)], tmp_path) == 0
    assert len(asked) == 2 and all(command.dry_run for command in asked) and not (tmp_path / "results").exists()


def test_other_numbers_on_the_curve_are_no_other_jobs(tmp_path: Path) -> None:
    jobs = [
        jobs_of(read_command(EXPERIMENT, ["--preset", "smoke", "--", *more], tmp_path).config, [0])[1]
        for more in ((), ("scale.observations=[9]", "scale.fresh=9"))
    ]
    assert jobs[0].config != jobs[1].config and received(jobs[0]) == received(jobs[1])
    assert len({settings_key(job, EXPERIMENT.data) for job in jobs}) == 1
    assert len({digest(job.config) for job in jobs}) == 1  # nor would they be if the curve had one setting more


def test_a_curve_that_cannot_be_read_has_no_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_scale(tmp_path) == []
    (tmp_path / "scale.json").write_text('{"rows": [')
    assert draw_scale(tmp_path) == [] and "is left out" in capsys.readouterr().err


def test_data_take_five_images_for_each_mixture_and_no_more(tmp_path: Path) -> None:
    """Two of y, two of grass and the digit, whatever else looks at them."""
    digits = write_digits(tmp_path, 500)

    def size(count: int) -> int:
        task = MnistGrassTask("full", 100, MnistGrassConfig(mnist=digits, observations=count, fresh=20))
        seen = [*(view.y for view in task.train), *chain(*task.train_truth, *task._clean)]
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in seen}
        return sum(storages.values())

    each, image = (size(400) - size(200)) / 200, 784 * torch.float64.itemsize
    assert each == pytest.approx(5 * image, rel=0.01)


@pytest.mark.slow
def test_a_curve_of_smoke_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    monkeypatch.setattr("experiments.mnist_grass.data.DETECTED", 64)
    monkeypatch.setattr("experiments.core.floor.SPLITS", 2)
    monkeypatch.setattr("experiments.mnist_grass.classifier.EPOCHS", 1)
    monkeypatch.setattr("experiments.mnist_grass.data.trained_classifier", partial(trained_classifier, folder=tmp_path))
    call = ["--preset", "smoke", "--", brought(tmp_path)]
    assert measure_scale(EXPERIMENT, call, tmp_path) == 0
    (path,) = tmp_path.rglob("scale.json")
    first = json.loads(path.read_text())
    assert all(row["posterior_psnr"] > 0 for row in first["rows"] if row["method"] == "joint")
    assert all(row["prior_frechet"] > 0 for row in first["rows"])
    (table,) = tmp_path.rglob("overrides-scale-24/table.json")
    assert json.loads(table.read_text())["command"].startswith('make mnist-grass PRESET=smoke SEEDS="100" ARGS="mnist=')
    monkeypatch.setattr("experiments.core.loop.run_all", lambda _, jobs, *rest: pytest.fail("again") if jobs else None)
    assert measure_scale(EXPERIMENT, call, tmp_path) == 0
    assert json.loads(path.read_text()) == first
    assert run(EXPERIMENT, ["--preset", "smoke", "--dry-run"], tmp_path) == 0  # beside the curve
