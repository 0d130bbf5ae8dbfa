"""`make clean`: remove results/runs, all of it and nothing else, unless a run is going on there."""

from __future__ import annotations

__all__ = ["clean", "main"]

import shutil
from contextlib import ExitStack
from pathlib import Path

from experiments.core.cli import ROOT
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.locks import locked


def main(root: Path = ROOT) -> int:
    """Command line; returns the exit status. root: the folder that holds results/."""
    return report_errors("clean", lambda: clean(root / "results" / "runs"))


def clean(runs: Path) -> int:
    """Remove the runs in a folder. Raises MvssError where one of them is going on, they cannot be removed, or the folder is
    elsewhere: what a link points at may hold more than runs."""
    if runs.is_symlink():
        raise MvssError(f"{runs} is a link to {runs.resolve()}: remove what you mean there, or the link, yourself")
    with ExitStack() as held:
        for lock in sorted(runs.rglob("lock")):
            held.enter_context(locked(lock))
        try:
            if runs.exists():
                shutil.rmtree(runs)
        except OSError as error:
            raise MvssError(f"cannot remove {error.filename}: {error.strerror or error}") from error
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
