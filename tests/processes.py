"""Run a test file as a script by the command that docs/own-data.md gives for two processes on the CPU."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def launch(script: str, *arguments: str | Path) -> None:
    """Run `script` with `arguments`; fails with what the processes say, skips where no socket can be opened."""
    try:
        socket.create_server(("localhost", 0)).close()
    except OSError:
        pytest.skip("this machine cannot open a socket")
    page = (TESTS.parent / "docs" / "own-data.md").read_text("utf-8")
    (line,) = re.findall(r"^    (.*accelerate launch .*) script\.py$", page, re.MULTILINE)
    setting, _, *options = shlex.split(line)
    name, value = setting.split("=")
    path = os.pathsep.join(filter(None, (str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.accelerate_cli", *options, script, *arguments],
        env=os.environ | {name: value, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
