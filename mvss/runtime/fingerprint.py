"""What a result was made of, in a few letters: data, settings, random stream and code.

    fingerprint = {part: SHA-256 of it}        two runs are one run where no part differs

A checkpoint carries the fingerprint of its run, and goes on under no other (`checkpoints`). Code is what Python sees of
it: comments, layout and docstrings decide nothing.

A dataclass is its fields, but for those whose metadata say `{"decides": False}`. An object of a user's class is what its class
does (`behaviour`), and its attributes, without cached properties and what `__getstate__` leaves out. Attributes whose names
begin with an underscore count as they were when the object was first looked at: what use leaves there later decides nothing.
"""

from __future__ import annotations

__all__ = ["Fingerprint", "code_of", "content", "differing", "digest", "fingerprint_of", "parsed", "sources_of"]

import ast
import hashlib
from abc import ABCMeta
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import cache, cached_property, partial
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodType
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from mvss.runtime.behaviour import behaviour, code_parts
from mvss.runtime.errors import MvssError

Fingerprint = Mapping[str, str]
"""Digests by the name of what they are of."""
LETTERS = 32
PLAIN = (type(None), bool, int, float, complex, str, bytes, Path, slice, EllipsisType, torch.dtype, torch.device, torch.Size)
FIRST: WeakKeyDictionary[object, dict[str, str]] = WeakKeyDictionary()
"""Digests of attributes of objects that begin with an underscore, at first sight."""


def digest(*values: object) -> str:
    """32 letters that tell these values from others: plain ones, arrays and tensors (dtype, shape, content), dataclasses,
    modules with weights, streams, functions, any object by its attributes, and what holds such in order.

    Raises MvssError for what has no content that can be read, such as an open file, or holds itself.

    >>> digest({"steps": 5}) == digest({"steps": 5}), digest([1, 2]) == digest([[1], 2])
    (True, False)
    """
    found = hashlib.sha256()
    try:
        _feed(found.update, values)
    except RecursionError as error:
        raise MvssError("what a checkpoint should know again holds itself: leave it out of the data") from error
    return found.hexdigest()[:LETTERS]


def differing(one: Fingerprint, other: Fingerprint) -> list[str]:
    """Names of the parts that differ, or that one alone has.

    >>> differing({"data": "a", "code": "b"}, {"data": "a", "code": "c"})
    ['code']
    """
    return [part for part in {**one, **other} if one.get(part) != other.get(part)]


def fingerprint_of(modules: Sequence[str], parts: Mapping[str, object]) -> Fingerprint:
    """Of a run that is made of parts, by name, and of the code of modules of mvss and of all that they import."""
    return {**{name: digest(part) for name, part in parts.items()}, "code": code_of(*modules)}


def _feed(update: Callable[[bytes], object], value: object) -> None:
    """Each value with its kind and how much of it follows, so that no two trees of values read the same."""

    def tell(*words: object, parts: Collection[object] = ()) -> None:
        update(repr((*words, len(parts))).encode())
        for part in parts:
            _feed(update, part)

    if isinstance(value, Tensor) and value.layout != torch.strided:
        sparse = value.detach().to_sparse_coo().coalesce()
        tell("sparse", tuple(value.shape), parts=(sparse.indices(), sparse.values()))
    elif isinstance(value, Tensor):
        tell("tensor", str(value.dtype), tuple(value.shape))
        update(content(value))
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        tell("array", array.dtype.str, array.shape, parts=array.ravel().tolist() if array.dtype.hasobject else ())
        update(b"" if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())
    elif isinstance(value, PLAIN):
        tell(type(value).__name__, value)
    elif isinstance(value, Mapping):  # in its order, which numbers sources
        tell("mapping", parts=[item for pair in value.items() for item in pair])
    elif isinstance(value, Set):
        tell("set", parts=sorted(value, key=repr))
    elif isinstance(value, (list, tuple)):
        tell(type(value).__name__, parts=value)
    else:
        tell(*_name(value), parts=_parts(value))


def content(tensor: Tensor) -> bytes:
    """Of a dense tensor, in the order of its elements."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _name(value: object) -> tuple[str, str]:
    """Of a class or function, or of the class of anything else."""
    named = value if isinstance(value, (type, FunctionType, BuiltinFunctionType)) else type(value)
    return str(named.__module__), named.__qualname__


def _parts(value: object) -> Collection[object]:
    """What tells an object from others of its class."""
    if isinstance(value, (type, FunctionType)):
        return behaviour(value)
    if isinstance(value, BuiltinFunctionType):
        return ()
    if isinstance(value, MethodType):
        return (value.__self__, value.__func__)
    if isinstance(value, partial):
        return (value.func, value.args, value.keywords)
    if isinstance(value, CodeType):
        return code_parts(value)
    if isinstance(value, torch.nn.Module):
        return (value.state_dict(), [(_plain(module), behaviour(type(module))) for module in value.modules()])
    if is_dataclass(value):  # of settings, the values say all
        does = behaviour(type(value)) if isinstance(type(value), ABCMeta) else []
        return [
            *((field.name, getattr(value, field.name)) for field in fields(value) if field.metadata.get("decides", True)),
            *does,
        ]
    return [*_attributes(value), *behaviour(type(value))]


def _plain(module: torch.nn.Module) -> list[tuple[str, object]]:
    """What is no weight of it."""
    return [(k, v) for k, v in vars(module).items() if isinstance(v, (*PLAIN, tuple)) and k != "training"]


def _attributes(value: object) -> list[object]:
    """Of an object, as the module says."""
    state, users = value.__getstate__(), bool(behaviour(type(value)))
    if not (users or (state is not None and hasattr(value, "__dict__"))):
        raise MvssError(
            f"a {'.'.join(_name(value))} has no content that a checkpoint could know again: leave it out of the data"
        )
    if not isinstance(state, dict):
        return [state]
    cached = {name for name in dir(type(value)) if isinstance(getattr(type(value), name, None), cached_property)}
    kept = {name: item for name, item in state.items() if name not in cached}
    if not users:
        return list(kept.items())
    if (private := FIRST.get(value)) is None:
        FIRST[value] = private = {name: digest(item) for name, item in kept.items() if name.startswith("_")}
    return [*((name, item) for name, item in kept.items() if not name.startswith("_")), private]


@cache
def code_of(*modules: str, packages: tuple[str, ...] = ("mvss",), silent: tuple[str, ...] = ()) -> str:
    """32 letters of the code of modules, by name, and of all that they import at any depth inside `packages`. silent: names
    of modules that decide nothing."""
    found = hashlib.sha256()
    for name, path in sources_of(*modules, packages=packages, silent=silent).items():
        found.update(f"{name} {_read(name, path)[0]}\n".encode())
    return found.hexdigest()[:LETTERS]


def sources_of(*modules: str, packages: Collection[str] = ("mvss",), silent: Collection[str] = ()) -> dict[str, Path]:
    """Files by the names of the modules: these and those that they import, wherever in them. Arguments as of `code_of`."""
    found, waiting = dict[str, Path](), list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name in silent or name.partition(".")[0] not in packages:
            continue
        path = _file(name)
        if path is not None:
            found[name] = path
            waiting += _read(name, path)[1]
    return dict(sorted(found.items()))


@cache  # once, on the way in: an edit during a run must not pass for the code that ran
def _read(module: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """A hash of a file's code, and the names that it imports."""
    tree = parsed(path)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(_imports(module, path, tree))


def parsed(path: Path) -> ast.Module:
    """The code of a file without its docstrings, and without what only type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_silent(statement)]
    return tree


def _is_silent(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(ast.Constant()):
            return True
        case ast.If(ast.Name("TYPE_CHECKING"), orelse=[]):
            return True
    return False


@cache
def _file(module: str) -> Path | None:
    """Where a module is, None for a name that is none (that of a function, say); it is not imported."""
    package, *inner = module.split(".")
    found = find_spec(package)
    for folder in (found.submodule_search_locations if found else None) or ():
        place = Path(folder, *inner)
        for path in (place.with_suffix(".py"), place / "__init__.py") if inner else (place / "__init__.py",):
            if path.is_file():
                return path
    return None


def _imports(module: str, path: Path, tree: ast.Module) -> Iterator[str]:
    """Names that a file imports, as modules or from them."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
