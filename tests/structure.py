"""The shape of the code, read from its text: modules, what they import, how long they and their functions are.

    module → the modules that it imports      anywhere in it: at the top, in a function, under TYPE_CHECKING
    room   = the folder or file directly in a package: `posteriors` of `mvss.posteriors.gibbs`, `em` of `mvss.em`

Nothing is imported or run. What is imported by a string (`importlib.import_module`) is not seen.
"""

from __future__ import annotations

__all__ = [
    "Function",
    "Module",
    "cycle",
    "functions",
    "import_graph",
    "imported_names",
    "modules",
    "room",
    "room_graph",
]

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Module:
    """name: dotted, that of a package for its `__init__`. lines: all lines of the file."""

    name: str
    path: Path
    tree: ast.Module
    lines: int

    @property
    def is_package(self) -> bool:
        """Whether it is an `__init__`."""
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Function:
    """name: dotted, with module and class. arguments: their number, without self, cls, *args and **kwargs.

    public: neither it nor the class that it is in starts with an underscore; `__init__` and its like are public,
    what is in another function is not."""

    name: str
    lines: int
    arguments: int
    public: bool


def modules(root: Path, package: str) -> dict[str, Module]:
    """All modules of a package in the folder `root`, by name."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        place = path.relative_to(root).with_suffix("")
        name = ".".join(place.parent.parts if place.name == "__init__" else place.parts)
        text = path.read_text(encoding="utf-8")
        found[name] = Module(name, path, ast.parse(text), len(text.splitlines()))
    return found


def room(name: str) -> str:
    """The room of a module; "" for the package's own `__init__`."""
    return name.split(".")[1] if "." in name else ""


def imported_names(module: Module) -> set[str]:
    """Every dotted name that a module imports, and for `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def import_graph(known: Mapping[str, Module]) -> dict[str, set[str]]:
    """Of each module those of `known` that it imports.

    `from a import b` is an import of a.b where that is a module, else of a. That Python runs the `__init__` of a
    folder on the way to a module in it does not count."""
    graph: dict[str, set[str]] = {}
    for name, module in known.items():
        graph[name] = set()
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = _absolute(module, node)
                longer = (f"{base}.{alias.name}" for alias in node.names)
                graph[name] |= {each if each in known else base for each in longer}
        graph[name] &= set(known)
    return graph


def room_graph(graph: Graph) -> dict[str, set[str]]:
    """Of each room the other rooms that its modules import."""
    rooms: dict[str, set[str]] = {}
    for name, targets in graph.items():
        rooms.setdefault(room(name), set()).update(room(target) for target in targets if room(target) != room(name))
    return rooms


def cycle(graph: Graph) -> list[str]:
    """One circle of a graph, its first name repeated at the end; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # graphlib names each before what imports it
    return []


def functions(module: Module) -> Iterator[Function]:
    """All functions and methods of a module, those in other functions too."""
    yield from _functions(module.tree, module.name, True, False)


def _functions(parent: ast.AST, prefix: str, public: bool, in_class: bool) -> Iterator[Function]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}.{node.name}", public and not node.name.startswith("_"), True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name, lines = f"{prefix}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1
            shown = public and (not node.name.startswith("_") or node.name.endswith("__"))
            yield Function(name, lines, _arguments(node, in_class), shown)
            yield from _functions(node, name, False, False)
        else:  # under an `if`, a `with`, a `try`
            yield from _functions(node, prefix, public, in_class)


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef, in_class: bool) -> int:
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list)
    count = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
    return count - (in_class and not static)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    """The module that a `from` names, relative or not."""
    parts = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    base = parts[: len(parts) + 1 - node.level] if node.level else []
    return ".".join([*base, *filter(None, [node.module])])
