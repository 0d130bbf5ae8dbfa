"""Views whose observations share operators, as rows of numbers."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mvss.problem.image_operators import BlockAverage, Convolve
from mvss.problem.noise import Diagonal, Isotropic, Noise, Stationary
from mvss.problem.operators import Composition, Identity, LinearOperator, Mask, Scale
from mvss.problem.shared_view import SharedView, is_shared, measured, shared_rows, unmasked
from mvss.problem.stack import Stack, Sum
from mvss.problem.views import View

N, SHAPE = 40, (1, 4, 4)
RNG = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


BLUR = Convolve((1, 6, 6), normal(3, 3), "valid")
BLUR_SAME = Convolve(SHAPE, normal(3, 3), "same")
COARSE = BlockAverage((1, 8, 8), 2)
MASKS = torch.rand(N, *SHAPE, generator=RNG) > 0.15
MASKS[0] = True
FIELD = torch.rand(1, *SHAPE, generator=RNG) > 0.3
Y = normal(N, *SHAPE)


def view(noise: Noise | Tensor | float = 0.3, **operators: LinearOperator) -> View:
    return View(Y, operators, noise, "the view")


WEIGHTS = Scale(0.5, SHAPE) @ Sum([Identity(SHAPE), Scale(-0.25, SHAPE)])
MASKED = {
    "mask alone": (Mask(MASKS), MASKS),
    "mask last": (Mask(MASKS) @ BLUR, MASKS),
    "a weight before the mask": (Scale(0.5, SHAPE) @ (Mask(MASKS) @ BLUR), MASKS),
    "a weight after it": (Mask(MASKS) @ (Scale(0.5, SHAPE) @ BLUR), MASKS),
    "a weight outside of all": (Scale(2.0, SHAPE) @ (Scale(0.5, SHAPE) @ (Mask(MASKS) @ COARSE)), MASKS),
    "two masks": (Mask(MASKS) @ (Mask(FIELD) @ BLUR), MASKS & FIELD),
    "two masks, joined first": ((Mask(MASKS) @ Mask(FIELD)) @ BLUR, MASKS & FIELD),
    "two masks around weights": ((Mask(FIELD) @ WEIGHTS) @ (Mask(MASKS) @ BLUR), MASKS & FIELD),
    "two masks alone": (Mask(MASKS) @ Mask(FIELD), MASKS & FIELD),
    "masks around the identity": (Mask(FIELD) @ (Identity(SHAPE) @ Mask(MASKS)), MASKS & FIELD),
    "one mask for all": (Mask(FIELD) @ BLUR, FIELD),
    "a mask of the source": (BLUR @ Mask(torch.ones(1, 1, 6, 6, dtype=torch.bool)), torch.ones(1, *SHAPE, dtype=torch.bool)),
    "no mask": (BLUR, torch.ones(1, *SHAPE, dtype=torch.bool)),
    "a matrix each": (Mask(MASKS) @ Scale(0.5, SHAPE), MASKS),
}


@pytest.mark.parametrize("factor", [1.0, 2.0], ids=["as it is", "in the units of a fit"])
@pytest.mark.parametrize("name", MASKED)
def test_an_operator_is_its_mask_times_what_is_left_of_it(name: str, factor: float) -> None:
    operator, expected = MASKED[name][0].scaled(factor), MASKED[name][1]
    mask, (bare,) = unmasked(view(a=operator))
    assert mask is not None and bare.count is None
    assert torch.equal(mask.expand(N, *SHAPE), expected.expand(N, *SHAPE))
    x = normal(N, *operator.source_shape)
    torch.testing.assert_close(mask * bare.forward(x), operator.forward(x))


def test_sources_with_masks_that_differ_have_none_in_common() -> None:
    mask, bare = unmasked(view(a=Mask(MASKS) @ BLUR, b=Mask(MASKS)))
    assert torch.equal(mask, MASKS) and [type(o) for o in bare] == [Convolve, Identity]
    mask, bare = unmasked(view(a=Mask(MASKS) @ BLUR, b=Identity(SHAPE)))
    assert mask is None and len(bare) == 2
    assert unmasked(view(a=Mask(MASKS), b=Mask(MASKS.roll(1, 0))))[0] is None
    assert shared_rows(view(a=Mask(MASKS), b=Identity(SHAPE))) is None


def test_what_some_source_shows_was_measured() -> None:
    inside = Mask(MASKS & FIELD)
    assert torch.equal(measured(view(a=Mask(MASKS) @ BLUR, b=inside)), MASKS)
    assert torch.equal(measured(view(a=inside, b=Mask(FIELD))), FIELD.expand(N, *SHAPE))
    assert bool(measured(view(a=inside, b=BLUR)).all())
    assert torch.equal(measured(view(a=inside @ Sum([Mask(FIELD), Mask(~FIELD) @ BLUR_SAME]))), MASKS & FIELD)
    both = Sum([Mask(MASKS & FIELD), Mask(MASKS & ~FIELD) @ BLUR_SAME])
    assert torch.equal(measured(view(a=both.scaled(2.0))), MASKS)
    assert bool(measured(view(a=Sum([Mask(MASKS), BLUR_SAME]))).all())


def test_masked_pixels_are_allowed_however_many_and_few_of_another_noise() -> None:
    for holes in (4, 7, 15):  # of sixteen
        order = torch.rand(N, 16, generator=torch.Generator().manual_seed(1)).argsort(1)
        mask = (order >= holes).reshape(N, *SHAPE)
        assert is_shared(view(a=Mask(mask) @ BLUR))
        sigma = torch.where(mask, 0.3, 0.9)
        assert is_shared(view(Diagonal(sigma), a=BLUR)) is (holes != 7)  # of 15, the others are odd
    assert not is_shared(view(torch.linspace(0.1, 1.0, N), a=BLUR))  # a level each
    assert not is_shared(View(normal(N, 3), {"a": normal(N, 3, 2)}, 0.1))  # a matrix each
    assert is_shared(View(normal(N, 3), {"a": normal(3, 2)}, 0.1))


@pytest.mark.parametrize("operator", [BLUR, COARSE, Mask(FIELD) @ BLUR, Scale(-0.5, SHAPE), Identity(SHAPE)])
def test_image_and_pull_are_adjoint_and_need_no_matrix(operator: LinearOperator) -> None:
    field = operator.outer if isinstance(operator, Composition) else Identity(SHAPE)
    rows = SharedView.of(view(a=operator, b=field))
    size = math.prod(operator.source_shape)
    x, b, y = normal(N, size), normal(N, 16), normal(N, 16)
    torch.testing.assert_close((rows.image(0, x) * y).sum(1), (x * rows.pull(0, y)).sum(1))
    matrix = rows.operators[0].dense()[0]
    torch.testing.assert_close(rows.image(0, x), x @ matrix.mT)
    torch.testing.assert_close(rows.images([x, b]), x @ matrix.mT + rows.image(1, b))


def test_factors_are_the_same_where_operators_and_noise_are() -> None:
    kernel = BLUR.kernel
    rows = SharedView.of(view(a=BLUR))
    same = [
        View(2 * Y[:7], {"other": Convolve((1, 6, 6), kernel.clone(), "valid")}, 0.3),
        view(torch.full((1, *SHAPE), 0.3, dtype=torch.float64), a=BLUR),
        view(a=Mask(MASKS) @ BLUR),  # odd pixels are no matter of factors
    ]
    other = [
        view(0.4, a=BLUR),
        view(a=Convolve((1, 6, 6), 2 * kernel, "valid")),
        view(a=Convolve(SHAPE, kernel, "same")),
        view(a=Scale(2.0, SHAPE) @ BLUR),
        view(a=BLUR, b=Identity(SHAPE)),
        view(a=Identity(SHAPE)),
        view(Stationary(torch.tensor([[0.09]])), a=BLUR),
        view(a=Mask(FIELD) @ BLUR),
    ]
    assert rows.same_factors(rows) and rows.same_factors(rows.select(slice(3)))
    assert all(rows.same_factors(SharedView.of(v)) and SharedView.of(v).same_factors(rows) for v in same)
    assert not any(rows.same_factors(SharedView.of(v)) or SharedView.of(v).same_factors(rows) for v in other)


class Kept(LinearOperator):
    """A user's, whose gain is in an attribute of any kind."""

    def __init__(self, gain: object) -> None:
        self.gain, self.source_shape, self.observation_shape = gain, SHAPE, SHAPE

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    adjoint = forward


def test_factors_are_the_same_where_users_operators_keep_the_same() -> None:
    """Arrays, lists and dictionaries of tensors are neither true nor false; what cannot be read is never the same."""
    arrays = [np.linspace(1, 2, 16), np.linspace(1, 3, 16), np.ones(3)]
    kinds = [arrays, [[torch.tensor(a)] for a in arrays], [{"gain": torch.tensor(a), "of": None} for a in arrays]]
    for gains in kinds:
        first, second = ([SharedView.of(view(a=Kept(copy.deepcopy(gain)))) for gain in gains] for _ in range(2))
        same = [[one.same_factors(other) for other in second] for one in first]
        assert same == [[row == column for column in range(3)] for row in range(3)]
    assert not SharedView.of(view(a=Kept(iter([])))).same_factors(SharedView.of(view(a=Kept(iter([])))))


def odd_noise() -> tuple[SharedView, Tensor, Tensor]:
    """A view with masked and odd pixels; its standard deviations, and what was measured, `(N, M)`."""
    sigma = (0.2 + torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(2))).repeat(N, 1, 1, 1).double()
    factors = torch.tensor([0.3, 1.0, 4.0]).double()
    which = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(3))
    sigma = sigma * factors[(which > 0.04).long() + (which > 0.96).long()]
    return SharedView.of(view(Diagonal(sigma), a=Mask(MASKS) @ BLUR)), sigma.flatten(1), MASKS.flatten(1)


def test_the_noise_of_odd_pixels_is_their_own() -> None:
    rows, sigma, measured = odd_noise()
    torch.testing.assert_close(rows.variances()[measured], sigma[measured].square())
    assert bool(rows.variances()[~measured].isinf().all())
    torch.testing.assert_close(rows.noise, sigma.square().median(0).values)
    assert torch.equal(rows.y[~measured], torch.zeros_like(rows.y[~measured]))
    part = rows.select(torch.tensor([7, 3]))
    torch.testing.assert_close(part.variances(), rows.variances()[[7, 3]])
    drawn = rows.draw_noise(torch.ones_like(rows.y), rows.woodbury)
    torch.testing.assert_close(drawn[measured], sigma[measured])  # where z = 1 it is σ
    torch.testing.assert_close(rows.draw_noise(torch.ones_like(rows.y), None), rows.noise.sqrt().expand_as(rows.y))


def test_noise_of_a_view_is_that_of_its_model() -> None:
    lags = torch.tensor([[0.02, 0.05, 0.01], [0.06, 0.2, 0.06], [0.01, 0.05, 0.02]], dtype=torch.float64)
    correlated = SharedView.of(view(Stationary(lags), a=BLUR))
    torch.testing.assert_close(correlated.covariance, Stationary(lags).matrix(Y))
    torch.testing.assert_close(correlated.variance, torch.full((16,), 0.2, dtype=torch.float64))
    root = correlated.draw_noise(torch.eye(16, dtype=torch.float64), None)
    torch.testing.assert_close(root.mT @ root, correlated.covariance)
    plain = SharedView.of(view(Isotropic(0.3), a=BLUR))
    torch.testing.assert_close(plain.covariance, 0.09 * torch.eye(16, dtype=torch.float64))
    assert plain.woodbury is None
    for rows in (plain, correlated):
        more = rows.regularised(0.5)
        torch.testing.assert_close(more.covariance, rows.covariance + 0.5 * torch.eye(16, dtype=torch.float64))


def test_a_pixel_that_no_observation_measures_leaves_no_trace() -> None:
    mask = MASKS.clone()
    mask[:, 0, 2, 1] = False
    rows = SharedView.of(view(a=Mask(mask) @ BLUR))
    place = 2 * 4 + 1
    assert float(rows.noise[place]) == 0.5 / math.pi and not bool(rows.y[:, place].any())
    assert not bool(rows.image(0, normal(3, 36))[:, place].any())
    assert rows.woodbury is not None and not bool((rows.woodbury.pixel[rows.woodbury.masked] == place).any())


def test_looks_behind_masks_are_a_mask_before_looks() -> None:
    mask = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.3
    behind = Stack([Mask(mask) @ Scale(2.0, (1, 4, 4)), Identity((1, 4, 4))])
    view = View(torch.zeros(5, 2, 4, 4), {"a": behind}, 0.1)
    found, (operator,) = unmasked(view)
    assert found is not None and torch.equal(found, torch.cat([mask, torch.ones_like(mask)], dim=1))
    torch.testing.assert_close(Mask(found).dense() @ operator.dense(), behind.dense())
    assert is_shared(view)
    twice = View(torch.zeros(5, 2, 4, 4), {"a": Stack([Identity((1, 4, 4))] * 2)}, 0.1)
    found, operators = unmasked(twice)
    assert found is not None and bool(found.all()) and operators == tuple(twice.operators.values())


def test_equal_looks_share_their_factors() -> None:
    views = [View(torch.zeros(2, 2, 4, 4), {"a": Stack([Scale(s, (1, 4, 4)), Identity((1, 4, 4))])}, 0.1) for s in (2, 2, 3)]
    one, same, other = (SharedView.of(view) for view in views)
    assert one.same_factors(same) and not one.same_factors(other)


def test_a_look_that_does_not_show_a_source_has_no_say_in_what_was_measured() -> None:
    """The other source's mask has: pixels that nobody measured counted as measured, and their y as misfit."""
    seen = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.3
    masks = torch.cat([seen, ~seen], dim=1)
    first, both = (Scale(s, (1, 4, 4)) for s in (0.0, 2.0))
    blind = Mask(masks) @ Stack([first, both])  # behind the same mask
    bare = Stack([first, Mask(~seen)])  # the look that it has, masked by itself
    other = Mask(masks) @ Stack([both, both])
    for operator in (blind, bare, Stack([first, Mask(~seen) @ both])):
        view = View(torch.full((5, 2, 4, 4), -99.0), {"a": operator, "b": other}, 0.1)
        assert torch.equal(measured(view), masks)
        found, _ = unmasked(view)
        assert found is not None and torch.equal(found, masks)
        assert is_shared(view)
    noise = View(torch.zeros(5, 2, 4, 4), dict.fromkeys("ab", Stack([first, both])), 0.1)  # is what the first look shows
    assert bool(measured(noise).all())
