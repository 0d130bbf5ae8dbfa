"""Tiny problems: several threads would spend their time waiting for each other, here and in the processes that tests start."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
