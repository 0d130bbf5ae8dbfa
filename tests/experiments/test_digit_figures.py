"""Figures of digits from made-up draws: calibrated ones lie on the line, and captions say what was done."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.core.cli import ROOT, read_command
from experiments.core.drawn import MEANS
from experiments.mnist_grass.__main__ import EXPERIMENT
from experiments.mnist_grass.figures import _priors, make_figures
from experiments.mnist_grass.figures_spread import BINS, LEAST, spread_figure, spreads
from experiments.report.digit_results import DIGIT
from experiments.report.samples import Arrays, Results, samples_path
from mvss.presets.reader import save_config

DRAWS, IMAGES = 64, 40


def kept(width: float = 1.0) -> Arrays:
    """Means and SDs of draws of a posterior that is so many times as wide as it should be, at pixels of many widths."""
    rng = np.random.default_rng(0)
    sigma = np.exp(rng.uniform(np.log(2e-3), np.log(0.3), (IMAGES, 784)))
    draws = width * sigma * rng.normal(size=(DRAWS, IMAGES, 784))
    arrays = {"mean": draws[:MEANS].mean(0), "width": draws.std(0, ddof=1), "truth": sigma * rng.normal(size=sigma.shape)}
    return {f"{kind}_{DIGIT}": values for kind, values in arrays.items()}


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_the_error_of_a_mean_is_the_spread_where_draws_follow_the_posterior(width: float) -> None:
    arrays = kept(width)
    spread, error = spreads(*(arrays[f"{kind}_{DIGIT}"] for kind in ("mean", "width", "truth")))
    expected = np.sqrt((1 / width**2 + 1 / MEANS) / (1 + 1 / MEANS))
    assert len(spread) == BINS and (np.diff(spread) > 0).all()
    np.testing.assert_allclose(error / spread, expected, rtol=0.1)


def test_spread_is_drawn_of_every_problem_and_of_whoever_has_kept_it(tmp_path: Path) -> None:
    rows = []
    for problem, method in (("full", "amortised"), ("full", "mixture"), ("swap-two", "joint")):
        path = samples_path(tmp_path, 0, problem, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, observation=np.zeros((2, 784)), **kept())  # type: ignore[arg-type]
        rows.append({"problem": problem, "method": method, "metric": "posterior_psnr", "seeds": [0]})
    np.savez(samples_path(tmp_path, 0, "full", "mixture"), mean_2=np.zeros((2, 784)))
    found = make_figures(Results(tmp_path, {"rows": rows}, {0: []}, ("full", "swap-mask", "swap-two"), 0))
    names = [path.name for path in found if path.stem.startswith("spread")]
    assert names == [f"spread-{problem}.{kind}" for problem in ("full", "swap-two") for kind in ("png", "pdf")]


def test_pixels_whose_draws_are_all_the_same_are_drawn_at_the_edge() -> None:
    arrays = kept()
    arrays[f"width_{DIGIT}"][:20] = 0.0
    figure = spread_figure({"joint": arrays}, 0)
    assert figure is not None
    (line, calibrated), ends = figure.axes[0].lines, figure.axes[0].get_xlim()
    assert line.get_xdata()[0] == ends[0] == LEAST and line.get_ydata()[0] > 2 * LEAST
    assert list(calibrated.get_xdata()) == list(calibrated.get_ydata()) == list(ends)
    plt.close("all")


def test_a_caption_says_what_draws_of_priors_begin_from(tmp_path: Path) -> None:
    config = read_command(EXPERIMENT, ["--preset", "cpu"], ROOT).config
    save_config(config, tmp_path / "seed-0" / "config.yaml")
    both = {"prior_1": np.zeros((2, 784)), "prior_2": np.zeros((2, 784))}
    figure = _priors(
        dict.fromkeys(("auto", "mixture", "joint_paper", "gibbs", "pcpca"), both), Results(tmp_path, {}, {}, (), 0), "full"
    )
    assert figure is not None
    text = figure.get_supxlabel().replace("\n", " ")
    recipe = "joint, paper's recipe"
    assert f"from pure noise (digit, auto (ours); digit, {recipe}; grass, {recipe}) or from draws of the mixture" in text
    assert "noised (digit, Gibbs); all others are draws of Gaussians in closed form" in text
    plt.close("all")
