"""The preset "signals" from the command line: smooth waves, and spikes on other waves, nearly half of all numbers missing."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from mvss.cli.commands import program
from mvss.runtime.rng import generator

COUNT, NEW, CHANNELS, LENGTH, MISSING, NOISE = 1000, 200, 2, 64, 0.45, 0.1
DRAWS = 16
BETTER = 2.0
"""dB that single draws are to be nearer to the truth than those of the closed form."""
MINUTES, GIB = 20, 4

VIEWS = """\
views:
  waves: {{data: {{signals: waves.npy}}, sources: {{waves: {{mask: waves-there.npy}}}}, noise: {noise}}}
  both:
    data: {{signals: both.npy}}
    sources: {{waves: {{mask: both-there.npy}}, pulses: {{mask: both-there.npy}}}}
    noise: {noise}
"""
ALONE = """\
views:
  both:
    data: {{signals: new.npy}}
    sources: {{waves: {{mask: new-there.npy}}, pulses: {{mask: new-there.npy}}}}
    noise: {noise}
"""
CLOSED = {
    "estimation": {"kind": "em", "components": [1, 8], "ranks": [0, 12], "laps": 10, "floor": 0.05},
    "prior": {"network": None},
    "posterior": {"kind": "exact"},
}
"""Mixtures of Gaussians alone, as many as the preset has, in their exact posterior."""


def waves(count: int, rng: torch.Generator) -> Tensor:
    """Sums of four sines of any phase, the faster the smaller, in each channel."""
    times, turns = torch.linspace(0, 1, LENGTH, dtype=torch.float64), torch.arange(1, 5, dtype=torch.float64)[:, None]
    size = torch.randn(count, CHANNELS, 4, 1, generator=rng, dtype=torch.float64) / turns
    phase = 2 * math.pi * torch.rand(count, CHANNELS, 4, 1, generator=rng, dtype=torch.float64)
    return (size * torch.sin(2 * math.pi * turns * times + phase)).sum(2)


def pulses(count: int, rng: torch.Generator) -> Tensor:
    """Up to three narrow bumps, at the same places in both channels."""
    x, times = torch.zeros(count, CHANNELS, LENGTH, dtype=torch.float64), torch.arange(LENGTH, dtype=torch.float64)
    for _ in range(3):
        there, place, width = torch.rand(3, count, 1, 1, generator=rng, dtype=torch.float64)
        height = 1.5 + torch.randn(count, CHANNELS, 1, generator=rng, dtype=torch.float64).abs()
        x += (there < 0.7) * height * torch.exp(-0.5 * ((times - 4 - 56 * place) / (0.8 + 0.8 * width)) ** 2)
    return x


def write(folder: Path, name: str, x: Tensor, rng: torch.Generator) -> None:
    """What is seen of signals, and where."""
    there = torch.rand(x.shape, generator=rng, dtype=torch.float64) >= MISSING
    y = there * (x + NOISE * torch.randn(x.shape, generator=rng, dtype=torch.float64))
    np.save(folder / f"{name}.npy", y.numpy())
    np.save(folder / f"{name}-there.npy", there.numpy())


def said(*arguments: object) -> str:
    done = CliRunner().invoke(program, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_single_draws_of_signals_are_nearer_to_the_truth_than_those_of_the_closed_form(tmp_path: Path) -> None:
    rng = generator(0, "tests", "signals")
    write(tmp_path, "waves", waves(COUNT, rng), rng)
    write(tmp_path, "both", waves(COUNT, rng) + pulses(COUNT, rng), rng)
    truth = {"waves": waves(NEW, rng), "pulses": pulses(NEW, rng)}
    write(tmp_path, "new", truth["waves"] + truth["pulses"], rng)
    (tmp_path / "mixture.yaml").write_text(VIEWS.format(noise=NOISE))
    (tmp_path / "new.yaml").write_text(ALONE.format(noise=NOISE))
    (tmp_path / "closed.yaml").write_text(json.dumps(CLOSED))
    found = dict[str, dict[str, float]]()
    for preset in ("signals", str(tmp_path / "closed.yaml")):
        model, start = tmp_path / f"model-{len(found)}", time.process_time()
        said("fit", tmp_path / "mixture.yaml", "--out", model, "--preset", preset)
        minutes = (time.process_time() - start) / 60
        said("separate", model, tmp_path / "new.yaml", "--draws", DRAWS, "--out", tmp_path / "found.npz")
        with np.load(tmp_path / "found.npz") as file:
            found[preset] = {
                source: _decibels(torch.from_numpy(file[f"both/{source}/draws"]), x) for source, x in truth.items()
            }
        if preset == "signals":
            assert minutes <= MINUTES
            assert json.loads((model / "report.json").read_text())["report"]["peak_memory_gib"] <= GIB
    print(found)
    ours, closed = found.values()
    for source in truth:
        assert ours[source] >= closed[source] + BETTER, found


def _decibels(draws: Tensor, truth: Tensor) -> float:
    """Of single draws, the mean over signals of −10 log10 of the mean square error."""
    return float((-10 * (draws.double() - truth).square().mean((2, 3)).log10()).mean())
