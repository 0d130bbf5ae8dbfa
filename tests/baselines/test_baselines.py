"""PCPCA and CLVM on data from models of their own kind, and their face."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from mvss.baselines.clvm import CLVM
from mvss.baselines.config import CLVMConfig, PCPCAConfig
from mvss.baselines.contrast import Contrast, Method, without_mask
from mvss.baselines.linear import Latent, loadings
from mvss.baselines.pcpca import PCPCA
from mvss.problem.operators import Dense, Identity, LinearOperator, Mask, Scale
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

D, M, N, NOISE = 5, 4, 1024, 0.05
STREAM = Stream(0, ("baselines",))
BACKGROUND = torch.tensor([[1.5, 0.5, 0, 0, 0]], dtype=torch.float64).T
TARGET = torch.tensor([[0, 0, 1.0, -1.0, 0.5]], dtype=torch.float64).T


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def contrastive(dense: bool = True) -> tuple[Views, Tensor]:
    """One background and one target direction; the truth of the target in the second view."""

    def operator(seed: int) -> LinearOperator:
        return Dense(normal(N, M, D, seed=seed)) if dense else Identity((D,))

    first, second = operator(1), operator(2)
    b = [normal(N, 1, seed=3 + k) @ BACKGROUND.T for k in range(2)]
    t = 1.0 + normal(N, 1, seed=5) @ TARGET.T
    size = M if dense else D
    y = [first.forward(b[0]), second.forward(b[1] + t)]
    y = [v + NOISE * normal(N, size, seed=6 + k) for k, v in enumerate(y)]
    return two_views(y, first, second), t


def two_views(y: list[Tensor], first: LinearOperator, second: LinearOperator) -> Views:
    """A background, and a target on top of another one."""
    off = View(y[0], {"background": first}, NOISE, "off")
    return Views([off, View(y[1], {"background": second, "target": second}, NOISE, "on")])


@pytest.mark.parametrize("shared", [False, True])
def test_the_latent_posterior_is_the_closed_form(shared: bool) -> None:
    operator = Identity((D,)) if shared else Dense(normal(7, M, D, seed=1))
    factors, size = normal(D, 3, seed=2), D if shared else M
    r, v = normal(7, size, seed=3), torch.full((7, size), 0.04, dtype=torch.float64)
    latent = Latent(loadings(operator, factors), r, v)
    g = operator.dense().expand(7, -1, -1) @ factors
    covariance = g @ g.mT + torch.diag_embed(v)
    exact = torch.distributions.MultivariateNormal(torch.zeros(size, dtype=torch.float64), covariance).log_prob(r)
    torch.testing.assert_close(latent.log_prob(), exact)
    gain = g.mT @ torch.linalg.inv(covariance)
    torch.testing.assert_close(latent.mean(), (gain @ r.unsqueeze(-1)).squeeze(-1))
    draws = torch.stack([latent.draw(normal(7, 3, seed=s)) for s in range(4000)])
    spread = torch.einsum("snl,snk->nlk", draws - latent.mean(), draws - latent.mean()) / 4000
    torch.testing.assert_close(spread, torch.eye(3, dtype=torch.float64) - gain @ g, atol=0.03, rtol=0.1)


@pytest.mark.parametrize("dense", [True, False])
def test_pcpca_finds_the_direction_that_only_the_target_has(dense: bool) -> None:
    data, truth = contrastive(dense)
    model = PCPCA(PCPCAConfig(gamma=0.8, latents=1, steps=200, batch=512))
    model.fit(data, STREAM)
    w = model.factors[:, 0]
    assert abs(float(w @ TARGET[:, 0])) / float(w.norm() * TARGET.norm()) > 0.97
    assert model.sources == ("target",)
    draws = model.separate(data[1], seed=STREAM)["target"][0]
    assert float((draws - truth).square().mean()) < 0.8 * float((truth - truth.mean(0)).square().mean())


def test_linear_clvm_finds_both_factors_and_the_best_likelihood() -> None:
    data, truth = contrastive()
    seen: list[float] = []
    model = CLVM(CLVMConfig(background=1, target=1, steps=300))
    model.fit(data, STREAM, progress=seen.append)
    assert seen[-1] == 1.0
    for factor, exact in zip(model.model.factors, (BACKGROUND, TARGET), strict=True):
        w = factor[:, 0]
        assert abs(float(w @ exact[:, 0])) / float(w.norm() * exact.norm()) > 0.99
    assert model.sources == ("background", "target")
    draws = model.separate(data[1], seed=STREAM)["target"][0]
    assert float((draws - truth).square().mean()) < 0.05
    g = torch.cat([data[1].operators["background"].dense() @ f for f in (BACKGROUND, TARGET)], dim=-1)
    shift = data[1].operators["target"].forward(torch.ones(N, D, dtype=torch.float64))
    best = Latent(g, data[1].y - shift, torch.full((N, M), NOISE**2, dtype=torch.float64)).log_prob().mean()
    assert float(model.bound(data[1], STREAM).mean()) == pytest.approx(float(best), abs=0.1)


def test_linear_clvm_recovers_a_model_of_its_own() -> None:
    """Factors of both sources, what they leave, and a likelihood near the truth's on other observations."""
    d, latents, excess = 40, (4, 3), 0.1
    factors = [normal(d, n, seed=20 + n) for n in latents]
    mean = [normal(d, seed=30 + n) for n in latents]

    def drawn(count: int, seed: int) -> Views:
        b, t = (normal(count, n, seed=seed + n) @ w.T + m for n, w, m in zip(latents, factors, mean, strict=True))
        noise = (NOISE**2 + excess**2) ** 0.5 * normal(2 * count, d, seed=seed)
        other = normal(count, latents[0], seed=seed + 9) @ factors[0].T + mean[0]
        half = Scale(0.5, (d,))
        off = View(other + noise[:count], {"background": Identity((d,))}, NOISE, "off")
        return Views([off, View(b + 0.5 * t + noise[count:], {"background": Identity((d,)), "target": half}, NOISE, "on")])

    model, fresh = CLVM(CLVMConfig(background=4, target=3, steps=60)), drawn(800, 200)
    model.fit(drawn(1500, 100), STREAM)
    for found, exact in zip(model.model.factors, factors, strict=True):
        bases = [torch.linalg.qr(w.detach()).Q for w in (found, exact)]
        assert float(torch.linalg.svdvals(bases[0].T @ bases[1]).min()) > 0.97
    assert float(model.model.log_excess.exp()) == pytest.approx(excess**2, rel=0.05)
    matrix, variance = torch.cat([factors[0], 0.5 * factors[1]], dim=1), NOISE**2 + excess**2
    best = Latent(matrix[None], fresh[1].y - mean[0] - 0.5 * mean[1], torch.full((800, d), variance, dtype=torch.float64))
    assert float(model.bound(fresh[1], STREAM).mean()) == pytest.approx(float(best.log_prob().mean()), abs=0.5)


def test_linear_clvm_is_not_sure_of_what_its_factors_leave() -> None:
    """Digits on a smooth background, both with more directions than factors. With the known noise alone, a tenth of what is
    left or less, log p(y) was -6,000 nats, draws had .0004 of the variance of their errors, and those thrice that of digits."""
    pixels, classes = load_digits(return_X_y=True)
    digits = torch.from_numpy(pixels[classes < 2] / 16)
    grid = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double()
    smooth = torch.linalg.cholesky((-torch.cdist(grid, grid) / 2).exp())
    grass = 0.5 + 0.25 * normal(1500 + len(digits), 64, seed=1) @ smooth.T
    y = grass + 0.01 * normal(*grass.shape, seed=2)
    y[1500:] += 0.5 * digits

    def view(rows: slice) -> View:
        return View(y[rows], {"background": Identity((64,)), "target": Scale(0.5, (64,))}, 0.01, "on")

    model = CLVM(CLVMConfig(background=12, target=6, steps=60))
    model.fit(Views([View(y[:1500], {"background": Identity((64,))}, 0.01, "off"), view(slice(1500, 1760))]), STREAM)
    fresh, truth = view(slice(1760, None)), digits[260:]
    assert float(model.bound(fresh, STREAM).mean()) > 0
    draws = model.separate(fresh, 16, STREAM)["target"]
    error = (draws.mean(0) - truth).square()
    assert 0.15 < float(draws.var(0).mean() / error.mean()) < 1.5
    assert float(error.mean()) < 0.8 * float(truth.var(0).mean())


def test_the_bound_of_the_neural_clvm_rises() -> None:
    data, truth = contrastive()
    bounds, errors = [], []
    for steps in (1, 300):
        model = CLVM(CLVMConfig("mlp", 1, 1, (32, 32), steps, 256, 3e-3))
        model.fit(data, STREAM)
        bounds.append(float(model.bound(data[1], STREAM).mean()))
        errors.append(float((model.separate(data[1], seed=STREAM)["target"][0] - truth).square().mean()))
    assert bounds[1] > bounds[0] + 100
    assert errors[1] < 0.5 * errors[0]


METHODS = (
    PCPCAConfig(latents=2, steps=5),
    CLVMConfig(steps=5),
    CLVMConfig("mlp", 2, 2, (8,), 5),
)


def made(config: PCPCAConfig | CLVMConfig) -> Method:
    return PCPCA(config) if isinstance(config, PCPCAConfig) else CLVM(config)


@pytest.mark.parametrize("config", METHODS)
def test_a_model_read_back_draws_the_same(config: PCPCAConfig | CLVMConfig, tmp_path: Path) -> None:
    data, _ = contrastive()
    model, again = made(config), made(config)
    model.fit(data, STREAM)
    model.save(tmp_path / "model.safetensors")
    again.load(tmp_path / "model.safetensors")
    assert again.sources == model.sources
    found, expected = (m.separate(data[1], draws=2, seed=STREAM) for m in (again, model))
    assert tuple(found) == model.sources
    for source, x in expected.items():
        assert torch.equal(x, found[source]) and x.shape == (2, N, D)
        assert not torch.equal(x[0], x[1])
        assert model.sample(source, 6, seed=STREAM).shape == (6, D)
        assert torch.equal(model.sample(source, 6, seed=STREAM), again.sample(source, 6, seed=STREAM))


@pytest.mark.parametrize("config", METHODS)
def test_an_interrupt_leaves_no_gradient_behind(config: PCPCAConfig | CLVMConfig) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    data, _ = contrastive()
    model = made(config)
    with pytest.raises(KeyboardInterrupt):
        model.fit(data, STREAM, interrupt)
    kept = [model.factors, model.mean, model.log_excess] if isinstance(model, PCPCA) else list(model.model.parameters())
    assert kept and not any(tensor.requires_grad for tensor in kept)


@pytest.mark.parametrize("config", METHODS)
def test_draws_are_keyed_by_seed_and_observation(config: PCPCAConfig | CLVMConfig) -> None:
    """As those of a `SourceSeparator`: a seed or a stream, numbers of observations, and progress."""
    data, _ = contrastive()
    model, done = made(config), list[float]()
    model.fit(data, STREAM)
    rows = torch.tensor([700, 3])
    whole = model.separate(data[1], draws=2, seed=5, progress=done.append)["target"]
    assert done == [0.5, 1.0]
    assert torch.equal(whole, model.separate(data[1], draws=2, seed=Stream(5))["target"])
    assert not torch.equal(whole, model.separate(data[1], draws=2, seed=6)["target"])
    part = model.separate(data[1].select(rows), draws=2, seed=5)["target"]
    torch.testing.assert_close(part, whole[:, rows], atol=1e-6, rtol=1e-5)
    again = made(config)
    again.fit(data, STREAM)
    torch.testing.assert_close(again.separate(data[1], draws=2, seed=5)["target"], whole, atol=1e-6, rtol=1e-6)


def test_data_that_are_not_contrastive_are_refused() -> None:
    data, _ = contrastive()
    with pytest.raises(MvssError, match="contrastive"):
        Contrast.of(Views([data[1]]))
    with pytest.raises(MvssError, match=r"the views show background and target$"):
        PCPCA(PCPCAConfig(steps=1)).fit(Views([data[1]]), STREAM)
    model = PCPCA(PCPCAConfig(steps=1))
    model.fit(data, STREAM)
    with pytest.raises(MvssError, match=r"has target only, not background"):
        model.sample("background", 3, STREAM)


def test_the_target_is_the_source_that_is_shown_last() -> None:
    """In whatever order the views stand; a background may be a sum of sources, which is then not separated."""
    data, _ = contrastive(dense=False)
    assert Contrast.of(data).target == "target" and Contrast.of(Views(reversed(data))).target == "target"
    off, on = data
    sums = Views(
        [
            View(off.y, {"a": Identity((D,)), "b": Identity((D,))}, NOISE, "off"),
            View(on.y, {"a": Identity((D,)), "b": Identity((D,)), "c": Identity((D,))}, NOISE, "on"),
        ]
    )
    contrast = Contrast.of(sums)
    assert (contrast.target, len(contrast.on), len(contrast.off)) == ("c", 1, 1)
    model = CLVM(CLVMConfig(steps=2))
    model.fit(sums, STREAM)
    assert model.sources == ("c",) and tuple(model.separate(sums[1])) == ("c",)


def test_a_background_of_two_operators_is_refused() -> None:
    first, second, other = (Dense(normal(6, M, D, seed=k)) for k in range(3))
    off = View(normal(6, M, seed=4), {"a": first, "b": first}, NOISE, "off")
    on = View(normal(6, M, seed=5), {"a": second, "b": other, "c": second}, NOISE, "on")
    with pytest.raises(MvssError, match="one operator for all background sources"):
        CLVM(CLVMConfig(steps=1)).fit(Views([off, on]), STREAM)


def test_pcpca_sees_through_a_target_that_is_fainter_than_the_background() -> None:
    """The target at half weight: the same target, as long as the background is compared in the target's units."""
    data, truth = contrastive(dense=False)
    off, on = data
    y = on.y - 0.5 * truth  # background + target / 2
    half = Scale(0.5, (D,)) @ on.operators["target"]
    faint = View(y, {"background": on.operators["background"], "target": half}, on.noise, "on")
    model = PCPCA(PCPCAConfig(gamma=0.9, latents=1, steps=300))
    model.fit(Views([off, faint]), STREAM)
    cosine = torch.nn.functional.cosine_similarity(model.factors[:, 0], TARGET[:, 0], dim=0)
    assert abs(float(cosine)) > 0.95


def test_stratified_prior_draws_have_the_same_law_with_less_noise() -> None:
    model = PCPCA(PCPCAConfig(latents=2))
    model.sources, model._shape = ("target",), (D,)
    model.factors, model.mean, model.background = normal(D, 2, seed=1), normal(D, seed=2), normal(D, seed=3)
    exact, centre = model.factors @ model.factors.mT, model.mean - model.background
    for stratified, bound in ((True, 0.02), (False, 0.3)):
        x = model.sample("target", 1024, STREAM, stratified)
        assert float((x.mean(0) - centre).abs().max()) < bound
        assert float((x.T.cov() - exact).abs().max()) < 2 * bound


@pytest.mark.parametrize("config", [PCPCAConfig(gamma=0.8, latents=1, steps=200), CLVMConfig(background=1, target=1, steps=60)])
def test_a_target_that_each_resolution_shows_in_part_is_found_whole(config: PCPCAConfig | CLVMConfig) -> None:
    """Views of three and of four of the five numbers of a source: neither kind shows the target's direction whole."""
    data, _ = contrastive(dense=False)
    rows = (torch.eye(D, dtype=torch.float64)[1:4], torch.eye(D, dtype=torch.float64)[[0, 1, 3, 4]])
    views = []
    for a, half in zip(rows, (slice(N // 2), slice(N // 2, None)), strict=True):
        for view in data:
            views.append(View(view.y[half] @ a.mT, dict.fromkeys(view.sources, Dense(a)), view.noise, view.name))
    model = made(config)
    model.fit(Views(views), STREAM)
    w = model.factors[:, 0] if isinstance(model, PCPCA) else model.model.factors[1][:, 0].detach()
    assert abs(float(torch.nn.functional.cosine_similarity(w, TARGET[:, 0], dim=0))) > 0.95


def masked(rows: int, dense: bool) -> tuple[Views, Tensor]:
    """The same with a fifth of the numbers unmeasured: by masks, or by matrices of each observation."""
    rng = torch.Generator().manual_seed(9)
    b, t = [normal(rows, 1, seed=3 + k) @ BACKGROUND.T for k in range(2)], 1.0 + normal(rows, 1, seed=5) @ TARGET.T
    masks = [torch.rand(rows, D, generator=rng) > 0.2 for _ in range(2)]
    first, second = (Dense(torch.diag_embed(m.double())) if dense else Mask(m) for m in masks)
    y = [first.forward(b[0] + NOISE * normal(rows, D, seed=6)), second.forward(b[1] + t + NOISE * normal(rows, D, seed=7))]
    return two_views(y, first, second), t


@pytest.mark.parametrize("config", [PCPCAConfig(0.5, 1, 40, 64), CLVMConfig("linear", 1, 1, steps=10)])
def test_masks_are_what_matrices_with_empty_rows_are(config: PCPCAConfig | CLVMConfig) -> None:
    """And take no matrix for each observation: with masks of 1,024 pixels those had filled the memory."""
    found = []
    for dense in (True, False):
        data, _ = masked(100, dense)
        model: Method = PCPCA(config) if isinstance(config, PCPCAConfig) else CLVM(config)
        model.fit(data, STREAM)
        found.append(model.separate(data[1], seed=STREAM)["target"][0])
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


def test_what_no_source_shows_is_zero_where_masks_differ() -> None:
    seen = torch.tensor([[True, True, False], [True, False, True]])
    operators = {"background": Mask(seen), "target": Mask(seen & torch.tensor([[True, False, True]]))}
    y, measured, kept = without_mask(View(torch.full((2, 3), -999.0), operators, 1.0))
    assert torch.equal(y, -999.0 * seen) and measured is None and kept == operators


def test_the_neural_clvm_sees_what_was_measured_and_separates_views_with_other_masks() -> None:
    data, truth = masked(600, dense=False)
    model = CLVM(CLVMConfig("mlp", 1, 1, hidden=(32,), steps=300, batch=128, learning_rate=3e-3))
    model.fit(data, STREAM)
    whole, _ = contrastive(dense=False)
    for view, size in ((data[1], 600), (whole.views[1], N)):
        draws = model.separate(view, seed=STREAM)["target"][0]
        assert draws.shape == (size, D) and bool(torch.isfinite(draws).all())
    error = float((model.separate(data[1], seed=STREAM)["target"][0] - truth).square().mean())
    assert error < 0.8 * float((truth - truth.mean(0)).square().mean())
    unmasked = CLVM(CLVMConfig("mlp", 1, 1, hidden=(8,), steps=2, batch=64))
    unmasked.fit(whole, STREAM)
    assert unmasked.separate(data[1])["target"].shape == (1, 600, D)  # as when pixels are held out
