"""A state, tensors in dicts, lists and tuples, as JSON and numbered tensors.

{"lap": 3, "draws": (x, y)}   ⇄   {"lap": 3, "draws": {"$tuple": [{"$tensor": "0"}, {"$tensor": "1"}]}},  {"0": x, "1": y}
"""

from __future__ import annotations

__all__ = ["checksum", "plain", "restored"]

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mvss.runtime.fingerprint import content

MARK = "$"
"""Begins the only key of an object that stands for what JSON has not."""


def plain(value: object, tensors: dict[str, Tensor]) -> object:
    """A state as JSON knows it; its tensors go into `tensors`."""
    if isinstance(value, Tensor):
        tensors[name := str(len(tensors))] = value.detach().cpu().contiguous().clone()  # none may share memory
        return {f"{MARK}tensor": name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith(MARK) for key in value):
            return {key: plain(item, tensors) for key, item in value.items()}
        return {f"{MARK}dict": [[plain(part, tensors) for part in pair] for pair in value.items()]}
    if isinstance(value, tuple):
        return {f"{MARK}tuple": [plain(item, tensors) for item in value]}
    return [plain(item, tensors) for item in value] if isinstance(value, list) else value


def restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 - what JSON holds
    """What `plain` was given."""
    if isinstance(value, list):
        return [restored(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match list(value.items()):
        case [("$tensor", name)]:
            return tensors[name]
        case [("$tuple", items)]:
            return tuple(restored(item, tensors) for item in items)
        case [("$dict", pairs)]:
            return {restored(key, tensors): restored(item, tensors) for key, item in pairs}
    return {key: restored(item, tensors) for key, item in value.items()}


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text and of tensors on the CPU, their names, dtypes, shapes and content."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(content(tensor))
    return found.hexdigest()
