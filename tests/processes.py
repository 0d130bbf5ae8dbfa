"""Run a test file as a script under `accelerate launch`, with several processes on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def launch(script: str, *arguments: str | Path, processes: int = 2) -> None:
    """Run `script` with `arguments`; fails with what the processes say, skips where no socket can be opened."""
    try:
        socket.create_server(("localhost", 0)).close()
    except OSError:
        pytest.skip("this machine cannot open a socket")
    # Plain `--cpu --num_processes 2` runs one process: on a CPU accelerate starts two through its multi-GPU launcher.
    command = f"-m accelerate.commands.launch --multi_gpu --num_processes {processes} --num_machines 1 --mixed_precision no"
    options = "--dynamo_backend no --rdzv_backend c10d --main_process_ip localhost --main_process_port 0"
    tests = Path(__file__).parent
    path = os.pathsep.join(filter(None, (str(tests.parent), str(tests), os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        [sys.executable, *command.split(), *options.split(), script, *arguments],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
