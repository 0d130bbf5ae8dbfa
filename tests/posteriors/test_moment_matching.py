"""Joint draws by reversing time: settings that reach the draws, chunks, large sources, and which moments a view has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from closed_forms import ball, exact, named, random_prior, random_view
from tiny_em import POSTERIOR, priors, problem
from torch import Tensor

from mvss.posteriors.dense import DenseView
from mvss.posteriors.dense_moments import DenseMoments
from mvss.posteriors.exact import ExactPosterior
from mvss.posteriors.gibbs import GibbsPosterior
from mvss.posteriors.iterative_moments import JacobianMoments, LearnedMoments
from mvss.posteriors.moment_matching import MomentMatching, moments_of
from mvss.posteriors.posterior import Posterior, Separation
from mvss.posteriors.shared_gaussians import Factors, SharedGaussians
from mvss.posteriors.shared_moments import SharedMoments
from mvss.presets.posterior import CGConfig, GibbsConfig, MomentMatchingConfig, SamplerConfig
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import TimeMLP
from mvss.problem.noise import Diagonal, Isotropic
from mvss.problem.operators import Identity
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

STREAM = Stream(0, ("posterior",))
VIEW = problem()[1]
GIBBS = GibbsConfig(1, POSTERIOR.sampler, components=2, chunk=16)
SOLVER = CGConfig(3, 1e-6)


def trained() -> dict[str, DiffusionPrior]:
    """Networks (float32, as in use) that say something."""
    out = {}
    for source, prior in priors().items():
        torch.manual_seed(1)
        torch.nn.init.normal_(prior.network.output.weight, std=0.1)
        out[source] = DiffusionPrior(prior.mixture, prior.network.float().requires_grad_(False), prior.sigma_data)
    return out


def mixtures() -> dict[str, GaussianMixture]:
    return {source: prior.mixture for source, prior in priors().items()}


def separate(**options: object) -> Tensor:
    draws = MomentMatching(replace(POSTERIOR, **options)).draw(VIEW, trained(), STREAM).draws
    return torch.cat(list(draws.values()), dim=1)


def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvss.priors.local_law.DENSE", 0)


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": {"steps": 5}},
        {"sampler": {"sigma_start": 0.7}},
        {"sampler": {"sigma_min": 0.02}},
        {"sampler": {"tau": 0.2}},
        {"sampler": {"corrections": 2}},
        {"sampler": {"method": "ddim"}},
        {"sampler": {"method": "heun"}},
        {"sampler": {"method": "ancestral"}},
        {"start": "cold"},
        {"components": 1},
        {"components": 3},
        {"passes": 2},
    ],
)
def test_settings_reach_the_draws(options: dict) -> None:
    base = separate()
    if "sampler" in options:
        options = {"sampler": replace(POSTERIOR.sampler, **options["sampler"])}
    changed = separate(**options)
    assert torch.isfinite(changed).all()
    assert float((changed - base).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["warm", "cold", "gibbs"])
def test_chunks_change_nothing(kind: str) -> None:
    """Also where every observation has its own noise."""
    sigma = torch.linspace(0.05, 1.0, len(VIEW)).reshape(-1, 1).expand(-1, 2)
    view = View(VIEW.y, VIEW.operators, Diagonal(sigma))

    def drawn(chunk: int) -> Separation:
        if kind == "gibbs":
            return GibbsPosterior(replace(GIBBS, rounds=2, chunk=chunk)).draw(view, trained(), STREAM)
        return MomentMatching(replace(POSTERIOR, start=kind, chunk=chunk)).draw(view, trained(), STREAM)

    whole, parts = drawn(100), drawn(5)
    torch.testing.assert_close(parts.draws, whole.draws, rtol=1e-4, atol=1e-5)  # the networks run in float32
    assert parts.evaluations == whole.evaluations


def solve(view: View, monkeypatch: pytest.MonkeyPatch, **options: object) -> Separation:
    """With conjugate gradients, for which the sources are to count as large."""
    everything_is_large(monkeypatch)
    options = {"solver": SOLVER, "start": "cold"} | options
    return MomentMatching(replace(POSTERIOR, **options)).draw(view, trained(), STREAM)


def test_conjugate_gradients_are_moment_matching_of_large_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """For nearly symmetric Jacobians; each observation has an operator of its own."""
    expected, found = separate(start="cold", components=1), solve(VIEW, monkeypatch)
    assert float((torch.cat(list(found.draws.values()), dim=1) - expected).abs().mean()) < 0.015
    assert 0 < found.residual < 0.1 and found.clamped == 0
    blunt = solve(VIEW, monkeypatch, solver=CGConfig(1, 1e-6))
    assert float((torch.cat(list(blunt.draws.values()), dim=1) - expected).abs().mean()) > 0.03
    assert blunt.residual > found.residual
    assert blunt.evaluations == 2 * 3 * POSTERIOR.sampler.evaluations  # sources; the denoiser and two products


@pytest.mark.parametrize("options", [{}, {"solver": None}, {"solver": None, "sampler": SamplerConfig("ancestral", 3)}])
def test_chunks_change_no_large_source(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator()
    matrices = {s: torch.randn(2, d, generator=rng.manual_seed(d)) for s, d in (("one", 3), ("two", 2))}
    view = View(VIEW.y, matrices, VIEW.noise)
    whole, parts = (solve(view, monkeypatch, start="warm", chunk=chunk, **options) for chunk in (100, 5))
    torch.testing.assert_close(parts.draws, whole.draws, rtol=1e-4, atol=1e-5)


def test_where_memory_runs_out_a_chunk_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, tried = solve(VIEW, monkeypatch), []
    select = JacobianMoments.select

    def cramped(moments: JacobianMoments, rows: slice) -> JacobianMoments:
        tried.append(rows.stop - rows.start)
        if len(tried) == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 3 GiB")
        return select(moments, rows)

    monkeypatch.setattr(JacobianMoments, "select", cramped)
    again = solve(VIEW, monkeypatch)
    assert tried == [16, 8, 8, 1]  # chunk 16 of 17 observations
    torch.testing.assert_close(again.draws, whole.draws, rtol=1e-4, atol=1e-5)
    tried.clear()
    monkeypatch.setattr(JacobianMoments, "select", lambda *_: torch.empty(2**60))
    with pytest.raises(MvssError, match="memory"):
        solve(VIEW, monkeypatch)


def test_solvers_where_they_do_not_fit_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MvssError, match="leave it out") as small:
        separate(solver=SOLVER)
    with pytest.raises(MvssError, match="pc, ddim or heun") as draws:
        replace(POSTERIOR, solver=SOLVER, sampler=replace(POSTERIOR.sampler, method="ancestral"))
    warm = solve(VIEW, monkeypatch, start="warm").draws  # exact first draws are by a search
    assert all(bool(x.isfinite().all()) for x in warm.values())
    with pytest.raises(MvssError, match=r"posterior\.solver") as own:
        solve(VIEW, monkeypatch, solver=None)
    assert not any("\n" in str(error.value) for error in (small, draws, own))


def test_moments_are_those_that_sources_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, factors = (1, 4, 4), Factors()
    images = View(torch.ones(3, *shape), {"a": Identity(shape)}, 0.1)
    plain = DiffusionPrior(ball(shape, 1.0), TimeMLP(16, (4,), 4, inputs=32), 1.0)
    sure = DiffusionPrior(ball(shape, 1.0), TimeMLP(16, (4,), 4, inputs=32, outputs=2), 1.0)
    assert isinstance(moments_of(images, [plain], 1, factors, SamplerConfig()), DenseMoments)
    assert isinstance(moments_of(images, [sure], 1, factors, SamplerConfig()), LearnedMoments)
    everything_is_large(monkeypatch)
    assert isinstance(moments_of(images, [plain], 1, factors, SamplerConfig()), SharedMoments)
    assert isinstance(moments_of(images, [plain], 1, factors, SamplerConfig(), SOLVER), JacobianMoments)


@pytest.mark.parametrize("config", [POSTERIOR, replace(POSTERIOR, start="cold"), GIBBS])
def test_the_same_number_gives_the_same_draw(config: MomentMatchingConfig | GibbsConfig) -> None:
    posterior = GibbsPosterior(config) if isinstance(config, GibbsConfig) else MomentMatching(config)
    whole, rows = posterior.draw(VIEW, trained(), STREAM).draws, torch.tensor([16, 2])
    part = VIEW.select(rows)
    found = posterior.draw(part, trained(), STREAM).draws
    torch.testing.assert_close(found, {s: x[rows] for s, x in whole.items()}, rtol=1e-4, atol=1e-5)
    other = posterior.draw(View(part.y, part.operators, part.noise), trained(), STREAM).draws  # numbered anew
    assert not torch.allclose(other["one"], found["one"], atol=1e-3)


def test_mixtures_alone_are_drawn_exactly() -> None:
    found = MomentMatching(POSTERIOR).draw(VIEW, mixtures(), STREAM)
    torch.testing.assert_close(found.draws, ExactPosterior().draw(VIEW, mixtures(), STREAM).draws, rtol=0, atol=0)
    assert found.evaluations == 0 and found.clamped == 0
    gibbs = GibbsPosterior(GIBBS).draw(VIEW, mixtures(), STREAM)
    assert gibbs.evaluations == 2 * 6  # Gibbs is not replaced by exact draws


def test_a_source_that_a_view_hides_is_not_drawn() -> None:
    found = MomentMatching(POSTERIOR).draw(problem()[0], trained(), STREAM)
    assert {source: tuple(x.shape) for source, x in found.draws.items()} == {"one": (21, 3)}


@pytest.mark.parametrize("kind", ["warm", "cold", "gibbs", "closed"])
def test_many_draws_are_single_ones_each_with_its_own_randomness(kind: str) -> None:
    posterior: Posterior = GibbsPosterior(GIBBS)
    if kind != "gibbs":
        posterior = MomentMatching(replace(POSTERIOR, start="cold" if kind == "cold" else "warm"))
    sources, done = mixtures() if kind == "closed" else trained(), []
    many = posterior.many(VIEW, sources, STREAM, 3, done.append)
    assert {s: x.shape for s, x in many.items()} == {"one": (3, 17, 3), "two": (3, 17, 2)} and done == [1 / 3, 2 / 3, 1.0]
    for number in range(3):
        one = posterior.draw(VIEW, sources, STREAM.child(number)).draws
        torch.testing.assert_close({source: x[number] for source, x in many.items()}, one)
    assert not torch.equal(many["one"][0], many["one"][1])


SHAPE = (1, 2, 2)


@pytest.mark.parametrize("network", [False, True])
def test_factorisations_last_as_long_as_the_operators_and_the_noise_of_a_view(
    network: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything_is_large(monkeypatch)
    made: list[int] = []
    start = SharedGaussians.__init__

    def counted(self: SharedGaussians, *arguments: object) -> None:
        made.append(1)
        start(self, *arguments)

    monkeypatch.setattr(SharedGaussians, "__init__", counted)
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 4), torch.eye(4, dtype=torch.float64)[None], 0.1, SHAPE)
    sampler = SamplerConfig("ancestral", 2, sigma_start=0.5, sigma_min=0.1)
    posterior, each = MomentMatching(MomentMatchingConfig(sampler)), 1 + 2 * network  # exact, and one a level
    sources = {"a": DiffusionPrior(prior, TimeMLP(4, (4,), 4, inputs=8), 1.0) if network else prior}
    y = torch.ones(5, *SHAPE, dtype=torch.float64)
    loud, quiet = (View(y, {"a": Identity(SHAPE)}, Isotropic(noise), "same name") for noise in (10.0, 0.01))
    first = posterior.draw(loud, sources, STREAM).draws["a"]
    again = posterior.draw(loud.select(torch.arange(5)), sources, STREAM).draws["a"]
    assert len(made) == each and torch.equal(first, again)
    exact_draws = posterior.draw(quiet, sources, STREAM).draws["a"]
    assert len(made) == 2 * each and float((exact_draws - y).abs().max()) < 0.1 < float((first - y).abs().max())
    other = posterior.draw(View(-y, quiet.operators, quiet.noise, "same name"), sources, STREAM).draws["a"]
    assert len(made) == 2 * each and float((other + y).abs().max()) < 0.1  # of its own observations


def test_factorisations_are_of_the_sources_that_a_view_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where two views have one name, and one operator shows other sources."""
    everything_is_large(monkeypatch)
    sources = {
        name: GaussianMixture(torch.ones(1), torch.zeros(1, 4), variance * torch.eye(4, dtype=torch.float64)[None], 1e-6, SHAPE)
        for name, variance in (("wide", 1.0), ("narrow", 1e-4))
    }
    posterior, y = MomentMatching(), torch.ones(5, *SHAPE, dtype=torch.float64)
    views = {name: View(y, {name: Identity(SHAPE)}, 0.1, "one name") for name in sources}
    found = {name: posterior.draw(view, sources, STREAM).draws[name].mean() for name, view in views.items()}
    assert float(found["wide"]) > 0.8 and abs(float(found["narrow"])) < 0.1


@pytest.mark.parametrize("large", [False, True])
def test_cold_ancestral_runs_of_gaussians_give_the_joint_law(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """From pure noise, by few steps, of two sources together."""
    count, sizes = 6000, (2, 1)
    sources, one = {s: random_prior(1, d, d) for s, d in zip("ab", sizes, strict=True)}, random_view(1, 2, sizes)
    law = exact(list(sources.values()), one)
    view = named(one.select(torch.zeros(count, dtype=torch.long)))
    if large:
        everything_is_large(monkeypatch)
        shared = {source: operator.matrix[0] for source, operator in view.operators.items()}
        view = View(view.y, shared, Diagonal(one.noise.sqrt()))
    config = MomentMatchingConfig(SamplerConfig("ancestral", 4, sigma_start=50.0, sigma_min=0.01), "cold", chunk=5000)
    x = torch.cat(list(MomentMatching(config).draw(view, sources, STREAM).draws.values()), dim=1)
    scale = law.covariance.diagonal().sqrt()
    assert ((x.mean(0) - law.mean).abs() < 0.06 * scale).all()
    assert ((torch.cov(x.mT) - law.covariance).abs() < 0.07 * torch.outer(scale, scale)).all()


def test_a_dense_view_is_the_view() -> None:
    data = DenseView.of(VIEW)
    draws = {source: torch.randn(len(VIEW), *shape, dtype=torch.float64) for source, shape in VIEW.shapes.items()}
    torch.testing.assert_close(data.image(list(draws.values())), VIEW.predicted(draws))
