"""How much memory a fit and a separation take, with 45 % of the pixels masked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "memory_of_masked_vectors.py"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64,), (2, 64)])
def test_masked_sources_of_many_numbers_take_little_memory(shape: tuple[int, ...]) -> None:
    """Of 1,000 observations, by the sizes of "vectors": several GiB are asked for where a product is not made in chunks."""
    command = [sys.executable, str(SCRIPT), *map(str, shape)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout.splitlines()[-1]) <= 4.0
