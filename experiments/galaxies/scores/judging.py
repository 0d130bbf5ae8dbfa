"""All scores of separated galaxies, of draws `(D, N, 1, n, n)` of both sources, and what the figures show of them.

Draws of the sky are None for a method that gives the galaxy alone.
"""

from __future__ import annotations

__all__ = ["BINNED", "Judgement", "judge_held_out", "judge_known", "judge_real"]

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.galaxies.data.stamps import Stamps
from experiments.galaxies.scores.bins import BLENDING, brightness, cells
from experiments.galaxies.scores.measures import (
    BLENDED,
    by_bin,
    coverage_scores,
    flux,
    flux_scores,
    held_out_scores,
    hold_out,
    image_scores,
    interval,
    leftover_scores,
    residual_scores,
    shape_scores,
    within,
)

HELD_OUT = 0.05
"""Share of the pixels that are held out."""
BINNED = ("flux_bias", "flux_scatter", "flux_coverage", "psnr_peak", "ssim_peak", "centroid_error", "ellipticity_error")
"""Scores that are kept against magnitude (flux, where galaxies have no magnitudes) and blending."""
SHOWN = 60
"""Stamps kept for figures."""
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Judgement:
    """scores: by (source, from "1", or "mean"; metric) the value and the number of galaxies. arrays: for the
    figures."""

    scores: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)

    def __or__(self, other: Judgement) -> Judgement:
        return Judgement(self.scores | other.scores, self.arrays | other.arrays)


def _named(
    scores: dict[str, float], count: int, prefix: str = "", source: str = "2"
) -> dict[tuple[str, str], tuple[float, int]]:
    return {(source, f"{prefix}{name}"): (value, count) for name, value in scores.items()}


def judge_known(sky: Tensor | None, galaxy: Tensor, stamps: Stamps, seen: Stamps | None = None) -> Judgement:
    """Of galaxies whose truth is known. seen: what was observed of them, where it is not y of the stamps."""
    mean, blended = galaxy.mean(0), stamps.catalogue["blending"] >= BLENDED
    scores = _named(_estimates(mean, stamps) | image_scores(mean, stamps), len(stamps))
    if bool(blended.any()):
        scores |= _named(flux_scores(mean[blended], stamps.select(blended)), int(blended.sum()), "blended_")
    scores |= _cells(galaxy, stamps)
    if _is_unsure(galaxy):
        scores |= _named(coverage_scores(galaxy, stamps), len(stamps))
        draws = [image_scores(x, stamps)["psnr_peak"] for x in galaxy[:2]]
        scores |= _named({"psnr_peak_draws": sum(draws) / len(draws)}, len(stamps))
    if sky is not None and seen is None:
        found = residual_scores(sky, galaxy, stamps)
        scores |= _named(found, len(stamps), source="mean")
    arrays = _pictures("known", sky, galaxy, stamps) | {"known_truth": _few(stamps.galaxy)}
    if stamps.sky is not None:
        arrays["known_sky_truth"] = _few(stamps.sky)
    if seen is not None:
        arrays["known_seen"] = _few(_observed(seen))
    arrays |= _bins(galaxy, stamps) | {"recovery": _recovery(galaxy, stamps)}
    return Judgement(scores, arrays | _worst(mean, galaxy, stamps, seen))


def judge_real(sky: Tensor | None, galaxy: Tensor, stamps: Stamps) -> Judgement:
    """Of galaxies whose truth nobody knows."""
    scores = _named(leftover_scores(galaxy.mean(0), stamps), len(stamps), "real_")
    if sky is not None:
        scores |= _named(residual_scores(sky, galaxy, stamps), len(stamps), "real_", "mean")
    return Judgement(scores, _pictures("real", sky, galaxy, stamps))


def judge_held_out(draw: Callable[[Tensor], tuple[Tensor | None, Tensor]], stamps: Stamps, seed: int) -> Judgement:
    """How well pixels that the separation has not seen are predicted. draw: both sources, from the pixels it is
    given."""
    good, held = hold_out(stamps.good, HELD_OUT, seed)
    sky, galaxy = draw(good)
    assert sky is not None
    scores = held_out_scores(stamps.y, stamps.good, stamps.sigma, sky + galaxy, held)
    return Judgement(_named(scores, len(stamps), source="mean"))


def _estimates(mean: Tensor, stamps: Stamps) -> dict[str, float]:
    return flux_scores(mean, stamps) | shape_scores(mean, stamps) | leftover_scores(mean, stamps)


def _few(x: Tensor | None) -> Array:
    assert x is not None
    return x[:SHOWN].flatten(1).float().numpy()


def _pictures(name: str, sky: Tensor | None, galaxy: Tensor, stamps: Stamps) -> dict[str, Array]:
    """Observations, draws, means and standard deviations of the first galaxies."""
    arrays = {
        "observed": _few(_observed(stamps)),
        "sigma": _few(stamps.sigma),
        "galaxy": _few(galaxy[0]),
        "galaxy_mean": _few(galaxy.mean(0)),
        "galaxy_sd": _few(galaxy.std(0)),
    }
    if sky is not None:
        arrays |= {"sky": _few(sky[0]), "sky_mean": _few(sky.mean(0))}
    return {f"{name}_{key}": value for key, value in arrays.items()}


def _is_unsure(galaxy: Tensor) -> bool:
    """Whether draws are of a method that says how sure it is."""
    return float(galaxy.var(0).max()) > 0


def _bins(galaxy: Tensor, stamps: Stamps) -> dict[str, Array]:
    """Scores by bin: columns low, high, count, and those of BINNED, NaN where there is none."""

    def scores(draws: Tensor, part: Stamps) -> dict[str, float]:
        mean = draws.mean(0)
        found = flux_scores(mean, part) | image_scores(mean, part) | shape_scores(mean, part)
        return found | (coverage_scores(draws, part) if unsure else {})

    unsure, arrays = _is_unsure(galaxy), {}
    binned = {"blending": BLENDING} | dict([brightness(stamps)])
    for column in (column for column in binned if column in stamps.catalogue):
        rows = by_bin(scores, galaxy, stamps, column, binned[column])
        arrays[f"by_{column}"] = np.array([[row.get(n, math.nan) for n in ("low", "high", "count", *BINNED)] for row in rows])
    return arrays


def _cells(galaxy: Tensor, stamps: Stamps) -> dict[tuple[str, str], tuple[float, int]]:
    """Scores of fluxes by bins of brightness and blending, `flux_coverage:mag<21.5,blend>0.3`."""
    scores, unsure = dict[tuple[str, str], tuple[float, int]](), _is_unsure(galaxy)
    for name, rows in cells(stamps).items():
        draws, part = galaxy[:, rows], stamps.select(rows)
        found = flux_scores(draws.mean(0), part)
        if unsure:
            known = coverage_scores(draws, part)
            found |= {metric: value for metric, value in known.items() if metric.startswith("flux")}
        scores |= _named({f"{metric}:{name}": value for metric, value in found.items()}, len(rows))
    return scores


def _recovery(galaxy: Tensor, stamps: Stamps) -> Array:
    """Of each galaxy the flux: true, by the mean, and both ends of its 68 % interval, NaN where there is none; and
    blending."""
    assert stamps.galaxy is not None
    where = within(stamps)
    draws = flux(galaxy, where)
    ends = interval(draws) if _is_unsure(galaxy) else (torch.full_like(draws[0], math.nan),) * 2
    blending = stamps.catalogue["blending"].to(draws)
    return torch.stack([flux(stamps.galaxy, where), draws.mean(0), *ends, blending], dim=1).numpy()


def _worst(mean: Tensor, galaxy: Tensor, stamps: Stamps, seen: Stamps | None) -> dict[str, Array]:
    """The stamps whose galaxy is farthest from the truth, beside its peak. seen: as of `judge_known`."""
    assert stamps.galaxy is not None
    misfit = (mean - stamps.galaxy).square().mean((1, 2, 3)) / stamps.galaxy.amax((1, 2, 3)).square()
    rows = misfit.argsort(descending=True)[:SHOWN]
    parts = {"observed": _observed(stamps), "truth": stamps.galaxy, "mean": mean, "sd": galaxy.std(0)}
    if seen is not None:
        parts["seen"] = _observed(seen)
    return {f"worst_{name}": _few(x[rows]) for name, x in parts.items()}


def _observed(stamps: Stamps) -> Tensor:
    """y, NaN where nothing was measured."""
    return torch.where(stamps.good, stamps.y, math.nan)
