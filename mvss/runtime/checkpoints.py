"""Files that are either the old one or the new one, never half of one, and that tell damage.

    write path.HOST.PROCESS.RANDOM.tmp  →  fsync  →  rename it to path

A kill, a crash or a full disk at any point leaves the last good file where it was. Writers of one file have names of
their own for what is unfinished; what a killed one left goes with the next write.

A checkpoint is one safetensors file, whose header holds what is no tensor (`states`), and a SHA-256 of all of it.
"""

from __future__ import annotations

__all__ = ["atomic_write_bytes", "atomic_write_text", "load_checkpoint", "replacing", "save_checkpoint"]

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mvss.runtime.errors import MvssError
from mvss.runtime.fingerprint import Fingerprint, differing
from mvss.runtime.locks import alive
from mvss.runtime.states import checksum, plain, restored

FORMAT = "mvss 1"
"""Of checkpoints."""


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A name to write a file under, which takes the place of the one at `path` when the block has ended without an error;
    folders are made.

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    path = Path(path)
    here = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    temporary = path.with_name(f"{path.name}.{here}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{escape(path.name)}.{here}.*.*.tmp"):
            process = left.name.split(".")[-3]
            if process.isdigit() and not alive(int(process)):
                left.unlink(missing_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MvssError(f"no space left to write {path}: free some, then run the same command again") from error
        raise MvssError(f"cannot write {path}: {error.strerror or error}") from error


def atomic_write_bytes(path: Path | str, data: bytes | memoryview) -> None:
    """Replace the file at `path` by `data`, whole or not at all; folders are made.

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path | str, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8), whole or not at all; folders are made.

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    atomic_write_bytes(path, text.encode())


def save_checkpoint(path: Path | str, state: Mapping[str, Any], fingerprint: Fingerprint | None = None) -> None:
    """Replace the checkpoint at `path` by `state`, whole or not at all; folders are made.

    Args:
        path: the file.
        state: tensors, numbers, strings, None, and dicts, lists and tuples of them.
        fingerprint: of the run that it belongs to.

    Raises:
        MvssError: the file cannot be written, e.g. as no space is left.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"state": plain(state, tensors), "fingerprint": None if fingerprint is None else dict(fingerprint)})
    about = {"format": FORMAT, "content": text, "sha256": checksum(text, tensors)}
    atomic_write_bytes(path, save(tensors, about))


def load_checkpoint(
    path: Path | str, device: torch.device | str = "cpu", fingerprint: Fingerprint | None = None
) -> dict[str, Any]:
    """Read a checkpoint that `save_checkpoint` wrote, with its tensors on `device`.

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
    state: dict[str, Any] = restored(content["state"], {name: tensor.to(device) for name, tensor in tensors.items()})
    return state


def _require_same(path: Path, kept: Fingerprint, fingerprint: Fingerprint) -> None:
    if parts := differing(kept, fingerprint):
        raise MvssError(f"{path} is of a run with other {', '.join(parts)}: take another folder, or delete it to start again")
