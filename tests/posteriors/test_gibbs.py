"""The Gibbs baseline against the exact joint law, with its count of evaluations."""

from __future__ import annotations

import pytest
import torch
from closed_forms import Linear, exact, plain, random_prior, random_view
from torch import Tensor

from mvss.posteriors.exact_mixture import DenseView
from mvss.posteriors.gibbs import DenseConditionals, gibbs_sample
from mvss.posteriors.pipeline import PosteriorConfig, Separation, SourceSeparationPipeline
from mvss.posteriors.samplers import SamplerConfig
from mvss.posteriors.shared_gaussians import Components, SharedGaussians, SharedView
from mvss.priors.diffusion import Denoiser
from mvss.problem.noise import Isotropic
from mvss.problem.operators import BlockAverage, Scale
from mvss.problem.views import View
from mvss.runtime.rng import Stream

STREAM = Stream(0, ("gibbs",))


def test_enough_sweeps_give_the_joint_law() -> None:
    """Mean and covariance of all sources together, so that the cross-covariances are right as well."""
    count, sizes = 4000, (2, 1)
    priors, one = [random_prior(1, d, i) for i, d in enumerate(sizes)], random_view(1, 1, sizes)
    law = exact(priors, one)
    scale = law.covariance.diagonal().sqrt()
    correlation = law.covariance[:2, 2] / (scale[:2] * scale[2])
    assert float(correlation.abs().max()) > 0.3
    start = [torch.zeros(count, d, dtype=torch.float64) for d in sizes]
    config = SamplerConfig("heun", 24, sigma_start=50.0, sigma_min=0.005)
    many = one.select(torch.zeros(count, dtype=torch.long))
    x, evaluations = gibbs_sample(
        DenseConditionals([plain(p) for p in priors], many),
        start,
        config,
        12,
        STREAM,
        torch.arange(count),
    )
    x = torch.cat(x, dim=1)
    assert ((x.mean(0) - law.mean).abs() < 0.07 * scale).all()
    assert ((torch.cov(x.mT) - law.covariance).abs() < 0.09 * torch.outer(scale, scale)).all()
    assert evaluations == 12 * 2 * (24 + 23)  # sweeps × sources × (levels + Heun's second stages)
    assert not any(s.any() for s in start)  # the caller's draws are not written to


def test_evaluations_of_networks_count_their_jacobians() -> None:
    sizes, index = (3, 2), torch.arange(4)
    denoisers = [Denoiser(random_prior(2, d, i), Linear(d, 0.05), (d,), 1.0) for i, d in enumerate(sizes)]
    start = [torch.zeros(4, d, dtype=torch.float64) for d in sizes]
    config = SamplerConfig("pc", 5, 1.0, 0.1, corrections=2)
    _, evaluations = gibbs_sample(DenseConditionals(denoisers, random_view(4, 2, sizes)), start, config, 2, STREAM, index)
    assert evaluations == 2 * 5 * (1 + 2) * ((1 + 3) + (1 + 2))


def test_sources_may_be_images() -> None:
    view, index, config = random_view(3, 2, (4, 1)), torch.arange(3), SamplerConfig("ddim", 3, 1.0, 0.1)
    priors = [random_prior(2, 4, 0), random_prior(2, 1, 1)]
    image = [Denoiser(priors[0], None, (2, 2), 1.0), plain(priors[1])]
    start = [torch.ones(3, 2, 2, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)]
    x, _ = gibbs_sample(DenseConditionals(image, view), start, config, 2, STREAM, index)
    flat, _ = gibbs_sample(
        DenseConditionals([plain(p) for p in priors], view), [s.flatten(1) for s in start], config, 2, STREAM, index
    )
    assert x[0].shape == (3, 2, 2)
    torch.testing.assert_close([v.flatten(1) for v in x], list(flat))


def test_components_reach_the_conditional_runs() -> None:
    view, index, config = random_view(8, 1, (2, 1)), torch.arange(8), SamplerConfig("ddim", 4, 2.0, 0.1)
    denoisers = [plain(random_prior(3, d, d)) for d in (2, 1)]
    start = [torch.zeros(8, d, dtype=torch.float64) for d in (2, 1)]
    one, three = (gibbs_sample(DenseConditionals(denoisers, view, k), start, config, 1, STREAM, index)[0] for k in (1, 3))
    assert float((one[0] - three[0]).abs().max()) > 1e-3


def test_one_source_is_a_plain_draw() -> None:
    view, index, config = random_view(3, 2, (2,)), torch.arange(3), SamplerConfig("ddim", 3, 1.0, 0.1)
    start = [torch.zeros(3, 2, dtype=torch.float64)]
    single = DenseConditionals([plain(random_prior(2, 2, 0))], view)
    once, _ = gibbs_sample(single, start, config, 1, STREAM, index)
    other = [torch.full((3, 2), 9.0, dtype=torch.float64)]
    again, _ = gibbs_sample(single, other, config, 1, STREAM, index)
    torch.testing.assert_close(once, again)  # cold: what it starts from is forgotten


PIXELS = (1, 2, 2)
PIXEL_PRIORS = [random_prior(1, 4, seed, rank=2) for seed in (0, 1)]


def large(count: int, monkeypatch: pytest.MonkeyPatch, network: float = 0.0, **options: object) -> tuple[View, Separation]:
    """Two sources of four pixels, which are to count as large, of one observation `count` times, from zero."""
    monkeypatch.setattr("mvss.posteriors.pipeline.LARGE", 1)
    blocks = BlockAverage(PIXELS, 1), Scale(0.7, PIXELS) @ BlockAverage(PIXELS, 1)
    y = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64).expand(count, *PIXELS)
    view = View(y, blocks, Isotropic(0.5))
    sources = [Denoiser(p, Linear(4, network) if network else None, PIXELS, 1.0) for p in PIXEL_PRIORS]
    pipeline = SourceSeparationPipeline(sources, PosteriorConfig(SamplerConfig("ancestral", 3, 50.0, 0.01), **options))
    start = [torch.zeros(count, *PIXELS, dtype=torch.float64)] * 2
    return view, pipeline.posterior_sample(view, STREAM, start)


def test_enough_rounds_give_the_joint_law_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ancestral runs draw each conditional exactly. Few rounds from zero do not do."""
    count, sources_of = 4000, []
    made = SharedGaussians.__init__

    def counted(self: SharedGaussians, view: SharedView, sources: list[Components]) -> None:
        sources_of.append(len(view.operators))
        made(self, view, sources)

    monkeypatch.setattr(SharedGaussians, "__init__", counted)
    view, found = large(count, monkeypatch, gibbs_rounds=15, chunk=3000)
    assert sources_of == [1] * (2 * 3)  # one a source and level, for all rounds and chunks
    law = exact(PIXEL_PRIORS, DenseView.of(view.select(torch.tensor([0]))))
    scale = law.covariance.diagonal().sqrt()
    across = law.covariance[:4, 4:] / torch.outer(scale[:4], scale[4:])
    assert float(across.abs().max()) > 0.3

    def error(draws: tuple[Tensor, ...]) -> tuple[float, float]:
        x = torch.cat([d.flatten(1) for d in draws], dim=1)
        spread = (torch.cov(x.mT) - law.covariance) / torch.outer(scale, scale)
        return float(((x.mean(0) - law.mean) / scale).abs().max()), float(spread.abs().max())

    assert max(error(found.draws)) < 0.08
    assert max(error(large(count, monkeypatch, gibbs_rounds=1)[1].draws)) > 0.15
    assert found.evaluations == 0


def test_networks_of_images_are_counted_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (large(5, monkeypatch, 0.1, gibbs_rounds=2, chunk=chunk)[1] for chunk in (5, 2))
    assert whole.evaluations == parts.evaluations == 2 * 2 * 3  # rounds, sources, levels
    torch.testing.assert_close(parts.draws, whole.draws)
