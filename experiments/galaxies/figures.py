"""Figures of galaxies, from the kept samples alone: what is missing leaves its figure out and never fails."""

from __future__ import annotations

__all__ = ["make_figures", "transform_in"]

from pathlib import Path

import yaml

from experiments.galaxies.config import Transform
from experiments.galaxies.data.task import transform_of
from experiments.galaxies.figures_scores import against_figure, recovery_figure, residuals_figure
from experiments.galaxies.figures_stamps import (
    Run,
    laps_figure,
    priors_figure,
    real_figure,
    separations_figure,
    worst_figure,
)
from experiments.report.samples import Results, kept_samples
from experiments.report.style import save_figure, style


def make_figures(results: Results) -> list[Path]:
    """All figures that there is something to show for; returns the files, PNG and PDF of each."""
    style()
    written: list[Path] = []
    makers = {
        "separations": separations_figure,
        "real": real_figure,
        "laps": laps_figure,
        "priors": priors_figure,
        "against": against_figure,
        "recovery": recovery_figure,
        "residuals": residuals_figure,
        "worst": worst_figure,
    }
    folder, seed = results.folder, results.seed
    for problem in results.problems:
        transform = transform_of(problem, transform_in(folder, seed))
        run = Run(kept_samples(folder, results.table, seed, problem), problem, seed, transform)
        for name, make in makers.items():
            figure = make(run)
            if figure is not None:
                written += save_figure(figure, folder / "figures", f"{name}-{problem}")
    return written


def transform_in(folder: Path, seed: int) -> Transform:
    path = folder / f"seed-{seed}" / "config.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    return "asinh" if (settings or {}).get("transform") == "asinh" else "linear"
