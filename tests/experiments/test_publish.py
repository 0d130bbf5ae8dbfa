"""What is published is of a finished run, whole, and costs nobody a tracked file; `make clean` removes runs alone."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from experiments.core import publish as module
from experiments.core.clean import main as clean
from experiments.core.cli import ROOT, read_command
from experiments.core.cli import main as run
from experiments.core.config import Config, Job
from experiments.core.finished import finish
from experiments.core.kept_rows import kept_rows
from experiments.core.places import key_of, place_of, samples_of
from experiments.core.publish import main
from experiments.core.records import Records
from experiments.core.reporting import report
from experiments.manifolds.__main__ import EXPERIMENT as MANIFOLDS
from experiments.report.rebuild import main as rebuild
from experiments.report.samples import Results, read_samples
from mvss.runtime.files import atomic_write_bytes
from mvss.runtime.locks import locked

METHODS = ("exact", "mixture", "joint", "gibbs")
ALL = (*METHODS, "pcpca", "clvm_linear", "clvm_vae")
PROBLEMS = ("contrastive-2", "mixed-0.1")


def figures(results: Results) -> list[Path]:
    """Named after what they would show."""
    problem, table = results.problems[0], results.table
    shown = [m for m in METHODS if read_samples(results.folder, table, results.seed, problem, m)]
    path = results.folder / "figures" / f"{'-'.join(shown)}.png"
    atomic_write_bytes(path, b"figure")
    return [path]


EXPERIMENT = replace(MANIFOLDS, figures=figures)


@cache
def smoke() -> Config:
    return read_command(EXPERIMENT, ["--preset", "smoke"], ROOT).config


def done(root: Path, *methods: str, seeds: tuple[int, ...] = (0,), audit: bool = False, value: float = 1.0) -> Path:
    """The folder of a smoke run in which these methods are done, and reported."""
    config, folder = smoke(), root / "results" / "runs" / "manifolds" / "smoke"
    recipes = config.recipes()
    for job in (Job(p, m, s, recipes[m], config, audit) for s in seeds for p in PROBLEMS for m in methods):
        if job.problem not in (job.recipe.problems or PROBLEMS):
            continue
        metric = "audit_coverage_error" if audit else "posterior_psnr"
        score = {"source": "1", "metric": metric, "split": "fresh", "lap": None, "value": value, "samples": 2}
        Records(place_of(job, folder) / "records.jsonl").append(
            {"seed": job.seed, "problem": job.problem, "method": job.method, **score}
        )
        samples_of(job, folder).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(samples_of(job, folder), archive())
        (place_of(job, folder) / "key").write_text(key_of(EXPERIMENT, job))
        finish(job, folder, 1, key_of(EXPERIMENT, job), "abc1234", ((1.0, 10.0 * (seeds.index(job.seed) + 1)),))
    report(EXPERIMENT, config, seeds, folder)
    return folder


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, draws=np.arange(3.0))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "experiment_named", lambda name, folder: EXPERIMENT)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_published_and_its_table_can_be_made_again(tmp_path: Path) -> None:
    folder, target = done(tmp_path, *ALL, seeds=(0, 1)), tmp_path / "results" / "manifolds" / "smoke"
    (target / "seed-0").mkdir(parents=True)
    (target / "seed-0" / "notes.md").write_text("tracked\n")
    (folder / "scale.json").write_text("{}")
    others = ("joint", "joint_karras", "joint_of_old", "joint-audit")
    (target / "times.json").write_text(json.dumps({f"mixed-0.1 {method}": [[1.0, 4.0]] for method in others}))
    assert main([str(folder)], tmp_path) == 0
    published = tree(target)
    made = {"contrastive-2": [*ALL], "mixed-0.1": [*METHODS]}
    samples = {f"seed-0/samples/{problem}/{method}.npz" for problem in PROBLEMS for method in made[problem]}
    records = {f"seed-{seed}/{name}" for seed in (0, 1) for name in ("config.yaml", "metrics.jsonl")}
    assert published.keys() == samples | records | {
        "table.json", "table.md", "times.json", "scale.json", "figures/exact-mixture-joint-gibbs.png", "seed-0/notes.md"
    }  # fmt: skip
    assert json.loads(published["table.json"])["commits"] == {"abc1234": made}
    times = json.loads(published["times.json"])  # of two seeds one; those of others stay that the preset has
    assert times["mixed-0.1 joint"] == [[1.0, 10.0]]
    assert times["mixed-0.1 joint_karras"] == times["mixed-0.1 joint-audit"] == [[1.0, 4.0]]
    assert len(times) == 2 + sum(map(len, made.values()))
    assert rebuild([], tmp_path) == 0 and tree(target) == published  # runs are no part of `make tables`


def test_problems_stay_in_the_order_of_the_preset(tmp_path: Path) -> None:
    """Once those of the run came first, whatever had been published."""
    folder, target = done(tmp_path, *ALL), tmp_path / "results" / "manifolds" / "smoke"
    assert main([str(folder)], tmp_path) == 0
    shutil.rmtree(folder / "seed-0" / "model" / "mixed-0.1")
    report(EXPERIMENT, smoke(), (0,), folder)
    assert main([str(folder)], tmp_path) == 0
    rows = json.loads((target / "table.json").read_text())["rows"]
    assert tuple(dict.fromkeys(row["problem"] for row in rows)) == smoke().problems


def unfinished(root: Path) -> Path:
    return done(root, "exact", "joint")


def a_kind_begun(root: Path) -> Path:
    done(root, *ALL)
    return done(root, "joint_karras")


def an_audit_begun(root: Path) -> Path:
    done(root, *ALL)
    return done(root, "exact", audit=True)


def a_seed_begun(root: Path) -> Path:
    folder = done(root, *ALL)
    (folder / "seed-3").mkdir()
    return folder


def a_row_lost(root: Path, method: str = "joint_paper", metric: str = "posterior_psnr") -> Path:
    rows = {"rows": [{"problem": "mixed-0.1", "method": method, "metric": metric}]}
    (root / "results" / "manifolds" / "smoke").mkdir(parents=True)
    (root / "results" / "manifolds" / "smoke" / "table.json").write_text(json.dumps(rows))
    return done(root, *ALL)


def an_audit_lost(root: Path) -> Path:
    return a_row_lost(root, "joint", "audit_coverage_error")


@pytest.mark.parametrize(
    ("partial", "says"),
    [
        (unfinished, "mixed-0.1 mixture seed 0, mixed-0.1 gibbs seed 0, contrastive-2 mixture seed 0"),
        (a_kind_begun, "mixed-0.1 joint_plain_em seed 0"),
        (an_audit_begun, "contrastive-2 joint seed 0 audit"),
        (a_seed_begun, "contrastive-2 exact seed 3"),
        (a_row_lost, "the published mixed-0.1 joint_paper"),
        (an_audit_lost, "the published mixed-0.1 joint audit"),
    ],
)
def test_what_is_partial_is_published_only_where_that_is_said(
    partial: Callable[[Path], Path], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = partial(tmp_path), tmp_path / "results" / "manifolds" / "smoke"
    before = tree(target)
    assert main([str(folder)], tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not finished" in line and says in line and tree(target) == before
    assert main([str(folder), "--partial"], tmp_path) == 0
    assert says in capsys.readouterr().out and tree(target).keys() > before.keys()


def smaller(root: Path) -> Path:
    """A run that has lost one of the methods that were published."""
    folder = done(root, *ALL)
    assert main([str(folder)], root) == 0
    (place_of(Job("mixed-0.1", "gibbs", 0, *[None] * 2), folder) / "done").unlink()  # type: ignore[arg-type]
    return folder


@contextmanager
def published_methods(target: Path) -> Iterator[dict[str, Any]]:
    """Of a published configuration, to be changed."""
    path = target / "seed-0" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    yield config["methods"]
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def test_published_rows_that_a_run_has_not_stay_where_the_preset_still_asks_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = smaller(tmp_path), tmp_path / "results" / "manifolds" / "smoke"
    before = tree(target)
    assert main([str(folder)], tmp_path) == 0  # not partial: nothing is lost
    assert "older rows of mixed-0.1 gibbs" in capsys.readouterr().out
    for name in ("table.json", "table.md", "seed-0/config.yaml"):
        assert tree(target)[name] == before[name]
    assert tree(target).keys() == before.keys()
    assert rebuild([], tmp_path) == 0 and tree(target)["table.json"] == before["table.json"]


def test_published_rows_of_other_settings_are_lost_only_where_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = smaller(tmp_path), tmp_path / "results" / "manifolds" / "smoke"
    with published_methods(target) as methods:
        methods["gibbs"]["share"] = 0.5
    before = tree(target)
    assert main([str(folder)], tmp_path) == 2 and tree(target) == before
    assert main([str(folder), "--partial"], tmp_path) == 0
    assert before.keys() < tree(target).keys() == before.keys() | {"figures/exact-mixture-joint.png"}
    said = capsys.readouterr()
    assert "the published mixed-0.1 gibbs" in said.err
    assert "older figures, which this table does not hold, are there still: exact-mixture-joint-gibbs.png" in said.out


def test_a_setting_that_there_is_no_more_costs_the_rows_of_its_method_and_fit_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = smaller(tmp_path), tmp_path / "results" / "manifolds" / "smoke"
    with published_methods(target) as methods:
        methods["joint"]["settings"]["em"]["gone"] = 1
        methods["exact"]["fit"] = "joint"
    kept = kept_rows(EXPERIMENT, smoke(), target, set())[0]
    assert {r["method"] for r in kept} == set(ALL) - {"joint", "exact"}
    assert main([str(folder)], tmp_path) == 0  # the run has both, and gibbs is kept
    assert "older rows of mixed-0.1 gibbs" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["methods: {joint: [", "", "[1, 2]", "methods: {joint: 1, exact: null}"])
def test_rows_of_a_damaged_configuration_are_not_kept(text: str, tmp_path: Path) -> None:
    smaller(tmp_path)
    target = tmp_path / "results" / "manifolds" / "smoke"
    (target / "seed-0" / "config.yaml").write_text(text)
    assert kept_rows(EXPERIMENT, smoke(), target, set()) == {}


def test_seeds_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of other settings; of the same ones, older rows of other seeds stay."""
    target = tmp_path / "results" / "manifolds" / "smoke"
    assert main([str(done(tmp_path, *ALL, seeds=(0, 2)))], tmp_path) == 0
    other, folder = done(tmp_path / "other", *ALL), tmp_path / "results" / "manifolds"
    before = tree(folder)
    assert main([str(other)], tmp_path) == 0 and tree(folder)["smoke/table.json"] == before["smoke/table.json"]
    for config in target.glob("seed-*/config.yaml"):
        config.write_text(config.read_text().replace("observations: ", "observations: 1"))
    before = tree(folder)
    assert main([str(other), "--partial"], tmp_path) == 2
    assert "has seeds [2] which" in capsys.readouterr().err and tree(folder) == before


@pytest.mark.parametrize("name", ["nowhere", "manifolds/smoke/overrides-01234567", "manifolds/smoke"])
def test_what_is_no_run_is_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / name)], tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1 and tree(tmp_path) == {}


def test_a_run_does_not_write_over_what_is_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(EXPERIMENT, ["--preset", "smoke", "--out", str(tmp_path / "results")], tmp_path) == 2
    assert "make publish" in capsys.readouterr().err and tree(tmp_path) == {}


def test_clean_removes_runs_alone_and_none_that_is_going_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = done(tmp_path, "exact")
    for name in ("results/manifolds/smoke/seed-0/model/kept.pt", "results/notes.tmp", "ignored.h5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("somebody's\n")
    before = tree(tmp_path)
    with locked(folder / "lock"):
        assert clean(tmp_path) == 2
    assert "is in use by process" in capsys.readouterr().err and tree(tmp_path) == before
    (folder / "lock").write_text("")  # of one that was killed
    assert clean(tmp_path) == 0 == clean(tmp_path)
    assert tree(tmp_path) == {name: content for name, content in before.items() if not name.startswith("results/runs/")}


def test_clean_follows_no_link_out_of_the_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, runs = tmp_path / "elsewhere" / "kept", tmp_path / "home" / "results" / "runs"
    kept.mkdir(parents=True)
    runs.parent.mkdir(parents=True)
    runs.symlink_to(kept.parent)
    assert clean(tmp_path / "home") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"is a link to {kept.parent}" in error
    assert kept.is_dir() and runs.is_symlink()
    runs.unlink()
    runs.mkdir()
    (runs / "manifolds").symlink_to(kept.parent)  # the link goes, what it points at stays
    assert clean(tmp_path / "home") == 0 and kept.is_dir() and not runs.exists()
