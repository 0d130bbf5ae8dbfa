"""Files are replaced whole or not at all, and damage is told in one line."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from mvss.runtime.checkpoints import checkpoint_bytes, load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text, replacing
from mvss.runtime.fingerprint import digest


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "seed-0" / "state.safetensors"
    state = {"lap": 3, "draws": (torch.randn(4, 2, dtype=torch.float64),), "history": [0.5, None, "x"]}
    save_checkpoint(path, {"old": 1})
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.pop("draws")[0], state.pop("draws")[0])  # type: ignore[index]
    assert loaded == state
    assert os.listdir(path.parent) == ["state.safetensors"]


def test_the_same_state_has_the_same_bytes_at_every_call_and_its_tensors_are_where_they_were() -> None:
    state = {"lap": 3, "σ": torch.arange(5.0), "b": (torch.ones(2, 2, dtype=torch.float64), torch.tensor([True]))}
    found = {checkpoint_bytes(state, {"data": "abc"}) for _ in range(24)}
    assert len(found) == 1
    (content,) = found
    assert int.from_bytes(content[:8], "little") % 8 == 0
    loaded = safetensors.torch.load(content)
    assert {tuple(x.flatten().tolist()) for x in loaded.values()} == {(0.0, 1.0, 2.0, 3.0, 4.0), (1.0,) * 4, (True,)}


def test_a_checkpoint_with_its_header_in_another_order_is_read(tmp_path: Path) -> None:
    content = checkpoint_bytes({"lap": 3, "draws": torch.ones(2)})
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(reversed(header["__metadata__"].items()))
    other = json.dumps(dict(reversed(header.items()))).encode()
    (tmp_path / "old").write_bytes(len(other).to_bytes(8, "little") + other + content[end:])
    loaded = load_checkpoint(tmp_path / "old")
    assert loaded["lap"] == 3 and torch.equal(loaded["draws"], torch.ones(2))


def test_text_is_replaced(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a" / "table.md", "old")
    atomic_write_text(tmp_path / "a" / "table.md", "σ = 1\n")
    assert (tmp_path / "a" / "table.md").read_text(encoding="utf-8") == "σ = 1\n"


@pytest.mark.parametrize("number, message", [(errno.ENOSPC, "no space left"), (errno.EIO, "cannot write")])
def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"lap": 1})

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mvss.runtime.files.os.fsync", fail)
    with pytest.raises(MvssError, match=message) as caught:
        save_checkpoint(path, {"lap": 2})
    assert "\n" not in str(caught.value)
    assert load_checkpoint(path) == {"lap": 1}
    assert os.listdir(tmp_path) == ["state.safetensors"]


def test_file_size_limit_of_the_system(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"lap": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(MvssError, match="cannot write"):
            save_checkpoint(path, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(path) == {"lap": 1}
    assert os.listdir(tmp_path) == ["state.safetensors"]


def test_interrupt_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "state.safetensors", {"lap": 1})

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mvss.runtime.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "state.safetensors", {"lap": 2})
    assert load_checkpoint(tmp_path / "state.safetensors") == {"lap": 1}
    assert os.listdir(tmp_path) == ["state.safetensors"]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    with replacing(tmp_path / "state.safetensors") as living:
        living.write_bytes(b"half")
        dead = living.with_name(living.name.replace(f".{os.getpid()}.", f".{ended()}."))
        far = dead.with_name(dead.name.replace(dead.name.split(".")[2], "0" * 8))
        other = dead.with_name(dead.name.replace("state.", "other."))
        for path in (dead, far, other):
            path.write_bytes(b"half")
        save_checkpoint(tmp_path / "state.safetensors", {"lap": 1})
        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "state.safetensors", living, far, other])
    assert (tmp_path / "state.safetensors").read_bytes() == b"half" and not living.exists()


def ended() -> int:
    """The number of a process that runs no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    def write(number: int) -> None:
        atomic_write_text(tmp_path / "one", str(number) * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(300)))
    text = (tmp_path / "one").read_text()
    assert text == text[: len(text) // 1000] * 1000 and os.listdir(tmp_path) == ["one"]


STATE = {"weights": torch.arange(1000.0), "lap": 3, "name": ("a", None)}


@pytest.mark.parametrize("damage", ["empty", "short", "truncated", "longer", "text", "zip"])
def test_damage_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, STATE)
    data = path.read_bytes()
    texts = {"empty": b"", "short": data[:5], "truncated": data[:-100], "longer": data + b"\0", "text": b"lap: 1\n"}
    path.write_bytes({**texts, "zip": b"PK\x03\x04" + data}[damage])
    with pytest.raises(MvssError, match="delete it to start again") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_no_flip_of_a_bit_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, STATE, {"data": "a"})
    data, rng = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(data[:8], "little")
    for place in [*range(8), *rng.sample(range(8, header), 150), *rng.sample(range(header, len(data)), 50)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            found = load_checkpoint(path, fingerprint={"data": "a"})
        except MvssError as error:
            assert "\n" not in str(error) and "delete it" in str(error)
        else:  # what the header says of no tensor and no content: spaces that fill it up
            assert place < header and torch.equal(found["weights"], STATE["weights"]) and found["lap"] == 3
    path.write_bytes(data)
    assert load_checkpoint(path)["name"] == ("a", None)


@pytest.mark.parametrize("metadata", [None, {"format": "mvss 0"}])
def test_other_files_of_tensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"0": torch.zeros(2)}, tmp_path / "state.safetensors", metadata)
    with pytest.raises(MvssError, match="was not written as a checkpoint of this version"):
        load_checkpoint(tmp_path / "state.safetensors")


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"lap": 1}, {"data": "a", "settings": "b", "code": "c"})
    assert load_checkpoint(path, fingerprint={"data": "a", "settings": "b", "code": "c"}) == {"lap": 1} == load_checkpoint(path)
    for changed, says in (
        ({"data": "x", "code": "y"}, "other data, noise or operators, and other code of mvss"),
        ({"settings": "x"}, "other settings"),
        ({"stream": "x"}, "another seed"),
    ):
        with pytest.raises(MvssError) as caught:
            load_checkpoint(path, fingerprint={"data": "a", "settings": "b", "code": "c", **changed})
        assert str(caught.value).startswith(f"{path} is of a run with {says}: take another folder (--out)")
        assert "\n" not in str(caught.value)
    save_checkpoint(path, {"lap": 1})
    with pytest.raises(MvssError, match="other data"):
        load_checkpoint(path, fingerprint={"data": "a"})


def test_every_kind_of_state_comes_back(tmp_path: Path) -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    kinds = {"bf16": x.bfloat16(), "bool": x > 0, "int": x.long(), "number": torch.tensor(2.0), "none": torch.zeros(0, 3)}
    state = {
        "tensors": kinds, "shared": [x, x[:2], x.mT, x[:1].expand(4, 6)], "by number": {0: {1: x}}, "$x": {"$tensor": "0"},
        "plain": [float("nan"), float("-inf"), 0.1, 2**80, True, None, "é", (), {}],
    }  # fmt: skip
    save_checkpoint(tmp_path / "state.safetensors", state)
    found = load_checkpoint(tmp_path / "state.safetensors")
    assert digest(found) == digest(state)
    assert all(t.data_ptr() % 16 == 0 for t in (*found["tensors"].values(), *found["shared"]) if t.numel())


def test_numbers_of_numpy_and_paths_come_back_plain(tmp_path: Path) -> None:
    state = {
        "lap": np.int64(3),
        "rate": np.float32(0.5),
        "flag": np.bool_(True),
        "by": {np.int32(1): np.float64(2)},
        "at": tmp_path,
    }
    save_checkpoint(tmp_path / "state.safetensors", state)
    found = load_checkpoint(tmp_path / "state.safetensors")
    assert found == {"lap": 3, "rate": 0.5, "flag": True, "by": {1: 2.0}, "at": str(tmp_path)}
    assert [type(value) for value in found.values()] == [int, float, bool, dict, str]


ODD = [
    np.zeros(2), np.longdouble(1), np.datetime64("2026-01-01"), 1j, np.complex128(1), {1, 2}, b"x", object(), len, range(3),
    torch.float32, torch.device("cpu"), torch.zeros(2).to_sparse(), torch.zeros(2, dtype=torch.complex64), ...,
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("where", [lambda x: {"a": {"b": x}}, lambda x: {"a": [0, {1: (x,)}]}])
def test_what_no_checkpoint_holds_is_refused_by_its_key(tmp_path: Path, where: Callable[[object], dict], value: object) -> None:
    state = where(value)
    with pytest.raises(MvssError, match=r"cannot hold state\.a\.(b|1\.1\.0), a") as caught:
        save_checkpoint(tmp_path / "state.safetensors", state)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MvssError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "state.safetensors")
