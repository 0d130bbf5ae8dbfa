"""All scores of separated galaxies, of draws `(D, N, 1, n, n)` of both sources, and what the figures show of them.

Draws of the sky are None for a method that gives the galaxy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from experiments.galaxies.measures import (
    BLENDED,
    BLENDING,
    by_bin,
    coverage_scores,
    flux_scores,
    held_out_scores,
    hold_out,
    image_scores,
    leftover_scores,
    residual_scores,
    shape_scores,
)
from experiments.galaxies.stamps import Stamps

__all__ = ["Judgement", "judge_held_out", "judge_known", "judge_real"]

HELD_OUT = 0.05
"""Share of the pixels that are held out."""
MAGNITUDES = (21.5, 22.0, 22.5, 23.0, 23.5)
SHOWN = 60
"""Stamps kept for figures."""


@dataclass(frozen=True)
class Judgement:
    """scores: by (source, from "1", or "mean"; metric) the value and the number of galaxies. arrays: for the figures."""

    scores: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

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
    if float(galaxy.var(0).max()) > 0:  # of one that says how sure it is
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
        arrays["known_seen"] = _few(torch.where(seen.good, seen.y, math.nan))
    arrays |= _bins(mean, stamps)
    return Judgement(scores, arrays | _worst(mean, galaxy, stamps))


def judge_real(sky: Tensor | None, galaxy: Tensor, stamps: Stamps) -> Judgement:
    """Of galaxies whose truth nobody knows."""
    scores = _named(leftover_scores(galaxy.mean(0), stamps), len(stamps), "real_")
    if sky is not None:
        scores |= _named(residual_scores(sky, galaxy, stamps), len(stamps), "real_", "mean")
    return Judgement(scores, _pictures("real", sky, galaxy, stamps))


def judge_held_out(draw: Callable[[Tensor], tuple[Tensor | None, Tensor]], stamps: Stamps, seed: int) -> Judgement:
    """How well pixels that the separation has not seen are predicted. draw: both sources, from the pixels it is given."""
    good, held = hold_out(stamps.good, HELD_OUT, seed)
    sky, galaxy = draw(good)
    assert sky is not None
    scores = held_out_scores(stamps.y, stamps.good, stamps.sigma, sky + galaxy, held)
    return Judgement(_named(scores, len(stamps), source="mean"))


def _estimates(mean: Tensor, stamps: Stamps) -> dict[str, float]:
    return flux_scores(mean, stamps) | shape_scores(mean, stamps) | leftover_scores(mean, stamps)


def _few(x: Tensor | None) -> np.ndarray:
    assert x is not None
    return x[:SHOWN].flatten(1).float().numpy()


def _pictures(name: str, sky: Tensor | None, galaxy: Tensor, stamps: Stamps) -> dict[str, np.ndarray]:
    """Observations, draws, means and standard deviations of the first galaxies."""
    arrays = {
        "observed": _few(torch.where(stamps.good, stamps.y, math.nan)),
        "sigma": _few(stamps.sigma),
        "galaxy": _few(galaxy[0]),
        "galaxy_mean": _few(galaxy.mean(0)),
        "galaxy_sd": _few(galaxy.std(0)),
    }
    if sky is not None:
        arrays |= {"sky": _few(sky[0]), "sky_mean": _few(sky.mean(0))}
    return {f"{name}_{key}": value for key, value in arrays.items()}


def _bins(mean: Tensor, stamps: Stamps) -> dict[str, np.ndarray]:
    """Scores against magnitude and blending: columns low, high, count, flux_bias, flux_scatter, psnr_peak."""
    arrays = {}
    for column, edges in (("magnitude", MAGNITUDES), ("blending", BLENDING)):
        if column in stamps.catalogue:
            both = [by_bin(score, mean, stamps, column, edges) for score in (flux_scores, image_scores)]
            rows = [
                [flux["low"], flux["high"], flux["count"], flux["flux_bias"], flux["flux_scatter"], image["psnr_peak"]]
                for flux, image in zip(*both, strict=True)
            ]
            arrays[f"by_{column}"] = np.array(rows)
    return arrays


def _worst(mean: Tensor, galaxy: Tensor, stamps: Stamps) -> dict[str, np.ndarray]:
    """The stamps whose galaxy is farthest from the truth, beside its peak."""
    assert stamps.galaxy is not None
    misfit = (mean - stamps.galaxy).square().mean((1, 2, 3)) / stamps.galaxy.amax((1, 2, 3)).square()
    rows = misfit.argsort(descending=True)[:SHOWN]
    seen = torch.where(stamps.good, stamps.y, math.nan)
    parts = {"observed": seen, "truth": stamps.galaxy, "mean": mean, "sd": galaxy.std(0)}
    return {f"worst_{name}": _few(x[rows]) for name, x in parts.items()}
