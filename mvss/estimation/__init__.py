"""First priors and first draws, from the observations alone."""
