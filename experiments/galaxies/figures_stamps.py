"""Figures of stamps: what was observed, and what methods separate it into, beside the truth where it is known."""

from __future__ import annotations

__all__ = ["JOINT", "Run", "Samples", "laps_figure", "priors_figure", "real_figure", "separations_figure", "worst_figure"]

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments.galaxies.config import Transform
from experiments.galaxies.data.transforms import fluxes
from experiments.galaxies.panels import Array, peaks_of, two_contrasts
from experiments.report.methods import method_named
from experiments.report.samples import laps_of

JOINT = ("joint", "joint_wide", "joint_asinh")
OURS = (*JOINT, "mixture")
"""Whose draws are shown where one method has to do: the first that has been run."""
LAPS = 7
"""Laps that are shown, of all that there were."""
UNITS = {"real": "display levels, 0 to 1", "archive": "units in which the noise of a usual pixel is 0.02"}
SIMULATED = "units in which the noise of a usual pixel of space is 0.02"
Samples = Mapping[str, Array]


@dataclass(frozen=True)
class Run:
    """found: kept arrays by method. transform: of those that are draws of the model itself."""

    found: Mapping[str, Samples]
    problem: str
    seed: int
    transform: Transform

    def ours(self, *names: str) -> tuple[str, Samples] | None:
        """The method that is shown, and its arrays, if it has these."""
        return next(((m, self.found[m]) for m in OURS if set(names) <= self.found.get(m, {}).keys()), None)

    def joint(self) -> Samples:
        """Arrays of the diffusion model."""
        return next((self.found[m] for m in JOINT if m in self.found), {})

    def fluxes(self, x: Array) -> Array:
        """Of arrays in the model's space."""
        return fluxes(torch.from_numpy(x), self.transform).numpy()

    def sigma(self) -> float | None:
        """Standard deviation of the noise of a usual pixel, where it is known."""
        kept = next((s["known_sigma"] for s in self.found.values() if "known_sigma" in s), None)
        return None if kept is None else float(np.median(kept))

    @property
    def injected(self) -> str:
        """What a caption says of galaxies whose truth is known."""
        return ", models of real galaxies put on random fields" if self.problem in UNITS else ""

    def text(self, what: str) -> str:
        """A caption."""
        return f"Seed {self.seed}, {self.problem}: {what} Fluxes are in {UNITS.get(self.problem, SIMULATED)}."


def separations_figure(run: Run) -> Figure | None:
    """The paper's Figure 4, beside the truth and the other methods."""
    found = {m: s for m, s in run.found.items() if {"known_observed", "known_galaxy"} <= s.keys()}
    if not found:
        return None
    first = next(iter(found.values()))
    ground = "known_seen" in first
    rows = [("seen from the ground", first["known_seen"])] if ground else []
    rows += [("sky + galaxy, truth" if ground else "observation", first["known_observed"])]
    if "known_sky_truth" in first:
        rows.append(("sky, truth", first["known_sky_truth"]))
    if (own := run.ours("known_sky")) is not None:
        rows.append((f"sky,\n{method_named(own[0]).short}", own[1]["known_sky"]))
    if "known_truth" in first:
        rows.append(("galaxy, truth", first["known_truth"]))
    rows += [(f"galaxy,\n{method_named(m).short}", s["known_galaxy"]) for m, s in found.items()]
    what = f"separation of fresh stamps{run.injected}, by one posterior draw of each method that has draws."
    return two_contrasts(rows, run.text(what), peaks_of(first["known_observed"]), run.sigma())


def real_figure(run: Run) -> Figure | None:
    own = run.ours("real_observed", "real_sky_mean", "real_galaxy_mean", "real_galaxy_sd", "real_sigma")
    if own is None:
        return None
    method, kept = own
    rows = [
        ("observation", kept["real_observed"]),
        ("sky, mean", kept["real_sky_mean"]),
        ("sky, a draw", kept["real_sky"]),
        ("galaxy, mean", kept["real_galaxy_mean"]),
        ("galaxy, a draw", kept["real_galaxy"]),
        ("galaxy, SD × 3", 3 * kept["real_galaxy_sd"]),
    ]
    what = f"real galaxies that were not learned from, separated by {method_named(method).short}; nobody knows their truth."
    sigma = float(np.median(kept["real_sigma"]))
    return two_contrasts(rows, run.text(what), peaks_of(kept["real_observed"]), sigma)


def laps_figure(run: Run) -> Figure | None:
    """The paper's Figure 5."""
    kept = run.joint()
    laps = laps_of(kept, 2)
    if not laps:
        return None
    rows = [("observation", run.fluxes(kept["observed_2"]))] if "observed_2" in kept else []
    rows += [("galaxy, truth", run.fluxes(kept["lap_truth_2"]))] if "lap_truth_2" in kept else []
    peaks = np.max([peaks_of(images) for _, images in rows], axis=0) if rows else None
    laps = sorted({laps[round(k)] for k in np.linspace(0, len(laps) - 1, LAPS)})
    rows += [(f"galaxy, lap {lap}", run.fluxes(kept[f"lap{lap}_2"])) for lap in laps]
    what = "the galaxy drawn for training stamps, lap by lap; lap 0 is what EM starts from, "
    what += "lap 1 is the sky's, which leaves galaxies as they are. What was not measured is 0."
    return two_contrasts(rows, run.text(what), peaks, run.sigma())


def priors_figure(run: Run) -> Figure | None:
    rows = [
        (f"{name},\n{method_named(m).short}", run.fluxes(s[f"prior_{b}"]))
        for b, name in ((1, "sky"), (2, "galaxy"))
        for m, s in run.found.items()
        if f"prior_{b}" in s
    ]
    return two_contrasts(rows, run.text("draws of the learned priors."), None, run.sigma()) if rows else None


def worst_figure(run: Run) -> Figure | None:
    """The galaxies that are farthest from the truth."""
    own = run.ours("worst_observed", "worst_truth", "worst_mean", "worst_sd")
    if own is None:
        return None
    method, kept = own
    ground = "known_seen" in kept
    rows = [("seen from the ground", kept["worst_seen"])] if "worst_seen" in kept else []
    rows += [
        ("sky + galaxy, truth" if ground else "observation", kept["worst_observed"]),
        ("galaxy, truth", kept["worst_truth"]),
        ("posterior mean", kept["worst_mean"]),
        ("SD × 3", 3 * kept["worst_sd"]),
    ]
    what = "the fresh stamps whose galaxy is farthest from the truth beside its peak, "
    what += f"by {method_named(method).short}{run.injected}."
    return two_contrasts(rows, run.text(what), peaks_of(kept["worst_observed"]), run.sigma())
