"""Mixtures of large sources by EM: the evidence rises, what is known is recovered, and stages freeze what they should."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mvss.estimation import estimate_sources, mixture_em
from mvss.estimation.mixture_em import expectation_maximisation
from mvss.estimation.mixture_moments import factor_analysis
from mvss.metrics.fit_report import FitReport
from mvss.presets.estimation import MixtureEMConfig
from mvss.problem.operators import Dense, Identity, Scale
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

D, N, NOISE = 6, 3000, 0.1
STREAM = Stream(0, ("mixture-em",))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BACKGROUND = normal(D, D, seed=1) / 2
CENTRES = torch.tensor([[3.0, 0, 0, 0, 0, 0], [-3.0, 0, 0, 3.0, 0, 0]], dtype=torch.float64)


def data() -> Views:
    """A Gaussian background in both views, and a target of two components in the second one at half weight."""
    b = [1.0 + normal(N, D, seed=2 + k) @ BACKGROUND.T for k in range(2)]
    t = CENTRES[torch.arange(N) % 2] + 0.3 * normal(N, D, seed=4)
    y = [b[0] + NOISE * normal(N, D, seed=5), b[1] + 0.5 * t + NOISE * normal(N, D, seed=6)]
    identity, faint = Identity((D,)), Scale(0.5, (D,)) @ Identity((D,))
    off = View(y[0], {"first": identity}, NOISE, "off")
    return Views([off, View(y[1], {"first": identity, "second": faint}, NOISE, "on")])


APART, TOGETHER = (("first",), ("second",)), (("first", "second"),)


CONFIG = MixtureEMConfig(components=(1, 2), ranks=(0, 2), laps=80, floor=0.05)
MANY = MixtureEMConfig(components=(5000,))


@pytest.mark.parametrize("stages", [APART, TOGETHER])
def test_known_mixtures_are_recovered(stages: tuple[tuple[str, ...], ...]) -> None:
    done: list[float] = []
    fit = expectation_maximisation(data(), CONFIG, stages, STREAM, done.append)
    assert done[-1] == 1.0
    first, second = (fit.priors[source] for source in ("first", "second"))
    torch.testing.assert_close(first.covariances[0], BACKGROUND @ BACKGROUND.T, atol=0.15, rtol=0.15)
    torch.testing.assert_close(first.means[0], torch.ones(D, dtype=torch.float64), atol=0.1, rtol=0)
    order = second.means[:, 0].argsort(descending=True)
    torch.testing.assert_close(second.means[order], CENTRES, atol=0.25, rtol=0)
    torch.testing.assert_close(second.weights, torch.full((2,), 0.5, dtype=torch.float64), atol=0.05, rtol=0)


def test_the_evidence_rises_in_every_lap() -> None:
    """With full covariances; keeping to a low rank is a projection, which need not."""
    config = MixtureEMConfig(components=(1, 2), ranks=(0, 0), laps=30, floor=0.05)
    fit = expectation_maximisation(data(), config, APART, STREAM)
    for stage in (fit.evidence[:30], fit.evidence[30:]):
        assert float(torch.tensor(stage).diff().min()) > -1e-9 and stage[-1] > stage[0]


def test_three_sources_that_learn_together_converge() -> None:
    """Moved all at once, each would explain the same residual, and the evidence fell from -4 to below -19."""
    n, names = 200, ("a", "b", "c")
    sizes, views = (n, n, 1500), []
    for alpha, count in enumerate(sizes):
        parts = [
            torch.sign(normal(count, 1, seed=20 + 3 * alpha + b)) * (1.0 + b) + 0.3 * normal(count, 2, seed=40 + 3 * alpha + b)
            for b in range(alpha + 1)
        ]
        y = torch.stack(parts).sum(0) + NOISE * normal(count, 2, seed=60 + alpha)
        views.append(View(y, dict.fromkeys(names[: alpha + 1], Identity((2,))), NOISE, f"view {alpha + 1}"))
    config = MixtureEMConfig(components=(2,), ranks=(0,), laps=30, floor=0.05)
    fit = expectation_maximisation(Views(views), config, (names,), STREAM)
    assert fit.evidence[-1] > max(fit.evidence) - 0.01


def test_an_earlier_source_is_frozen_in_a_later_stage() -> None:
    """What the second view holds does not move the first source."""
    first, second = data()
    louder = View(second.y + 5.0, second.operators, second.noise, "on")
    few = MixtureEMConfig(components=(1, 2), ranks=(0, 2), laps=3, floor=0.05)
    one = expectation_maximisation(data(), few, APART, STREAM).priors
    other = expectation_maximisation(Views([first, louder]), few, APART, STREAM).priors
    torch.testing.assert_close(one["first"].means, other["first"].means, rtol=0, atol=0)
    assert not torch.allclose(one["second"].means, other["second"].means)


def test_numbers_of_components_go_by_the_order_of_learning_and_the_last_serves_all_further_ones() -> None:
    """Not by the order in which views show the sources."""
    turned = Views([View(v.y, dict(reversed(v.operators.items())), v.noise, v.name) for v in reversed(data())])
    assert turned.sources == ("second", "first") and turned.stages() == APART
    fit = expectation_maximisation(turned, MixtureEMConfig(components=(1, 2), ranks=(0, 2), laps=2), APART, STREAM)
    assert [len(fit.priors[source]) for source in ("first", "second")] == [1, 2]
    fit = expectation_maximisation(data(), MixtureEMConfig(components=(2,), ranks=(1,), laps=2), APART, STREAM)
    assert [len(prior) for prior in fit.priors.values()] == [2, 2]
    assert all(prior.shape == (D,) for prior in fit.priors.values())


def test_principal_factors_keep_directions_and_own_variances() -> None:
    w, own = normal(1, D, 1, seed=7), 0.2 + normal(1, D, seed=8).abs()
    covariance = w @ w.mT + torch.diag_embed(own)
    kept = factor_analysis(torch.ones(1), torch.zeros(1, D), covariance, 1, 0.05).covariances
    torch.testing.assert_close(kept.diagonal(dim1=1, dim2=2), covariance.diagonal(dim1=1, dim2=2))
    whole = factor_analysis(torch.ones(1), torch.zeros(1, D), covariance, 0, 0.05).covariances
    torch.testing.assert_close(whole, covariance)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MixtureEMConfig(components=(), ranks=(0,)), "need one number at least"),
        (lambda: MixtureEMConfig(components=(0, 1), ranks=(0, 1)), "at least 1"),
        (lambda: MixtureEMConfig(ranks=(-1,)), r"ranks=\[-1\] must be at least 0"),
        (lambda: MixtureEMConfig(laps=0), "at least 1"),
        (lambda: expectation_maximisation(data(), CONFIG, (("second",), ("first",)), STREAM), "no view shows second"),
        (lambda: expectation_maximisation(data(), MANY, APART, STREAM), "5000 estimation.components for first need as many"),
        (lambda: MixtureEMConfig(floor=0.0), "floor=.* must be positive"),
    ],
)
def test_bad_input_is_refused(make: object, says: str) -> None:
    with pytest.raises(MvssError, match=says) as error:
        make()  # type: ignore[operator]
    assert "\n" not in str(error.value)


def test_operators_of_their_own_are_refused() -> None:
    off, on = data()
    own = View(off.y[:5], {"first": Dense(normal(5, D, D, seed=9))}, NOISE, "off")
    with pytest.raises(MvssError, match="of their own"):
        expectation_maximisation(Views([own, on]), CONFIG, APART, STREAM)


def test_numbers_that_do_not_vary_are_found_in_few_laps() -> None:
    """Plain EM multiplies a variance of its own that should vanish by 1 − v/(v + s) a lap, and hardly gets anywhere."""
    source = normal(N, 1, seed=7) @ torch.tensor([[1.0, -1.0, 0.5, 0, 0, 0]], dtype=torch.float64)
    view = View(source + 0.5 * normal(N, D, seed=8), {"x": Identity((D,))}, 0.5, "alone")
    config = MixtureEMConfig(components=(1,), ranks=(1,), laps=12, floor=0.05)
    prior = expectation_maximisation(Views([view]), config, (("x",),), STREAM).priors["x"]
    spread = prior.covariances[0].diagonal().sqrt()
    torch.testing.assert_close(spread[:3], source[:, :3].std(0), atol=0.05, rtol=0)
    assert float(spread[3:].max()) < 2 * config.floor + 0.02


def blobs(count: int) -> Tensor:
    """Round spots of several places and widths on 4 × 4 pixels."""
    rng, axis = torch.Generator().manual_seed(0), torch.arange(4.0, dtype=torch.float64)
    place = 0.8 + 2.4 * torch.rand(count, 2, 1, generator=rng, dtype=torch.float64)
    width = 0.8 + 2 * torch.rand(count, 1, 1, generator=rng, dtype=torch.float64)
    down, across = ((axis - place[:, k]) for k in range(2))
    return (2 * torch.exp(-(down.square()[:, :, None] + across.square()[:, None]) / width)).flatten(1)


def test_a_low_rank_that_lowers_the_evidence_returns_the_best_iterate_and_says_so() -> None:
    """Keeping to a rank is a projection: about half of the laps fall here."""
    y = blobs(400) + 0.1 * normal(400, 16, seed=3)
    views = Views([View(y, {"x": Identity((16,))}, 0.1)])
    config = MixtureEMConfig(components=(4,), ranks=(3,), laps=24)
    fit = expectation_maximisation(views, config, (("x",),), STREAM)
    falls = sum(after < before for before, after in pairwise(fit.evidence))
    assert fit.fell >= falls > 3 and fit.best >= max(fit.evidence) > fit.evidence[-1]
    data, prior = y, fit.priors["x"]  # in closed form: noise adds to every covariance
    law = torch.distributions.MultivariateNormal(prior.means, prior.covariances + 0.01 * torch.eye(16, dtype=torch.float64))
    evidence = (law.log_prob(data.unsqueeze(1)) + prior.weights.log()).logsumexp(1).mean()
    assert float(evidence) == pytest.approx(fit.best, rel=1e-9)
    estimate = estimate_sources(views, config, STREAM)
    assert estimate.evidence["fell"] > 0 and "laps that lowered it" in str(FitReport([], [], estimate.evidence))


def test_many_equal_eigenvalues_are_decomposed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a few digits whose border is dark, where LAPACK's quick algorithm gives up."""
    w = normal(2, D, D, seed=1)
    covariances = w @ w.mT
    expected = factor_analysis(torch.ones(2), torch.zeros(2, D), covariances, 0, 0.05).covariances

    def fails(_: Tensor) -> None:
        raise torch.linalg.LinAlgError("too many repeated eigenvalues")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    torch.testing.assert_close(factor_analysis(torch.ones(2), torch.zeros(2, D), covariances, 0, 0.05).covariances, expected)
    with pytest.raises(torch.linalg.LinAlgError):
        factor_analysis(torch.ones(2), torch.zeros(2, D), covariances * torch.nan, 0, 0.05)


def test_components_stay_regular() -> None:
    """However flat, beside a floor that is next to nothing."""
    flat = torch.diag(torch.tensor([1e6, 1.0, 0.0], dtype=torch.float64))[None]
    prior = factor_analysis(torch.ones(1), torch.zeros(1, 3), flat, 0, 1e-9)
    assert float(torch.linalg.cond(prior.covariances[0])) < 2e10


def test_a_singular_iterate_ends_the_climb_at_the_best_one(monkeypatch: pytest.MonkeyPatch) -> None:
    views, config = data(), MixtureEMConfig(components=(1, 2), ranks=(0, 2), laps=6, floor=0.05)
    calls, lap = [], mixture_em._lap

    def breaks(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            raise torch.linalg.LinAlgError("not positive definite")
        return lap(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(mixture_em, "_lap", breaks)
    fit = expectation_maximisation(views, config, TOGETHER, STREAM)
    assert fit.stopped == 1 and len(fit.evidence) == 3 and fit.best == max(fit.evidence)
    calls.extend([()] * 2)
    del calls[3:]
    with pytest.raises(MvssError, match="first mixtures are singular"):
        expectation_maximisation(views, config, TOGETHER, STREAM)


@pytest.mark.parametrize("laps", [1, 30])
def test_a_direction_that_is_hardly_seen_gets_no_loud_mean(laps: int) -> None:
    """As fine detail behind a broad point-spread function: the mean of 3,000 observations tells nothing there, and to undo the
    gain made noise of 180 times the source's size of it. What is seen keeps its mean."""
    gains = torch.tensor([1.0, 1.0, 1.0, 0.5, 1e-5, 1e-7], dtype=torch.float64)
    x = torch.linspace(-1, 1, D, dtype=torch.float64) + normal(N, D, seed=7)
    view = View(x * gains + NOISE * normal(N, D, seed=8), {"only": Dense(gains.diag())}, NOISE)
    config = MixtureEMConfig(components=(1,), ranks=(0,), laps=laps, floor=0.05)
    means = expectation_maximisation(Views([view]), config, [["only"]], STREAM).priors["only"].means[0]
    torch.testing.assert_close(means[:4], torch.linspace(-1, 1, D, dtype=torch.float64)[:4], atol=0.08, rtol=0)
    assert float(means[4:].abs().max()) < 1.0
