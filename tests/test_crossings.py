"""One observation's E-step goes through few modules, and seldom from one to another."""

from __future__ import annotations

__all__: list[str] = []

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from crossings import count, e_step, trace

MODULES, CROSSINGS = 20, 142
"""What it takes today; 9 modules were wanted, and each of these has one thing to do in an E-step."""

TEXTS = {
    "a": "import functools, b\ndef f(): return b.g() + b.g()\ndef twice(): return functools.reduce(b.h, [1, 2, 3])\n",
    "b": "def g(): return own()\ndef own(): return 1\ndef h(x, y): return x + y\ndef back(f): return f()\n",
}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with two modules, one of which calls the other."""
    for name, text in TEXTS.items():
        (tmp_path / f"{name}_of_two.py").write_text(text.replace("functools, b\n", "functools, b_of_two as b\n"))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in TEXTS:
        sys.modules.pop(f"{name}_of_two", None)


def test_ways_in_and_out_are_counted_and_frames_of_others_passed_over(two: Path) -> None:
    import a_of_two as a
    import b_of_two as b

    assert count(a.f, two) == (2, 4)  # two calls and two returns; b's own call is none
    assert count(a.twice, two) == (2, 4)  # through C
    assert count(lambda: b.back(lambda: a.f()), two) == (2, 6)  # through a frame of this file
    assert count(b.g, two) == (1, 0) and count(lambda: None, two) == (0, 0)
    assert trace(a.f, two).pairs == {("a_of_two.py", "b_of_two.py"): 4}


def test_the_profiler_is_put_back_after_an_error(two: Path) -> None:
    before = sys.getprofile()
    with pytest.raises(ZeroDivisionError):
        count(lambda: 1 / 0, two)
    assert sys.getprofile() is before


def test_an_e_step_crosses_few_modules() -> None:
    modules, crossings = count(e_step())
    assert modules <= MODULES and crossings <= CROSSINGS, f"{modules} modules, {crossings} crossings"
