"""Whether two samples are of one law, by their energy distance (Székely & Rizzo 2013), of several cases together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

PERMUTATIONS = 299


def energy_distances(x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Energy distance of two samples `(N, D)`, then those of permutations of them, `(1 + PERMUTATIONS,)`."""
    both, count, rng = torch.cat([x, y]).float(), len(x), torch.Generator().manual_seed(seed)
    sign = torch.cat([torch.ones(count), -torch.ones(count)])
    signs = torch.stack([sign, *(sign[torch.randperm(2 * count, generator=rng)] for _ in range(PERMUTATIONS))], dim=1)
    return -(signs * (torch.cdist(both, both) @ signs)).sum(0) / count**2


def joint_p_value(cases: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Of the hypothesis that in every case both samples are of one law: of the sum of their distances, each in standard
    deviations of its permutations."""
    total = torch.zeros(1 + PERMUTATIONS)
    for seed, (x, y) in enumerate(cases):
        found = energy_distances(x, y, seed)
        total += (found - found[1:].mean()) / found[1:].std()
    return float((1 + (total[1:] >= total[0]).sum()) / len(total))
