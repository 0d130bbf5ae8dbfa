"""Records survive a kill, and say where they come from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.core import records as module
from experiments.core.records import Records, environment, read_records
from mvss.runtime.errors import MvssError


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "seed-0" / "metrics.jsonl"
    assert read_records(path) == []
    Records(path).append({"lap": 0, "sd": np.float32(0.5), "psnr": torch.tensor([1.0, 2.0]), "method": "joint"})
    Records(path).append({"lap": 1, "sd": float("inf")})
    assert read_records(path) == [
        {"lap": 0, "sd": 0.5, "psnr": [1.0, 2.0], "method": "joint"},
        {"lap": 1, "sd": float("inf")},
    ]


def test_every_cut_of_the_last_line_is_tolerated_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Records(path).append({"lap": 0})
    start = path.stat().st_size
    Records(path).append({"lap": 1, "name": "σ"})
    whole = path.read_bytes()
    for end in range(start, len(whole) + 1):
        path.write_bytes(whole[:end])
        kept = [{"lap": 0}] + [{"lap": 1, "name": "σ"}] * (end >= len(whole) - 1)
        assert read_records(path) == kept
        Records(path).append({"lap": 2})
        assert read_records(path) == [*kept, {"lap": 2}]
        assert path.read_bytes().endswith(b'{"lap": 2}\n')


def test_damage_elsewhere_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"lap": 0}\nlap 1\n{"lap": 2}\n')
    with pytest.raises(MvssError, match="line 2"):
        read_records(path)


def test_unwritable_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MvssError, match="cannot append"):
        Records(tmp_path).append({"lap": 0})


def test_environment() -> None:
    found = environment()
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["cpu_count"] >= 1
    assert found["commit"] is None or len(found["commit"]) == 40


def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mvss").mkdir()
    source = tmp_path / "mvss" / "records.py"
    source.write_text("")
    monkeypatch.setattr(module, "__file__", str(source))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def state() -> tuple[bool, bool | None]:
        return environment()["commit"] is not None, environment()["dirty"]

    assert state() == (False, None)  # no repository
    git("init")
    assert state() == (False, None)  # a repository that does not track the file
    git("add", ".")
    git("commit", "-m", "first", "--no-verify")
    assert state() == (True, False)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.md").write_text("")
    (tmp_path / "run.log").write_text("")
    assert state() == (True, False)  # a run's own results and its log say nothing about its code
    source.write_text("x = 1\n")
    assert state() == (True, True)
