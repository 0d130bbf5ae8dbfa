"""A table as Markdown: for each problem its quality, the paper's numbers beside ours, and what it cost.

36.21 ± 0.35     mean ± standard deviation over seeds;   **bold**: the best of a column, the oracle aside
"""

from __future__ import annotations

__all__ = ["table_markdown"]

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str, str], Row]
"""Rows of one problem by (method, source, metric)."""

NONE = "–"
LABELS = {
    "joint": "joint (ours)",
    "mixture": "mixture (closed form)",
    "joint_paper": "joint, the paper's recipe",
    "gibbs": "Gibbs, equal compute",
    "gibbs_8x": "Gibbs, 8 × compute",
    "gibbs_mixture": "Gibbs, mixture start",
    "exact": "exact (oracle, floor)",
}


@dataclass(frozen=True)
class Column:
    """A column: `source` is "mean" or "newest"; `badness` orders its values (None: no value is the best)."""

    title: str
    metric: str
    decimals: int
    badness: Callable[[float], float] | None = None
    source: str = "mean"
    scale: float = 1.0


def _lower(value: float) -> float:
    return value


def _higher(value: float) -> float:
    return -value


def _near_one(value: float) -> float:
    return abs(value - 1)


# A gap is two-sided (draws at the posterior mean would gain 3 dB); a large p-value is no better than a middling one.
QUALITY = (
    Column("PSNR (dB)", "posterior_psnr", 2, _higher),
    Column("PSNR, source {newest}", "posterior_psnr", 2, _higher, "newest"),
    Column("gap to oracle (dB)", "oracle_gap_db", 2, abs),
    Column("posterior SD", "posterior_sinkhorn", 4, _lower),
    Column("over floor", "posterior_sinkhorn_excess", 4, _lower),
    Column("prior SD", "prior_sinkhorn", 4, _lower),
    Column("over floor", "prior_sinkhorn_excess", 4, _lower),
    Column("PQMass χ²/dof", "posterior_pqmass_chi2", 2, _near_one),
    Column("PQMass p", "posterior_pqmass", 3),
    Column("coverage error", "coverage_error", 3, _lower),
)
BESIDE = (
    Column("PSNR (dB)", "posterior_psnr", 2, _higher, "newest"),
    Column("posterior SD", "posterior_sinkhorn_paper", 4, _lower, "newest"),
    Column("prior SD", "prior_sinkhorn_paper", 4, _lower, "newest"),
    Column("posterior Fréchet, mean only", "posterior_frechet_mean_only", 2, _lower, "newest"),
    Column("prior Fréchet, mean only", "prior_frechet_mean_only", 2, _lower, "newest"),
    Column("posterior p", "posterior_pqmass", 3, None, "newest"),
    Column("prior p", "prior_pqmass", 3, None, "newest"),
)
COST = (
    Column("laps", "laps", 0),
    Column("network evaluations per observation", "network_evaluations", 0, _lower),
    Column("time per draw (ms)", "seconds_per_draw", 4, _lower, scale=1e3),
    Column("wall time (s)", "wall_seconds", 1, _lower),
    Column("peak memory (GiB)", "peak_memory_gib", 2, _lower),
)


def table_markdown(table: Mapping[str, Any], methods: Sequence[str], caption: str) -> str:
    """Return a table as Markdown.

    Arguments:
        table: what `mvss.report.build_table` returns.
        methods: the order of the rows of each problem.
        caption: how the numbers were scored.
    """
    rows: Sequence[Row] = table["rows"]
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    lines = [
        f"# {table['experiment']}, preset {table['preset']}",
        "",
        f"- command: `{table['command']}`",
        f"- commit: `{table['commit']}`",
        f"- seeds: {', '.join(map(str, seeds)) or NONE}",
        f"- samples: {_samples(rows)}",
        "",
        caption.strip(),
        "",
        f"Numbers are mean ± standard deviation over seeds; of several sources, their mean. {NONE}: not measured, or not "
        "finite for some seed. **Bold**: the best of a column, the exact posterior aside.",
    ]
    by_problem: dict[str, dict[tuple[str, str, str], Row]] = defaultdict(dict)
    for row in rows:
        by_problem[row["problem"]][row["method"], row["source"], row["metric"]] = row
    for problem, own in by_problem.items():
        lines += ["", f"## {problem}", *_section(own, [m for m in methods if any(m == key[0] for key in own)])]
    return "\n".join(lines) + "\n"


def _section(rows: Rows, methods: Sequence[str]) -> list[str]:
    newest = max((source for _, source, _ in rows if source != "mean"), default="mean")
    lines = _grid(rows, methods, QUALITY, newest)
    if any(row["paper"] is not None and key[1] == newest for key, row in rows.items()):
        lines += ["", f"Beside the paper (source {newest}, SD in the paper's form; ours | the paper's):"]
        lines += _grid(rows, methods, BESIDE, newest, paper=True)
    cost = _grid(rows, methods, COST, newest, paper=True)
    return lines + (["", "Cost:", *cost] if cost else [])


def _grid(rows: Rows, methods: Sequence[str], columns: Iterable[Column], newest: str, paper: bool = False) -> list[str]:
    """One Markdown table; columns without a number are left out, and so are the paper's where it has none."""
    header, body = ["method"], [[LABELS.get(method, method)] for method in methods]
    for column in columns:
        source = newest if column.source == "newest" else column.source
        cells = [rows.get((method, source, column.metric)) for method in methods]
        theirs = [cell["paper"] if cell else None for cell in cells]
        if all(cell is None for cell in cells):
            continue
        header.append(column.title.format(newest=newest))
        best = _best(column, methods, cells)
        for line, cell in zip(body, cells, strict=True):
            line.append(_cell(cell, column, best))
        if paper and any(value is not None for value in theirs):
            header.append("paper")
            for line, value in zip(body, theirs, strict=True):
                line.append(NONE if value is None else f"{value * column.scale:g}")
    if len(header) == 1:
        return []
    return ["", *(f"| {' | '.join(line)} |" for line in (header, ["---"] + ["---:"] * (len(header) - 1), *body))]


def _best(column: Column, methods: Sequence[str], cells: Sequence[Row | None]) -> float | None:
    """The best mean of a column, where there is something to compare."""
    rivals = [
        cell["mean"]
        for method, cell in zip(methods, cells, strict=True)
        if cell and cell["mean"] is not None and method != "exact"
    ]
    return min(rivals, key=column.badness) if column.badness and len(rivals) > 1 else None


def _cell(row: Row | None, column: Column, best: float | None) -> str:
    if row is None or row["mean"] is None:
        return NONE
    mean = row["mean"] * column.scale
    # Three figures are enough for what varies between seeds; small numbers get the column's decimals.
    decimals = min(column.decimals, max(0, 2 - math.floor(math.log10(abs(mean))))) if mean else column.decimals
    decimals = max(decimals, min(column.decimals, 2)) if abs(mean) < 1000 else decimals
    text = f"{mean:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    if row["std"] is not None:
        text += f" ± {row['std'] * column.scale:,.{decimals}f}"
    return f"**{text}**" if best is not None and row["mean"] == best and row["method"] != "exact" else text


def _samples(rows: Iterable[Row]) -> str:
    scored = {column.metric for column in (*QUALITY, *BESIDE)}
    metrics: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        if row["samples"] and row["metric"] in scored:
            metrics[row["samples"]].add(row["metric"])
    return (
        "; ".join(f"{count:,} ({', '.join(sorted(metrics[count]))})" for count in sorted(metrics, reverse=True)) or NONE
    )
