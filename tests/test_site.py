"""What docs/hooks.py makes of pages before mkdocs reads them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of(page: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=page))


def test_links_of_the_repository_are_links_of_the_site(hooks: ModuleType) -> None:
    turned = {
        ("index.md", "[a](docs/concepts.md#calibrated)"): "[a](concepts.md#calibrated)",
        ("index.md", "[a](experiments/galaxies/README.md)"): "[a](experiments/galaxies.md)",
        ("index.md", "[MIT](LICENSE)"): "MIT (`LICENSE`)",
        ("concepts.md", "[a](../README.md)"): "[a](index.md)",
        ("experiments/galaxies.md", "[a](../../docs/astronomers.md#stamps)"): "[a](../astronomers.md#stamps)",
        ("experiments/galaxies.md", "[a](../manifolds/README.md)"): "[a](manifolds.md)",
        ("contributing.md", "[`design`](docs/design.md) [b](https://b.org/c.md) [c](#d)"): None,
        ("index.md", "![a](results/manifolds/cpu/figures/gap.png)"): "![a](results/manifolds/cpu/figures/gap.png)",
    }
    for (page, text), expected in turned.items():
        assert hooks.on_page_markdown(text, of(page), None, None) == (expected or text.replace("docs/", ""))
    with pytest.raises(PluginError, match=r"README.md: a link to docs/gone.md, which is not there"):
        hooks.on_page_markdown("[a](docs/gone.md)", of("index.md"), None, None)


def test_lists_are_read_as_on_a_forge(hooks: ModuleType) -> None:
    rest = "```yaml\na:\n  b: 1\n```\n\n| a |\n| --- |\n"
    text = "Words:\n- a\n- b\n  more of b\n\n  b, too\n- c\n\n1. d\n\n   d, too\n2. e\n\n" + rest
    lists = "Words:\n\n- a\n- b\n    more of b\n\n    b, too\n\n- c\n\n1. d\n\n    d, too\n\n2. e\n\n"
    expected = lists + rest
    assert hooks.on_page_markdown(text, of("concepts.md"), None, None) == expected


def test_what_would_be_fetched_ends_the_build(hooks: ModuleType) -> None:
    fine = '<a href="https://arxiv.org"></a><script src="assets/a.js"></script>'
    assert hooks.on_post_page(fine, of("index.md"), None) == fine
    with pytest.raises(PluginError, match=r"index.md would fetch https://cdn.org/a.js"):
        hooks.on_post_page('<script src="https://cdn.org/a.js"></script>', of("index.md"), None)


def test_members_that_a_page_asks_for_are_shown(hooks: ModuleType) -> None:
    with pytest.raises(PluginError, match=r"api.md shows no mvss.SourceSeparator.separate, mvss.SourceSeparator.sample, "):
        hooks.on_post_page('<h3 id="mvss.SourceSeparator.fit">', of("api.md"), None)
