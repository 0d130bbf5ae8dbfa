"""Which job of which experiment each model to try comes from, and fresh observations for it.

pretrained/<name>  ←  results/runs/<experiment>/cpu/seed-0/model/<problem>/<method>
"""

from __future__ import annotations

__all__ = ["PRESET", "READY", "SEED", "SHOWN", "Fresh", "Shown", "fresh", "half_hidden", "model_of"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.report.methods import AUTO, OURS
from experiments.report.rebuild import experiment_named
from mvss.posteriors.pretrained import MODELS, READY
from mvss.presets.reader import load_config
from mvss.problem.operators import Mask
from mvss.problem.views import View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import generator

PRESET, SEED = "cpu", 0


@dataclass(frozen=True)
class Shown:
    """experiment: its folder. problem, method: of the job that has learned it. few: what to set, so that hardly any data are
    made but fresh ones. compared: of how many of these precisions are told apart."""

    name: str
    experiment: str
    problem: str
    method: str
    few: tuple[str, ...]
    compared: int

    def load(self) -> Any:  # noqa: ANN401 - core's Experiment
        """The experiment."""
        return experiment_named(self.experiment, Path(self.experiment))


_PROBLEMS = {
    "manifolds": ("manifolds", "contrastive-2", OURS, ("observations=2",), 1024),
    "mnist-grass": (
        "mnist_grass",
        "full",
        AUTO,
        ("grass_observations=2",),
        64,
    ),  # digits are shared out by how many are learned from
    "galaxies": ("galaxies", "simulated", OURS, ("observations=2", "random_fields=2"), 64),
}
SHOWN = {name: Shown(name, *_PROBLEMS[name]) for name in MODELS}


def model_of(experiment: str) -> Shown:
    """The model that comes from an experiment, by the name of its folder. Raises MvssError where there is none."""
    for shown in SHOWN.values():
        if shown.experiment == experiment:
            return shown
    names = ", ".join(shown.experiment for shown in SHOWN.values())
    raise MvssError(f"no model to try is made of {experiment}: name a run of {names}")


@dataclass(frozen=True)
class Fresh:
    """Observations that nothing was learned from, of all sources, and the sources behind them, `(N, *shape)` by name."""

    view: View
    truth: dict[str, Tensor]


def fresh(shown: Shown, count: int, config: Path | None = None) -> Fresh:
    """`count` observations. config: of a run; None for the cpu preset."""
    experiment = shown.load()
    path = config or experiment.folder / "presets" / f"{PRESET}.yaml"
    task = experiment.task(shown.problem, SEED, load_config(experiment.schema, path, [*shown.few, f"fresh={count}"]))
    alpha = task.scored_views[-1]
    truth = dict(zip(task.train.sources, task.fresh_truth[alpha], strict=True))
    return Fresh(task.fresh[alpha], truth)


def half_hidden(view: View, seed: int = SEED) -> View:
    """The same observations, of which a random half of the numbers, the same in all, were not measured."""
    rng = generator(seed, "demo", "hidden")
    mask = Mask(torch.rand((1, *view.observation_shape), generator=rng, dtype=torch.float64) < 0.5)
    operators = {source: mask @ operator for source, operator in view.operators.items()}
    return View(mask.forward(view.y), operators, view.noise, view.name)
