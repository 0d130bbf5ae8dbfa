"""A state, tensors in dicts, lists and tuples, as JSON and numbered tensors.

{"lap": 3, "draws": (x, y)}   ⇄   {"lap": 3, "draws": {"$tuple": [{"$tensor": "0"}, {"$tensor": "1"}]}},  {"0": x, "1": y}
"""

from __future__ import annotations

__all__ = ["checksum", "plain", "restored"]

import hashlib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvss.runtime.errors import MvssError
from mvss.runtime.fingerprint import content

KEPT = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
"""Kinds of numbers that safetensors knows everywhere."""
MARK = "$"
"""Begins the only key of an object that stands for what JSON has not."""


def plain(value: object, tensors: dict[str, Tensor], key: str = "state") -> object:
    """A state as JSON knows it; its tensors go into `tensors`. Numbers of numpy become Python's, paths text.

    key: where it is in the whole, for the message.

    Raises MvssError, which names the key, for what is none of these.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.dtype not in KEPT:
            raise MvssError(
                f"a checkpoint cannot hold {key}, a {value.layout} tensor of {value.dtype}: keep dense real numbers"
            )
        tensors[name := str(len(tensors))] = value.detach().cpu().contiguous().clone()  # none may share memory
        return {f"{MARK}tensor": name}
    if isinstance(value, Mapping):
        if all(isinstance(name, str) and not name.startswith(MARK) for name in value):
            return {name: plain(item, tensors, f"{key}.{name}") for name, item in value.items()}
        pairs = [[plain(name, tensors, f"{key}: a key"), plain(item, tensors, f"{key}.{name}")] for name, item in value.items()]
        return {f"{MARK}dict": pairs}
    if isinstance(value, (list, tuple)):
        items = [plain(item, tensors, f"{key}.{place}") for place, item in enumerate(value)]
        return {f"{MARK}tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise MvssError(
        f"a checkpoint cannot hold {key}, a {type(value).__name__}: "
        "keep tensors, numbers, text, and dicts, lists or tuples of them"
    )


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
