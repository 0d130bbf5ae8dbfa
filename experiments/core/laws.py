"""Distances of a law of draws from clean sources that are not those scored: PQMass, and the task's own."""

from __future__ import annotations

__all__ = ["law_distances"]

from torch import Tensor

from experiments.core.config import Job
from experiments.core.task import Laws
from mvss.metrics.pqmass import pqmass


def law_distances(task: Laws, job: Job, source: int, x: Tensor, reference: Tensor, repeats: int = 1) -> dict[str, float]:
    """By name, of `(N, *shape)` from `(M, *shape)`. repeats: of how many such pairs a mean is taken; PQMass shares its
    tessellations among them."""
    m, found = job.config.metrics, task.distances(source, x, reference)
    points = sum(len(sample[: m.pqmass]) for sample in (x, reference))
    if points >= 8 and len(reference):  # of an archive there may be few
        several = max(1, m.tessellations // repeats)
        mass = pqmass(x[: m.pqmass], reference[: m.pqmass], min(m.references, points // 4), several, job.seed)
        found |= {"pqmass": mass.p_value, "pqmass_chi2": mass.chi2_per_dof}
    return found
