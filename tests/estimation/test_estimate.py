"""First priors in the units of the user, and the file that they are kept in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvss.estimation import Estimate, estimate_sources
from mvss.presets.estimation import AscentConfig, MixtureEMConfig, Noisier2NoiseConfig
from mvss.presets.training import NetworkConfig, TrainingConfig
from mvss.problem.operators import Identity, Scale
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

STREAM, N, D = Stream(0, ("estimate",)), 600, 3
ASCENT = AscentConfig(components=(1,), steps=80, batch=300, starts=1)
EM = MixtureEMConfig(components=(1,), ranks=(0,), laps=8)
QUICK = TrainingConfig(steps=3, batch=16)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def contrastive(factor: float = 1.0, shape: tuple[int, ...] = (D,)) -> Views:
    """A background of deviation 2 around 5, and on top of another one a target of deviation 300 at a hundredth."""
    b = [5.0 + 2.0 * normal(N, *shape, seed=k) for k in range(2)]
    y = [b[0], b[1] + 0.01 * 300.0 * normal(N, *shape, seed=2)]
    seen = [factor * (v + 0.1 * normal(N, *shape, seed=3 + k)) for k, v in enumerate(y)]
    shown = {"background": Scale(factor, shape), "target": Scale(0.01 * factor, shape)}
    off = View(seen[0], {"background": shown["background"]}, 0.1 * factor, "off")
    return Views([off, View(seen[1], shown, 0.1 * factor, "on")])


@pytest.mark.parametrize("config", [replace(ASCENT, steps=400), replace(EM, laps=40)])
def test_first_priors_are_in_the_units_of_the_user(config: AscentConfig | MixtureEMConfig) -> None:
    done: list[float] = []
    found = estimate_sources(contrastive(), config, STREAM, done.append)
    assert done[-1] == pytest.approx(1.0) and found.seconds > 0 and tuple(found.priors) == ("background", "target")
    background, target = found.priors.values()
    torch.testing.assert_close(background.means[0], torch.full((D,), 5.0, dtype=torch.float64), atol=0.5, rtol=0)
    assert background.spread == pytest.approx(2.0, rel=0.15) and target.spread == pytest.approx(300.0, rel=0.3)
    assert "train" in found.evidence and background.shape == (D,)


@pytest.mark.parametrize("config", [ASCENT, EM])
def test_observations_in_other_units_give_the_same_priors_to_the_bit(config: AscentConfig | MixtureEMConfig) -> None:
    """All of y = A x + η times a power of two: the sources are what they were."""
    one, other = (estimate_sources(contrastive(factor), config, STREAM) for factor in (1.0, 2.0**-7))
    for source, prior in one.priors.items():
        assert all(torch.equal(a, b) for a, b in zip(prior.buffers(), other.priors[source].buffers(), strict=True))
    assert one.evidence == other.evidence


def test_a_second_call_reads_what_the_first_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "estimate.safetensors"
    first = estimate_sources(contrastive(), ASCENT, STREAM, checkpoint=path)
    assert [p.name for p in tmp_path.iterdir()] == ["estimate.safetensors"]  # what the ascent kept on the way is gone
    done: list[float] = []
    again = estimate_sources(contrastive(), ASCENT, STREAM, done.append, path)
    assert not done
    same(again, first)


def test_another_problem_does_not_read_it(tmp_path: Path) -> None:
    path = tmp_path / "estimate.safetensors"
    estimate_sources(contrastive(), ASCENT, STREAM, checkpoint=path)
    steps = replace(ASCENT, steps=ASCENT.steps + 1)
    others = (contrastive(2.0), ASCENT, STREAM), (contrastive(), steps, STREAM), (contrastive(), ASCENT, STREAM.child("x"))
    for arguments, part in zip(others, ("other data, noise or operators", "other settings", "another seed"), strict=True):
        with pytest.raises(MvssError, match=f"of a run with {part}: take another folder") as caught:
            estimate_sources(*arguments, checkpoint=path)
        assert "\n" not in str(caught.value)


def test_of_those_that_share_it_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    path, done = tmp_path / "estimate.safetensors", []

    def make(number: int) -> Estimate:
        return estimate_sources(contrastive(), ASCENT, STREAM, lambda _: done.append(number), path)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(make, range(4)))
    assert len(set(done)) == 1
    for estimate in found:
        same(estimate, found[0])
    assert [p.name for p in tmp_path.iterdir()] == ["estimate.safetensors"]


def same(found: Estimate, expected: Estimate) -> None:
    assert (found.evidence, found.seconds) == (expected.evidence, expected.seconds)
    assert list(found.priors) == list(expected.priors)
    for source, prior in expected.priors.items():
        assert all(torch.equal(a, b) for a, b in zip(prior.buffers(), found.priors[source].buffers(), strict=True))
        assert (prior.shape, prior.floor) == (found.priors[source].shape, found.priors[source].floor)
    torch.testing.assert_close(found.draws, expected.draws, rtol=0, atol=0)


@pytest.mark.parametrize(("shape", "blocks"), [((1, 4, 4), (4, 4)), ((1, 2, 2), ())])
def test_what_pairs_of_views_told_is_kept_with_the_networks_that_told_it(
    shape: tuple[int, ...], blocks: tuple[int, ...], tmp_path: Path
) -> None:
    network = NetworkConfig(hidden=(8,), embedding=4, blocks=blocks)
    pairs = Noisier2NoiseConfig(network=network, training=QUICK, averages=1, least=-450.0, most=450.0)
    config = MixtureEMConfig(components=(1,), ranks=(0,), laps=2, noisier2noise=pairs)
    path = tmp_path / "estimate.safetensors"
    first = estimate_sources(contrastive(shape=shape), config, STREAM, checkpoint=path)
    assert {s: list(by_view) for s, by_view in first.draws.items()} == {"target": [1]}
    x = first.draws["target"][1]
    assert x.shape == (N, *shape) and float(x.abs().max()) <= 450.0
    again = estimate_sources(contrastive(shape=shape), config, STREAM, checkpoint=path)
    same(again, first)
    u, measured = normal(4, *shape, seed=9).float(), torch.ones(4, *shape)
    torch.testing.assert_close(again.guesses["target"](u, measured, 1.0), first.guesses["target"](u, measured, 1.0))


def test_sources_are_estimated_in_observations_that_no_network_learns_from(tmp_path: Path) -> None:
    pairs = Noisier2NoiseConfig(network=NetworkConfig(blocks=(4,)), training=QUICK, averages=1)
    config = MixtureEMConfig(components=(1,), ranks=(0,), laps=2, noisier2noise=pairs)
    views, path = contrastive(shape=(1, 2, 2)), tmp_path / "estimate.safetensors"
    whole = estimate_sources(views, config, STREAM)
    part = estimate_sources(views, config, STREAM, checkpoint=path, held_out=0.5)
    assert part.draws["target"][1].shape == whole.draws["target"][1].shape == (N, 1, 2, 2)
    assert not torch.equal(part.draws["target"][1], whole.draws["target"][1])
    with pytest.raises(MvssError, match="of a run with other settings"):
        estimate_sources(views, config, STREAM, checkpoint=path)


def test_an_estimate_is_scaled_source_by_source() -> None:
    view = View(normal(50, D, seed=0), {"a": Identity((D,))}, 0.1)
    found = estimate_sources(Views([view]), MixtureEMConfig(components=(1,), ranks=(0,), laps=1), STREAM)
    draws = {"a": {0: view.y}}
    scaled = Estimate(found.priors, draws).scaled({"a": 4.0})
    assert torch.equal(scaled.priors["a"].means, 4 * found.priors["a"].means)
    assert torch.equal(scaled.draws["a"][0], 4 * view.y)
