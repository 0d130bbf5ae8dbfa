"""The Gibbs baseline against the exact joint law, with its count of evaluations."""

from __future__ import annotations

import pytest
import torch
from closed_forms import Linear, exact, named, random_prior, random_view, shaped
from torch import Tensor

from mvss.posteriors import gibbs
from mvss.posteriors.dense import DenseView
from mvss.posteriors.gibbs import GibbsPosterior
from mvss.posteriors.posterior import Separation
from mvss.posteriors.shared_gaussians import SharedGaussians
from mvss.presets.posterior import GibbsConfig, SamplerConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.local_law import Components
from mvss.priors.prior import Prior
from mvss.problem.image_operators import BlockAverage
from mvss.problem.noise import Isotropic
from mvss.problem.operators import LinearOperator, Scale
from mvss.problem.shared_view import SharedView
from mvss.problem.views import Draws, View
from mvss.runtime.rng import Stream

STREAM = Stream(0, ("gibbs",))


def sweep(
    priors: list[Prior], view: View, config: SamplerConfig, rounds: int = 1, start: Draws | None = None, **options: int
) -> Separation:
    """From zero, if not from `start`."""
    named_priors = dict(zip(view.sources, priors, strict=True))
    start = start or {s: torch.zeros(len(view), *p.shape, dtype=torch.float64) for s, p in named_priors.items()}
    kept = {source: x.clone() for source, x in start.items()}
    found = GibbsPosterior(GibbsConfig(rounds, config, **options)).draw(view, named_priors, STREAM, start)
    assert all(torch.equal(start[source], x) for source, x in kept.items())  # the caller's draws are not written to
    return found


def error(draws: Draws, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Of mean and covariance, in standard deviations; of all sources together, so that cross-covariances count."""
    x, scale = torch.cat([d.flatten(1) for d in draws.values()], dim=1), covariance.diagonal().sqrt()
    spread = (torch.cov(x.mT) - covariance) / torch.outer(scale, scale)
    return float(((x.mean(0) - mean) / scale).abs().max()), float(spread.abs().max())


def test_enough_sweeps_give_the_joint_law() -> None:
    count, sizes = 4000, (2, 1)
    priors, one = [random_prior(1, d, i) for i, d in enumerate(sizes)], random_view(1, 1, sizes)
    law = exact(priors, one)
    scale = law.covariance.diagonal().sqrt()
    correlation = law.covariance[:2, 2] / (scale[:2] * scale[2])
    assert float(correlation.abs().max()) > 0.3
    config = SamplerConfig("heun", 24, sigma_start=50.0, sigma_min=0.005)
    found = sweep(priors, named(one.select(torch.zeros(count, dtype=torch.long))), config, 12)
    mean, covariance = error(found.draws, law.mean, law.covariance)
    assert mean < 0.07 and covariance < 0.09
    assert found.evaluations == 12 * 2 * (24 + 23)  # sweeps × sources × (levels + Heun's second stages)


def test_without_a_start_it_starts_from_exact_draws() -> None:
    """Of Gaussians one sweep then leaves the joint law as it is."""
    count, sizes = 4000, (2, 1)
    priors, one = [random_prior(1, d, i) for i, d in enumerate(sizes)], random_view(1, 1, sizes)
    view, law = named(one.select(torch.zeros(count, dtype=torch.long))), exact(priors, one)
    posterior = GibbsPosterior(GibbsConfig(1, SamplerConfig("ancestral", 6, sigma_start=50.0, sigma_min=0.005)))
    draws = posterior.draw(view, dict(zip("ab", priors, strict=True)), STREAM).draws
    assert max(error(draws, law.mean, law.covariance)) < 0.08


def test_evaluations_of_networks_count_their_jacobians() -> None:
    sizes = (3, 2)
    priors = [DiffusionPrior(random_prior(2, d, i), Linear(d, 0.05), 1.0) for i, d in enumerate(sizes)]
    config = SamplerConfig("pc", 5, 1.0, 0.1, corrections=2)
    found = sweep(priors, named(random_view(4, 2, sizes)), config, 2, components=1)
    assert found.evaluations == 2 * 5 * (1 + 2) * ((1 + 3) + (1 + 2))
    several = sweep(priors, named(random_view(4, 2, sizes)), config, 2)  # with covariances of the mixtures
    assert several.evaluations == 2 * 5 * (1 + 2) * (1 + 1)


def test_sources_may_be_images() -> None:
    data, config = random_view(3, 2, (4, 1)), SamplerConfig("ddim", 3, 1.0, 0.1)
    priors = [random_prior(2, 4, 0), random_prior(2, 1, 1)]
    flat = sweep(priors, named(data), config, 2).draws
    image = shaped(priors[0], (1, 2, 2))

    class FromImage(LinearOperator):
        """A matrix for each observation, of images."""

        def __init__(self, matrix: Tensor) -> None:
            self.matrix, self.count, self.source_shape, self.observation_shape = matrix, len(matrix), (1, 2, 2), (2,)

        def forward(self, x: Tensor) -> Tensor:
            return (self.matrix @ x.flatten(1).unsqueeze(-1)).squeeze(-1)

        def adjoint(self, y: Tensor) -> Tensor:
            return (self.matrix.mT @ y.unsqueeze(-1)).reshape(-1, 1, 2, 2)

        def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
            return self.matrix.to(dtype)

        def select(self, index: Tensor) -> FromImage:
            return FromImage(self.matrix[index])

    view = View(data.y, {"a": FromImage(data.matrices[0]), "b": data.matrices[1]}, named(data).noise)
    found = sweep([image, priors[1]], view, config, 2).draws
    assert found["a"].shape == (3, 1, 2, 2)
    torch.testing.assert_close({s: x.flatten(1) for s, x in found.items()}, flat)


def test_components_reach_the_conditional_runs() -> None:
    view, config = named(random_view(8, 1, (2, 1))), SamplerConfig("ddim", 4, 2.0, 0.1)
    priors = [random_prior(3, d, d) for d in (2, 1)]
    one, three = (sweep(priors, view, config, components=k).draws for k in (1, 3))
    assert float((one["a"] - three["a"]).abs().max()) > 1e-3


def test_one_source_is_a_plain_draw() -> None:
    view, config = named(random_view(3, 2, (2,))), SamplerConfig("ddim", 3, 1.0, 0.1)
    once = sweep([random_prior(2, 2, 0)], view, config).draws
    again = sweep([random_prior(2, 2, 0)], view, config, start={"a": torch.full((3, 2), 9.0, dtype=torch.float64)}).draws
    torch.testing.assert_close(once, again)  # cold: what it starts from is forgotten


PIXELS = (1, 2, 2)
PIXEL_PRIORS = [shaped(random_prior(1, 4, seed, rank=2), PIXELS) for seed in (0, 1)]


def large(count: int, monkeypatch: pytest.MonkeyPatch, network: float = 0.0, **options: int) -> tuple[View, Separation]:
    """Two sources of four pixels, which are to count as large, of one observation `count` times, from zero."""
    monkeypatch.setattr("mvss.priors.local_law.DENSE", 0)
    blocks = BlockAverage(PIXELS, 1)
    y = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64).expand(count, *PIXELS)
    view = View(y, {"a": blocks, "b": Scale(0.7, PIXELS) @ blocks}, Isotropic(0.5))
    sources = [DiffusionPrior(p, Linear(4, network), 1.0) if network else p for p in PIXEL_PRIORS]
    return view, sweep(sources, view, SamplerConfig("ancestral", 3, 50.0, 0.01), **options)


def test_enough_rounds_give_the_joint_law_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ancestral runs draw each conditional exactly. Few rounds from zero do not do."""
    count, sources_of = 4000, []
    made = SharedGaussians.__init__

    def counted(self: SharedGaussians, view: SharedView, sources: list[Components]) -> None:
        sources_of.append(len(view.operators))
        made(self, view, sources)

    monkeypatch.setattr(SharedGaussians, "__init__", counted)
    view, found = large(count, monkeypatch, rounds=15, chunk=3000)
    assert sources_of == [1] * (2 * 3)  # one a source and level, for all rounds and chunks
    law = exact(PIXEL_PRIORS, DenseView.of(view.select(torch.tensor([0]))))
    scale = law.covariance.diagonal().sqrt()
    across = law.covariance[:4, 4:] / torch.outer(scale[:4], scale[4:])
    assert float(across.abs().max()) > 0.3
    assert max(error(found.draws, law.mean, law.covariance)) < 0.08
    assert max(error(large(count, monkeypatch, rounds=1)[1].draws, law.mean, law.covariance)) > 0.15
    assert found.evaluations == 0


def test_networks_of_images_are_counted_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (large(5, monkeypatch, 0.1, rounds=2, chunk=chunk)[1] for chunk in (5, 2))
    assert whole.evaluations == parts.evaluations == 2 * 2 * 3  # rounds, sources, levels
    torch.testing.assert_close(parts.draws, whole.draws)


def test_what_the_solver_of_any_source_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([0.3, 0.1])

    def conditional(alone: View, source: str, *_: object) -> Separation:
        return Separation({source: alone.y.new_zeros(len(alone), 3)}, residual=next(left))

    monkeypatch.setattr(gibbs, "_conditional", conditional)
    view = View(torch.zeros(2, 3), {source: torch.eye(3) for source in "ab"}, 0.3)
    assert sweep([random_prior(1, 3, 0)] * 2, view, SamplerConfig()).residual == 0.3
