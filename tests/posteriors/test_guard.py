"""Draws that do not explain the observations are replaced by those that their run began from, and that is told."""

from __future__ import annotations

__all__: list[str] = []

import re
import warnings
from dataclasses import dataclass

import pytest
import torch
from closed_forms import random_prior, shaped
from torch import Tensor

from mvss.em import last_draws
from mvss.metrics.fit_report import EXPLAINED, UNSOLVED
from mvss.posteriors import exact_mixture, likelihood_step
from mvss.posteriors.exact import ExactPosterior
from mvss.posteriors.guard import chi2, guarded
from mvss.posteriors.moment_matching import MomentMatching
from mvss.posteriors.posterior import Given, Posterior, Priors, Separation
from mvss.posteriors.split_gibbs import SplitGibbs
from mvss.presets.posterior import CGConfig, MomentMatchingConfig, SamplerConfig, SplitGibbsConfig
from mvss.priors import local_law
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.image_operators import Convolve
from mvss.problem.noise import Diagonal, Stationary
from mvss.problem.operators import Identity, Mask
from mvss.problem.views import Draws, View
from mvss.runtime.rng import Stream

COUNT, NOISE = 2000, 0.3
TRUTH = torch.zeros(COUNT, 2, dtype=torch.float64)
Y = NOISE * torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VIEW = View(Y, {"a": torch.eye(2)}, NOISE, "the view")
PRIORS: Priors = {"a": random_prior(1, 2, 0)}


def draws(share: float) -> Draws:
    """Such that χ² per number is about that."""
    return {"a": Y - share**0.5 * (Y - TRUTH)}


def test_chi2_is_that_of_what_was_measured() -> None:
    assert chi2(VIEW, {"a": TRUTH}) == pytest.approx(1.0, abs=0.1)
    seen = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    seen[..., 0, 0] = False
    y = torch.tensor([[[[50.0, 1.0], [1.0, 1.0]]]])
    masked = View(y, {"a": Mask(seen) @ Identity((1, 2, 2))}, 0.5, "masked")
    assert chi2(masked, {"a": torch.zeros(1, 1, 2, 2)}) == pytest.approx(4.0)
    fewer = seen.clone()
    fewer[..., 1, 1] = False
    each = View(y, {"a": Mask(seen), "b": Mask(fewer)}, 0.5, "masks of their own")
    assert chi2(each, dict.fromkeys("ab", torch.zeros(1, 1, 2, 2))) == pytest.approx(4.0)


@pytest.mark.parametrize("share", [EXPLAINED[0], 1.0, EXPLAINED[1]])
def test_draws_that_explain_the_data_are_kept(share: float) -> None:
    new = draws(share)
    assert guarded(VIEW, new, draws(1.0)) == (new, None)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.6, 100.0, float("nan")])
def test_where_they_do_not_the_start_is_kept_and_told(share: float) -> None:
    start = draws(1.0)
    kept, line = guarded(VIEW, draws(share), start)
    torch.testing.assert_close(kept["a"], start["a"], rtol=0, atol=0)
    said = (
        r"the view: (chi2 per number of new draws is .*, so those before|new draws do not explain 2000 of 2000 observations).*"
    )
    assert line is not None and re.fullmatch(said, line)


def test_one_wild_observation_says_nothing_of_the_others() -> None:
    """Nor do they of it: draws of the others are the same, whatever stands beside them."""
    start, new = draws(0.9), {"a": draws(1.1)["a"].clone()}
    new["a"][7] = 1e3
    kept, line = guarded(VIEW, new, start)
    assert line == "the view: new draws do not explain 1 of 2000 observations, which keep those before them"
    torch.testing.assert_close(kept["a"][7], start["a"][7], rtol=0, atol=0)
    torch.testing.assert_close(kept["a"][8:], new["a"][8:], rtol=0, atol=0)
    wild = VIEW.y.clone()
    wild[7] += 1e3  # none explains what nothing can
    odd = View(wild, {"a": torch.eye(2)}, NOISE, "the view")
    assert guarded(odd, draws(1.1), draws(1.0))[1] is None
    with pytest.warns(UserWarning, match=r"draws do not explain 1 of 2000 observations \(chi2 per number up to 1\.\d+e\+07\)"):
        Wild(1.1).many(odd, PRIORS, Stream(0), 1)


def test_observations_of_right_draws_are_not_wild() -> None:
    """Of two or of many numbers: one in a million is."""
    for numbers in (1, 2, 25, 784):
        y = torch.randn(2_000_000 // numbers, numbers, generator=torch.Generator().manual_seed(1))
        view = View(NOISE * y, {"a": torch.eye(numbers)}, NOISE)
        assert guarded(view, {"a": torch.zeros_like(view.y)}, {"a": 0.1 * view.y})[1] is None


def test_of_a_run_that_ends_in_means_only_too_much_counts() -> None:
    few, start = draws(0.6), draws(1.0)
    assert guarded(VIEW, few, start, narrow=True) == (few, None)
    assert guarded(VIEW, draws(1.6), start, narrow=True)[1] is not None
    assert guarded(VIEW, draws(float("nan")), start, narrow=True)[1] is not None


def test_a_start_that_explains_no_better_is_not_kept() -> None:
    for share, before in ((1.6, 2.0), (0.6, 0.0), (1.6, float("nan"))):
        new = draws(share)
        assert guarded(VIEW, new, draws(before)) == (new, None)


def test_without_a_start_all_draws_are_kept() -> None:
    new = draws(100.0)
    assert guarded(VIEW, new, None) == (new, None)


SHAPE, PIXELS, GROUPS, EACH = (1, 4, 4), 16, 200, 6
AWAY = torch.arange(-3.0, 4.0, dtype=torch.float64)
SMOOTH = torch.exp(-(AWAY[:, None].square() + AWAY.square()) / 18)
SMOOTH[3, 3] += 0.01


def smooth_view() -> View:
    """Sources under noise whose numbers are nearly one."""
    rng, count = torch.Generator().manual_seed(3), GROUPS * EACH
    x, z = (torch.randn(count, *SHAPE, generator=rng, dtype=torch.float64) for _ in range(2))
    noise = Stationary(0.3 * SMOOTH)
    return View(x + noise.color(z), {"a": Identity(SHAPE)}, noise, "smooth")


def alarms(view: View, draws: Tensor) -> int:
    """In how many of the groups the draws are left for a start that explains the data."""
    raised = 0
    for rows in torch.arange(len(view)).split(EACH):
        part, new = view.select(rows), draws[rows]
        residual = part.y - new
        start = part.y - residual / chi2(part, {"a": new}) ** 0.5
        raised += guarded(part, {"a": new}, {"a": start})[1] is not None
    return raised


def test_correlated_noise_raises_no_false_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are so alike that their mean square scatters as of a few; exact draws are kept, those of twice the noise
    are not."""
    monkeypatch.setattr(local_law, "DENSE", 0)
    view, unit = smooth_view(), torch.eye(PIXELS, dtype=torch.float64)[None]
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, PIXELS), unit, 1e-6, SHAPE)
    exact = ExactPosterior().draw(view, {"a": prior}, Stream(0)).draws["a"]
    assert chi2(view, {"a": exact}) == pytest.approx(1.0, abs=0.03)
    assert alarms(view, exact) == 0
    assert alarms(view, view.y - 2 * (view.y - exact)) == GROUPS


def test_few_numbers_may_scatter() -> None:
    """Six of them by 1.7, which χ² of 1.6 is within."""
    rows = torch.arange(3)
    few, new = VIEW.select(rows), {"a": Y[rows] - (1.6 / chi2(VIEW.select(rows), {"a": TRUTH[:3]})) ** 0.5 * Y[rows]}
    assert chi2(few, new) == pytest.approx(1.6)
    assert guarded(few, new, {"a": TRUTH[:3]}) == (new, None)


@dataclass(frozen=True)
class Found(Given):
    """Draws that leave a share of χ², from a start that explains the data."""

    share: float

    def draw(self, stream: Stream, start: Draws | None = None) -> Separation:
        return Separation(draws(self.share), start=draws(1.0))


@dataclass(frozen=True)
class Wild(Posterior):
    share: float

    def prepared(self, view: View, priors: Priors) -> Given:
        return Found(self.share)


def test_many_draws_are_guarded_with_one_warning() -> None:
    with pytest.warns(UserWarning, match=r"^the view: chi2 .* \(in 3 of 3 draws\)$") as caught:
        found: Tensor = Wild(4.0).many(VIEW, PRIORS, Stream(0), 3)["a"]
    assert len(caught) == 1
    torch.testing.assert_close(found, draws(1.0)["a"].expand(3, -1, -1), rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Wild(1.1).many(VIEW, PRIORS, Stream(0), 2)


@dataclass(frozen=True)
class Left(Given):
    """Draws that explain the data, of systems that were not quite solved."""

    residual: float
    few: bool

    def draw(self, stream: Stream, start: Draws | None = None) -> Separation:
        return Separation(draws(1.0), residual=self.residual, few=self.few)


@dataclass(frozen=True)
class Solved(Posterior):
    residual: float
    few: bool = False

    def prepared(self, view: View, priors: Priors) -> Given:
        return Left(self.residual, self.few)


def test_draws_that_were_not_solved_for_are_told() -> None:
    """Unless few iterations are meant."""
    with pytest.warns(UserWarning, match=r"^the view: a solver left 0\.3 of what it was given.* \(in 2 of 2 draws\)$") as told:
        Solved(0.3).many(VIEW, PRIORS, Stream(0), 2)
    assert len(told) == 1
    _, (line,) = last_draws([VIEW], [draws(1.0)], Solved(float("inf")), PRIORS, Stream(0), VIEW.y.device, lambda _: None)
    assert line.startswith("the view: a solver left inf of what it was given")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Solved(UNSOLVED).many(VIEW, PRIORS, Stream(0), 2)
        Solved(0.3, few=True).many(VIEW, PRIORS, Stream(0), 2)


def test_draws_of_a_search_that_left_out_too_much_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 900 combinations, too many to screen them all, a beam of 1 keeps one a level."""
    monkeypatch.setattr(exact_mixture, "MANY", 100)
    view = View(Y[:100], {"a": torch.eye(2), "b": torch.eye(2)}, NOISE, "the view")
    priors = {source: random_prior(30, 2, seed) for seed, source in enumerate(view.sources)}
    told = r"^the view: the search of the mixtures left out \d+% of probability, .*raise posterior.beam \(in 2 of 2 draws\)$"
    with pytest.warns(UserWarning, match=told) as caught:
        ExactPosterior(beam=1).many(view, priors, Stream(0), 2)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExactPosterior(beam=900).many(view, priors, Stream(0), 2)


def test_a_solver_of_few_iterations_is_told_by_split_gibbs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moment matching with Jacobians is asked for few."""
    monkeypatch.setattr(local_law, "DENSE", 0)
    rng = torch.Generator().manual_seed(1)
    smooth = Convolve(SHAPE, torch.rand(3, 3, generator=rng, dtype=torch.float64) + 0.1, "same")
    noise = Diagonal(torch.rand(30, *SHAPE, generator=rng, dtype=torch.float64).clamp_min(0.01))
    view = View(torch.randn(30, *SHAPE, generator=rng, dtype=torch.float64), {"a": smooth}, noise, "smooth")
    monkeypatch.setattr(likelihood_step, "EACH", 0)  # no matrix fits
    priors = {"a": shaped(random_prior(3, PIXELS, 0), SHAPE)}
    found = SplitGibbs(SplitGibbsConfig(levels=2, solver=CGConfig(2))).draw(view, priors, Stream(0))
    line = found.unsolved(view)
    assert found.residual > UNSOLVED and line is not None and line.startswith("smooth: a solver left ")
    run = SamplerConfig("ddim", 2, 1.0, 0.1)
    few = MomentMatching(MomentMatchingConfig(run, "cold", solver=CGConfig(1))).draw(view, priors, Stream(0))
    assert few.residual > UNSOLVED and few.unsolved(view) is None


def test_cold_draws_that_do_not_explain_the_data_are_told() -> None:
    """There is no start to keep: split Gibbs that ends far above the noise, in one line for all draws."""
    view = View(Y, {"a": torch.eye(2), "b": torch.eye(2)}, 0.01, "sharp")
    priors = {source: random_prior(3, 2, seed) for seed, source in enumerate(view.sources)}
    with pytest.warns(
        UserWarning, match=r"sharp: chi2 per number of draws is .* have 1: .*lower posterior.last.* \(in 2 of 2 draws\)"
    ) as told:
        SplitGibbs().many(view, priors, Stream(0), 2)
    assert len(told) == 1
