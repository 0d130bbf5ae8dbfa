"""What a page shows of grass and digits: single draws, means and standard deviations beside the truth, and EM's laps."""

from __future__ import annotations

__all__ = ["browsers"]

from collections.abc import Mapping

from experiments.mnist_grass.config import SWAPPED, problem_named
from experiments.mnist_grass.digits import SHAPE
from experiments.mnist_grass.figures import mixtures
from experiments.report.browsers import Array, Browser, Group, Laps, Strip
from experiments.report.methods import method_named
from experiments.report.samples import Arrays, Results, kept_samples, laps_of

SOURCES = {2: "digit", 1: "grass"}
KINDS = {"posterior": ("draw", 1.0), "mean": ("mean", 1.0), "width": ("SD × 2", 2.0)}
"""Arrays by the start of their names: what they are called, and by what they are multiplied."""
NOTE = "Fresh observations, without their noise. Draw: one of the posterior; mean and SD: of several."


def browsers(results: Results) -> list[Browser]:
    """One for each problem that has kept samples; swapped ones have a figure of their own."""
    problems = [problem for problem in results.problems if not problem.startswith(SWAPPED)]
    found = {p: kept_samples(results.folder, results.table, results.seed, p) for p in problems}
    made = (_browser(problem, samples) for problem, samples in found.items())
    return [browser for browser in made if browser is not None]


def _browser(problem: str, found: Mapping[str, Arrays]) -> Browser | None:
    first = next((s for s in found.values() if {"truth_1", "truth_2"} <= s.keys()), None)
    if first is None:
        return None
    common = [Strip("observation", _images(mixtures(first["truth_1"], first["truth_2"], problem_named(problem).factors)))]
    common += [Strip(f"{name}, truth", _images(first[f"truth_{b}"])) for b, name in SOURCES.items()]
    groups = [Group(method_named(m).label, _separated(arrays)) for m, arrays in found.items()]
    laps = [_laps(method_named(m).label, arrays) for m, arrays in found.items()]
    return Browser(problem, "observation", NOTE, common, groups, [each for each in laps if each is not None])


def _separated(arrays: Arrays) -> list[Strip]:
    return [
        Strip(f"{name}, {kind}", scale * _images(arrays[f"{start}_{b}"]))
        for b, name in SOURCES.items()
        for start, (kind, scale) in KINDS.items()
        if f"{start}_{b}" in arrays
    ]


def _laps(label: str, arrays: Arrays) -> Laps | None:
    """Of a method with more than what EM starts from."""
    laps = laps_of(arrays, 2)
    if len(laps) < 2:
        return None
    common = [Strip(f"{name}, truth", _images(arrays[f"lap_truth_{b}"])) for b, name in SOURCES.items()]
    frames = [[Strip(name, _images(arrays[f"lap{lap}_{b}"])) for b, name in SOURCES.items()] for lap in laps]
    return Laps(label, common, laps, frames)


def _images(x: Array) -> Array:
    return x.reshape(-1, *SHAPE[-2:])
