"""Figures of scores, galaxy by galaxy or in bins of them, and of what is left of an observation."""

from __future__ import annotations

__all__ = ["against_figure", "recovery_figure", "residuals_figure"]

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator
from matplotlib.typing import HashableList

from experiments.galaxies.figures_stamps import JOINT, Run
from experiments.galaxies.panels import peaks_of, show_strip, unmeasured
from experiments.galaxies.scores.judging import BINNED
from experiments.report.methods import TRUTH, method_named
from experiments.report.style import caption

FEW = 5
"""Galaxies of a bin that a scatter needs."""
RECOVERED = (0.2, 5.0)
"""Shares of the true flux that are shown."""
SIGMAS = 5.0
"""Residuals that are shown, to either side."""
PANELS = {
    "flux_bias": ("flux bias (%)", 100.0),
    "flux_scatter": ("flux scatter (%)", 100.0),
    "flux_coverage": ("in 68 % intervals (%)", 100.0),
    "psnr_peak": ("PSNR to the peak (dB)", 1.0),
    "ssim_peak": ("SSIM", 1.0),
    "centroid_error": ("centroid, RMS (px)", 1.0),
    "ellipticity_error": ("ellipticity, RMS", 1.0),
}
"""What scores by bin are called, and by what they are multiplied."""
ACROSS = 4
"""Panels side by side."""


def against_figure(run: Run) -> Figure | None:
    """Scores of all methods against magnitude, or flux, and blending."""
    axis = {"by_magnitude": "magnitude", "by_flux": "true flux", "by_blending": "neighbours' share of the light"}
    # what an earlier version kept has other columns
    known = {m: {k: v for k, v in s.items() if k in axis and v.shape[1:] == (3 + len(BINNED),)} for m, s in run.found.items()}
    run = replace(run, found={m: s for m, s in known.items() if s})
    kinds = [kind for kind in axis if any(kind in s for s in run.found.values())]
    if not kinds:
        return None
    down = math.ceil(len(PANELS) / ACROSS)
    size = (2.6 * ACROSS, 2.0 * down * len(kinds) + 1.0)
    figure, axes = plt.subplots(down * len(kinds), ACROSS, figsize=size, squeeze=False)
    for number, kind in enumerate(kinds):
        panels = axes[down * number : down * (number + 1)].flatten()
        for ax, score in zip(panels, BINNED, strict=False):
            _panel(ax, run, kind, score)
            ax.set_xlabel(axis[kind], fontsize=8)
        for ax in panels[len(BINNED) :]:
            ax.set_axis_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=7)
    caption(
        figure,
        f"Seed {run.seed}, {run.problem}: scores of the mean{run.injected}; below each bin its upper end and how many. "
        "Fluxes are those within 3 half-light radii, the neighbours' share is that within about 2; bias and scatter: median "
        "and 1.48 MAD of the relative error, logarithmic beyond ± 20 %; no scatter, intervals or moments of fewer than "
        f"{FEW} galaxies.",
    )
    return figure


def _panel(ax: Axes, run: Run, kind: str, score: str) -> None:
    """One score, a column of the arrays by bin."""
    (name, scale), column = PANELS[score], 3 + BINNED.index(score)
    for method, kept in run.found.items():
        if kind in kept:
            colour, marker, label = method_named(method).look
            values = scale * kept[kind][:, column]
            if score not in ("flux_bias", "psnr_peak", "ssim_peak"):
                values = np.where(kept[kind][:, 2] < FEW, math.nan, values)
            above = 3 if method in JOINT else 2
            ax.plot(values, color=colour, marker=marker, label=label, markersize=4, linewidth=1, zorder=above, clip_on=False)
    bins = next(s[kind] for s in run.found.values() if kind in s)
    ax.set_xticks(range(len(bins)), [f"{_bin(low, high)}\n{count:.0f}" for low, high, count, *_ in bins], fontsize=6)
    ax.set_ylabel(name, fontsize=8)
    ax.set(xlim=(-0.4, len(bins) - 0.6))
    if score == "flux_coverage":
        ax.axhline(68.27, color=TRUTH, linewidth=0.8)
        ax.set_ylim(0, 100)
    elif score in ("flux_bias", "flux_scatter"):
        _squeeze(ax, score == "flux_bias")
    elif score.endswith("error"):
        ax.set_ylim(bottom=0)


def recovery_figure(run: Run) -> Figure | None:
    """Fluxes that were found of the true ones, galaxy by galaxy: of our method, and of segmentation."""
    own = run.ours("recovery")
    shown = [name for name in ((own and own[0]), "segmentation") if name and "recovery" in run.found.get(name, {})]
    if not shown:
        return None
    figure, axes = plt.subplots(1, len(shown), figsize=(4.4 * len(shown) + 0.6, 3.6), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], shown, strict=True):
        true, found, low, high, blending = run.found[name]["recovery"].T
        share = np.stack([found, low, high]) / true
        middle, below, above = share.clip(*RECOVERED)
        ends = np.stack([middle - below, above - middle]).clip(min=0)
        ax.errorbar(true, middle, ends, fmt="none", ecolor="0.8", elinewidth=0.6, zorder=1)
        points = ax.scatter(true, middle, c=blending, s=9, cmap="viridis", vmin=0, vmax=0.6, zorder=2)
        ax.axhline(1, color=TRUTH, linewidth=0.8)
        ax.set(xscale="log", yscale="log", ylim=RECOVERED, xlabel="true flux", title=method_named(name).short)
        ax.yaxis.set_major_locator(FixedLocator((0.25, 0.5, 1, 2, 4)))
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
    axes[0, 0].set_ylabel("found / true")
    figure.colorbar(points, ax=axes[0, -1], label="neighbours' share of the light")
    what = f"fluxes within 3 half-light radii of {len(true)} fresh galaxies{run.injected}: by the mean; grey: "
    what += f"68 % intervals of the draws. What lies beyond {RECOVERED[0]:g} and {RECOVERED[1]:g} is drawn there."
    caption(figure, run.text(what))
    return figure


def _bin(low: float, high: float) -> str:
    """By its upper end: the lower one is its neighbour's."""
    if math.isinf(low):
        return f"< {high:.3g}"
    return f"≥ {low:.3g}" if math.isinf(high) else f"to {high:.3g}"


def _squeeze(ax: Axes, signed: bool) -> None:
    """Percents, linear up to 20, so that a method that fails leaves room for the others."""
    ax.set_yscale("symlog", linthresh=20, linscale=1)
    if signed:
        ax.axhline(0, color=TRUTH, linewidth=0.8)
    else:
        ax.set_ylim(bottom=0)
    low, high = ax.get_ylim()
    ticks = [sign * tick for tick in (0, 10, 20, 50, 100, 200, 500, 1000, 10000) for sign in (-1, 1)]
    ax.set_yticks(sorted({t for t in ticks if low <= t <= high}), minor=False)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())


def residuals_figure(run: Run) -> Figure | None:
    """What draws of both sources leave of an observation, and whether it is noise."""
    kind = "real" if "real_observed" in run.joint() else "known"
    parts = [f"{kind}_{name}" for name in ("observed", "sky", "galaxy", "sigma")]
    kept = run.joint()
    if not set(parts) <= kept.keys() or "known_seen" in kept:
        return None
    observed, sky, galaxy, sigma = (kept[name] for name in parts)
    left, columns = (observed - sky - galaxy) / sigma, min(8, len(observed))
    pixels = math.isqrt(observed.shape[1])
    sets = [slice(start, start + columns) for start in (0, columns) if start + columns <= len(observed)]
    layout: list[HashableList[str]] = []
    for k in range(len(sets)):
        layout += [[f"y{k}", "law"], [f"r{k}", "law"]]
    figure, axes = plt.subplot_mosaic(
        layout,
        figsize=(0.8 * columns + 4.2, 1.6 * len(sets) + 0.8),
        width_ratios=[0.8 * columns, 2.4],
    )
    for k, rows in enumerate(sets):
        show_strip(axes[f"y{k}"], observed[rows] / peaks_of(observed[rows])[:, None], 0.0, 1.0, pixels)
        show_strip(axes[f"r{k}"], left[rows], -SIGMAS, SIGMAS, pixels, "RdBu_r")
        for key, name in (("y", "observation"), ("r", "residual")):
            axes[f"{key}{k}"].set_ylabel(name, rotation=0, ha="right", va="center")
    edges = np.linspace(-SIGMAS, SIGMAS, 41)
    middle, law = (edges[1:] + edges[:-1]) / 2, axes["law"]
    law.stairs(np.histogram(left[np.isfinite(left)].clip(-SIGMAS, SIGMAS), edges, density=True)[0], edges, label="residuals")
    law.plot(middle, np.exp(-(middle**2) / 2) / math.sqrt(2 * math.pi), color=TRUTH, linewidth=1, label="unit Gaussian")
    law.set(xlabel="residual / σ", yscale="log", ylim=(1e-4, 1.0))
    law.legend(fontsize=7)
    what = f"observation, and (observation − sky − galaxy) / σ of one joint draw, blue −{SIGMAS:g} to red +{SIGMAS:g}; right: "
    what += f"the good pixels of {len(left)} stamps, the ends hold what is beyond."
    caption(figure, run.text(what) + unmeasured(left))
    return figure
