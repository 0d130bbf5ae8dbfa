"""`mixture.yaml`: what views there are, checked against `mixture.schema.json` before any data are read.

    views:
      both: {data: both.npy, sources: {background: identity, target: {psf: psf.fits}}, noise: 0.05}

An error is one line, `mixture.yaml:7: views.both.noise: must be above 0, not -1`. This module imports nothing slow.
"""

from __future__ import annotations

__all__ = ["read_mixture", "schema"]

import json
import pathlib
from collections.abc import Iterable
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from mvss.io.located import Located, Path, read_located
from mvss.presets.reader import suggest

KINDS = {"object": "a group of keys", "array": "a list", "string": "text", "number": "a number", "integer": "a whole number"}
FOUND = {"dict": "a group of keys", "list": "a list", "NoneType": "nothing", "bool": "true or false"}
SAYS = {
    "exclusiveMinimum": "must be positive, not {shown}",
    "minimum": "must be at least {limit}, not {shown}",
    "minItems": "needs at least {limit} operators",
    "maxProperties": "holds more than it can: take one",
    "anyOf": "mode is of a psf or a response, and there is none",
    "pattern": "must be a name of letters, digits, _, - and blanks",
}
"""By the validator of the schema that fails."""


@cache
def schema() -> dict[str, Any]:
    """That of the YAML, as JSON Schema."""
    text = pathlib.Path(__file__).with_name("mixture.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def read_mixture(path: pathlib.Path | str) -> Located:
    """The file, if it says what a mixture must. Raises MvssError with file, line and key."""
    found = read_located(path)
    if found.values is None:
        raise found.error((), "holds nothing: it needs views")
    errors = sorted(Draft202012Validator(schema()).iter_errors(found.values), key=lambda error: list(map(str, error.path)))
    if errors:
        raise _told(found, min(errors, key=lambda error: found.lines.get(_place(error), 1)))
    for name, view in found.values["views"].items():
        for source, operator in view["sources"].items():
            _require_one(found, operator, ("views", name, "sources", source))
    return found


def _require_one(found: Located, operator: Any, path: Path) -> None:  # noqa: ANN401 - name, or name and what it takes
    """Raises MvssError where two operators stand in one place: a product says in which order."""
    if isinstance(operator, str):
        return
    names = [name for name in operator if name != "mode"]
    if len(names) > 1:
        raise found.error(path, f"{' and '.join(names)} are two operators: write product: [{{...}}, {{...}}], the last first")
    for name in ("product", "sum", "stack"):
        for place, part in enumerate(operator.get(name, ())):
            _require_one(found, part, (*path, name, place))


def _place(error: ValidationError) -> Path:
    """Where it is: the key that is wrong, not the group that holds it."""
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        return (*path, _unknown(error))
    return (*path, error.instance) if error.validator == "pattern" else path


def _unknown(error: ValidationError) -> str:
    return next(name for name in error.instance if name not in error.schema["properties"])


def _told(found: Located, error: ValidationError) -> Exception:
    limit, value = error.validator_value, error.instance
    shown = FOUND.get(type(value).__name__, repr(value))
    if error.validator == "type":
        kinds = [limit] if isinstance(limit, str) else limit
        says = f"must be {' or '.join(KINDS[kind] for kind in kinds)}, not {shown}"
    elif error.validator == "additionalProperties":
        says = f"is no key that is known{suggest(_unknown(error), error.schema['properties'])}"
    elif error.validator == "required":
        says = f"needs {', '.join(name for name in limit if name not in value)}"
    elif error.validator == "enum":
        says = f"{value!r} is not known{suggest(str(value), map(str, _known(error)))}"
    else:
        says = SAYS.get(str(error.validator), "must not be empty").format(limit=limit, shown=repr(value))
    return found.error(_place(error), says)


def _known(error: ValidationError) -> Iterable[str]:
    """What may stand there; operators that take something, too."""
    if error.validator_value == ["identity"]:
        return ["identity", *(f"{{{name}: ...}}" for name in schema()["$defs"]["named"]["properties"] if name != "mode")]
    return error.validator_value
