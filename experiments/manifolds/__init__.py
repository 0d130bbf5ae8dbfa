"""Mixtures of random one-dimensional manifolds (paper, section 5.1)."""
