"""`make galaxies`: galaxies without their neighbours, from random fields and galaxy-centred stamps alone (paper,
5.3)."""

from __future__ import annotations

import sys

from experiments.core.cli import main
from experiments.core.experiment import Experiment, Named
from experiments.galaxies.config import GalaxiesConfig, problem_named

CAPTION = (
    "Source 1 is the sky (neighbours, background), source 2 the galaxy. Scored on fresh stamps with the model as fitted, "
    "by the mean of several posterior draws. PSNR: the peak of each true galaxy as range, mean of the dB values over "
    "stamps; blended: stamps whose neighbours have 10 % or more of the light in the aperture. Flux: in 3 half-light "
    "radii; median bias, scatter 1.48 MAD. Coverage of 68 % intervals; spread ratio: variance of the draws over the "
    "squared error of their mean, of fluxes in shares of the true ones. Bins of fewer than 50 galaxies are joined with "
    "the next; where there are fewer in all, there are none. Laws: draws of each prior beside clean sources that are not "
    "those learned from, on real sky with noise beside fields of the scored area; floor: clean ones of the same counts; "
    "blank: no pixel above 5 σ; edges: light of the outermost two rows and columns less that of the next two. Left over: "
    "light of the galaxy source beyond that aperture, beside the truth's. Residual χ²: per good pixel, under white noise; "
    "held out: of 5 % of the pixels, masked and predicted; log-likelihood in units of the noise, −1.42 where only white "
    "noise is unknown. On `real` and `archive` known galaxies on random fields are scored (injection recovery), and real "
    "stamps where it says so. The paper prints no score of galaxies; its cost, of stamps of 128 × 128 pixels on GPUs, "
    "stands beside `real`."
)

EXPERIMENT = Experiment(
    "galaxies",
    "galaxies",
    problem_named,
    Named("experiments.galaxies.data.task:make_task"),
    Named("experiments.galaxies.figures:make_figures"),
    Named("experiments.galaxies.browsers:browsers"),
    CAPTION,
    GalaxiesConfig,
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
