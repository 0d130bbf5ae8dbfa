"""Tiny problems: several threads would spend their time waiting for each other, here and in the processes that tests start."""

from __future__ import annotations

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from mvss.priors import training

torch.set_num_threads(1)
training.HELD_OUT_LEVELS = 2
"""Of losses that reports tell."""


def pytest_collection_finish() -> None:
    """accelerate collects garbage after every training: not, each time, among all that is imported by now."""
    gc.collect()
    gc.freeze()
