"""What a user's class or function does, as Python has compiled it: from a file, a notebook or a prompt.

    class → functions of it and of its bases → functions, classes and constants that these name, at any depth

Libraries end the search: of what lies in Python's own folders, among installed packages, or in mvss, the name says all.
"""

from __future__ import annotations

__all__ = ["behaviour", "code_parts"]

import contextlib
import sys
from collections.abc import Iterator
from functools import cache, cached_property
from types import CodeType, FunctionType, ModuleType

import numpy as np
import torch

CONSTANTS = (type(None), bool, int, float, complex, str, bytes, tuple, torch.Tensor, torch.dtype, np.ndarray, np.generic)
"""What counts of globals and of attributes of a class: other kinds may be caches."""


def behaviour(value: type | FunctionType) -> list[object]:
    """Code, defaults and constants of all of the user's that it can run; of a library's function its own, of its class none."""
    found, seen, waiting = list[object](), set[int](), [value]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen or (_is_library(str(each.__module__)) and (each is not value or isinstance(each, type))):
            continue
        seen.add(id(each))
        code: tuple[object, ...] = ()
        if isinstance(each, FunctionType):
            code = (code_parts(each.__code__, each.__doc__), each.__defaults__, each.__kwdefaults__)
        named = list(_of_class(each) if isinstance(each, type) else _of_function(each))
        waiting += [item for _, item in named if isinstance(item, (type, FunctionType))]
        found.append((each.__qualname__, code, [(name, item) for name, item in named if isinstance(item, CONSTANTS)]))
        if isinstance(each, FunctionType):
            found += [(name, item) for name, item in _enclosed(each) if not isinstance(item, (type, FunctionType, ModuleType))]
    return found


def code_parts(code: CodeType, words: str | None = None) -> tuple[object, ...]:
    """What a code object is, without its docstring `words` and where it stands."""
    constants = [item for place, item in enumerate(code.co_consts) if place > 0 or item != words]
    return (code.co_code, constants, code.co_names)


def _of_class(kind: type) -> Iterator[tuple[str, object]]:
    for base in kind.__mro__[1:]:
        yield base.__qualname__, base
    for name, item in vars(kind).items():
        function = _function_of(item)
        if isinstance(function, FunctionType) or not name.startswith("__"):
            yield name, function


def _function_of(item: object) -> object:
    """What an attribute of a class runs."""
    if isinstance(item, property):
        return item.fget
    if isinstance(item, cached_property):
        return item.func
    return item if isinstance(item, (type, FunctionType)) else getattr(item, "__wrapped__", item)


def _of_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    """What it names of its module, and the functions and classes that it was defined among."""
    yield from ((name, function.__globals__[name]) for name in _names(function.__code__) if name in function.__globals__)
    yield from ((name, item) for name, item in _enclosed(function) if isinstance(item, (type, FunctionType)))


def _enclosed(function: FunctionType) -> Iterator[tuple[str, object]]:
    """The variables around it that it uses."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not set yet
            yield name, cell.cell_contents


def _names(code: CodeType) -> dict[str, None]:
    names = dict.fromkeys(code.co_names)
    for item in code.co_consts:
        if isinstance(item, CodeType):
            names |= _names(item)
    return names


@cache
def _is_library(module: str) -> bool:
    if module == "__main__":
        return False
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return top == "mvss" or top in sys.stdlib_module_names or "site-packages" in file or "dist-packages" in file
