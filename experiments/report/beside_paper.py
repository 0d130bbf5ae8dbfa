"""The paper's tables beside what is published here: number by number, and the command and the file that ours come from."""

from __future__ import annotations

__all__ = ["beside_paper"]

from collections.abc import Mapping
from typing import Any

from experiments.report.lines import cell, head, line
from experiments.report.methods import AUTO, OURS, method_named, method_order
from experiments.report.paper import of_the_fit, read_paper
from experiments.report.summary import Tables
from experiments.report.tables import lookup

SCORES = {  # as the paper has them: title, decimals
    "posterior_psnr": ("PSNR of draws (dB)", 2),
    "posterior_sinkhorn_paper": ("SD of draws", 2),
    "prior_sinkhorn_paper": ("SD of the prior", 2),
    "posterior_frechet_mean_only": ("Fréchet, means, draws", 2),
    "prior_frechet_mean_only": ("Fréchet, means, prior", 2),
    "posterior_pqmass": ("PQMass p, draws", 3),
    "prior_pqmass": ("PQMass p, prior", 3),
    "wall_seconds": ("training (s)", 0),
    "seconds_per_draw": ("a draw (s)", 4),
}
RECIPE = {OURS: "joint_paper"}
"""The method here that follows the recipe of the paper's."""
FIT = {OURS: AUTO}
"""The method that has learned what it separates by, where it has not itself."""
COLUMNS = ("the paper's", "its recipe here", "here")
Rows = Mapping[tuple[str, str, str, str], Mapping[str, Any]]


def beside_paper(tables: Tables) -> str:
    """A table of each problem that the paper has numbers of, and one of what they cost."""
    paper, parts = read_paper(), list[str]()
    for experiment, problems in paper["tables"].items():
        rows = lookup(tables.get(experiment, {"rows": []}))
        for problem, sources in problems.items():
            for source, methods in sources.items():
                parts += ["\n".join(_problem(experiment, problem, source, methods, rows))]
    return "\n\n".join([*parts, "\n".join(_costs(tables, paper["costs"]))])


def _problem(experiment: str, problem: str, source: str, methods: Mapping[str, Any], rows: Rows) -> list[str]:
    target = experiment.replace("_", "-")
    shown = {name for name in methods if any((problem, name, source, metric) in rows for metric in methods[name])}
    ablations = any(method_named(name).ablation for name in shown)
    made = f"`make {target} PROBLEM={problem}`" + (f" and `make {target}-ablations PROBLEM={problem}`" if ablations else "")
    file = f"results/{experiment}/cpu/table.md"
    lines = [f"### Table 1: {_said(experiment)}, {problem}, source {source}", ""]
    lines += [f"Made by {made},", f"out of [{file}](../{file}).", ""]
    lines += head(("method", "score"), COLUMNS)
    for name in method_order(methods):
        for metric, (title, digits) in SCORES.items():
            if (number := methods[name].get(metric)) is None:
                continue
            here = _ours(rows, problem, name, source, metric)
            recipe = rows.get((problem, RECIPE.get(name, ""), source, metric))
            if here is not None or recipe is not None:
                found = (f"{number:.{digits}f}", cell(recipe, digits), cell(here, digits))
                lines.append(line(_label(name), title, *found))
    return lines


def _costs(tables: Tables, costs: Mapping[str, Any]) -> list[str]:
    """The paper gives one number an experiment: ours are of the problem that most of these methods have run on."""
    lines = ["### Table 5: what it costs", "", *head(("problem", "method", "score"), COLUMNS)]
    for experiment, methods in costs.items():
        rows = lookup(tables.get(experiment, {"rows": []}))
        timed = [key[0] for key in rows if key[1] in {*methods, *FIT.values()} and key[3] == "wall_seconds"]
        problem = max(dict.fromkeys(timed), key=timed.count, default="")
        for name, numbers in methods.items():
            for metric, number in numbers.items():
                title, digits = SCORES[metric]
                recipe = rows.get((problem, RECIPE.get(name, ""), "mean", metric))
                here = _ours(rows, problem, name, "mean", metric)
                if here is not None or recipe is not None:
                    cells = (f"{number:.{digits}f}", cell(recipe, digits), cell(here, digits))
                    lines.append(line(f"{_said(experiment)}, {problem}", _label(name), title, *cells))
    return lines


def _ours(rows: Rows, problem: str, name: str, source: str, metric: str) -> Mapping[str, Any] | None:
    """A method's own row, or that of the fit that it separates by, which priors and times of training belong to."""
    own = rows.get((problem, name, source, metric))
    return rows.get((problem, FIT.get(name, ""), source, metric)) if own is None and of_the_fit(metric) else own


def _said(experiment: str) -> str:
    return experiment.replace("_", " ")


def _label(name: str) -> str:
    """Of the paper's method, and of what is called so here."""
    return method_named(name).label.removesuffix(" (ours)") + (" (Table 6)" if method_named(name).ablation else "")
