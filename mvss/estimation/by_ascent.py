"""First priors by stochastic ascent of the exact likelihood (`mixture_ascent`): small sources, under any operators."""

from __future__ import annotations

__all__ = ["estimate_by_ascent"]

import math
from collections.abc import Callable
from pathlib import Path

from mvss.estimation.estimate import Estimate
from mvss.estimation.mixture_ascent import ascend_evidence
from mvss.presets.estimation import AscentConfig
from mvss.problem.units import Units
from mvss.problem.views import Views
from mvss.runtime.rng import Stream


def estimate_by_ascent(
    views: Views,
    config: AscentConfig,
    _units: Units,
    stream: Stream,
    progress: Callable[[float], None],
    part: Path | None,
    _held_out: float,
) -> Estimate:
    """In units of size one. part: file to keep what has been done so far."""
    fit = ascend_evidence(views, config, stream, progress, part)
    evidence = {"held_out": fit.held_out, "train": fit.train, "discarded": fit.discarded}
    evidence |= {"rivalry": fit.rivalry} if math.isfinite(fit.rivalry) else {}
    return Estimate(fit.priors, evidence=evidence)
