"""`make gpu-check`: small runs on a GPU, beside the same on the CPU where they are to agree, in ten minutes.

    python -m experiments.gpu_check [--cpu]        (--cpu: the same on a CPU, to try this command itself)

Random numbers are drawn on the CPU on every device, so that both runs see the same ones. What differs is rounding.
"""

from __future__ import annotations

__all__ = ["Check", "checks", "differences", "main"]

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 570.0
"""Seconds for all checks; what has not begun by then is not run."""
COMPARED = {"posterior_psnr": 0.3, "energy_score": 0.05, "chi2": 0.05}
"""Scores, and how far they may be apart: PSNR in dB, others as a share of the CPU's."""


@dataclass(frozen=True)
class Check:
    """One command, see gpu_check.yaml. what: it is to show. compare: with the same on the CPU."""

    what: str
    experiment: str
    words: str
    overrides: tuple[str, ...]
    compare: bool = False

    def arguments(self, out: Path | str) -> list[str]:
        """Of the experiment's command line. out: where its results go."""
        return [*shlex.split(self.words), "--out", str(out), "--", *self.overrides]


Door = Callable[[Check, Path, bool, float], dict[str, Any]]
"""(check, folder of the results, on the GPU, seconds that it may take) to its table. Raises MvssError where it fails."""


def checks() -> list[Check]:
    """Those of gpu_check.yaml."""
    listed = yaml.safe_load((ROOT / "experiments" / "gpu_check.yaml").read_text(encoding="utf-8"))
    return [Check(**{**each, "overrides": tuple(each["overrides"])}) for each in listed]


def through_the_door(check: Check, folder: Path, gpu: bool, seconds: float) -> dict[str, Any]:
    """A `Door`: a process of its own."""
    command = [sys.executable, "-m", f"experiments.{check.experiment}", *check.arguments(folder)]
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | hidden, capture_output=True, text=True, timeout=max(seconds, 1.0), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MvssError("did not end in the time that is left") from error
    if done.returncode:
        raise MvssError((done.stderr.strip().splitlines() or ["no word of why"])[-1])
    table: dict[str, Any] = json.loads(next(folder.rglob("table.json")).read_text(encoding="utf-8"))
    return table


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, float]:
    """By score of two tables: how far they are apart, as a share of what they may be. A number that is missing, or is none, on
    one side alone is infinitely far."""
    ours, theirs = _scores(here), _scores(there)
    found = {}
    for key in ours.keys() | theirs.keys():
        a, b, may = ours.get(key), theirs.get(key), COMPARED[key[-1]]
        scale = 1.0 if key[-1].endswith("psnr") else max(abs(b or 0.0), 1e-12)
        apart = abs(a - b) / scale / may if a is not None and b is not None else 0.0 if a is b and key in ours else float("inf")
        found[" ".join(key)] = apart
    return found


def _scores(table: Mapping[str, Any]) -> dict[tuple[str, ...], float | None]:
    rows = (row for row in table["rows"] if row["metric"] in COMPARED)
    return {(row["method"], row["source"], row["metric"]): row["mean"] for row in rows}


def main(arguments: Sequence[str] | None = None, door: Door = through_the_door) -> int:
    """Command line; the exit status: 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="gpu-check")
    parser.add_argument("--cpu", action="store_true", help="do the same on a CPU, to try this command itself")
    options = parser.parse_args(arguments)
    return report_errors("gpu-check", lambda: _main(not options.cpu, door), False)


def _main(gpu: bool, door: Door) -> int:
    if gpu and not torch.cuda.is_available():
        raise MvssError("PyTorch finds no CUDA device here: run this where there is one (ARGS=--cpu does the same on a CPU)")
    began, held = time.monotonic(), 0
    listed = checks()
    print(f"on {torch.cuda.get_device_name() if gpu else 'the CPU alone: this says nothing of any GPU'}")
    with tempfile.TemporaryDirectory() as folder:
        for number, check in enumerate(listed):
            since = time.monotonic()
            try:
                said = _held(check, Path(folder) / str(number), gpu, lambda: LIMIT - (time.monotonic() - began), door)
                held += 1
            except MvssError as error:
                said = f"FAILED: {error}"
            preset = shlex.split(check.words)[1]
            print(f"{check.experiment:12} {preset:12} {check.what}: {said} [{time.monotonic() - since:.0f} s]", flush=True)
    print(f"{held} of {len(listed)} held")
    return 0 if held == len(listed) else 1


def _held(check: Check, folder: Path, gpu: bool, left: Callable[[], float], door: Door) -> str:
    """What held, in words. Raises MvssError where nothing did."""
    if left() <= 0:
        raise MvssError("not run, the time is over")
    table = door(check, folder / "here", gpu, left())
    if gpu and not all(" on " in commit for commit in table["commits"]):
        raise MvssError("it ran on the CPU")
    if broken := [row for row in table["rows"] if row["metric"] in COMPARED and row["mean"] is None]:
        raise MvssError(f"{broken[0]['metric']} of {broken[0]['method']} is no finite number")
    if not check.compare:
        return "ran"
    apart = differences(table, door(check, folder / "cpu", False, left()))
    if not apart:
        raise MvssError("there is no score to compare")
    worst = max(apart, key=lambda key: apart[key])
    if apart[worst] > 1:
        raise MvssError(f"{worst} is {apart[worst]:.2g} times as far from the CPU's as it may be")
    return f"{len(apart)} scores as on the CPU; {worst}, the farthest, by {apart[worst]:.0%} of what it may"


if __name__ == "__main__":
    sys.exit(main())
