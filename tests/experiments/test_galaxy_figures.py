"""Figures of galaxies from made-up samples: all of them, and as many as there can be where things are missing."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from experiments.core.config import MetricsConfig
from experiments.core.scores import Scorer
from experiments.galaxies.data.transforms import SCALE, SOFTENING
from experiments.galaxies.figures import make_figures
from experiments.galaxies.figures_scores import _bin
from experiments.galaxies.figures_stamps import Run, laps_figure
from experiments.galaxies.panels import UNMEASURED, show_strip, two_contrasts, unmeasured
from experiments.galaxies.scores.judging import BINNED
from experiments.report.samples import Results
from experiments.report.style import style
from mvss.em import Lap
from mvss.problem.operators import Identity
from mvss.problem.views import View, Views
from mvss.runtime.rng import Stream

STAMPS, PIXELS = 10, 8
ALL = ("separations", "real", "laps", "priors", "against", "recovery", "residuals", "worst")
KINDS = ("observed", "sigma", "galaxy", "galaxy_mean", "galaxy_sd")


def arrays(*, sky: bool = True, ground: bool = False, real: bool = True) -> dict[str, np.ndarray]:
    """What a method keeps; without sky, what one keeps that gives the galaxy alone."""
    rng = np.random.default_rng(0)
    names = ["known_truth", "known_sky_truth", *(f"worst_{name}" for name in ("observed", "truth", "mean", "sd"))]
    for kind in ("known", *(["real"] if real else [])):
        names += [f"{kind}_{name}" for name in (*KINDS, *(("sky", "sky_mean") if sky else ()))]
    if sky:
        names += ["prior_1", "prior_2", "observed_2", "lap_truth_2", "lap0_1", "lap0_2", "lap1_2", "lap10_2"]
    found = {name: np.abs(rng.normal(size=(STAMPS, PIXELS**2))) for name in names}
    found["known_observed"][0, :3] = np.nan
    for name in [name for name in names if name.endswith("_sigma")]:
        found[name] = np.full((STAMPS, PIXELS**2), 0.02)
    found["by_blending"] = np.concatenate(
        [[[-math.inf, 0.1, 6], [0.1, math.inf, 4]], rng.uniform(size=(2, len(BINNED)))], axis=1
    )
    found["by_blending"][1, 4] = math.nan
    found["recovery"] = rng.uniform(1.0, 2.0, size=(STAMPS, 5))
    if not sky:
        found["recovery"][:, 2:4] = math.nan
    if ground:
        found["worst_seen"] = rng.normal(size=(STAMPS, 9))
        found["known_seen"] = rng.normal(size=(STAMPS, 9))
    return found


def keep(folder: Path, problem: str, method: str, kept: dict[str, np.ndarray]) -> None:
    path = folder / "seed-0" / "samples" / problem / f"{method}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **kept)  # type: ignore[arg-type]


def made(folder: Path, *problems: str, methods: tuple[str, ...] = ("joint", "aperture")) -> list[str]:
    row = {"metric": "posterior_psnr", "seeds": [0]}
    table: dict[str, Any] = {"rows": [{"problem": p, "method": m, **row} for p in problems for m in methods]}
    written = make_figures(Results(folder, table, {0: []}, problems, 0))
    assert all(path.stat().st_size > 1000 for path in written)
    assert [path.suffix for path in written] == [".png", ".pdf"] * (len(written) // 2)
    assert plt.get_fignums() == []
    return [path.stem for path in written[::2]]


def test_all_figures(tmp_path: Path) -> None:
    keep(tmp_path, "real", "joint", arrays())
    keep(tmp_path, "real", "aperture", arrays(sky=False))
    (tmp_path / "seed-0" / "config.yaml").write_text("transform: asinh\n")
    assert made(tmp_path, "real", "simulated") == [f"{name}-real" for name in ALL]


def test_from_the_ground_nothing_is_left_of_an_observation_at_the_sources_pixels(tmp_path: Path) -> None:
    keep(tmp_path, "ground", "joint", arrays(ground=True, real=False))
    assert made(tmp_path, "ground") == [f"{name}-ground" for name in ALL if name not in ("real", "residuals")]


def test_what_is_missing_leaves_its_figure_out(tmp_path: Path) -> None:
    keep(tmp_path, "simulated", "aperture", arrays(sky=False, real=False))
    path = tmp_path / "seed-0" / "samples" / "simulated" / "joint.npz"
    path.write_bytes(b"cut short")
    assert made(tmp_path, "simulated", "real") == ["separations-simulated", "against-simulated"]
    keep(tmp_path, "simulated", "joint", {"prior_1": np.ones((3, PIXELS**2))})
    assert made(tmp_path, "simulated", methods=("joint",)) == ["priors-simulated"]


def test_scores_by_bin_of_an_earlier_version_leave_their_figure_out(tmp_path: Path) -> None:
    old = arrays(sky=False, real=False) | {"by_blending": np.ones((2, 6))}
    keep(tmp_path, "simulated", "aperture", old)
    assert "against-simulated" not in made(tmp_path, "simulated", methods=("aperture",))


def test_draws_of_the_model_are_shown_as_fluxes() -> None:
    x = np.array([[-0.3, 0.0, 0.7]])
    assert Run({}, "real", 0, "linear").fluxes(x) == pytest.approx(x)
    assert Run({}, "real", 0, "asinh").fluxes(SCALE * np.arcsinh(x / SOFTENING)) == pytest.approx(x)


def test_the_method_that_is_shown_is_ours_if_it_has_what_is_shown() -> None:
    image = np.zeros((1, 4))
    run = Run({"mixture": {"known_sky": image, "a": image}, "joint": {"known_sky": image}}, "real", 0, "linear")
    assert [(found := run.ours(*names)) and found[0] for names in (("known_sky",), ("a",), ("b",))] == [
        "joint",
        "mixture",
        None,
    ]


def test_a_strip_is_black_at_low_white_at_high_and_marks_what_was_not_measured() -> None:
    _, ax = plt.subplots()
    show_strip(ax, np.array([[0.0, 1.0, np.nan, 2.0], [0.0] * 4]), 0.0, 1.0, 2)
    painted = np.asarray(ax.images[0].get_array())
    plt.close("all")
    assert painted.shape == (2, 6, 4)  # a white gap of one pixel after each stamp
    assert painted[0, :, 0].tolist() == [0.0, 1.0, 1.0, 0.0, 0.0, 1.0]
    assert painted[1, 0, :3] == pytest.approx([int(UNMEASURED[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    assert painted[1, 1, 0] == 1.0  # beyond the peak


def test_large_pixels_of_the_ground_lie_where_they_were_taken() -> None:
    _, ax = plt.subplots()
    show_strip(ax, np.zeros((1, 4)), 0.0, 1.0, 8)  # 2 × 2 pixels of twice the size, in the middle of 8 × 8
    painted = np.asarray(ax.images[0].get_array())[:, :8, 0]
    plt.close("all")
    expected = np.ones((8, 8))
    expected[2:6, 2:6] = 0
    assert (painted == expected).all()


def test_without_a_known_noise_there_is_one_contrast() -> None:
    style()
    rows = [("row", np.ones((2, 4)))]
    assert len(two_contrasts(rows, "", None, None).axes) == 1
    figure = two_contrasts(rows, "", np.array([1.0, 2.0]), 0.5)
    linear, hard = (np.asarray(ax.images[0].get_array()) for ax in figure.axes)
    plt.close("all")
    assert linear[0, :, 0] == pytest.approx([1, 1, 1, 0.5, 0.5, 1], abs=0.01)
    assert hard[0, 0, 0] == pytest.approx((math.asinh(2) + math.asinh(3)) / (math.asinh(30) + math.asinh(3)), abs=0.01)


def test_a_caption_says_what_was_not_measured_if_anything_was_not() -> None:
    assert unmeasured(np.zeros((1, 4)), np.ones((1, 4))) == ""
    assert "Orange" in unmeasured(np.zeros((1, 4)), np.array([[0.0, np.nan]]))


def test_of_many_laps_some_are_shown(tmp_path: Path) -> None:
    kept = {f"lap{lap}_2": np.ones((2, 4)) for lap in range(33)}
    figure = laps_figure(Run({"joint": kept}, "real", 0, "linear"))
    assert figure is not None
    names = [ax.get_ylabel() for ax in figure.axes]
    plt.close("all")
    assert len(names) == 7 and (names[0], names[-1]) == ("galaxy, lap 0", "galaxy, lap 32")


def test_draws_of_a_lap_are_kept_though_nobody_knows_the_truth() -> None:
    draws = torch.arange(12.0, dtype=torch.float64).reshape(3, 1, 2, 2)
    view = View(draws, {"galaxy": Identity((1, 2, 2))}, 1.0, "galaxies")
    nothing = torch.zeros(0, 1, 2, 2)
    task = SimpleNamespace(
        train=Views([view]),
        train_truth=[[None]],
        scored_views=(0,),
        sample_truth=lambda *_, **__: nothing,
    )
    metrics = MetricsConfig(sinkhorn=0, lap_sinkhorn=0, paper_sinkhorn=0, pqmass=0, saved=2)
    job = SimpleNamespace(seed=0, problem="real", config=SimpleNamespace(metrics=metrics))
    score = Scorer(job, task, ("galaxy",), Stream(0), lambda _: None)  # type: ignore[arg-type]
    score.lap(Lap(3, {}, [{"galaxy": draws}]))
    assert score.saved["lap3_1"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert "lap_truth_1" not in score.saved


def test_names_of_bins() -> None:
    bounds = ((-math.inf, 21.5), (0.1, 0.3), (0.3, math.inf))
    assert [_bin(*pair) for pair in bounds] == ["< 21.5", "to 0.3", "≥ 0.3"]
