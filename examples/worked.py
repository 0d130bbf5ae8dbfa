"""A worked example from its files to its paragraph, by the commands that a user would type.

    files → mvss check, fit, separate → the same by the closed form alone → scores → picture.png, learned.md

The closed form is the mixture of Gaussians that every fit begins with, in its exact posterior: what networks add is seen
beside it. Scores of K draws x_1 … x_K beside the truth x*, over all numbers of all new observations:

    SDR = 10 log10 Σ (x* − mean of x*)² / Σ (x̂ − x*)²    (dB), of their mean and of single draws
    spread_ratio    1 where draws are as far apart as they are off
"""

from __future__ import annotations

__all__ = ["Arrays", "Example", "Result", "Score", "compared", "judged", "main"]

import argparse
import contextlib
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mvss.cli.commands import program
from mvss.metrics.spread import spread_ratio
from mvss.runtime.files import atomic_write_text

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "results" / "runs" / "examples"
PAGE = ROOT / "examples" / "README.md"
LEARNED, CLOSED = "learned", "closed"
"""Methods, and the folders of their models."""
DRAWS, FEW = 32, 3
NARROW, WIDE = 0.8, 1.25
"""Spread ratios beyond which draws are no error bars: the limits that a fit's report has for χ²."""
TELLING = 0.2
"""dB that a difference must have to be called one."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Score:
    """Of a method and a source: SDR of the mean of draws and of single ones, in dB, and the spread ratio of the draws."""

    mean: float
    single: float
    spread: float


@dataclass(frozen=True)
class Result:
    """What was made and what came out. arrays: by the names of their files. truth: `(N, *shape)` of the new observations.
    draws: `(K, N, *shape)` by method and source."""

    arrays: Arrays
    truth: Arrays
    draws: dict[str, Arrays]

    def score(self, method: str, source: str) -> Score:
        """See the module."""
        truth, draws = (torch.from_numpy(x[source]).double() for x in (self.truth, self.draws[method]))
        return Score(_sdr(draws.mean(0), truth), _sdr(draws, truth), spread_ratio(draws, truth)[0])


@dataclass(frozen=True)
class Example:
    """folder: holds mixture.yaml and new.yaml, and the settings closed.yaml, small.yaml and small-closed.yaml. preset: of
    the fit. make: the arrays, by the names of their files, and the truth of the new observations by source; of few where
    it is told so."""

    folder: Path
    preset: str
    make: Callable[[bool], tuple[Arrays, Arrays]]
    picture: Callable[[Result], Figure]
    paragraph: Callable[[Result], str]


def main(example: Example, words: Sequence[str] | None = None) -> None:
    """The command of an example; what goes wrong in `mvss` ends it with the status of that."""
    name = example.folder.name
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}", description=sys.modules[example.make.__module__].__doc__
    )
    parser.add_argument("--small", action="store_true", help="all steps in seconds, with numbers that mean nothing")
    parser.add_argument("--publish", action="store_true", help="put the picture and the paragraph into examples/")
    parser.add_argument("--out", type=Path, help="folder of all files  [default: results/runs/examples/NAME]")
    said = parser.parse_args(words)
    if said.small and said.publish:
        parser.error("--small has nothing to publish")
    out = (said.out or RUNS / (f"{name}-small" if said.small else name)).resolve()
    result = _run(example, out, said.small)
    example.picture(result).savefig(out / "picture.png", dpi=110)
    text = "A small run: these numbers mean nothing." if said.small else example.paragraph(result)
    text = f"{textwrap.fill(text, 116)}\n\n{_table(result)}\n"
    atomic_write_text(out / "learned.md", text)
    print(f"{text}\npicture: {out / 'picture.png'}")
    if said.publish:
        shutil.copyfile(out / "picture.png", example.folder / "picture.png")
        block = rf"(?s)(?<=<!-- {name}:begin -->\n).*(?=<!-- {name}:end -->)"
        atomic_write_text(PAGE, re.sub(block, lambda _: text, PAGE.read_text(encoding="utf-8")))


def compared(result: Result, source: str) -> str:
    """Means of the learned priors beside those of the closed form, in words."""
    ours, closed = result.score(LEARNED, source).mean, result.score(CLOSED, source).mean
    if abs(ours - closed) < TELLING:
        return f"as near to the truth as the closed form, {ours:.1f} dB beside {closed:.1f} dB"
    return f"{abs(ours - closed):.1f} dB {'nearer to' if ours > closed else 'farther from'} the truth than the closed form"


def judged(result: Result, *sources: str) -> str:
    """Spread ratios of the learned priors, in a sentence."""
    spread = {source: result.score(LEARNED, source).spread for source in sources}
    told = " and ".join(f"{ratio:.2f} ({source})" for source, ratio in spread.items())
    low, high = min(spread.values()), max(spread.values())
    how = "too narrow for" if low < NARROW else "too wide for" if high > WIDE else "about as wide as"
    return f"Spread ratios are {told}, where 1 is right: the draws are {how} error bars{'' if 'for' in how else ' should be'}."


def _run(example: Example, out: Path, small: bool) -> Result:
    out.mkdir(parents=True, exist_ok=True)
    for path in example.folder.glob("*.yaml"):
        shutil.copyfile(path, out / path.name)
    arrays, truth = example.make(small)
    for name, x in arrays.items():
        np.save(out / name, x.astype(np.float32))
    print(f"{example.folder.name}: {', '.join(arrays)} and the commands' files are in {out}", flush=True)
    with contextlib.chdir(out):
        _mvss("check mixture.yaml")
        _mvss(f"fit mixture.yaml --out {LEARNED} --preset {'small.yaml' if small else example.preset}")
        _mvss(f"fit mixture.yaml --out {CLOSED} --preset {'small-' if small else ''}closed.yaml")
        for method in (LEARNED, CLOSED):
            _mvss(f"separate {method} new.yaml --draws {FEW if small else DRAWS} --out {method}.npz")
    return Result(arrays, truth, {method: _draws(out / f"{method}.npz", truth) for method in (LEARNED, CLOSED)})


def _mvss(words: str) -> None:
    """One command, told before it runs."""
    print(f"\n$ mvss {words}", flush=True)
    try:
        program(words.split(), prog_name="mvss")
    except SystemExit as end:
        if end.code:
            raise


def _draws(path: Path, truth: Arrays) -> Arrays:
    """By source, of the only view."""
    with np.load(path) as file:
        found = {key.split("/")[1]: file[key] for key in file.files if key.endswith("/draws")}
    return {source: found[source].reshape(-1, *x.shape) for source, x in truth.items()}


def _sdr(x: torch.Tensor, truth: torch.Tensor) -> float:
    return 10 * math.log10(float(truth.var(correction=0) / (x - truth).square().mean()))


def _table(result: Result) -> str:
    lines = ["| source | by | SDR of means (dB) | of single draws (dB) | spread ratio |", "| --- | --- | ---: | ---: | ---: |"]
    for source in result.truth:
        for method, words in ((LEARNED, "learned priors"), (CLOSED, "closed form")):
            score = result.score(method, source)
            lines.append(f"| {source} | {words} | {score.mean:.1f} | {score.single:.1f} | {score.spread:.2f} |")
    return "\n".join(lines)
