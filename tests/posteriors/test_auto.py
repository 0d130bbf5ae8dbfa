"""The posterior that is chosen: by views that a network has learned from, and by what finds again what was put into others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvss.posteriors.amortised import Amortised, Seen
from mvss.posteriors.auto import AutoPosterior, _made, choose, lines_of
from mvss.posteriors.view_pairs import pairs_of
from mvss.presets.posterior import AutoConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.noise import Diagonal, Isotropic, Noise, Stationary
from mvss.problem.operators import Identity, Mask, Scale
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

SHAPE, NOISE, SPREAD = (1, 6, 6), 0.3, 0.8
RNG = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


def problem(n: int, hidden: float = 0.0) -> Views:
    """White Gaussian sources: of unit spread, and of SPREAD. hidden: share of numbers that are not measured."""

    def view(y: Tensor, name: str, *sources: str) -> View:
        keep = torch.rand(n, *SHAPE, generator=RNG) >= hidden
        operator = Mask(keep) if hidden else Identity(SHAPE)
        return View((y + NOISE * normal(n, *SHAPE)) * keep, dict.fromkeys(sources, operator), Isotropic(NOISE), name)

    both = normal(n, *SHAPE) + SPREAD * normal(n, *SHAPE)
    return Views([view(normal(n, *SHAPE), "alone", "sky"), view(both, "both", "sky", "target")])


def gaussian(spread: float) -> GaussianMixture:
    zero = torch.zeros(1, math.prod(SHAPE), dtype=torch.float64)
    return GaussianMixture(torch.ones(1), zero, zero.unsqueeze(-1)[..., :0], spread, SHAPE)


PRIORS = {"sky": gaussian(1.0), "target": gaussian(SPREAD)}


class Exact(Amortised):
    """Draws of the target from its exact posterior, or `narrow` times as wide."""

    def __init__(self, views: Views, narrow: float = 1.0) -> None:
        super().__init__(torch.nn.Identity(), pairs_of(views, "target"))
        self.narrow = narrow

    def draw(self, seen: Seen, _sampler: object, stream: Stream, index: Tensor, _inflation: float = 1.0) -> Tensor:
        # where nothing was measured, the prior; else N(y s²/t, s² (1 − s²/t)), t = 1 + s² + ν²
        measured, total = (seen.measured > 0).double(), 1 + SPREAD**2 + NOISE**2
        share = measured * SPREAD**2 / total
        z = stream.normal(index, SHAPE, "target", dtype=torch.float64)
        y = seen.u.double() + self.pairs[0].level
        return share * y + self.narrow * (SPREAD**2 * (1 - share)).sqrt() * z


def told(model: Amortised, views: Views, priors: dict[str, GaussianMixture] = PRIORS) -> tuple[float, float]:
    found = choose(views, {"target": model}, priors, AutoConfig(), Stream(0))
    assert [each.source for each in found] == ["target"] and model.preferred == found[0].preferred
    assert f"amortised {found[0].trained:.4g}, split Gibbs {found[0].split:.4g}" in str(found[0])
    assert found[0].observations == 2 * AutoConfig().put * len(views[1])
    return found[0].trained, found[0].split


@pytest.mark.parametrize("masked", [False, True])
def test_exact_draws_have_the_energy_score_of_the_closed_form(masked: bool) -> None:
    """What is put in follows the prior, if that is right; D numbers of it given y' have a variance of s² (1 - s²/t) each,
    t = 1 + s² + ν², and a score of its root times Γ((D+1)/2)/Γ(D/2). Where a number was not measured in one of two views,
    its variance is s²."""
    views = problem(200, 0.3 if masked else 0.0)
    seen = 0.7**2 if masked else 1.0
    found = told(Exact(views), views)
    d, expected = math.prod(SHAPE), SPREAD**2 * (1 - seen * SPREAD**2 / (1 + SPREAD**2 + NOISE**2))
    radius = math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    assert found == pytest.approx((expected**0.5 / SPREAD * radius,) * 2, rel=0.02)


def test_made_observations_are_as_noisy_as_their_background() -> None:
    """Where each observation has a noise of its own: there is no other noise in what is made."""
    low, high = torch.tensor([0.1, 3.0]).double()
    sigma = torch.where(torch.arange(100) % 2 == 0, low, high)
    here, y = Identity(SHAPE), sigma.reshape(-1, 1, 1, 1) * normal(100, *SHAPE)
    alone, both = (
        View(y, {"sky": here}, Isotropic(sigma)),
        View(y.flip(0), {"sky": here, "target": here}, Isotropic(sigma.flip(0))),
    )
    (pair,) = pairs_of(Views([alone, both]), "target")
    made = _made(both, pair, torch.zeros(400, *SHAPE).double(), Stream(0))
    said = made.noise.variance(made.y).flatten(1)[:, 0].sqrt()
    for level in (low, high):
        assert float(made.y[said == level].std()) == pytest.approx(float(level), rel=0.05)


def test_one_observation_of_each_view_is_enough() -> None:
    """Small fits keep no more back."""
    views = problem(40)
    few = Views([view.select(torch.arange(1)) for view in views])
    (found,) = choose(few, {"target": Exact(views)}, PRIORS, AutoConfig(), Stream(0))
    assert found.observations == 2 * AutoConfig().put and math.isfinite(found.trained + found.split)


def test_a_comparison_that_cannot_be_made_is_told() -> None:
    """Of held-out observations whose noise differs there is no pair."""
    views = problem(20)
    sky, both = views
    model, odd = Exact(views), View(sky.y, sky.operators, 10 * NOISE, sky.name)
    found = choose([odd, both], {"target": model}, PRIORS, AutoConfig(), Stream(0))
    (line,) = lines_of(found, {"target": model})
    assert not found and model.preferred and "not compared" in line and line.endswith("amortised is taken")
    found = choose(views, {"target": model}, PRIORS, AutoConfig(), Stream(0))
    assert lines_of(found, {"target": model}) == [str(found[0])]


def test_the_better_one_is_preferred() -> None:
    views = problem(200)
    trained, split = told(Exact(views, narrow=0.2), views)
    assert trained > split
    wrong = {**PRIORS, "target": gaussian(3.0)}
    model = Exact(views)
    trained, split = told(model, views, wrong)
    assert trained < split and model.preferred


def test_views_that_the_network_has_not_learned_go_to_split_gibbs(monkeypatch: pytest.MonkeyPatch) -> None:
    views = problem(20)
    model, both, here = Exact(views), views[1], Identity(SHAPE)

    def by(view: View, model: Amortised = model) -> str:
        posterior = AutoPosterior(AutoConfig(), {"target": model})
        for name in ("trained", "split"):
            monkeypatch.setattr(getattr(posterior, name), "prepared", lambda *_, name=name: name)
        return str(posterior.prepared(view, PRIORS))

    def under(operator: Identity | Scale | Mask, noise: float | Noise = NOISE) -> View:
        return View(both.y, {"sky": operator, "target": operator}, noise)

    assert by(both) == "trained" and by(under(here, 1.1 * NOISE)) == "trained"
    few, half = (Mask(torch.rand(20, *SHAPE, generator=RNG) > share) for share in (0.05, 0.5))
    assert by(under(few)) == "trained" and by(under(half)) == "split"
    assert by(under(here, 10 * NOISE)) == by(under(Scale(0.5, SHAPE))) == by(views[0]) == "split"
    read = Amortised.read(torch.nn.Identity(), None, model.state())
    assert by(both, read) == "trained" and by(under(here, 10 * NOISE), read) == "split"
    model.preferred = False
    assert by(both) == by(both, Amortised.read(torch.nn.Identity(), None, model.state())) == "split"


CENTRE = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
BROADENED = torch.tensor([[0.2, 0.4, 0.2], [0.4, 1.0, 0.4], [0.2, 0.4, 0.2]])
WHITE, BROAD = (Stationary(NOISE**2 * lags) for lags in (CENTRE, BROADENED))
LEFT = torch.arange(36).reshape(1, *SHAPE) < 18


def noisy(share: float, count: int = 20) -> Diagonal:
    """So many numbers of each observation are ten times as noisy."""
    odd = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1)) < share
    return Diagonal(NOISE * (1.0 + 9.0 * odd))


@pytest.mark.parametrize(
    ("learned", "like", "others"),
    [
        (Isotropic(NOISE), [WHITE, Isotropic(1.1 * NOISE), noisy(0.1)], [BROAD, noisy(0.45), noisy(0.45, 1), Isotropic(0.6)]),
        (BROAD, [BROAD.scaled(1.1)], [BROAD.scaled(1.5), Isotropic(NOISE), WHITE]),
        (Diagonal(NOISE * (1.0 + LEFT)), [Diagonal(NOISE * (1.1 + LEFT))], [Diagonal(NOISE * (2.0 - LEFT.double()))]),
        (Isotropic(torch.linspace(0.1, 0.6, 20)), [Isotropic(torch.linspace(0.6, 0.1, 20))], [Isotropic(0.1), Isotropic(0.6)]),
    ],
    ids=["white", "correlated", "a map", "a level each"],
)
def test_a_view_is_like_another_under_about_the_same_noise(learned: Noise, like: list[Noise], others: list[Noise]) -> None:
    """Whatever its median variance: how it differs among numbers, and how these go together."""
    here, y = Identity(SHAPE), normal(20, *SHAPE)

    def views(noise: Noise, behind: Noise, factor: float = 1.0) -> Views:
        alone = View(factor * y, {"sky": Scale(factor, SHAPE)}, behind.scaled(factor), "alone")
        return Views([alone, View(y.flip(0), {"sky": here, "target": here}, noise, "both")])

    for factor in (1.0, 0.25):  # the background is in other units than the mixture
        model = Amortised(torch.nn.Identity(), pairs_of(views(learned, learned, factor), "target"))
        for each in (model, Amortised.read(torch.nn.Identity(), None, model.state())):
            assert [each.at_home(views(noise, noise)[1]) for noise in [learned, *like]] == [True] * (1 + len(like))
            assert [each.at_home(views(noise, noise)[1]) for noise in others] == [False] * len(others)
        assert all(len(pairs_of(views(learned, noise, factor), "target")) == 1 for noise in like)
        for noise in others:
            with pytest.warns(UserWarning, match="alone and both differ in noise"):
                assert pairs_of(views(learned, noise, factor), "target") == []


def test_a_model_of_before_has_learned_under_white_noise_of_a_variance() -> None:
    views = problem(20)
    state = Exact(views).state()
    state["pairs"][0]["noise"] = NOISE**2
    model = Amortised.read(torch.nn.Identity(), None, state)
    noises = [Isotropic(NOISE), WHITE, BROAD, Isotropic(0.6)]
    both = views[1]
    assert [model.at_home(View(both.y, both.operators, noise)) for noise in noises] == [True, True, False, False]


def test_settings_of_a_comparison_are_checked() -> None:
    with pytest.raises(MvssError, match="put"):
        AutoConfig(put=0)
    with pytest.raises(MvssError, match="draws"):
        AutoConfig(draws=1)
