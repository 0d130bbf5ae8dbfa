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
    "mvss.cli",
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


WRONG = {
    "--preset cpus": "unknown preset 'cpus'; choose one of",
    "--presett cpu": "unrecognized arguments: --presett",
    "--preset smoke --seeds many": "invalid int value: 'many'",
    "--preset smoke --methods joinn": "unknown method 'joinn': did you mean 'joint'",
    "--preset smoke -- settings.em.lap=3": "did you mean 'laps'",
    "--preset smoke -- problems=[nowhere]": "unknown problem 'nowhere'",
}


@pytest.mark.parametrize("name", ["manifolds", "mnist_grass", "galaxies"])
def test_a_wrong_command_is_refused_before_anything_slow_is_imported(name: str) -> None:
    script = f"""
import sys
from experiments.{name}.__main__ import EXPERIMENT, main
for arguments in {list(WRONG)}:
    assert main(EXPERIMENT, arguments.split()) == 2, arguments
print({{"torch", "scipy", "matplotlib"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    told = done.stderr.splitlines()
    assert len(told) == len(WRONG)
    for line, says in zip(told, WRONG.values(), strict=True):
        assert line.startswith(name.replace("_", "-")) and says in line
