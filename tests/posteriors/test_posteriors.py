"""One protocol: what every posterior must do, whatever it is made of, and the closed form where there is one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from closed_forms import Linear, exact, random_prior
from tiny_separators import images, vectors

from mvss import SourceSeparator, View
from mvss.posteriors import posterior_of
from mvss.posteriors.dense import DenseView
from mvss.posteriors.posterior import Posterior, Priors
from mvss.presets.posterior import (
    AmortisedConfig,
    ExactConfig,
    GibbsConfig,
    MomentMatchingConfig,
    PosteriorConfig,
    SamplerConfig,
    SplitGibbsConfig,
)
from mvss.priors.diffusion import DiffusionPrior
from mvss.problem.views import Draws
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

STREAM = Stream(0, ("posteriors",))
RUN = SamplerConfig("ancestral", 3, 1.0, 0.05)
CONFIGS: dict[str, PosteriorConfig] = {
    "exact": ExactConfig(),
    "moment matching": MomentMatchingConfig(RUN, components=2, chunk=7),
    "moment matching, cold": MomentMatchingConfig(RUN, "cold", components=2, chunk=7),
    "gibbs": GibbsConfig(2, RUN, components=2, chunk=7),
    "split gibbs": SplitGibbsConfig(levels=2, steps=2, chunk=7),
    "amortised": AmortisedConfig(RUN, MomentMatchingConfig(RUN)),
}
Case = tuple[Posterior, View, Priors]


@pytest.fixture(scope="module")
def models() -> dict[str, SourceSeparator]:
    return {
        name: SourceSeparator(problem.settings).fit(problem.views, verbose=False)
        for name, problem in (("vectors", vectors()), ("images", images()))
    }


@pytest.fixture(params=[(kind, size) for kind in CONFIGS for size in ("vectors", "images")], ids=" ".join)
def case(request: pytest.FixtureRequest, models: dict[str, SourceSeparator]) -> Case:
    kind, size = request.param
    model, problem = models[size], {"vectors": vectors, "images": images}[size]()
    return posterior_of(CONFIGS[kind], model.amortised), model.units.inward(problem.views[1]), model.priors


def close(found: Draws, expected: Draws) -> None:
    assert list(found) == list(expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # networks run in float32


def test_draws_are_of_the_sources_that_a_view_shows(case: Case) -> None:
    posterior, view, priors = case
    found = posterior.draw(view, priors, STREAM)
    assert {source: tuple(x.shape[1:]) for source, x in found.draws.items()} == view.shapes
    assert list(found.draws) == list(view.sources)
    assert all(len(x) == len(view) and bool(torch.isfinite(x).all()) for x in found.draws.values())
    assert found.evaluations >= 0 and 0 <= found.clamped <= 1


def test_draws_are_keyed_by_the_numbers_of_observations(case: Case) -> None:
    """A permuted view gives permuted draws, and a part of it those of the part."""
    posterior, view, priors = case
    whole = posterior.draw(view, priors, STREAM).draws
    order = torch.randperm(len(view), generator=torch.Generator().manual_seed(0))
    for rows in (order, torch.tensor([len(view) - 1, 2])):
        found = posterior.draw(view.select(rows), priors, STREAM).draws
        close(found, {source: x[rows] for source, x in whole.items()})


def test_many_draws_are_single_ones(case: Case) -> None:
    posterior, view, priors = case
    many = posterior.many(view, priors, STREAM, 2)
    for number in range(2):
        one = posterior.draw(view, priors, STREAM.child(number)).draws
        close({source: x[number] for source, x in many.items()}, one)
    given = posterior.given(view, priors)
    given.draw(STREAM.child("before"))
    close(given.draw(STREAM).draws, posterior.draw(view, priors, STREAM).draws)


LEARNED: Priors = {name: random_prior(1, size, size) for name, size in (("a", 2), ("b", 1))}
Y = torch.zeros(3, 2)
UNLIKE: dict[str, tuple[str, object]] = {
    "an unknown source": ("c, which was not learned: known are a, b", View(Y, {"a": torch.eye(2), "c": torch.eye(2)}, 0.1)),
    "a source too many": (
        "c, which was not learned",
        View(Y, {"a": torch.eye(2), "b": torch.ones(2, 1), "c": torch.eye(2)}, 0.1),
    ),
    "another shape": (r"b has shape \(2,\), and \(1,\) in the fit", View(Y, {"a": torch.eye(2), "b": torch.eye(2)}, 0.1)),
    "no view": ("must be one mvss.View, not Tensor", Y),
}


@pytest.mark.parametrize("case", UNLIKE)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_view_unlike_the_fit_is_refused_by_name(kind: str, case: str) -> None:
    words, view = UNLIKE[case]
    with pytest.raises(MvssError, match=words) as error:
        posterior_of(CONFIGS[kind]).given(view, LEARNED)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["moment matching", "gibbs"])
def test_draws_to_start_from_are_of_the_sources_and_observations(kind: str) -> None:
    view, config = View(Y, {"a": torch.eye(2)}, 0.1), CONFIGS[kind]
    posterior = posterior_of(replace(config, start="warm") if kind == "moment matching" else config)
    priors = {"a": DiffusionPrior(LEARNED["a"].mixture, Linear(2, 0.1), 1.0)}
    for start, words in (({}, "are missing"), ({"a": Y[:2]}, r"\(2, 2\), not \(3, 2\)"), ({"a": Y[:, :1]}, r"\(3, 1\), not")):
        with pytest.raises(MvssError, match=words):
            posterior.draw(view, priors, STREAM, start)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        ExactConfig(),
        MomentMatchingConfig(),
        MomentMatchingConfig(SamplerConfig("ancestral", 4, 50.0, 0.01), "cold"),
        GibbsConfig(2, SamplerConfig("ancestral", 4, 50.0, 0.01)),
    ],
    ids=["exact", "moment matching", "cold", "gibbs"],
)
def test_linear_gaussian_problems_have_their_closed_form(
    config: PosteriorConfig, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean and covariance of both sources together."""
    if large:
        monkeypatch.setattr("mvss.priors.local_law.DENSE", 0)
    count, rng = 6000, torch.Generator().manual_seed(3)
    sources = {name: random_prior(1, size, size) for name, size in (("a", 2), ("b", 1))}
    operators = {name: torch.randn(2, p.dimension, generator=rng, dtype=torch.float64) for name, p in sources.items()}
    y = torch.randn(1, 2, generator=rng, dtype=torch.float64)
    view = View(y.expand(count, -1), operators, torch.tensor([[0.3, 0.5]]))
    law = exact(list(sources.values()), DenseView.of(view.select(slice(1))))
    x = torch.cat(list(posterior_of(config).draw(view, sources, STREAM).draws.values()), dim=1)
    scale = law.covariance.diagonal().sqrt()
    assert ((x.mean(0) - law.mean).abs() < 0.06 * scale).all()
    assert ((torch.cov(x.mT) - law.covariance).abs() < 0.08 * torch.outer(scale, scale)).all()
