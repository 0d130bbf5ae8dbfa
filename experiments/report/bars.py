"""What was to be reached, and whether every seed that was run has reached it: alone, and beside other methods."""

from __future__ import annotations

__all__ = ["Against", "Bar", "Rows", "bars_of", "compared"]

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from experiments.report.lines import cell, line

Rows = Mapping[tuple[str, str, str, str], Mapping[str, Any]]
"""Rows of a table by (problem, method, source, metric)."""
Titles = Mapping[str, tuple[str, int]]
"""Of metrics, and their decimals."""
HEAD = ("| problem | method | bar | ours | |", "| --- | --- | --- | ---: | --- |")


class Bar(NamedTuple):
    """What a method was to reach on a problem: `metric` of a source at most `most` and at least `least`, for every seed."""

    problem: str
    metric: str
    most: float = math.inf
    least: float = -math.inf
    method: str = "joint"
    source: str = "mean"

    def told(self, title: str) -> str:
        """In words."""
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"{title} from {self.least:g} to {self.most:g}"
        return f"{title} ≥ {self.least:g}" if math.isfinite(self.least) else f"{title} ≤ {self.most:g}"

    def verdict(self, values: Sequence[float | None]) -> str:
        """In words, of the values of all seeds that were run, None where one diverged."""
        return _verdict([v is not None and self.least <= v <= self.most for v in values])


def _verdict(held: Sequence[bool]) -> str:
    """held: whether each seed has reached it."""
    if not held:
        return "not measured"
    return "met" if all(held) else f"**not met** ({sum(held)} of {len(held)} seeds)" if len(held) > 1 else "**not met**"


class Against(NamedTuple):
    """What a method was to reach beside another, on the same seeds: that `metric` of a source is at most `times` the other's
    and `slack` more; of negative sign, at least the other's and −slack more; of sign 0, at most slack away from it. error: of
    the other's, is added to the slack. theirs: the other's metric where it is not the same one. problem: "" for all."""

    method: str
    metric: str
    rival: str
    slack: float
    sign: int = 1
    error: str = ""
    problem: str = ""
    source: str = "mean"
    times: float = 1.0
    theirs: str = ""

    def told(self, titles: Titles) -> str:
        """In words."""
        title, of = titles[self.metric][0], f"{self.times:g} × {self.rival}'s" if self.times != 1 else f"{self.rival}'s"
        of += f" {titles[self.theirs][0]}" if self.theirs else ""
        if self.sign == 0:
            return f"{title} within {self.slack:g} of {of}"
        least = " + " if self.slack < 0 else " − "
        more = f"{least}{abs(self.slack):g}" if self.sign < 0 and self.slack else " + its standard error" if self.error else ""
        return f"{title} {'≤' if self.sign > 0 else '≥'} {of}{more}"

    def compared(self, rows: Rows, problem: str) -> tuple[list[float | None], list[bool]]:
        """Of each seed that both have: ours less the other's, and whether that is enough. None where one diverged."""

        def of(method: str, metric: str) -> dict[int, float | None]:
            row = rows.get((problem, method, self.source, metric))
            return dict(zip(row["seeds"], row["values"], strict=True)) if row else {}

        ours, theirs, errors = (
            of(self.method, self.metric),
            of(self.rival, self.theirs or self.metric),
            of(self.rival, self.error),
        )
        shared = [seed for seed in ours if seed in theirs]
        pairs = [(ours[s], theirs[s], self.slack + (errors.get(s) or 0.0)) for s in shared]
        apart = [None if a is None or b is None else a - b for a, b, _ in pairs]
        return apart, [a is not None and b is not None and self._enough(a - self.times * b, most) for a, b, most in pairs]

    def _enough(self, apart: float, most: float) -> bool:
        return (self.sign * apart if self.sign else abs(apart)) <= most


def bars_of(rows: Rows, bars: Sequence[Bar], titles: Titles) -> list[str]:
    """A table of bars."""
    lines = ["What was to be reached, and whether every seed has reached it:", "", *HEAD]
    for bar in bars:
        title, digits = titles[bar.metric]
        row = rows.get((bar.problem, bar.method, bar.source, bar.metric))
        verdict = bar.verdict(row["values"] if row else ())
        lines.append(line(bar.problem, bar.method, bar.told(title), cell(row, digits), verdict))
    return lines


def compared(rows: Rows, bars: Sequence[Against], titles: Titles, problems: Sequence[str]) -> list[str]:
    """A table of bars that are other methods' numbers. problems: for bars of all."""
    lines = ["The same beside other methods; ours: less theirs, mean over seeds:", "", *HEAD]
    for bar in bars:
        _, digits = titles[bar.metric]
        found = {p: bar.compared(rows, p) for p in ([bar.problem] if bar.problem else problems)}
        kept = {p: both for p, both in found.items() if both[0]} or {bar.problem or "all": ([], [])}
        for problem, (apart, held) in kept.items():
            known = [value for value in apart if value is not None]
            mean = f"{fmean(known):+.{digits}f}" if known and len(known) == len(apart) else "–"
            lines.append(line(problem, bar.method, bar.told(titles), mean, _verdict(held)))
    return lines
