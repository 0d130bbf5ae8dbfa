"""What a fit says of itself: how well it explains the data, what each lap was good for, what no view tells, what it cost."""

from __future__ import annotations

__all__ = ["FitReport", "LapReport", "ViewReport"]

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EXPLAINED = (0.8, 1.25)
"""χ² per number outside of which draws explain the data badly, or too well."""
CLAMPED = 0.05
"""Share of clamped eigenvalues from which covariances are not to be trusted."""
DISCARDED = 0.01
"""Share of probability from which draws of a search of the mixtures are not to be trusted: what is left out is far from the
likeliest answers, so that draws lose more of their variance than of their probability."""
OVERFIT = 0.5
"""Nats by which first priors explain an observation of their own better than a held-out one, from which they are overfitted."""
UNSOLVED = 1e-2
"""Relative residual of an iterative solve from which draws are not to be trusted."""

RIVALS = 1.0
"""Nats per draw from which first priors of other starts, of nearly the same evidence, are other priors."""


@dataclass(frozen=True)
class ViewReport:
    """chi2: rᵀ Σ⁻¹ r of the residuals of the last draws, with Σ of the noise, over the count of numbers: 1 where they explain
    the data. observations: their number."""

    name: str
    observations: int
    chi2: float

    def warning(self) -> str | None:
        """Where χ² is far from 1."""
        low, high = EXPLAINED
        if low <= self.chi2 <= high:
            return None
        why = "draws do not explain the data" if self.chi2 > high else "the noise may be less than was said"
        return f"{self.name}: chi2 per number is {self.chi2:.3g}, not within {low:g} to {high:g}: {why}"


@dataclass(frozen=True)
class LapReport:
    """held_out: denoising loss of draws that no network has learned from, before and after the M-step, by what learned.
    clamped: the largest share of covariance eigenvalues that networks had made negative. residual: the largest of an iterative
    solve. m_step, e_step: seconds. kept: a line for each view whose draws are those of before the lap, or were not solved
    for."""

    number: int
    held_out: Mapping[str, tuple[float, float]]
    clamped: float
    residual: float
    m_step: float
    e_step: float
    kept: tuple[str, ...] = ()

    @staticmethod
    def of(number: int, record: Mapping[str, Any], sources: tuple[str, ...]) -> LapReport:
        """From the record of a lap of EM."""
        held_out = {}
        for key, value in record.items():
            if key.startswith("held_out_before_"):
                *kind, place = key.removeprefix("held_out_before_").split("_")
                name = f"posterior of {sources[int(place) - 1]}" if kind else sources[int(place) - 1]
                held_out[name] = (value, record[key.replace("before", "after")])
        seconds = (record.get("m_step_seconds", 0.0), record.get("e_step_seconds", 0.0))
        kept = tuple(record.get("kept", ()))
        return LapReport(number, held_out, record.get("clamped", 0.0), record.get("residual", 0.0), *seconds, kept)

    def warnings(self) -> list[str]:
        """Where the lap made things worse, gave draws that are not kept or not solved for, or stands on clamped covariances."""
        lines = [f"lap {self.number}: {line}" for line in self.kept]
        lines += [
            f"lap {self.number}: {name} denoises held-out draws worse than before it ({before:.4g} to {after:.4g})"
            for name, (before, after) in self.held_out.items()
            if after > before
        ]
        if self.clamped > CLAMPED:
            lines.append(f"lap {self.number}: {self.clamped:.0%} of covariance eigenvalues were negative and clamped")
        return lines


@dataclass(frozen=True)
class FitReport:
    """views: of each. laps: of each. evidence: mean log p(y) of an observation, nats, under the first priors: "held_out",
    "train"; and "discarded", the share of probability that the search left out. unconstrained: what no view tells. seconds: by
    phase. peak_memory_gib: of the process during the fit. kept: a line for each view whose last draws are those of the laps, or
    were not solved for. discarded: share of probability that the search of the mixtures left out where laps begin, of the
    worst view. sigma_min: what a least noise level of the settings was lowered to, to suit the noise of the views. chosen:
    a line for each source of which two posteriors were compared (`posteriors.auto`), or the prior with its network and the
    mixture alone (`em.kept_networks`). odd: what looks odd about the observations (`problem.data_checks`)."""

    views: list[ViewReport]
    laps: list[LapReport]
    evidence: Mapping[str, float] = field(default_factory=dict)
    unconstrained: list[str] = field(default_factory=list)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_gib: float = 0.0
    kept: list[str] = field(default_factory=list)
    discarded: float = 0.0
    sigma_min: float | None = None
    chosen: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What a user should know before trusting the fit, a line each."""
        lines = [*self.odd, *self.unconstrained]
        gap = self.evidence.get("train", 0.0) - self.evidence.get("held_out", math.inf)
        if gap > OVERFIT:
            lines.append(
                f"first priors explain held-out observations worse than their own, by {gap:.2g} nats each: "
                "take more of them or fewer components, and look for wild numbers"
            )
        if self.evidence.get("rivalry", 0.0) > RIVALS:
            lines.append("fits from other starts explain the data as well and differ: sources may have traded parts")
        if self.evidence.get("stopped"):
            lines.append("the fit of the first priors ended early, since what came next was singular: more observations")
        if self.discarded > DISCARDED:
            lines.append(f"the search of the mixtures left out {self.discarded:.0%} of probability: raise posterior.beam")
        lines += [f"last draws: {line}" for line in self.kept]
        lines += [line for view in self.views if (line := view.warning())]
        return lines + [line for lap in self.laps for line in lap.warnings()]

    def __str__(self) -> str:
        lines = [f"chi2 per number: {', '.join(f'{v.name} {v.chi2:.3f} ({v.observations:,})' for v in self.views)}"]
        if self.evidence:
            names = {"held_out": "held out", "train": "training", "discarded": "share discarded by the search"}
            names["rivalry"] = "distance of rival fits"
            names |= {"fell": "laps that lowered it", "stopped": "stages that ended early"}
            parts = [f"{names.get(key, key)} {value:.4g}" for key, value in self.evidence.items()]
            lines.append(f"log-likelihood of an observation under the first priors, nats: {', '.join(parts)}")
        for lap in self.laps:
            if lap.held_out:
                parts = [f"{name} {before:.4g} -> {after:.4g}" for name, (before, after) in lap.held_out.items()]
                lines.append(
                    f"lap {lap.number}: held-out denoising loss {', '.join(parts)}; clamped {lap.clamped:.1%}; "
                    f"M-step {lap.m_step:.1f} s, E-step {lap.e_step:.1f} s"
                )
        if self.sigma_min is not None:
            lines.append(f"sigma_min lowered to {self.sigma_min:.2g}, to suit the noise of the views")
        lines += self.chosen
        spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        lines.append(f"{spent}; peak memory {self.peak_memory_gib:.2f} GiB")
        return "\n".join([*lines, *(f"warning: {line}" for line in self.warnings)])
