"""Figures of the two promises, posteriors of the right width and log p of a candidate, and of when EM stops."""

from __future__ import annotations

__all__ = ["candidates_figure", "coverage_figure", "ranks_figure"]

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.manifolds.figures_draws import Run
from experiments.manifolds.panels import is_leftmost, legend, panels, title
from experiments.manifolds.problems import PROBLEMS
from experiments.report.methods import OURS, method_named
from experiments.report.style import caption

CALIBRATED = ("joint", "chosen", "mixture", "gibbs", "exact")
KOLMOGOROV = 1.36  # 95 % point of sqrt(N) sup |F_N − F|


def _coverage(run: Run, problem: str, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Levels and expected coverage: of the audit, or else of the scores."""
    audit, scores = run.draws(problem, f"{method}-audit"), run.draws(problem, method)
    if "coverage" in audit:
        return audit["levels"], audit["coverage"]
    return (scores["coverage_levels"], scores["coverage_expected"]) if "coverage_expected" in scores else None


def coverage_figure(run: Run) -> Figure | None:
    """Expected against nominal coverage: calibrated draws follow the diagonal."""
    curves = {name: {m: _coverage(run, name, m) for m in CALIBRATED} for name in run.problems}
    kept = {name: {m: curve for m, curve in own.items() if curve} for name, own in curves.items()}
    found = {name: own for name, own in kept.items() if own}
    if not found:
        return None
    figure, axes = panels(len(found), 1.9, 1.9)
    for ax, (problem, own) in zip(axes, found.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="0.5", ls=":", lw=1)
        for method, (levels, expected) in own.items():
            colour, _, label = method_named(method).look
            line = "--" if method == "exact" else "-"
            ax.plot(levels, expected, color=colour, ls=line, lw=1.4, label=label)
        ax.set(title=title(problem), aspect="equal", xlim=(0, 1), ylim=(0, 1))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks((0, 0.5, 1), ("0", "0.5", "1"))
        if is_leftmost(ax):
            ax.set_ylabel("expected coverage")
        if ax.xaxis.get_tick_params()["labelbottom"]:
            ax.set_xlabel("nominal coverage")
    legend(figure, axes)
    few, many = (run.samples(run.problems, name) for name in ("coverage_error", "audit_coverage_error"))
    audited = f" ({many} where a method was audited)" if many != "unknown" else ""
    caption(
        figure,
        f"{few} fresh observations{audited}, seed {run.seed}. Steeper than the diagonal in the middle: draws too wide; "
        "flatter: too narrow.",
    )
    return figure


def _audited(run: Run, name: str) -> dict[str, dict[str, dict[str, NDArray[np.float64]]]]:
    """Arrays of the audits that hold `name`, by problem and method."""
    found = {p: {m: run.draws(p, f"{m}-audit") for m in run.methods()} for p in run.problems}
    kept = {p: {m: d for m, d in own.items() if name in d} for p, own in found.items()}
    return {p: own for p, own in kept.items() if own}


def ranks_figure(run: Run) -> Figure | None:
    """Simulation-based calibration: cumulative ranks of the truth among its draws, less what they should be."""
    found = _audited(run, "ranks")
    if not found:
        return None
    figure, axes = panels(len(found), 2.3, 2.1)
    counts = set()
    for ax, (problem, own) in zip(axes, found.items(), strict=True):
        for method in ("exact", "joint"):
            if method not in own:
                continue
            ranks = np.vstack([own[method]["ranks"], own[method]["misfit_ranks"]])
            n, bins = int(ranks[0].sum()), ranks.shape[1]  # a bin for each rank
            counts.add(n)
            x = np.arange(bins + 1) / bins
            excess = np.hstack([np.zeros((len(ranks), 1)), ranks.cumsum(1) / n]) - x
            colour, _, label = method_named(method).look
            for number, line in enumerate(excess):
                misfit = number == len(excess) - 1
                text = f"{label}, misfit" if misfit else f"{label}, coordinates" if number == 0 else None
                ax.plot(x, line, color=colour, lw=1.6 if misfit else 0.7, ls="--" if misfit else "-", label=text)
        ax.fill_between([0, 1], -KOLMOGOROV / n**0.5, KOLMOGOROV / n**0.5, color="0.85", lw=0, label="95 % of exact draws")
        ax.set(title=title(problem), xlim=(0, 1))
        if is_leftmost(ax):
            ax.set_ylabel("share below − nominal")
        if ax.xaxis.get_tick_params()["labelbottom"]:
            ax.set_xlabel("rank of the truth")
    legend(figure, axes)
    caption(
        figure,
        f"{' to '.join(f'{n:,}' for n in sorted(counts))} fresh observations, seed {run.seed}: ranks of every coordinate of "
        "every source, and of the misfit |y − Σ A x|², which alone sees draws that ignore y. An S that rises first: draws "
        "too narrow; that falls first: too wide.",
    )
    return figure


def candidates_figure(run: Run) -> Figure | None:
    """log p of candidates on and off the manifold of the newest source: ours against the truth, and the ranking."""
    found = {p: own for p, own in _audited(run, "log_prob_1").items() if "joint" in own}
    if not found:
        return None
    figure, axes = plt.subplots(2, len(found), figsize=(max(5.4, 2.4 * len(found)), 5.2), squeeze=False, sharey="row")
    for (top, bottom), (problem, own) in zip(axes.T, found.items(), strict=True):
        _ranking(run, top, bottom, problem, own)
    axes[0, 0].set_ylabel("log p, joint (nats)")
    axes[1, 0].set_ylabel("P(on ranks above off)")
    legend(figure, [*axes[0], *axes[1]])
    caption(
        figure,
        f"Seed {run.seed}, newest source. Candidates x + d u + σ z: x on the true manifold, u of unit length in a random "
        "direction, z noise at the level σ of the density. Below: the share of pairs in which the candidate on the manifold "
        "has the higher log p.",
    )
    return figure


def _ranking(run: Run, top: Axes, bottom: Axes, problem: str, own: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> None:
    source = str(PROBLEMS[problem].sources)
    rows = {m: run.auc(problem, m, source) for m in own}
    distances = [0.0, *next(iter(rows.values()))]
    ours, true = own["joint"][f"log_prob_{source}"], own["joint"][f"log_prob_true_{source}"]
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(distances)))
    for k in reversed(range(len(distances))):
        label = "on the manifold" if k == 0 else f"{distances[k]:g} off"
        top.scatter(true[k], ours[k], s=4, color=colours[k], label=label, lw=0, rasterized=True)
    low, high = np.percentile(true, 0.5), true.max()
    top.plot([low, high], [low, high], color="0.4", lw=0.8, ls=":")
    top.set(title=title(problem), xlabel="log p, truth (nats)")
    for place in (top.set_xscale, top.set_yscale):
        place("symlog", linthresh=20)
    for method, auc in rows.items():
        colour, marker, label = method_named(method).look
        line = "--" if method == "exact" else "-"
        # ours is hollow and wide, to be seen where others lie upon it
        look = {"markersize": 9, "mfc": "none", "lw": 3.0} if method == OURS else {"markersize": 4}
        bottom.plot(list(auc), list(auc.values()), color=colour, marker=marker, ls=line, label=label, **look)
    bottom.set(xscale="log", xlabel="distance off")
