"""The manifold problems are as the paper and the project describe them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from experiments.manifolds.data import (
    DATA_RANGE,
    NOISE,
    SMOOTHNESS,
    ManifoldTask,
    make_manifolds,
    make_split,
)
from experiments.manifolds.problems import PROBLEMS, problem_named
from experiments.manifolds.surfaces import (
    ARC,
    DIMENSION,
    HEIGHT,
    MODES,
    OVERLAP,
    PIECES,
    RADIUS,
    SHARE,
    SIZE,
    THICKNESS,
    make_surfaces,
)
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.constraints import unconstrained
from mvss.problem.operators import Composition, Dense, Scale
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

COUNT = 64


def matrices(view: View, source: str) -> tuple[float, Tensor]:
    """The mixing weight and the matrices `(N, M, D)` of a source in a view."""
    operator = view.operators[source]
    assert isinstance(operator, Composition) and isinstance(operator.outer, Scale) and isinstance(operator.inner, Dense)
    return operator.outer.factor, operator.inner.matrix


def test_the_problems_are_those_of_the_paper_and_the_talk() -> None:
    assert set(PROBLEMS) == {
        *("contrastive-2", "contrastive-3", "mixed-0.0", "mixed-0.1", "mixed-0.5", "mixed-0.9"),
        *("mixed-1.0-separate", "mixed-0.1-r2", "surfaces"),
    }
    assert SMOOTHNESS == (3.0, 4.0, 5.0)
    with pytest.raises(MvssError, match=r"did you mean 'mixed-0\.5'"):
        problem_named("mixed-0.55")


@pytest.mark.parametrize("name", PROBLEMS)
def test_matrices_have_unit_rows_drawn_anew_for_every_observation(name: str) -> None:
    problem = problem_named(name)
    split = make_split(problem, 0, COUNT, "train")
    for view, weights in zip(split.data, problem.mixing, strict=True):
        assert view.y.shape == (COUNT, {"mixed-0.1-r2": 2, "surfaces": 5}.get(name, 3))
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


@pytest.mark.parametrize("name", ["contrastive-3", "mixed-0.5", "mixed-1.0-separate", "surfaces"])
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


def moments(law: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a mixture."""
    mean = law.weights @ law.means
    second = torch.einsum("k,kij->ij", law.weights, law.covariances + torch.einsum("ki,kj->kij", law.means, law.means))
    return mean, second - torch.outer(mean, mean)


@pytest.mark.parametrize("source", [0, 1, 2])
def test_surfaces_are_drawn_from_their_law(source: int) -> None:
    """Independent draws and stratified ones, of which no two are the same: mean and covariance."""
    surface, count = make_surfaces(0)[source], 40_000
    mean, covariance = moments(surface.exact())
    spread = covariance.diagonal().max() ** 0.5
    for stratified in (False, True):
        x = surface.sample(count, torch.Generator().manual_seed(0), stratified)
        assert x.shape == (count, DIMENSION) and len(x.unique(dim=0)) == count
        torch.testing.assert_close(x.mean(0), mean, atol=5 * float(spread) / count**0.5, rtol=0)
        torch.testing.assert_close(x.mT.cov(), covariance, atol=25 * float(spread) ** 2 / count**0.5, rtol=0)
    few = surface.sample(64, torch.Generator().manual_seed(1))
    assert not torch.equal(few, surface.sample(64, torch.Generator().manual_seed(2)))


def test_ring_and_spikes_have_the_moments_of_their_formulas() -> None:
    """Along the axes of the source: of ten arcs alike every mean is zero; a piece has the length of its part of an arc."""
    _, ring, spikes = (surface.exact() for surface in make_surfaces(1))
    length = OVERLAP * 2 * math.pi / MODES * ARC / PIECES
    circle, wave = RADIUS**2 / 2 * (1 + length**2), HEIGHT**2 / 2 * (1 + 9 * length**2)
    for law, along in ((ring, [*[0.0] * 5, wave, circle, circle]), (spikes, [SHARE * SIZE**2] * DIMENSION)):
        mean, covariance = moments(law)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-9, rtol=0)
        expected = torch.tensor(along, dtype=torch.float64).sort().values + THICKNESS**2
        torch.testing.assert_close(torch.linalg.eigvalsh(covariance), expected)
    on = (spikes.factors != 0).any(1).sum(1)
    assert float(spikes.weights[on == 2].sum()) == pytest.approx(28 * SHARE**2 * (1 - SHARE) ** 6)


def test_surfaces_fill_their_space_and_are_not_gaussian() -> None:
    """Along its longest axis the sheet has heavier tails than a Gaussian, whose kurtosis is 3, and the ring lighter ones."""
    surfaces = make_surfaces(0)
    for surface in surfaces:
        assert float(torch.linalg.eigvalsh(surface.exact().covariances).amin()) == pytest.approx(THICKNESS**2)
    kurtosis = []
    for surface in surfaces[:2]:
        x = surface.sample(20_000, torch.Generator().manual_seed(0))
        along = (x - x.mean(0)) @ torch.linalg.eigh(x.mT.cov()).eigenvectors[:, -1]
        kurtosis.append(float(along.pow(4).mean() / along.square().mean() ** 2))
    assert kurtosis[0] > 3.3 and kurtosis[1] < 2


def test_views_of_surfaces_tell_all_sources() -> None:
    """Log characteristic functions of three sums of two, under all matrices, are those of three sources."""
    problem = problem_named("surfaces")
    assert float(torch.linalg.det(torch.tensor(problem.mixing))) == pytest.approx(2)
    task = ManifoldTask("surfaces", 0, COUNT, COUNT)
    assert unconstrained(task.train) == [] and task.scored_views == (0, 1, 2)
    assert task.train.stages() == (("1", "2", "3"),)


def test_sources_behind_the_training_observations_are_thinned_evenly() -> None:
    """Of both kinds: every one where all are asked for, and where few, as many of each part as there are."""
    for name in ("contrastive-2", "surfaces"):
        task = ManifoldTask(name, 0, 300, 8)
        for b, source in enumerate(task.sources):
            pool = torch.cat([task.train_truth[a][b] for a in task.train.showing([str(b + 1)])])
            assert torch.equal(task.training_sources(b, len(pool)).sort(0).values, pool.sort(0).values)
            few, whole = (source.place(x).double() for x in (task.training_sources(b, 100), pool))
            levels = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
            ranks = (whole.unsqueeze(1) <= torch.quantile(few, levels)).double().mean(0)
            assert bool((ranks >= levels - 0.02).all())
