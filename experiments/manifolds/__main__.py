"""`make manifolds`: mixtures of one-dimensional manifolds (paper, section 5.1), and of sources that fill their space."""

from __future__ import annotations

import sys

from experiments.core.cli import main
from experiments.core.experiment import Experiment, Named
from experiments.manifolds.problems import problem_named

CAPTION = (
    "Scored on fresh observations (new sources, matrices and noise from the same manifolds) with the model as "
    "fitted, on the views that show all sources (mixed-0.0, surfaces: those that show the source). Energy score, spread "
    "ratio, χ², coverage and ranks: of many draws for each of some observations. Prior KL: of laws blurred by noise of 0.01. "
    "PSNR of single posterior draws: range 4, mean of the dB values over observations. SD: debiased Sinkhorn divergence "
    "(squared Euclidean cost, regularisation 1e-3, marginal error 1e-3, full self terms) between draws and truth spread evenly "
    "along the curve (surfaces: over the Gaussians of the law), same n for every method. Prior draws are stratified over "
    "the mixture's components: of "
    "independent ones the sampling noise alone would exceed the differences between good priors. Floors are in the row "
    "`exact`: for the posterior, exact draws for the same observations; for the prior, the sources themselves behind "
    "the training observations, all that a learner could know who had seen each of them clean. SD (paper): the "
    "paper's half-sample form on independent draws, which is noisy and can be negative. PQMass: chi-square "
    "per degree of freedom (1 is ideal) and the paper's p-value, against independent truth. The paper's numbers go "
    "with the newest source; its released scores leave out samples with |x| > 4, ours have both columns. Wall time is "
    "that of fit, laps and last draws, without the scoring; peak memory that of the job's process."
)


EXPERIMENT = Experiment(
    "manifolds",
    "manifolds",
    problem_named,
    Named("experiments.manifolds.data:make_task"),
    Named("experiments.manifolds.figures:make_figures"),
    Named("experiments.manifolds.browsers:browsers"),
    CAPTION,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["growth"]:
        from experiments.core.growth import measure_growth

        sys.exit(measure_growth(EXPERIMENT, ("contrastive-2", "contrastive-3"), sys.argv[2:]))
    if sys.argv[1:2] == ["sweep"]:
        from experiments.core.sweep import sweep  # needs optuna, which `make manifolds-sweep` installs

        sys.exit(sweep(EXPERIMENT, sys.argv[2:]))
    sys.exit(main(EXPERIMENT))
