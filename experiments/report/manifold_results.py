"""The results of the 1D manifolds in Markdown, for the pages: methods, margins, baselines, and what was to be reached."""

from __future__ import annotations

__all__ = ["AGAINST", "BARS", "COLUMNS", "results"]

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.bars import Against, Bar, Rows, bars_of, compared
from experiments.report.lines import cell, head, line
from experiments.report.methods import CHOSEN, ORACLE, OURS, method_named
from experiments.report.tables import lookup

METHODS = (OURS, CHOSEN, "mixture", "joint_paper", "gibbs", ORACLE)
COLUMNS = {  # proper scores first; the spread ratio is always there, beside the PSNR
    "energy_score": ("energy score", 4),
    "prior_kl": ("prior KL (nats)", 2),
    "coverage_error": ("coverage error", 3),
    "posterior_psnr": ("PSNR (dB)", 1),
    "spread_ratio": ("spread ratio", 2),
    "oracle_gap_db": ("below oracle (dB)", 1),
    "posterior_sinkhorn_excess": ("posterior SD over floor", 4),
    "prior_sinkhorn_excess": ("prior SD over floor", 4),
}
MARGINS = ("mixture", "joint_paper", "gibbs", "gibbs_mixture", "gibbs_8x")
BASELINES = ("pcpca", "clvm_linear", "clvm_vae")
NEWEST = (  # of the newest source: title, ours, decimals, the paper's form of it where it has one
    ("energy score", "energy_score", 3, None),
    ("PSNR (dB)", "posterior_psnr", 1, "posterior_psnr"),
    ("spread ratio", "spread_ratio", 2, None),
    ("posterior SD", "posterior_sinkhorn", 2, "posterior_sinkhorn_paper"),
    ("prior SD", "prior_sinkhorn", 2, "prior_sinkhorn_paper"),
)
SD = ("posterior_sinkhorn_excess", "prior_sinkhorn_excess")


BARS = (
    *(Bar("mixed-0.1", metric, 0.005) for metric in SD),
    Bar("mixed-0.1", "posterior_psnr", least=36),
    Bar("mixed-0.1", "oracle_gap_db", 8),
    *(Bar("mixed-0.5", metric, 0.01) for metric in SD),
    Bar("mixed-0.5", "oracle_gap_db", 10),
    *(Bar("mixed-0.9", metric, 0.02) for metric in SD),
    Bar("contrastive-2", "posterior_sinkhorn_excess", 0.02),
    Bar("contrastive-2", "posterior_psnr", least=40),
    Bar("contrastive-2", "oracle_gap_db", 8),
    *(Bar("mixed-1.0-separate", metric, 0.02) for metric in SD),
    *(Bar("contrastive-3", metric, 0.1) for metric in SD),
    *(Bar("mixed-0.1-r2", metric, 0.05) for metric in SD),
    *(Bar(problem, "coverage_error", 0.05) for problem in ("mixed-0.1", "contrastive-2")),
)
AGAINST = (
    Against(CHOSEN, "prior_kl", "mixture", 0.0, error="prior_kl_standard_error"),
    Against(CHOSEN, "coverage", ORACLE, 0.05, sign=0),
    Against(OURS, "posterior_psnr", "mixture", -1.0, sign=-1, problem="surfaces"),
    Against(OURS, "energy_score", "mixture", 0.0, problem="surfaces"),
)
WORSE = ("energy_score", "prior_kl")
"""Proper scores, lower is better, by which it is told where ours is worse than its own start."""


def results(table: Mapping[str, Any] | None) -> str:
    """The results of manifolds in Markdown: where they come from, tables of methods, the bars."""
    if table is None:
        return "No results of the cpu preset are in this checkout: `make manifolds PRESET=cpu`, then `make readme`."
    rows = lookup(table)
    problems = list(dict.fromkeys(row["problem"] for row in table["rows"]))
    parts = (
        _methods(rows, problems),
        _worse(rows, problems),
        _margins(rows, problems),
        _baselines(rows, problems),
        bars_of(rows, BARS, COLUMNS),
        compared(rows, AGAINST, COLUMNS | {"coverage": ("share in 68 % intervals", 3)}, problems),
    )
    return "\n\n".join(["\n".join(lines) for lines in ([_origin(table)], *parts) if lines])


def _origin(table: Mapping[str, Any]) -> str:
    seeds = sorted({seed for row in table["rows"] for seed in row["seeds"]})
    scored = {row["samples"] for row in table["rows"] if row["metric"] in COLUMNS and row["samples"]}
    samples = " to ".join(f"{n:,}" for n in sorted({min(scored, default=0), max(scored, default=0)}))
    paragraphs = (
        f"Preset {table['preset']}, seeds {', '.join(map(str, seeds))}, {samples} observations or points a number, made by "
        f"`{table['command']}`. Mean ± standard deviation over seeds, mean over sources, on fresh observations.",
        "Energy score: the less, the better, and on average nothing has less than exact draws. Spread ratio: variance of draws "
        "beside the squared error of their mean, 1 where they are calibrated, less where they are too narrow. SD over floor: "
        "Sinkhorn divergence beyond that of exact draws.",
        "All of it, with the commits that made it: [table.md](../results/manifolds/cpu/table.md).",
    )
    return "\n\n".join("\n".join(_wrapped(text)) for text in paragraphs)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)


def _methods(rows: Rows, problems: Sequence[str]) -> list[str]:
    """Ours, its start, its rival and the oracle on every problem."""
    shown = {key[3] for key in rows if key[1] in METHODS and key[2] == "mean"} | {"spread_ratio"}
    columns = {metric: column for metric, column in COLUMNS.items() if metric in shown}
    lines = head(("problem", "method"), [title for title, _ in columns.values()])
    for problem in problems:
        for method in METHODS:
            cells = [cell(rows.get((problem, method, "mean", m)), digits) for m, (_, digits) in columns.items()]
            if any(number != "–" for number in cells):
                lines.append(line(problem, method_named(method).label, *cells))
    return lines


def _worse(rows: Rows, problems: Sequence[str]) -> list[str]:
    """Where ours is worse than the mixture that its networks start from, and how wide its draws are, in words."""
    parts = []
    for metric in WORSE:
        found = {p: rows[key] for p in problems if (key := (p, OURS, "mean", f"{metric}_under_mixture")) in rows}
        worse = [p for p, row in found.items() if all(value is None or value < 0 for value in row["values"])]
        if found:
            where = f"on {len(worse)} of {len(found)} problems ({', '.join(worse)})" if worse else "on no problem"
            parts.append(f"Its {COLUMNS[metric][0].partition(' (')[0]} is worse than the mixture's in every seed {where}.")
    ratios = [row["mean"] for p in problems if (row := rows.get((p, OURS, "mean", "spread_ratio"))) and row["mean"] is not None]
    if ratios:
        parts.append(f"Its draws have spread ratios from {min(ratios):.2f} to {max(ratios):.2f}; calibrated ones have 1.")
    return _wrapped(f"What `{OURS}` is worse at: {' '.join(parts)}") if parts else []


def _margins(rows: Rows, problems: Sequence[str]) -> list[str]:
    """By how much ours is better than others."""
    lines = []
    for problem in problems:
        cells = [cell(rows.get((problem, OURS, "mean", f"energy_score_under_{rival}")), 4) for rival in MARGINS]
        if any(number != "–" for number in cells):
            lines.append(line(problem, *cells))
    titles = head(("problem",), [method_named(rival).short for rival in MARGINS])
    text = f"Energy score of `{OURS}` below that of the others (difference within each seed; negative where `{OURS}` is worse):"
    return [text, "", *titles, *lines] if lines else []


def _baselines(rows: Rows, problems: Sequence[str]) -> list[str]:
    """The newest source of the contrastive problems under every method that they allow, ours and the paper's."""
    lines = []
    for problem in problems:
        newest = max((source for p, m, source, _ in rows if (p, m) == (problem, OURS) and source != "mean"), default="")
        if not any((problem, method, newest, "posterior_psnr") in rows for method in BASELINES):
            continue
        for method in (OURS, "gibbs", *BASELINES):
            cells = []
            for _, metric, digits, form in NEWEST:
                cells.append(cell(rows.get((problem, method, newest, metric)), digits))
                if form:
                    paper = (rows.get((problem, method, newest, form)) or {"paper": None})["paper"]
                    cells.append("–" if paper is None else f"{paper:g}")
            lines.append(line(problem, method_named(method).label, *cells))
    if not lines:
        return []
    text = (
        "The newest source under the methods that the paper compares. Its SD is of another form, which `table.md` also\n"
        "has of ours:"
    )
    titles = [title for name, _, _, form in NEWEST for title in ((name, "paper") if form else (name,))]
    return [text, "", *head(("problem", "method"), titles), *lines]
