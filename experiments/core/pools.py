"""Which seeds tune and which are reported, so that no setting is chosen on what it is scored on.

100 to 199    tuning      data of their own in every experiment, see its README
others        reported    200 to 202 are kept for the final comparison
"""

from __future__ import annotations

__all__ = ["TUNING", "check_seeds", "tunes"]

from collections.abc import Sequence

from mvss.runtime.errors import MvssError

TUNING = range(100, 200)


def tunes(seed: int) -> bool:
    """Whether a seed is for tuning."""
    return seed in TUNING


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise MvssError for seeds of both kinds: one table would hold them."""
    if len({tunes(seed) for seed in seeds}) > 1:
        tuning = ", ".join(str(seed) for seed in seeds if tunes(seed))
        raise MvssError(f"seeds {TUNING[0]} to {TUNING[-1]} tune and the others are reported: run {tuning} in a command apart")
