"""A few of the kills of `kills`, on a run that is as small as it can be."""

from __future__ import annotations

import kills
import pytest
from test_runner import TINY


@pytest.mark.slow
def test_killed_runs_end_in_the_tables_of_whole_ones() -> None:
    assert kills.main(["--kills", "5", "--experiments", "manifolds", "--", *TINY]) == 0
