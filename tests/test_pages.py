"""README, docs/ and the experiments' READMEs: links lead somewhere, pictures are told, commands and programs are real."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import mvss
from mvss.cli import program

ROOT = Path(__file__).parents[1]
OUTSIDE = {"README.md": "index.md", "data/README.md": "data.md", "examples/README.md": "examples.md"}
PAGES = sorted([*(ROOT / name for name in OUTSIDE), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*/README.md")])
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md"]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]*)\)")
FEWEST = 20
"""Commands, programs and links that are found at least: fewer, and the patterns have lost them."""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def paragraphs(text: str) -> Iterator[list[str]]:
    """Prose alone: no code, tables, headings, pictures, generated blocks."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    for block in re.split(r"\n\s*\n", text):
        lines: list[str] = []
        for line in block.splitlines():
            if line.startswith(("    ", "|", "#", "<!--", ":::")) or line.lstrip().startswith("|"):
                continue
            if re.match(r"\s*(- |\d+\. )", line) and lines:
                yield lines
                lines = []
            lines.append(line)
        if lines:
            yield lines


def anchors(text: str) -> set[str]:
    """Of the headings, as forges and mkdocs make them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_and_pictures_are_told(path: Path) -> None:
    for picture, words, target in LINK.findall(text_of(path)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists() and file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(text_of(file)), target
        if picture:
            assert len(words.split()) >= 5, f"{target} is not told"
        else:
            assert words, target
    assert "<img" not in text_of(path)


@pytest.mark.parametrize("name", NAMES)
def test_lines_and_paragraphs_are_short(name: str) -> None:
    text = text_of(ROOT / name)
    for line in text.splitlines():
        assert len(line) <= 120 or line.lstrip().startswith("|"), line
    for lines in paragraphs(text):
        words = " ".join(lines).split()
        assert len(words) <= 80, f"{len(words)} words: {lines[0]}"


def test_the_readme_is_short() -> None:
    text = text_of(ROOT / "README.md")
    assert len(text.splitlines()) <= 150
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15
    assert len(re.findall(r"^\| --- \|", text, flags=re.MULTILINE)) == 1 + 1  # of results, of pages


def test_svg_pictures_bring_all_that_they_show() -> None:
    pictures = sorted(ROOT.glob("docs/pictures/*.svg"))
    assert len(pictures) >= 4
    for path in pictures:
        text = text_of(path)
        assert "<title>" in text and not re.search(r"""(href|src)=["'](?!#)|url\((?!#)|@import""", text), path


def test_every_page_is_in_the_menu() -> None:
    menu = text_of(ROOT / "mkdocs.yml")
    for name in NAMES:
        page = OUTSIDE.get(name) or name.removeprefix("docs/").replace("/README.md", ".md")
        assert f": {page}\n" in menu, page


def test_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE))
    named = {
        (str(path.relative_to(ROOT)), target)
        for path in PAGES
        for target in re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", text_of(path), flags=re.MULTILINE)
    }
    assert len(named) >= FEWEST
    assert {(name, target) for name, target in named if target not in targets} == set()


def commands() -> list[str]:
    """Every `mvss …` of code, in lines and in blocks, up to a comment."""
    found = []
    for path in PAGES:
        for line in re.findall(r"`(mvss [^`]*)`|^    (mvss .*)$", text_of(path), flags=re.MULTILINE):
            command = "".join(line).partition("  #")[0].strip()
            if len(command.split()) > 2 and " | " not in command:
                found.append(command)
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_commands_of_pages_parse(line: str) -> None:
    _, name, *words = shlex.split(line)
    command = program.commands[name]
    context = command.make_context(name, words, parent=click.Context(program))
    assert context.params and not context.protected_args


def test_commands_are_found() -> None:
    assert {line.split()[1] for line in commands()} == set(program.commands)


def programs(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text_of(path), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in NAMES if programs(ROOT / name)])
def test_names_of_programs_exist(name: str) -> None:
    for code in programs(ROOT / name):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mvss":
                assert hasattr(mvss, node.attr), f"mvss.{node.attr}"


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_library_exist(name: str) -> None:
    names = set(re.findall(r"`mvss\.([A-Za-z]\w*)", text_of(ROOT / name)))
    known = {path.stem for path in (ROOT / "mvss").iterdir()}
    assert {found for found in names if not hasattr(mvss, found) and found not in known} == set()


@pytest.mark.parametrize("name", ["docs/operators.md", "docs/presets.md"])
def test_programs_without_a_fit_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in programs(ROOT / name):
        exec(code, names)
    assert "mvss" in names


def test_the_api_page_has_every_public_name() -> None:
    named = set(re.findall(r"^::: mvss\.(\w+)$", text_of(ROOT / "docs" / "api.md"), flags=re.MULTILINE))
    assert named == set(mvss.__all__)
