"""Mixtures of large sources by EM: the evidence rises, what is known is recovered, and stages freeze what they should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvss.estimation.mixture_em import SharedMixtureConfig, factor_analysis, fit_shared_mixtures
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Dense, Identity, Scale, Zero
from mvss.problem.views import MultiViewData, View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

D, N, NOISE = 6, 3000, 0.1
STREAM = Stream(0, ("mixture-em",))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BACKGROUND = normal(D, D, seed=1) / 2
CENTRES = torch.tensor([[3.0, 0, 0, 0, 0, 0], [-3.0, 0, 0, 3.0, 0, 0]], dtype=torch.float64)


def data() -> MultiViewData:
    """A Gaussian background in both views, and a target of two components in the second one at half weight."""
    b = [1.0 + normal(N, D, seed=2 + k) @ BACKGROUND.T for k in range(2)]
    t = CENTRES[torch.arange(N) % 2] + 0.3 * normal(N, D, seed=4)
    y = [b[0] + NOISE * normal(N, D, seed=5), b[1] + 0.5 * t + NOISE * normal(N, D, seed=6)]
    identity, faint = Identity((D,)), Scale(0.5, (D,)) @ Identity((D,))
    off = View(y[0], (identity, Zero((D,), (D,))), Isotropic(NOISE), "off")
    return MultiViewData((off, View(y[1], (identity, faint), Isotropic(NOISE), "on")), ((D,), (D,)))


CONFIG = SharedMixtureConfig(components=(1, 2), ranks=(0, 2), laps=80, floor=0.05)


@pytest.mark.parametrize("stages", [((0,), (1,)), ((0, 1),)])
def test_known_mixtures_are_recovered(stages: tuple[tuple[int, ...], ...]) -> None:
    done: list[float] = []
    fit = fit_shared_mixtures(data(), CONFIG, stages, STREAM, done.append)
    assert done[-1] == 1.0
    first, second = fit.priors
    torch.testing.assert_close(first.covariances[0], BACKGROUND @ BACKGROUND.T, atol=0.15, rtol=0.15)
    torch.testing.assert_close(first.means[0], torch.ones(D, dtype=torch.float64), atol=0.1, rtol=0)
    order = second.means[:, 0].argsort(descending=True)
    torch.testing.assert_close(second.means[order], CENTRES, atol=0.25, rtol=0)
    torch.testing.assert_close(second.weights, torch.full((2,), 0.5, dtype=torch.float64), atol=0.05, rtol=0)


def test_the_evidence_rises_in_every_lap() -> None:
    """With full covariances; keeping to a low rank is a projection, which need not."""
    fit = fit_shared_mixtures(data(), SharedMixtureConfig((1, 2), (0, 0), laps=30, floor=0.05), ((0,), (1,)), STREAM)
    for stage in (fit.evidence[:30], fit.evidence[30:]):
        assert float(torch.tensor(stage).diff().min()) > -1e-9 and stage[-1] > stage[0]


def test_three_sources_that_learn_together_converge() -> None:
    """Moved all at once, each would explain the same residual, and the evidence fell from -4 to below -19."""
    n, shapes, identity, nothing = 200, ((2,),) * 3, Identity((2,)), Zero((2,), (2,))
    sizes, views = (n, n, 1500), []
    for alpha, count in enumerate(sizes):
        parts = [
            torch.sign(normal(count, 1, seed=20 + 3 * alpha + b)) * (1.0 + b) + 0.3 * normal(count, 2, seed=40 + 3 * alpha + b)
            for b in range(alpha + 1)
        ]
        y = torch.stack(parts).sum(0) + NOISE * normal(count, 2, seed=60 + alpha)
        operators = tuple(identity if b <= alpha else nothing for b in range(3))
        views.append(View(y, operators, Isotropic(NOISE), f"view {alpha + 1}"))
    config = SharedMixtureConfig((2, 2, 2), (0, 0, 0), laps=30, floor=0.05)
    fit = fit_shared_mixtures(MultiViewData(tuple(views), shapes), config, ((0, 1, 2),), STREAM)
    assert fit.evidence[-1] > max(fit.evidence) - 0.01


def test_an_earlier_source_is_frozen_in_a_later_stage() -> None:
    """What the second view holds does not move the first source."""
    first, second = data().views
    louder = View(second.y + 5.0, second.operators, second.noise, "on")
    few = SharedMixtureConfig((1, 2), (0, 2), laps=3, floor=0.05)
    one = fit_shared_mixtures(data(), few, ((0,), (1,)), STREAM).priors
    other = fit_shared_mixtures(MultiViewData((first, louder), ((D,), (D,))), few, ((0,), (1,)), STREAM).priors
    torch.testing.assert_close(one[0].means, other[0].means, rtol=0, atol=0)
    assert not torch.allclose(one[1].means, other[1].means)


def test_principal_factors_keep_directions_and_own_variances() -> None:
    w, own = normal(1, D, 1, seed=7), 0.2 + normal(1, D, seed=8).abs()
    covariance = w @ w.mT + torch.diag_embed(own)
    kept = factor_analysis(torch.ones(1), torch.zeros(1, D), covariance, 1, 0.05).covariances
    torch.testing.assert_close(kept.diagonal(dim1=1, dim2=2), covariance.diagonal(dim1=1, dim2=2))
    whole = factor_analysis(torch.ones(1), torch.zeros(1, D), covariance, 0, 0.05).covariances
    torch.testing.assert_close(whole, covariance)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SharedMixtureConfig((1,), (0, 1)), "one number per source"),
        (lambda: SharedMixtureConfig((0, 1), (0, 1)), "at least 1"),
        (lambda: fit_shared_mixtures(data(), SharedMixtureConfig((1,), (0,)), ((0,),), STREAM), "the data have 2"),
        (lambda: fit_shared_mixtures(data(), CONFIG, ((1,), (0,)), STREAM), "other stages"),
        (lambda: fit_shared_mixtures(data(), CONFIG, ((0,),), STREAM), "no stage fits sources"),
        (lambda: SharedMixtureConfig(floor=0.0), "floor positive"),
    ],
)
def test_bad_input_is_refused(make: object, says: str) -> None:
    with pytest.raises(MvssError, match=says):
        make()  # type: ignore[operator]


def test_operators_of_their_own_are_refused() -> None:
    views = data().views
    own = View(views[0].y[:5], (Dense(normal(5, D, D, seed=9)), Zero((D,), (D,))), Isotropic(NOISE), "off")
    with pytest.raises(MvssError, match="of their own"):
        fit_shared_mixtures(MultiViewData((own, views[1]), ((D,), (D,))), CONFIG, ((0,), (1,)), STREAM)


def test_numbers_that_do_not_vary_are_found_in_few_laps() -> None:
    """Plain EM multiplies a variance of its own that should vanish by 1 − v/(v + s) a lap, and hardly gets anywhere."""
    source = normal(N, 1, seed=7) @ torch.tensor([[1.0, -1.0, 0.5, 0, 0, 0]], dtype=torch.float64)
    view = View(source + 0.5 * normal(N, D, seed=8), (Identity((D,)),), Isotropic(0.5), "alone")
    config = SharedMixtureConfig((1,), (1,), laps=12, floor=0.05)
    (prior,) = fit_shared_mixtures(MultiViewData((view,), ((D,),)), config, ((0,),), STREAM).priors
    spread = prior.covariances[0].diagonal().sqrt()
    torch.testing.assert_close(spread[:3], source[:, :3].std(0), atol=0.05, rtol=0)
    assert float(spread[3:].max()) < 2 * config.floor + 0.02
