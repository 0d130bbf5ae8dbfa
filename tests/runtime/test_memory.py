"""Chunks that fit into memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvss.runtime import memory as module
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import PeakMemory, ensure_memory, in_chunks, rows_within


def limited(most: int, words: str = "CUDA out of memory. Tried to allocate 2 GiB") -> tuple[Callable[[slice], range], list]:
    """Work on at most so many rows, and the sizes that were tried."""
    tried: list[int] = []

    def work(rows: slice) -> range:
        tried.append(rows.stop - rows.start)
        if tried[-1] > most:
            raise RuntimeError(words)
        return range(rows.start, rows.stop)

    return work, tried


@pytest.mark.parametrize(("most", "tried"), [(99, [8, 3]), (4, [8, 4, 4, 3]), (3, [8, 4, 2, 2, 2, 2, 2, 1])])
@pytest.mark.parametrize("words", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_chunks_are_halved_until_they_fit_and_stay_so(most: int, tried: list[int], words: str) -> None:
    work, seen = limited(most, words)
    assert [row for part in in_chunks(work, 11, 8) for row in part] == list(range(11))
    assert seen == tried


def test_one_row_that_does_not_fit_is_an_error_in_one_line() -> None:
    with pytest.raises(MvssError, match="memory") as error:
        list(in_chunks(limited(0)[0], 5, 100))
    assert "\n" not in str(error.value)


def test_other_errors_pass() -> None:
    work, seen = limited(0, "shapes do not fit")
    with pytest.raises(RuntimeError, match="shapes"):
        list(in_chunks(work, 5, 4))
    assert seen == [4]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_peak_memory_is_of_the_job_and_not_of_the_one_before() -> None:
    block = torch.ones(64 * 2**20)  # a quarter of a GiB
    earlier = PeakMemory().gib()
    del block
    memory = PeakMemory()
    assert memory.gib() < earlier - 0.2
    block = torch.ones(64 * 2**20)
    del block
    assert memory.gib() > earlier - 0.05


@pytest.mark.parametrize("system, unit", [("linux", 2**10), ("darwin", 1)])
def test_peak_memory_unit(monkeypatch: pytest.MonkeyPatch, system: str, unit: int) -> None:
    class Usage:
        ru_maxrss = 3 * 2**30 // unit

    def missing(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(module.sys, "platform", system)
    monkeypatch.setattr(module.resource, "getrusage", lambda who: Usage)
    monkeypatch.setattr(module.Path, "read_text", missing)
    assert PeakMemory().gib() == 3.0


def test_what_memory_does_not_hold_is_told_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_memory", lambda device: (6 * 2**30, 12 * 2**30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensure_memory(3.9 * 2**30, "matrices", "fewer")
    with pytest.warns(UserWarning, match="matrices take 5 GiB of the 12 GiB of memory: fewer"):
        ensure_memory(5 * 2**30, "matrices", "fewer")
    with pytest.raises(MvssError, match="matrices need 7 GiB, and 6 GiB of memory are free: fewer") as error:
        ensure_memory(7 * 2**30, "matrices", "fewer")
    assert "\n" not in str(error.value)


def test_memory_is_that_of_the_machine_or_less() -> None:
    free, total = module._memory(torch.device("cpu"))
    assert 0 < free <= total


def test_rows_that_fit() -> None:
    assert [rows_within(each, 100) for each in (1, 30, 100, 101, 0)] == [100, 3, 1, 1, 100]


def test_tensors_of_a_gpu_are_measured_by_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch has reserved there and does not use is free, too."""
    gpu, asked = torch.device("cuda", 1), []

    def info(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return 4 * 2**30, 16 * 2**30

    monkeypatch.setattr(torch.cuda, "mem_get_info", info)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**30)
    with pytest.raises(MvssError, match="matrices need 7 GiB, and 6 GiB of memory of cuda:1 are free: fewer"):
        ensure_memory(7 * 2**30, "matrices", "fewer", gpu)
    with pytest.warns(UserWarning, match="matrices take 5.5 GiB of the 16 GiB of memory of cuda:1: fewer"):
        ensure_memory(5.5 * 2**30, "matrices", "fewer", gpu)
    assert asked == [gpu, gpu]


def test_what_is_held_counts_towards_the_third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_memory", lambda device: (8 * 2**30, 12 * 2**30))
    with pytest.warns(UserWarning, match="matrices take 5 GiB of the 12 GiB of memory: fewer"):
        ensure_memory(2**30, "matrices", "fewer", held=4 * 2**30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensure_memory(0, "matrices", "fewer", held=5 * 2**30)  # nothing more is taken
