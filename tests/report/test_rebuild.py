"""The table of committed results is made again from what is committed, and what is damaged ends in one line."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.report.commands import command_text, made_by
from experiments.report.digit_results import DIGIT
from experiments.report.metrics import read_metrics, read_seeds, write_metrics
from experiments.report.page import main as page
from experiments.report.rebuild import ROOT, main
from experiments.report.redraw import main as redraw

PRESETS = [path for path in sorted(ROOT.glob("results/*/cpu")) if (path / "table.json").exists()]
RECORD = {"seed": 0, "problem": "mixed-0.1", "method": "joint", "source": "1", "metric": "posterior_psnr"}
RECORD |= {"split": "fresh", "lap": None, "value": 30.0, "samples": 10, "commit": "abc"}
CONFIG = "methods: {joint: {}, pcpca: {}}\nablations: {joint_mlp: {}}\n"


def copy_of(preset: Path, root: Path) -> Path:
    """A folder of results with metrics.jsonl and config.yaml alone."""
    for path in preset.glob("seed-*"):
        home = root / path.relative_to(ROOT)
        home.mkdir(parents=True)
        for name in ("metrics.jsonl", "config.yaml"):
            shutil.copy(path / name, home / name)
    return root / preset.relative_to(ROOT)


def small(root: Path, *seeds: int, folder: str = "results/manifolds/cpu") -> Path:
    """A folder with one record a seed."""
    for seed in seeds:
        home = root / folder / f"seed-{seed}"
        write_metrics(home / "metrics.jsonl", [RECORD | {"seed": seed}])
        (home / "config.yaml").write_text(CONFIG)
    return root / folder


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.parent.name)
def test_metrics_and_configuration_alone_make_the_committed_table(preset: Path, tmp_path: Path) -> None:
    folder = copy_of(preset, tmp_path)
    assert main([], tmp_path) == 0
    for name in ("table.json", "table.md"):
        assert (folder / name).read_text(encoding="utf-8") == (preset / name).read_text(encoding="utf-8")


def test_the_command_follows_from_the_configuration_and_the_records(tmp_path: Path) -> None:
    config = {"methods": {"joint": {}, "pcpca": {}}, "ablations": {"joint_mlp": {}}}
    plain, changed = ({**RECORD, "method": name} for name in ("joint", "joint_mlp"))
    audited = {**RECORD, "metric": "audit_coverage_error"}
    assert made_by("manifolds", config, [plain]) == ["manifolds"]
    assert made_by("manifolds", config, [audited]) == ["manifolds", "manifolds-audit"]
    assert made_by("manifolds", config, [plain, changed]) == ["manifolds", "manifolds-ablations"]
    assert made_by("manifolds", config, [changed, audited]) == ["manifolds", "manifolds-ablations", "manifolds-audit"]
    assert command_text("manifolds", "cpu", (0, 2)) == 'make manifolds PRESET=cpu SEEDS="0 2"'
    assert command_text("manifolds", "cpu", [0], ["em.laps=3", "a=1"]).endswith('SEEDS="0" ARGS="em.laps=3 a=1"')
    folder = small(tmp_path, 2, 0, 1)
    assert main([str(folder)]) == 0
    assert json.loads((folder / "table.json").read_text())["command"] == 'make manifolds PRESET=cpu SEEDS="0 1 2"'


def test_the_source_that_is_sought_is_the_experiments_own_not_the_last(tmp_path: Path) -> None:
    """Of two looks at a digit the second grass comes after it, and tables once called that the target."""
    folder = small(tmp_path, 0, folder="results/mnist_grass/cpu")
    own = RECORD | {"problem": "swap-two"}
    found = [own | {"source": b, "metric": m} for b in "123" for m in ("posterior_psnr", "energy_score")]
    write_metrics(folder / "seed-0" / "metrics.jsonl", [*found, own | {"metric": "remains_auc"}])
    assert main([str(folder)]) == 0 and page([], tmp_path) == 0
    told = [(folder / "table.md").read_text(), (tmp_path / "results" / "report" / "index.html").read_text()]
    for text in told:
        assert f"(source {DIGIT}: the target" in text and f"PSNR, source {DIGIT} ↑" in text and ", source 3 " not in text


def test_what_ran_with_overrides_keeps_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small(tmp_path, 0, folder="results/manifolds/cpu/overrides-12345678")
    assert main([str(folder)]) == 2
    assert "ARGS" in capsys.readouterr().err
    (folder / "table.json").write_text(json.dumps({"command": "make manifolds ARGS=x"}))
    assert main([str(folder)]) == 0
    table = json.loads((folder / "table.json").read_text())
    assert (table["preset"], table["command"], len(table["rows"])) == ("cpu", "make manifolds ARGS=x", 2)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    records = [RECORD, RECORD | {"lap": 1, "value": None, "samples": None}, RECORD | {"value": 0.1 + 0.2}]
    write_metrics(tmp_path / "metrics.jsonl", records)
    assert read_metrics(tmp_path / "metrics.jsonl", 0) == records
    write_metrics(tmp_path / "metrics.jsonl", [RECORD | {"value": math.nan}])
    assert math.isnan(read_metrics(tmp_path / "metrics.jsonl", 0)[0]["value"])
    assert list(read_seeds(small(tmp_path, 10, 9))) == [9, 10]


LINE = json.dumps(RECORD).encode()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (LINE + b"\n" + LINE[:-20], "ends within line 2"),
        (LINE, "ends within line 1"),
        (LINE + b"\n" + LINE[:-20] + b"\n", "line 2, is no record of seed 0"),
        (b"<<<<<<< HEAD\n" + LINE + b"\n", "line 1, is no record"),
        (LINE + b"\n\n", "line 2, is no record"),
        (b"[1, 2]\n", "line 1, is no record"),
        (b"[" * 100_000 + b"\n", "line 1, is no record"),
        (LINE.replace(b"30.0", b'"30"') + b"\n", "line 1, is no record"),
        (LINE.replace(b'"metric"', b'"other"') + b"\n", "line 1, is no record"),
        (LINE.replace(b'"seed": 0', b'"seed": 1') + b"\n", "line 1, is no record of seed 0"),
        (b"\xff\xfe\n", "is not text"),
    ],
)
def test_damaged_metrics_end_in_one_line(
    content: bytes, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # and the old table stays
    folder = small(tmp_path, 0)
    (folder / "seed-0" / "metrics.jsonl").write_bytes(content)
    (folder / "table.md").write_text("kept\n")
    assert main([str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert what in line and "metrics.jsonl" in line and "bring it back" in line
    assert (folder / "table.md").read_text() == "kept\n" and not (folder / "table.json").exists()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: (folder / "seed-1" / "config.yaml").unlink(), "cannot read"),
        (lambda folder: (folder / "seed-1" / "config.yaml").write_text("a: 1\n"), "so they have no mean"),
        (lambda folder: [(folder / f"seed-{s}" / "config.yaml").write_text("a: [") for s in (0, 1)], "not valid YAML"),
        (lambda folder: (folder / "seed-0" / "config.yaml").write_text("- 1\n"), "no configuration"),
        (lambda folder: [shutil.rmtree(folder / f"seed-{s}") for s in (0, 1)], "has no seed-*/metrics.jsonl"),
    ],
)
def test_what_is_missing_ends_in_one_line(
    damage: Callable[[Path], object], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small(tmp_path, 0, 1)
    damage(folder)
    assert main([str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert what in line


@pytest.mark.parametrize("name", ["/", "results/manifolds", "results/nowhere/cpu"])
def test_a_folder_of_no_experiment_ends_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is of no experiment" in line


def test_without_results_it_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], tmp_path) == 0
    assert "make manifolds" in capsys.readouterr().out


def test_figures_are_drawn_again_from_what_is_committed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small(tmp_path, 0, 1)
    assert redraw(tmp_path) == 0  # nothing is published
    shutil.copy(ROOT / "results/manifolds/cpu/seed-0/config.yaml", folder / "seed-0")
    shutil.copy(folder / "seed-0/config.yaml", folder / "seed-1")
    assert main([str(folder)]) == 0
    (folder / "figures").mkdir()
    (folder / "figures" / "old.png").touch()
    capsys.readouterr()
    assert redraw(tmp_path) == 0 and "stay as they are" in capsys.readouterr().out  # no draws: nothing could replace it
    assert (folder / "figures" / "old.png").exists()
    (folder / "seed-0" / "samples").mkdir()
    assert redraw(tmp_path) == 0 and "(" in capsys.readouterr().out
    assert not (folder / "figures" / "old.png").exists() and list((folder / "figures").glob("*.png"))
    (folder / "seed-1" / "metrics.jsonl").write_text("{")
    assert redraw(tmp_path) == 2 and capsys.readouterr().err.count("\n") == 1
