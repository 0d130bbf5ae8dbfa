"""What mkdocs is told beside mkdocs.yml: files of the repository are pages too, and links are the same here and on a forge.

A link in any page is relative to its own file in the repository. One that leads to a page is turned to that page, one to a
picture outside docs/ brings the picture along, one to another file of the repository becomes its name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PICTURES = (".png", ".svg", ".gif")
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
MEMBERS = re.compile(r"^::: (\S+)\n(?: +.*\n)*? +members: \[([^\]]*)\]", re.MULTILINE)
"""What a page asks for of an object."""
FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']?(https?://[^\"'> ]*)")
ITEM = r" {0,3}(?:- |\d+\. )"
FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def outside() -> dict[str, str]:
    """Pages by the file of the repository that each is, but for those of docs/."""
    pages = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
    pages |= {f"{folder}/README.md": f"{folder}.md" for folder in ("data", "examples")}
    pages |= {f"{p.parent}/README.md": f"{p.parent}.md" for p in _found("experiments/*/README.md")}
    for pattern in ("table", "sweep", "growth", "scale"):
        pages |= {f"{p}": f"{p}" for p in _found(f"results/*/cpu/{pattern}.md")}
    pages |= {f"{p}": f"{p}" for p in _found("results/*/table.md")}
    return pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that lie outside docs/."""
    for place, page in outside().items():
        files.append(File.generated(config, page, content=(ROOT / place).read_text(encoding="utf-8")))
    for page in list(files.documentation_pages()):
        place = place_of(page.src_uri)
        for link in LINK.finditer(page.content_string):
            target = _target(place, link["path"])
            if target.endswith(PICTURES) and not target.startswith("docs/") and not files.get_file_from_path(target):
                if not (ROOT / target).exists():
                    raise PluginError(f"{place}: there is no picture {target}")
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs names them
    """The text of a page as mkdocs reads it."""
    text = LINK.sub(lambda link: _turned(link, place_of(page.file.src_uri), page.file.src_uri), markdown)
    parts = FENCED.split(text)
    parts[::2] = map(_as_markdown_reads, parts[::2])
    return "".join(parts)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001 - mkdocs names them
    """A page as it was built. Raises PluginError where reading it would fetch something from elsewhere, or members lack that it
    has asked for."""
    source = (ROOT / place_of(page.file.src_uri)).read_text(encoding="utf-8")
    asked = (f"{owner}.{name}" for owner, names in MEMBERS.findall(source) for name in names.split(", "))
    if lacking := [name for name in asked if f'id="{name}"' not in output]:
        raise PluginError(f"{page.file.src_uri} shows no {', '.join(lacking)}")
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would fetch {found[1]}")
    return output


def place_of(page: str) -> str:
    """The file of the repository that a page is."""
    return {page: place for place, page in outside().items()}.get(page, f"docs/{page}")


def _turned(link: re.Match[str], place: str, page: str) -> str:
    path, anchor = link["path"], link["anchor"] or ""
    if not path or "://" in path or path.startswith("mailto:"):
        return link[0]
    target = _target(place, path)
    if not (ROOT / target).exists():
        raise PluginError(f"{place}: a link to {path}, which is not there")
    found = outside().get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
    if found is None and link["image"]:
        found = target
    if found is None:
        return link["text"] if link["text"].startswith("`") else f"{link['text']} (`{target}`)"
    return f"{link['image']}[{link['text']}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"


def _as_markdown_reads(text: str) -> str:
    """Lists as a forge reads them: an item needs no blank line before it, and two or three blanks carry it on."""
    text = re.sub(rf"^(?!{ITEM}|[|#>])(.*\S.*)\n(?={ITEM})", r"\1\n\n", text, flags=re.MULTILINE)
    return re.sub(r"^ {2,3}(?=\S)", "    ", text, flags=re.MULTILINE)


def _target(place: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), path))


def _found(pattern: str) -> list[PurePosixPath]:
    return [PurePosixPath(p.relative_to(ROOT).as_posix()) for p in sorted(ROOT.glob(pattern))]
