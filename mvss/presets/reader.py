"""Typed configuration: dataclass defaults, overlaid by a YAML preset, overlaid by dotted overrides.

    config = schema's defaults  ←  presets/<name>.yaml  ←  em.laps=3 ...

OmegaConf reads, merges and interpolates (`${other.key}`); the annotations of the dataclasses decide what is allowed,
and every error is one line that names the key.
"""

from __future__ import annotations

__all__ = ["available_presets", "build_config", "config_hash", "load_config", "plain", "save_config", "suggest"]

import dataclasses
import difflib
import hashlib
import json
import math
import types
from collections.abc import Iterable, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text

T = TypeVar("T")


def available_presets(folder: Path | str) -> list[str]:
    """Return the names of the presets (`*.yaml`) in a folder, sorted."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def load_config(schema: type[T], preset: Path | str, overrides: Sequence[str] = ()) -> T:
    """Return the configuration of a preset with overrides.

    Args:
        schema: a dataclass of scalars, `Path`, `Literal`, dataclasses, and lists, tuples, dicts, unions of these.
        preset: the YAML file; what it leaves out keeps the schema's default.
        overrides: `dotted.key=value` with YAML values (`1e-3`, `null`, `[1, 2]`); the key must exist. Another `kind`
            replaces the whole group that it names.

    Raises:
        MvssError: unknown preset or key, missing value, wrong type, malformed override.
    """
    values = _read_preset(schema, Path(preset))
    config = _build_root(schema, values, f"preset {Path(preset).name}")
    known = plain(config)
    for override in overrides:
        key, value = _parse_override(override)
        _check_path(known, key)
        group, _, last = key.rpartition(".")
        if last == "kind" and _is_tagged(config, group):
            key, value = group, {"kind": value}
        try:
            now = OmegaConf.select(values, key)
            if isinstance(now, DictConfig):
                value = merged(OmegaConf.to_container(now), value)
            OmegaConf.update(values, key, value, merge=False)
        except OmegaConfBaseException as error:
            raise MvssError(f"override '{override}': {_first_line(error)}") from error
        if isinstance(value, dict):  # it may have other keys now
            config = _build_root(schema, values, "overrides")
            known = plain(config)
    return _build_root(schema, values, "overrides")


def save_config(config: Any, path: Path | str) -> None:  # noqa: ANN401 - any dataclass instance
    """Write a configuration as YAML; `load_config` with that file as the preset gives it back."""
    atomic_write_text(path, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))


def config_hash(config: Any) -> str:  # noqa: ANN401 - any dataclass instance
    """Return the SHA-256 of a configuration's canonical JSON, in hex; the order of keys does not count."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_preset(schema: type, path: Path) -> DictConfig:
    if not path.is_file():
        names = available_presets(path.parent)
        known = suggest(path.stem, names) if names else f": there is no file {path}"
        raise MvssError(f"unknown preset '{path.stem}'{known}")
    try:
        preset = OmegaConf.load(path)
        if not isinstance(preset, DictConfig):
            raise MvssError(f"preset {path} must hold `key: value` lines")
        return OmegaConf.create(merged(_defaults(schema), OmegaConf.to_container(preset)))
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise MvssError(f"preset {path} is not valid YAML: {_first_line(error)}") from error


def merged(base: Any, over: Any) -> Any:  # noqa: ANN401 - plain containers
    """`over` on top of `base`, key by key. Where both name a `kind`, and not the same, nothing of `base` stays."""
    if not isinstance(base, dict) or not isinstance(over, dict) or base.get("kind") != over.get("kind", base.get("kind")):
        return over
    return base | {key: merged(base[key], value) if key in base else value for key, value in over.items()}


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key or not all(key.split(".")) or any(letter.isspace() for letter in key):
        raise MvssError(f"malformed override '{override}': write key=value, for example em.laps=3")
    try:
        return key, OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload, index]
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise MvssError(f"malformed override '{override}': the value is not valid YAML ({_first_line(error)})") from error


def _is_tagged(config: Any, key: str) -> bool:  # noqa: ANN401 - any dataclass instance
    """Whether what is at a key is one of several dataclasses, told by its `kind`."""
    for part in key.split("."):
        if dataclasses.is_dataclass(config):
            config = getattr(config, part, None)
        else:
            config = config.get(part) if isinstance(config, dict) else config[int(part)]
    return dataclasses.is_dataclass(config) and len(get_args(get_type_hints(type(config))["kind"])) == 1


def _check_path(known: Any, key: str) -> None:  # noqa: ANN401 - nested plain containers
    parts = key.split(".")
    for depth, part in enumerate(parts):
        above, here = ".".join(parts[:depth]), ".".join(parts[: depth + 1])
        if isinstance(known, dict):
            entries = {str(name): value for name, value in known.items()}
        elif isinstance(known, list):
            entries = {str(place): value for place, value in enumerate(known)}
        else:
            raise MvssError(f"unknown key '{key}': '{above}' is {known!r} and has no keys; set it as a whole with {above}=...")
        if part not in entries:
            raise MvssError(f"unknown key '{here}'{suggest(part, entries)}")
        known = entries[part]


def suggest(name: str, allowed: Iterable[str]) -> str:
    """What to say after an unknown name: the one that was meant, perhaps, and all that are allowed."""
    allowed = list(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    return (f": did you mean '{close[0]}'?" if close else ":") + f" allowed: {', '.join(allowed) or 'none'}"


def _first_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return str(error).partition("\n")[0]


def _defaults(schema: type) -> dict[str, Any]:
    values = {}
    for field in (field for field in dataclasses.fields(schema) if field.init):
        if field.default is not dataclasses.MISSING:
            values[field.name] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = plain(field.default_factory())
    return values


def plain(value: Any) -> Any:  # noqa: ANN401 - a value of any field
    """Turn dataclasses, tuples, paths and numbers of numpy into what YAML and JSON know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if getattr(value, "ndim", None) == 0:
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _build_root(schema: type[T], values: DictConfig, origin: str) -> T:
    try:
        return build_config(schema, OmegaConf.to_container(values, resolve=True), origin)
    except OmegaConfBaseException as error:
        raise MvssError(f"{origin}: {_first_line(error)}") from error


def build_config(schema: type[T], values: Any, origin: str) -> T:  # noqa: ANN401 - plain containers
    """The dataclass that plain values say; a schema may have a class method `resolve` that completes them first.

    Raises MvssError: an unknown key, a missing value, a wrong type.
    """
    if not isinstance(values, dict):
        raise MvssError(f"{origin} must hold `key: value` lines")
    resolve = getattr(schema, "resolve", None)
    return cast(T, _build(schema, resolve(values) if resolve else values, ""))


def _build(hint: Any, value: Any, key: str) -> Any:  # noqa: ANN401 - hint is any annotation, value what YAML holds for it
    """Return `value` as the annotation `hint` wants it, or raise an error that names `key`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(cast(type, hint), value, key)
    if origin in (Union, types.UnionType):
        return _build_union(arguments, value, key)
    if origin is Literal:
        # 1 == True in Python, so the type counts too.
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise MvssError(f"'{key}' is {value!r}{suggest(str(value), map(str, arguments))}")
        return value
    if hint is Any:
        return value
    if dict in (hint, origin) and isinstance(value, dict):
        names, items = arguments or (Any, Any)
        return {_build(names, name, key): _build(items, item, f"{key}.{name}") for name, item in value.items()}
    if list in (hint, origin) and isinstance(value, list):
        (items,) = arguments or (Any,)
        return [_build(items, item, f"{key}.{place}") for place, item in enumerate(value)]
    if tuple in (hint, origin) and isinstance(value, list):
        return _build_tuple(arguments, value, key)
    return _build_scalar(hint, value, key)


def _build_dataclass(schema: type, value: Any, key: str) -> Any:  # noqa: ANN401 - an instance of schema
    if not isinstance(value, dict):
        raise _mismatch(schema, value, key)
    fields = {field.name: field for field in dataclasses.fields(schema) if field.init}
    hints = get_type_hints(schema)
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in fields:
            raise MvssError(f"unknown key '{prefix}{name}'{suggest(str(name), fields)}")
    for name, field in fields.items():
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise MvssError(f"'{prefix}{name}' has no value: set it")
    return schema(**{name: _build(hints[name], item, prefix + name) for name, item in value.items()})


def _build_union(choices: tuple[Any, ...], value: Any, key: str) -> Any:  # noqa: ANN401 - of one of the choices
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    if len(choices) == 1:  # an optional value: the error of what is inside says most
        return _build(choices[0], value, key)
    if isinstance(value, dict) and all(map(dataclasses.is_dataclass, choices)):
        return _build(_tagged(choices, value, key), value, key)
    # Exact types first, so that 3 stays an int in `float | int`.
    for choice in sorted(choices, key=lambda choice: type(value) is not choice):
        try:
            return _build(choice, value, key)
        except MvssError:
            continue
    raise _mismatch(Union[choices], value, key)  # noqa: UP007 - the choices are known only at run time


def _tagged(choices: tuple[Any, ...], value: dict[str, Any], key: str) -> Any:  # noqa: ANN401 - one of the choices
    """The dataclass whose `kind` a value names."""
    kinds = {str(next(f.default for f in dataclasses.fields(c) if f.name == "kind")): c for c in choices}
    if "kind" not in value:
        raise MvssError(f"'{key}.kind' has no value: set it to one of {', '.join(kinds)}")
    if not isinstance(value["kind"], str) or value["kind"] not in kinds:
        raise MvssError(f"'{key}.kind' is {value['kind']!r}{suggest(str(value['kind']), kinds)}")
    return kinds[value["kind"]]


def _build_tuple(items: tuple[Any, ...], value: list[Any], key: str) -> tuple[Any, ...]:
    if not items or items[-1] is Ellipsis:
        items = ((*items, Any)[0],) * len(value)
    if len(items) != len(value):
        raise MvssError(f"'{key}' has {len(value)} entries: it needs {len(items)}")
    return tuple(_build(item, entry, f"{key}.{place}") for place, (item, entry) in enumerate(zip(items, value, strict=True)))


def _build_scalar(hint: Any, value: Any, key: str) -> Any:  # noqa: ANN401 - of type hint
    if hint is float and type(value) is int:
        return float(value)
    if hint is float and type(value) is float and not math.isfinite(value):
        raise MvssError(f"'{key}' is {value}: it must be a finite number")
    if hint is Path and isinstance(value, str):
        return Path(expanduser(value))
    # Exact, since a bool is an int in Python but hardly meant as one.
    if type(value) is hint:
        return value
    raise _mismatch(hint, value, key)


def _mismatch(hint: Any, value: Any, key: str) -> MvssError:  # noqa: ANN401 - any annotation
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    kind = "a group of keys" if dataclasses.is_dataclass(hint) else name
    return MvssError(f"'{key or 'configuration'}' is {' '.join(repr(value).split())}: it must be {kind}")
