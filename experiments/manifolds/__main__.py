"""`make manifolds`: mixtures of one-dimensional manifolds (paper, section 5.1)."""

from __future__ import annotations

import sys

from experiments.growth import measure_growth
from experiments.manifolds.data import make_task, problem_named
from experiments.manifolds.figures import make_figures
from experiments.runner import Experiment, main

CAPTION = (
    "Scored on fresh observations (new sources, matrices and noise from the same manifolds) with the model as "
    "fitted, on the views that show all sources (mixed-0.0: the view that shows the source). PSNR of single "
    "posterior draws: range 4, mean of the dB values over observations. SD: debiased Sinkhorn divergence (squared "
    "Euclidean cost, regularisation 1e-3, converged, full self terms) between draws and an independent sample of "
    "the truth, same n for every method; the row `exact` (draws from the exact posterior and the true prior) is "
    "the floor. SD (paper): the paper's half-sample form, which is noisy and can be negative. PQMass: chi-square "
    "per degree of freedom (1 is ideal) and the paper's p-value. The paper's numbers go with the newest source."
)


EXPERIMENT = Experiment("manifolds", "manifolds", problem_named, make_task, make_figures, CAPTION)

if __name__ == "__main__":
    if sys.argv[1:2] == ["growth"]:
        sys.exit(measure_growth(EXPERIMENT, ("contrastive-2", "contrastive-3"), sys.argv[2:]))
    sys.exit(main(EXPERIMENT))
