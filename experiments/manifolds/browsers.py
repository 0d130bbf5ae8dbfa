"""What a page shows of the manifolds: clouds of draws beside those of the truth, along two coordinates, and EM's laps."""

from __future__ import annotations

__all__ = ["browsers"]

from collections.abc import Mapping

from experiments.manifolds.data import DATA_RANGE
from experiments.report.browsers import Array, Browser, Group, Laps, Strip, clouds
from experiments.report.methods import method_named
from experiments.report.samples import Arrays, Results, kept_samples, laps_of

LIMIT = 0.62 * DATA_RANGE
KINDS = {"posterior": "draws", "prior": "prior"}
NOTE = (
    f"Points along two of their coordinates, each from −{LIMIT:g} to {LIMIT:g}: one draw for each fresh observation, and "
    "draws of the learned priors. Observations and standard deviations are not among the kept samples of this experiment."
)


def browsers(results: Results) -> list[Browser]:
    """One for each problem that has kept samples."""
    found = {p: kept_samples(results.folder, results.table, results.seed, p) for p in results.problems}
    return [_browser(problem, samples) for problem, samples in found.items() if any("truth_1" in s for s in samples.values())]


def _browser(problem: str, found: Mapping[str, Arrays]) -> Browser:
    first = next(s for s in found.values() if "truth_1" in s)
    common = [Strip(f"source {b}, truth", _cloud(first[f"truth_{b}"])) for b in _sources(first, "truth")]
    groups = [Group(method_named(m).label, _separated(arrays)) for m, arrays in found.items()]
    laps = [_laps(method_named(m).label, arrays) for m, arrays in found.items()]
    return Browser(problem, "pair of coordinates", NOTE, common, groups, [each for each in laps if each is not None])


def _separated(arrays: Arrays) -> list[Strip]:
    return [
        Strip(f"source {b}, {kind}", _cloud(arrays[f"{start}_{b}"]))
        for start, kind in KINDS.items()
        for b in _sources(arrays, start)
    ]


def _laps(label: str, arrays: Arrays) -> Laps | None:
    """Of a method with more than what EM starts from."""
    laps = laps_of(arrays)
    sources = [b for b in _sources(arrays, "lap_truth") if all(f"lap{lap}_{b}" in arrays for lap in laps)]
    if len(laps) < 2 or not sources:
        return None
    common = [Strip(f"source {b}, truth", _cloud(arrays[f"lap_truth_{b}"])) for b in sources]
    return Laps(label, common, laps, [[Strip(f"source {b}", _cloud(arrays[f"lap{lap}_{b}"])) for b in sources] for lap in laps])


def _sources(arrays: Arrays, start: str) -> list[str]:
    return sorted(name.removeprefix(f"{start}_") for name in arrays if name.startswith(f"{start}_"))


def _cloud(points: Array) -> Array:
    return clouds(points, LIMIT)
