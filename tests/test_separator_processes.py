"""The door under two processes, with a checkpoint, against one process without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from processes import launch
from tiny_separators import vectors

from mvss import SourceSeparator


@pytest.mark.slow  # test_em_processes.py has the steps of a fit in two processes
def test_two_processes_fit_as_one_and_one_of_them_keeps_the_checkpoint(tmp_path: Path) -> None:
    problem = vectors()
    launch(__file__, tmp_path)
    expected = SourceSeparator(problem.settings).fit(problem.views, verbose=False).draws
    for name in ("draws.pt", "resumed.pt"):
        torch.testing.assert_close(torch.load(tmp_path / name), expected, rtol=1e-5, atol=1e-7)
    assert sorted(path.name for path in (tmp_path / "fit").iterdir()) == ["em.safetensors", "estimate.safetensors"]


if __name__ == "__main__":
    folder, problem = Path(sys.argv[1]), vectors()
    launched = Accelerator()
    assert launched.num_processes == 2
    for name in ("draws.pt", "resumed.pt"):
        model = SourceSeparator(problem.settings).fit(problem.views, checkpoint=folder / "fit", verbose=False)
        if launched.is_main_process:
            torch.save(model.draws, folder / name)
        launched.wait_for_everyone()
    launched.end_training()
