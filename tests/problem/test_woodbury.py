"""Masks and variances of single observations, under operators that all share: against Gaussian conditioning one by one."""

from __future__ import annotations

import itertools

import pytest
import torch
from closed_forms import random_prior, shaped
from torch import Tensor

from mvss.estimation.mixture_em import _lap, expectation_maximisation
from mvss.estimation.mixture_moments import factor_analysis
from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact_mixture import MixturePosterior
from mvss.posteriors.gibbs import GibbsPosterior
from mvss.posteriors.iterative_moments import JacobianMoments
from mvss.posteriors.moment_matching import MomentMatching
from mvss.posteriors.posterior import Posterior
from mvss.posteriors.shared_gaussians import SharedGaussians, SharedGiven
from mvss.posteriors.shared_moments import SharedMoments
from mvss.presets.estimation import MixtureEMConfig
from mvss.presets.posterior import CGConfig, GibbsConfig, MomentMatchingConfig, SamplerConfig
from mvss.priors.local_law import Components
from mvss.problem.image_operators import Convolve
from mvss.problem.noise import Diagonal, Isotropic, Stationary
from mvss.problem.operators import Dense, Identity, LinearOperator, Mask, Scale
from mvss.problem.shared_view import SharedView, is_shared
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

RNG = torch.Generator().manual_seed(0)
N, SHAPE, M = 12, (1, 4, 4), 16
PRIORS = (random_prior(3, 16, 2, rank=5), random_prior(2, 36, 3, rank=4))
SOURCES = [Components.of(p) for p in PRIORS]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=RNG, dtype=torch.float64)


BASE: dict[str, LinearOperator] = {
    "plain": Identity(SHAPE),
    "blurred": Scale(0.7, SHAPE) @ Convolve((1, 6, 6), normal(3, 3), "valid"),
}
MASK = uniform(N, *SHAPE) > 0.12
MASK[0], MASK[:, 0, 1, 2] = True, False  # one observation has all pixels but that which none has
SIGMA = (0.2 + 0.3 * uniform(1, *SHAPE)).repeat(N, 1, 1, 1)
ODD = uniform(N, *SHAPE) < 0.08
ODD[0] = False
SIGMA = SIGMA * torch.where(ODD, torch.where(uniform(N, *SHAPE) < 0.5, 3.0, 0.4), 1.0)
VIEW = View(3 * normal(N, *SHAPE), {s: Mask(MASK) @ a for s, a in BASE.items()}, Diagonal(SIGMA), "masked")
LAGS = torch.tensor([[0.02, 0.05, 0.01], [0.06, 0.2, 0.06], [0.01, 0.05, 0.02]], dtype=torch.float64)
CORRELATED = View(VIEW.y, VIEW.operators, Stationary(LAGS), "correlated")


def given(view: SharedView) -> SharedGiven:
    return SharedGaussians(view, SOURCES).given(view.y, SOURCES, view.woodbury)


def one_by_one(view: View, row: int) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """log p(y, k) of the measured pixels, and means, covariances, S⁻¹ (y − mean) and Aᵀ of every combination."""
    seen = MASK[row].flatten() & MASK.any(0).flatten()
    a = torch.cat([o.dense()[row][seen] for o in view.operators.values()], dim=1)
    noise = view.noise.matrix(view.y) if isinstance(view.noise, Stationary) else torch.diag(SIGMA[row].flatten() ** 2)
    y, noise = view.y[row].flatten()[seen], noise[seen][:, seen]
    logs, means, covariances, solved, inverses = [], [], [], [], []
    for numbers in itertools.product(*(range(len(p)) for p in PRIORS)):
        mean = torch.cat([p.means[k] for p, k in zip(PRIORS, numbers, strict=True)])
        prior = torch.block_diag(*[p.covariances[k] for p, k in zip(PRIORS, numbers, strict=True)])
        s = a @ prior @ a.mT + noise
        weight = sum(p.weights[k].log() for p, k in zip(PRIORS, numbers, strict=True))
        logs.append(weight + torch.distributions.MultivariateNormal(a @ mean, s).log_prob(y))
        v = torch.linalg.solve(s, y - a @ mean)
        means.append(mean + prior @ a.mT @ v)
        covariances.append(prior - prior @ a.mT @ torch.linalg.solve(s, a @ prior))
        solved.append(a.mT @ v)
        inverses.append(a.mT @ torch.linalg.solve(s, a))
    return torch.stack(logs), means, covariances, solved, inverses


@pytest.mark.parametrize("view", [VIEW, CORRELATED])
def test_evidence_and_means_are_those_of_the_measured_pixels(view: View) -> None:
    found = given(SharedView.of(view))
    for row in range(N):
        logs, means, *_ = one_by_one(view, row)
        torch.testing.assert_close(found.log_joint[row], logs)
        for number, mean in enumerate(means):
            torch.testing.assert_close(torch.cat(found.component_mean(number), dim=1)[row], mean)
        total = torch.einsum("k,kd->d", logs.softmax(0), torch.stack(means))
        torch.testing.assert_close(torch.cat(found.mean(), dim=1)[row], total)


def test_noise_that_is_the_same_for_all_and_one_observation_alone() -> None:
    """The evidence of an observation does not depend on which others are beside it, nor on what a masked pixel holds."""
    whole = given(SharedView.of(VIEW)).log_evidence()
    for rows in ([5], [0], [3, 7, 1]):
        alone = given(SharedView.of(VIEW.select(torch.tensor(rows)))).log_evidence()
        torch.testing.assert_close(alone, whole[rows])
    filled = View(torch.where(MASK, VIEW.y, 1e4), VIEW.operators, VIEW.noise)
    torch.testing.assert_close(given(SharedView.of(filled)).log_evidence(), whole, rtol=0, atol=0)
    twice = Scale(1.0, SHAPE) @ (Scale(0.7, SHAPE) @ VIEW.operators["blurred"])
    view = SharedView.of(View(VIEW.y, {"plain": VIEW.operators["plain"], "blurred": twice}, 0.3))
    assert view.woodbury is not None and bool((view.woodbury.inverse == 0).all()) and len(view.woodbury.pixel) == N


def test_an_observation_without_odd_pixels_is_as_before() -> None:
    rows = torch.tensor([0])
    masked, clear = SharedView.of(VIEW), SharedView.of(VIEW.select(rows))
    assert clear.woodbury is None and masked.woodbury is not None and not bool(masked.woodbury.here[0].any())
    a, b = given(masked), given(clear)
    torch.testing.assert_close(a.log_joint[:1], b.log_joint, rtol=1e-13, atol=1e-13)
    for x, y in zip(a.mean(), b.mean(), strict=True):
        torch.testing.assert_close(x[:1], y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("view", "row"), [(VIEW, 2), (VIEW, 5), (CORRELATED, 7)])
def test_draws_have_the_moments_of_the_posterior(view: View, row: int) -> None:
    n = 20000
    assert bool(ODD[row].any()) == (view is VIEW) and int((~MASK[row]).sum()) > 1
    many = SharedView.of(view).select(torch.full((n,), row))
    draws = torch.cat(given(many).draw(Stream(0, ("draws",)), torch.arange(n)), dim=1)
    logs, means, covariances, *_ = one_by_one(view, row)
    weight = logs.softmax(0)
    mean = torch.einsum("k,kd->d", weight, torch.stack(means))
    second = sum(w * (c + torch.outer(m - mean, m - mean)) for w, m, c in zip(weight, means, covariances, strict=True))
    assert bool(((draws.mean(0) - mean).abs() < 5 * (second.diagonal() / n).sqrt()).all())
    offset = draws - mean
    found = offset.mT @ offset / n
    error = ((offset.square().mT @ offset.square() / n - found.square()) / n).sqrt()
    assert float(((found - second).abs() / error).max()) < 5


def test_a_lap_is_that_of_every_observation_by_itself() -> None:
    """The means of source 1 by the direct solution, the covariances of both by EM."""
    used, priors = [(VIEW.sources, SharedView.of(VIEW))], dict(zip(VIEW.sources, PRIORS, strict=True))
    found, evidence = _lap(used, priors, dict.fromkeys(priors, 0), "plain", 0.1)
    rows = [one_by_one(VIEW, row) for row in range(N)]
    torch.testing.assert_close(evidence, float(torch.stack([r[0] for r in rows]).logsumexp(1).mean()))
    combinations = list(itertools.product(range(3), range(2)))
    for beta, (source, part) in enumerate((("plain", slice(0, 16)), ("blurred", slice(16, 52)))):
        for k in range(len(PRIORS[beta])):
            if float(sum(r[0].softmax(0)[c] for r in rows for c, n in enumerate(combinations) if n[beta] == k)) < 1:
                continue
            count, first, second, force, precision = 0.0, 0.0, 0.0, 0.0, 0.0
            for logs, means, covariances, solved, inverses in rows:
                for c, numbers in enumerate(combinations):
                    if numbers[beta] == k:
                        weight, m = logs.softmax(0)[c], means[c][part]
                        count, first = count + weight, first + weight * m
                        second = second + weight * (torch.outer(m, m) + covariances[c][part, part])
                        force, precision = force + weight * solved[c][part], precision + weight * inverses[c][part, part]
            centre = first / count
            expected = factor_analysis(
                torch.ones(1), centre[None], (second / count - torch.outer(centre, centre))[None], 0, 0.1
            )
            torch.testing.assert_close(found[source].covariances[k], expected.covariances[0])
            mean = centre if beta else PRIORS[0].means[k] + torch.linalg.pinv(precision, rtol=1e-10, hermitian=True) @ force
            torch.testing.assert_close(found[source].means[k], mean)
    thin = {"plain": 5, "blurred": 4}  # variances of single numbers, some of which a component never sees
    for prior in _lap(used, priors, thin, "plain", 0.1)[0].values():
        assert float(prior.covariances.abs().max()) < 100


def test_the_evidence_rises_in_every_lap_and_the_truth_is_found() -> None:
    n, d = 1500, 6
    factor = normal(d, d) / 2
    b = [1.0 + normal(n, d) @ factor.T for _ in range(2)]
    target = torch.tensor([3.0, -3.0, 0, 0, 0, 0], dtype=torch.float64) * (2 * (torch.arange(n) % 2) - 1)[:, None]
    identity, views = Identity((d,)), []
    for number, (x, name) in enumerate(((b[0], "off"), (b[1] + target + 0.3 * normal(n, d), "on"))):
        mask = uniform(n, d) > 0.1
        sigma = torch.where(uniform(n, d) < 0.05, 1.0, 0.1)
        y = torch.where(mask, x + sigma * normal(n, d), 50.0)
        shown = ("background", "target")[: number + 1]
        views.append(View(y, dict.fromkeys(shown, Mask(mask) @ identity), Diagonal(sigma), name))
    config = MixtureEMConfig(components=(1, 2), ranks=(0, 0), laps=20, floor=0.05)
    fit = expectation_maximisation(Views(views), config, (("background",), ("target",)), Stream(0, ("masked",)))
    for stage in (fit.evidence[:20], fit.evidence[20:]):
        assert float(torch.tensor(stage).diff().min()) > -1e-9 and stage[-1] > stage[0]
    torch.testing.assert_close(fit.priors["background"].covariances[0], factor @ factor.T, atol=0.15, rtol=0.15)
    centres = fit.priors["target"].means[:, 0].abs()
    torch.testing.assert_close(centres, torch.full((2,), 3.0, dtype=torch.float64), atol=0.3, rtol=0)


def test_odd_pixels_go_with_their_rows() -> None:
    """In parts of moments, in chunks of posteriors, and in Gibbs; and factorisations are kept from call to call."""
    moments, level = SharedMoments(PRIORS, SharedView.of(VIEW), {}), torch.full((N,), 0.5, dtype=torch.float64)
    x_t = [normal(N, *SHAPE), normal(N, 1, 6, 6)]
    whole = moments(x_t, level)
    part = moments.select(slice(4, 9))([x[4:9] for x in x_t], level[4:9])
    for x, y in zip(whole, part, strict=True):
        torch.testing.assert_close(x[4:9], y)
    shape = (1, 10, 10)
    large = {s: shaped(random_prior(2, 100, seed, rank=3), shape) for seed, s in enumerate(("a", "b"), 1)}
    mask, stream = uniform(N, *shape) > 0.05, Stream(0, ("pipe",))
    sigma = torch.where(uniform(N, *shape) < 0.02, 0.9, 0.3)
    view = View(normal(N, *shape), dict.fromkeys(large, Mask(mask) @ Identity(shape)), Diagonal(sigma))
    sampler, draws = SamplerConfig("ancestral", 2, sigma_start=3.0), []
    for chunk in (5, 1000):
        matched = MomentMatching(MomentMatchingConfig(sampler=sampler, start="cold", chunk=chunk))
        swept = GibbsPosterior(GibbsConfig(rounds=2, sampler=sampler, chunk=chunk))
        draws.append([torch.stack(list(p.draw(view, large, stream).draws.values())) for p in (matched, swept)])
    torch.testing.assert_close(draws[0], draws[1])
    matched.draw(View(2 * view.y, view.operators, view.noise), large, stream)
    before = matched.factors._kept["view", ("a", "b")][-1]
    matched.draw(view, large, stream)
    assert matched.factors._kept["view", ("a", "b")][-1] is before and len(before) == 2


@pytest.mark.parametrize("view", [VIEW, CORRELATED])
def test_conjugate_gradients_see_the_measured_pixels_alone(view: View) -> None:
    """One Gaussian a source: one iteration, since the preconditioner corrects for the same pixels; and many without it."""
    priors = [random_prior(1, d, seed, rank=4) for d, seed in ((16, 1), (36, 2))]
    x_t, level = [normal(N, *SHAPE), normal(N, 1, 6, 6)], torch.full((N,), 0.5, dtype=torch.float64)
    expected = SharedMoments(priors, SharedView.of(view), {})(x_t, level)
    filled = View(torch.where(MASK, view.y, 100.0), view.operators, view.noise)
    quick = JacobianMoments(priors, filled, CGConfig(1, 1e-9))
    torch.testing.assert_close(quick(x_t, level), expected, rtol=1e-6, atol=1e-7)
    part = quick.select(slice(3, 8))([x[3:8] for x in x_t], level[3:8])
    torch.testing.assert_close(part, tuple(x[3:8] for x in expected), rtol=1e-6, atol=1e-7)
    slow = JacobianMoments(priors, filled, CGConfig(200, 1e-12))
    slow._inverse = None
    torch.testing.assert_close(slow(x_t, level), expected, rtol=1e-6, atol=1e-7)


def refused() -> list[tuple[View, str]]:
    y, dense = normal(6, 4), Dense(normal(4, 3))
    half = (torch.arange(24).reshape(6, 4) + torch.arange(6)[:, None]) % 2 == 0
    one = half.clone()
    one[0] = True
    noise = Isotropic(0.1)
    return [
        (View(y, {"a": Mask(half) @ dense, "b": Mask(one) @ dense}, noise), "operators of their own"),
        (View(y, {"a": Mask(half) @ dense, "b": dense}, noise), "operators of their own"),
        (View(y, {"a": Mask(half) @ Dense(normal(6, 4, 3))}, noise), "operators of their own"),
        (View(y, {"a": dense}, Diagonal(0.1 + uniform(6, 4))), "noise of their own"),
    ]


@pytest.mark.parametrize("number", range(4))
def test_views_that_differ_too_much_are_told(number: int) -> None:
    view, words = refused()[number]
    assert not is_shared(view)
    with pytest.raises(MvssError, match=words) as error:
        SharedView.of(view)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.45, 0.9])
def test_any_share_of_masked_pixels_has_the_law_of_the_measured_ones(share: float) -> None:
    """Of each observation by itself, its measured pixels alone."""
    mask = uniform(N, *SHAPE) > share
    mask[:, 0, 0, 0] = True
    view = View(3 * normal(N, *SHAPE), {s: Mask(mask) @ a for s, a in BASE.items()}, Diagonal(SIGMA))
    found = given(SharedView.of(view))
    for row, seen in enumerate(mask.flatten(1)):
        operators = {s: Dense(a.dense()[0][seen]) for s, a in BASE.items()}
        alone = View(view.y[row].flatten()[None, seen], operators, Diagonal(SIGMA[row].flatten()[None, seen]))
        expected = given(SharedView.of(alone))
        torch.testing.assert_close(found.log_evidence()[row], expected.log_evidence()[0])
        for x, y in zip(found.mean(), expected.mean(), strict=True):
            torch.testing.assert_close(x[row], y[0])
    searched, _ = MixturePosterior(PRIORS, retain=200.0).log_evidence(DenseView.of(view))
    torch.testing.assert_close(searched, found.log_evidence())


def test_one_mask_for_all_costs_nothing() -> None:
    """Half of the pixels, as of a round field: no odd ones, and the evidence is that of the rest."""
    keep = torch.arange(M) % 2 == 0
    view = View(VIEW.y, {"a": Mask(keep.reshape(1, *SHAPE)) @ BASE["plain"]}, Isotropic(0.3))
    rows = SharedView.of(view)
    assert rows.woodbury is None
    sources = SOURCES[:1]
    found = SharedGaussians(rows, sources).given(rows.y, sources)
    rest = View(view.y.flatten(1)[:, keep], {"a": Dense(torch.eye(M, dtype=torch.float64)[keep])}, Isotropic(0.3))
    expected = SharedGaussians(SharedView.of(rest), sources).given(rest.y, sources)
    torch.testing.assert_close(found.log_joint, expected.log_joint)
    torch.testing.assert_close(found.mean(), expected.mean())


def test_draws_are_of_the_observations_that_are_given_not_of_those_that_were_factorised() -> None:
    rows, index = SharedView.of(View(VIEW.y, BASE, 0.3)), torch.arange(N)
    kept, moved = SharedGaussians(rows, SOURCES), rows.y.flip(0) + 5.0
    fresh = SharedGaussians(SharedView.of(View(moved.reshape(N, *SHAPE), BASE, 0.3)), SOURCES)
    found, expected = (gaussians.given(moved, SOURCES).draw(Stream(0), index) for gaussians in (kept, fresh))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", [MomentMatching, GibbsPosterior])
def test_a_posterior_under_other_priors_is_that_of_a_new_one(make: type[Posterior]) -> None:
    """Factorisations are of the covariances that they were made with."""
    shape = (1, 10, 10)
    view = View(normal(N, *shape), dict.fromkeys(("a", "b"), Identity(shape)), 0.3)
    one, other = (
        {s: shaped(random_prior(2, 100, seed + k, rank=3), shape) for k, s in enumerate(view.sources)} for seed in (1, 7)
    )
    used = make()
    used.draw(view, one, Stream(0))
    found, expected = (posterior.draw(view, other, Stream(0)).draws for posterior in (used, make()))
    torch.testing.assert_close(found, expected)
