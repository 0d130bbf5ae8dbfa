"""A checkpoint is one safetensors file, whose header holds what is no tensor (`states`), and a SHA-256 of all of it."""

from __future__ import annotations

__all__ = ["checkpoint_bytes", "load_checkpoint", "save_checkpoint"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_bytes
from mvss.runtime.fingerprint import Fingerprint, differing
from mvss.runtime.states import checksum, plain, restored

FORMAT = "mvss 1"
"""Of checkpoints."""
CHANGED = {"data": "other data, noise or operators", "stream": "another seed", "code": "other code of mvss"}
"""Parts of fingerprints in words of those who changed them."""


def save_checkpoint(path: Path | str, state: Mapping[str, Any], fingerprint: Fingerprint | None = None) -> None:
    """Replace the checkpoint at `path` by `state`, whole or not at all; folders are made.

    Args:
        path: the file.
        state: tensors, numbers (those of numpy come back as Python's), strings, paths (as strings), None, and dicts, lists
            and tuples of them.
        fingerprint: of the run that it belongs to.

    Raises:
        MvssError: the state holds anything else, or the file cannot be written, e.g. as no space is left.
    """
    atomic_write_bytes(path, checkpoint_bytes(state, fingerprint))


def checkpoint_bytes(state: Mapping[str, Any], fingerprint: Fingerprint | None = None) -> bytes:
    """What `save_checkpoint` writes. Raises MvssError for a state that holds anything else."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"state": plain(state, tensors), "fingerprint": None if fingerprint is None else dict(fingerprint)})
    return _ordered(save(tensors, {"format": FORMAT, "content": text, "sha256": checksum(text, tensors)}))


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its header in order: it is written in another at every call, and the same state would have other
    bytes. The header is JSON behind its length in 8 bytes, filled up with spaces to a multiple of 8."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def load_checkpoint(path: Path | str, fingerprint: Fingerprint | None = None) -> dict[str, Any]:
    """Read a checkpoint that `save_checkpoint` wrote, with its tensors on the CPU.

    Raises:
        MvssError: the file is missing, cannot be read, is damaged, or belongs to a run of another fingerprint.
    """
    path = Path(path)
    try:
        path.open("rb").close()  # safetensors reports all that it cannot open in words of its own
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            # copied, since the file is mapped to odd addresses, where products round differently
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no dict
    except FileNotFoundError:
        raise MvssError(f"there is no checkpoint {path}: start the run again to make it") from None
    except OSError as error:
        raise MvssError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise MvssError(f"{path} is no whole checkpoint: delete it to start again") from error
    if about.get("format") != FORMAT:
        raise MvssError(f"{path} was not written as a checkpoint of this version of mvss: delete it to start again")
    if about.get("sha256") != checksum(about.get("content", ""), tensors):
        raise MvssError(f"the checkpoint {path} is damaged, its checksum says: delete it to start again")
    content = json.loads(about["content"])
    if fingerprint is not None:
        _require_same(path, content["fingerprint"] or {}, fingerprint)
    state: dict[str, Any] = restored(content["state"], tensors)
    return state


def _require_same(path: Path, kept: Fingerprint, fingerprint: Fingerprint) -> None:
    if parts := differing(kept, fingerprint):
        told = ", and ".join(CHANGED.get(part, f"other {part}") for part in parts)
        again = "take another folder (--out), undo the change, or delete it to start again"
        raise MvssError(f"{path} is of a run with {told}: {again}")
