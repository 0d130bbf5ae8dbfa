"""The manifold problems are as the paper and the project describe them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experiments.manifolds.data import (
    DATA_RANGE,
    NOISE,
    SMOOTHNESS,
    make_manifolds,
    make_split,
)
from experiments.manifolds.problems import PROBLEMS, problem_named
from mvss.problem.operators import Composition, Dense, Scale
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

COUNT = 64


def matrices(view: View, source: str) -> tuple[float, Tensor]:
    """The mixing weight and the matrices `(N, M, 5)` of a source in a view."""
    operator = view.operators[source]
    assert isinstance(operator, Composition) and isinstance(operator.outer, Scale) and isinstance(operator.inner, Dense)
    return operator.outer.factor, operator.inner.matrix


def test_the_problems_are_those_of_the_paper_and_the_talk() -> None:
    assert set(PROBLEMS) == {
        *("contrastive-2", "contrastive-3", "mixed-0.0", "mixed-0.1", "mixed-0.5", "mixed-0.9"),
        *("mixed-1.0-separate", "mixed-0.1-r2"),
    }
    assert SMOOTHNESS == (3.0, 4.0, 5.0)
    with pytest.raises(MvssError, match=r"did you mean 'mixed-0\.5'"):
        problem_named("mixed-0.55")


@pytest.mark.parametrize("name", PROBLEMS)
def test_matrices_have_unit_rows_drawn_anew_for_every_observation(name: str) -> None:
    problem = problem_named(name)
    split = make_split(problem, 0, COUNT, "train")
    for view, weights in zip(split.data, problem.mixing, strict=True):
        assert view.y.shape == (COUNT, 2 if name.endswith("r2") else 3)
        shown = [b for b, weight in enumerate(weights) if weight]
        assert view.sources == tuple(str(b + 1) for b in shown)
        found = [matrices(view, source) for source in view.sources]
        for (factor, matrix), b in zip(found, shown, strict=True):
            assert factor == weights[b]
            torch.testing.assert_close(matrix.norm(dim=-1), torch.ones_like(matrix[..., 0]))
            assert len(matrix.flatten(1).unique(dim=0)) == COUNT
        same = all(torch.equal(matrix, found[0][1]) for _, matrix in found)
        assert same == (not problem.separate_matrices or len(found) == 1)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_mixed_views_weigh_the_other_source_by_the_mixing_fraction(fraction: float) -> None:
    assert problem_named(f"mixed-{fraction}").mixing == ((1.0, fraction), (fraction, 1.0))
    stages = make_split(problem_named(f"mixed-{fraction}"), 0, COUNT, "train").data.stages()
    assert stages == (("1", "2"),)


def test_contrastive_views_hold_the_sources_one_after_the_other() -> None:
    problem = problem_named("contrastive-3")
    assert problem.mixing == ((1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0))
    assert make_split(problem, 0, COUNT, "train").data.stages() == (("1",), ("2",), ("3",))
    assert problem.scored_views == (2,)


@pytest.mark.parametrize("name", ["contrastive-3", "mixed-0.5", "mixed-1.0-separate"])
def test_observations_are_the_mixture_of_the_truth_plus_noise(name: str) -> None:
    split = make_split(problem_named(name), 1, 2000, "train")
    for view, truth in zip(split.data, split.truth, strict=True):
        residual = view.y - view.predicted(dict(zip(split.data.sources, truth, strict=True)))
        assert float(residual.std()) == pytest.approx(NOISE, rel=0.05)
        assert abs(float(residual.mean())) < 5 * NOISE / residual.numel() ** 0.5


def test_the_manifold_and_not_the_sample_spans_the_range() -> None:
    fine = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    for seed in (0, 1):
        for manifold in make_manifolds(problem_named("contrastive-3"), seed):
            curve = manifold(fine)
            torch.testing.assert_close(curve.amin(0), torch.full((5,), -DATA_RANGE / 2, dtype=torch.float64))
            torch.testing.assert_close(curve.amax(0), torch.full((5,), DATA_RANGE / 2, dtype=torch.float64))
            few = manifold.sample(20, torch.Generator().manual_seed(0))
            assert float(few.abs().max()) <= DATA_RANGE / 2 + 1e-6
            assert float((few.amax(0) - few.amin(0)).max()) < DATA_RANGE


def test_smoother_manifolds_have_less_of_the_high_frequencies() -> None:
    z = torch.linspace(0, 1, 4001, dtype=torch.float64)
    bends = []
    for b in range(3):
        curves = [make_manifolds(problem_named("contrastive-3"), seed)[b](z) for seed in range(6)]
        bends.append(float(torch.stack([c.diff(n=2, dim=0).abs().mean() for c in curves]).mean()))
    assert bends[0] > bends[1] > bends[2]


def test_source_draws_are_shared_neither_between_views_nor_between_splits() -> None:
    problem = problem_named("mixed-0.1")
    train, fresh = (make_split(problem, 0, COUNT, split) for split in ("train", "fresh"))
    clouds = [x for split in (train, fresh) for view in split.truth for x in (view[0],)]
    for i, one in enumerate(clouds):
        for other in clouds[:i]:
            assert float(torch.cdist(one, other).min()) > 0
    rows = [matrices(view, "1")[1] for split in (train, fresh) for view in split.data]
    assert len(torch.cat(rows).flatten(1).unique(dim=0)) == 4 * COUNT


def test_a_seed_repeats_its_data_and_another_has_other_manifolds() -> None:
    problem = problem_named("contrastive-2")
    one, again, other = (make_split(problem, seed, COUNT, "train") for seed in (3, 3, 4))
    for view, same in zip(one.data, again.data, strict=True):
        assert torch.equal(view.y, same.y)
    z = torch.linspace(0, 1, 11, dtype=torch.float64)
    ours, theirs = (make_manifolds(problem, seed)[0](z) for seed in (3, 4))
    assert not torch.allclose(ours, theirs, atol=0.1)
    assert not torch.equal(one.data[0].y, other.data[0].y)
    # the sources depend on the seed alone: problems of one seed are about the same sources
    assert torch.equal(ours, make_manifolds(problem_named("mixed-0.5"), 3)[0](z))


def test_the_polyline_has_the_moments_of_its_manifold() -> None:
    z = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for manifold in make_manifolds(problem_named("contrastive-2"), 0):
        prior, points = manifold.polyline(512), manifold(z)
        mean = prior.weights @ prior.means
        spread = prior.means - mean
        covariance = torch.einsum("k,kij->ij", prior.weights, prior.covariances) + (prior.weights * spread.mT) @ spread
        torch.testing.assert_close(mean, points.mean(0), atol=1e-4, rtol=0)
        torch.testing.assert_close(covariance, points.mT.cov(), atol=1e-3, rtol=0)
        # and it lies on the curve: no draw is further from it than a few floors and a piece's own bend
        drawn = prior.sample(200, Stream(0))
        assert float(torch.cdist(drawn, points[::20]).amin(1).max()) < NOISE
