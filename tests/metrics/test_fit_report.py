"""What a fit says of itself: what is warned of, where, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from mvss.metrics.fit_report import CLAMPED, DISCARDED, EXPLAINED, OVERFIT, FitReport, LapReport, ViewReport

RECORD: dict[str, Any] = {
    "sources": ["background", "target"],
    "network_evaluations": 12,
    "loss_1": 0.3,
    "held_out_before_1": 0.5,
    "held_out_after_1": 0.4,
    "held_out_before_2": 0.2,
    "held_out_after_2": 0.25,
    "held_out_before_amortised_2": 0.7,
    "held_out_after_amortised_2": 0.6,
    "loss_amortised_2": 0.1,
    "clamped": 0.01,
    "residual": 1e-4,
    "m_step_seconds": 2.0,
    "e_step_seconds": 3.0,
}
SOURCES = ("background", "target")


def lap(**changes: object) -> LapReport:
    return LapReport.of(3, RECORD | changes, SOURCES)


def report(*chi2: float, laps: tuple[LapReport, ...] = (), unconstrained: tuple[str, ...] = ()) -> FitReport:
    views = [ViewReport(f"view {number}", 1500, value) for number, value in enumerate(chi2)]
    return FitReport(views, list(laps), {"held_out": -1.25, "train": -1.2}, list(unconstrained), {"laps": 12.34}, 1.5)


@pytest.mark.parametrize(
    ("chi2", "words"),
    [
        (0.79, "the noise may be less"),
        (0.8, None),
        (1.0, None),
        (1.25, None),
        (1.26, "draws do not explain the data"),
        (float("nan"), "not within"),
    ],
)
def test_chi2_is_warned_of_outside_of_what_explains_the_data(chi2: float, words: str | None) -> None:
    low, high = EXPLAINED
    warning = ViewReport("the view", 10, chi2).warning()
    assert (low, high) == (0.8, 1.25) and (warning is None) == (words is None)
    if words:
        assert warning is not None and warning.startswith("the view: chi2 per number is ") and words in warning
        assert "0.8 to 1.25" in warning and "\n" not in warning


def test_a_lap_is_read_from_its_record() -> None:
    found = lap()
    expected = {"background": (0.5, 0.4), "target": (0.2, 0.25), "posterior of target": (0.7, 0.6)}
    assert dict(found.held_out) == expected
    assert (found.number, found.clamped, found.residual, found.m_step, found.e_step) == (3, 0.01, 1e-4, 2.0, 3.0)
    assert LapReport.of(0, {"network_evaluations": 0}, SOURCES) == LapReport(0, {}, 0.0, 0.0, 0.0, 0.0)


def test_a_lap_that_made_things_worse_or_was_clamped_is_warned_of() -> None:
    (worse,) = lap().warnings()
    assert worse == "lap 3: target denoises held-out draws worse than before it (0.2 to 0.25)"
    assert lap(held_out_after_2=0.2).warnings() == []  # as well as before
    assert lap(held_out_after_2=0.1, clamped=CLAMPED).warnings() == []
    (clamped,) = lap(held_out_after_2=0.1, clamped=0.0501).warnings()
    assert clamped.startswith("lap 3: 5% of covariance eigenvalues")


def test_draws_that_were_not_kept_are_told_by_lap_and_view() -> None:
    line = "the view: chi2 per number of new draws is 3, so those before them are kept, of 1"
    assert lap(held_out_after_2=0.1, kept=[line]).warnings() == [f"lap 3: {line}"]
    found = FitReport([], [], kept=[line])
    assert found.warnings == [f"last draws: {line}"] and f"warning: last draws: {line}" in str(found)


def test_warnings_are_of_all_parts_and_a_good_fit_has_none() -> None:
    assert report(1.0, 1.1, laps=(lap(held_out_after_2=0.1),)).warnings == []
    found = report(1.0, 2.0, laps=(lap(),), unconstrained=("a and b are mixed",)).warnings
    assert [line.split(":")[0] for line in found] == ["a and b are mixed", "view 1", "lap 3"]


def test_the_text_says_what_was_found() -> None:
    losses = "background 0.5 -> 0.4, target 0.2 -> 0.25, posterior of target 0.7 -> 0.6"
    lines = str(report(1.0, 2.0, laps=(lap(), LapReport.of(0, {}, SOURCES)))).splitlines()
    assert lines == [
        "chi2 per number: view 0 1.000 (1,500), view 1 2.000 (1,500)",
        "log-likelihood of an observation under the first priors, nats: held out -1.25, training -1.2",
        f"lap 3: held-out denoising loss {losses}; clamped 1.0%; M-step 2.0 s, E-step 3.0 s",
        "laps 12.3 s; peak memory 1.50 GiB",
        "warning: view 1: chi2 per number is 2, not within 0.8 to 1.25: draws do not explain the data",
        "warning: lap 3: target denoises held-out draws worse than before it (0.2 to 0.25)",
    ]
    assert str(FitReport([ViewReport("v", 3, 1.0)], [])).splitlines()[0] == "chi2 per number: v 1.000 (3)"


def test_a_search_that_left_much_out_is_warned_of() -> None:
    assert FitReport([], [], discarded=DISCARDED).warnings == []


def test_first_priors_that_explain_their_own_observations_alone_are_told() -> None:
    (line,) = FitReport([], [], {"held_out": -23.5, "train": 3.3}).warnings
    assert line.startswith("first priors explain held-out observations worse than their own, by 27 nats each")
    assert FitReport([], [], {"held_out": -2.0, "train": -2.0 + OVERFIT}).warnings == []
    assert FitReport([], [], {"held_out": -1.0, "train": -3.0}).warnings == FitReport([], [], {"train": 3.3}).warnings == []


def test_what_looks_odd_about_observations_comes_first() -> None:
    assert FitReport([], [], unconstrained=["unseen"], odd=["in order"]).warnings == ["in order", "unseen"]
    (line,) = FitReport([], [], discarded=0.02).warnings
    assert line == "the search of the mixtures left out 2% of probability: raise posterior.beam"
