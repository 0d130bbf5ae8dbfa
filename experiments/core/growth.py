"""How the cost grows: one EM lap and the mixture fit, against the numbers of observations and of sources.

    cost(N, pairs) / cost(N₀, pairs₀)    beside    N · pairs / (N₀ · pairs₀)

with `pairs` the (source, view) pairs that are shown: an E-step draws as many sources for every observation number. The
passes over the data are fixed, so that steps grow with N. Counts are exact; times are one run each on whatever else the
machine does, and are printed as ratios only.
"""

from __future__ import annotations

__all__ = ["Cost", "measure", "measure_growth"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.core.cli import ROOT, Command, read_command
from experiments.core.config import Config
from experiments.core.places import Experiment
from experiments.core.scheduler import code_label
from mvss.presets.estimation import AscentConfig
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.files import atomic_write_text
from mvss.runtime.locks import locked
from mvss.runtime.rng import Stream
from mvss.separator import FitEvent, SourceSeparator

SIZES = (0.25, 0.5, 1.0, 2.0)
"""Of the preset's observations: 1k, 2k, 4k and 8k in the cpu preset."""
FIT_PASSES, TRAINING_PASSES = 4, 16


@dataclass(frozen=True)
class Cost:
    """One measurement. observations: per view. network_evaluations: of the E-step, over all observations; an
    evaluation of a vector–Jacobian product counts as one."""

    problem: str
    observations: int
    sources: int
    pairs: int
    network_evaluations: int
    e_step_seconds: float
    m_step_seconds: float
    fit_seconds: float


def measure(experiment: Experiment, problem: str, config: Config, seed: int) -> Cost:
    """Cost of a short mixture fit and of one EM lap, all sources together."""
    task, stream, settings = experiment.task(problem, seed, config), Stream(seed, (problem, "growth")), config.settings
    ascent = settings.estimation
    if not isinstance(ascent, AscentConfig):
        raise MvssError("growth: the preset's mixtures are not fitted by ascent, whose cost is measured: take another preset")
    steps = max(1, round(FIT_PASSES * config.observations / ascent.batch))
    ascent = replace(ascent, components=ascent.components[:1], steps=steps, starts=1)
    steps = max(1, round(TRAINING_PASSES * config.observations / settings.training.batch))
    em = replace(settings.em, laps=1, stages="together")
    settings = replace(settings, estimation=ascent, em=em, training=replace(settings.training, steps=steps), separation=None)
    records: list[dict[str, float]] = []

    def on_event(event: FitEvent) -> None:
        if event.lap is not None:
            records.append(event.lap.record)

    model = SourceSeparator(settings).fit(task.train, stream, callback=on_event, verbose=False)
    assert model.report is not None
    lap, pairs = records[-1], sum(len(view.sources) for view in task.train)
    times = (lap["e_step_seconds"], lap["m_step_seconds"], model.report.seconds["first priors"])
    return Cost(problem, config.observations, len(model.sources), pairs, int(lap["network_evaluations"]), *times)


def measure_growth(experiment: Experiment, problems: Sequence[str], arguments: Sequence[str], root: Path = ROOT) -> int:
    """Command line of `make <experiment>-growth`: growth.md and growth.json beside the preset's table.

    problems: the first is measured at all sizes, the others at the second size, for the number of sources.
    """
    return report_errors(f"{experiment.target}-growth", lambda: _measure_growth(experiment, problems, arguments, root), False)


def _measure_growth(experiment: Experiment, problems: Sequence[str], arguments: Sequence[str], root: Path) -> int:
    command = read_command(experiment, arguments, root, idle=("ablations", "audit", "report", "methods", "problem"))
    if len(command.seeds) > 1:
        raise MvssError(f"growth is measured on one seed, not on {len(command.seeds)}: give one")
    config, seed = command.config, command.seeds[0]
    sizes = [max(1, int(size * config.observations)) for size in SIZES]
    plan = [(problems[0], n) for n in sizes] + [(problem, sizes[1]) for problem in problems[1:]]
    if command.dry_run:
        print("\n".join(f"{problem}, {n} observations per view" for problem, n in plan))
        return 0
    with locked(command.folder / "lock"):
        measure(experiment, problems[0], replace(config, observations=sizes[0]), seed)  # the first run also warms up
        costs = [measure(experiment, p, replace(config, observations=n), seed) for p, n in tqdm(plan, disable=None)]
        _write(experiment, command, [vars(cost) | ratios(cost, costs[0]) for cost in costs])
    print(f"growth:  {command.folder / 'growth.md'}")
    return 0


def _write(experiment: Experiment, command: Command, rows: list[dict[str, Any]]) -> None:
    """growth.json and growth.md."""
    head = {
        "experiment": experiment.name,
        "preset": command.preset,
        "commit": code_label(),
        "command": command.text(f"{experiment.target}-growth"),
        "threads": torch.get_num_threads(),
    }
    atomic_write_text(command.folder / "growth.json", json.dumps({**head, "rows": rows}, indent=1) + "\n")
    atomic_write_text(command.folder / "growth.md", _markdown(head, rows))


def ratios(cost: Cost, base: Cost) -> dict[str, float]:
    """Each cost over the base's; `size_ratio` is what it would be if the cost were linear."""
    return {
        "size_ratio": cost.observations * cost.pairs / (base.observations * base.pairs),
        "network_evaluations_ratio": cost.network_evaluations / base.network_evaluations,
        "e_step_ratio": cost.e_step_seconds / base.e_step_seconds,
        "m_step_ratio": cost.m_step_seconds / base.m_step_seconds,
        "fit_ratio": cost.fit_seconds / base.fit_seconds,
    }


def _markdown(head: Mapping[str, object], rows: Sequence[Mapping[str, Any]]) -> str:
    counted = ("problem", "observations per view", "sources", "pairs", "network evaluations")
    titles = (*counted, "N · pairs", "evaluations", "E-step time", "M-step time", "mixture fit time")
    lines = [
        f"# {head['experiment']}, preset {head['preset']}: growth of the cost",
        "",
        f"- command: `{head['command']}`",
        f"- commit: `{head['commit']}`",
        "",
        f"One EM lap ({TRAINING_PASSES} passes over the draws) and a short mixture fit ({FIT_PASSES} passes, the first "
        "K). Pairs: (source, view) pairs that are shown. Network evaluations: of the E-step, over all observations, "
        "with vector–Jacobian products. From `N · pairs` on: ratios to the first row; a cost that is linear has the "
        f"ratio of `N · pairs`. Times are one run each with {head['threads']} thread(s), with the noise of the machine "
        "in them: read them to a third or so, not to the digit.",
        "",
        f"| {' | '.join(titles)} |",
        "| --- |" + " ---: |" * (len(titles) - 1),
    ]
    for row in rows:
        counts = [f"{row[name]:,}" for name in ("observations", "sources", "pairs", "network_evaluations")]
        shares = ("size_ratio", "network_evaluations_ratio", "e_step_ratio", "m_step_ratio", "fit_ratio")
        lines.append(f"| {' | '.join([str(row['problem']), *counts, *(f'{row[name]:.2f}' for name in shares)])} |")
    return "\n".join(lines) + "\n"
