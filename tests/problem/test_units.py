"""Units in which sources and views have a size of about one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvss.problem.image_operators import BlockAverage
from mvss.problem.noise import Noise, Stationary
from mvss.problem.operators import Dense, Identity, LinearOperator, Mask, Scale
from mvss.problem.units import Units
from mvss.problem.views import View, Views

N, D = 2000, 4
SIZES = {"large": 300.0, "small": 0.02}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def source(name: str, seed: int) -> Tensor:
    return SIZES[name] * normal(N, D, seed=seed)


def contrastive(factor: float = 1.0, mask: Tensor | None = None) -> Views:
    """The large source alone, the small one alone, and both of them, the latter a thousand times amplified."""
    here: LinearOperator = Identity((D,)) if mask is None else Mask(mask)
    large, small = here, Scale(1e4, (D,)) @ here
    shown = [{"large": large}, {"small": small}, {"large": large, "small": small}]
    views = []
    for number, operators in enumerate(shown):
        y = torch.stack([o.forward(source(s, 10 * number + k)) for k, (s, o) in enumerate(operators.items())]).sum(0)
        views.append(View(factor * (y + normal(N, D, seed=5 + number)), operators, factor, f"view {number}"))
    return Views(views)


def is_power_of_two(value: float) -> bool:
    return math.frexp(value)[0] == 0.5


def test_every_source_and_view_has_a_size_between_one_and_two() -> None:
    data = contrastive()
    units = Units.of(data)
    assert all(is_power_of_two(scale) for scale in units.scales.values())
    for name, size in SIZES.items():
        assert 0.95 < size / units.scales[name] < 2.1  # the observations say it to within a few per cent
    for view in data:
        inner = units.inward(view)
        ratio = view.y / inner.y
        assert is_power_of_two(float(ratio[0, 0])) and bool((ratio == ratio[0, 0]).all())
        assert 0.9 < float(inner.y.square().mean().sqrt() / len(view.sources) ** 0.5) < 3
        assert inner.name == view.name and torch.equal(inner.numbers, view.numbers)


def test_inward_is_the_same_problem() -> None:
    """y = A x + η in either units, and nothing is rounded on the way in or out."""
    data = contrastive()
    units, view = Units.of(data), data[2]
    inner = units.inward(view)
    s = float(view.y[0, 0] / inner.y[0, 0])
    x = {"large": source("large", 0), "small": source("small", 1)}
    inside = {name: v / units.scales[name] for name, v in x.items()}
    assert torch.equal(s * inner.predicted(inside), view.predicted(x))
    assert torch.equal(s**2 * inner.noise.variance(inner.y), view.noise.variance(view.y))
    assert torch.equal(s * inner.y, view.y)
    assert all(torch.equal(v, x[name]) for name, v in units.outward(inside).items())


@pytest.mark.parametrize("power", [-30, -1, 1, 12])
def test_observations_and_noise_in_other_units_are_the_same_inside(power: int) -> None:
    """To the bit, where the units differ by a power of two: networks see the same, whatever the units of the user."""
    plain, scaled = contrastive(), contrastive(2.0**power)
    units, other = Units.of(plain), Units.of(scaled)
    assert {s: c / units.scales[s] for s, c in other.scales.items()} == dict.fromkeys(units.scales, 2.0**power)
    for a, b in zip(map(units.inward, plain), map(other.inward, scaled), strict=True):
        assert torch.equal(a.y, b.y) and torch.equal(a.noise.variance(a.y), b.noise.variance(b.y))
        assert all(torch.equal(a.operators[s].dense(), b.operators[s].dense()) for s in a.sources)


@pytest.mark.parametrize("power", [-9, 5])
def test_a_source_in_other_units_is_the_same_inside(power: int) -> None:
    """A x with A times 2^k and x over it: the scale of that source alone changes, the inner view not at all."""
    data, factor = contrastive(), 2.0**power
    changed = Views(
        View(v.y, {s: o.scaled(factor) if s == "small" else o for s, o in v.operators.items()}, v.noise) for v in data
    )
    units, other = Units.of(data), Units.of(changed)
    assert other.scales == {"large": units.scales["large"], "small": units.scales["small"] / factor}
    for a, b in zip(map(units.inward, data), map(other.inward, changed), strict=True):
        assert torch.equal(a.y, b.y) and all(torch.equal(a.operators[s].dense(), b.operators[s].dense()) for s in a.sources)


def test_views_with_the_same_operators_have_the_same_scale() -> None:
    """Whatever they hold: a view of a hundred times the light goes in with the same s."""
    data = contrastive()
    units, view = Units.of(data), data[2]
    brighter = View(100 * view.y + 3.0, view.operators, 0.01)
    inner, other = units.inward(view), units.inward(brighter)
    assert torch.equal(brighter.y / other.y, torch.full_like(view.y, float(view.y[0, 0] / inner.y[0, 0])))
    assert torch.equal(units.inward(view.select(slice(3, 9))).y, inner.y[3:9])


def test_masks_do_not_matter() -> None:
    rng = torch.Generator().manual_seed(0)
    mask = torch.rand(N, D, generator=rng) > 0.6  # most is not measured
    mask[:, 0] |= ~mask.any(1)
    units, masked = Units.of(contrastive()), Units.of(contrastive(mask=mask))
    assert masked.scales == units.scales
    for a, b in zip(contrastive(), contrastive(mask=mask), strict=True):
        inner, other = units.inward(a), units.inward(b)
        s = float(a.y[0, 0] / inner.y[0, 0])
        assert torch.equal(s * other.y, b.y)


def test_what_no_source_shows_does_not_matter() -> None:
    """Whatever y is there, where each source has a mask of its own."""
    seen = torch.rand(N, D, generator=torch.Generator().manual_seed(0)) > 0.3
    seen[:, 0] = True
    part = seen & torch.tensor([[True, True, False, True]])
    operators = {"large": Mask(seen), "small": Mask(part)}
    y = operators["large"].forward(source("large", 0)) + operators["small"].forward(source("small", 1))
    units = [Units.of(Views([View(y.where(seen, fill), operators, 1.0)])) for fill in (0.0, 1e6)]
    assert units[0] == units[1]


@pytest.mark.parametrize(
    ("operator", "noise"),
    [
        (Dense(normal(3, 4, seed=0)), 0.1),
        (Dense(normal(500, 2, 4, seed=1)), torch.linspace(0.1, 0.2, 500)),
        (BlockAverage((1, 4, 4), 2), 0.1),
        (Identity((1, 4, 4)), Stationary(0.01 * torch.tensor([[0.2, 1.0, 0.2]]))),
    ],
)
def test_any_operator_and_noise(operator: LinearOperator, noise: Noise | Tensor | float) -> None:
    x = 50.0 * normal(500, *operator.source_shape, seed=2)
    y = operator.forward(x)
    view = View(y + 0.1 * normal(*y.shape, seed=3), {"a": operator}, noise)
    units = Units.of(Views([view]))
    most = 4.4 if isinstance(operator, BlockAverage) else 2.2  # blocks of numbers that vary together are taken for granted
    assert 0.9 < 50.0 / units.scales["a"] < most
    inner = units.inward(view)
    assert float(inner.operators["a"].forward(x[:1] / units.scales["a"]).isfinite().all())
    assert 0.3 < float(inner.y.square().mean().sqrt()) < 4


@pytest.mark.parametrize("factor", [2.0**-40, 1.0, 2.0**30])
def test_views_of_noise_alone_have_the_units_of_the_noise(factor: float) -> None:
    y = 0.97 * normal(300, 3, seed=0)
    plain, quiet = (View(f * y, {"a": torch.eye(3)}, f) for f in (1.0, factor))
    units, inner = Units.of(Views([quiet])), Units.of(Views([plain])).inward(plain)
    assert units.scales["a"] == factor * Units.of(Views([plain])).scales["a"]
    assert torch.equal(units.inward(quiet).y, inner.y)


@pytest.mark.parametrize("placeholder", [-9999.0, 1e200, 1.7e308])
def test_numbers_that_were_not_measured_may_be_any(placeholder: float) -> None:
    seen = torch.rand(N, D, generator=torch.Generator().manual_seed(3)) > 0.2
    seen[:, 0] = True
    views = contrastive(mask=seen)
    filled = Views(View(view.y.where(seen, placeholder), view.operators, view.noise) for view in views)
    assert Units.of(filled).scales == Units.of(views).scales


def test_a_view_that_shows_nothing_stays_as_it_is() -> None:
    """As does one observation alone whose own matrix is zero."""
    matrices = torch.stack([torch.zeros(2, 2), torch.eye(2)]).double()
    both = View(torch.ones(2, 2), {"a": matrices, "b": torch.zeros(2, 2, 3)}, 0.5)
    units = Units({"a": 8.0, "b": 2.0})
    inner = units.inward(both.select([0]))
    assert torch.equal(inner.y, both.y[:1]) and float(inner.noise.variance(inner.y).max()) == 0.25
    assert units.inward(both.select([1])).y.abs().max() < 1
