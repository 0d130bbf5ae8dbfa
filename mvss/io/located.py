"""A YAML file whose every value knows its line.

Read safely: plain values alone, no tags, no aliases, no key twice. `1e-3` is a number, as in YAML 1.2.
"""

from __future__ import annotations

__all__ = ["Located", "Path", "read_located"]

import math
import pathlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from mvss.runtime.errors import MvssError

Path = tuple[str | int, ...]
"""Keys and numbers of entries, from the top of the file."""
NUMBER = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
KINDS = ("map", "seq", "null", "bool", "int", "float", "str", "timestamp", "merge", "value")
PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in KINDS}


class _Loader(yaml.SafeLoader):
    """Knows numbers such as 1e-3, and no aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 - of PyYAML
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not read: write it out", event.start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789."))


@dataclass(frozen=True)
class Located:
    """What a file holds. values: dictionaries, lists, text, numbers, bool, None. lines: of every key and entry, from 1."""

    file: pathlib.Path
    values: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def error(self, path: Path, message: str) -> MvssError:
        """`file:line: key: message`, in one line; of the nearest key that there is."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{_shown(part)}" for part in path).lstrip(".")
        line = " ".join(str(message).split())
        return MvssError(f"{self.file}:{self.lines.get(known, 1)}: {f'{key}: ' if key else ''}{line}")

    @contextmanager
    def at(self, *path: str | int) -> Iterator[None]:
        """Errors of the block are those of a key of the file."""
        try:
            yield
        except _AtKey:
            raise
        except MvssError as error:
            raise _AtKey(str(self.error(path, str(error)))) from error


def _shown(key: str) -> str:
    """A key, in one line."""
    return key if key.isprintable() else repr(key)


class _AtKey(MvssError):
    """It has said where it is."""


def read_located(path: pathlib.Path | str) -> Located:
    """Raises MvssError, with file and line, where it cannot be read, is no YAML, or more than plain values."""
    path = pathlib.Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise MvssError(f"cannot read {path}: {error.strerror or error}") from error
    found = Located(path, None)
    try:
        loader = _Loader(text.decode("utf-8-sig"))
        try:
            node = loader.get_single_node()
            values = None if node is None else _value(found, loader, node, ())
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise MvssError(f"{path}:{text[: error.start].count(10) + 1}: no text in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(f"{error.context or ''} {error.problem or 'no YAML'}".split())
        raise MvssError(f"{path}:{mark.line + 1 if mark else 1}: {problem}") from error
    except yaml.reader.ReaderError as error:
        line = str(text.decode("utf-8-sig"))[: error.position].count("\n") + 1
        raise MvssError(f"{path}:{line}: a character that YAML does not allow") from error
    except RecursionError as error:
        raise MvssError(f"{path}:1: nested too deeply") from error
    return Located(path, values, found.lines)


def _value(found: Located, loader: _Loader, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401 - what YAML holds
    found.lines.setdefault(path, node.start_mark.line + 1)
    if node.tag not in PLAIN:
        raise found.error(path, f"the tag {node.tag} is not read: write plain values")
    if isinstance(node, yaml.MappingNode):
        return _mapping(found, loader, node, path)
    if isinstance(node, yaml.SequenceNode):
        return [_value(found, loader, entry, (*path, place)) for place, entry in enumerate(node.value)]
    try:
        value = loader.construct_object(node)
    except ValueError as error:
        raise found.error(path, f"{node.value!r} is no value: put text in quotes") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise found.error(path, f"must be a finite number, not {node.value}")
    return value


def _mapping(found: Located, loader: _Loader, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, item in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not isinstance(name := loader.construct_object(key), str):
            text = key.value if isinstance(key, yaml.ScalarNode) else "a list or group"
            found.lines[(*path, str(text))] = line
            raise found.error((*path, str(text)), "a key must be text: put it in quotes")
        if name in values:
            first, found.lines[(*path, name)] = found.lines[(*path, name)], line
            raise found.error((*path, name), f"is there twice, first in line {first}")
        found.lines[(*path, name)] = line
        values[name] = _value(found, loader, item, (*path, name))
    return values
