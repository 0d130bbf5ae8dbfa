"""What the preset "signals" is for: sources of `(channels, length)`, through the door and from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_separators import Problem, signals

from mvss import SourceSeparator
from mvss.posteriors.amortised import Amortised
from mvss.priors.diffusion import DiffusionPrior
from mvss.priors.networks import SignalUNet


@pytest.fixture(scope="module")
def fitted() -> tuple[Problem, SourceSeparator]:
    problem = signals()
    return problem, SourceSeparator(problem.settings).fit(problem.views, verbose=False)


def test_every_network_of_signals_is_one_of_convolutions(fitted: tuple[Problem, SourceSeparator]) -> None:
    problem, model = fitted
    for source, prior in model.priors.items():
        assert isinstance(prior, DiffusionPrior) and isinstance(prior.network, SignalUNet), source
    learned = model.amortised["pulse"]
    assert isinstance(learned, Amortised) and isinstance(learned.network, SignalUNet)
    assert not any(pair.sharp for pair in learned.pairs)
    draws = model.separate(problem.views[1], draws=2)
    assert draws["pulse"].shape == (2, 18, 2, 8) and bool(torch.isfinite(draws["pulse"]).all())
    assert model.sample("pulse", 3).shape == (3, 2, 8)


def test_a_model_of_signals_is_the_same_from_its_folder(fitted: tuple[Problem, SourceSeparator], tmp_path: Path) -> None:
    problem, model = fitted
    model.save_pretrained(tmp_path)
    again = SourceSeparator.from_pretrained(tmp_path)
    for view in problem.views:
        before, after = (m.separate(view, 2, seed=3) for m in (model, again))
        assert all(torch.equal(before[source], after[source]) for source in view.sources)
    assert torch.equal(again.log_prob("pulse", problem.x, problem.sigma), model.log_prob("pulse", problem.x, problem.sigma))
