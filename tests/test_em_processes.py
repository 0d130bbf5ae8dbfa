"""One lap of EM on two processes against one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from processes import launch
from tiny_em import EM, run, weights

LAP = replace(EM, laps=1, stages="together")  # both views, 21 and 17 observations


@pytest.mark.slow  # test_separator_processes asks the same of the door, whose draws hang on the weights
def test_two_processes_give_the_draws_and_weights_of_one(tmp_path: Path) -> None:
    launch(__file__, tmp_path / "out.pt")
    processes, draws, networks = torch.load(tmp_path / "out.pt")
    expected, sources = run(em=LAP)
    assert processes == 2
    # Adam divides by the size of the gradient, which blows up the rounding of weights that hardly have one.
    torch.testing.assert_close(networks, weights(sources), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(draws, expected, rtol=1e-6, atol=1e-8)


if __name__ == "__main__":
    launched = Accelerator()
    found, trained = run(em=LAP)
    if launched.is_main_process:
        torch.save((launched.num_processes, found, weights(trained)), sys.argv[1])
    launched.end_training()
