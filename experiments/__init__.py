"""The paper's experiments, one folder each; each has a command line and a target of make."""

from __future__ import annotations

import os

# Figures are files: a notebook's or a desktop's backend, which may not even be installed here, is not for them.
os.environ["MPLBACKEND"] = "Agg"
