"""Keyed randomness: every random number is a pure function of what it is for.

    key = (seed, purpose, lap, ...)        value of observation i = philox(SHA-256(key, i // 256))[i mod 256]

A run that is resumed therefore repeats an uninterrupted one bit for bit, and the noise of an observation depends
neither on the batch that it is in nor on the number of processes. Python's salted hash() has no part in it.
"""

from __future__ import annotations

__all__ = ["BLOCK", "Stream", "choose", "generator", "stream_of"]

import hashlib
import json
import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import integer

BLOCK = 256
"""Observations that share one keyed generator: large enough that keying costs nothing beside the drawing."""


def _digest(seed: int, key: tuple[str | int, ...]) -> bytes:
    # JSON keeps 1 apart from "1" and ("ab", "c") from ("a", "bc"); floats, which rounding changes, are refused.
    parts = [part if isinstance(part, str) else int(operator.index(part)) for part in (seed, *key)]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def generator(seed: int, *key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator for one purpose, seeded with 63 bits of SHA-256 of `(seed, *key)`.

    torch's CPU generator uses only the low 32 bits of a seed: fine for thousands of purposes. For noise per observation
    and step, of which there are millions, use `Stream.normal`, which is keyed by 128 bits.
    """
    return torch.Generator(device).manual_seed(int.from_bytes(_digest(seed, key)[:8], "big") >> 1)


def choose(log_weight: Tensor, uniform: Tensor) -> Tensor:
    """One column per row of `(N, K)`, by inverting the cumulative weights at `uniform` `(N,)`, numbers in [0, 1)."""
    cumulative = torch.softmax(log_weight, dim=1).cumsum(1)
    return (cumulative < uniform.unsqueeze(1)).sum(1).clamp_max(log_weight.shape[1] - 1)


@dataclass(frozen=True)
class Stream:
    """A named source of random numbers, one row per observation.

    Args:
        seed: the seed of the run.
        key: what the numbers are for, e.g. `("e-step", lap, step)`. Two draws with the same key are equal.
    """

    seed: int
    key: tuple[str | int, ...] = ()

    def child(self, *key: str | int) -> Stream:
        """Return the stream whose key is this one's, extended by `key`."""
        return Stream(self.seed, (*self.key, *key))

    def generator(self, *key: str | int) -> torch.Generator:
        """Return a CPU torch generator for draws that do not belong to observations."""
        return generator(self.seed, *self.key, *key)

    def normal(
        self,
        index: Tensor,
        shape: tuple[int, ...],
        *key: str | int,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw standard normal numbers, `(N, *shape)`; row n depends on `index[n]` and the key alone.

        Args:
            index: observation indices, integers ≥ 0, `(N,)`, in any order. Blocks of 256 neighbours are drawn whole, so
                that scattered indices cost more.
            shape: shape of one observation's numbers.
            key: extends the stream's key.
            dtype: what the float64 draws are rounded to.
            device: where the result goes; the drawing is done on the CPU, so that every device sees the same numbers.
        """
        rows = self._rows(index, shape, (*key, "normal"), lambda rng, size: rng.standard_normal(size))
        return rows.to(dtype).to(device)

    def uniform(
        self,
        index: Tensor,
        shape: tuple[int, ...],
        *key: str | int,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw numbers uniform in [0, 1), `(N, *shape)`; arguments as in `normal`."""
        rows = self._rows(index, shape, (*key, "uniform"), lambda rng, size: rng.random(size))
        # Rounding to a short type may reach 1, which the half-open interval leaves out.
        return rows.to(dtype).clamp_(max=1 - torch.finfo(dtype).eps / 2).to(device)

    def _rows(
        self,
        index: Tensor,
        shape: tuple[int, ...],
        key: tuple[str | int, ...],
        draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
    ) -> Tensor:
        where = index.detach().cpu().numpy()
        if where.ndim != 1 or where.dtype.kind not in "iu" or (where.size and where.min() < 0):
            raise MvssError(f"observation indices must be integers >= 0 of shape (N,), got {index.dtype} {tuple(index.shape)}")
        blocks, offsets = np.divmod(where, BLOCK)
        order = np.argsort(blocks, kind="stable")
        numbers, starts = np.unique(blocks[order], return_index=True)
        out = np.empty((where.size, *shape))
        for number, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=False):
            digest = _digest(self.seed, (*self.key, *key, number))
            rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))
            out[rows] = draw(rng, (BLOCK, *shape))[offsets[rows]]
        return torch.from_numpy(out)


def stream_of(seed: int | Stream, *key: str | int) -> Stream:
    """The stream of a seed, for the purpose that `key` says; one that is given has its own, and stays what it is. Raises
    MvssError for a seed that is no whole number."""
    return seed if isinstance(seed, Stream) else Stream(integer(seed, "seed"), key)
