"""What a source looks like: Gaussian mixtures, diffusion networks, and their training."""
