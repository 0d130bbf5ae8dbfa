"""Keyed randomness: values depend on seed, key and observation index, on nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from mvss.runtime.errors import MvssError
from mvss.runtime.rng import BLOCK, Stream, generator, stream_of


def test_generator_is_seeded_by_sha256_of_the_key() -> None:
    seed = int.from_bytes(hashlib.sha256(b'[3, "fit", 2]').digest()[:8], "big") >> 1
    assert generator(3, "fit", 2).initial_seed() == seed
    assert Stream(3).child("fit").generator(2).initial_seed() == seed


@pytest.mark.parametrize("other", [(1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", "1"), (0, "a"), (0, "a1")])
def test_different_keys_differ(other: tuple[int, str | int]) -> None:
    index = torch.arange(4)
    assert generator(*other).initial_seed() != generator(0, "a", 1).initial_seed()
    assert not torch.equal(Stream(other[0], other[1:]).normal(index, (3,)), Stream(0, ("a", 1)).normal(index, (3,)))


def test_floats_are_refused_as_keys() -> None:
    with pytest.raises(TypeError):
        generator(0, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [None, 1.5, "1", True])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(MvssError, match=r"seed=\S+ must be a whole number") as caught:
        stream_of(seed)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and stream_of(np.int64(3), "a") == Stream(3, ("a",))  # type: ignore[arg-type]


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_rows_do_not_depend_on_the_batch(draw: str) -> None:
    stream = Stream(7, ("noise",))
    whole = getattr(stream, draw)(torch.arange(3 * BLOCK + 10), (2, 3), "step", 4)
    chosen = torch.randperm(len(whole), generator=generator(0))[:50]
    for index in (
        chosen,
        chosen.sort().values,
        chosen[:1],
        torch.cat([chosen, chosen]),
        chosen[:0],
        chosen.to(torch.int32),
    ):
        rows = getattr(stream, draw)(index, (2, 3), "step", 4)
        assert torch.equal(rows, whole[index])
    assert torch.equal(getattr(stream.child("step"), draw)(chosen, (2, 3), 4), whole[chosen])


def test_values_are_the_same_in_another_process() -> None:
    draw = "Stream(1, ('a',)).normal(torch.tensor([5, 700]), ()).tolist()"
    code = f"import torch; from mvss.runtime.rng import Stream; print({draw})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(Stream(1, ("a",)).normal(torch.tensor([5, 700]), ()).tolist())


def test_distributions() -> None:
    index = torch.arange(20_000)
    normal, uniform = Stream(0).normal(index, (5,)), Stream(0).uniform(index, (5,))
    assert abs(normal.mean()) < 0.01
    assert abs(normal.var() - 1) < 0.02
    assert abs(normal.pow(4).mean() - 3) < 0.1
    assert (uniform >= 0).all() and (uniform < 1).all()
    assert abs(uniform.mean() - 0.5) < 0.005
    assert abs(uniform.var() - 1 / 12) < 0.002
    assert abs(torch.corrcoef(torch.stack([normal.flatten(), uniform.flatten()]))[0, 1]) < 0.015


def test_short_types_hold_the_same_numbers_rounded() -> None:
    index = torch.arange(1000)
    single = Stream(0).normal(index, (3,), dtype=torch.float32)
    assert single.dtype == torch.float32
    assert torch.equal(single, Stream(0).normal(index, (3,)).float())
    assert Stream(0).uniform(index, (64,), dtype=torch.bfloat16).max() < 1


@pytest.mark.parametrize("index", [torch.tensor([-1]), torch.tensor([0.5]), torch.tensor([[1]])])
def test_bad_indices_are_refused(index: torch.Tensor) -> None:
    with pytest.raises(MvssError, match="indices"):
        Stream(0).normal(index, ())
