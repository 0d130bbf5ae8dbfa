"""The likelihood step against the closed form of its Gaussian, by every way to solve for it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from mvss import CGConfig, Diagonal, Isotropic, LinearOperator, Mask, Noise, Scale, Stationary, View
from mvss.posteriors.likelihood_step import LikelihoodStep
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.image_operators import BlockAverage, Convolve
from mvss.problem.operators import Dense, Identity
from mvss.problem.shared_view import measured
from mvss.runtime.rng import Stream

COUNT = 4000
SOLVER = CGConfig(iterations=200, tolerance=1e-10)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(shape: tuple[int, ...], seed: int) -> GaussianMixture:
    size = int(torch.Size(shape).numel())
    return GaussianMixture(torch.ones(1), normal(1, size, seed=seed), 0.5 * normal(1, size, 2, seed=seed + 1), 0.3, shape)


KERNEL = torch.tensor([[0.1, 0.2, 0.1], [0.0, 0.5, 0.1], [0.0, 0.0, 0.1]], dtype=torch.float64)
LAGS = torch.outer(torch.tensor([0.3, 1.0, 0.3]), torch.tensor([0.2, 1.0, 0.2])).double() * 0.04
MAPS = 0.1 + torch.rand(COUNT, 1, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
Problem = tuple[Mapping[str, LinearOperator], Noise, str]
GAPS = torch.tensor([[[[1, 0, 1], [1, 1, 0], [1, 1, 1]]]], dtype=torch.bool)
MASK = [[[[True, False], [True, True]]]]
PROBLEMS: dict[str, Problem] = {
    "diagonal": ({"a": Mask(MASK) @ BlockAverage((1, 4, 4), 2), "b": Mask(MASK) @ Scale(0.5, (1, 2, 2))}, Isotropic(0.3), ""),
    "a map each": ({"a": BlockAverage((1, 4, 4), 2), "b": Identity((1, 2, 2))}, Diagonal(MAPS), ""),
    "shared": ({"a": Convolve((1, 3, 3), KERNEL, "same"), "b": Identity((1, 3, 3))}, Isotropic(0.3), ""),
    "correlated": ({"a": Convolve((1, 3, 3), KERNEL, "same"), "b": Identity((1, 3, 3))}, Stationary(LAGS), ""),
    "correlated, with gaps": (
        {"a": Mask(GAPS) @ Convolve((1, 3, 3), KERNEL, "same"), "b": Mask(GAPS) @ Identity((1, 3, 3))},
        Stationary(LAGS),
        "",
    ),
    "dense each": ({"a": Dense(normal(1, 2, 3).expand(COUNT, 2, 3)), "b": Dense(normal(2, 2))}, Isotropic(0.3), ""),
    "integrated": ({"a": Identity((1, 2, 2)), "b": Scale(0.5, (1, 2, 2))}, Isotropic(0.3), "b"),
    "integrated, a map each": ({"a": Identity((1, 2, 2)), "b": Scale(0.5, (1, 2, 2))}, Diagonal(MAPS), "b"),
}


@pytest.mark.parametrize("products", [False, True], ids=["as it is", "by products alone"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_moments_are_those_of_the_joint_gaussian(name: str, products: bool) -> None:
    """Of draws that are whitened by the closed form of each observation."""
    operators, noise, integrated = PROBLEMS[name]
    laws = {integrated: gaussian(operators[integrated].source_shape, 3)} if integrated else {}
    split = {s: operator.source_shape for s, operator in operators.items() if s not in laws}
    x = {s: normal(1, *shape, seed=7).expand(COUNT, *shape) for s, shape in split.items()}
    rho = {s: torch.full((COUNT,), 0.4 + 0.3 * place, dtype=torch.float64) for place, s in enumerate(split)}
    first = next(iter(operators.values()))
    view = View(normal(1, *first.observation_shape, seed=8).expand(COUNT, *first.observation_shape), operators, noise)
    step = LikelihoodStep(view, laws, SOLVER)
    if products:
        step.diagonal = step.dense = False
    drawn = step.draw(x, rho, Stream(1))
    z = torch.cat([drawn[source].flatten(1) for source in operators], dim=1)
    mean, covariance = closed_form(view, x, rho, laws)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (z - mean).unsqueeze(-1), upper=False).squeeze(-1)
    assert float(white.mean(0).abs().max()) < 4.5 / COUNT**0.5
    assert float((torch.cov(white.mT) - torch.eye(white.shape[1])).abs().max()) < 6 / COUNT**0.5
    assert step.residual < 1e-8


@pytest.mark.parametrize("way", ["dense", "products"])
@pytest.mark.parametrize("name", ["diagonal", "correlated, with gaps"])
def test_numbers_that_were_not_measured_count_for_nothing(name: str, way: str) -> None:
    """Not by the noise that they share with others, nor by how far conjugate gradients go."""
    operators, noise, _ = PROBLEMS[name]
    first = next(iter(operators.values()))
    x = {s: normal(4, *o.source_shape, seed=7) for s, o in operators.items()}
    rho = {s: torch.full((4,), 0.4, dtype=torch.float64) for s in operators}
    drawn = []
    for fill in (0.0, 1e6):
        y = normal(4, *first.observation_shape, seed=8)
        seen = measured(View(y, operators, noise)).expand_as(y)
        step = LikelihoodStep(View(y.where(seen, fill), operators, noise), {}, SOLVER)
        step.diagonal, step.dense = False, way == "dense"
        drawn.append(step.draw(x, rho, Stream(1)))
    for source in operators:
        torch.testing.assert_close(drawn[0][source], drawn[1][source], atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [1.0, 0.5], ids=["as it is", "in the units of a fit"])
def test_what_is_diagonal_is_solved_number_by_number(factor: float) -> None:
    operators, noise, _ = PROBLEMS["diagonal"]
    view = View(torch.zeros(3, 1, 2, 2), {s: operator.scaled(factor) for s, operator in operators.items()}, noise)
    assert LikelihoodStep(view, {}, SOLVER).diagonal


def test_draws_do_not_depend_on_how_many_are_made_together() -> None:
    """The way to solve is that of the size of an observation: the former one of few was not that of many."""
    shape = (1, 15, 15)
    mask = Mask(torch.rand(170, *shape, generator=torch.Generator().manual_seed(0)) > 0.2)
    step = LikelihoodStep(View(normal(170, *shape), {"a": mask @ Convolve(shape, KERNEL, "same")}, 0.3), {}, CGConfig())
    part = step.select(slice(2))
    x, rho = torch.zeros(170, *shape, dtype=torch.float64), torch.ones(170, dtype=torch.float64)
    some, every = (s.draw({"a": x[:n]}, {"a": rho[:n]}, Stream(1))["a"] for s, n in ((part, 2), (step, 170)))
    torch.testing.assert_close(some, every[:2], rtol=0, atol=1e-10)
    assert step.dense and step.residual == 0 and 100 < step.chunk < 170


@pytest.mark.parametrize("masked", [False, True])
def test_no_matrix_is_made_of_large_images(masked: bool) -> None:
    """Neither of those that share one nor of a single one."""
    shape = (1, 128, 128)
    operator = Convolve(shape, KERNEL, "same")
    if masked:
        operator = Mask(normal(2, *shape) > 0) @ operator
    step = LikelihoodStep(View(normal(2, *shape), {"a": operator}, 1.0).select(slice(1)), {}, SOLVER)
    z = step.draw({"a": torch.zeros(1, *shape)}, {"a": torch.ones(1).double()}, Stream(1))
    assert not step.dense and step.residual < 1e-8 and bool(z["a"].isfinite().all())


def closed_form(
    view: View, x: Mapping[str, Tensor], rho: Mapping[str, Tensor], laws: Mapping[str, GaussianMixture]
) -> tuple[Tensor, Tensor]:
    """Mean `(N, D)` and covariance `(N, D, D)` of z given y."""
    matrix = torch.cat([o.dense().expand(len(view), -1, -1) for o in view.operators.values()], dim=2)
    means = [laws[s].means if s in laws else x[s].flatten(1) for s in view.sources]
    prior = torch.block_diag(
        *[laws[s].covariances[0] if s in laws else rho[s][0] ** 2 * torch.eye(x[s][0].numel()).double() for s in view.sources]
    )
    mean = torch.cat([m.expand(len(view), -1) for m in means], dim=1)
    eye = torch.eye(matrix.shape[1], dtype=torch.float64).reshape(-1, *view.observation_shape)
    seen = measured(view).flatten(1)[0]
    if view.noise.is_white:
        noise = torch.diag_embed(view.noise.variance(view.y).flatten(1))
    else:
        noise = view.noise.apply(eye).flatten(1)[None]
    total = matrix @ prior @ matrix.mT + noise
    inverse = torch.zeros_like(total)
    inverse[:, seen.nonzero(), seen.nonzero().mT] = torch.linalg.inv(total[:, seen][:, :, seen])
    gain = prior @ matrix.mT @ inverse
    residual = (view.y.flatten(1) - (matrix @ mean.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)
    covariance = prior - gain @ matrix @ prior
    return mean + (gain @ residual).squeeze(-1), (covariance + covariance.mT) / 2
