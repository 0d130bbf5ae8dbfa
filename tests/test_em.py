"""The EM loop: resuming, stages, and what enters which step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_forms import random_prior
from tiny_em import EM, POSTERIOR, STREAM, TRAINING, first_draws, priors, problem, run, weights
from torch import Tensor

import mvss.em.steps
from mvss.em import FirstDraws, Lap, Model, Stage, plan_stages, run_em
from mvss.posteriors import posterior_of
from mvss.posteriors.moment_matching import MomentMatching
from mvss.posteriors.posterior import Separation
from mvss.presets.posterior import CGConfig, GibbsConfig, MomentMatchingConfig, SamplerConfig
from mvss.presets.settings import EMConfig, Settings
from mvss.priors.diffusion import DiffusionPrior
from mvss.problem.views import Draws, View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

TOGETHER = replace(EM, laps=1, stages="together")
FIRST = replace(EM, laps=(1, 0))
"""The first source alone learns."""


class Killed(Exception):
    pass


def kill(lap: int) -> Callable[[Lap], None]:
    """When this lap has been recorded, before it is saved."""

    def callback(done: Lap) -> None:
        if done.number == lap:
            raise Killed

    return callback


def same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any(not torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[list[Draws], dict[str, DiffusionPrior]]:
    return run()


@pytest.mark.parametrize("lap", [1, 2, 3])
def test_a_resumed_run_repeats_an_uninterrupted_one(
    lap: int, uninterrupted: tuple[list[Draws], dict[str, DiffusionPrior]], tmp_path: Path
) -> None:
    """Killed in a lap, before it is saved: the lap is done again, and everything is the same bit for bit."""
    draws, sources = uninterrupted
    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "em.safetensors", callback=kill(lap))
    assert (tmp_path / "em.safetensors").exists() == (lap > 1)
    laps: list[int] = []
    again, resumed = run(checkpoint=tmp_path / "em.safetensors", callback=lambda done: laps.append(done.number))
    assert laps == ([0] if lap == 1 else []) + list(range(lap, 4))
    same(again, draws)
    same(weights(resumed), weights(sources))
    finished, trained = run(checkpoint=tmp_path / "em.safetensors")  # nothing is left to do
    same(finished, draws)
    same(weights(trained), weights(sources))


def test_another_run_does_not_go_on_from_it(tmp_path: Path) -> None:
    path, first = tmp_path / "em.safetensors", FirstDraws(first_draws(problem()))
    run(em=replace(EM, laps=(1, 0)), checkpoint=path)
    settings = Settings(training=TRAINING, em=replace(EM, laps=(1, 0)), posterior=POSTERIOR)

    def go_on(views: Views, sources: dict[str, DiffusionPrior], settings: Settings, stream: Stream) -> None:
        run_em(views, Model(sources, posterior_of(POSTERIOR)), first, settings, stream, path)

    other = priors()
    with torch.no_grad():
        next(other["two"].network.parameters())[0] += 1e-9
    go_on(problem(), priors(), settings, STREAM)
    for arguments, part in (
        ((problem(1.001), priors(), settings, STREAM), "other data, noise or operators"),
        ((problem(), other, settings, STREAM), "other first priors"),
        ((problem(), priors(), replace(settings, training=replace(TRAINING, steps=5)), STREAM), "other settings"),
        ((problem(), priors(), settings, Stream(1, ("em",))), "another seed"),
    ):
        with pytest.raises(MvssError, match=f"of a run with {part}: take another folder") as caught:
            go_on(*arguments)
        assert "\n" not in str(caught.value)


def test_other_code_does_not_go_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(em=replace(EM, laps=(1, 0)), checkpoint=tmp_path / "em.safetensors")
    monkeypatch.setattr("mvss.runtime.fingerprint.code_of", lambda *_: "edited")
    with pytest.raises(MvssError, match="of a run with other code of mvss:"):
        run(em=replace(EM, laps=(1, 0)), checkpoint=tmp_path / "em.safetensors")


def test_what_a_callback_keeps_comes_back_with_the_laps(tmp_path: Path) -> None:
    def count(stop: int) -> Callable[[Lap], None]:
        def callback(lap: Lap) -> None:
            lap.kept.setdefault("seen", []).append(lap.number)
            lap.kept["draws"] = lap.draws[0]["one"]
            if lap.number == stop:
                raise Killed

        return callback

    first, sources = FirstDraws(first_draws(problem())), priors()
    settings = Settings(training=TRAINING, em=EM, posterior=POSTERIOR)
    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "em.safetensors", callback=count(2))
    for _ in range(2):  # what goes on, and what has nothing left to do
        learned = run_em(
            problem(), Model(priors(), posterior_of(POSTERIOR)), first, settings, STREAM, tmp_path / "em.safetensors", count(-1)
        )
        assert learned.kept["seen"] == [0, 1, 2, 3] and torch.equal(learned.kept["draws"], learned.draws[0]["one"])
    assert list(sources) == list(learned.draws[1])


@pytest.mark.parametrize("when", ["m-step", "e-step"])
def test_an_interrupt_leaves_networks_as_they_were_asked_to_be(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = priors()
    next(sources["one"].network.parameters()).requires_grad_(False)
    asked = [p.requires_grad for prior in sources.values() for p in prior.parameters()]
    state = torch.random.get_rng_state()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    posterior = posterior_of(POSTERIOR)
    if when == "e-step":
        monkeypatch.setattr(posterior, "draw", interrupt)
    else:
        monkeypatch.setattr("mvss.priors.training._descend", interrupt)
    settings = Settings(training=TRAINING, em=EM, posterior=POSTERIOR)
    with pytest.raises(KeyboardInterrupt):
        run_em(problem(), Model(sources, posterior), FirstDraws(first_draws(problem())), settings, STREAM)
    assert [p.requires_grad for prior in sources.values() for p in prior.parameters()] == asked
    assert not any(module.training for prior in sources.values() for module in prior.modules())
    assert all(prior.previous is None and prior.relaxation == 1.0 for prior in sources.values())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_resumed_run_judges_its_laps_by_the_same_held_out_draws(tmp_path: Path) -> None:
    em, whole, again = replace(EM, laps=2, held_out=0.2), [], []
    draws, _ = run(em=em, callback=whole.append)
    with pytest.raises(Killed):
        run(em=em, checkpoint=tmp_path / "em.safetensors", callback=kill(2))
    more, _ = run(em=em, checkpoint=tmp_path / "em.safetensors", callback=again.append)
    same(more, draws)
    told = [{k: v for k, v in lap.record.items() if "seconds" not in k} for lap in whole[2:]]
    assert [{k: v for k, v in lap.record.items() if "seconds" not in k} for lap in again] == told


def test_earlier_sources_are_frozen_and_draws_of_later_views_wait() -> None:
    seen: list[tuple[dict, list[Draws]]] = []
    records = []

    def look(lap: Lap) -> None:
        records.append(lap.record)
        seen.append((weights(sources), [{s: x.clone() for s, x in view.items()} for view in lap.draws]))

    views, sources = problem(), priors()
    first = first_draws(views)
    kept, settings = list(first), Settings(training=TRAINING, em=EM)
    run_em(views, Model(sources, posterior_of(POSTERIOR)), FirstDraws(first), settings, STREAM, callback=look)
    assert all(a is b for a, b in zip(first, kept, strict=True))  # the caller's list stays
    (w0, d0), (w1, d1), (w2, _), (w3, d3) = seen
    assert [r.get("sources") for r in records] == [None, ["one"], ["two"], ["two"]]
    assert differ(w1["one"], w0["one"]) and not differ(w1["two"], w0["two"])
    assert not differ(w2["one"], w1["one"]) and differ(w2["two"], w1["two"])
    assert not differ(w3["one"], w1["one"]) and differ(w3["two"], w2["two"])
    # stage 1 uses the first view alone, stage 2 the second alone
    assert not torch.equal(d1[0]["one"], d0[0]["one"]) and torch.equal(d1[1]["two"], d0[1]["two"])
    assert torch.equal(d3[0]["one"], d1[0]["one"]) and not torch.equal(d3[1]["one"], d1[1]["one"])
    counts = [r["network_evaluations"] for r in records]
    assert counts == [0, 21 * 6, 21 * 6 + 17 * 6 * 2, 21 * 6 + 2 * 17 * 6 * 2]  # several Gaussians: no Jacobians
    assert all(p.requires_grad for prior in sources.values() for p in prior.parameters())


def test_records_hold_the_largest_residual_of_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    laps, residuals = [], []
    run(callback=laps.append)
    assert [lap.record.get("residual") for lap in laps] == [None, 0.0, 0.0, 0.0]
    monkeypatch.setattr("mvss.priors.local_law.DENSE", 0)  # all sources are large
    for iterations in (1, 8):
        solved = replace(POSTERIOR, solver=CGConfig(iterations, 0.0))
        run(posterior=solved, callback=lambda lap: residuals.append(lap.record.get("residual")))
    assert all(blunt > 1e-3 > 100 * sharp > 0 for blunt, sharp in zip(residuals[1:4], residuals[5:], strict=True))


@pytest.mark.parametrize("held_out", [0.0, 0.3])
def test_an_m_step_gets_the_draws_of_the_views_that_show_its_source(held_out: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those by which laps are judged."""
    pools, laps = [], []
    fit = mvss.em.steps.fit_denoiser

    def spy(denoiser: object, draws: Tensor, *rest: object) -> object:
        pools.append(draws.clone())
        return fit(denoiser, draws, *rest)

    monkeypatch.setattr(mvss.em.steps, "fit_denoiser", spy)
    run(em=replace(EM, laps=2, stages="together", held_out=held_out), callback=lambda lap: laps.append((lap, list(lap.draws))))
    out = [int(held_out * count) for count in (21, 17)]
    for number in (0, 1):
        first, second = pools[2 * number : 2 * number + 2]
        draws = laps[number][1]
        assert torch.equal(first, torch.cat([draws[0]["one"][out[0] :], draws[1]["one"][out[1] :]]))
        assert torch.equal(second, draws[1]["two"][out[1] :])  # none of the first view, which does not show the second source
    judged = {f"held_out_{when}_{place}" for when in ("before", "after") for place in (1, 2)}
    for lap, _ in laps[1:]:
        assert {key for key in lap.record if key.startswith("held_out")} == (judged if held_out else set())


def test_networks_learn_from_several_draws_cut_to_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second lap on, all of them posterior draws of their own; of held-out observations none."""
    pools: list[Tensor] = []
    fit = mvss.em.steps.fit_denoiser

    def spy(denoiser: object, draws: Tensor, *rest: object) -> object:
        pools.append(draws.clone())
        return fit(denoiser, draws, *rest)

    monkeypatch.setattr(mvss.em.steps, "fit_denoiser", spy)
    views, laps = problem(), list[Lap]()
    settings = Settings(training=TRAINING, em=replace(TOGETHER, laps=2, draws=3, held_out=0.3))
    model = Model(priors(), posterior_of(POSTERIOR), {"two": (-0.5, 0.25)})
    learned = run_em(views, model, FirstDraws(first_draws(views)), settings, STREAM, callback=laps.append)
    rows = 15 + 12  # of 21 and 17, those that are not held out
    assert [len(pool) for pool in pools] == [rows, 12, 3 * rows, 3 * 12]
    assert all(pool.min() == -0.5 and pool.max() == 0.25 for pool in pools[1::2])
    assert pools[0].min() < -0.5 and pools[0].max() > 0.25
    draws = pools[2].split([15] * 3 + [12] * 3)
    assert len({float(x.sum()) for x in draws}) == 6
    e_step, more = (lap.record["network_evaluations"] for lap in laps[1:])
    assert more - e_step == 3 * e_step and learned.records[1]["network_evaluations"] == more


def test_better_first_draws_are_the_only_ones_of_the_first_m_step(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    fit = mvss.em.steps.fit_denoiser

    def spy(denoiser: object, draws: Tensor, *rest: object) -> object:
        sizes.append(len(draws))
        return fit(denoiser, draws, *rest)

    monkeypatch.setattr(mvss.em.steps, "fit_denoiser", spy)
    views, settings = problem(), Settings(training=TRAINING, em=replace(TOGETHER, laps=2))
    first = FirstDraws(first_draws(views), {"one": [1]})
    run_em(views, Model(priors(), posterior_of(POSTERIOR)), first, settings, STREAM)
    assert sizes == [17, 17, 21 + 17, 17]


def test_draws_of_one_view_never_enter_another() -> None:
    """With other observations in the second view, the first view's E-step is the same; its own is not."""
    em = replace(EM, laps=1)
    draws, sources = run(em=em)
    other, changed = run(problem(second_scale=1.5), em=em)
    assert torch.equal(draws[0]["one"], other[0]["one"]) and not torch.equal(draws[1]["two"], other[1]["two"])
    before, after = weights(sources), weights(changed)
    assert not differ(before["one"], after["one"]) and differ(before["two"], after["two"])
    assert [list(view) for view in draws] == [["one"], ["one", "two"]]  # no draw of a source that a view does not show


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_an_e_step_whose_draws_do_not_explain_a_view_keeps_the_old_ones(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so, unless it is the paper's, which starts from noise."""
    draw = MomentMatching.draw

    def wild(posterior: MomentMatching, view: View, *rest: object) -> Separation:
        found = draw(posterior, view, *rest)
        return replace(found, draws={s: x + 100 * (view.name == "both") for s, x in found.draws.items()})

    monkeypatch.setattr(MomentMatching, "draw", wild)
    laps: list[Lap] = []
    draws, _ = run(em=TOGETHER, posterior=replace(POSTERIOR, start=start), callback=laps.append)
    first, kept = first_draws(problem())[1], laps[-1].record["kept"]
    if start == "cold":
        assert kept == [] and all(float(x.min()) > 50 for x in draws[1].values())
    else:
        same(draws[1], first)
        assert [line.split(":")[0] for line in kept if line.startswith("both")] == ["both"]


@pytest.mark.parametrize("few", [False, True])
def test_an_e_step_whose_systems_were_not_solved_says_so(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, laps = MomentMatching.draw, list[Lap]()
    monkeypatch.setattr(MomentMatching, "draw", lambda *args: replace(draw(*args), residual=0.3, few=few))
    run(em=TOGETHER, callback=laps.append)
    told = [line for line in laps[-1].record["kept"] if "a solver left 0.3 of what it was given" in line]
    assert [line.split(":")[0] for line in told] == ([] if few else ["first", "both"])
    assert laps[-1].record["residual"] == 0.3


def test_the_e_step_gives_each_view_its_own_noise() -> None:
    """Two views with the same observations: the same posterior, other random numbers."""
    y, a = torch.ones(8, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    views = Views([View(y, {"two": a}, 0.3, name) for name in ("a", "b")])
    first = FirstDraws([{"two": torch.zeros(8, 2, dtype=torch.float64)} for _ in views])
    source, settings = {"two": priors()["two"]}, Settings(training=TRAINING, em=TOGETHER)
    found = run_em(views, Model(source, posterior_of(POSTERIOR)), first, settings, STREAM).draws
    assert not torch.equal(found[0]["two"], found[1]["two"])


def test_stages_are_of_sources_that_views_tell_one_after_the_other() -> None:
    views, both = problem(), ["one", "two"]
    plan = lambda learning, **em: plan_stages(views, Settings(em=EMConfig(**em)), learning)  # noqa: E731
    assert plan(both, laps=3) == [Stage(("one", "two"), 3, (0, 1))]
    assert plan(both, laps=3, stages="sequential") == [Stage(("one",), 3, (0,)), Stage(("two",), 3, (1,))]
    assert plan(both, laps=(4, 1), stages="sequential") == [Stage(("one",), 4, (0,)), Stage(("two",), 1, (1,))]
    # a source that does not learn needs no stage, and need not wait for others
    assert plan(["two"], laps=2, stages="sequential") == [Stage(("two",), 2, (1,))]
    assert plan(["one"], laps=2, stages="sequential") == [Stage(("one",), 2, (0, 1))]
    assert plan([], laps=2) == []
    with pytest.raises(MvssError, match=r"laps=\[1\] are fewer than the 2 stages") as error:
        plan(both, laps=(1,), stages="sequential")
    assert "\n" not in str(error.value)


def test_sources_that_no_view_tells_apart_learn_together() -> None:
    """The second and the third are shown together alone."""
    m = torch.eye(2, dtype=torch.float64)
    y = torch.ones(4, 2, dtype=torch.float64)
    views = Views([View(y, {"a": m}, 0.1), View(y, {"a": m, "b": m, "c": m}, 0.1)])
    stages = plan_stages(views, Settings(em=EMConfig(laps=1, stages="sequential")), ["a", "b", "c"])
    assert stages == [Stage(("a",), 1, (0,)), Stage(("b", "c"), 1, (1,))]


def test_sources_without_networks_stay_as_they_are() -> None:
    views, laps = problem(), []
    mixtures = {source: prior.mixture for source, prior in priors().items()}
    first = first_draws(views)
    settings = Settings(training=TRAINING, em=EM)
    found = run_em(
        views, Model(mixtures, MomentMatching(POSTERIOR)), FirstDraws(first), settings, STREAM, callback=laps.append
    ).draws
    same(found, first)
    assert [lap.number for lap in laps] == [0]
    one = {"one": priors()["one"], "two": random_prior(3, 2, 2)}
    run_em(views, Model(one, MomentMatching(POSTERIOR)), FirstDraws(first), settings, STREAM, callback=laps.append)
    assert [lap.record.get("sources") for lap in laps] == [None, None, ["one"]]


def test_relaxation_reaches_the_m_step() -> None:
    relaxed, plain = (run(em=em)[0][0]["one"] for em in (FIRST, replace(FIRST, relaxation=1.0)))
    assert not torch.equal(relaxed, plain)


def test_settings_are_validated() -> None:
    bad = [(MomentMatchingConfig, {key: 0}) for key in ("components", "beam", "chunk", "passes")]
    bad += [(GibbsConfig, {key: 0}) for key in ("rounds", "components", "beam", "chunk")]
    for config, options in [*bad, (EMConfig, {"held_out": 1.0})]:
        with pytest.raises(MvssError) as error:
            config(**options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"ranges": {"one": (1.0, 1.0)}}])
def test_what_networks_learn_from_is_validated(wrong: dict[str, object]) -> None:
    with pytest.raises(MvssError, match=next(iter(wrong))):
        EMConfig(**wrong)  # type: ignore[arg-type]


def test_what_kind_settings_are_of_is_no_argument_by_place() -> None:
    """Or a sampler would be taken for it, and the default used, without a word."""
    assert MomentMatchingConfig(SamplerConfig("pc")).sampler.method == "pc"
    assert GibbsConfig(3).rounds == 3
