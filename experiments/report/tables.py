"""From the records of a run to its table, the paper's numbers beside ours.

    oracle gap  = PSNR(exact) − PSNR(method)   [dB]
    excess      = score(method) − score(exact),      of the energy score and of the Sinkhorn divergence (SD)

per problem, source and seed, so that the spread over seeds is the spread of the difference. A draw of the exact
posterior is as far from the truth as a draw can rightly be: a gap below 0 is no gain, it means draws too narrow.
"""

from __future__ import annotations

__all__ = ["build_table", "is_audit", "lookup", "write_table"]

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report.grids import means_nothing
from experiments.report.markdown import markdown
from experiments.report.methods import AUTO, ORACLE, OURS, RIVALS, method_order
from experiments.report.paper import of_the_fit, paper_value
from mvss.runtime.files import atomic_write_text

DERIVED = (  # made from, made here, sign of (method − reference), reference, for these methods (none: for all)
    ("energy_score", "energy_score_excess", 1.0, ORACLE, ()),
    ("posterior_psnr", "oracle_gap_db", -1.0, ORACLE, ()),
    ("posterior_sinkhorn", "posterior_sinkhorn_excess", 1.0, ORACLE, ()),
    ("prior_sinkhorn", "prior_sinkhorn_excess", 1.0, ORACLE, ()),
    *(("energy_score", f"energy_score_under_{rival}", -1.0, rival, (OURS,)) for rival in RIVALS),
    ("prior_kl", "prior_kl_under_mixture", -1.0, "mixture", (OURS,)),
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
    experiment: str, preset: str, records_by_seed: Mapping[int, Sequence[Mapping[str, Any]]], command: str
) -> dict[str, Any]:
    """Return the table (the content of table.json) of the final records, those without a lap.

    Arguments:
        experiment, preset: names, as in results/<experiment>/<preset>.
        records_by_seed: the records of each seed, oldest first; of two records of one number the later one holds.
            "commit" in a record: of the code that made it.
        command: what made the results.

    Returns:
        a dict with the arguments, "commits" and "rows": problem, method, source ("1", "2", ..., "mean"), metric, the
        mean and the standard deviation over seeds (None for a single seed), seeds and the value of each (None where it is
        not finite), samples, the paper's number or None, as everywhere where numbers mean nothing.
        commits: of the code that made the rows, each with what it made, as {problem: [method, ...]}, and of which seeds
        where those of a method are of several.
        The mean is None where any seed is not finite: the mean of the rest would flatter a method that diverges.
    """
    scores = _collect(records_by_seed)
    _derive(scores)
    _average_sources(scores)
    paper = {key: None if means_nothing(preset) else _paper(experiment, key, scores) for key in scores}
    rows = [_row(key, by_seed, paper[key]) for key, by_seed in scores.items()]
    problems = list(dict.fromkeys(key.problem for key in scores))  # as they were run
    methods = method_order(row["method"] for row in rows)

    def place(row: Mapping[str, Any]) -> tuple[int, int, str, str]:
        return problems.index(row["problem"]), methods.index(row["method"]), row["metric"], row["source"]

    head = {"experiment": experiment, "preset": preset, "command": command, "commits": _commits(records_by_seed)}
    return {**head, "rows": sorted(rows, key=place)}


def write_table(folder: Path | str, table: Mapping[str, Any], caption: str, sought: str | None = None) -> None:
    """Write table.json and table.md into a folder, each whole or not at all.

    Arguments:
        folder: results/<experiment>/<preset>.
        table: what `build_table` returns.
        caption: how the numbers were scored, in Markdown.
        sought: the number of the source that is sought in every problem; None for its last.
    """
    head = json.dumps({name: value for name, value in table.items() if name != "rows"}, indent=1, ensure_ascii=False)
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in table["rows"])
    body = f"[\n  {rows}\n ]" if rows else "[]"
    # One row a line: a change of one number is a change of one line.
    atomic_write_text(Path(folder) / "table.json", head.removesuffix("\n}") + f',\n "rows": {body}\n}}\n')
    atomic_write_text(Path(folder) / "table.md", markdown(table, caption, sought))


def is_audit(metric: str) -> bool:
    """Whether a metric is of an audit."""
    return metric.startswith(("audit_", "candidate_"))


def lookup(table: Mapping[str, Any]) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
    """Return the rows of a table by (problem, method, source, metric)."""
    return {(row["problem"], row["method"], row["source"], row["metric"]): row for row in table["rows"]}


def _commits(records_by_seed: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, list[str]]]:
    """What each has made; where seeds of a method are of several, which of them."""
    seeds: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for seed, records in records_by_seed.items():
        for record in records:
            name = f"{record['method']} (audit)" if is_audit(record["metric"]) else record["method"]
            found = seeds[record["problem"], name][record.get("commit", "unknown")]
            if seed not in found:
                found.append(seed)
    commits: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (problem, name), by_commit in seeds.items():
        for commit, own in by_commit.items():
            which = f" (seed {', '.join(map(str, own))})" if len(by_commit) > 1 else ""
            commits[commit][problem].append(name + which)
    return {commit: dict(made) for commit, made in commits.items()}


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
        for metric, made, sign, reference, methods in DERIVED:
            if key.metric != metric or key.method == reference or (methods and key.method not in methods):
                continue
            base = scores.get(key._replace(method=reference), {})
            differences = {
                seed: Score(sign * (score.value - base[seed].value), score.samples)
                for seed, score in by_seed.items()
                if seed in base
            }
            if differences:
                scores[key._replace(metric=made)] = differences


def _average_sources(scores: Scores) -> None:
    groups: dict[Key, list[dict[int, Score]]] = defaultdict(list)
    known: dict[str, set[str]] = defaultdict(set)
    for key, by_seed in scores.items():
        groups[key._replace(source="mean")].append(by_seed)
        known[key.problem].add(key.source)
    for key, sources in groups.items():
        if len(sources) < len(known[key.problem] - {"mean"}):
            continue  # of a method that separates a part of the sources: its mean would be of another thing
        # A seed that lacks a source has no mean, for the same reason.
        shared = [seed for seed in sources[0] if all(seed in by_seed for by_seed in sources)]
        if key not in scores and shared:
            scores[key] = {
                seed: Score(
                    statistics.fmean(by_seed[seed].value for by_seed in sources),
                    min(by_seed[seed].samples for by_seed in sources),
                )
                for seed in shared
            }


def _paper(experiment: str, key: Key, scores: Scores) -> float | None:
    """The paper's number of a method; what it has learned stands beside the fit that ours separates by, if that has the row."""
    ours = key._replace(method=OURS)
    by_fit = key.method == AUTO and of_the_fit(key.metric) and ours not in scores
    return paper_value(experiment, *(ours if by_fit else key))


def _row(key: Key, by_seed: Mapping[int, Score], paper: float | None) -> dict[str, Any]:
    values = [score.value for score in by_seed.values()]
    finite = all(map(math.isfinite, values))
    return {
        **key._asdict(),
        "mean": statistics.fmean(values) if finite else None,
        "std": statistics.stdev(values) if finite and len(values) > 1 else None,
        "seeds": sorted(by_seed),
        "values": [by_seed[seed].value if math.isfinite(by_seed[seed].value) else None for seed in sorted(by_seed)],
        "samples": min(score.samples for score in by_seed.values()),
        "paper": paper,
    }
