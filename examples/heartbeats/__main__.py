"""A child's heartbeat beneath its mother's: both from the electrocardiogram that comes with PyWavelets, their sum made here.

    mother   `pywt.data.ecg()`, one heart at rest, 360 numbers a second: its beats, one after another, 55 to 90 a minute
    child    the same beats at 120 to 160 a minute and half as high, which is what stands in for a child

The record has three beats. Two are learned from, the third one makes the signals that are taken apart in the end. Windows
have 64 numbers, 60 a second; where an electrode has lost contact, nothing is known.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pywt
from matplotlib.figure import Figure
from numpy.typing import NDArray

from examples.worked import CLOSED, LEARNED, Arrays, Example, Result, compared, judged, main

LENGTH, RATE, FINER = 64, 60, 8
"""Of a window; numbers a second; how many there are before they are averaged."""
PEAKS, BEFORE, AFTER = (190, 517, 848), 150, 170
"""Of the record: where its beats are, and how far they reach."""
NOISE = 0.025
"""Peaks of the mother are about 1 high."""
MOTHER, CHILD = (55, 90), (120, 160)
"""Beats a minute."""
LESS = 0.5
COUNT, FEW, NEW = 1000, 48, 100
LOST = (0, 24)
"""Length of the gap in a window, uniform: a fifth of all."""

Signal = NDArray[np.float64]


def make(small: bool) -> tuple[Arrays, Arrays]:
    """Windows of both electrodes, their contacts, and new ones of the belly."""
    rng = np.random.default_rng(0)
    first, second, third = _beats()
    count = FEW if small else COUNT
    chest = _windows([first, second], MOTHER, count, rng)
    belly = _windows([first, second], MOTHER, count, rng) + LESS * _windows([first, second], CHILD, count, rng)
    new = FEW if small else NEW
    truth = {"mother": _windows([third], MOTHER, new, rng), "child": LESS * _windows([third], CHILD, new, rng)}
    arrays: Arrays = {}
    for name, x in {"chest": chest, "belly": belly, "new": truth["mother"] + truth["child"]}.items():
        contact = _contact(len(x), rng)
        arrays[f"{name}-contact.npy"] = contact
        arrays[f"{name}.npy"] = contact * (x + NOISE * rng.standard_normal(x.shape))
    return arrays, truth


def _beats() -> list[Signal]:
    """Each from zero to zero."""
    record = pywt.data.ecg().astype(float)
    found = []
    for peak in PEAKS:
        beat = record[peak - BEFORE : peak + AFTER]
        beat = beat - np.linspace(beat[:8].mean(), beat[-8:].mean(), len(beat))
        found.append(beat * np.minimum(1, np.minimum(np.arange(len(beat)), np.arange(len(beat))[::-1]) / 8) / 300)
    return found


def _windows(beats: list[Signal], rates: tuple[int, int], count: int, rng: np.random.Generator) -> Signal:
    """Of a heart that beats at a rate of its own in each, from any moment of a beat on."""
    return np.stack([_window(beats, rng.uniform(*rates), rng) for _ in range(count)])[:, None]


def _window(beats: list[Signal], rate: float, rng: np.random.Generator) -> Signal:
    """A number is the mean of what there is until the next one."""
    phase = rng.uniform() + np.arange(LENGTH * FINER) / (FINER * RATE) * rate / 60  # in beats
    height = 1 + 0.1 * rng.standard_normal()
    order = rng.integers(len(beats), size=int(phase[-1]) + 1)
    record, beat = np.stack(beats)[order].ravel(), len(beats[0])
    found = height * np.interp(phase * beat, np.arange(len(record)), record)
    return np.asarray(found.reshape(LENGTH, FINER).mean(1))


def _contact(count: int, rng: np.random.Generator) -> Signal:
    """1 where there is contact, `(count, 1, LENGTH)`: a gap anywhere in each window."""
    size, place = rng.integers(*LOST, count, endpoint=True), np.arange(LENGTH)
    start = rng.integers(0, LENGTH - size + 1)
    lost = (place >= start[:, None]) & (place < (start + size)[:, None])
    return np.where(lost, 0.0, 1.0)[:, None]


def picture(result: Result) -> Figure:
    """A few windows: what is seen, and both hearts, as draws, as their means and as they are."""
    seen, contact = result.arrays["new.npy"], result.arrays["new-contact.npy"]
    seconds = np.arange(LENGTH) / RATE
    figure, axes = plt.subplots(3, 4, figsize=(12, 5.6), layout="constrained", sharex=True, sharey="row")
    for k, column in enumerate(axes.T):
        column[0].plot(seconds, np.where(contact[k, 0] > 0, seen[k, 0], np.nan), "k.-", ms=3, lw=0.4)
        for axis, source in zip(column[1:], ("mother", "child"), strict=True):
            draws = result.draws[LEARNED][source][:, k, 0]
            axis.plot(seconds, draws.T, color="tab:orange", lw=0.4, alpha=0.4)
            axis.plot(seconds, draws.mean(0), color="tab:orange", label="learned: draws, mean")
            axis.plot(seconds, result.draws[CLOSED][source][:, k, 0].mean(0), "tab:blue", lw=0.8, label="closed form: mean")
            axis.plot(seconds, result.truth[source][k, 0], "k:", lw=1.2, label="truth")
        for axis in column:
            lost = np.flatnonzero(contact[k, 0] == 0)
            if len(lost):
                axis.axvspan(seconds[lost[0]], seconds[lost[-1]], color="0.9", lw=0)
    for axis, title in zip(axes[:, 0], ("belly, seen", "mother", "child"), strict=True):
        axis.set_ylabel(title)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    axes[1, 0].legend(fontsize=7, loc="upper right")
    return figure


def paragraph(result: Result) -> str:
    """What was learned, in words."""
    return (
        f"Both hearts were learned from {COUNT:,} windows of each electrode. In new windows the child is "
        f"{compared(result, 'child')}; the mother is {compared(result, 'mother')}. {judged(result, 'child', 'mother')}"
    )


EXAMPLE = Example(Path(__file__).parent, "signals", make, picture, paragraph)

if __name__ == "__main__":
    main(EXAMPLE)
