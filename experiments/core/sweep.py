"""Hyper-parameters of the baselines, by Optuna, so that no rival is starved: `make <experiment>-sweep`.

    score(settings) = mean over problems and tuning seeds of the PSNR of the target, one draw for each fresh observation

Beside it stands what the fit itself maximises, the bound on log p(y) of the fresh observations: the two need not agree.

The tuning seeds are none of those that are reported; the preset's own settings are the first trial. What was found
stands in sweep.md and sweep.json beside the preset's table; it is copied into the preset by hand, and a test compares
the two.
"""

from __future__ import annotations

__all__ = ["sweep"]

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import torch
from tqdm import tqdm

from experiments.core.baselines import make_baseline
from experiments.core.cli import ROOT, read_command
from experiments.core.config import Config, Recipe
from experiments.core.places import Experiment
from experiments.core.pools import TUNING
from experiments.core.scheduler import code_label
from experiments.core.workers import Ended, Report, Workers, killed_is_told
from mvss.baselines.clvm import CLVM
from mvss.baselines.config import CLVMConfig, PCPCAConfig
from mvss.metrics.images import psnr
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.files import atomic_write_text
from mvss.runtime.locks import locked
from mvss.runtime.rng import Stream

SEEDS = tuple(TUNING[:2])
Space = dict[str, tuple[float, float]]
SPACES: dict[str, Space] = {
    "pcpca": {"gamma": (0.0, 0.95), "latents": (1, 5), "learning_rate": (1e-3, 1e-1)},
    "linear": {"background": (1, 5), "target": (1, 5)},
    "mlp": {
        "background": (1, 10),
        "target": (1, 6),
        "learning_rate": (1e-4, 1e-2),
        "temperature": (0.03, 3.0),
        "steps": (500, 4000),
    },
}
"""Least and largest value of every setting; on a logarithmic scale where the largest is ten times the least and not
whole."""
TRIALS = 20
Score = tuple[float, float | None]


def sweep(experiment: Experiment, arguments: Sequence[str], root: Path = ROOT) -> int:
    """Command line of `make <experiment>-sweep`."""
    return report_errors(f"{experiment.target}-sweep", lambda: _sweep(experiment, arguments, root), False)


def _sweep(experiment: Experiment, arguments: Sequence[str], root: Path) -> int:
    command = read_command(experiment, arguments, root, idle=("ablations", "audit", "report", "methods", "problem", "seeds"))
    config, folder = command.config, command.folder
    recipes = {name: r for name, r in config.recipes().items() if r.pcpca or r.clvm}
    if not recipes:
        raise MvssError(f"preset {command.preset} has no baseline to tune")
    if command.dry_run:
        print("\n".join(f"{name}: {TRIALS} trials on {', '.join(_problems(r, config))}" for name, r in recipes.items()))
        return 0
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    head = {
        "experiment": experiment.name,
        "preset": command.preset,
        "command": f"make {experiment.target}-sweep PRESET={command.preset}",
        "commit": code_label(),
        "seeds": SEEDS,
        "fresh": config.fresh,
    }
    with locked(folder / "lock"):
        with killed_is_told(resumes=False), Workers() as pool:
            methods = {name: _study(experiment, name, recipe, config, pool) for name, recipe in recipes.items()}
        atomic_write_text(folder / "sweep.json", json.dumps({**head, "methods": methods}, indent=1) + "\n")
        atomic_write_text(folder / "sweep.md", _markdown(head, methods))
    print(f"sweep:   {folder / 'sweep.md'}")
    return 0


def _study(experiment: Experiment, name: str, recipe: Recipe, config: Config, pool: Workers) -> dict[str, Any]:
    """All trials of a method, and the best."""
    settings = _settings(recipe)
    space, tasks = _space(recipe), [(p, s) for p in _problems(recipe, config) for s in SEEDS]
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial({key: getattr(settings, key) for key in space})
    trials: list[dict[str, Any]] = []
    for _ in tqdm(range(TRIALS), desc=name, disable=None):
        trial = study.ask()
        values: dict[str, Any] = {key: _suggest(trial, key, *limits) for key, limits in space.items()}
        tried = _with(recipe, values)
        found = _scores(experiment, tried, config, tasks, pool)
        scores = {f"{p}, seed {s}": decibels for (p, s), (decibels, _) in zip(tasks, found, strict=True)}
        study.tell(trial, fmean(scores.values()))
        bounds = [bound for _, bound in found if bound is not None]
        bound = fmean(bounds) if len(bounds) == len(found) else None
        trials.append({**values, "psnr": fmean(scores.values()), "bound": bound, "each": scores})
    best = max(trials, key=lambda trial: trial["psnr"])
    return {"best": {key: best[key] for key in space}, "fixed": _fixed(settings, space), "trials": trials}


def _scores(
    experiment: Experiment, recipe: Recipe, config: Config, tasks: Sequence[tuple[str, int]], pool: Workers
) -> list[Score]:
    """Of each task, as many at a time as the preset says."""
    workers = config.workers or os.cpu_count() or 1
    waiting, scores, running = dict(enumerate(tasks)), dict[str, Score](), 0
    while waiting or running:
        while waiting and running < workers:
            number = min(waiting)
            pool.start(str(number), _score, experiment, recipe, config, *waiting.pop(number))
            running += 1
        for name, event in pool.events(1.0):
            if isinstance(event, Ended):
                if event.error is not None:
                    raise event.error
                scores[name], running = event.value, running - 1
    return [scores[str(number)] for number in range(len(tasks))]


def _score(experiment: Experiment, recipe: Recipe, config: Config, problem: str, seed: int, _: Report) -> Score:
    """Mean PSNR of the target on fresh observations, dB, the floor of the scale, 0, where the fit diverges; and the
    mean bound on log p(y) of CLVM, nats."""
    torch.set_num_threads(1)
    task, model = experiment.task(problem, seed, config), make_baseline(recipe)
    try:
        model.fit(task.train, Stream(seed, (problem, "sweep", "fit")))
    except MvssError:
        return 0.0, None
    alpha, target = task.scored_views[-1], model.sources[-1]
    view, keyed = task.fresh[alpha], Stream(seed, (problem, "sweep", "fresh"))
    if (truth := task.fresh_truth[alpha][task.train.sources.index(target)]) is None:
        raise MvssError(f"nobody knows the true sources of {problem}: there is no PSNR to choose settings by")
    draws = model.separate(view, 1, keyed)[target][0]
    bound = float(model.bound(view, keyed).mean()) if isinstance(model, CLVM) else None
    return float(psnr(draws, truth, task.data_range).mean()), bound


def _problems(recipe: Recipe, config: Config) -> list[str]:
    return [p for p in config.problems if recipe.problems is None or p in recipe.problems]


def _settings(recipe: Recipe) -> PCPCAConfig | CLVMConfig:
    """Of the baseline that a recipe is."""
    settings = recipe.pcpca or recipe.clvm
    assert settings is not None  # as `_sweep` has chosen it
    return settings


def _with(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with other settings of its baseline."""
    if recipe.pcpca:
        return replace(recipe, pcpca=replace(recipe.pcpca, **values))
    return replace(recipe, clvm=recipe.clvm and replace(recipe.clvm, **values))


def _space(recipe: Recipe) -> Space:
    settings = _settings(recipe)
    return SPACES["pcpca" if isinstance(settings, PCPCAConfig) else settings.decoder]


def _suggest(trial: optuna.Trial, key: str, low: float, high: float) -> float:
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high)
    return trial.suggest_float(key, low, high, log=low > 0 and high >= 10 * low)


def _fixed(settings: PCPCAConfig | CLVMConfig, space: Space) -> dict[str, Any]:
    return {key: value for key, value in asdict(settings).items() if key not in space}


def _markdown(head: dict[str, Any], methods: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"# {head['experiment']}, preset {head['preset']}: the baselines' settings",
        "",
        f"- command: `{head['command']}`",
        f"- commit: `{head['commit']}`",
        "",
        f"PSNR (dB) of one draw of the target for each of {head['fresh']:,} fresh observations, seeds "
        f"{', '.join(map(str, head['seeds']))}. Best trial first; the preset's settings at the time were trial 1. Bound: mean "
        "of the bound on log p(y) of the same observations, nats (linear: log p(y) itself).",
    ]
    for name, found in methods.items():
        keys, tasks = list(found["best"]), list(found["trials"][0]["each"])
        fixed = ", ".join(f"{key} {value}" for key, value in found["fixed"].items())
        lines += ["", f"## {name}", "", f"Not searched: {fixed}.", ""]
        lines += [
            f"| trial | {' | '.join(keys)} | mean | bound | {' | '.join(tasks)} |",
            "| ---: |" + " ---: |" * (2 + len(keys) + len(tasks)),
        ]
        ranked = sorted(enumerate(found["trials"], start=1), key=lambda t: -t[1]["psnr"])
        for number, trial in ranked:
            cells = [f"{trial[key]:.4g}" for key in keys]
            cells += ["–" if v is None else f"{v:.2f}" for v in (trial["psnr"], trial["bound"], *trial["each"].values())]
            lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
