"""Observations: views of several sources, the operators that mix them, and their noise."""
