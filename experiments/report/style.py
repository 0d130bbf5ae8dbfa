"""One look for all figures: their style, their small print, and files that are the same on every run."""

from __future__ import annotations

__all__ = ["caption", "save_animation", "save_figure", "style"]

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed, and a server has none

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mvss.runtime.files import atomic_write_bytes


def style() -> None:
    """Set the shared style of all figures that are made from here on."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    plt.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "savefig.dpi": 130,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )


def caption(figure: Figure, text: str) -> None:
    """Put a line of small print under a figure: sample counts, seeds, what they show."""
    width = int(figure.get_figwidth() * 17)  # characters of the small print per inch
    figure.supxlabel(textwrap.fill(text, width), x=0.01, ha="left", fontsize=7, color="0.35")


def save_figure(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write a figure as PNG and as PDF, each whole or not at all and without timestamps, and close it.

    Returns:
        the two files.

    Raises:
        MvssError: a file cannot be written.
    """
    written = []
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, for both files
    for kind, metadata in (
        ("png", {"Software": None}),
        ("pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        path = Path(folder) / f"{name}.{kind}"
        atomic_write_bytes(path, buffer.getbuffer())
        written.append(path)
    plt.close(figure)
    return written


def save_animation(frames: Sequence[NDArray[np.float64]], folder: Path | str, name: str) -> Path:
    """Write grey images `(H, W)` in [0, 1] as a GIF, three times as large and 0.6 s each, whole or not at all.

    Raises MvssError: the file cannot be written.
    """
    grey = [np.kron((255 * frame.clip(0, 1)).astype(np.uint8), np.ones((3, 3), np.uint8)) for frame in frames]
    first, *others = (Image.fromarray(image) for image in grey)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=600, loop=0)
    path = Path(folder) / f"{name}.gif"
    atomic_write_bytes(path, buffer.getbuffer())
    return path
