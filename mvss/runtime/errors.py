"""The one error that a user is meant to see: a single line that says what is wrong and what to do."""

__all__ = ["MvssError"]


class MvssError(Exception):
    """Bad input, configuration or environment; shown without a traceback and with a non-zero exit."""
