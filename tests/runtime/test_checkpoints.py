"""Files are replaced whole or not at all, and damage is told in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from mvss.runtime.checkpoints import atomic_write_text, load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "seed-0" / "state.pt"
    state = {"lap": 3, "draws": (torch.randn(4, 2, dtype=torch.float64),), "history": [0.5, None, "x"]}
    save_checkpoint(path, {"old": 1})
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.pop("draws")[0], state.pop("draws")[0])  # type: ignore[index]
    assert loaded == state
    assert os.listdir(path.parent) == ["state.pt"]


def test_text_is_replaced(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a" / "table.md", "old")
    atomic_write_text(tmp_path / "a" / "table.md", "σ = 1\n")
    assert (tmp_path / "a" / "table.md").read_text(encoding="utf-8") == "σ = 1\n"


@pytest.mark.parametrize("number, message", [(errno.ENOSPC, "no space left"), (errno.EIO, "cannot write")])
def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    path = tmp_path / "state.pt"
    save_checkpoint(path, {"lap": 1})

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mvss.runtime.checkpoints.os.fsync", fail)
    with pytest.raises(MvssError, match=message) as caught:
        save_checkpoint(path, {"lap": 2})
    assert "\n" not in str(caught.value)
    assert load_checkpoint(path) == {"lap": 1}
    assert os.listdir(tmp_path) == ["state.pt"]


def test_file_size_limit_of_the_system(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "state.pt"
    save_checkpoint(path, {"lap": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(MvssError, match="cannot write"):
            save_checkpoint(path, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(path) == {"lap": 1}
    assert os.listdir(tmp_path) == ["state.pt"]


def test_interrupt_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "state.pt", {"lap": 1})

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mvss.runtime.checkpoints.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "state.pt", {"lap": 2})
    assert load_checkpoint(tmp_path / "state.pt") == {"lap": 1}
    assert os.listdir(tmp_path) == ["state.pt"]


def test_leftover_of_a_kill_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "state.pt.tmp").write_bytes(b"half")
    save_checkpoint(tmp_path / "state.pt", {"lap": 1})
    assert os.listdir(tmp_path) == ["state.pt"]


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text"])
def test_damage_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.pt"
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"empty": b"", "truncated": data[:-100], "flipped": bytes(data), "text": b"lap: 1\n"}[damage])
    with pytest.raises(MvssError, match="delete it to start again") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MvssError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "state.pt")
