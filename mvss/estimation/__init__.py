"""First priors and first draws, from the observations alone."""

from mvss.estimation.estimate import Estimate, estimate_sources

__all__ = ["Estimate", "estimate_sources"]
