"""Settings as data, and their reader."""
