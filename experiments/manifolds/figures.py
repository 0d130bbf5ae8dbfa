"""All figures of the manifold experiments, from the records, the table and the kept samples alone.

    folder/seed-N/samples/<problem>/<method>.npz, table, records  →  folder/figures/<name>.{png,pdf}

What is missing (a method, a problem, a seed) leaves its panel out and never fails.
"""

from __future__ import annotations

__all__ = ["make_figures"]

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.manifolds.figures_audit import candidates_figure, coverage_figure, ranks_figure
from experiments.manifolds.figures_draws import Run, marginals_figure, methods_figure, priors_figure, problem_figure
from experiments.manifolds.panels import fraction, is_leftmost, legend, panels, title
from experiments.report.methods import CHOSEN, TRUTH, method_named, method_order
from experiments.report.samples import Results
from experiments.report.style import caption, save_figure, style

SEPARATE = 1.14
"""Where f_mix = 1 with separate matrices is drawn: apart from the others, whose sources share a matrix."""


def make_figures(results: Results) -> list[Path]:
    """Make every figure for which there is something to show, and return the files, PNG and PDF of each."""
    style()
    run = Run(**vars(results))
    makers: dict[str, Callable[[Run], Figure | None]] = {
        "problem": problem_figure,
        **{f"marginals-{name}": partial(marginals_figure, problem=name) for name in run.problems},
        **{f"methods-{name}": partial(methods_figure, problem=name) for name in run.problems if "contrastive" in name},
        "sinkhorn-vs-lap": _laps_figure,
        "sinkhorn-vs-mixing": _mixing_figure,
        "priors": priors_figure,
        "coverage": coverage_figure,
        "ranks": ranks_figure,
        "candidates": candidates_figure,
        "gap": _gap_figure,
        "ablations": _ablations_figure,
    }
    written: list[Path] = []
    for name, make in makers.items():
        figure = make(run)
        if figure is not None:
            written += save_figure(figure, run.folder / "figures", name)
    return written


def _mixed(run: Run) -> list[str]:
    return [name for name in run.problems if name.startswith("mixed-")]


def _lap_curve(run: Run, problem: str, method: str) -> dict[int, list[float]]:
    """Training posterior SD by lap: for each seed the mean over sources."""
    cells: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    for seed, records in run.records_by_seed.items():
        for row in records:
            wanted = (problem, method, "posterior_sinkhorn", "train")
            if row.get("lap") is not None and wanted == tuple(
                row.get(name) for name in ("problem", "method", "metric", "split")
            ):
                cells[row["lap"], seed][str(row["source"])] = math.nan if row["value"] is None else row["value"]
    curve: dict[int, list[float]] = defaultdict(list)
    for (lap, _), by_source in sorted(cells.items()):
        sources = [value for source, value in by_source.items() if source != "mean"] or [by_source["mean"]]
        curve[lap].append(float(np.mean(sources)))
    return curve


def _laps_figure(run: Run) -> Figure | None:
    """The paper's Figure 2: Sinkhorn divergence of the training draws against the EM lap."""
    curves = {name: {method: _lap_curve(run, name, method) for method in run.rivals()} for name in _mixed(run)}
    curves = {name: {m: curve for m, curve in own.items() if curve} for name, own in curves.items()}
    curves = {name: own for name, own in curves.items() if own}
    if not curves:
        return None
    figure, axes = panels(len(curves), 2.6, 2.3)
    for ax, (problem, own) in zip(axes, curves.items(), strict=True):
        for method, curve in own.items():
            if method != "exact":
                _lap_line(ax, method, curve)
        last = own.get("exact", {}).values()
        floor = float(np.mean(list(last)[-1])) if last else run.mean(problem, "exact", "posterior_sinkhorn")
        if floor and floor > 0:
            ax.axhline(floor, color=TRUTH, ls="--", lw=1, label="floor (exact posterior)")
        ax.set(title=title(problem), yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in axes:
        if is_leftmost(ax):
            ax.set_ylabel("posterior SD (training)")
        if ax.xaxis.get_tick_params()["labelbottom"]:
            ax.set_xlabel("EM lap")
    legend(figure, axes)
    laps = [row for records in run.records_by_seed.values() for row in records if row.get("lap") is not None]
    counts = sorted({row["samples"] for row in laps if row["metric"] == "posterior_sinkhorn"})
    points = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
    caption(figure, f"Sinkhorn divergence of {points} training draws, mean over sources. {run.seeds()}")
    return figure


def _lap_line(ax: Axes, method: str, curve: Mapping[int, Sequence[float]]) -> None:
    """Mean and spread over seeds; a level line for a method that has no laps, only a start."""
    colour, marker, label = method_named(method).look
    laps = list(curve)
    values = np.array([np.mean(curve[lap]) for lap in laps])
    spread = np.array([np.std(curve[lap], ddof=1) if len(curve[lap]) > 1 else 0 for lap in laps])
    values[values <= 0] = np.nan  # no place on a log axis
    if len(laps) == 1:
        ax.axhline(values[0], color=colour, ls=":", lw=1.4, label=label)
        return
    ax.plot(laps, values, color=colour, marker=marker, markersize=3.5, label=label)
    ax.fill_between(laps, np.maximum(values - spread, values / 10), values + spread, color=colour, alpha=0.2, lw=0)


def _mixing_figure(run: Run) -> Figure | None:
    """Final Sinkhorn divergence against the mixing fraction, with the floor and the paper's points."""
    problems = [name for name in _mixed(run) if not name.endswith("-r2")]
    metrics = {"posterior_sinkhorn": "posterior SD", "prior_sinkhorn": "prior SD"}
    if not any(run.mean(name, m, metric) is not None for name in problems for m in run.rivals() for metric in metrics):
        return None
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.8), sharey=True)
    place = {name: SEPARATE if name.endswith("-separate") else fraction(name) for name in problems}
    for ax, (metric, heading) in zip(axes, metrics.items(), strict=True):
        methods = [m for m in run.rivals() if any(run.mean(name, m, metric) is not None for name in problems)]
        for order, method in enumerate(methods):
            _mixing_curve(run, ax, method, metric, place, shift=0.008 * (order - (len(methods) - 1) / 2))
        for method in ("joint", "gibbs_8x"):
            paper = [(place[n], run.paper(n, method, f"{metric}_paper")) for n in problems]
            points = [(x, value) for x, value in paper if value is not None]
            if points:
                label = f"the paper's {'joint' if method == 'joint' else 'Gibbs, 8 × compute'}"
                colour = method_named(method).colour
                ax.scatter(*zip(*points, strict=True), marker="*", s=90, color=colour, ec="k", lw=0.6, label=label, zorder=5)
        ax.set(title=heading, xlabel="mixing fraction $f_\\mathrm{mix}$", yscale="log")
        ticks = sorted(place.values())
        ax.set_xticks(ticks, ["1\nseparate A" if x == SEPARATE else f"{x:g}" for x in ticks])
        ax.set_xlim(-0.07, max(0.97, ticks[-1] + 0.07))
        if SEPARATE in ticks:
            ax.axvline((SEPARATE + 0.94) / 2, color="0.6", ls=":", lw=1)
    axes[0].set_ylabel("Sinkhorn divergence")
    legend(figure, axes)
    samples = run.samples(problems, "posterior_sinkhorn")
    caption(
        figure,
        f"Fresh observations, mean over sources, {samples} draws. {run.seeds()} Stars: the paper's Table 1, in its own "
        "form of the divergence, newest source. With f = 1 the sources have matrices of their own: one shared by both "
        "would leave nothing to tell them apart.",
    )
    return figure


def _mixing_curve(run: Run, ax: Axes, method: str, metric: str, place: Mapping[str, float], shift: float) -> None:
    colour, marker, label = method_named(method).look
    for joined in (True, False):
        names = [name for name in place if (place[name] != SEPARATE) == joined]
        cells = [(place[name], run.cell(name, method, metric)) for name in names]
        points = [(x, c["mean"], c["std"] or 0) for x, c in cells if c and c["mean"] is not None and c["mean"] > 0]
        if not points:
            continue
        x, y, error = map(np.array, zip(*sorted(points), strict=True))
        bars = np.stack([np.minimum(error, 0.9 * y), error])
        line = "none" if not joined else "--" if method == "exact" else "-"
        x = x if method == "exact" else x + shift
        ax.errorbar(x, y, bars, color=colour, marker=marker, markersize=5, ls=line, lw=1.2, capsize=2, label=label)


def _gap_figure(run: Run) -> Figure | None:
    """Decibels below the exact posterior."""
    cells = {(name, m): run.cell(name, m, "oracle_gap_db") for name in run.problems for m in (*run.rivals(), CHOSEN)}
    shown = {key: cell for key, cell in cells.items() if cell and cell["mean"] is not None}
    if not shown:
        return None
    problems = [name for name in run.problems if any(key[0] == name for key in shown)]
    methods = method_order(key[1] for key in shown)
    figure, ax = plt.subplots(figsize=(6.4, 0.9 + 0.48 * len(problems)))
    for order, method in enumerate(methods):
        colour, marker, label = method_named(method).look
        points = [(i, shown[name, method]) for i, name in enumerate(problems) if (name, method) in shown]
        shift = 0.6 * (order - (len(methods) - 1) / 2) / len(methods)
        ax.errorbar(
            [cell["mean"] for _, cell in points],
            [i + shift for i, _ in points],
            xerr=[cell["std"] or 0 for _, cell in points],
            color=colour,
            marker=marker,
            markersize=5,
            ls="none",
            capsize=2,
            label=label,
        )
    for edge in range(len(problems) - 1):
        ax.axhline(edge + 0.5, color="0.85", lw=0.8)
    ax.axvline(0, color=TRUTH, ls="--", lw=1, label="exact posterior")
    ax.set_yticks(range(len(problems)), [title(name) for name in problems])
    ax.set(xlabel="PSNR below the exact posterior (dB)", ylim=(len(problems) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    legend(figure, [ax])
    caption(
        figure,
        f"Draws for {run.samples(problems, 'posterior_psnr')} fresh observations, mean over sources. {run.seeds()} "
        "Draws collapsed to the posterior mean would stand at −3 dB.",
    )
    return figure


def _ablations_figure(run: Run) -> Figure | None:
    """What becomes of our method with one of its parts changed, or from a worse start: decibels below the exact
    posterior."""
    kept = ("joint", "mixture")
    changed = [m for m in run.methods() if m not in (*run.rivals(), *kept, CHOSEN)]
    cells = {p: {m: run.cell(p, m, "oracle_gap_db") for m in (*kept, *changed)} for p in run.problems}
    gaps = {p: {m: cell for m, cell in own.items() if cell and cell["mean"] is not None} for p, own in cells.items()}
    found = {p: own for p, own in gaps.items() if own.keys() - set(kept)}
    if not found:
        return None
    methods = [m for m in (*kept, *changed) if any(m in own for own in found.values())]
    size = (2.2 + 2.4 * len(found), 1.1 + 0.26 * len(methods))
    figure, axes = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    for ax, (problem, own) in zip(axes[0], found.items(), strict=True):
        for place, method in enumerate(methods):
            if method in own:
                colour = method_named(method).colour if method in kept else "0.3"
                error = own[method]["std"] or 0
                ax.errorbar(own[method]["mean"], place, xerr=error, color=colour, marker="o", markersize=5, capsize=2)
        ax.axvline(0, color=TRUTH, ls="--", lw=1)
        ax.set(title=title(problem), xlabel="dB below exact", ylim=(len(methods) - 0.5, -0.5))
        ax.set_yticks(range(len(methods)), [method_named(m).short for m in methods])
    caption(figure, f"Fresh observations, mean over sources. {run.seeds()}")
    return figure
