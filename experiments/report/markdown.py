"""The table of a run in Markdown: for each problem its quality, the paper's numbers beside ours, and what it cost."""

from __future__ import annotations

__all__ = ["markdown"]

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.report.bins import bins
from experiments.report.cells import NONE, cell_of
from experiments.report.columns import AUDIT, COST, HIGH, LAWS, PAPERS, PARTS, QUALITY, SCORED, SKY, Column
from experiments.report.methods import method_named, method_order

Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str, str], Row]
"""Rows of one problem by (method, source, metric)."""


def markdown(table: Mapping[str, Any], caption: str) -> str:
    """Return a table of `tables.build_table` as Markdown. caption: how the numbers were scored."""
    rows: Sequence[Row] = table["rows"]
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    lines = [
        f"# {table['experiment']}, preset {table['preset']}",
        "",
        f"- command: `{table['command']}`",
        *_commits(table["commits"]),
        f"- seeds: {', '.join(map(str, seeds)) or NONE}",
        f"- samples: {_samples(rows)}",
        "",
        caption.strip(),
        "",
        *_without_floor(rows),
        f"Numbers are mean ± standard deviation over seeds; of several sources, the mean. {NONE}: not measured, or not "
        "finite for some seed. ↓, ↑, →: which values are best. **Bold**: the best by the first proper score of a table, what "
        "has seen the truth aside. A PSNR says little without the spread ratio beside it: draws too narrow gain decibels.",
    ]
    by_problem: dict[str, dict[tuple[str, str, str], Row]] = defaultdict(dict)
    for row in rows:
        by_problem[row["problem"]][row["method"], row["source"], row["metric"]] = row
    for problem, cells in by_problem.items():
        lines += ["", f"## {problem}", *_section(cells, method_order(method for method, _, _ in cells))]
    return "\n".join(lines) + "\n"


def _without_floor(rows: Sequence[Row]) -> list[str]:
    """What is said of distances from references that a floor was not taken of."""
    distances = any(row["metric"].endswith(("frechet", "pqmass")) for row in rows)
    if not distances or {"floor", "exact"} & {row["method"] for row in rows}:
        return []
    return ["**No floor stands beside these distances**: they may be from the very sources that are scored.", ""]


def _commits(commits: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """The commits whose code made the rows; where they are several, what each of them made."""
    if len(commits) < 2:
        return [f"- commit: `{commit}`" for commit in commits]
    lines = []
    for commit, made in commits.items():
        problems: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for problem, methods in made.items():
            problems[tuple(sorted(methods))].append(problem)
        parts = [f"{', '.join(methods)} on {', '.join(names)}" for methods, names in problems.items()]
        lines.append(f"- commit `{commit}`: {'; '.join(parts)}")
    return lines


def _section(rows: Rows, methods: Sequence[str]) -> list[str]:
    newest = max((source for _, source, _ in rows if source != "mean"), default="mean")
    lines = _grid(rows, methods, QUALITY, newest)
    if any(key[2] == "remains_auc" for key in rows):
        lines += ["", f"The parts of the separation (source {newest}: the target; 1: the background):"]
        lines += _grid(rows, methods, PARTS, newest)
    if any(row["paper"] is not None and key[1] == newest for key, row in rows.items()):
        lines += ["", f"Beside the paper (source {newest}, SD in the paper's form; ours | the paper's):"]
        lines += _grid(rows, methods, PAPERS, newest, paper=True)
    if audit := _grid(rows, methods, AUDIT, newest):
        lines += ["", "Audit: calibration of joint draws, and log p of candidates for a source:", *audit]
    for title, columns in SKY:
        if grid := _grid(rows, methods, columns, newest):
            lines += ["", title, *grid]
    if binned := bins(rows, methods, newest):
        lines += ["", "Their fluxes by brightness and by the share of their neighbours in the light:", *binned]
    if any(key[2] == "prior_pixels" for key in rows):
        lines += ["", "Laws of galaxies and of sky as they were learned, beside clean ones:"]
        lines += _grid(rows, methods, LAWS, newest)
    cost = _grid(rows, methods, COST, newest, paper=True)
    return lines + (["", "Cost:", *cost] if cost else [])


def _grid(rows: Rows, methods: Sequence[str], columns: Sequence[Column], newest: str, paper: bool = False) -> list[str]:
    """One Markdown table; columns without a number are left out, and so are the paper's where it has none."""
    named = {(newest if column.source == "newest" else column.source, column.metric) for column in columns if not column.always}
    methods = [m for m in methods if any(key[0] == m and key[1:] in named for key in rows)]
    header, body, kept, decided = ["method"], [[method_named(method).label] for method in methods], False, False
    for column in columns:
        source = newest if column.source == "newest" else column.source
        cells = [rows.get((method, source, column.metric)) for method in methods]
        theirs = [cell["paper"] if cell else None for cell in cells]
        kept = kept if column.always else any(cell is not None for cell in cells)
        if not kept:
            continue
        header.append(column.head(newest))
        best = None if decided else _best(column, methods, cells)
        decided = decided or best is not None
        for line, cell in zip(body, cells, strict=True):
            line.append(cell_of(cell, column, best))
        if paper and any(value is not None for value in theirs):
            header.append("paper")
            for line, value in zip(body, theirs, strict=True):
                line.append(NONE if value is None else f"{value * column.scale:g}")
    if len(header) == 1:
        return []
    return ["", *(f"| {' | '.join(line)} |" for line in (header, ["---"] + ["---:"] * (len(header) - 1), *body))]


def _best(column: Column, methods: Sequence[str], cells: Sequence[Row | None]) -> float | None:
    """The best mean of a column that may decide a table, where there is something to compare."""
    rivals: list[float] = [
        cell["mean"]
        for method, cell in zip(methods, cells, strict=True)
        if cell and cell["mean"] is not None and not method_named(method).knows_truth
    ]
    if not column.proper or len(rivals) < 2:
        return None
    return max(rivals) if column.ideal == HIGH else min(rivals)


def _samples(rows: Iterable[Row]) -> str:
    """Sample counts of what was scored (what is derived here has those of what it is derived from)."""
    scored = {column.metric for column in SCORED}
    counts: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["samples"] and row["metric"] in scored:
            counts[row["metric"]].add(row["samples"])
    metrics: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for metric in sorted(counts):
        metrics[tuple(sorted({max(counts[metric]), min(counts[metric])}))].append(metric)
    texts = [" to ".join(f"{n:,}" for n in ends) + f" ({', '.join(metrics[ends])})" for ends in sorted(metrics)]
    return "; ".join(reversed(texts)) or NONE
