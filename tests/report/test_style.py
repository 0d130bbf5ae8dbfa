"""Figures are the same bytes on every run, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.report.style import caption, save_animation, save_figure, style
from mvss.runtime import files
from mvss.runtime.errors import MvssError


def draw() -> Figure:
    style()
    figure, ax = plt.subplots(figsize=(2, 2))
    ax.scatter([0, 1], [1, 0], rasterized=True)
    caption(figure, "two points, seed 0")
    return figure


def test_files_are_the_same_on_every_run_and_the_figure_is_closed(tmp_path: Path) -> None:
    others = plt.get_fignums()  # of other tests
    first = save_figure(draw(), tmp_path / "first", "points")
    second = save_figure(draw(), tmp_path / "second", "points")
    assert [path.name for path in first] == ["points.png", "points.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["points.pdf", "points.png"]
    assert b"CreationDate" not in first[1].read_bytes()
    assert plt.get_fignums() == others
    assert matplotlib.get_backend().lower() == "agg"


def test_a_failed_write_leaves_the_old_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "points.png"
    old.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(MvssError, match="no space left"):
        save_figure(draw(), tmp_path, "points")
    plt.close("all")
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_an_animation_has_a_frame_for_each_image(tmp_path: Path) -> None:
    frames = [np.full((4, 6), grey) for grey in (0.0, 0.5, 1.0)]
    with Image.open(save_animation(frames, tmp_path, "laps")) as image:
        assert (image.n_frames, image.size) == (3, (18, 12))


def test_the_backend_of_a_notebook_is_not_asked_for() -> None:
    """A name that this installation does not have stops matplotlib's own import."""
    script = "import experiments, matplotlib; print(matplotlib.get_backend())"
    environment = os.environ | {"MPLBACKEND": "module://nowhere.backend_inline"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip().lower() == "agg"
