"""Split Gibbs against exact posteriors under mixtures: any operators, noise and number of sources."""

from __future__ import annotations

import pytest
import torch
from closed_forms import exact, random_prior
from energy import joint_p_value
from torch import Tensor

from experiments.split_gibbs.cases import CASES, KERNEL, Case, accurate, flat, normal, observed, overlapping
from mvss import LinearOperator, Scale, View
from mvss.posteriors import likelihood_step, split_gibbs
from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact import ExactPosterior
from mvss.posteriors.split_gibbs import SplitGibbs, levels_of
from mvss.presets.posterior import SplitGibbsConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.networks import TimeMLP
from mvss.problem.image_operators import Convolve
from mvss.problem.operators import Dense
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

STREAM = Stream(2, ("split",))


def drawn(case: Case, share: float, count: int, levels: int) -> tuple[Tensor, Tensor]:
    """Exact draws, and those of chains whose last ρ is a share of the smallest posterior standard deviation."""
    view, priors = observed(case, count)
    reference = flat(ExactPosterior(256).draw(view, priors, Stream(1)).draws)
    config = accurate(view, priors, reference, share, levels)
    return reference, flat(SplitGibbs(config).draw(view, priors, STREAM).draws)


@pytest.mark.slow
def test_draws_are_exact_where_rho_is_small_and_seen_not_to_be_where_it_is_not() -> None:
    """4,096 draws of each case: a last ρ of a quarter of the smallest posterior SD passes, four times that does not."""
    assert joint_p_value(drawn(case, 0.25, 4096, 48) for case in CASES.values()) > 0.01
    assert joint_p_value(drawn(case, 1.0, 4096, 48) for case in CASES.values()) < 0.01


@pytest.mark.parametrize("name", ["identity", "psf"])
def test_few_draws_are_near_the_exact_ones(name: str) -> None:
    reference, found = drawn(CASES[name], 0.25, 512, 24)
    width = reference.std(0)
    assert float(((found.mean(0) - reference.mean(0)) / width).abs().max()) < 0.2
    torch.testing.assert_close(found.std(0) / width, torch.ones_like(width), atol=0.15, rtol=0)


def test_one_gaussian_is_not_split() -> None:
    """Given the other sources' draws it is exact, and alone it is the closed form."""
    priors, view = {"a": random_prior(1, 3, 0), "b": random_prior(1, 2, 1)}, observed_by(4000)
    law = exact(list(priors.values()), DenseView.of(view))
    x = flat(SplitGibbs().draw(view, priors, STREAM).draws)
    scale = law.covariance.diagonal().sqrt()
    assert float(((x.mean(0) - law.mean) / scale).abs().max()) < 0.07
    assert float(((torch.cov(x.mT) - law.covariance) / torch.outer(scale, scale)).abs().max()) < 0.09


def observed_by(count: int) -> View:
    matrices = {"a": normal(2, 3, seed=3), "b": normal(2, 2, seed=4)}
    return View(normal(1, 2, seed=5).expand(count, 2), matrices, 0.3)


def test_levels_fall_from_spread_to_share_and_follow_gains() -> None:
    priors = {"a": overlapping((4,), 0), "b": overlapping((4,), 1)}
    weights = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    each = weights[:, None, None] * torch.eye(4, dtype=torch.float64)
    view = View(normal(3, 4), {"a": Dense(each), "b": Scale(2.0, (4,))}, 0.1)
    levels = levels_of(SplitGibbsConfig(levels=5, first=2.0, last=0.5), view, priors)
    assert len(levels) == 5
    most = torch.maximum(weights * priors["a"].spread, torch.tensor(2.0 * priors["b"].spread))
    for level, share in zip(levels, 2.0 * 0.25 ** torch.linspace(0, 1, 5, dtype=torch.float64), strict=True):
        torch.testing.assert_close(weights * level["a"], share * most)
        torch.testing.assert_close(2.0 * level["b"], share * most)
    assert levels_of(SplitGibbsConfig(), view, {"a": random_prior(1, 4, 0), "b": random_prior(1, 4, 1)}) == []


def test_a_source_that_an_observation_does_not_show_follows_its_prior() -> None:
    count, priors = 4000, {"a": overlapping((2,), 0), "b": overlapping((2,), 1)}
    hidden, told = torch.zeros(count, 2, 2), 4 * normal(1, 2, 2).expand(count, -1, -1)
    view = View(normal(1, 2, seed=1).expand(count, -1), {"a": Dense(hidden), "b": Dense(told)}, 0.3)
    drawn = SplitGibbs(SplitGibbsConfig(levels=4)).draw(view, priors, STREAM).draws
    assert joint_p_value([(drawn["a"], priors["a"].sample(count, STREAM))]) > 0.001


def test_sources_of_many_numbers_are_drawn_under_operators_of_each_observation() -> None:
    """Too many for covariances of their own, but not in the few numbers that are seen, so that no variance was learned."""
    mixture = random_prior(2, 48, 0, rank=3)
    network = TimeMLP(48, hidden=(4,), embedding=4, inputs=96).double()
    view = View(normal(6, 4), {"a": Dense(normal(6, 4, 48) * torch.arange(1.0, 7.0)[:, None, None])}, 0.3)
    draws = SplitGibbs(SplitGibbsConfig(levels=2)).draw(view, {"a": DiffusionPrior(mixture, network, 1.0)}, STREAM).draws
    assert draws["a"].shape == (6, 48) and bool(draws["a"].isfinite().all())


def test_levels_are_those_of_each_observation_and_found_once_for_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    priors = {"a": overlapping((4,), 0)}
    view = View(normal(5, 3), {"a": Dense(normal(5, 3, 4, seed=1))}, 0.1)
    asked: list[View] = []
    monkeypatch.setattr(split_gibbs, "levels_of", lambda *given: asked.append(given[1]) or levels_of(*given))
    few, whole = (SplitGibbs(SplitGibbsConfig(levels=2, chunk=chunk)).given(view, priors) for chunk in (2, 5))
    for number in range(2):
        keyed = STREAM.child(number)
        torch.testing.assert_close(few.draw(keyed).draws, whole.draw(keyed).draws)
    assert asked == [view, view]


def test_what_observations_share_is_made_once_for_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[LinearOperator] = []

    class Blur(Convolve):
        def power(self, variance: Tensor) -> Tensor:
            asked.append(self)
            return super().power(variance)

    monkeypatch.setattr(likelihood_step, "SHARED", 0)  # no matrix fits
    view = View(normal(4, 1, 3, 3), {"a": Blur((1, 3, 3), KERNEL, "same")}, 0.1)
    chains = SplitGibbs(SplitGibbsConfig(levels=2, chunk=2)).given(view, {"a": overlapping((1, 3, 3), 0)})
    for number in range(2):
        chains.draw(STREAM.child(number))
    assert len(asked) == 2  # for the levels, and for all steps


def test_levels_that_do_not_fall_are_refused() -> None:
    with pytest.raises(MvssError, match="last <= first"):
        SplitGibbsConfig(first=0.1, last=0.2)
