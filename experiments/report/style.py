"""One look for all figures: the style, a colour and a marker per method, and files that are the same on every run.

colour(method) is fixed by the method's name alone, so that figures agree whichever methods each of them shows.
"""

from __future__ import annotations

__all__ = ["TRUTH", "caption", "method_style", "save_animation", "save_figure", "style"]

import io
import textwrap
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed, nor found on a server

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mvss.runtime.checkpoints import atomic_write_bytes

TRUTH = "#222222"
"""The colour of what is true or exact."""

# Seaborn's colour-blind palette, in an order that keeps rivals apart; markers tell them apart in print.
STYLES = {
    "joint": ("#0173B2", "o", "joint (ours)"),
    "joint_wide": ("#2A4D8F", "8", "joint, wide"),
    "joint_asinh": ("#3FA7A0", "d", "joint, asinh"),
    "mixture": ("#DE8F05", "s", "mixture"),
    "joint_paper": ("#029E73", "D", "joint, paper's recipe"),
    "gibbs": ("#D55E00", "^", "Gibbs"),
    "gibbs_8x": ("#CC78BC", "v", "Gibbs, 8 × compute"),
    "gibbs_mixture": ("#CA9161", "<", "Gibbs, mixture start"),
    "pcpca": ("#949494", "P", "PCPCA"),
    "clvm_linear": ("#56B4E9", "X", "CLVM-Linear"),
    "clvm_vae": ("#A89000", "*", "CLVM-VAE"),
    "segmentation": ("#882255", "p", "segmentation, symmetric"),
    "aperture": ("#F08AB4", ">", "masked aperture"),
    "exact": (TRUTH, ".", "exact"),
    "joint_clean": ("#7FB3D5", "h", "joint, clean"),
    "mixture_clean": ("#F0C27B", "H", "mixture, clean"),
}
OTHERS = ("#8C564B", "#7B4FA3", "#2F6B57", "#B03A6A", "#4C5B8A", "#6E7F1E")


class MethodStyle(NamedTuple):
    """How a method is drawn in every figure."""

    colour: str
    marker: str
    label: str


def method_style(method: str) -> MethodStyle:
    """Return colour, marker and label of a method; those of an unknown one follow from its name."""
    if method in STYLES:
        return MethodStyle(*STYLES[method])
    return MethodStyle(OTHERS[zlib.crc32(method.encode()) % len(OTHERS)], "h", method.replace("_", " "))


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
    """Put a line of small print under a figure: sample counts, seeds, what is shown."""
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
