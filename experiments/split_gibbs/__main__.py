"""`make split-gibbs`: how far draws of split Gibbs are from exact posteriors under mixtures, at three settings.

    bias      √ mean of ((mean − mean*) / SD*)²                 *: of exact draws; over all numbers of all sources
    SD ratio  mean of SD / SD*
    distance  2 E|x − x*| − E|x − x'| − E|x* − x*'|             energy distance without bias, every number over its SD*

A mixture's step of a chain is exact. So this is what ρ and the length of chains leave, and nothing of networks. What ρ leaves
is told apart: where chains are long, x has the posterior under noise Σ + Σ_β ρ_β² A^β A^βᵀ, which is drawn from exactly, too.

    python -m experiments.split_gibbs [--draws 4096] [--seed 0] [--publish]

→ results/runs/split_gibbs/seed-N/table.{md, json}; with --publish results/split_gibbs/, which is committed.
"""

from __future__ import annotations

__all__ = ["Row", "energy_distance", "main", "measure"]

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.core.cli import ROOT
from experiments.core.scheduler import code_label
from experiments.report.lines import head as head_of
from experiments.report.lines import line
from experiments.report.rebuild import experiment_named
from experiments.split_gibbs.cases import CASES, ROUNDS, accurate, flat, observed
from mvss import Dense, View
from mvss.posteriors.dense import DenseView
from mvss.posteriors.exact import ExactPosterior
from mvss.posteriors.guard import chi2
from mvss.posteriors.split_gibbs import SplitGibbs, levels_of
from mvss.presets.posterior import SplitGibbsConfig
from mvss.presets.reader import load_config
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.units import gains_of_each
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.files import atomic_write_text
from mvss.runtime.locks import locked
from mvss.runtime.rng import Stream

EXPERIMENT, PRESET, METHOD = "mnist_grass", "cpu", "joint"
"""A row of a preset that split Gibbs draws."""
EXACT, DEFAULT, DIGITS, ACCURATE = "exact", "default", "digits", "accurate"
SHARE = 0.25
"""Of the smallest posterior standard deviation: the last ρ of accurate chains."""
BEAM = 256
"""More than any case has combinations of components."""
FEWEST = 4096
"""Draws of what is published."""


@dataclass(frozen=True)
class Row:
    """One setting on one case. last: what the last ρ of all sources add to y, in standard deviations of the noise (root mean
    squares over numbers). evaluations: of a network, for a source and a draw, if priors had any. by_rho: the bias of exact
    draws under the noise that the last ρ add. chi2: per number of y. The rest: see the module."""

    case: str
    setting: str
    last: float
    evaluations: int
    bias: float
    by_rho: float
    sd_ratio: float
    distance: float
    chi2: float


def measure(name: str, draws: int, seed: int) -> list[Row]:
    """All settings on a case; first of all other exact draws, which are what chance makes of each score."""
    view, priors = observed(CASES[name], draws)
    exact, stream = ExactPosterior(BEAM), Stream(seed, ("split gibbs", name))
    reference = flat(exact.draw(view, priors, stream.child("reference")).draws)
    mean, sd = reference.mean(0), reference.std(0)

    def bias(x: Tensor) -> float:
        return float(((x.mean(0) - mean) / sd).square().mean().sqrt())

    def scores(x: Mapping[str, Tensor]) -> dict[str, float]:
        z = flat(x)
        ratio, distance = float((z.std(0) / sd).mean()), energy_distance(z / sd, reference / sd)
        return {"bias": bias(z), "sd_ratio": ratio, "distance": distance, "chi2": chi2(view, x)}

    others = exact.draw(view, priors, stream.child("others")).draws
    rows = [Row(name, EXACT, 0.0, 0, by_rho=bias(flat(others)), **scores(others))]
    near = accurate(view, priors, reference, SHARE, SplitGibbsConfig().levels)
    for setting, config in {DEFAULT: SplitGibbsConfig(), DIGITS: of_digits(), ACCURATE: near}.items():
        found = SplitGibbs(replace(config, chunk=draws)).draw(view, priors, stream.child("chains")).draws
        rho = levels_of(config, view, priors)[-1]
        noisy = exact.draw(*_under(rho, view, priors), stream.child("under rho")).draws
        rows.append(Row(name, setting, _added(rho, view), config.evaluations, by_rho=bias(flat(noisy)), **scores(found)))
    return rows


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Of the laws behind samples `(N, D)` and `(M, D)`, without bias: of one law about 0, and as often below."""
    within = sum(float(torch.cdist(z, z).sum()) / (len(z) * (len(z) - 1)) for z in (x, y))
    return 2 * float(torch.cdist(x, y).mean()) - within


@cache
def of_digits() -> SplitGibbsConfig:
    """How the preset's row draws. Raises MvssError where that is not by split Gibbs."""
    experiment = experiment_named(EXPERIMENT, ROOT / "experiments" / EXPERIMENT)
    config = load_config(experiment.schema, experiment.folder / "presets" / f"{PRESET}.yaml")
    found = config.recipes()[METHOD].settings.separation
    if not isinstance(found, SplitGibbsConfig):
        raise MvssError(f"methods.{METHOD} of {EXPERIMENT}'s preset {PRESET} does not draw by split Gibbs: name another here")
    return found


def _added(rho: Mapping[str, Tensor], view: View) -> float:
    """See `Row.last`."""
    gains = gains_of_each(view)
    added = sum(float(gains[source][0] * each[0] ** 2) for source, each in rho.items())
    return math.sqrt(added / float(view.noise.variance(view.y)[0].mean()))


def _under(
    rho: Mapping[str, Tensor], view: View, priors: Mapping[str, GaussianMixture]
) -> tuple[View, dict[str, GaussianMixture]]:
    """The same observation under noise S = Σ + Σ_β ρ_β² A^β A^βᵀ, as S^-½ y = Σ_β S^-½ A^β x^β + η, of flat sources."""
    data = DenseView.of(view)
    matrices = {source: a[0] for source, a in zip(view.sources, data.matrices, strict=True)}
    root = torch.diag(data.noise[0])
    for source, a in matrices.items():
        root = root + float(rho[source][0]) ** 2 * a @ a.mT
    root = torch.linalg.cholesky(root)
    white = {source: Dense(torch.linalg.solve_triangular(root, a, upper=False)) for source, a in matrices.items()}
    y = torch.linalg.solve_triangular(root, data.y.mT, upper=False).mT
    flattened = {s: GaussianMixture(**{**priors[s].state(), "shape": white[s].source_shape}) for s in matrices}
    return View(y, white, 1.0), flattened


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit status. root: the folder that holds results/."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="split-gibbs")
    parser.add_argument("--draws", type=int, default=FEWEST, help="of each case and setting")
    parser.add_argument("--seed", type=int, default=0, help="of chains and exact draws; observations stay the same")
    parser.add_argument("--publish", action="store_true", help="write results/split_gibbs, which is committed")
    options = parser.parse_args(words)
    command = "make split-gibbs" + (f' ARGS="{" ".join(words)}"' if words else "")
    return report_errors("split-gibbs", lambda: _main(options, command, root), False)


def _main(options: argparse.Namespace, command: str, root: Path) -> int:
    if options.draws < 2 or (options.publish and options.draws < FEWEST):
        raise MvssError(f"--draws {options.draws}: there must be 2 at least, and {FEWEST:,} to publish")
    folder = root / "results" / ("split_gibbs" if options.publish else f"runs/split_gibbs/seed-{options.seed}")
    with locked(folder / "lock"):
        head = {"command": command, "commit": code_label(), "seed": options.seed, "draws": options.draws}
        rows = [row for name in tqdm(CASES, disable=None) for row in measure(name, options.draws, options.seed)]
        table = {**head, "rows": [asdict(row) for row in rows]}
        atomic_write_text(folder / "table.json", json.dumps(table, indent=1) + "\n")
        atomic_write_text(folder / "table.md", text := _markdown(head, rows))
    print(f"{text}\ntable:   {folder / 'table.md'}")
    return 0


def _markdown(head: Mapping[str, Any], rows: Sequence[Row]) -> str:
    def told(config: SplitGibbsConfig) -> str:
        return f"levels {config.levels}, rounds {config.rounds}, steps {config.steps}, last {config.last:g}"

    titles = ("ρ / noise", "evaluations", "bias / SD", "by ρ alone", "SD ratio", "energy distance", "χ² per number")
    lines = [
        "# Split Gibbs beside exact posteriors of mixtures",
        "",
        f"- command: `{head['command']}`",
        f"- commit: `{head['commit']}`",
        f"- seed: {head['seed']}",
        f"- samples: {head['draws']:,} draws of one observation of each case, for each setting and for each of two exact sets",
        f"- {DEFAULT}: {told(SplitGibbsConfig())}; what the library takes where nothing is said",
        f"- {DIGITS}: {told(of_digits())}; row `{METHOD}` of `experiments/{EXPERIMENT}/presets/{PRESET}.yaml`",
        f"- {ACCURATE}: the default's levels, {ROUNDS} rounds, the last ρ {SHARE:g} of the smallest posterior SD",
        f"- {EXACT}: other exact draws: what chance leaves of each score, its floor",
        "",
        CAPTION,
        "",
        *head_of(("case", "setting"), titles),
    ]
    for row in rows:
        exact = row.setting == EXACT
        first = ("–", "–") if exact else (f"{row.last:.2f}", f"{row.evaluations:,}")
        cells = (f"{row.bias:.3f}", "–" if exact else f"{row.by_rho:.3f}", f"{row.sd_ratio:.3f}", f"{row.distance:.4f}")
        lines.append(line(row.case, row.setting, *first, *cells, f"{row.chi2:.2f}"))
    return "\n".join(lines) + "\n"


CAPTION = (
    "All sources are mixtures of three Gaussians, and all are split. Their step of a chain is exact, so that this is what ρ "
    "and the length of chains leave: errors of networks, and of their reverse diffusion in few steps, come on top. ρ / noise: "
    "what the last ρ of all sources add to y, beside the noise. Evaluations: what a network would be asked for a source and a "
    "draw. Bias: of means, in exact posterior SDs, root mean square over all numbers; by ρ alone: that of exact draws under "
    "the noise that the last ρ add, where longer chains would end. SD ratio: SDs of draws over exact ones, mean over numbers. "
    "Energy distance: to exact draws, all numbers together, each in its exact SD; unbiased, so that of exact draws it is about "
    "0, and as often below. χ²: that of exact draws is near 1, but not 1, for a single observation."
)

if __name__ == "__main__":
    sys.exit(main())
