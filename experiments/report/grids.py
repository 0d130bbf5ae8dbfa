"""What every page of results shows of a table: for each problem its quality, the paper's numbers beside ours, its cost.

    table → sections (a problem each) → parts (a title and a grid each) → rows of cells

`markdown` and `page` write the same grids, each in its own form.
"""

from __future__ import annotations

__all__ = ["Grid", "Part", "Section", "means_nothing", "sections"]

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.report.bins import bins
from experiments.report.cells import Cell, cell_of, paper_cell
from experiments.report.columns import AUDIT, COST, HIGH, LAWS, PAPERS, PARTS, QUALITY, SKY, Column
from experiments.report.methods import method_named, method_order

Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str, str], Row]
"""Rows of one problem by (method, source, metric)."""
SMOKE = "smoke"


class Grid(NamedTuple):
    """head: titles of the columns, the first ones of names. names: how many those are. rows: as long as the head."""

    head: list[str]
    rows: list[list[Cell]]
    names: int = 1


class Part(NamedTuple):
    """A grid and what stands above it, which may be nothing."""

    title: str
    grid: Grid


class Section(NamedTuple):
    """What is shown of one problem."""

    problem: str
    parts: list[Part]


def means_nothing(preset: str) -> bool:
    """Whether a preset only runs every line: what it scores is not worth a comparison."""
    return preset == SMOKE


def sections(table: Mapping[str, Any], sought: str | None = None) -> list[Section]:
    """The sections of a table of `tables.build_table`, in the order of its problems. sought: see `tables.write_table`. Of
    what means nothing no number is the best."""
    by_problem: dict[str, dict[tuple[str, str, str], Row]] = defaultdict(dict)
    for row in table["rows"]:
        by_problem[row["problem"]][row["method"], row["source"], row["metric"]] = row
    compare = not means_nothing(table["preset"])
    return [Section(problem, _parts(_Found(rows, compare, sought))) for problem, rows in by_problem.items()]


def _parts(found: _Found) -> list[Part]:
    """All that there is something to show in."""
    rows, newest = found.rows, found.newest
    metrics = {metric for _, _, metric in rows}
    parts = [Part("", found.grid(QUALITY))]
    if "remains_auc" in metrics:
        parts.append(Part(f"The parts of the separation (source {newest}: the target; 1: the background):", found.grid(PARTS)))
    if any(row["paper"] is not None and key[1] == newest for key, row in rows.items()):
        title = f"Beside the paper (source {newest}, SD in the paper's form; ours | the paper's):"
        parts.append(Part(title, found.grid(PAPERS, paper=True)))
    parts.append(Part("Audit: calibration of joint draws, and log p of candidates for a source:", found.grid(AUDIT)))
    parts += [Part(title, found.grid(columns)) for title, columns in SKY]
    binned = Grid(*bins(rows, found.methods, newest), names=2)
    parts.append(Part("Their fluxes by brightness and by the share of their neighbours in the light:", binned))
    if "prior_pixels" in metrics:
        parts.append(Part("Laws of galaxies and of sky as they were learned, beside clean ones:", found.grid(LAWS)))
    parts.append(Part("Cost:", found.grid(COST, paper=True)))
    return [part for part in parts if part.grid.rows]


class _Found:
    """What is known of one problem. compare: whether any number is the best. newest: the source that is sought, the last
    unless `sought` says otherwise."""

    def __init__(self, rows: Rows, compare: bool, sought: str | None) -> None:
        self.rows, self.compare = rows, compare
        self.methods = method_order(method for method, _, _ in rows)
        self.newest = sought or max((source for _, source, _ in rows if source != "mean"), default="mean")

    def grid(self, columns: Sequence[Column], paper: bool = False) -> Grid:
        """Columns without a number are left out, and so are the paper's where it has none, and methods without any."""
        named = {(self._source(column), column.metric) for column in columns if not column.always}
        methods = [m for m in self.methods if any(key[0] == m and key[1:] in named for key in self.rows)]
        head, body = ["method"], [[Cell(method_named(method).label)] for method in methods]
        kept, decided = False, not self.compare
        for column in columns:
            found = [self.rows.get((method, self._source(column), column.metric)) for method in methods]
            kept = kept if column.always else any(row is not None for row in found)
            if not kept:
                continue
            head.append(column.head(self.newest))
            best = None if decided else _best(column, methods, found)
            decided = decided or best is not None
            for line, row in zip(body, found, strict=True):
                line.append(cell_of(row, column, best))
            theirs = [row["paper"] if row else None for row in found]
            if paper and any(value is not None for value in theirs):
                head.append("paper")
                for line, value in zip(body, theirs, strict=True):
                    line.append(paper_cell(value, column))
        return Grid(head, body)

    def _source(self, column: Column) -> str:
        return self.newest if column.source == "newest" else column.source


def _best(column: Column, methods: Sequence[str], found: Sequence[Row | None]) -> float | None:
    """The best mean of a column that may decide a table, where there is something to compare."""
    rivals: list[float] = [
        row["mean"]
        for method, row in zip(methods, found, strict=True)
        if row and row["mean"] is not None and not method_named(method).knows_truth
    ]
    if not column.proper or len(rivals) < 2:
        return None
    return max(rivals) if column.ideal == HIGH else min(rivals)
