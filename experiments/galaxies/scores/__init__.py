"""Scores of separated galaxies."""
