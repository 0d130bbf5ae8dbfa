"""The results in README.md and docs/reproduction.md, written from results/*/cpu/table.json between markers, never by hand.

python -m experiments.report.readme        (make readme)
"""

from __future__ import annotations

__all__ = ["FILLED", "ROOT", "fill", "filled", "main", "published"]

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.report import digit_results, galaxy_results, manifold_results
from experiments.report.beside_paper import beside_paper
from experiments.report.scale_results import curve
from experiments.report.summary import Tables, summary
from experiments.report.tables import lookup
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ("manifolds", "mnist_grass", "galaxies")
REPORT, WIDTH = "chi2 per number", 116
"""How the report of a fit begins; of its lines in a page."""


def _memory(tables: Tables) -> str:
    """How much a job takes, by what the published ones took."""
    peaks = {name: lookup(table).values() for name, table in tables.items()}
    most = {n: max((r["mean"] for r in rows if r["metric"] == "peak_memory_gib"), default=None) for n, rows in peaks.items()}
    said = [f"of {name.replace('_', '-')} up to {gib:.1f} GiB" for name, gib in most.items() if gib is not None]
    what = f"Memory of a job: {', '.join(said) or 'not measured'}."
    return f"{what}\nWhere that is too much, `ARGS=workers=1` runs one job at a time."


def _printed(notebook: Path, begin: str) -> str:
    """What a cell of a notebook printed that begins so, as code; long lines are cut."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ("".join(out.get("text", ())) for cell in cells for out in cell.get("outputs", ()))
    if (found := next((text for text in texts if text.startswith(begin)), None)) is None:
        raise MvssError(f"{notebook} has printed nothing that begins with {begin!r}: make notebooks ARGS=--overwrite runs it")
    shown = (textwrap.shorten(line, WIDTH, placeholder=" ...") for line in found.splitlines() if line)
    return "\n".join(("```text", *shown, "```"))


FILLED: dict[str, dict[str, Callable[[Tables], str]]] = {
    "README.md": {"results": summary},
    "docs/experiments.md": {"memory": _memory},
    "docs/report.md": {"report": lambda _: _printed(ROOT / "notebooks" / "quickstart.ipynb", REPORT)},
    "docs/reproduction.md": {
        "paper": beside_paper,
        "manifolds": lambda tables: manifold_results.results(tables.get("manifolds")),
        "galaxies": lambda tables: galaxy_results.results(tables.get("galaxies")),
        "digits": lambda tables: digit_results.results(tables.get("mnist_grass")),
        "curve": lambda _: curve(_read(ROOT / "results" / "mnist_grass" / "cpu" / "scale.json")),
    },
}
"""What stands between markers, by file and block."""


def main(root: Path = ROOT) -> int:
    """Write all blocks; the exit status."""
    try:
        tables = published(root)
        for name in FILLED:
            path = root / name
            atomic_write_text(path, filled(name, path.read_text(encoding="utf-8"), tables))
            print(f"readme:  {path}")
    except MvssError as error:
        print(f"readme: {error}", file=sys.stderr)
        return 2
    for name in EXPERIMENTS:
        if name not in tables:
            print(f"readme:  there are no results of {name}: run make {name.replace('_', '-')} PRESET=cpu")
    return 0


def published(root: Path = ROOT) -> Tables:
    """The published tables of the cpu preset that there are."""
    return {name: table for name in EXPERIMENTS if (table := _read(root / "results" / name / "cpu" / "table.json"))}


def filled(name: str, text: str, tables: Tables) -> str:
    """The text of a file of `FILLED` with its blocks."""
    for block, content in FILLED[name].items():
        text = fill(text, block, content(tables), name)
    return text


def fill(text: str, block: str, content: str, name: str) -> str:
    """`text` of the file `name` with `content` between the markers of a block."""
    begin, end = f"<!-- {block}:begin -->", f"<!-- {block}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise MvssError(f"{name} needs one line {begin} and one line {end} after it: put them back")
    return text[: text.index(begin) + len(begin)] + f"\n{content.strip()}\n" + text[text.index(end) :]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MvssError(f"{path} is broken: make tables writes it again") from error
    return table


if __name__ == "__main__":
    sys.exit(main())
