"""LDL of small symmetric systems against LAPACK."""

from __future__ import annotations

import pytest
import torch

from mvss.solvers import factorise


def _system(size: int, seed: int = 0) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(7, size, size, generator=rng, dtype=torch.float64)
    matrix = root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)
    return matrix, [[matrix[:, i, j] for j in range(i + 1)] for i in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ldl_agrees_with_lapack(size: int) -> None:
    matrix, entries = _system(size)
    r = torch.randn(7, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    system = factorise(entries)
    solved = torch.linalg.solve(matrix, r)
    columns = list(r.unbind(-1))
    torch.testing.assert_close(torch.stack(system.solve(columns), -1), solved)
    torch.testing.assert_close(system.quadratic(columns), (r * solved).sum(-1))
    torch.testing.assert_close(system.log_determinant(), torch.linalg.slogdet(matrix)[1])
    inverse, packed = torch.linalg.inv(matrix), system.inverse()
    for i in range(size):
        for j in range(i + 1):
            torch.testing.assert_close(packed[i][j], inverse[:, i, j])
    assert float(system.clamped) == 0


def test_selected_systems_solve_alike() -> None:
    _, entries = _system(3)
    r = [torch.ones(7, dtype=torch.float64)] * 3
    system, index = factorise(entries), torch.tensor([5, 0, 5])
    for part, whole in zip(system.at(index).solve([e[index] for e in r]), system.solve(r), strict=True):
        torch.testing.assert_close(part, whole[index])


def test_a_low_pivot_is_raised_and_counted() -> None:
    one = torch.ones(2, dtype=torch.float64)
    entries = [[one], [2 * one, one]]  # indefinite: the second pivot is 1 − 4
    system = factorise(entries, least=[0.5 * one, 0.5 * one])
    torch.testing.assert_close(system.pivots[1], 0.5 * one)
    assert float(system.clamped) == 0.5
