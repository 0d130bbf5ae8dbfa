"""The exact posterior against brute force, closed forms and automatic differentiation."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from closed_forms import exact, random_prior, random_view
from torch import Tensor

from mvss.estimation.evidence_gradient import evidence_gradient
from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact_mixture import MixturePosterior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.operators import Dense, Mask
from mvss.problem.views import View
from mvss.runtime.memory import AT_ONCE, rows_within
from mvss.runtime.rng import Stream

SIZES = (3, 2)  # dimensions of two sources


def _prior(components: int, dimension: int, seed: int, rank: int | None = None) -> GaussianMixture:
    return random_prior(components, dimension, seed, rank, size=0.4, floor=0.03)


def _view(count: int, observed: int, sizes: tuple[int, ...] = SIZES, seed: int = 9) -> DenseView:
    rng = torch.Generator().manual_seed(seed)
    matrices = tuple(torch.randn(count, observed, d, generator=rng, dtype=torch.float64) for d in sizes)
    y = torch.randn(count, observed, generator=rng, dtype=torch.float64)
    return DenseView(y, matrices, 0.02 + 0.1 * torch.rand(count, observed, generator=rng, dtype=torch.float64))


def _draw(posterior: MixturePosterior, data: DenseView, stream: Stream, index: Tensor | None = None) -> tuple[Tensor, ...]:
    index = torch.arange(len(data)) if index is None else index
    return posterior.draw(data, stream, index, posterior.chunks(data))


def _brute_force(priors: list[GaussianMixture], view: DenseView) -> Tensor:
    """log p(y | A), `(N,)`, differentiable in the means."""
    terms = []
    for combination in itertools.product(*(range(len(p)) for p in priors)):
        mean, covariance, weight = torch.zeros_like(view.y), torch.diag_embed(view.noise), 0.0
        for prior, a, k in zip(priors, view.matrices, combination, strict=True):
            mean = mean + a @ prior.means[k]
            covariance = covariance + a @ prior.covariances[k] @ a.mT
            weight = weight + prior.weights[k].log()
        terms.append(weight + torch.distributions.MultivariateNormal(mean, covariance).log_prob(view.y))
    return torch.logsumexp(torch.stack(terms), 0)


@pytest.mark.parametrize("observed", [1, 2, 3])
def test_evidence_agrees_with_brute_force(observed: int) -> None:
    priors, view = [_prior(3, 3, 0), _prior(4, 2, 1, rank=1)], _view(5, observed)
    evidence, discarded = MixturePosterior(priors, retain=40.0).log_evidence(view)
    torch.testing.assert_close(evidence, _brute_force(priors, view))
    assert float(discarded.max()) < 1e-12


def test_what_pruning_discards_is_what_the_evidence_loses() -> None:
    priors, view = [_prior(6, 3, 0), _prior(6, 2, 1)], _view(40, 2)
    exact, _ = MixturePosterior(priors, retain=40.0).log_evidence(view)
    pruned, discarded = MixturePosterior(priors, retain=1.0).log_evidence(view)
    torch.testing.assert_close(1 - (pruned - exact).exp(), discarded, atol=1e-4, rtol=1e-4)
    assert float(discarded.max()) > 0.01


def test_a_wide_beam_finds_what_an_exhaustive_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    priors, view = [_prior(9, 3, 0), _prior(7, 2, 1)], _view(20, 2)
    exact, _ = MixturePosterior(priors, retain=40.0).log_evidence(view)
    monkeypatch.setattr("mvss.posteriors.exact_mixture.MANY", 16)
    beam, _ = MixturePosterior(priors, retain=40.0, beam=64).log_evidence(view)
    torch.testing.assert_close(beam, exact)


def _thin(count: int, noise: Tensor, offset: float = 0.0) -> tuple[list[GaussianMixture], DenseView]:
    """Pieces of lines, and four numbers of each of their sums. noise: standard deviations, `(N,)`."""
    priors = [random_prior(count, 3, seed, rank=1, floor=0.3 * float(noise.min())) for seed in (0, 1)]
    priors = [GaussianMixture(p.weights, p.means + offset, p.factors, p.floor) for p in priors]
    view = _view(len(noise), 4, (3, 3))
    x = [prior.sample(len(noise), Stream(seed)) for seed, prior in enumerate(priors)]
    return priors, replace(view, y=view.image(x) + noise[:, None] * view.y, noise=noise.square()[:, None].expand(-1, 4))


@pytest.mark.parametrize("many", [6000, 4], ids=["all", "beam"])
@pytest.mark.parametrize("noise", [1e-6, 1e-5, 1e-4, 1e-3])
def test_little_noise_loses_no_component(noise: float, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of some observations alone, with others between; float32 keeps wrong ones of them, and says that it lost none."""
    monkeypatch.setattr("mvss.posteriors.exact_mixture.MANY", many)
    priors, view = _thin(8, torch.where(torch.arange(300) % 3 > 0, noise, 0.1).double())
    found = MixturePosterior(priors, retain=30.0).combinations(view)
    torch.testing.assert_close(found.evidence, _brute_force(priors, view), atol=1e-3, rtol=1e-4)
    assert float(found.discarded.max()) < 1e-6 and bool((found.row.diff() >= 0).all())


def test_components_without_directions_are_searched() -> None:
    """As those of Karras' base: balls as wide as the floor."""
    view = _view(20, 3, (3, 2))
    priors = [GaussianMixture(torch.ones(2), torch.randn(2, d).double(), torch.zeros(2, d, 0), 0.5) for d in (3, 2)]
    torch.testing.assert_close(MixturePosterior(priors).log_evidence(view)[0], _brute_force(priors, view), atol=1e-3, rtol=0)


def test_sources_far_from_zero_lose_no_component() -> None:
    priors, view = _thin(8, torch.full((300,), 0.1, dtype=torch.float64), offset=3e7)
    torch.testing.assert_close(
        MixturePosterior(priors, retain=30.0).log_evidence(view)[0], _brute_force(priors, view), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(("noise", "finer"), [(1e-1, False), (1e-2, False), (1e-5, True)])
def test_only_little_noise_is_screened_in_float64(noise: float, finer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere published numbers would change in their last bits."""
    seen, screen = list[torch.dtype](), MixturePosterior._screen
    monkeypatch.setattr(MixturePosterior, "_screen", lambda *given: (seen.append(given[2]), screen(*given))[1])
    priors, view = _thin(8, torch.full((20,), noise, dtype=torch.float64))
    MixturePosterior(priors).combinations(view)
    assert seen == [torch.float32, torch.float64][: 1 + finer]


@pytest.mark.parametrize("observed", [1, 3])
def test_gradient_agrees_with_automatic_differentiation(observed: int) -> None:
    priors, view = [_prior(3, 3, 0), _prior(2, 2, 1)], _view(6, observed)
    gradient = evidence_gradient([((0, 1), view)], priors, retain=40.0)
    for prior in priors:
        prior.weights.requires_grad_()
        prior.means.requires_grad_()
        prior.factors.requires_grad_()
    mean_evidence = _brute_force(priors, view).mean()
    mean_evidence.backward()
    assert gradient.evidence == pytest.approx(float(mean_evidence.detach()))
    for beta, prior in enumerate(priors):
        count, first, second = gradient.sums[beta]
        torch.testing.assert_close(count / prior.weights.detach(), prior.weights.grad)
        torch.testing.assert_close(first, prior.means.grad)
        torch.testing.assert_close(second @ prior.factors.detach(), prior.factors.grad)
    shifts = torch.cat([prior.means.grad.sum(0) for prior in priors])
    torch.testing.assert_close(gradient.scores.mean(0), shifts)


def test_a_view_that_hides_a_source_gives_it_no_score() -> None:
    priors, view = [_prior(3, 3, 0), _prior(2, 2, 1)], _view(6, 2, sizes=(3,))
    gradient = evidence_gradient([((0,), view)], priors, retain=40.0)
    assert gradient.scores.shape == (6, 5)
    assert not gradient.scores[:, 3:].any()
    assert not any(t.any() for t in gradient.sums[1])


@pytest.mark.parametrize("sizes", [(3,), (3, 2), (2, 4, 1)])
def test_draws_of_one_gaussian_follow_its_exact_posterior(sizes: tuple[int, ...]) -> None:
    """Many draws for one observation, with K = 1 the posterior is the Gaussian of linear regression."""
    draws = 40_000
    priors = [_prior(1, d, 3 + i, rank=min(d, 2)) for i, d in enumerate(sizes)]
    one = _view(1, 2, sizes)
    many = one.select(torch.zeros(draws, dtype=torch.long))
    posterior = MixturePosterior(priors)
    x = torch.cat(_draw(posterior, many, Stream(0, ("test",))), dim=1)

    a, prior_mean = torch.cat(one.matrices, dim=2)[0], torch.cat([p.means[0] for p in priors])
    prior_covariance = torch.block_diag(*[p.covariances[0] for p in priors])
    gain = prior_covariance @ a.mT @ torch.linalg.inv(a @ prior_covariance @ a.mT + torch.diag(one.noise[0]))
    mean = prior_mean + gain @ (one.y[0] - a @ prior_mean)
    covariance = prior_covariance - gain @ a @ prior_covariance
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(x.mT), covariance, atol=0.02, rtol=0)


def test_draws_average_to_the_posterior_mean() -> None:
    draws, priors, one = 40_000, [_prior(4, 3, 0), _prior(3, 2, 1)], _view(1, 2)
    many = one.select(torch.zeros(draws, dtype=torch.long))
    posterior = MixturePosterior(priors, retain=40.0)
    x = torch.cat(_draw(posterior, many, Stream(1, ("test",))), dim=1)
    torch.testing.assert_close(x.mean(0), exact(priors, one).mean, atol=0.03, rtol=0)


def test_draws_are_keyed_by_observation_not_by_batch() -> None:
    priors, view, stream = [_prior(4, 3, 0), _prior(3, 2, 1)], _view(10, 2), Stream(2, ("test",))
    posterior, index = MixturePosterior(priors), torch.tensor([7, 2])
    for part, whole in zip(_draw(posterior, view.select(index), stream, index), _draw(posterior, view, stream), strict=True):
        torch.testing.assert_close(part, whole[index])


def test_draws_of_masked_views_depend_on_no_other_observation() -> None:
    """Those with most pixels are not among the first."""
    rng = torch.Generator().manual_seed(0)
    kept = torch.arange(6) < torch.tensor([[3], [3], [4], [6]])
    both = View(torch.randn(4, 6, generator=rng).double(), {"x": Mask(kept)}, 0.3)
    whole, part = DenseView.of(both), DenseView.of(both.select(torch.arange(2)))
    assert (whole.y.shape[1], part.y.shape[1]) == (6, 3)
    posterior, stream, index = MixturePosterior([random_prior(2, 6, 0)]), Stream(0), torch.arange(4)
    for some, every in zip(_draw(posterior, part, stream, index[:2]), _draw(posterior, whole, stream, index), strict=True):
        torch.testing.assert_close(some, every[:2])


@pytest.mark.parametrize("many", [6000, 4])
def test_matrices_of_lapack_give_what_entries_by_hand_give(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence, draws, and the gradient of the evidence, of an observation at a time and of many."""
    priors, view, index = [random_prior(5, 3, 1), random_prior(4, 2, 2)], random_view(30, 4, (3, 2)), torch.arange(30)

    def everything() -> list[Tensor]:
        posterior = MixturePosterior(priors, retain=40.0)
        search = [(piece, part, kept.thin()) for piece, part, kept in posterior.chunks(view)]
        gradient = evidence_gradient([((0, 1), view), ((1,), random_view(5, 3, (2,)))], priors, 40.0)
        sums = [t for source in gradient.sums for t in source]
        evidence = posterior.log_evidence(view)[0]
        return [evidence, *posterior.draw(view, Stream(0), index, search), gradient.scores, *sums]

    monkeypatch.setattr("mvss.posteriors.exact_mixture.MANY", many)
    expected = everything()
    monkeypatch.setattr("mvss.posteriors.dense.PAIRS", 0)
    for at_once in (2**28, 1):
        monkeypatch.setattr("mvss.posteriors.exact_mixture.rows_within", partial(rows_within, most=at_once))
        assert (MixturePosterior(priors).chunk(view) == 1) is (at_once == 1)
        torch.testing.assert_close(everything(), expected)


def test_chunks_of_many_numbers_fit_into_memory() -> None:
    """Pairs of rows of A of a single observation are 68 MB here; and few components would have asked for 65,536 of them."""
    view = DenseView(torch.zeros(1000, 64), (torch.zeros(1, 64, 64).expand(1000, -1, -1),), torch.ones(1000, 64))
    posterior = MixturePosterior([random_prior(1, 64, 0)])
    assert not view.is_small and posterior.chunk(view) * 24 * 64**2 <= AT_ONCE
    many = MixturePosterior([random_prior(48, 64, 0, rank=1)] * 2)
    both = replace(view, matrices=view.matrices * 2)
    assert many.hierarchies(both) is not None and 1 <= many.chunk(both) < 100


@pytest.mark.parametrize("alone", [True, False], ids=["one source", "another one with a mask of its own"])
def test_what_a_mask_hides_leaves_no_trace(alone: bool) -> None:
    """Whatever stands in y there; pixels that no observation needs are not even kept."""
    rng = torch.Generator().manual_seed(0)
    mask = torch.rand(9, 6, generator=rng) > 0.5
    mask[:, 0] = True
    part = mask & (torch.rand(9, 6, generator=rng) > 0.3)
    part[:, 0] = True
    y, *matrices = (torch.randn(*s, generator=rng, dtype=torch.float64) for s in ((9, 6), (6, 3), (6, 2)))
    masks, priors = {"a": mask} if alone else {"a": mask, "b": part}, [random_prior(3, 3, 1), random_prior(2, 2, 2)]
    shown = {s: Mask(masks[s]) @ Dense(matrix) for s, matrix in zip(masks, matrices, strict=False)}
    views = [View(torch.where(mask, y, junk), shown, 0.3) for junk in (0.0, 1e6)]
    data = [DenseView.of(view) for view in views]
    assert data[0].y.shape[1] == int(mask.sum(1).max()) < 6
    posterior = MixturePosterior(priors[: len(masks)], retain=200.0)
    found = [posterior.log_evidence(d)[0] for d in data]
    torch.testing.assert_close(found[0], found[1])
    for row, seen in enumerate(mask):
        left = {source: operator.dense()[row, seen] for source, operator in shown.items()}
        one = DenseView.of(View(y[row][None, seen], left, 0.3))
        torch.testing.assert_close(posterior.log_evidence(one)[0][0], found[0][row])
