"""LDL of small symmetric systems, and conjugate gradients, against LAPACK."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mvss.posteriors.solvers import Cholesky, conjugate_gradients, factorise
from mvss.presets.posterior import CGConfig
from mvss.runtime.errors import MvssError


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


def test_selected_systems_solve_alike() -> None:
    _, entries = _system(3)
    r = [torch.ones(7, dtype=torch.float64)] * 3
    system, index = factorise(entries), torch.tensor([5, 0, 5])
    for part, whole in zip(system.at(index).solve([e[index] for e in r]), system.solve(r), strict=True):
        torch.testing.assert_close(part, whole[index])


def test_a_low_pivot_is_raised() -> None:
    one = torch.ones(2, dtype=torch.float64)
    entries = [[one], [2 * one, one]]  # indefinite: the second pivot is 1 − 4
    system = factorise(entries, least=[0.5 * one, 0.5 * one])
    torch.testing.assert_close(system.pivots[1], 0.5 * one)


def _spread_systems(size: int = 12) -> torch.Tensor:
    """Condition numbers 1, 4 and 10⁴."""
    rng = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(3, size, size, generator=rng, dtype=torch.float64)).Q
    values = torch.stack([torch.logspace(0, e, size, dtype=torch.float64) for e in (0.0, 0.6, 4.0)])
    return (turn * values.unsqueeze(1)) @ turn.mT


SYSTEMS = _spread_systems()
RIGHT = torch.randn(3, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _product(matrix: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda p: (matrix @ p.unsqueeze(-1)).squeeze(-1)


def _relative(matrix: torch.Tensor, v: torch.Tensor, right: torch.Tensor = RIGHT) -> torch.Tensor:
    return (right - _product(matrix)(v)).norm(dim=1) / right.norm(dim=1)


def test_conjugate_gradients_agree_with_lapack() -> None:
    v, report = conjugate_gradients(_product(SYSTEMS), RIGHT, CGConfig(200, 1e-13))
    torch.testing.assert_close(v, torch.linalg.solve(SYSTEMS, RIGHT), rtol=1e-7, atol=1e-9)
    assert float(report.residual.max()) < 1e-12


def test_regularisation_is_a_variance_on_the_diagonal() -> None:
    v, _ = conjugate_gradients(_product(SYSTEMS), RIGHT, CGConfig(200, 1e-13, regularisation=0.7))
    torch.testing.assert_close(v, torch.linalg.solve(SYSTEMS + 0.7 * torch.eye(12, dtype=torch.float64), RIGHT))


def test_each_system_stops_by_itself() -> None:
    """The first is done at once; what it is then, and its residual, is what it is alone; the last is not done."""
    seen = []

    def product(p: torch.Tensor) -> torch.Tensor:
        seen.append(p.norm(dim=1) > 0)
        return _product(SYSTEMS)(p)

    v, report = conjugate_gradients(product, RIGHT, CGConfig(10, 1e-2))
    assert torch.stack(seen).sum(0)[0] == 1 and 1 < torch.stack(seen).sum(0)[1] < 10 == report.iterations
    torch.testing.assert_close(report.residual, _relative(SYSTEMS, v))
    assert (report.residual < 1e-2).tolist() == [True, True, False]
    for row in range(3):
        alone, own = conjugate_gradients(_product(SYSTEMS[row : row + 1]), RIGHT[row : row + 1], CGConfig(10, 1e-2))
        torch.testing.assert_close(alone, v[row : row + 1])
        torch.testing.assert_close(own.residual, report.residual[row : row + 1])
    _, quick = conjugate_gradients(_product(SYSTEMS[:1]), RIGHT[:1], CGConfig(10, 1e-2))
    assert quick.iterations == 1


def test_a_breakdown_is_reported_and_harms_no_one() -> None:
    indefinite, alone = SYSTEMS.clone(), CGConfig(200, 1e-13)
    indefinite[1] -= 5.0 * torch.eye(12, dtype=torch.float64)
    v, report = conjugate_gradients(_product(indefinite), RIGHT, alone)
    assert torch.isfinite(v).all() and ((report.residual > 1e-3) == torch.tensor([False, True, False])).all()
    torch.testing.assert_close(report.residual, _relative(indefinite, v), rtol=1e-6, atol=1e-12)
    whole, _ = conjugate_gradients(_product(SYSTEMS), RIGHT, alone)
    torch.testing.assert_close(v[[0, 2]], whole[[0, 2]])
    zero, report = conjugate_gradients(lambda p: -p, RIGHT, alone)  # no good iterate but the first
    assert not zero.any() and report.residual.tolist() == [1.0] * 3


def test_numbers_that_are_not_finite_stay_where_they_are() -> None:
    right = RIGHT.clone()
    right[1, 4] = torch.nan
    whole, _ = conjugate_gradients(_product(SYSTEMS), RIGHT, CGConfig(200, 1e-13))
    v, report = conjugate_gradients(_product(SYSTEMS), right, CGConfig(200, 1e-13))
    assert report.residual[1] == torch.inf
    assert not v[1].any()
    torch.testing.assert_close(v[[0, 2]], whole[[0, 2]])
    calls = []

    def failing(p: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return _product(SYSTEMS)(p) if len(calls) < 3 else torch.full_like(p, torch.nan)

    v, report = conjugate_gradients(failing, RIGHT, CGConfig(10, 1e-6))
    two, _ = conjugate_gradients(_product(SYSTEMS), RIGHT, CGConfig(2, 1e-6))
    torch.testing.assert_close(v, two)
    assert len(calls) == report.iterations == 3


def test_the_inverse_as_preconditioner_takes_one_iteration() -> None:
    inverse = _product(torch.linalg.inv(SYSTEMS))
    v, report = conjugate_gradients(_product(SYSTEMS), RIGHT, CGConfig(10, 1e-9), inverse)
    assert report.iterations == 1
    torch.testing.assert_close(v, torch.linalg.solve(SYSTEMS, RIGHT))


def test_a_zero_right_hand_side_needs_no_product() -> None:
    v, report = conjugate_gradients(_product(SYSTEMS), torch.zeros_like(RIGHT), CGConfig())
    assert not v.any() and report.iterations == 0 and not report.residual.any()


@pytest.mark.parametrize("options", [{"iterations": 0}, {"tolerance": 1.0}, {"tolerance": -1.0}, {"regularisation": -1.0}])
def test_bad_settings_of_the_solver_are_refused(options: dict) -> None:
    with pytest.raises(MvssError, match="solver"):
        CGConfig(**options)


def test_a_matrix_that_rounding_spoils_is_refused_in_one_line() -> None:
    """Two looks at one number, of unit variance, under noise that double precision does not hold beside it."""
    with pytest.raises(MvssError, match=r"the noise is lost in rounding .* give a larger noise"):
        Cholesky.of(torch.ones(2, 2, dtype=torch.float64) + 1e-20 * torch.eye(2, dtype=torch.float64))
