"""The paper's experiments, one folder each; each has a command line and a target of make."""

from __future__ import annotations

import os
import signal
import sys

# Figures are files: a notebook's or a desktop's backend, which may not even be installed here, is not for them.
os.environ["MPLBACKEND"] = "Agg"


def _interrupted(*_: object) -> None:
    os.write(2, b"\ninterrupted\n")
    os._exit(130)


# A command begins, `python -m experiments...`: its imports take seconds, in which Ctrl-C is one line. Later it listens itself.
if sys.argv[0] == "-m":
    signal.signal(signal.SIGINT, _interrupted)
