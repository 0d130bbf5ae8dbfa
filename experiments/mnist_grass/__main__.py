"""`make mnist-grass`: digits on grass, neither ever seen clean (paper, section 5.2)."""

from __future__ import annotations

import sys

from experiments.core.cli import main
from experiments.core.experiment import Experiment, Named
from experiments.mnist_grass.config import MnistGrassConfig, problem_named
from experiments.report.digit_results import DIGIT

CAPTION = (
    "Source 1 is grass, source 2 digits; source 3 of `swap-two` is the grass of the second look. Scored on fresh "
    "observations (digits and a part of the texture that no training observation holds) with the model as fitted, on the "
    "views that show both. Energy score, spread ratio, χ², coverage and ranks: of many draws for each. PSNR of single "
    "posterior draws, and of means of 8: range 1, mean of the dB values over observations. SSIM of single draws, Gaussian "
    "window of 1.5 pixels. Draws of every method are cut to [0, 1] first, but on `swap-prior`, whose truth is not cut "
    "either, and where each fit has observations of its own, made of its priors. Fréchet distances and PQMass (chi-square per "
    "degree of freedom, 1 is ideal, and the paper's p-value, on pixels) are from clean sources that are not those scored: "
    "of a posterior draw for each fresh observation from the sources behind the training mixtures, of as many prior draws "
    "as there are of these from the fresh sources; the floor has clean ones in the place of draws. The paper's numbers "
    "are of other photographs and all of MNIST's zeros and ones."
)

EXPERIMENT = Experiment(
    "mnist-grass",
    "mnist-grass",
    problem_named,
    Named("experiments.mnist_grass.data:make_task"),
    Named("experiments.mnist_grass.figures:make_figures"),
    Named("experiments.mnist_grass.browsers:browsers"),
    CAPTION,
    MnistGrassConfig,
    DIGIT,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["scale"]:
        from experiments.mnist_grass.scale import measure_scale

        sys.exit(measure_scale(EXPERIMENT, sys.argv[2:]))
    sys.exit(main(EXPERIMENT))
