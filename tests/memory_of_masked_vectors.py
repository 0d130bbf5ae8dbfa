"""A fit and a separation of two sources of many numbers with 45 % of the pixels masked; prints the peak memory in GiB.

Sizes are those of the preset "vectors"; steps are few.   python tests/memory_of_masked_vectors.py 64
"""

from __future__ import annotations

import resource
import sys
from dataclasses import replace

import torch

import mvss
from mvss.presets import load_settings

shape = tuple(int(size) for size in sys.argv[1:])
rng = torch.Generator().manual_seed(0)
N = 1000
mask = mvss.Mask(torch.rand(N, *shape, generator=rng) > 0.45)
waves = torch.sin(torch.arange(shape[-1]) * 0.2) * torch.randn(2 * N, *shape[:-1], 1, generator=rng)
steps = torch.randn(N, *shape[:-1], 1, generator=rng) * (torch.arange(shape[-1]) > shape[-1] / 2)
y = [waves[:N], waves[N:] + steps]
y = [x + 0.1 * torch.randn(x.shape, generator=rng) for x in y]
one = mask @ mvss.Identity(shape)
views = [mvss.View(y[0], {"wave": one}, 0.1, "alone"), mvss.View(y[1], {"wave": one, "step": one}, 0.1, "both")]

settings = load_settings("vectors")
assert isinstance(settings.estimation, mvss.AscentConfig)
few = replace(settings.estimation, steps=len(settings.estimation.components), starts=1)
few = replace(few, learning_rate=1e-4, final_learning_rate=1e-4)  # so few steps that larger ones would lower the evidence
settings = replace(settings, estimation=few, training=replace(settings.training, steps=2), em=replace(settings.em, laps=1))
model = mvss.SourceSeparator(settings).fit(views, verbose=False, callback=lambda event: print(event.phase, event.done))
found = model.separate(views[1], draws=1)
assert found["step"].shape == (1, N, *shape) and all(bool(x.isfinite().all()) for x in found.values())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
