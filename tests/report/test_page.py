"""The page of results: complete, with the numbers of its table, what users wrote escaped, a text for every picture."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, opened
from PIL import Image

from experiments.report.browsers import Strip, clouds, sheet
from experiments.report.page import main
from experiments.report.rebuild import ROOT
from experiments.report.tables import build_table, write_table

PROBLEM = "full"
METRICS = ("energy_score", "posterior_psnr", "prior_made_up")


class Page(HTMLParser):
    """Tags with their attributes, and tables as rows of (text, value)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[tuple[str, str | None]]]] = []
        self.text = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(("", dict(attrs).get("data-value")))
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            text, value = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, value)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def records() -> list[dict[str, Any]]:
    same = {"seed": 0, "problem": PROBLEM, "split": "fresh", "lap": None, "samples": 7, "commit": "abc"}
    rows = [
        ("joint", "1", 0.5),
        ("joint", "2", 0.123456789),
        ("<b>mine & yours</b>", "1", 4.0),
        ("<b>mine & yours</b>", "2", 2e-7),
    ]
    rows += [("gibbs", "1", 0.25), ("gibbs", "2", 10.0)]
    return [{**same, "method": m, "source": b, "metric": metric, "value": v} for metric in METRICS for m, b, v in rows]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds results/mnist_grass/cpu, with a figure and samples of one method."""
    root = tmp_path_factory.mktemp("root")
    folder = root / "results" / "mnist_grass" / "cpu"
    (folder / "figures").mkdir(parents=True)
    Image.fromarray(np.full((40, 60), 128, np.uint8)).save(folder / "figures" / "separations-full.png")
    write_table(folder, build_table("mnist_grass", "cpu", {0: records()}, 'make mnist-grass ARGS="<script>"'), "")
    rng = np.random.default_rng(0)
    names = [f"{kind}_{b}" for b in "12" for kind in ("truth", "posterior", "mean", "width", "lap_truth", "lap0", "lap1")]
    (folder / "seed-0" / "samples" / PROBLEM).mkdir(parents=True)
    arrays = {name: rng.random((5, 784), np.float32) for name in names}
    np.savez(folder / "seed-0" / "samples" / PROBLEM / "joint.npz", **arrays)  # type: ignore[arg-type]
    assert main([], root) == 0
    return root


@pytest.fixture(scope="module")
def page(results: Path) -> Page:
    return Page((results / "results/report/index.html").read_text())


def test_every_row_of_the_table_is_on_the_page_with_its_number(results: Path, page: Page) -> None:
    rows = json.loads((results / "results/mnist_grass/cpu/table.json").read_text())["rows"]
    (every,) = [table for table in page.tables if [text for text, _ in table[0]][:3] == ["problem", "method", "source"]]
    found = {(line[0][0], line[2][0], line[3][0], float(str(line[4][1]))): line for line in every[1:]}
    assert len(every) - 1 == len(rows) > len(records())
    for row in rows:
        line = found[row["problem"], row["source"], row["metric"], row["mean"]]
        assert float(line[4][0]) == pytest.approx(row["mean"], rel=1e-4) and line[7][0] == str(row["samples"])


def test_the_tables_are_those_of_table_md_with_its_bold(results: Path, page: Page) -> None:
    lines = (results / "results/mnist_grass/cpu/table.md").read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    shown = [[text for text, _ in line] for table in page.tables[:-1] for line in table]
    assert shown == [[cell.strip("*") for cell in line] for line in cells] and len(shown) > 3
    assert sum("**" in cell for line in cells for cell in line) == len(page.all("strong")) - 1 > 0  # that of the word Bold


def test_what_is_written_by_others_is_escaped(results: Path, page: Page) -> None:
    text = (results / "results/report/index.html").read_text()
    assert "<b>mine" not in text and 'ARGS="<script>' not in text
    assert "<b>mine & yours</b>" in page.text and len(page.all("script")) == 1


def test_every_picture_has_a_text_and_is_there(results: Path, page: Page) -> None:
    pictures = page.all("img")
    assert [each for each in pictures if each["src"] != "data:," and not each.get("alt")] == []
    names = {str(each["src"]) for each in pictures} - {"data:,"}
    assert "../mnist_grass/cpu/figures/separations-full.png" in names and len(names) == 3  # it, a sheet, a sheet of laps
    assert all((results / "results/report" / name).is_file() for name in names)
    alts = [each["alt"] for each in pictures]
    assert [alt for alt in ("observation", "digit, truth", "digit, draw", "grass, SD × 2") if alt not in alts] == []


def test_it_asks_for_nothing_from_elsewhere(results: Path, page: Page) -> None:
    sources = [str(each.get("src") or each.get("href")) for tag in ("img", "script", "link", "a") for each in page.all(tag)]
    assert len(sources) > 5 and not any("//" in each for each in sources)
    assert "url(" not in (ROOT / "experiments/report/templates/page.css").read_text()


def test_a_run_without_samples_says_how_to_see_them_and_a_smoke_run_that_it_means_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" / "manifolds" / "smoke"
    write_table(folder, build_table("manifolds", "smoke", {0: records()}, "make"), "")
    assert main([str(folder)], tmp_path) == 0
    text = Page((tmp_path / "results/runs/report/index.html").read_text()).text
    assert "numbers mean nothing" in text and "The samples of these results are not here: make report RUN=" in text


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot read"), ("{}", "no table of results"), ("[", "no table of results")]
)
def test_what_is_no_table_is_told_in_a_line(
    content: str | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "table.json").write_text(content)
    assert main([str(tmp_path)], tmp_path) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
    assert main([], tmp_path / "empty") == 2 and "there are no results yet" in capsys.readouterr().err


def test_a_sheet_has_a_row_for_each_strip_and_shows_what_was_not_measured(tmp_path: Path) -> None:
    images = np.stack([np.full((4, 4), value) for value in (0.0, 0.5, 2.0)])
    holes = np.full((2, 2, 2), np.nan)
    content, columns = sheet([Strip("a", images), Strip("b", holes)])
    (tmp_path / "sheet.png").write_bytes(content)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert (columns, pixels.shape) == (2, (8, 8, 3))
    assert pixels[1, 1].tolist() == [0, 0, 0] and pixels[6, 6].tolist() == [230, 159, 0]
    np.testing.assert_allclose(pixels[1, 5], 128, atol=1)


def test_a_cloud_has_its_points_where_they_are() -> None:
    shown = clouds(np.array([[0.9, 0.9, -0.9, 0.9, 0.0]]), 1.0)
    assert shown.shape[0] == 2 and (shown > 0).sum() == 2
    (up, right), (up_too, left) = (np.unravel_index(each.argmax(), each.shape) for each in shown)
    half = shown.shape[1] // 2
    assert up < half < right and up_too < half and left < half


SCRIPT = """
for (const each of page.querySelectorAll("details")) each.open = true;
const root = page.documentElement, wide = root.clientWidth;
const out = [...page.body.querySelectorAll("*")].filter(
  (each) => !each.closest(".scroll, .window, dialog") && each.getBoundingClientRect().right > wide + 1);
const table = page.querySelector("table.sorts");
const numbers = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
const before = numbers(), title = table.tHead.rows[0].cells[1].firstElementChild;
title.click(); const up = numbers(); title.click(); const down = numbers();
const search = page.querySelector("input[type=search]");
search.value = "JOINT psnr"; search.dispatchEvent(new Event("input"));
const left = [...page.querySelectorAll(".every tbody tr")].filter((row) => !row.hidden).length;
const slider = page.querySelector(".laps input[data-variable='--lap']"), lap = page.querySelector(".lap img");
const top = lap.offsetTop; slider.value = 1; slider.dispatchEvent(new Event("input"));
page.querySelector("a.enlarges").click();
const enlarged = page.querySelector("dialog").open && page.querySelector("dialog img").alt;
page.querySelector("dialog").close();
return { scrolls: [root.scrollWidth, wide], out: out.map((each) => each.outerHTML.slice(0, 80)), before, up, down, left,
  enlarged, moved: top - lap.offsetTop, tile: lap.parentElement.offsetHeight, tables: page.querySelectorAll(".scroll").length };
"""


@pytest.fixture(scope="module")
def chromium(pytestconfig: pytest.Config) -> None:
    """Skips where there is none; on a forge that asks for these tests by name it fails: nothing would have been looked at."""
    if CHROMIUM is None:
        asked = os.environ.get("CI") and pytestconfig.getoption("markexpr") == "browser"
        (pytest.fail if asked else pytest.skip)("there is no Chromium: apt-get install chromium")


@pytest.mark.browser
@pytest.mark.usefixtures("chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_scrolls_sideways_and_what_can_be_clicked_works(width: int, results: Path, tmp_path: Path) -> None:
    told = opened(results / "results/report/index.html", width, SCRIPT, tmp_path / f"page-{width}.png")
    assert told["scrolls"] == [width, width] and told["out"] == []
    assert told["up"] == told["down"][::-1] == sorted(told["before"], key=float) and len(set(told["up"])) > 1
    assert told["left"] == 3  # of two sources and their mean
    assert told["moved"] == 2 * told["tile"] > 0  # a lap has a row for each of two sources
    assert told["enlarged"].startswith("Pictures: observation, truth") and told["tables"] > 2
    picture = Image.open(tmp_path / f"page-{width}.png")
    assert picture.size[0] >= width and len(picture.convert("L").getcolors() or []) > 20
