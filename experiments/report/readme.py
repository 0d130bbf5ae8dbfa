"""The README's results, written from results/manifolds/cpu/table.json between two markers and never by hand.

python -m experiments.report.readme        (make readme)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report.tables import lookup
from mvss.runtime.checkpoints import atomic_write_text
from mvss.runtime.errors import MvssError

__all__ = ["fill", "main", "results"]

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
METHODS = {"joint": "joint (ours)", "mixture": "mixture alone", "gibbs": "Gibbs", "exact": "exact (oracle)"}
COLUMNS = {
    "posterior_psnr": ("PSNR (dB)", 1),
    "oracle_gap_db": ("below oracle (dB)", 1),
    "posterior_sinkhorn_excess": ("posterior SD over floor", 4),
    "prior_sinkhorn_excess": ("prior SD over floor", 4),
}
SD = ("posterior_sinkhorn_excess", "prior_sinkhorn_excess")


class Bar(NamedTuple):
    """What a method was to reach on a problem: `metric` at most (or at least) `limit`, mean over sources and seeds."""

    problem: str
    metric: str
    limit: float
    least: bool = False
    method: str = "joint"

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit


BARS = (
    *(Bar("mixed-0.1", metric, 0.005) for metric in SD),
    Bar("mixed-0.1", "posterior_psnr", 36, least=True),
    Bar("mixed-0.1", "oracle_gap_db", 8),
    *(Bar("mixed-0.5", metric, 0.01) for metric in SD),
    Bar("mixed-0.5", "oracle_gap_db", 10),
    *(Bar("mixed-0.9", metric, 0.02) for metric in SD),
    Bar("contrastive-2", "posterior_sinkhorn_excess", 0.02),
    Bar("contrastive-2", "posterior_psnr", 40, least=True),
    Bar("contrastive-2", "oracle_gap_db", 8),
    *(Bar("mixed-1.0-separate", metric, 0.02) for metric in SD),
    *(Bar("contrastive-3", metric, 0.1) for metric in SD),
    *(Bar("mixed-0.1-r2", metric, 0.05) for metric in SD),
    Bar("mixed-0.1", "psnr_over_mixture_four", 3, least=True, method="joint_four"),
    *(Bar(problem, "audit_coverage_error", 0.05) for problem in ("mixed-0.1", "contrastive-2")),
)
TITLES = {
    **COLUMNS,
    "psnr_over_mixture_four": ("over its start of K = 4 (dB)", 1),
    "audit_coverage_error": ("coverage error", 3),
}
BASELINES = {"pcpca": "PCPCA", "clvm_linear": "CLVM-Linear", "clvm_vae": "CLVM-VAE"}
NEWEST = (  # of the newest source: title, ours, decimals, the paper's own form of it
    ("PSNR (dB)", "posterior_psnr", 1, "posterior_psnr"),
    ("posterior SD", "posterior_sinkhorn", 2, "posterior_sinkhorn_paper"),
    ("prior SD", "prior_sinkhorn", 2, "prior_sinkhorn_paper"),
)
MARGINS = {
    "psnr_over_mixture": "its own mixture",
    "psnr_over_joint_paper": "the paper's recipe",
    "psnr_over_gibbs": "Gibbs",
    "psnr_over_gibbs_mixture": "Gibbs, mixture start",
    "psnr_over_gibbs_8x": "Gibbs, 8 × compute",
}


def main(root: Path = ROOT) -> int:
    """Write the README's results; the exit status."""
    path, table = root / "README.md", root / "results" / "manifolds" / "cpu" / "table.json"
    try:
        found = json.loads(table.read_text(encoding="utf-8")) if table.exists() else None
        atomic_write_text(path, fill(path.read_text(encoding="utf-8"), results(found)))
    except MvssError as error:
        print(f"readme: {error}", file=sys.stderr)
        return 2
    print(f"readme:  {path}" + ("" if found else f" (there is no {table}: run make manifolds PRESET=cpu)"))
    return 0


def fill(text: str, content: str) -> str:
    """`text` with `content` between the markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise MvssError(f"README.md needs one line {BEGIN} and one line {END} after it: put them back")
    return text[: text.index(BEGIN) + len(BEGIN)] + f"\n{content.strip()}\n" + text[text.index(END) :]


def results(table: Mapping[str, Any] | None) -> str:
    """The results in Markdown: where they come from, a table of methods, the bars."""
    if table is None:
        return "No results of the cpu preset are in this checkout: `make manifolds PRESET=cpu`, then `make readme`."
    rows = lookup(table)
    problems = list(dict.fromkeys(row["problem"] for row in table["rows"]))
    seeds = sorted({seed for row in table["rows"] for seed in row["seeds"]})
    scored = {row["samples"] for row in table["rows"] if row["metric"] in COLUMNS and row["samples"]}
    samples = " to ".join(f"{n:,}" for n in sorted({min(scored, default=0), max(scored, default=0)}))
    commits = ", ".join(f"`{commit}`" for commit in table["commits"])
    lines = [
        f"Preset {table['preset']}, seeds {', '.join(map(str, seeds))}, {samples} draws a number, code of "
        f"{commits}, made by `{table['command']}`. Mean ± standard deviation over seeds, mean over sources, "
        "on fresh observations; SD over floor: Sinkhorn divergence beyond that of exact draws. All of it, with the "
        "paper's numbers beside ours: `results/manifolds/cpu/table.md`.",
        "",
        f"| problem | method | {' | '.join(title for title, _ in COLUMNS.values())} |",
        "| --- | --- |" + " ---: |" * len(COLUMNS),
    ]
    for problem in problems:
        for method, label in METHODS.items():
            own = {metric: rows.get((problem, method, "mean", metric)) for metric in COLUMNS}
            cells = [_cell(own[metric], digits) for metric, (_, digits) in COLUMNS.items()]
            if any(cell != "–" for cell in cells):
                lines.append(f"| {problem} | {label} | {' | '.join(cells)} |")
    lines += [
        "",
        "PSNR of `joint` over that of the others (dB, difference within each seed):",
        "",
    ]
    lines += [f"| problem | {' | '.join(MARGINS.values())} |", "| --- |" + " ---: |" * len(MARGINS)]
    for problem in problems:
        cells = [_cell(rows.get((problem, "joint", "mean", metric)), 1) for metric in MARGINS]
        lines.append(f"| {problem} | {' | '.join(cells)} |")
    lines += _baselines(rows, problems)
    lines += ["", "What was to be reached, and whether it was:", ""]
    lines += ["| problem | method | bar | ours | |", "| --- | --- | --- | ---: | --- |"]
    for bar in BARS:
        title, digits = TITLES[bar.metric]
        row = rows.get((bar.problem, bar.method, "mean", bar.metric))
        value = row["mean"] if row else None
        verdict = "not measured" if value is None else "met" if bar.holds(value) else "**not met**"
        sign = "≥" if bar.least else "≤"
        lines.append(f"| {bar.problem} | {bar.method} | {title} {sign} {bar.limit:g} | {_cell(row, digits)} | {verdict} |")
    return "\n".join(lines)


def _baselines(rows: Mapping[tuple[str, str, str, str], Mapping[str, Any]], problems: Sequence[str]) -> list[str]:
    """The newest source of the contrastive problems under every method that is defined for them, the paper's beside ours."""
    lines = []
    for problem in problems:
        newest = max((source for p, m, source, _ in rows if (p, m) == (problem, "joint") and source != "mean"), default="")
        for method, label in {"joint": METHODS["joint"], "gibbs": METHODS["gibbs"], **BASELINES}.items():
            if not any((problem, name, newest, "posterior_psnr") in rows for name in BASELINES):
                continue
            cells = []
            for _, metric, digits, paper in NEWEST:
                theirs = (rows.get((problem, method, newest, paper)) or {"paper": None})["paper"]
                cells += [_cell(rows.get((problem, method, newest, metric)), digits), "–" if theirs is None else f"{theirs:g}"]
            lines.append(f"| {problem} | {label} | {' | '.join(cells)} |")
    if not lines:
        return []
    titles = [f"{title} | paper" for title, *_ in NEWEST]
    head = f"| problem | method | {' | '.join(titles)} |"
    text = (
        "The newest source under the methods that the paper compares. Its SD is of another form, which `table.md` also "
        "has of ours:"
    )
    return ["", text, "", head, "| --- | --- |" + " ---: |" * (2 * len(NEWEST)), *lines]


def _cell(row: Mapping[str, Any] | None, digits: int) -> str:
    if row is None or row["mean"] is None:
        return "–"
    spread = "" if row["std"] is None else f" ± {row['std']:.{digits}f}"
    return f"{row['mean']:.{digits}f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
