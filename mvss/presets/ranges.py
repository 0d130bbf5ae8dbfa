"""Ranges of settings, checked where a group of them is made: what is out of range is one line that names it."""

from __future__ import annotations

__all__ = ["at_least"]

from mvss.runtime.errors import MvssError


def at_least(group: str, settings: object, least: int, *names: str) -> None:
    """Refuse those of a group's numbers, or of the entries of its tuples, that are below `least`; None is no number.

    Raises:
        MvssError: one line that names the first of them.
    """
    for name in names:
        value = getattr(settings, name)
        if any(not entry >= least for entry in (value if isinstance(value, tuple) else (value,)) if entry is not None):
            said = list(value) if isinstance(value, tuple) else value
            raise MvssError(f"{group}.{name}={said} must be at least {least}")
