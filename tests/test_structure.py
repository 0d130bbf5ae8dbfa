"""The rules of the rooms: arrows go down only, no circles, short modules and functions, few arguments.

    mvss:         cli → separator → em → baselines → estimation → posteriors → priors → problem → runtime;  cli → io → problem
    experiments:  an experiment → core, report; none imports another, and mvss imports none of them

What today breaks a rule is marked xfail; the mark goes when the code has moved.
"""

from __future__ import annotations

__all__: list[str] = []

from pathlib import Path
from statistics import median

import pytest
from structure import Module, cycle, functions, import_graph, imported_names, modules, room, room_graph

ROOT = Path(__file__).parent.parent
MVSS, EXPERIMENTS = modules(ROOT, "mvss"), modules(ROOT, "experiments")
SHARED = ("core", "report")
"""Rooms of experiments that every experiment may use."""

# From the top down. `mvss/__init__.py` stands above all: it may import any room, and no room imports it.
BELOW = {"presets", "metrics", "runtime"}
"""Settings, which import no implementation; scores; what everything stands on."""
ROOMS: dict[str, set[str]] = {
    "runtime": set(),
    "presets": {"runtime"},
    "metrics": {"runtime"},
    "problem": BELOW,
    "priors": {"problem"} | BELOW,
    "posteriors": {"priors", "problem"} | BELOW,
    "estimation": {"posteriors", "priors", "problem"} | BELOW,
    "baselines": {"posteriors", "priors", "problem"} | BELOW,
    "em": {"posteriors", "priors", "problem"} | BELOW,
    "io": {"problem"} | BELOW,
}
ROOMS["separator"] = set(ROOMS)
ROOMS["cli"] = set(ROOMS)
ROOMS["__main__"] = {"cli"}

ENTRIES, MEDIAN, LONGEST, FUNCTION, ARGUMENTS = 15, 120, 300, 60, 7


def arrows(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    return [(name, target) for name in sorted(graph) for target in sorted(graph[name])]


def test_every_module_of_mvss_is_in_a_room() -> None:
    assert {room(name) for name in MVSS} - {""} <= set(ROOMS)


def test_the_rooms_themselves_have_no_circle() -> None:
    assert cycle(ROOMS) == []


@pytest.mark.parametrize(
    "name",
    list(ROOMS),
)
def test_a_room_imports_only_rooms_below(name: str) -> None:
    allowed = ROOMS[name] | {name}
    up = [f"{a} -> {b}" for a, b in arrows(import_graph(MVSS)) if room(a) == name and room(b) not in allowed]
    assert up == []


@pytest.mark.parametrize("known", [MVSS, EXPERIMENTS], ids=["mvss", "experiments"])
def test_no_modules_import_each_other_in_a_circle(known: dict[str, Module]) -> None:
    assert cycle(import_graph(known)) == []


def test_mvss_imports_nothing_of_experiments() -> None:
    assert [n for n, m in MVSS.items() if any(i.split(".")[0] == "experiments" for i in imported_names(m))] == []


def test_no_experiment_imports_another() -> None:
    between = [(a, b) for a, b in arrows(import_graph(EXPERIMENTS)) if room(a) not in (*SHARED, "data_status")]
    assert [f"{a} -> {b}" for a, b in between if room(b) not in (room(a), *SHARED)] == []


def test_what_experiments_share_imports_no_experiment() -> None:
    shared = [(a, b) for a, b in arrows(import_graph(EXPERIMENTS)) if room(a) in SHARED]
    assert [f"{a} -> {b}" for a, b in shared if room(b) not in SHARED] == []


def test_core_and_report_are_no_circle() -> None:
    graph = room_graph(import_graph(EXPERIMENTS))
    assert cycle({name: graph[name] & set(SHARED) for name in SHARED}) == []


def test_the_top_of_mvss_is_small() -> None:
    entries = [p.name for p in (ROOT / "mvss").iterdir() if p.name != "__pycache__" and not p.name.startswith(".")]
    assert len(entries) <= ENTRIES, sorted(entries)


def test_modules_are_short() -> None:
    assert median(m.lines for m in MVSS.values() if not m.is_package) <= MEDIAN


def test_no_module_is_long() -> None:
    assert {name: m.lines for name, m in MVSS.items() if m.lines > LONGEST} == {}


def test_no_function_is_long() -> None:
    assert {f.name: f.lines for m in MVSS.values() for f in functions(m) if f.lines > FUNCTION} == {}


def test_public_functions_have_few_arguments() -> None:
    found = (f for m in MVSS.values() for f in functions(m) if f.public)
    assert {f.name: f.arguments for f in found if f.arguments > ARGUMENTS} == {}


def test_imports_are_seen_wherever_they_stand(tmp_path: Path) -> None:
    texts = {
        "__init__": "from p.a import f",
        "a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .r import b\n",
        "r/__init__": "",
        "r/b": "def f() -> None:\n    from ..a import f\n    import p.r.c\n",
        "r/c": "from . import missing\nfrom p.elsewhere import b\n",
    }
    (tmp_path / "p" / "r").mkdir(parents=True)
    for name, text in texts.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    graph = import_graph(modules(tmp_path, "p"))
    assert graph == {"p": {"p.a"}, "p.a": {"p.r.b"}, "p.r": set(), "p.r.b": {"p.a", "p.r.c"}, "p.r.c": {"p.r"}}
    assert cycle(graph) in (["p.a", "p.r.b", "p.a"], ["p.r.b", "p.a", "p.r.b"])
    assert room_graph(graph) == {"": {"a"}, "a": {"r"}, "r": {"a"}}


def test_functions_are_measured(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    methods = "    def __init__(self, a, *, b=0): ...\n    @staticmethod\n    def s(a): ...\n    def _h(self): ...\n"
    nested = "if 1:\n    def f(a, /, b, *c):\n        def g(x):\n            ...\n"
    (tmp_path / "p" / "m.py").write_text(f"class A:\n{methods}{nested}")
    found = [(f.name[4:], f.lines, f.arguments, f.public) for f in functions(modules(tmp_path, "p")["p.m"])]
    assert found[:3] == [("A.__init__", 1, 2, True), ("A.s", 1, 1, True), ("A._h", 1, 0, False)]
    assert found[3:] == [("f", 3, 2, True), ("f.g", 2, 1, False)]
