"""Tiny problems: several threads would spend their time waiting for each other, here and in the processes that tests start."""

from __future__ import annotations

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """Of each process that runs tests: the one that hands them out imports nothing of this, and starts seconds earlier."""
    import torch

    from mvss.priors import training

    torch.set_num_threads(1)
    training.HELD_OUT_LEVELS = 2  # of losses that reports tell
    gc.collect()  # accelerate does after every training: not, each time, among all that is imported by now
    gc.freeze()
