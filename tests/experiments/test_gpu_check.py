"""What `make gpu-check` runs is what presets take, and it says what did not hold."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.core import cli
from experiments.gpu_check import Check, checks, differences, main, through_the_door
from mvss.runtime.errors import MvssError

NUMBERS = {"posterior_psnr": 20.0, "energy_score": 1.5, "chi2": 1.0}


def table(on: str = " on H200", **changes: float | None) -> dict[str, Any]:
    rows = [{"method": "joint", "source": "1", "metric": k, "mean": v} for k, v in (NUMBERS | changes).items()]
    return {"commits": {f"abc{on}": {}}, "rows": [*rows, {"method": "joint", "source": "1", "metric": "laps", "mean": 1.0}]}


@pytest.mark.parametrize("check", checks(), ids=lambda check: f"{check.experiment} {check.words.split()[1]}")
def test_every_check_is_a_command_that_its_preset_takes(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = importlib.import_module(f"experiments.{check.experiment}.__main__").EXPERIMENT
    words, overrides = check.arguments(tmp_path)[: -len(check.overrides) - 1], check.overrides
    assert cli.main(experiment, [*words, "--dry-run", "--", *overrides]) == 0
    assert "jobs to run" in capsys.readouterr().out


def test_all_presets_for_gpus_and_all_of_the_papers_are_tried() -> None:
    tried = {(check.experiment, check.words.split()[1]) for check in checks()}
    there = {(path.parents[1].name, path.stem) for path in cli.ROOT.glob("experiments/*/presets/*.yaml")}
    assert tried == {(name, preset) for name, preset in there if preset != "smoke"}


def test_scores_are_compared_by_what_rounding_may_do() -> None:
    apart = differences(table(posterior_psnr=20.15, energy_score=1.53), table())
    assert apart == pytest.approx({"joint 1 posterior_psnr": 0.5, "joint 1 energy_score": 0.4, "joint 1 chi2": 0.0})
    assert differences(table(chi2=None), table())["joint 1 chi2"] == float("inf")
    less = table()
    less["rows"] = less["rows"][1:]
    assert differences(less, table())["joint 1 posterior_psnr"] == float("inf") == max(differences(table(), less).values())


def test_without_a_gpu_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([], lambda *_: table()) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "finds no CUDA device" in error


@pytest.mark.parametrize(
    ("here", "says"),
    [
        (table(), ""),
        (table(posterior_psnr=20.9), "FAILED: joint 1 posterior_psnr is 3 times as far from the CPU's as it may be"),
        (table(chi2=None), "FAILED: chi2 of joint is no finite number"),
        (table(on=""), "FAILED: it ran on the CPU"),
    ],
)
def test_what_did_not_hold_is_said(
    here: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    assert main([], lambda _check, _folder, gpu, _left: here if gpu else table(on="")) == (1 if says else 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "on H200" and says in lines[1] and len(lines) == len(checks()) + 2
    assert "3 scores as on the CPU" in lines[1] or says
    assert lines[-1].startswith(f"{0 if says and 'times' not in says else len(checks()) - 3 * bool(says)} of ")


def test_what_fails_or_takes_too_long_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: object) -> dict[str, Any]:
        raise MvssError("CUDA out of memory")

    assert main(["--cpu"], fails) == 1
    assert capsys.readouterr().out.count("FAILED: CUDA out of memory") == len(checks())
    monkeypatch.setattr("experiments.gpu_check.LIMIT", 0.0)
    assert main(["--cpu"], fails) == 1
    assert capsys.readouterr().out.count("not run, the time is over") == len(checks())


@pytest.mark.slow
def test_a_run_on_the_cpu_has_the_same_scores_twice(tmp_path: Path) -> None:
    few = ("observations=64", "fresh=64", "settings.training.steps=4", "metrics.paper_sinkhorn=32", "metrics.pqmass=64",
           "metrics.references=10", "metrics.tessellations=4", "metrics.sinkhorn=32", "metrics.lap_sinkhorn=32")  # fmt: skip
    check = Check("", "manifolds", "--preset smoke --problem contrastive-2 --methods joint", few, True)
    first, second = (through_the_door(check, tmp_path / name, False, 300.0) for name in "ab")
    assert set(differences(first, second).values()) == {0.0}
    with pytest.raises(MvssError, match="unknown preset"):
        through_the_door(Check("", "manifolds", "--preset none", ()), tmp_path / "c", False, 300.0)
