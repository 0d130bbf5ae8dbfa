"""Which seeds tune and which are reported, so that no setting is chosen on what it is scored on.

100 to 199    tuning      data of their own in every experiment, see its README
200 to 202    sealed      for a final comparison, once nothing is tuned any more: no command runs them before
others        reported
"""

from __future__ import annotations

__all__ = ["SEALED", "TUNING", "check_seeds", "tunes"]

from collections.abc import Sequence

from mvss.runtime.errors import MvssError

TUNING = range(100, 200)
SEALED = range(200, 203)


def tunes(seed: int) -> bool:
    """Whether a seed is for tuning."""
    return seed in TUNING


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise MvssError for seeds that are sealed, and for seeds of both other kinds: one table would hold them."""
    if sealed := [seed for seed in seeds if seed in SEALED]:
        raise MvssError(
            f"seed {', '.join(map(str, sealed))}: {SEALED[0]} to {SEALED[-1]} are sealed for a final comparison, which "
            "experiments/core/pools.py (SEALED) decides: take other seeds"
        )
    if len({tunes(seed) for seed in seeds}) > 1:
        tuning = ", ".join(str(seed) for seed in seeds if tunes(seed))
        raise MvssError(f"seeds {TUNING[0]} to {TUNING[-1]} tune and the others are reported: run {tuning} in a command apart")
