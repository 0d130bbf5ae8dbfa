"""What answers at once imports nothing that takes seconds: settings, presets, and the names of the library."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mvss

SETTINGS = (
    "mvss",
    "mvss.presets",
    "mvss.baselines.config",
    "experiments.core.config",
    "experiments.galaxies.config",
    "experiments.manifolds.problems",
    "experiments.mnist_grass.config",
)


def test_settings_import_no_implementation() -> None:
    script = f"import sys, {', '.join(SETTINGS)}; print({{'torch', 'numpy', 'h5py', 'PIL'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_name_of_the_library_is_there() -> None:
    assert all(getattr(mvss, name).__name__ == name for name in mvss.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Separator'"):
        mvss.Separator  # noqa: B018
