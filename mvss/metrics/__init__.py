"""Scores of draws against the truth: leaf modules that know nothing of models, problems or files."""
