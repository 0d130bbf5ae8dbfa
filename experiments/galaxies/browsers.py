"""What a page shows of galaxies: stamps as asinh(x / σ), from −3 σ to 30 σ of the noise, and EM's laps."""

from __future__ import annotations

__all__ = ["browsers"]

import math

import numpy as np

from experiments.galaxies.data.task import transform_of
from experiments.galaxies.figures import transform_in
from experiments.galaxies.figures_stamps import Run, Samples
from experiments.galaxies.panels import BRIGHT, FAINT
from experiments.report.browsers import Array, Browser, Group, Laps, Strip
from experiments.report.methods import method_named
from experiments.report.samples import Results, kept_samples, laps_of

COMMON = {
    "seen": "seen from the ground", "observed": "observation", "sky_truth": "sky, truth", "truth": "galaxy, truth",
}  # fmt: skip
KINDS = {
    "galaxy": ("galaxy, draw", 1.0), "galaxy_mean": ("galaxy, mean", 1.0), "galaxy_sd": ("galaxy, SD × 3", 3.0),
    "sky": ("sky, draw", 1.0), "sky_mean": ("sky, mean", 1.0),
}  # fmt: skip
"""Arrays by the end of their names: what they are called, and by what they are multiplied."""
NOTE = f"asinh, from −{-FAINT:g} σ to {BRIGHT:g} σ of the noise of a usual pixel. Orange: not measured. "
NOTES = {
    "known": "Fresh stamps whose galaxies are known, separated by each method.",
    "real": "Real stamps that were not learned from; nobody knows their truth.",
}
USUAL = 0.02
"""σ where none was kept."""


def browsers(results: Results) -> list[Browser]:
    """For each problem that has kept samples, one of known galaxies and one of real stamps, where there are both."""
    made = []
    for problem in results.problems:
        transform = transform_of(problem, transform_in(results.folder, results.seed))
        found = kept_samples(results.folder, results.table, results.seed, problem)
        run = Run(found, problem, results.seed, transform)
        made += [browser for kind in NOTES if (browser := _browser(run, kind)) is not None]
    return made


def _browser(run: Run, kind: str) -> Browser | None:
    found = {m: s for m, s in run.found.items() if {f"{kind}_observed", f"{kind}_galaxy"} <= s.keys()}
    if not found:
        return None
    sigma, first = run.sigma() or USUAL, next(iter(found.values()))

    def strip(name: str, x: Array) -> Strip:
        return Strip(name, _stamps(x, sigma))

    common = [strip(name, first[f"{kind}_{key}"]) for key, name in COMMON.items() if f"{kind}_{key}" in first]
    groups = [
        Group(method_named(m).label, [strip(name, by * s[f"{kind}_{k}"]) for k, (name, by) in _kinds(kind, s).items()])
        for m, s in found.items()
    ]
    laps = [_laps(run, m, s, sigma) for m, s in found.items()] if kind == "known" else []
    title = run.problem if kind == "known" else f"{run.problem}, real stamps"
    return Browser(title, "stamp", NOTE + NOTES[kind], common, groups, [each for each in laps if each is not None])


def _kinds(kind: str, arrays: Samples) -> dict[str, tuple[str, float]]:
    """Those of KINDS that were kept; of a method that has one answer and no draws, that alone."""
    if not np.any(arrays.get(f"{kind}_galaxy_sd", 1.0)):
        return {"galaxy": ("galaxy", 1.0)}
    return {key: named for key, named in KINDS.items() if f"{kind}_{key}" in arrays}


def _laps(run: Run, method: str, arrays: Samples, sigma: float) -> Laps | None:
    """Of a method with more than what EM starts from: the galaxy drawn for training stamps."""
    laps = laps_of(arrays, 2)
    if len(laps) < 2:
        return None
    names = {"observed_2": "observation", "lap_truth_2": "galaxy, truth"}
    common = [Strip(name, _stamps(run.fluxes(arrays[key]), sigma)) for key, name in names.items() if key in arrays]
    frames = [[Strip("galaxy", _stamps(run.fluxes(arrays[f"lap{lap}_2"]), sigma))] for lap in laps]
    return Laps(method_named(method).label, common, laps, frames)


def _stamps(x: Array, sigma: float) -> Array:
    """`(N, n²)` as pictures `(N, n, n)`."""
    low, high = math.asinh(FAINT), math.asinh(BRIGHT)
    side = math.isqrt(x.shape[1])
    shown: Array = (np.arcsinh(x.reshape(-1, side, side) / sigma) - low) / (high - low)
    return shown
