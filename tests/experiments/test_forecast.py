"""What a run says of the time that is left: from what jobs took before, on machines as fast as that one or not."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from experiments.core.cli import ROOT, read_command
from experiments.core.config import Config, Job
from experiments.core.durations import Course, Timer, expected_times, kind_of, own_times, read_times, times_text, words
from experiments.core.finished import finish
from experiments.core.forecast import Forecast, Planned, next_of
from experiments.core.places import jobs_of, place_of
from experiments.core.progress import Progress
from experiments.core.scheduler import forecast
from experiments.core.targets import FILLED, TARGETS, seconds_of, times
from experiments.core.workers import Ended, Told
from experiments.galaxies.__main__ import EXPERIMENT as GALAXIES
from experiments.manifolds.__main__ import EXPERIMENT as MANIFOLDS
from experiments.mnist_grass.__main__ import EXPERIMENT as MNIST_GRASS
from experiments.report.readme import fill
from mvss.runtime.errors import MvssError

MINUTE = 60.0


STEP = 15.0
"""Seconds in which the clock of the test goes on; running jobs tell how far they are at every step."""


def machine(expected: Forecast, slower: Callable[[str], float]) -> dict[float, float]:
    """By minutes gone: seconds gone and left, of a run on a machine that takes `slower` times as long for a job, by name."""
    courses = {name: expected._course(name) for name in expected.plans}
    waiting, now, made, totals = list(expected.plans.values()), 0.0, set[Path](), dict[float, float]()
    running: dict[str, tuple[float, float, Course]] = {}
    expected.made = made.__contains__
    while waiting or running:
        while len(running) < expected.workers and (
            plan := next_of(waiting, [expected.plans[name] for name in running], made.__contains__)
        ):
            waiting.remove(plan)
            factor, rest = slower(plan.name), courses[plan.name]
            own = expected.priors.get(plan.priors, 0.0) if plan.priors and plan.priors not in made else 0.0
            assert rest is not None
            running[plan.name] = (now, factor * own, rest.times(factor))
            expected.start(plan.name, now)
        now += STEP
        for name, (began, own, rest) in list(running.items()):
            if now - began >= own and (path := expected.plans[name].priors):
                made.add(path)
            if now - began >= own + rest.seconds:
                expected.end(name, now)
                del running[name]
            else:
                expected.tell(name, share_at(now - began, own, rest), now)
        if now % MINUTE == 0 and (left := expected.left(now)) is not None:
            totals[now / MINUTE] = now + left
    return totals | {now / MINUTE: now}


def share_at(gone: float, priors: float, rest: Course) -> float:
    """The share of a job that is done."""
    if gone < priors:
        return 0.4 * gone / priors
    shares = [k / 100 for k in range(101) if rest.at(k / 100) <= gone - priors]
    return max(shares, default=0.0)


def whole(experiment: object, workers: int, *words: str) -> Forecast:
    """Of a run of the cpu preset that nothing is done of, but for methods that were never timed."""
    command = read_command(experiment, ["--preset", "cpu", *words], ROOT)  # type: ignore[arg-type]
    known = {kind.partition(" ")[2] for kind in expected_times(experiment, "cpu", ROOT / "no-such-folder")}  # type: ignore[arg-type]
    jobs = [job for job in jobs_of(command.config, command.seeds) if job.method in known]
    return forecast(experiment, "cpu", jobs, ROOT / "no-such-folder", workers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("experiment", "factor", "workers"),
    [
        *((MANIFOLDS, factor, workers) for factor in (0.5, 1.0, 2.0) for workers in (1, 2, 8)),
        *((experiment, factor, 2) for experiment in (MNIST_GRASS, GALAXIES) for factor in (1.0, 2.0)),
    ],
)
def test_what_is_left_is_honest_whatever_the_machine(experiment: object, factor: float, workers: int) -> None:
    totals = machine(whole(experiment, workers), lambda _: factor)
    first, took = totals[5.0], max(totals) * MINUTE
    late = [total for minute, total in totals.items() if minute >= 5]
    assert max(late) <= 4 / 3 * first
    assert 0.75 * took <= first <= 4 / 3 * took


@pytest.mark.parametrize("seed", range(4))
def test_jobs_that_take_more_or_less_than_before_even_out(seed: int) -> None:
    rng, of = random.Random(seed), dict[str, float]()
    totals = machine(whole(MANIFOLDS, 2), lambda name: of.setdefault(name, 1.5 * rng.lognormvariate(0, 0.3)))
    assert max(total for minute, total in totals.items() if minute >= 5) <= 4 / 3 * totals[5.0]


def small(times: Mapping[str, Course], *kinds: str, workers: int = 1) -> Forecast:
    """Of jobs that share nothing."""
    return Forecast([Planned(kind, kind, kind, None) for kind in kinds], times, {}, lambda _: False, workers)


def test_nothing_is_said_of_a_job_that_was_never_timed() -> None:
    expected = small({"a joint": Course(((0.5, 10.0), (1.0, 100.0)))}, "a joint", "b joint", "b mixture")
    assert expected.left(0.0) is None  # nothing is known of any mixture
    expected.start("b mixture", 0.0)
    expected.end("b mixture", 50.0)
    assert expected.left(50.0) == pytest.approx(200.0)  # a joint of another problem takes as long
    expected.start("a joint", 50.0)
    expected.tell("a joint", 0.5, 60.0)
    assert expected.left(60.0) == pytest.approx(190.0)
    expected.tell("a joint", 0.5, 80.0)  # three times as slow, as far as is known: (20 + 30) / (20 + 10)
    assert expected.left(80.0) == pytest.approx((90.0 + 100.0) * 5 / 3)


def test_who_was_interrupted_says_nothing_of_the_machine() -> None:
    expected = small({"a joint": Course(((1.0, 100.0),)), "b joint": Course(((1.0, 100.0),))}, "a joint", "b joint")
    expected.start("a joint", 0.0, anew=False)
    expected.tell("a joint", 0.9, 1.0)
    assert expected.left(1.0) == pytest.approx(110.0)
    expected.end("a joint", 11.0)
    assert expected.left(11.0) == pytest.approx(100.0)


def test_first_priors_are_counted_once() -> None:
    path, times = (
        Path("estimate"),
        {"a mixture": Course(((0.4, 60.0), (1.0, 70.0))), "a joint": Course(((0.4, 1.0), (1.0, 31.0)))},
    )
    plans = [Planned(kind, kind, kind, path) for kind in times]
    both, alone = (Forecast(each, times, {path: 60.0}, lambda _: False, 2) for each in (plans, plans[1:]))
    there = Forecast(plans[1:], times, {path: 60.0}, lambda _: True, 2)
    assert (both.left(0.0), alone.left(0.0), there.left(0.0)) == (90.0, 90.0, 30.0)


def test_a_job_notes_when_it_was_how_far(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter((0.0, 2.0, 30.0, 40.04, 41.0))
    monkeypatch.setattr("experiments.core.durations.time.process_time", lambda: next(moments))
    told: list[tuple[float, str]] = []
    timer = Timer(lambda done, phase: told.append((done, phase)))
    for done, phase in ((0.0, "data"), (0.01, "first priors"), (0.02, "first priors"), (0.4, "first priors"), (0.4, "laps")):
        timer(done, phase)
    timer(0.41, "scores")
    assert timer.course() == Course(((0.01, 2.0), (0.4, 30.0), (0.41, 40.0), (1.0, 41.0)))
    assert told[-1] == (0.41, "scores") and len(told) == 6
    assert Course(((0.5, 10.0), (1.0, 40.0))).at(0.75) == 25.0


def job() -> tuple[Config, Job]:
    config = read_command(MANIFOLDS, ["--preset", "smoke"], ROOT).config
    return config, next(job for job in jobs_of(config, [3]) if kind_of(job) == "mixed-0.1 joint")


def test_what_was_timed_here_goes_before_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, joint = job()
    shipped = {"mixed-0.1 joint": Course(((1.0, 10.0),)), "mixed-0.1 mixture": Course(((1.0, 7.0),))}
    place = tmp_path / "results" / "manifolds" / "smoke"
    place.mkdir(parents=True)
    (place / "times.json").write_text(times_text(shipped))
    monkeypatch.setattr("experiments.core.durations.ROOT", tmp_path)
    assert expected_times(MANIFOLDS, "smoke", tmp_path) == shipped == read_times(place / "times.json")
    place_of(joint, tmp_path).mkdir(parents=True)
    (place_of(joint, tmp_path) / "records.jsonl").write_text("")
    finish(joint, tmp_path, 0, "key", "commit")
    assert own_times(tmp_path) == {}  # it was interrupted
    finish(joint, tmp_path, 0, "key", "commit", ((0.5, 4.0), (1.0, 20.0)))
    own = {"mixed-0.1 joint": Course(((0.5, 4.0), (1.0, 20.0)))}
    assert own_times(tmp_path) == own
    assert expected_times(MANIFOLDS, "smoke", tmp_path) == own | {"mixed-0.1 mixture": Course(((1.0, 14.0),))}
    (place / "times.json").write_text('{"mixed-0.1 joint": [[0.5, 3]]}')
    with pytest.raises(MvssError, match="is broken: delete it"):
        expected_times(MANIFOLDS, "smoke", tmp_path)


def test_a_log_names_phases_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    expected = small({"a joint": Course(((1.0, 600.0),)), "b joint": Course(((1.0, 600.0),))}, "a joint", "b joint", workers=2)
    with Progress(expected, lambda: clock[0]) as progress:
        for name in ("a joint", "b joint"):
            progress.start(name, anew=True)
            progress.note(name, Told(0.0, "data"))
        clock[0] = 601.0
        progress.note("a joint", Told(0.5, "laps"))
        progress.show()
        clock[0] = 700.0
        progress.show()
        progress.note("a joint", Ended(None))
        progress.note("b joint", Ended(None))
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("0/2 nothing has ended; 10 min gone, about ")
    assert first.endswith("min left; running: a joint (laps), b joint (data)")
    assert second.startswith("1/2 a joint: done; 12 min gone, about ") and second.endswith("running: b joint (data)")
    assert third == "2/2 b joint: done; 12 min gone, about 0 s left"


def test_times_in_words() -> None:
    assert [words(s) for s in (0, 59, 60, 3599, 3600, 12000)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 00 min",
        "1 h 00 min",
        "3 h 20 min",
    ]


def test_the_times_in_the_pages_are_those_of_the_jobs() -> None:
    """After new times are published: make readme."""
    block = times()
    for name in FILLED:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert fill(text, "times", block, name) == text
        assert all(f"`{command}`: " in text for pair in TARGETS for command in pair)


def test_the_time_of_a_target_is_that_of_its_jobs() -> None:
    known = read_times(ROOT / "results" / "manifolds" / "cpu" / "times.json")
    clvm, vae = (known[f"contrastive-2 {method}"].seconds for method in ("clvm_linear", "clvm_vae"))
    one = seconds_of('make manifolds PROBLEM=contrastive-2 METHODS="clvm_linear clvm_vae"')
    assert one == pytest.approx(max(clvm, vae))  # two at a time
