"""The EM loop: resuming, stages, and what enters which step."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from closed_forms import plain, random_prior
from tiny_em import POSTERIOR, STAGES, STREAM, TRAINING, denoisers, first_draws, problem, run, weights
from torch import Tensor

import mvss.em
from mvss.em import Draws, HeldOut, Stage, _gain, run_em
from mvss.posteriors.pipeline import PosteriorConfig
from mvss.posteriors.solvers import CGConfig
from mvss.priors.diffusion import Denoiser, karras_base
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Dense, Zero
from mvss.problem.views import MultiViewData, View
from mvss.runtime.errors import MvssError


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[Draws, list[Denoiser]]:
    return run()


@pytest.mark.parametrize("lap", [1, 2, 3])
def test_a_resumed_run_repeats_an_uninterrupted_one(
    lap: int, uninterrupted: tuple[Draws, list[Denoiser]], tmp_path: Path
) -> None:
    """Killed in a lap, before it is saved: the lap is done again, and everything is the same bit for bit."""
    draws, sources = uninterrupted

    def kill(record: dict[str, Any], _: Draws) -> None:
        if record["lap"] == lap:
            raise Killed

    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "em.pt", on_lap=kill)
    assert (tmp_path / "em.pt").exists() == (lap > 1)
    records = []
    again, resumed = run(checkpoint=tmp_path / "em.pt", on_lap=lambda record, _: records.append(record))
    assert [r["lap"] for r in records] == ([0] if lap == 1 else []) + list(range(lap, 4))
    same(again, draws)
    same(weights(resumed), weights(sources))
    finished, _ = run(checkpoint=tmp_path / "em.pt")  # nothing is left to do
    same(finished, draws)


def same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_earlier_sources_are_frozen_and_draws_of_later_views_wait() -> None:
    seen: list[tuple[list, Draws]] = []
    records = []

    def look(record: dict[str, Any], draws: Draws) -> None:
        records.append(record)
        seen.append((weights(sources), [[x.clone() for x in view] for view in draws]))

    data, sources = problem(), denoisers()
    first = first_draws(data, sources)
    kept = list(first)
    run_em(data, sources, first, STAGES, TRAINING, POSTERIOR, STREAM, Accelerator(cpu=True), on_lap=look)
    assert all(a is b for a, b in zip(first, kept, strict=True))  # the caller's list stays
    (w0, d0), (w1, d1), (w2, _), (w3, d3) = seen
    assert [r.get("sources") for r in records] == [None, [1], [2], [2]]
    assert differ(w1[0], w0[0]) and not differ(w1[1], w0[1])
    assert not differ(w2[0], w1[0]) and differ(w2[1], w1[1])
    assert not differ(w3[0], w1[0]) and differ(w3[1], w2[1])
    # stage 1 uses the first view alone, stage 2 the second alone
    assert not torch.equal(d1[0][0], d0[0][0]) and torch.equal(d1[1][1], d0[1][1])
    assert torch.equal(d3[0][0], d1[0][0]) and not torch.equal(d3[1][0], d1[1][0])
    counts = [r["network_evaluations"] for r in records]
    assert counts == [0, 21 * 6 * 4, 21 * 6 * 4 + 17 * 6 * 7, 21 * 6 * 4 + 2 * 17 * 6 * 7]
    assert all(p.requires_grad for d in sources for p in d.parameters())


def test_records_hold_the_largest_residual_of_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    records, residuals = [], []
    run(on_lap=lambda record, _: records.append(record))
    assert [r.get("residual") for r in records] == [None, 0.0, 0.0, 0.0]
    monkeypatch.setattr("mvss.posteriors.pipeline.LARGE", 1)
    for iterations in (1, 8):
        run(solver=CGConfig(iterations, 0.0), on_lap=lambda record, _: residuals.append(record.get("residual")))
    assert all(blunt > 1e-3 > 100 * sharp > 0 for blunt, sharp in zip(residuals[1:4], residuals[5:], strict=True))


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any(not torch.equal(a[k], b[k]) for k in a)


def test_an_m_step_gets_the_draws_of_the_views_that_show_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    pools, held = [], []
    fit = mvss.em.fit_denoiser

    def spy(denoiser: object, draws: Tensor, *rest: object) -> object:
        pools.append(draws.clone())
        return fit(denoiser, draws, *rest)

    monkeypatch.setattr(mvss.em, "fit_denoiser", spy)
    run(stages=(Stage((0, 1), 2),), on_lap=lambda _, draws: held.append([list(view) for view in draws]))
    for lap in (0, 1):
        first, second = pools[2 * lap : 2 * lap + 2]
        assert torch.equal(first, torch.cat([held[lap][0][0], held[lap][1][0]]))
        assert torch.equal(second, held[lap][1][1])  # none of the first view, which does not show the second source


def test_draws_of_one_view_never_enter_another() -> None:
    """With other observations in the second view, the first view's E-step is the same; its own is not."""
    stage = (Stage((0,), 1), Stage((1,), 1))
    draws, sources = run(stages=stage)
    other, changed = run(problem(second_scale=1.5), stages=stage)
    assert torch.equal(draws[0][0], other[0][0]) and not torch.equal(draws[1][1], other[1][1])
    assert not differ(weights(sources)[0], weights(changed)[0]) and differ(weights(sources)[1], weights(changed)[1])
    assert [len(view) for view in draws] == [1, 2]  # no draw of a source that a view does not show


def test_the_e_step_gives_each_view_its_own_noise() -> None:
    """Two views with the same observations: the same posterior, other random numbers."""
    y, a = torch.ones(8, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    twin = [View(y, (Dense(a),), Isotropic(0.3), name) for name in ("a", "b")]
    data, source = MultiViewData(tuple(twin), ((2,),)), denoisers()[1]
    draws = [[torch.zeros(8, 2, dtype=torch.float64)] for _ in twin]
    found = run_em(data, [source], draws, [Stage((0,), 1)], TRAINING, POSTERIOR, STREAM, Accelerator(cpu=True))
    assert not torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((Stage((1,), 1), Stage((0,), 1)), r"sources \[2\] without later ones; reorder"),
        ((Stage((0,), 1), Stage((2,), 1)), r"sources \[3\]"),
    ],
)
def test_a_stage_that_no_view_serves_is_refused(stages: tuple[Stage, ...], words: str) -> None:
    with pytest.raises(MvssError, match=words) as error:
        run(stages=stages)
    assert "\n" not in str(error.value)


def test_every_source_of_a_stage_needs_a_view() -> None:
    """Sources 1 and 2 learn first, but source 2 shows only together with source 3, which learns later."""
    y, m = torch.ones(4, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    hide = Zero((2,), (2,))
    first = View(y, (Dense(m), hide, hide), Isotropic(0.1))
    rest = View(y, (hide, Dense(m), Dense(m)), Isotropic(0.1))
    data = MultiViewData((first, rest), ((2,), (2,), (2,)))
    sources = [plain(random_prior(2, 2, i)) for i in range(3)]
    with pytest.raises(MvssError, match=r"sources \[2\] without later ones"):
        stages = [Stage((0, 1), 1), Stage((2,), 1)]
        run_em(data, sources, first_draws(data, sources), stages, TRAINING, POSTERIOR, STREAM, Accelerator(cpu=True))


def test_a_source_without_a_network_cannot_learn() -> None:
    data, sources = problem(), [plain(random_prior(3, d, d)) for d in (3, 2)]
    with pytest.raises(MvssError, match="no trainable parameter"):
        run_em(data, sources, first_draws(data, sources), STAGES, TRAINING, POSTERIOR, STREAM, Accelerator(cpu=True))


def test_relaxation_reaches_the_m_step() -> None:
    stage = (Stage((0,), 1),)
    assert not torch.equal(run(stages=stage)[0][0][0], run(stages=stage, relaxation=1.0)[0][0][0])


def test_settings_are_validated() -> None:
    for options in ({"start": "tepid"}, {"components": 0}, {"beam": 0}, {"chunk": 0}, {"gibbs_rounds": -1}):
        with pytest.raises(MvssError) as error:
            PosteriorConfig(**options)
        assert "\n" not in str(error.value)


def held_out() -> HeldOut:
    data = problem()
    few = MultiViewData(tuple(view.select(torch.arange(9)) for view in data.views), data.source_shapes)
    return HeldOut(few, first_draws(few, denoisers()), POSTERIOR)


def test_a_stage_ends_when_its_last_laps_have_gained_nothing() -> None:
    """Stages of many laps are cut short, and no earlier run of three laps was within its error."""
    stages, records = (Stage((0,), 12), Stage((1,), 12)), []
    run(stages=stages, held_out=held_out(), on_lap=lambda record, _: records.append(record))
    for s in (1, 2):
        laps = [(r["held_out_gain"], r["held_out_gain_error"]) for r in records if r["lap"] and r["sources"] == [s]]
        threes = [laps[k : k + 3] for k in range(len(laps) - 2)]
        ended = [sum(g for g, _ in three) <= math.hypot(*(e for _, e in three)) for three in threes]
        assert not any(ended[:-1]) and (ended[-1] or len(laps) == 12)
    assert [r["lap"] for r in records] == list(range(len(records))) and len(records) < 25
    totals = [r["held_out_nats"] for r in records[1:]]
    assert totals[-1] == pytest.approx(sum(r["held_out_gain"] for r in records[1:]))


@pytest.mark.parametrize("scale", [0.6, 0.8, 1.25, 1.6])
def test_the_gain_is_that_of_the_likelihood_not_of_narrower_draws(scale: float) -> None:
    """One Gaussian source of width 1 under noise: priors of width `scale` before a lap and 1 after it, and the reverse."""
    rng, n, noise = torch.Generator().manual_seed(0), 4000, 0.5
    y = (1 + noise**2) ** 0.5 * torch.randn(n, 1, generator=rng, dtype=torch.float64)
    settings = replace(TRAINING, sigma_min=0.01, sigma_max=5.0)

    def prior(width: float) -> Denoiser:
        return Denoiser(karras_base(1, width), None, (1,), width)

    def evidence(width: float) -> float:
        return float(torch.distributions.Normal(0.0, (width**2 + noise**2) ** 0.5).log_prob(y).mean())

    def draws(width: float) -> list[dict[int, Tensor]]:
        shrink = width**2 / (width**2 + noise**2)
        z = torch.randn(n, 1, generator=rng, dtype=torch.float64)
        return [{0: shrink * y + (shrink * noise**2) ** 0.5 * z}]

    for before, after in ((scale, 1.0), (1.0, scale)):
        low, high = (_gain([prior(before)], [prior(after)], draws(w), settings, STREAM) for w in (before, after))
        true = evidence(after) - evidence(before)
        error = 3 * max(float(low.std()), float(high.std())) / n**0.5
        assert float(low.mean()) - error < true < float(high.mean()) + error
        assert abs(float((low + high).mean()) / 2 - true) < error + 0.1 * abs(true)
        assert (true > 0) == (after == 1.0)


def test_a_resumed_run_with_held_out_observations_repeats_an_uninterrupted_one(tmp_path: Path) -> None:
    stages, whole, again = (Stage((0,), 3), Stage((1,), 3)), [], []
    draws, _ = run(stages=stages, held_out=held_out(), on_lap=lambda record, _: whole.append(record))

    def kill(record: dict[str, Any], _: Draws) -> None:
        if record["lap"] == 2:
            raise Killed

    with pytest.raises(Killed):
        run(stages=stages, held_out=held_out(), checkpoint=tmp_path / "em.pt", on_lap=kill)
    more, _ = run(
        stages=stages, held_out=held_out(), checkpoint=tmp_path / "em.pt", on_lap=lambda record, _: again.append(record)
    )
    same(more, draws)
    kept = ("held_out_nats", "held_out_gain", "network_evaluations")
    assert [[r[name] for name in kept] for r in again] == [[r[name] for name in kept] for r in whole[2:]]
