"""What no chunk makes less of is told before it is taken; all else is done in chunks."""

from __future__ import annotations

__all__: list[str] = []

import warnings
from collections.abc import Callable

import pytest
import torch
from closed_forms import random_prior, shaped

from mvss.posteriors.dense import DenseView
from mvss.posteriors.dense_moments import DenseMoments
from mvss.posteriors.gibbs import GibbsPosterior
from mvss.posteriors.iterative_moments import JacobianMoments
from mvss.posteriors.moment_matching import MomentMatching, moments_of
from mvss.posteriors.shared_gaussians import Factors, SharedGaussians, factor_bytes
from mvss.presets.posterior import CGConfig, GibbsConfig, MomentMatchingConfig, SamplerConfig
from mvss.priors import local_law
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.local_law import Components, LocalLaw
from mvss.priors.networks import TimeMLP
from mvss.problem.operators import Identity, Mask
from mvss.problem.views import View
from mvss.runtime import memory
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

SHAPE, STREAM, SIZE = (1, 4, 4), Stream(0, ("memory",)), 16
MIXTURE = shaped(random_prior(3, SIZE, 0), SHAPE)
PRIOR = DiffusionPrior(MIXTURE, TimeMLP(SIZE, (4,), 4, inputs=2 * SIZE).requires_grad_(False), 1.0)
Y = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VIEW = View(Y, {"a": Identity(SHAPE)}, 0.1, "the view")
ONE = factor_bytes(SIZE, [Components.of(MIXTURE)])
SAMPLER = SamplerConfig("ddim", 4, 1.0, 0.1)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Says how many bytes are free, of very many."""

    def set_to(size: float) -> None:
        monkeypatch.setattr(memory, "_memory", lambda device: (size, 2**60))

    return set_to


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every source is."""
    monkeypatch.setattr(local_law, "DENSE", 0)


@pytest.mark.usefixtures("large")
def test_factorisations_of_all_noise_levels_are_counted_together(free: Callable[[float], None]) -> None:
    free(3.9 * ONE)
    with pytest.raises(MvssError, match=r"^3 factorisations of 16 numbers at each of 4 noise levels need .* fewer steps$"):
        moments_of(VIEW, [PRIOR], 1, Factors(), SAMPLER)
    with pytest.raises(MvssError, match="at each of 4 noise levels need"):
        moments_of(VIEW, [PRIOR], 1, Factors(), SAMPLER, CGConfig())
    free(4 * ONE)
    moments_of(VIEW, [PRIOR], 1, Factors(), SAMPLER)
    assert isinstance(moments_of(VIEW, [PRIOR], 1, Factors(), SAMPLER, CGConfig()), JacobianMoments)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("method", ["ancestral", "ddim", "pc", "heun"])
def test_what_is_there_is_not_counted_again(
    method: str, free: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call needs none, a view of its own name all of them, which with those held are more than a third."""
    made, start = [], SharedGaussians.__init__

    def counted(self: SharedGaussians, *arguments: object) -> None:
        made.append(1)
        start(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SharedGaussians, "__init__", counted)
    free(4 * ONE)
    posterior = MomentMatching(MomentMatchingConfig(SamplerConfig(method, 4, 1.0, 0.1), "cold"))  # type: ignore[arg-type]
    posterior.draw(VIEW, {"a": PRIOR}, STREAM)
    assert len(made) == 4
    free(0)
    posterior.draw(VIEW, {"a": PRIOR}, STREAM)
    single = View(Y.float(), VIEW.operators, VIEW.noise, "other")
    with pytest.raises(MvssError, match="at each of 4 noise levels"):
        posterior.draw(single, {"a": PRIOR}, STREAM)
    monkeypatch.setattr(memory, "_memory", lambda device: (20 * ONE, 20 * ONE))
    with pytest.warns(UserWarning, match="at each of 4 noise levels take"):  # eight of them
        posterior.draw(single, {"a": PRIOR}, STREAM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior.draw(single, {"a": PRIOR}, STREAM)


def test_matrices_behind_masks_are_counted(free: Callable[[float], None]) -> None:
    """Also where one operator serves all observations, and one mask."""
    seen = torch.ones(1, *SHAPE, dtype=torch.bool)
    seen[..., 0] = False
    rows = 8 * len(Y) * 12 * SIZE  # of the twelve numbers that were measured, beside one whole matrix
    for mask in (seen, seen.expand(len(Y), -1, -1, -1)):
        masked = View(Y, {"a": Mask(mask) @ Identity(SHAPE)}, 0.1, "masked")
        free(rows + 8 * SIZE**2 - 1)
        with pytest.raises(MvssError, match=r"^masked: the matrices of 6 observations need .* separate fewer at a time$"):
            DenseView.of(masked)
        free(rows + 8 * SIZE**2)
        assert DenseView.of(masked).matrices[0].shape == (6, 12, SIZE)
    free(8 * SIZE**2 - 1)
    with pytest.raises(MvssError, match="the view: the matrices"):
        DenseView.of(VIEW)
    free(8 * SIZE**2)
    DenseView.of(VIEW)


def test_sweeps_run_in_chunks_of_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, select = [], DenseMoments.select

    def watched(self: DenseMoments, rows: slice) -> DenseMoments:
        sizes.append(rows.stop - rows.start)
        return select(self, rows)

    monkeypatch.setattr(DenseMoments, "select", watched)
    posterior = GibbsPosterior(GibbsConfig(1, SamplerConfig("ancestral", 2, 5.0, 0.1)))
    whole = posterior.draw(VIEW, {"a": PRIOR}, STREAM)
    assert sizes == [6]
    monkeypatch.setattr(DenseMoments, "row_bytes", memory.AT_ONCE // 4)
    chunked = posterior.draw(VIEW, {"a": PRIOR}, STREAM)
    assert sizes == [6, 4, 2] and chunked.evaluations == whole.evaluations
    torch.testing.assert_close(chunked.draws, whole.draws)


@pytest.mark.parametrize("components", [1, 2])
def test_draws_of_priors_are_made_in_chunks(components: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Explicit covariances are of a chunk, not of all draws."""
    n, most = 50, 7
    x_t, level = torch.randn(n, *SHAPE, dtype=torch.float64), torch.full((n,), 0.5, dtype=torch.float64)
    index, whole = torch.arange(n), LocalLaw([PRIOR], components)
    expected, mean = whole.draw([x_t], level, STREAM, index), whole([x_t], level)
    kept = 3 if components == 1 else components
    sizes, made = [], local_law.dense_local

    def watched(prior: DiffusionPrior, x: torch.Tensor, *arguments: object) -> local_law.DenseGaussians:
        sizes.append(len(x))
        return made(prior, x, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(local_law, "dense_local", watched)
    each = 32 * (3 * SIZE + kept * SIZE**2)
    monkeypatch.setattr(local_law, "rows_within", lambda size: memory.rows_within(size, most * each))
    law = LocalLaw([PRIOR], components)
    torch.testing.assert_close(law.draw([x_t], level, STREAM, index), expected)
    assert sizes == [7] * 7 + [1]
    torch.testing.assert_close(law([x_t], level), mean)
    assert law.evaluations == whole.evaluations == 2
