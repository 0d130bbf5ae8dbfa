"""A page of all results, to look at in a browser: tables that sort, figures that enlarge, separations and laps to go through.

    results/<experiment>/<preset>/  →  results/report/index.html, and a sheet of pictures for each problem beside it

python -m experiments.report.page [folder of a run ...]        (make report, make report RUN="folder ...")

Without a folder: of all that is published. With some: of these, in results/runs/report. It needs no server and no network; the
figures stay where they are, and the page links to them.
"""

from __future__ import annotations

__all__ = ["main", "write_page"]

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from experiments.report.alts import alt_of
from experiments.report.browsers import Browser, Strip, sheet
from experiments.report.grids import means_nothing, sections
from experiments.report.markdown import preface
from experiments.report.methods import method_named
from experiments.report.rebuild import experiment_of
from experiments.report.samples import Results
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.files import atomic_write_bytes, atomic_write_text

ROOT = Path(__file__).resolve().parents[2]
FIGURES = (".png", ".gif")


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit status. root: the folder that holds results/."""
    named = [Path(name).expanduser() for name in (sys.argv[1:] if arguments is None else arguments)]
    folders = named or sorted(path.parent for path in root.glob("results/*/*/table.json"))
    target = root / "results" / ("runs/report" if named else "report")
    return report_errors("report", lambda: write_page(folders, target))


def write_page(folders: Sequence[Path], target: Path) -> int:
    """Write the page of some folders of results into the folder `target`, and say where it is.

    Raises:
        MvssError: there is no folder; one holds no table, or is of no experiment; a file cannot be written.
    """
    if not folders:
        raise MvssError("there are no results yet: run an experiment first, such as make manifolds")
    results = [_results(folder, target) for folder in folders]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    atomic_write_text(target / "index.html", environment.get_template("page.html").render(results=results))
    print(f"report:  {target / 'index.html'} (open it in a browser)")
    return 0


def _results(folder: Path, target: Path) -> dict[str, Any]:
    """What the template asks for of one folder."""
    table, experiment = _table(folder), experiment_of(folder)
    name = f"{table['experiment']}-{table['preset']}"
    problems = tuple(dict.fromkeys(row["problem"] for row in table["rows"]))
    seed = _shown(folder, table)
    found = [] if seed is None else experiment.browsers(Results(folder, table, {}, problems, seed))
    pictures = sorted(path for path in (folder / "figures").glob("*") if path.suffix in FIGURES)
    return {
        "id": name,
        "title": f"{table['experiment']}, preset {table['preset']}",
        "nothing": means_nothing(table["preset"]),
        "preface": [_spans(line) for line in preface(table, experiment.caption) if line],
        "sections": sections(table, experiment.sought),
        "rows": [{**row, "label": method_named(row["method"]).label} for row in table["rows"]],
        "figures": [{"name": p.stem, "at": _link(p, target), "alt": alt_of(p.stem, name)} for p in pictures],
        "seed": seed,
        "browsers": [_browsed(browser, f"{name}-{number}", target) for number, browser in enumerate(found)],
        "folder": str(folder),
        "table": {kind: _link(folder / f"table.{kind}", target) for kind in ("md", "json")},
    }


def _table(folder: Path) -> dict[str, Any]:
    path = folder / "table.json"
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        table["rows"], table["commits"], table["experiment"]
    except OSError as error:
        reason = error.strerror or error
        raise MvssError(f"cannot read {path}: {reason}; name a folder <experiment>/<preset> of a finished run") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MvssError(f"{path} is no table of results: make tables, or the run again, writes a new one") from error
    return table


def _shown(folder: Path, table: Mapping[str, Any]) -> int | None:
    """The first seed whose samples are there."""
    seeds = sorted({seed for row in table["rows"] for seed in row["seeds"]})
    return next((seed for seed in seeds if any((folder / f"seed-{seed}" / "samples").glob("*/*.npz"))), None)


def _browsed(browser: Browser, name: str, target: Path) -> dict[str, Any]:
    """Sheets are written; what the template asks for of them."""
    place = f"sheets/{name}"
    shown = {"problem": browser.problem, "item": browser.item, "note": browser.note, "id": name}
    laps = []
    for number, each in enumerate(browser.laps):
        tiles = _sheet(each.strips(), f"{place}-laps-{number}.png", target)
        few = len(each.frames[0])
        common, frame = tiles["tiles"][: len(each.common)], tiles["tiles"][len(each.common) :][:few]
        laps.append({**tiles, "label": each.label, "laps": list(each.laps), "common": common, "frame": frame, "stride": few})
    tiles = _sheet(browser.strips(), f"{place}.png", target)
    left = iter(tiles["tiles"])
    common = [next(left) for _ in browser.common]
    groups = [{"label": group.label, "tiles": [next(left) for _ in group.strips]} for group in browser.groups]
    return {**shown, **tiles, "common": common, "groups": groups, "laps": laps}


def _sheet(strips: Sequence[Strip], place: str, target: Path) -> dict[str, Any]:
    content, columns = sheet(strips)
    atomic_write_bytes(target / place, content)
    tiles = [{"name": strip.name, "row": row} for row, strip in enumerate(strips)]
    return {"sheet": place, "columns": columns, "rows": len(strips), "tiles": tiles}


def _link(path: Path, target: Path) -> str:
    return quote(os.path.relpath(path.resolve(), target.resolve()).replace(os.sep, "/"))


def _spans(line: str) -> list[tuple[str, str]]:
    """A line of Markdown that has nothing but `code` and **bold**, as pairs of a tag and its text."""
    found = re.findall(r"`([^`]+)`|\*\*(.+?)\*\*|([^`*]+|.)", line.removeprefix("- "))
    return [next((tag, text) for tag, text in zip(("code", "strong", "span"), groups, strict=True) if text) for groups in found]


if __name__ == "__main__":
    sys.exit(main())
