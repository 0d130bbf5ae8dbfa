"""Tiny problems: several threads would spend their time waiting for each other."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
