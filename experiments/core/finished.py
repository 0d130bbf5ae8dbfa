"""Whether a job is done: what it has left must be what it has finished with; and goes on: what it has left so far.

key  = {"key", "records": {"size", "sha256"}}                        with every record, read before the job goes on
done = {"key", "commit", "records": {"count", "sha256"}, "samples": sha256, "course"}    written last, read before every report
"""

from __future__ import annotations

__all__ = ["begin", "begun_with", "damage", "finish", "goes_on", "is_done", "made_at"]

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.core.cache import settings_key
from experiments.core.config import Job
from experiments.core.places import Experiment, key_of, name_of, place_of, samples_of
from experiments.core.records import read_records
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text


def finish(job: Job, folder: Path, count: int, key: str, commit: str, course: Sequence[tuple[float, float]] = ()) -> None:
    """Note that a job is done. count: of its records. key, commit: of its settings and code. course: see `durations`, of one
    that was not interrupted.

    Raises:
        MvssError: there are fewer records than were made, or others: somebody has taken them away meanwhile.
    """
    place = place_of(job, folder)
    if (there := len(read_records(place / "records.jsonl"))) != count:
        (place / "key").unlink(missing_ok=True)  # it starts from nothing
        raise MvssError(
            f"{name_of(job)}: {there} of {count} records are left, others changed its files meanwhile: run it again"
        )
    records = {"count": count, "sha256": _hash(place / "records.jsonl")}
    done: dict[str, Any] = {"key": key, "commit": commit, "records": records, "samples": _hash(samples_of(job, folder))}
    done |= {"course": course} if course else {}
    atomic_write_text(place / "done", json.dumps(done) + "\n")


def is_done(experiment: Experiment, job: Job, folder: Path) -> bool:
    """Whether a job was finished with these settings by this code, and nothing of it is lost."""
    return _done(job, folder).get("key") == key_of(experiment, job) and not damage(job, folder)


def made_at(experiment: Experiment, job: Job, folder: Path) -> str:
    """The commit whose code has finished this job with these settings, if any has; "" where something of it is lost."""
    done = _done(job, folder)
    made = done.get("key", "").partition("-")[0] == settings_key(job, experiment.data)
    return str(done["commit"]) if made and not damage(job, folder) else ""


def damage(job: Job, folder: Path) -> str:
    """What of a finished job is lost, in words; "" where it is whole, or was never finished."""
    done = _done(job, folder)
    if not done:
        return ""
    if _lost_records(job, folder):
        there, count = _count(place_of(job, folder) / "records.jsonl"), done["records"]["count"]
        return f"{there} of {count} records are left" if there != count else "records were changed"
    return "" if done["samples"] == _hash(samples_of(job, folder)) else "samples are missing or were changed"


def begin(job: Job, folder: Path, key: str) -> None:
    """Note the key that a job has been begun with, and the records that it has so far, in bytes."""
    path = place_of(job, folder) / "records.jsonl"
    records = {"size": path.stat().st_size if path.exists() else 0, "sha256": _hash(path)}
    atomic_write_text(place_of(job, folder) / "key", json.dumps({"key": key, "records": records}) + "\n")


def begun_with(job: Job, folder: Path) -> str:
    """The key that a job was last begun with; "" where there is nothing left of it."""
    return str(_begun(job, folder).get("key", ""))


def goes_on(job: Job, folder: Path, key: str) -> bool:
    """Whether what a job has left was begun with this key, and its records are those that it has made; others may follow,
    which a kill has kept from being noted. Says so where records alone are missing."""
    begun = _begun(job, folder)
    try:
        if begun["key"] != key:
            return False
        size, known = int(begun["records"]["size"]), begun["records"]["sha256"]
    except (ValueError, KeyError, TypeError):
        return False
    path = place_of(job, folder) / "records.jsonl"
    there = path.read_bytes()[:size] if size and path.exists() else b""
    whole = (hashlib.sha256(there).hexdigest() if size else known) == known and not _lost_records(job, folder)
    if not whole:
        print(f"{name_of(job)}: records of it were removed or changed since they were made: it starts anew", file=sys.stderr)
    return whole


def _lost_records(job: Job, folder: Path) -> bool:
    """Whether a finished job has other records than it has finished with."""
    done = _done(job, folder)
    return bool(done) and done["records"]["sha256"] != _hash(place_of(job, folder) / "records.jsonl")


def _done(job: Job, folder: Path) -> dict[str, Any]:
    """What a job has finished with; empty where it has not."""
    try:
        done = json.loads((place_of(job, folder) / "done").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(done, dict) and {"key", "commit", "records", "samples"} <= done.keys()
    return done if whole and isinstance(done["records"], dict) and {"count", "sha256"} <= done["records"].keys() else {}


def _begun(job: Job, folder: Path) -> dict[str, Any]:
    """What a job was last begun with; empty where that cannot be read."""
    try:
        begun = json.loads((place_of(job, folder) / "key").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return begun if isinstance(begun, dict) else {}


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _hash(path: Path) -> str:
    """Of a file; "" where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
