"""Figures of points in R^5: the problem itself, posterior draws over EM laps, prior draws, each against the truth."""

from __future__ import annotations

__all__ = ["Run", "marginals_figure", "priors_figure", "problem_figure", "methods_figure"]

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from experiments.manifolds.data import DATA_RANGE, make_manifolds, make_split
from experiments.manifolds.problems import PROBLEMS, Problem
from experiments.report.methods import ORACLE, OURS, RIVALS, TRUTH, method_named, method_order
from experiments.report.paper import paper_value
from experiments.report.samples import Results, laps_of, read_samples
from experiments.report.style import caption
from experiments.report.tables import lookup

LIMIT = 0.62 * DATA_RANGE
PAIRS = ((0, 1), (2, 3))
SHOWN = 2048
"""Points per panel at most: more only blacken it."""

BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}

Draws = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Run(Results):
    """What the figures are made from, as they ask for it."""

    @cached_property
    def rows(self) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
        return lookup(self.table)

    def methods(self) -> list[str]:
        return method_order(key[1] for key in self.rows)

    def rivals(self) -> list[str]:
        """Our method, those of others, and the oracle: without the ablations."""
        return [m for m in self.methods() if m in (OURS, *RIVALS, ORACLE)]

    def cell(self, problem: str, method: str, metric: str) -> Mapping[str, Any] | None:
        """The row of the mean over sources."""
        return self.rows.get((problem, method, "mean", metric))

    def mean(self, problem: str, method: str, metric: str) -> float | None:
        cell = self.cell(problem, method, metric)
        return None if cell is None else cell["mean"]

    def paper(self, problem: str, method: str, metric: str) -> float | None:
        """The paper's number for the newest source, whether that method was run here or not."""
        newest = str(PROBLEMS[problem].sources)
        return paper_value("manifolds", problem, method, newest, metric)

    def auc(self, problem: str, method: str, source: str) -> dict[float, float]:
        """How well log p tells candidates at a distance from the truth, by distance: `candidate_auc_<distance>`."""
        start = "candidate_auc_"
        rows = {
            key[3].removeprefix(start): row["mean"]
            for key, row in self.rows.items()
            if key[3].startswith(start) and key[:3] == (problem, method, source)
        }
        return dict(sorted((float(distance), value) for distance, value in rows.items()))

    def seeds(self) -> str:
        """How many runs a mean and its bars are over, as words."""
        seeds = sorted(self.records_by_seed)
        if len(seeds) == 1:
            return f"Seed {seeds[0]}."
        text = f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}."
        fewer = any(0 < len(row["seeds"]) < len(seeds) for row in self.rows.values())
        return text + (" Methods without bars or bands: fewer seeds." if fewer else "")

    def samples(self, problems: Iterable[str], metric: str) -> str:
        counts = {cell["samples"] for name in problems for m in self.methods() if (cell := self.cell(name, m, metric))}
        return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)})) if counts else "unknown"

    def draws(self, problem: str, method: str) -> Draws:
        """The kept samples of one seed; none where they are missing or unreadable."""
        return read_samples(self.folder, self.table, self.seed, problem, method)


def problem_figure(run: Run) -> Figure:
    """Sources, matrices and views of one contrastive and one mixed problem."""
    names = [*run.problems, "contrastive-2", "mixed-0.1"]
    contrastive = next(name for name in names if name.startswith("contrastive"))
    mixed = next(name for name in names if name.startswith("mixed") and 0 < PROBLEMS[name].mixing[0][1] < 1)
    problems = [PROBLEMS[contrastive], PROBLEMS[mixed]]
    count = max(problem.sources for problem in problems)
    heights = [2.1, *(1.35 * len(problem.mixing) + 0.6 for problem in problems)]
    figure = plt.figure(figsize=(8.6, sum(heights) + 0.4))
    first, *others = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_sources(first, max(problems, key=lambda problem: problem.sources), run.seed, count)
    for part, problem in zip(others, problems, strict=True):
        _draw_views(part, problem, run.seed)
    caption(
        figure,
        f"Seed {run.seed}. Curves in ℝ⁵ seen along two of their coordinates. Each observation has a matrix of its own "
        "with rows of unit length (that of one observation is shown), and noise of 0.01. The points of a view are "
        "1,000 observations, along their first two coordinates. Only y and A are given to the methods.",
    )
    return figure


def _draw_sources(part: SubFigure, problem: Problem, seed: int, count: int) -> None:
    z = torch.linspace(0, 1, 2000, dtype=torch.float64)
    part.suptitle("Sources: unknown curves, coloured by the coordinate along them", fontsize=9, fontweight="bold")
    axes = part.subplots(1, 2 * count, squeeze=False)[0]
    for b, manifold in enumerate(make_manifolds(problem, seed)):
        points = manifold(z).numpy()
        for ax, (i, j) in zip(axes[2 * b : 2 * b + 2], PAIRS, strict=True):
            ax.scatter(points[:, i], points[:, j], c=z.numpy(), cmap="viridis", s=2, lw=0, rasterized=True)
            _square(ax, f"$x^{b + 1}$", (i, j))


def _draw_views(part: SubFigure, problem: Problem, seed: int) -> None:
    data = make_split(problem, seed, 1000, "figure").data
    part.suptitle(f"Views of {problem.name}", fontsize=9, fontweight="bold")
    widths = [1.4] + [1.0] * problem.sources + [0.9]
    axes = part.subplots(len(data), problem.sources + 2, squeeze=False, width_ratios=widths)
    for alpha, (view, row) in enumerate(zip(data, axes, strict=True)):
        names = [f"A{f'^{b + 1}' if problem.separate_matrices else ''}_i" for b in range(problem.sources)]
        factors = ["" if c in (0, 1) else f"{c:g}\\," for c in problem.mixing[alpha]]
        terms = [f"{factors[b]}{names[b]} x_i^{b + 1}" for b in range(problem.sources) if str(b + 1) in view.sources]
        row[0].axis("off")
        row[0].text(0.5, 0.62, f"view {alpha + 1}", ha="center", fontweight="bold", fontsize=9)
        row[0].text(0.5, 0.36, f"$y_i = {' + '.join(terms)} + \\eta_i$", ha="center", fontsize=10)
        for b in range(problem.sources):
            operator = view.operators.get(str(b + 1))
            matrix = None if operator is None else operator.dense()[0].numpy()
            _matrix(row[1 + b], matrix, f"${factors[b]}{names[b]}$ on $x_i^{b + 1}$")
        y, last = view.y.numpy(), alpha == len(data) - 1
        row[-1].scatter(y[:, 0], y[:, 1], s=3, lw=0, alpha=0.5, color=method_named("joint").colour, rasterized=True)
        row[-1].set(aspect="equal", xlim=(-5, 5), ylim=(-5, 5), xticks=(-4, 0, 4), yticks=(-4, 0, 4), ylabel="$y_2$")
        row[-1].set_xlabel("$y_1$" if last else "")
        row[-1].tick_params(labelsize=7, labelbottom=last)
    scale = ScalarMappable(Normalize(-1, 1), "RdBu_r")
    part.colorbar(scale, ax=axes[:, 1:-1], label="entry", shrink=0.8, pad=0.02, ticks=(-1, 0, 1), aspect=30)


def _matrix(ax: Axes, matrix: NDArray[np.float64] | None, title: str) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    if matrix is None:
        ax.axis("off")
        ax.text(0.5, 0.5, "hidden", ha="center", va="center", transform=ax.transAxes, color="0.5")
        return
    ax.set_title(title, fontsize=8)
    ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)


def marginals_figure(run: Run, problem: str, method: str = "joint") -> Figure | None:
    """The paper's Figure 1: posterior draws against truth over EM laps, in two-dimensional marginals."""
    draws = run.draws(problem, method)
    laps = laps_of(draws)
    columns = {f"lap {lap}": (f"lap{lap}_", "lap_truth_") for lap in dict.fromkeys([*laps[:1], *laps[-1:]])}
    sources = _sources(draws, "posterior_") or _sources(draws, "lap_truth_")
    if _sources(draws, "posterior_"):
        columns["new observations"] = ("posterior_", "truth_")
    if not columns or not sources:
        return None
    shape = (len(PAIRS) * len(sources), len(columns) + (len(laps) > 1))
    figure, axes = plt.subplots(*shape, figsize=(1.75 * shape[1] + 0.4, 1.75 * shape[0] + 0.8), squeeze=False)
    if len(laps) > 1:
        for first, b in zip(range(0, shape[0], len(PAIRS)), sources, strict=True):
            _by_lap(axes[first, -1], draws, b, laps, method)
            for ax in axes[first + 1 : first + len(PAIRS), -1]:
                ax.axis("off")
    for row, (b, pair) in enumerate((b, pair) for b in sources for pair in PAIRS):
        for column, (title, (drawn, truth)) in enumerate(columns.items()):
            ax = axes[row, column]
            _cloud(ax, draws.get(f"{drawn}{b}"), draws.get(f"{truth}{b}"), method, pair)
            _square(ax, f"$x^{b}$", pair, outer=(column == 0, True))
            if row == 0:
                ax.set_title(title, fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, markerscale=4)
    count = len(next(iter(draws.values())))
    caption(
        figure,
        f"{problem}, seed {run.seed}: one posterior draw of {method_named(method).short} for each of "
        f"{min(count, SHOWN):,} observations, against the truths of the same observations. Laps: training observations "
        "(lap 0: the start). Last column: distance of a draw from the nearest of those truths, by lap.",
    )
    return figure


def _by_lap(ax: Axes, draws: Mapping[str, NDArray[np.float64]], source: int, laps: Sequence[int], method: str) -> None:
    """How far draws are from what truths lie on, which no scatter plot of a good start shows."""
    truth, colour = draws[f"lap_truth_{source}"], method_named(method).colour
    off = [np.quantile(cdist(draws[f"lap{lap}_{source}"], truth).min(1), (0.5, 0.9)) for lap in laps]
    for k, (label, line) in enumerate((("median", "-"), ("90 %", "--"))):
        ax.plot(laps, [quantiles[k] for quantiles in off], color=colour, ls=line, marker=".", label=label)
    ax.set(xlabel="lap", title=f"$x^{source}$: off the truth", xticks=laps, ylim=(0, None))
    ax.title.set_fontsize(9)
    ax.tick_params(labelsize=7, which="both")
    ax.legend(fontsize=7, loc="best")


def methods_figure(run: Run, problem: str) -> Figure | None:
    """The newest source of fresh observations under ours and others, one Gibbs of them, beside its truth."""
    name = f"posterior_{PROBLEMS[problem].sources}"
    methods = [m for m in run.rivals() if m != ORACLE and not m.startswith("gibbs_")]
    found = {method: draws for method in methods if name in (draws := run.draws(problem, method))}
    if not found:
        return None
    figure, axes = plt.subplots(1, len(found), figsize=(1.2 * len(found) + 0.4, 2.2), squeeze=False)
    for column, ((method, draws), ax) in enumerate(zip(found.items(), axes[0], strict=True)):
        _cloud(ax, draws[name], draws.get(name.replace("posterior", "truth")), method, PAIRS[0])
        _square(ax, f"$x^{PROBLEMS[problem].sources}$", PAIRS[0], outer=(column == 0, True))
        ax.set_title(method_named(method).short.replace(", ", ",\n"), fontsize=8)
    count = min(SHOWN, *(len(draws[name]) for draws in found.values()))
    caption(
        figure,
        f"{problem}, seed {run.seed}: one posterior draw of source {PROBLEMS[problem].sources} for each of {count:,} fresh "
        "observations (coloured), and the truths (black), along two of the five coordinates.",
    )
    return figure


def priors_figure(run: Run, method: str = "joint") -> Figure | None:
    """Prior draws against an independent sample of the true sources, for all problems."""
    found = {name: run.draws(name, method) for name in run.problems}
    found = {name: draws for name, draws in found.items() if _sources(draws, "prior_")}
    # Those with most sources first: each row's axis is then at the left.
    found = dict(sorted(found.items(), key=lambda item: -len(_sources(item[1], "prior_"))))
    if not found:
        return None
    rows = max(len(_sources(draws, "prior_")) for draws in found.values())
    figure, axes = plt.subplots(rows, len(found), figsize=(1.55 * len(found) + 0.4, 1.6 * rows + 1.0), squeeze=False)
    for column, (problem, draws) in enumerate(found.items()):
        axes[0, column].set_title(problem.replace("-separate", "\nseparate A"), fontsize=8)
        for row, ax in enumerate(axes[:, column]):
            if f"prior_{row + 1}" not in draws:
                ax.set_visible(False)
                continue
            _cloud(ax, draws[f"prior_{row + 1}"], draws.get(f"independent_{row + 1}"), method, PAIRS[0])
            _square(ax, f"$x^{row + 1}$", PAIRS[0], outer=(column == 0, True))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, markerscale=4)
    count = max(len(draws[f"prior_{_sources(draws, 'prior_')[0]}"]) for draws in found.values())
    caption(
        figure,
        f"Seed {run.seed}: {min(count, SHOWN):,} draws from each learned prior of {method_named(method).short}, "
        "against an independent sample of the true source, along two of its coordinates.",
    )
    return figure


def _sources(draws: Draws, prefix: str) -> list[int]:
    return sorted(int(name.removeprefix(prefix)) for name in draws if re.fullmatch(rf"{prefix}\d+", name))


def _cloud(
    ax: Axes, drawn: NDArray[np.float64] | None, truth: NDArray[np.float64] | None, method: str, pair: tuple[int, int]
) -> None:
    i, j = pair
    colour, _, label = method_named(method).look
    if drawn is not None:
        shown = drawn[:SHOWN]
        ax.scatter(shown[:, i], shown[:, j], s=5, lw=0, alpha=0.6, color=colour, label=label, rasterized=True)
        # Limits are those of the truth: what lies outside is counted, not hidden.
        outside = 1 - np.mean(np.abs(drawn[:, pair]).max(1) <= LIMIT)
        if outside >= 0.001 or np.isnan(outside):
            ax.text(0.97, 0.03, f"{outside:.1%} outside", transform=ax.transAxes, ha="right", fontsize=6, bbox=BOX)
    if truth is not None:
        shown = truth[:SHOWN]
        ax.scatter(shown[:, i], shown[:, j], s=0.8, lw=0, color=TRUTH, label="truth", rasterized=True)


def _square(ax: Axes, symbol: str, pair: tuple[int, int], outer: tuple[bool, bool] = (True, True)) -> None:
    ax.set(aspect="equal", xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=(-2, 0, 2), yticks=(-2, 0, 2))
    left, bottom = outer
    base = symbol.strip("$")
    ax.set_xlabel(f"${base}_{{{pair[0] + 1}}}$" if bottom else "", labelpad=1)
    ax.set_ylabel(f"${base}_{{{pair[1] + 1}}}$" if left else "", labelpad=1)
    ax.tick_params(labelsize=7, labelleft=left)
