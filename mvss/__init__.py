"""Multi-view source separation with diffusion priors: sources learned from mixtures alone."""

__version__ = "0.1.0"
