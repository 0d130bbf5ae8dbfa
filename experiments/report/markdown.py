"""The table of a run in Markdown: for each problem its quality, the paper's numbers beside ours, and what it cost."""

from __future__ import annotations

__all__ = ["markdown", "preface"]

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.report.cells import NONE, in_markdown
from experiments.report.columns import SCORED
from experiments.report.grids import Section, means_nothing, sections

Row = Mapping[str, Any]
NOTHING = ": its numbers mean nothing, it only shows that all of it runs"
"""What the first line says of such a table."""
BOLD = "**Bold**: the best by the first proper score of a table, what has seen the truth aside. "


def markdown(table: Mapping[str, Any], caption: str, sought: str | None = None) -> str:
    """Return a table of `tables.build_table` as Markdown. caption, sought: see `tables.write_table`."""
    nothing = NOTHING if means_nothing(table["preset"]) else ""
    lines = [f"# {table['experiment']}, preset {table['preset']}{nothing}", "", *preface(table, caption)]
    for section in sections(table, sought):
        lines += _section(section)
    return "\n".join(lines) + "\n"


def preface(table: Mapping[str, Any], caption: str) -> list[str]:
    """The lines above a table: what made it, of which samples, and how it is read. In Markdown, of which they have lists,
    `code` and **bold** alone."""
    rows: Sequence[Row] = table["rows"]
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    return [
        f"- command: `{table['command']}`",
        *_commits(table["commits"]),
        f"- seeds: {', '.join(map(str, seeds)) or NONE}",
        f"- samples: {_samples(rows)}",
        "",
        caption.strip(),
        "",
        *_without_floor(rows),
        f"Numbers are mean ± standard deviation over seeds; of several sources, the mean. {NONE}: not measured, or not "
        "finite for some seed. ↓, ↑, →: which values are best. "
        + ("" if means_nothing(table["preset"]) else BOLD)
        + "A PSNR says little without the spread ratio beside it: draws too narrow gain decibels.",
    ]


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


def _section(section: Section) -> list[str]:
    lines = ["", f"## {section.problem}"]
    for title, grid in section.parts:
        lines += ["", title] if title else []
        rule = ["---"] * grid.names + ["---:"] * (len(grid.head) - grid.names)
        body = [[in_markdown(cell) for cell in line] for line in grid.rows]
        lines += ["", *(f"| {' | '.join(line)} |" for line in (grid.head, rule, *body))]
    return lines


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
