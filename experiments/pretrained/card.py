"""A model's card in the hub's form: front matter in YAML, then what it is, learned from what, by which command, its scores.

Scores come from the table of the run, sizes from its configuration, licences from data/README.md, the rest from cards.yaml.
"""

from __future__ import annotations

__all__ = ["Precision", "card"]

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from experiments.core.config import Job
from experiments.pretrained.models import Shown
from experiments.report.cells import NONE
from experiments.report.grids import sections
from mvss.runtime.errors import MvssError
from mvss.separator import SourceSeparator

ROOT = Path(__file__).resolve().parents[2]
TEXTS = Path(__file__).with_name("cards.yaml")
INDEXED = {
    "energy_score": "energy score (lower is better)",
    "spread_ratio": "spread ratio (1 is right)",
    "posterior_psnr": "PSNR of single draws (dB)",
}
"""Scores in the front matter."""
LEGEND = "Of fresh observations, which nothing was learned from. ↓, ↑, →: which values are best."
ERROR = "_standard_error"
WIDTH = 116


@dataclass(frozen=True)
class Precision:
    """half: whether weights are kept in half precision. scores: energy scores of `count` fresh observations by source, of the
    model as fitted and in half precision."""

    half: bool
    count: int
    scores: dict[str, tuple[float, float]]


def card(shown: Shown, job: Job, model: SourceSeparator, run: Path, precision: Precision) -> str:
    """The text of README.md. run: folder of the run, which has its table.

    Raises MvssError where the run has no table with the job in it.
    """
    experiment, texts = shown.load(), yaml.safe_load(TEXTS.read_text(encoding="utf-8"))[shown.name]
    table = _table(run, job)
    sizes = {name: value for name, value in vars(job.config).items() if isinstance(value, int | float | str)}
    about, learned = (texts[part].format(**sizes) for part in ("about", "learned"))
    command = f"make {experiment.target} PRESET={table['preset']} PROBLEM={job.problem} METHODS={job.method} SEEDS={job.seed}"
    front = ModelCardData(
        license="mit",
        library_name="mvss",
        tags=["source-separation", "diffusion", "inverse-problems", "uncertainty"],
        model_name=shown.name,
        eval_results=list(_results(shown, job, table, model.sources)),
    )
    sources = ", ".join(f"`{source}` {tuple(prior.shape)}" for source, prior in model.priors.items())
    lines = [
        *("---", front.to_yaml(), "---", f"# {texts['title']}", ""),
        *_wrapped(f"{about} Sources and their shapes: {sources}."),
        *("", "```python", "import mvss", "", f'model = mvss.SourceSeparator.from_pretrained("{shown.name}")'),
        f'prior = model.sample("{model.sources[-1]}", 64)  # what that source looks like by itself',
        f'# view: an mvss.View(y, {{"{model.sources[0]}": A, "{model.sources[-1]}": B}}, noise=...) of your own',
        *("draws = model.separate(view, draws=16)  # of all sources, with their uncertainty", "```", ""),
        *("`make demo` separates fresh observations with it.", "", "## Learned from", "", *_wrapped(learned), ""),
        *("Made by", "", f"    {command}", f"    make pretrained RUN={run_of(shown, table)}", ""),
        *("## Scores", "", *_wrapped(LEGEND), "", *_scores(table, experiment.sought), *_wrapped(_said(precision)), ""),
        *("## Data and licence", "", *_licences(texts), "", "The model: MIT, as all of mvss.", ""),
        *("## Limits", "", *_items([*texts["limits"], *_limits(table, model.sources)])),
    ]
    return "\n".join(lines) + "\n"


def run_of(shown: Shown, table: Mapping[str, Any]) -> str:
    """Where such a run lies."""
    return f"results/runs/{shown.experiment}/{table['preset']}"


def _table(run: Path, job: Job) -> dict[str, Any]:
    """The rows of the job alone."""
    try:
        table: dict[str, Any] = json.loads((run / "table.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MvssError(f"{run} has no readable table.json: let the run finish") from error
    rows = [row for row in table["rows"] if row["problem"] == job.problem and row["method"] == job.method]
    if not rows:
        raise MvssError(f"{run / 'table.json'} has no scores of {job.problem} {job.method}: let the run finish")
    return {**table, "rows": [{**row, "paper": None} for row in rows]}


def _results(shown: Shown, job: Job, table: Mapping[str, Any], sources: Sequence[str]) -> Iterator[EvalResult]:
    for row in table["rows"]:
        if row["metric"] in INDEXED and row["source"] != "mean" and row["mean"] is not None:
            source = sources[int(row["source"]) - 1]
            yield EvalResult(
                task_type="source-separation",
                dataset_type=shown.experiment,
                dataset_name=f"{shown.experiment}, problem {job.problem}, fresh observations",
                metric_type=row["metric"],
                metric_name=f"{INDEXED[row['metric']]}, source {source}",
                metric_value=float(f"{row['mean']:.4g}"),
            )


def _scores(table: Mapping[str, Any], sought: str | None) -> Iterator[str]:
    """Those of the run's table.md, one below the other."""
    for section in sections(table, sought):
        for title, grid in section.parts:
            if len(grid.rows) != 1:  # several to be compared
                continue
            yield from (*_wrapped(title or "Draws of the sources:"), "", "| score | value |", "| --- | ---: |")
            for head, cell in zip(grid.head[grid.names :], grid.rows[0][grid.names :], strict=True):
                if cell.text != NONE:
                    yield f"| {head} | {cell.text} |"
            yield ""


def _said(precision: Precision) -> str:
    pairs = "; ".join(f"{source}: {whole:.4g} and {half:.4g}" for source, (whole, half) in precision.scores.items())
    kept = "Networks and covariances are kept in half precision" if precision.half else "The model is kept in full precision"
    return f"{kept}. Energy scores of {precision.count} fresh observations in full and in half: {pairs}."


def _licences(texts: Mapping[str, Any]) -> Iterator[str]:
    """Of what was learned from: the rows of data/README.md."""
    if not texts["data"]:
        yield from _wrapped(texts["generated"])
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "data" / "README.md").read_text("utf-8").splitlines()]
    known = {row[0]: row[2] for row in rows if len(row) > 3}
    yield from _items([f"{name}: {known[name]}." for name in texts["data"]])


def _limits(table: Mapping[str, Any], sources: Sequence[str]) -> Iterator[str]:
    yield f"One seed, at the budget of the preset {table['preset']}; the paper's budgets are far larger."
    known = {(row["source"], row["metric"]): row["mean"] for row in table["rows"]}
    found = [(s, *(known.get((str(n), f"spread_ratio{of}")) for of in ("", ERROR))) for n, s in enumerate(sources, start=1)]
    if told := [f"`{s}` {ratio:.2f}" + (f" ± {error:.2f}" if error else "") for s, ratio, error in found if ratio is not None]:
        right = "1 is right, below it they are too narrow, above it too wide"
        yield f"How well draws know their error: spread ratio of {', '.join(told)}; {right}."


def _items(items: Sequence[str]) -> Iterator[str]:
    for item in items:
        yield from textwrap.wrap(f"- {item}", WIDTH, subsequent_indent="  ", break_long_words=False)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
