"""From the records of a run to its table, the paper's numbers beside ours.

    oracle gap  = PSNR(exact) − PSNR(method)   [dB],      excess = SD(method) − SD(exact),      SD: Sinkhorn divergence

per problem, source and seed, so that the spread over seeds is the spread of the difference. A draw of the exact
posterior is as far from the truth as a draw can rightly be: a gap below 0 is no gain, it means draws too narrow.
"""

from __future__ import annotations

__all__ = ["build_table", "lookup", "method_order", "paper_value", "write_table"]

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mvss.checkpoints import atomic_write_text

METHODS = ("joint", "mixture", "joint_paper", "gibbs", "gibbs_8x", "gibbs_mixture")
DERIVED = (  # made from, made here, sign of (method − exact)
    ("posterior_psnr", "oracle_gap_db", -1.0),
    ("posterior_sinkhorn", "posterior_sinkhorn_excess", 1.0),
    ("prior_sinkhorn", "prior_sinkhorn_excess", 1.0),
)
PAPER = Path(__file__).with_name("paper.yaml")

Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str, str], Row]
"""Rows of one problem by (method, source, metric)."""

NONE = "–"
LABELS = {
    "joint": "joint (ours)",
    "mixture": "mixture (closed form)",
    "joint_paper": "joint, the paper's recipe",
    "gibbs": "Gibbs, equal compute",
    "gibbs_8x": "Gibbs, 8 × compute",
    "gibbs_mixture": "Gibbs, mixture start",
    "exact": "exact (oracle, floor)",
}


@dataclass(frozen=True)
class Column:
    """A column: `source` is "mean" or "newest"; the best value is the nearest to `ideal` (None: there is no best)."""

    title: str
    metric: str
    decimals: int
    ideal: float | None = None
    source: str = "mean"
    scale: float = 1.0


# A gap is two-sided (draws at the posterior mean would gain 3 dB); a large p-value is no better than a middling one.
LOW, HIGH = -math.inf, math.inf
QUALITY = (
    Column("PSNR (dB)", "posterior_psnr", 2, HIGH),
    Column("PSNR, source {newest}", "posterior_psnr", 2, HIGH, "newest"),
    Column("gap to oracle (dB)", "oracle_gap_db", 2, 0.0),
    Column("posterior SD", "posterior_sinkhorn", 4, LOW),
    Column("over floor", "posterior_sinkhorn_excess", 4, LOW),
    Column("prior SD", "prior_sinkhorn", 4, LOW),
    Column("over floor", "prior_sinkhorn_excess", 4, LOW),
    Column("PQMass χ²/dof", "posterior_pqmass_chi2", 2, 1.0),
    Column("PQMass p", "posterior_pqmass", 3),
    Column("coverage error", "coverage_error", 3, LOW),
)
BESIDE = (
    Column("PSNR (dB)", "posterior_psnr", 2, HIGH, "newest"),
    Column("posterior SD", "posterior_sinkhorn_paper", 4, LOW, "newest"),
    Column("prior SD", "prior_sinkhorn_paper", 4, LOW, "newest"),
    Column("posterior Fréchet, mean only", "posterior_frechet_mean_only", 2, LOW, "newest"),
    Column("prior Fréchet, mean only", "prior_frechet_mean_only", 2, LOW, "newest"),
    Column("posterior p", "posterior_pqmass", 3, None, "newest"),
    Column("prior p", "prior_pqmass", 3, None, "newest"),
)
COST = (
    Column("laps", "laps", 0),
    Column("network evaluations per observation", "network_evaluations", 0, LOW),
    Column("time per draw (ms)", "seconds_per_draw", 4, LOW, scale=1e3),
    Column("wall time (s)", "wall_seconds", 1, LOW),
    Column("peak memory (GiB)", "peak_memory_gib", 2, LOW),
)


class Key(NamedTuple):
    """What a number of the table is of."""

    problem: str
    method: str
    source: str
    metric: str


class Score(NamedTuple):
    """A number of one seed (NaN where a run diverged) and the samples behind it."""

    value: float
    samples: int


Scores = dict[Key, dict[int, Score]]


def build_table(
    experiment: str, preset: str, records_by_seed: Mapping[int, Sequence[Mapping[str, Any]]], command: str, commit: str
) -> dict[str, Any]:
    """Return the table (the content of table.json) of the final records, those without a lap.

    Arguments:
        experiment, preset: names, as in results/<experiment>/<preset>.
        records_by_seed: the records of each seed, oldest first; of two records of one number the later one holds.
        command: what made the results.
        commit: the git commit of the code that did.

    Returns:
        a dict with the arguments and "rows": problem, method, source ("1", "2", ..., "mean"), metric, the mean and the
        standard deviation over seeds (None for a single seed), seeds, samples and the paper's number or None.
        The mean is None where any seed is not finite: the mean of the rest would flatter a method that diverges.
    """
    scores = _collect(records_by_seed)
    _derive(scores)
    _average_sources(scores)
    rows = [_row(experiment, key, by_seed) for key, by_seed in scores.items()]
    problems = list(dict.fromkeys(key.problem for key in scores))  # as they were run
    methods = method_order(row["method"] for row in rows)
    rows.sort(key=lambda row: (problems.index(row["problem"]), methods.index(row["method"]), row["metric"], row["source"]))
    return {"experiment": experiment, "preset": preset, "commit": commit, "command": command, "rows": rows}


def write_table(folder: Path | str, table: Mapping[str, Any], caption: str) -> None:
    """Write table.json and table.md into a folder, each whole or not at all.

    Arguments:
        folder: results/<experiment>/<preset>.
        table: what `build_table` returns.
        caption: how the numbers were scored, in Markdown.
    """
    head = json.dumps({name: value for name, value in table.items() if name != "rows"}, indent=1, ensure_ascii=False)
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in table["rows"])
    body = f"[\n  {rows}\n ]" if rows else "[]"
    # One row a line: a change of one number is a change of one line.
    atomic_write_text(Path(folder) / "table.json", head.removesuffix("\n}") + f',\n "rows": {body}\n}}\n')
    methods = method_order(row["method"] for row in table["rows"])
    atomic_write_text(Path(folder) / "table.md", _markdown(table, methods, caption))


def method_order(methods: Iterable[str]) -> list[str]:
    """Return the methods without repeats in the order of every table: ours, its rivals, others by name, the oracle."""
    names = set(methods)
    others = sorted(names - {*METHODS, "exact"})
    return [name for name in (*METHODS, *others, "exact") if name in names]


def lookup(table: Mapping[str, Any]) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
    """Return the rows of a table by (problem, method, source, metric)."""
    return {(row["problem"], row["method"], row["source"], row["metric"]): row for row in table["rows"]}


def paper_value(experiment: str, problem: str, method: str, source: str, metric: str) -> float | None:
    """Return the paper's number for a cell, or None.

    Scores go with the newest source; times, which the paper gives per experiment, with "mean" in its own problems.
    """
    paper = _paper()
    problems = paper["tables"].get(experiment, {})
    if problem not in problems:
        return None
    if source == "mean":
        value = paper["costs"].get(experiment, {}).get(method, {}).get(metric)
    else:
        value = problems[problem].get(source, {}).get(method, {}).get(metric)
    return None if value is None else float(value)


@cache
def _paper() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    return content


def _collect(records_by_seed: Mapping[int, Sequence[Mapping[str, Any]]]) -> Scores:
    scores: Scores = defaultdict(dict)
    for seed, records in sorted(records_by_seed.items()):
        for record in records:
            if "metric" not in record or record.get("lap") is not None:
                continue
            suffix = "_train" if record.get("split") == "train" else ""
            key = Key(record["problem"], record["method"], str(record["source"]), record["metric"] + suffix)
            value = record.get("value")
            scores[key][seed] = Score(math.nan if value is None else float(value), int(record.get("samples") or 0))
    return scores


def _derive(scores: Scores) -> None:
    for key, by_seed in list(scores.items()):
        for metric, made, sign in DERIVED:
            if key.metric != metric or key.method == "exact":
                continue
            exact = scores.get(key._replace(method="exact"), {})
            differences = {
                seed: Score(sign * (score.value - exact[seed].value), score.samples)
                for seed, score in by_seed.items()
                if seed in exact
            }
            if differences:
                scores[key._replace(metric=made)] = differences


def _average_sources(scores: Scores) -> None:
    groups: dict[Key, list[dict[int, Score]]] = defaultdict(list)
    for key, by_seed in scores.items():
        groups[key._replace(source="mean")].append(by_seed)
    for key, sources in groups.items():
        # A seed that lacks a source has no mean: the mean of the others would be of another thing.
        shared = [seed for seed in sources[0] if all(seed in by_seed for by_seed in sources)]
        if key not in scores and shared:
            scores[key] = {
                seed: Score(
                    statistics.fmean(by_seed[seed].value for by_seed in sources),
                    min(by_seed[seed].samples for by_seed in sources),
                )
                for seed in shared
            }


def _row(experiment: str, key: Key, by_seed: Mapping[int, Score]) -> dict[str, Any]:
    values = [score.value for score in by_seed.values()]
    finite = all(map(math.isfinite, values))
    return {
        **key._asdict(),
        "mean": statistics.fmean(values) if finite else None,
        "std": statistics.stdev(values) if finite and len(values) > 1 else None,
        "seeds": sorted(by_seed),
        "samples": min(score.samples for score in by_seed.values()),
        "paper": paper_value(experiment, *key),
    }


def _markdown(table: Mapping[str, Any], methods: Sequence[str], caption: str) -> str:
    """A table as Markdown: for each problem its quality, the paper's numbers beside ours, and what it cost."""
    rows: Sequence[Row] = table["rows"]
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    lines = [
        f"# {table['experiment']}, preset {table['preset']}",
        "",
        f"- command: `{table['command']}`",
        f"- commit: `{table['commit']}`",
        f"- seeds: {', '.join(map(str, seeds)) or NONE}",
        f"- samples: {_samples(rows)}",
        "",
        caption.strip(),
        "",
        f"Numbers are mean ± standard deviation over seeds; of several sources, the mean. {NONE}: not measured, or not "
        "finite for some seed. **Bold**: the best of a column, the exact posterior aside.",
    ]
    by_problem: dict[str, dict[tuple[str, str, str], Row]] = defaultdict(dict)
    for row in rows:
        by_problem[row["problem"]][row["method"], row["source"], row["metric"]] = row
    for problem, own in by_problem.items():
        lines += ["", f"## {problem}", *_section(own, [m for m in methods if any(m == key[0] for key in own)])]
    return "\n".join(lines) + "\n"


def _section(rows: Rows, methods: Sequence[str]) -> list[str]:
    newest = max((source for _, source, _ in rows if source != "mean"), default="mean")
    lines = _grid(rows, methods, QUALITY, newest)
    if any(row["paper"] is not None and key[1] == newest for key, row in rows.items()):
        lines += ["", f"Beside the paper (source {newest}, SD in the paper's form; ours | the paper's):"]
        lines += _grid(rows, methods, BESIDE, newest, paper=True)
    cost = _grid(rows, methods, COST, newest, paper=True)
    return lines + (["", "Cost:", *cost] if cost else [])


def _grid(rows: Rows, methods: Sequence[str], columns: Iterable[Column], newest: str, paper: bool = False) -> list[str]:
    """One Markdown table; columns without a number are left out, and so are the paper's where it has none."""
    header, body = ["method"], [[LABELS.get(method, method)] for method in methods]
    for column in columns:
        source = newest if column.source == "newest" else column.source
        cells = [rows.get((method, source, column.metric)) for method in methods]
        theirs = [cell["paper"] if cell else None for cell in cells]
        if all(cell is None for cell in cells):
            continue
        header.append(column.title.format(newest=newest))
        best = _best(column, methods, cells)
        for line, cell in zip(body, cells, strict=True):
            line.append(_cell(cell, column, best))
        if paper and any(value is not None for value in theirs):
            header.append("paper")
            for line, value in zip(body, theirs, strict=True):
                line.append(NONE if value is None else f"{value * column.scale:g}")
    if len(header) == 1:
        return []
    return ["", *(f"| {' | '.join(line)} |" for line in (header, ["---"] + ["---:"] * (len(header) - 1), *body))]


def _best(column: Column, methods: Sequence[str], cells: Sequence[Row | None]) -> float | None:
    """The best mean of a column, where there is something to compare."""
    rivals = [
        cell["mean"]
        for method, cell in zip(methods, cells, strict=True)
        if cell and cell["mean"] is not None and method != "exact"
    ]
    if column.ideal is None or len(rivals) < 2:
        return None
    ideal = min(max(column.ideal, min(rivals)), max(rivals))  # the ideal itself, or the end of the range next to it
    return min(rivals, key=lambda value: abs(value - ideal))


def _cell(row: Row | None, column: Column, best: float | None) -> str:
    if row is None or row["mean"] is None:
        return NONE
    mean = row["mean"] * column.scale
    # Three figures are enough for what varies between seeds; small numbers get the column's decimals.
    decimals = min(column.decimals, max(0, 2 - math.floor(math.log10(abs(mean))))) if mean else column.decimals
    decimals = max(decimals, min(column.decimals, 2)) if abs(mean) < 1000 else decimals
    text = f"{mean:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    if row["std"] is not None:
        text += f" ± {row['std'] * column.scale:,.{decimals}f}"
    return f"**{text}**" if best is not None and row["mean"] == best and row["method"] != "exact" else text


def _samples(rows: Iterable[Row]) -> str:
    """Sample counts of what was scored (what is derived here has those of what it is derived from)."""
    scored = {column.metric for column in (*QUALITY, *BESIDE)} - {made for _, made, _ in DERIVED}
    counts: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["samples"] and row["metric"] in scored:
            counts[row["metric"]].add(row["samples"])
    metrics: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for metric in sorted(counts):
        metrics[tuple(sorted({max(counts[metric]), min(counts[metric])}))].append(metric)
    texts = [" to ".join(f"{n:,}" for n in ends) + f" ({', '.join(metrics[ends])})" for ends in sorted(metrics)]
    return "; ".join(reversed(texts)) or NONE
