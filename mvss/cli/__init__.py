"""The command line of a user's own mixtures: mvss check | fit | separate | sample | score.

Nothing slow is imported before a command line and its YAML have been looked at.
"""

from __future__ import annotations

from mvss.cli.commands import program

__all__ = ["main"]


def main() -> None:
    """The command `mvss`; ends the process with its status."""
    program(prog_name="mvss")
