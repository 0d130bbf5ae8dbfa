"""The table of a run in Markdown: for each problem its quality, the paper's numbers beside ours, and what it cost."""

from __future__ import annotations

__all__ = ["markdown"]

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str, str], Row]
"""Rows of one problem by (method, source, metric)."""

NONE = "–"
LABELS = {
    "joint": "joint (ours)",
    "joint_wide": "joint, wide (ours)",
    "joint_asinh": "joint, of asinh",
    "mixture": "mixture (closed form)",
    "joint_paper": "joint, the paper's recipe",
    "gibbs": "Gibbs, equal compute",
    "gibbs_8x": "Gibbs, 8 × compute",
    "gibbs_mixture": "Gibbs, mixture start",
    "pcpca": "PCPCA",
    "clvm_linear": "CLVM, linear",
    "clvm_vae": "CLVM, VAE",
    "segmentation": "segmentation, symmetric",
    "aperture": "masked aperture",
    "exact": "exact (oracle, floor)",
    "joint_clean": "joint, learned from clean sources",
    "mixture_clean": "mixture, learned from clean sources",
}


@dataclass(frozen=True)
class Column:
    """A column: `source` is "mean", "newest" or its number; the best value is the nearest to `ideal` (None: there is no best).
    derived: made from other columns, whose sample counts it has."""

    title: str
    metric: str
    decimals: int
    ideal: float | None = None
    source: str = "mean"
    scale: float = 1.0
    derived: bool = False


# A gap is two-sided (draws at the posterior mean would gain 3 dB); a large p-value is no better than a middling one.
LOW, HIGH = -math.inf, math.inf
QUALITY = (
    Column("PSNR (dB)", "posterior_psnr", 2, HIGH),
    Column("PSNR, source {newest}", "posterior_psnr", 2, HIGH, "newest"),
    Column("PSNR of the mean, source {newest}", "posterior_mean_psnr", 2, HIGH, "newest"),
    Column("SSIM, source {newest}", "posterior_ssim", 3, HIGH, "newest"),
    Column("gap to oracle (dB)", "oracle_gap_db", 2, 0.0, derived=True),
    Column("posterior SD", "posterior_sinkhorn", 4, LOW),
    Column("over floor", "posterior_sinkhorn_excess", 4, LOW, derived=True),
    Column("prior SD", "prior_sinkhorn", 4, LOW),
    Column("over floor", "prior_sinkhorn_excess", 4, LOW, derived=True),
    Column("Fréchet, posterior, source {newest}", "posterior_frechet", 2, LOW, "newest"),
    Column("Fréchet, prior, source {newest}", "prior_frechet", 2, LOW, "newest"),
    Column("PQMass χ²/dof", "posterior_pqmass_chi2", 2, 1.0),
    Column("PQMass p", "posterior_pqmass", 3),
    Column("coverage error", "coverage_error", 3, LOW),
)
PARTS = (
    Column("PSNR, training, source {newest}", "posterior_psnr_train", 2, HIGH, "newest"),
    Column("classes named right, training (%)", "class_accuracy_train", 1, HIGH, "newest", 100.0),
    Column("of clean digits (%)", "class_accuracy_clean_train", 1, None, "newest", 100.0),
    Column("AUC of remains in source 1", "remains_auc", 3, 0.5, "1"),
    Column("PSNR, source 1", "posterior_psnr", 2, HIGH, "1"),
)
BESIDE = (
    Column("PSNR (dB)", "posterior_psnr", 2, HIGH, "newest"),
    Column("PSNR within ±4", "posterior_psnr_inside", 2, None, "newest"),
    Column("outside ±4 (%)", "fraction_outside", 2, None, "newest", 100.0),
    Column("posterior SD", "posterior_sinkhorn_paper", 4, LOW, "newest"),
    Column("prior SD", "prior_sinkhorn_paper", 4, LOW, "newest"),
    Column("posterior Fréchet, mean only", "posterior_frechet_mean_only", 2, LOW, "newest"),
    Column("prior Fréchet, mean only", "prior_frechet_mean_only", 2, LOW, "newest"),
    Column("posterior p", "posterior_pqmass", 3, None, "newest"),
    Column("prior p", "prior_pqmass", 3, None, "newest"),
)
AUDIT = (
    Column("coverage error (TARP)", "audit_coverage_error", 3, LOW),
    Column("rank error, worst coordinate", "audit_rank_error", 3, LOW),
    Column("rank error, misfit", "audit_misfit_error", 3, LOW),
    Column("KL from the truth (nats)", "candidate_kl_nats", 2, LOW),
    Column("rank correlation of log p", "candidate_rank_correlation", 3, HIGH),
    *(Column(f"AUC, {d:g} off", f"candidate_auc_{d:g}", 3, HIGH) for d in (0.01, 0.03, 0.1, 0.3)),
)
# Correlation of residuals is that of the noise at best, and light beyond the aperture may be a real galaxy's own: no best.
GALAXIES = (
    Column("PSNR to the peak (dB)", "psnr_peak", 2, HIGH, "newest"),
    Column("PSNR, blended", "psnr_peak_blended", 2, HIGH, "newest"),
    Column("PSNR of single draws", "psnr_peak_draws", 2, HIGH, "newest"),
    Column("SSIM", "ssim_peak", 3, HIGH, "newest"),
    Column("SSIM, blended", "ssim_peak_blended", 3, HIGH, "newest"),
    Column("centroid, RMS (px)", "centroid_error", 2, LOW, "newest"),
    Column("ellipticity, RMS", "ellipticity_error", 3, LOW, "newest"),
    Column("without moments (%)", "shape_failures", 1, LOW, "newest", 100.0),
)
FLUXES = (
    Column("bias (%)", "flux_bias", 1, 0.0, "newest", 100.0),
    Column("scatter (%)", "flux_scatter", 1, LOW, "newest", 100.0),
    Column("bias, blended (%)", "blended_flux_bias", 1, 0.0, "newest", 100.0),
    Column("scatter, blended (%)", "blended_flux_scatter", 1, LOW, "newest", 100.0),
    Column("in 68 % intervals (%)", "flux_coverage", 1, 0.6827, "newest", 100.0),
    Column("pixels in theirs (%)", "pixel_coverage", 1, 0.6827, "newest", 100.0),
    Column("left over (%)", "leftover_light", 1, 0.0, "newest", 100.0),
    Column("left over (σ)", "leftover_sigma", 2, 0.0, "newest"),
)
OBSERVATIONS = (
    Column("residual χ²", "residual_chi2", 3, 1.0),
    Column("correlation of residuals", "residual_correlation", 3),
    Column("of the noise itself", "noise_correlation", 3),
    Column("held-out χ²", "held_out_chi2", 3, 1.0),
    Column("held-out log-likelihood (nats a pixel)", "held_out_log_likelihood", 3, HIGH),
    Column("left over, real (%)", "real_leftover_light", 1, None, "newest", 100.0),
    Column("left over, real (σ)", "real_leftover_sigma", 2, None, "newest"),
    Column("residual χ², real", "real_residual_chi2", 3, 1.0),
    Column("correlation of residuals, real", "real_residual_correlation", 3),
)
SKY = (
    ("Galaxies, beside their truth:", GALAXIES),
    ("Their fluxes, beside the true ones:", FLUXES),
    ("Observations, beside sky + galaxy:", OBSERVATIONS),
)
COST = (
    Column("laps", "laps", 0),
    Column("network evaluations per observation", "network_evaluations", 0, LOW),
    Column("time per draw (ms)", "seconds_per_draw", 4, LOW, scale=1e3),
    Column("wall time (s)", "wall_seconds", 1, LOW),
    Column("peak memory (GiB)", "peak_memory_gib", 2, LOW),
)


def markdown(table: Mapping[str, Any], methods: Sequence[str], caption: str) -> str:
    """A table of `report.build_table` as Markdown; methods: their order. caption: how the numbers were scored."""
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
        f"Numbers are mean ± standard deviation over seeds; of several sources, the mean. {NONE}: not measured, or not "
        "finite for some seed. **Bold**: the best of a column, what has seen the truth aside.",
    ]
    by_problem: dict[str, dict[tuple[str, str, str], Row]] = defaultdict(dict)
    for row in rows:
        by_problem[row["problem"]][row["method"], row["source"], row["metric"]] = row
    for problem, own in by_problem.items():
        lines += ["", f"## {problem}", *_section(own, [m for m in methods if any(m == key[0] for key in own)])]
    return "\n".join(lines) + "\n"


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
        lines += _grid(rows, methods, BESIDE, newest, paper=True)
    if audit := _grid(rows, methods, AUDIT, newest):
        lines += ["", "Audit: calibration of joint draws, and log p of candidates for a source:", *audit]
    for title, columns in SKY:
        if grid := _grid(rows, methods, columns, newest):
            lines += ["", title, *grid]
    cost = _grid(rows, methods, COST, newest, paper=True)
    return lines + (["", "Cost:", *cost] if cost else [])


def _grid(rows: Rows, methods: Sequence[str], columns: Sequence[Column], newest: str, paper: bool = False) -> list[str]:
    """One Markdown table; columns without a number are left out, and so are the paper's where it has none."""
    named = {column.metric for column in columns}
    methods = [m for m in methods if any(key[0] == m and key[2] in named for key in rows)]
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
        if cell and cell["mean"] is not None and not _knows(method)
    ]
    if column.ideal is None or len(rivals) < 2:
        return None
    ideal = min(max(column.ideal, min(rivals)), max(rivals))  # the ideal itself, or the end of the range next to it
    return min(rivals, key=lambda value: abs(value - ideal))


def _knows(method: str) -> bool:
    """Whether a method has seen the truth: no rival of those that have not."""
    return method == "exact" or method.endswith("_clean")


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
    return f"**{text}**" if best is not None and row["mean"] == best and not _knows(row["method"]) else text


def _samples(rows: Iterable[Row]) -> str:
    """Sample counts of what was scored (what is derived here has those of what it is derived from)."""
    scored = {column.metric for column in (*QUALITY, *BESIDE, *AUDIT, *GALAXIES, *FLUXES, *OBSERVATIONS) if not column.derived}
    counts: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["samples"] and row["metric"] in scored:
            counts[row["metric"]].add(row["samples"])
    metrics: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for metric in sorted(counts):
        metrics[tuple(sorted({max(counts[metric]), min(counts[metric])}))].append(metric)
    texts = [" to ".join(f"{n:,}" for n in ends) + f" ({', '.join(metrics[ends])})" for ends in sorted(metrics)]
    return "; ".join(reversed(texts)) or NONE
