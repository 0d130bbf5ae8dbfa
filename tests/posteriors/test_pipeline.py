"""The pipeline: settings that reach the code, mode jumps, and what a folder gives back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_forms import exact, plain, random_prior
from scipy.stats import chi2
from tiny_em import POSTERIOR, denoisers, problem
from torch import Tensor

from mvss.posteriors.conditionals import Large
from mvss.posteriors.exact_mixture import DenseView, MixturePosterior
from mvss.posteriors.jacobian_products import MatrixFreePosterior
from mvss.posteriors.moment_matching import JointPosterior
from mvss.posteriors.pipeline import PosteriorConfig, Separation, SourceSeparationPipeline
from mvss.posteriors.samplers import SamplerConfig
from mvss.posteriors.shared_gaussians import SharedGaussians
from mvss.posteriors.solvers import CGConfig
from mvss.priors.diffusion import Denoiser
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import TimeMLP
from mvss.problem.noise import Diagonal, Isotropic
from mvss.problem.operators import Dense, Identity, Zero
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

STREAM = Stream(0, ("pipeline",))
VIEW = problem().views[1]


def trained() -> list[Denoiser]:
    """Denoisers whose networks (float32, as in use) say something."""
    out = []
    for d in denoisers():
        torch.manual_seed(1)
        torch.nn.init.normal_(d.network.output.weight, std=0.1)
        out.append(Denoiser(d.mixture, d.network.float().requires_grad_(False), d.shape, d.sigma_data))
    return out


def separate(**options: object) -> Tensor:
    pipeline = SourceSeparationPipeline(trained(), replace(POSTERIOR, **options))
    return torch.cat(pipeline.posterior_sample(VIEW, STREAM).draws, dim=1)


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
        {"start": "cold"},
        {"components": 1},
        {"components": 3},
        {"jumps": (1.0,)},
        {"gibbs_rounds": 1},
    ],
)
def test_settings_reach_the_draws(options: dict) -> None:
    base = separate(jumps=(0.6,)) if "jumps" in options else separate()
    if "sampler" in options:
        options = {"sampler": replace(POSTERIOR.sampler, **options["sampler"])}
    changed = separate(**options)
    assert torch.isfinite(changed).all()
    assert float((changed - base).abs().max()) > 1e-3


@pytest.mark.parametrize("options", [{}, {"jumps": (0.7,)}, {"gibbs_rounds": 2}, {"start": "cold"}])
def test_chunks_change_nothing(options: dict) -> None:
    """Also where every observation has its own noise."""
    sigma = torch.linspace(0.05, 1.0, len(VIEW)).reshape(-1, 1).expand(-1, 2)
    view = View(VIEW.y, VIEW.operators, Diagonal(sigma))
    whole, parts = (
        SourceSeparationPipeline(trained(), replace(POSTERIOR, chunk=chunk, **options)).posterior_sample(view, STREAM)
        for chunk in (100, 5)
    )
    torch.testing.assert_close(parts.draws, whole.draws, rtol=1e-4, atol=1e-5)  # the networks run in float32
    assert parts.evaluations == whole.evaluations


SOLVER = CGConfig(3, 1e-6)


def solve(view: View, monkeypatch: pytest.MonkeyPatch, **options: object) -> Separation:
    """With conjugate gradients, for which the sources are to count as large."""
    monkeypatch.setattr("mvss.posteriors.pipeline.LARGE", 1)
    options = {"solver": SOLVER, "start": "cold"} | options
    return SourceSeparationPipeline(trained(), replace(POSTERIOR, **options)).posterior_sample(view, STREAM)


def test_conjugate_gradients_are_moment_matching_of_large_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """For nearly symmetric Jacobians; each observation has an operator of its own."""
    expected, found = separate(start="cold", components=1), solve(VIEW, monkeypatch)
    assert float((torch.cat(found.draws, dim=1) - expected).abs().mean()) < 0.015
    assert 0 < found.residual < 0.1 and found.clamped == 0
    blunt = solve(VIEW, monkeypatch, solver=CGConfig(1, 1e-6))
    assert float((torch.cat(blunt.draws, dim=1) - expected).abs().mean()) > 0.03
    assert blunt.residual > found.residual
    calls = POSTERIOR.sampler.steps * (POSTERIOR.sampler.corrections + 1)
    assert blunt.evaluations == 2 * 3 * calls  # sources; the denoiser and two products


@pytest.mark.parametrize("options", [{}, {"solver": None}])
def test_chunks_change_no_large_source(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    view = View(VIEW.y, tuple(Dense(torch.randn(2, d, generator=torch.Generator().manual_seed(d))) for d in (3, 2)), VIEW.noise)
    whole, parts = (solve(view, monkeypatch, start="warm", chunk=chunk, **options) for chunk in (100, 5))
    torch.testing.assert_close(parts.draws, whole.draws, rtol=1e-4, atol=1e-5)


def test_where_memory_runs_out_a_chunk_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, tried = solve(VIEW, monkeypatch), []
    posterior = Large.posterior

    def cramped(given: Large, rows: slice) -> MatrixFreePosterior:
        tried.append(rows.stop - rows.start)
        if len(tried) == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 3 GiB")
        return posterior(given, rows)

    monkeypatch.setattr(Large, "posterior", cramped)
    again = solve(VIEW, monkeypatch)
    assert tried == [16, 8, 8, 1]  # chunk 16 of 17 observations
    torch.testing.assert_close(again.draws, whole.draws, rtol=1e-4, atol=1e-5)
    tried.clear()
    monkeypatch.setattr(Large, "posterior", lambda *_: torch.empty(2**60))
    with pytest.raises(MvssError, match="memory"):
        solve(VIEW, monkeypatch)


def test_solvers_where_they_do_not_fit_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MvssError, match="leave it out"):
        separate(solver=SOLVER)
    for wrong in ({"sampler": replace(POSTERIOR.sampler, method="ancestral")}, {"gibbs_rounds": 1}):
        with pytest.raises(MvssError, match="pc, ddim or heun"):
            replace(POSTERIOR, solver=SOLVER, **wrong)
    with pytest.raises(MvssError, match="start"):
        solve(VIEW, monkeypatch, start="warm")
    with pytest.raises(MvssError, match=r"posterior\.solver"):
        solve(VIEW, monkeypatch, solver=None)
    with pytest.raises(MvssError, match="jumps"):
        solve(VIEW, monkeypatch, jumps=(1.0,))


def test_the_same_index_gives_the_same_draw() -> None:
    pipeline = SourceSeparationPipeline(trained(), POSTERIOR)
    whole, rows = pipeline.posterior_sample(VIEW, STREAM), torch.tensor([16, 2])
    part = pipeline.posterior_sample(VIEW.select(rows), STREAM, index=rows)
    torch.testing.assert_close(part.draws, tuple(d[rows] for d in whole.draws), rtol=1e-4, atol=1e-5)
    other = pipeline.posterior_sample(VIEW.select(rows), STREAM)
    assert not torch.allclose(other.draws[0], part.draws[0], atol=1e-3)


def test_networks_in_training_mode_draw_as_in_evaluation() -> None:
    """As those of a resumed run are, which nothing has trained yet: dropout is off, and kernels are the same."""
    sources = trained()
    for denoiser in sources:
        denoiser.network.output = torch.nn.Sequential(torch.nn.Dropout(0.5), denoiser.network.output).eval()
    before = SourceSeparationPipeline(sources, POSTERIOR).posterior_sample(VIEW, STREAM)
    for denoiser in sources:
        denoiser.train()
    again = SourceSeparationPipeline(sources, POSTERIOR).posterior_sample(VIEW, STREAM)
    assert all(torch.equal(a, b) for a, b in zip(before.draws, again.draws, strict=True))


def test_mixtures_alone_are_drawn_exactly() -> None:
    sources = [plain(d.mixture) for d in denoisers()]
    found = SourceSeparationPipeline(sources, POSTERIOR).posterior_sample(VIEW, STREAM)
    exactly = MixturePosterior([d.mixture for d in sources]).draw(DenseView.of(VIEW), STREAM.child("exact"))
    torch.testing.assert_close(found.draws, exactly)
    assert found.evaluations == 0 and found.clamped == 0
    gibbs = SourceSeparationPipeline(sources, replace(POSTERIOR, gibbs_rounds=1)).posterior_sample(VIEW, STREAM)
    assert gibbs.evaluations == 2 * 6  # Gibbs is not replaced by exact draws


def test_a_source_that_a_view_hides_is_not_drawn() -> None:
    first = problem().views[0]
    found = SourceSeparationPipeline(trained(), POSTERIOR).posterior_sample(first, STREAM)
    assert [tuple(d.shape) for d in found.draws] == [(21, 3)]


def test_prior_draws_of_a_new_network_follow_the_mixture() -> None:
    prior = random_prior(3, 2, 5)
    network = TimeMLP(2, hidden=(4,), embedding=4, inputs=4)
    config = PosteriorConfig(SamplerConfig("heun", 30, sigma_start=1.0, sigma_min=0.01))
    x = SourceSeparationPipeline([Denoiser(prior, network, (2, 1), 1.0)], config).prior_sample(0, 4000, STREAM)
    assert x.shape == (4000, 2, 1)
    truth = prior.sample(4000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(x.flatten(1).mean(0), truth.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(x.flatten(1).mT), torch.cov(truth.mT), atol=0.12, rtol=0)


# Two numbers seen through their sum: two of the modes explain y = 1, the third does not.
MODES = GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2]),
    torch.tensor([[0.5, 0.5], [2.0, -1.0], [-1.0, 0.0]]),
    0.15 * torch.eye(2).expand(3, -1, -1),
    floor=0.02,
)
SUM = Dense(torch.ones(1, 2))


def jump(x: Tensor, jumps: tuple[float, ...]) -> Tensor:
    count = len(x)
    view = DenseView.of(View(torch.ones(count, 1, dtype=torch.float64), (SUM,), Isotropic(0.1)))
    sampler = SamplerConfig("heun", 25, sigma_start=1.0, sigma_min=0.005)
    pipeline = SourceSeparationPipeline([plain(MODES)], PosteriorConfig(sampler, components=3, jumps=jumps))
    posterior = JointPosterior(pipeline.denoisers, view, components=3)
    return pipeline._jump(posterior, (x,), STREAM, torch.arange(count))[0]


def test_jumps_leave_exact_draws_distributed_as_they_are() -> None:
    count = 8000
    many = DenseView.of(View(torch.ones(count, 1, dtype=torch.float64), (SUM,), Isotropic(0.1)))
    law = exact([MODES], many)
    start = MixturePosterior([MODES], retain=30.0).draw(many, STREAM.child("start"))[0]
    x = jump(start, (1.0, 3.0))
    assert float((law.weights > 0.2).sum()) == 2
    moved = ((x - start).norm(dim=1) > 1.0).double().mean()
    assert float(moved) > 0.2  # modes are changed, and their weights stay
    torch.testing.assert_close(law.assign(x), law.weights, atol=0.02, rtol=0)
    scale = law.covariance.diagonal().sqrt()
    assert ((x.mean(0) - law.mean).abs() < 0.05 * scale).all()
    assert ((torch.cov(x.mT) - law.covariance).abs() < 0.05 * torch.outer(scale, scale)).all()


def test_jumps_lead_out_of_a_mode_that_the_observation_excludes() -> None:
    wrong = MODES.means[2] + 0.02 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = jump(wrong, (2.0, 2.0))
    misfit = (x.sum(1) - 1).abs()
    assert float((misfit < 0.5).double().mean()) > 0.98
    assert torch.equal(jump(wrong, ()), wrong)


class Scripted:
    """A posterior that comes down at −1 from jump level 1, and at +1 from level 2, where the misfit is too large."""

    def __init__(self, count: int, excess: float) -> None:
        one = torch.ones(count, 1, dtype=torch.float64)
        self.data, self.bad = DenseView(one, (one.unsqueeze(-1),), 1e-12 * one), float(chi2.ppf(0.99, 1)) + excess

    def __call__(self, x_t: tuple[Tensor, ...], sigma: Tensor) -> tuple[Tensor, ...]:
        return ((2 * sigma - 3).unsqueeze(1),)

    def misfit(self, x_t: tuple[Tensor, ...], sigma: Tensor) -> Tensor:
        return self.bad * (x_t[0][:, 0] > 0)


def test_what_the_observation_excludes_is_taken_with_the_metropolis_probability() -> None:
    """From +1 (bad) to −1 (good): always. Then to +1 again: with exp(−excess/2)."""
    count, probability = 4000, 0.3
    posterior = Scripted(count, excess=-2 * math.log(probability))
    config = PosteriorConfig(SamplerConfig("ddim", 1, 1.0, 0.1), jumps=(1.0, 2.0))
    start, index = (torch.ones(count, 1, dtype=torch.float64),), torch.arange(count)
    x = SourceSeparationPipeline([], replace(config, jumps=(1.0,)))._jump(posterior, start, STREAM, index)[0]
    assert (x == -1).all()
    x = SourceSeparationPipeline([], config)._jump(posterior, start, STREAM, index)[0]
    assert float((x == 1).double().mean()) == pytest.approx(probability, abs=0.03)


def saved(folder: Path) -> SourceSeparationPipeline:
    pipeline = SourceSeparationPipeline(trained(), replace(POSTERIOR, jumps=(0.7,)))
    pipeline.save_pretrained(folder)
    return pipeline


def test_a_saved_pipeline_gives_identical_draws(tmp_path: Path) -> None:
    pipeline = saved(tmp_path)
    again = SourceSeparationPipeline.from_pretrained(str(tmp_path))
    assert again.config == pipeline.config
    for found, expected in zip(
        again.posterior_sample(VIEW, STREAM).draws, pipeline.posterior_sample(VIEW, STREAM).draws, strict=True
    ):
        assert torch.equal(found, expected)
    for source in (0, 1):
        assert torch.equal(again.prior_sample(source, 5, STREAM), pipeline.prior_sample(source, 5, STREAM))
    again.save_pretrained(tmp_path)  # over what is there
    solved = SourceSeparationPipeline(trained(), replace(POSTERIOR, solver=SOLVER))
    solved.save_pretrained(tmp_path / "solved")
    assert SourceSeparationPipeline.from_pretrained(tmp_path / "solved").config == solved.config
    mixtures = SourceSeparationPipeline([plain(d.mixture) for d in trained()])
    mixtures.save_pretrained(tmp_path / "mixtures")
    assert SourceSeparationPipeline.from_pretrained(tmp_path / "mixtures").denoisers[1].network is None


FILES = ["pipeline.json", "mixture-2.pt", "network-1/config.json", "network-1/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
@pytest.mark.parametrize("name", [*FILES, "network-2"])
def test_a_damaged_folder_is_refused_in_one_line(name: str, damage: str, tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / name
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
    elif damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(MvssError, match=name.split(".")[0].split("/")[0]) as error:
        SourceSeparationPipeline.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_settings_of_another_version_are_refused_in_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    settings = json.loads((tmp_path / "pipeline.json").read_text())
    settings["posterior"]["unheard_of"] = 1
    (tmp_path / "pipeline.json").write_text(json.dumps(settings))
    with pytest.raises(MvssError, match=r"pipeline\.json"):
        SourceSeparationPipeline.from_pretrained(tmp_path)
    with pytest.raises(MvssError, match=r"pipeline\.json"):
        SourceSeparationPipeline.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("options", [{}, {"start": "cold"}, {"gibbs_rounds": 1}, {"network": None}])
def test_many_draws_are_single_ones_each_with_its_own_randomness(options: dict) -> None:
    sources = trained() if "network" not in options else [Denoiser(d.mixture, None, d.shape, 1.0) for d in trained()]
    config = replace(POSTERIOR, **{name: value for name, value in options.items() if name != "network"})
    pipeline, done = SourceSeparationPipeline(sources, config), []
    many = pipeline.posterior_samples(VIEW, STREAM, 3, done.append)
    assert [x.shape for x in many] == [(3, 17, 3), (3, 17, 2)] and done == [1 / 3, 2 / 3, 1.0]
    for number in range(3):
        one = pipeline.posterior_sample(VIEW, STREAM.child(number)).draws
        for found, expected in zip(many, one, strict=True):
            torch.testing.assert_close(found[number], expected)
    assert not torch.equal(many[0][0], many[0][1])


def test_factorisations_last_as_long_as_the_operators_and_the_noise_of_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvss.posteriors.pipeline.LARGE", 1)
    made: list[int] = []
    start = SharedGaussians.__init__

    def counted(self: SharedGaussians, *arguments: object) -> None:
        made.append(1)
        start(self, *arguments)

    monkeypatch.setattr(SharedGaussians, "__init__", counted)
    shape = (1, 2, 2)
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 4), torch.eye(4, dtype=torch.float64)[None], 0.1)
    pipeline = SourceSeparationPipeline([Denoiser(prior, None, shape, 1.0)])
    y = torch.ones(5, *shape, dtype=torch.float64)
    loud, quiet = (View(y, (Identity(shape),), Isotropic(noise), "same name") for noise in (10.0, 0.01))
    first = pipeline.posterior_sample(loud, Stream(0, ())).draws[0]
    again = pipeline.posterior_sample(loud.select(torch.arange(5)), Stream(0, ())).draws[0]
    assert len(made) == 1 and torch.equal(first, again)
    exact = pipeline.posterior_sample(quiet, Stream(0, ())).draws[0]
    assert len(made) == 2 and float((exact - y).abs().max()) < 0.1 < float((first - y).abs().max())


def test_factorisations_are_of_the_sources_that_a_view_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where two views have one name, and one operator shows other sources."""
    monkeypatch.setattr("mvss.posteriors.pipeline.LARGE", 1)
    shape = (1, 2, 2)
    here, none = Identity(shape), Zero(shape, shape)
    wide, narrow = (
        GaussianMixture(torch.ones(1), torch.zeros(1, 4), variance * torch.eye(4, dtype=torch.float64)[None], 1e-6)
        for variance in (1.0, 1e-4)
    )
    pipeline = SourceSeparationPipeline([Denoiser(prior, None, shape, 1.0) for prior in (wide, narrow)])
    y = torch.ones(5, *shape, dtype=torch.float64)
    found = [
        pipeline.posterior_sample(View(y, operators, Isotropic(0.1), "one name"), Stream(0, ())).draws[0].mean()
        for operators in ((here, none), (none, here))
    ]
    assert float(found[0]) > 0.8 and abs(float(found[1])) < 0.1
