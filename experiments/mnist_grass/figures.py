"""Figures of grass and digits, from the kept samples alone: what is missing leaves its figure out and never fails."""

from __future__ import annotations

__all__ = ["make_figures", "mixtures"]

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.core.config import Recipe
from experiments.mnist_grass.config import LEARNED, SWAPPED, MnistGrassConfig, problem_named
from experiments.mnist_grass.data import AMPLITUDE
from experiments.mnist_grass.digits import SHAPE
from experiments.mnist_grass.figures_scale import draw_scale
from experiments.mnist_grass.figures_spread import spread_figure
from experiments.report.methods import AUTO, OURS, method_named
from experiments.report.samples import Arrays, Results, kept_samples, laps_of
from experiments.report.style import caption, save_animation, save_figure, style
from mvss.presets.reader import load_config

SHOWN = 8
SHOWN_METHODS = (AUTO, OURS, "mixture")
"""Whose draws are shown where there is room for one: the first of them that there is."""
TWINS = ("amortised", "moment_matching")
"""Ways to separate by one fit that figures of all methods leave out."""
Samples = Arrays


def _first(found: Mapping[str, Samples], *names: str) -> Samples:
    """The arrays of the first method that has kept all of these; none where nobody has."""
    return next((found[m] for m in SHOWN_METHODS if set(names) <= found.get(m, {}).keys()), {})


def make_figures(results: Results) -> list[Path]:
    """All figures, and what EM's laps do as an animation; returns the files."""
    style()
    written = draw_scale(results.folder)
    folder, seed = results.folder / "figures", results.seed
    swaps = [problem for problem in results.problems if problem.startswith(SWAPPED)]
    # each prior has observations of its own
    if (swapped := _swaps(results, [problem for problem in swaps if not problem_named(problem).simulated])) is not None:
        written += save_figure(swapped, folder, "swaps")
    for problem in results.problems:
        found = kept_samples(results.folder, results.table, seed, problem)
        if (spread := spread_figure(found, seed)) is not None:
            written += save_figure(spread, folder, f"spread-{problem}")
        if problem in swaps:
            continue
        found = {method: arrays for method, arrays in found.items() if method not in TWINS}
        figures = {
            "views": _views(found, seed),
            "strip": _strip(found, problem_named(problem).factors, seed),
            "separations": _separations(found, problem_named(problem).factors, seed),
            "laps": _laps(found, seed),
            "priors": _priors(found, results, problem),
            "uncertainty": _uncertainty(found, seed),
            "worst": _worst(found, seed),
        }
        for name, figure in figures.items():
            if figure is not None:
                written += save_figure(figure, folder, f"{name}-{problem}")
        if len(frames := _frames(found)) > 1:
            written.append(save_animation(frames, folder, f"laps-{problem}"))
    return written


def _grid(rows: Sequence[tuple[str, NDArray[np.float64]]], text: str) -> Figure:
    """Rows of images with a name each."""
    columns = min(SHOWN, *(len(images) for _, images in rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=(0.85 * columns + 1.2, 0.85 * len(rows) + 0.5), squeeze=False)
    for line, (name, images) in zip(axes, rows, strict=True):
        for ax, image in zip(line, images, strict=False):
            _image(ax, image)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    caption(figure, text)
    return figure


def _image(ax: Axes, image: NDArray[np.float64]) -> None:
    side = math.isqrt(image.size)
    if side**2 != image.size:  # two looks, one above the other
        side = math.isqrt(image.size // 2)
    ax.imshow(image.reshape(-1, side), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _swaps(results: Results, problems: Sequence[str]) -> Figure | None:
    """What one fit makes of observations by other operators, under other noise and on another background."""
    found = {problem: kept_samples(results.folder, results.table, results.seed, problem) for problem in problems}
    methods = [m for m in (OURS, "mixture") if any("mean_2" in own.get(m, {}) for own in found.values())]
    shown = {p: own for p, own in found.items() if any("mean_2" in own.get(m, {}) for m in methods)}
    if not shown:
        return None
    leading, *others = methods
    means = {m: f"{method_named(m).short}, mean" for m in methods}
    titles = ["observation", "truth", means[leading], "its SD × 2", *(means[m] for m in others)]
    figure, axes = plt.subplots(
        len(shown), len(titles), figsize=(1.1 * len(titles) + 1.2, 1.1 * len(shown) + 0.8), squeeze=False
    )
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=8)
    for line, (problem, own) in zip(axes, shown.items(), strict=True):
        first = next(own[m] for m in methods if "mean_2" in own.get(m, {}))
        ours, rest = own.get(leading, {}), [own.get(m, {}).get("mean_2") for m in others]
        width = 2 * ours["width_2"] if "width_2" in ours else None
        images = [first["observation"], first["truth_2"], ours.get("mean_2"), width, *rest]
        for ax, image in zip(line, images, strict=True):
            _image(ax, image[0]) if image is not None else ax.set_axis_off()
        line[0].set_ylabel(problem.removeprefix(SWAPPED), rotation=0, ha="right", va="center")
    caption(figure, f"Seed {results.seed}: priors learned of {LEARNED}, nothing retrained. Means of 8 draws of the digit.")
    return figure


def _views(found: Mapping[str, Samples], seed: int) -> Figure | None:
    """The observations themselves, y¹ and y² of the talk."""
    own = next((s for s in found.values() if "observed_1" in s), {})
    names = sorted(name for name in own if name.startswith("observed_"))
    if not names:
        return None
    rows = [(f"view {name.removeprefix('observed_')}", own[name]) for name in names]
    return _grid(rows, f"Seed {seed}: training observations of every view, as they are seen; no grass is in two of them.")


def _separations(found: Mapping[str, Samples], factors: Sequence[int], seed: int) -> Figure | None:
    """The paper's Figure 3: observation, truth, and a draw of each method for both sources; resolutions in turn."""
    first = next((s for s in found.values() if {"truth_1", "truth_2"} <= s.keys()), None)
    if first is None:
        return None
    rows = [("observation", mixtures(first["truth_1"], first["truth_2"], factors))]
    for b, name in ((2, "digit"), (1, "grass")):
        rows.append((f"{name}, truth", first[f"truth_{b}"]))
        rows += [(method_named(m).short, s[f"posterior_{b}"]) for m, s in found.items() if f"posterior_{b}" in s]
    return _grid(rows, f"Seed {seed}: single posterior draws for fresh observations (these shown without their noise).")


def _strip(found: Mapping[str, Samples], factors: Sequence[int], seed: int) -> Figure | None:
    """What one method makes of fresh observations, and how sure it is."""
    if not (own := _first(found, "posterior_1", "width_2")):
        return None
    rows = [
        ("observation", mixtures(own["truth_1"], own["truth_2"], factors)),
        ("digit, a draw", own["posterior_2"]),
        ("digit, SD × 2", 2 * own["width_2"]),
        ("digit, truth", own["truth_2"]),
        ("grass, a draw", own["posterior_1"]),
        ("grass, truth", own["truth_1"]),
    ]
    return _grid(rows, f"Seed {seed}: fresh observations (shown without their noise), taken apart by draws of both sources.")


def mixtures(grass: NDArray[np.float64], digits: NDArray[np.float64], factors: Sequence[int] = (1,)) -> NDArray[np.float64]:
    """What is observed of sources `(N, D)`, without noise, at the resolutions `factors` in turn, `(N, D)`."""
    out = []
    for row, image in enumerate((grass + AMPLITUDE * digits).reshape(-1, *SHAPE[-2:])):
        f = factors[row % len(factors)]
        means = image.reshape(SHAPE[-2] // f, f, SHAPE[-1] // f, f).mean((1, 3))
        out.append(np.kron(means, np.ones((f, f))).ravel())
    return np.stack(out)


def _laps(found: Mapping[str, Samples], seed: int) -> Figure | None:
    """Digits of the training observations over EM laps, the talk's "Epoch 1 …"."""
    own = _first(found, "lap_truth_2")
    laps = laps_of(own, 2)
    if not laps:
        return None
    rows = [("truth", own["lap_truth_2"]), *((f"lap {lap}", own[f"lap{lap}_2"]) for lap in laps)]
    return _grid(rows, f"Seed {seed}: digits for training observations, lap by lap; lap 0 is what EM starts from.")


def _frames(found: Mapping[str, Samples]) -> list[NDArray[np.float64]]:
    """The same digits as pictures of two rows, one for each lap."""
    own, frames = _first(found, "lap_truth_2"), []
    for lap in laps_of(own, 2):
        images = own[f"lap{lap}_2"][: 2 * SHOWN].reshape(-1, *SHAPE[-2:])
        images = images[: len(images) // 2 * 2]
        frames.append(np.concatenate(np.split(images.transpose(1, 0, 2).reshape(SHAPE[-2], -1), 2, axis=1)))
    return frames


def _priors(found: Mapping[str, Samples], results: Results, problem: str) -> Figure | None:
    sources = ((2, "digit"), (1, "grass"))
    drawn = {(m, name): own[f"prior_{b}"] for b, name in sources for m, own in found.items() if f"prior_{b}" in own}
    if not drawn:
        return None
    path, begun = results.folder / f"seed-{results.seed}" / "config.yaml", defaultdict[str, list[str]](list)
    recipes = load_config(MnistGrassConfig, path).recipes() if path.exists() else {}
    titles = {(method, name): f"{name}, {method_named(method).short}" for method, name in drawn}
    for (method, name), title in titles.items():
        if method in recipes and (begin := _begun(recipes[method].on(problem), name)):
            begun[begin].append(title)
    text = f"Seed {results.seed}: draws of the learned priors. "
    if networks := " or ".join(f"from {begin} ({'; '.join(those)})" for begin, those in begun.items()):
        text += f"Networks go back in time {networks}; all others are draws of Gaussians in closed form, or decoded latents."
    return _grid([(titles[key], images) for key, images in drawn.items()], text)


def _begun(recipe: Recipe, source: str) -> str:
    """What draws of a prior begin from; nothing where no network makes them."""
    prior = recipe.settings.prior
    if recipe.baseline or prior.network is None or source in prior.closed:
        return ""
    cold = prior.sampler is not None or recipe.settings.separating.of_priors[1]
    return "pure noise" if cold else "draws of the mixture that they correct, noised"


def _uncertainty(found: Mapping[str, Samples], seed: int) -> Figure | None:
    """Posterior standard deviation beside the error of the posterior mean."""
    if not (own := _first(found, "width_2")):
        return None
    count = min(len(own["truth_2"]), len(own["mean_2"]))
    rows = [
        ("truth", own["truth_2"][:count]),
        ("posterior mean", own["mean_2"][:count]),
        ("|error| × 2", 2 * np.abs(own["mean_2"][:count] - own["truth_2"][:count])),
        ("SD × 2", 2 * own["width_2"][:count]),
    ]
    return _grid(rows, f"Seed {seed}, digits of fresh observations: what the posterior is unsure of, and where it is wrong.")


def _worst(found: Mapping[str, Samples], seed: int) -> Figure | None:
    """The observations whose digit is farthest from the truth."""
    if not (own := _first(found, "worst_mean_2")):
        return None
    rows = [
        ("observation", mixtures(own["worst_truth_1"], own["worst_truth_2"])),
        ("digit, truth", own["worst_truth_2"]),
        ("posterior mean", own["worst_mean_2"]),
        ("SD × 2", 2 * own["worst_width_2"]),
        ("grass, truth", own["worst_truth_1"]),
        ("posterior mean", own["worst_mean_1"]),
    ]
    return _grid(rows, f"Seed {seed}: the fresh observations whose digit has the lowest PSNR (shown at full resolution).")
