"""What `mvss check` says of a fit's time: about what a fit then takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from tiny_separators import Problem, images, vectors

from mvss import AscentConfig, NetworkConfig, SourceSeparator
from mvss.cli import timing
from mvss.priors.regression import Guess
from mvss.problem.views import Views


def of_processor(work: Callable[[int], object], count: int) -> float:
    """As `_clocked`, of this process alone: other ones come and go."""
    began = time.process_time()
    work(count)
    return time.process_time() - began


def longer(problem: Problem, steps: int) -> Problem:
    """One whose training takes longer than what surrounds it."""
    settings = problem.settings
    estimation = settings.estimation
    if isinstance(estimation, AscentConfig):
        estimation = replace(estimation, steps=steps)
    training = replace(settings.training, steps=steps, batch=16, learning_rate=1e-4, final_learning_rate=0.0)
    settings = replace(settings, estimation=estimation, training=training, em=replace(settings.em, laps=1))
    return replace(problem, settings=settings)


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(longer(vectors(), 120), id="vectors"),
        pytest.param(longer(images(), 40), id="images", marks=pytest.mark.slow),
    ],
)
def test_a_fit_takes_about_as_long_as_it_is_told(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_clocked", of_processor)
    model = SourceSeparator(problem.settings)
    took = of_processor(lambda _: model.fit(problem.views, verbose=False), 1)
    told = timing.expected_seconds(Views(problem.views), problem.settings)
    print(f"told {sum(told.values()):.2f} s {told}, took {took:.2f} s {model.report.seconds}")
    assert set(model.report.seconds) == {*told, "first draws"}
    assert took / 3 < sum(told.values()) < 3 * took


def test_guesses_are_timed_by_the_network_that_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the posterior, where the settings give it one of its own."""
    own, settings, timed = NetworkConfig(blocks=(16, 24)), images().settings, list[Guess]()
    em = replace(settings.em, network=own, guess=settings.training)
    settings = replace(settings, em=em, estimation=replace(settings.estimation, noisier2noise=None))
    monkeypatch.setattr(timing._Fit, "_guessing", lambda _, guess, *__: timed.append(guess) or 0.0)
    timing.expected_seconds(Views(images().views), settings)
    assert [tuple(guess.network.config["blocks"]) for guess in timed] == [own.blocks]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(20, "less than a minute"), (200, "about 3 min"), (1600, "about 25 min"), (8000, "about 2 h"), (90000, "about 25 h")],
)
def test_times_are_told_roughly(seconds: float, says: str) -> None:
    assert timing.roughly(seconds) == says
