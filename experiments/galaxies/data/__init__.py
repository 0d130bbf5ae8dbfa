"""Stamps: simulated, of the deep field, of an archive; and the task that they make."""
