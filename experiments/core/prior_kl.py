"""How far the laws that a method has learned are from the true ones, where those are known.

    KL(p_σ ‖ q_σ) = E log p_σ(x + σ z) − log q_σ(x + σ z),    x ~ p, z ~ N(0, I), in nats

A source on a manifold has no density: both are blurred by noise of level σ.
"""

from __future__ import annotations

import math
import sys

import torch

from experiments.core.config import Job
from experiments.core.task import Density, Task
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

__all__ = ["prior_kl"]


def prior_kl(model: Density, job: Job, task: Task) -> list[tuple[float, float]]:
    """Of each source the divergence and its standard error, of as many points as the preset's metrics say, the same for every
    method; NaN where a prior is such that its density cannot be integrated."""
    count, sigma = job.config.metrics.kl, job.config.metrics.kl_sigma
    stream, found = Stream(job.seed, (job.problem, "prior KL")), []
    for b, (name, law) in enumerate(zip(task.train.sources, task.exact_priors(), strict=True)):
        rng = stream.generator(b)
        x = task.sample_truth(b, count, rng)
        blurred = x + sigma * torch.randn(x.shape, generator=rng, dtype=torch.float64)
        try:
            excess = law.log_prob(blurred.flatten(1), sigma) - model.log_prob(name, blurred, sigma)
        except MvssError as error:
            print(f"{job.problem} {job.method} seed {job.seed}: no prior_kl of source {name}: {error}", file=sys.stderr)
            found.append((math.nan, math.nan))
            continue
        found.append((float(excess.mean()), float(excess.std()) / math.sqrt(count)))
    return found
